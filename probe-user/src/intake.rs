//! The intake: everything that is known, and the one way in which it comes to be known.
//!
//! The daemon feeds it with what its kernel says and a replay with what a recording says; neither a
//! clock nor a kernel is asked here, so the same is known after the same was said. Who asks and who
//! follows are the daemon's matter.

mod settings;
mod viewers;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::Context as _;
use probe_ebpf::record::{ABI_VERSION, Delivery, kind};
use tokio::sync::mpsc;
use weir_proto::v1;

use crate::config::Config;
use crate::kernel::{Batch, HalfOpenGiveUp, KernelCounts, Record, Ring};
use crate::labels::Labels;
use crate::labels::request::{RequestLabel, Source};
use crate::qoe::alarms::{Alarms, Raised};
use crate::qoe::audience::{Audience, Clocks};
use crate::qoe::learn::Families;
use crate::qoe::{CellSnapshot, Fold, Limits, Transport, fold::Event, fold::Folded};
use crate::recording::Said;
use crate::recording::tap::{Block, State, Tap};
use crate::wire::{self, Context, DaemonCounts};
pub use settings::settings_of;
use settings::{audience_settings, labels, promises};

/// So long after sessions were left out, deliveries may still be a sample.
const SAMPLE_NS: u64 = 60_000_000_000;
/// Alarms that wait to be fetched.
const ALARMS_KEPT: usize = 256;

/// Everything that is known.
#[derive(Debug)]
pub struct Intake {
    fold: Fold,
    audience: Audience,
    alarms: Alarms,
    /// Alarms that were not fetched yet.
    raised: VecDeque<Raised>,
    /// When sessions were last left out to keep within the budget; 0: never.
    t_thinned_ns: Option<u64>,
    limits: Limits,
    labels: Labels,
    settings: Arc<v1::RecordedSettings>,
    context: Context,
    kernel_counts: KernelCounts,
    counts: DaemonCounts,
    /// Nothing was heard of any session yet, nor of a request.
    untouched: bool,
    taps: [Option<Tap>; Listener::COUNT],
}

/// Who takes down what is said; each can do so once at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// The daemon itself.
    Daemon,
    /// A client.
    Client,
}

impl Listener {
    const COUNT: usize = 2;
}

/// What a record of a delivery led to.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// As the kernel wrote it.
    pub record: &'a Delivery,
    /// What it was taken for.
    pub folded: Folded,
}

impl Told<'_> {
    /// Whether those who follow deliveries hear of it: it is over, or has just become late.
    pub fn is_for_followers(&self) -> bool {
        self.record.header.kind == kind::DELIVERY_END || self.folded.event == Some(Event::Late)
    }
}

/// A running daemon can be recorded once at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is being recorded already, and can be only once at a time")]
pub struct AlreadyRecorded;

/// A recording that has begun.
#[derive(Debug)]
pub struct Recording {
    /// What must be known to fold it; what names the host is still to be filled in.
    pub header: v1::RecordingHeader,
    /// What is said from now on.
    pub blocks: mpsc::Receiver<Block>,
}

impl Intake {
    /// Nothing known yet.
    pub fn new(
        limits: Limits,
        settings: Arc<v1::RecordedSettings>,
        context: Context,
    ) -> anyhow::Result<Self> {
        let mut fold = Fold::new(limits, context.tick_hz);
        fold.set_progress_ms(settings.progress_ms);
        fold.set_rates_kbps(&settings.sustain_kbps);
        Ok(Self {
            fold,
            audience: Audience::new(limits.into(), audience_settings(&settings)),
            alarms: Alarms::new(promises(&settings)),
            raised: VecDeque::new(),
            t_thinned_ns: None,
            limits,
            labels: labels(&settings)?,
            settings,
            context,
            kernel_counts: KernelCounts::default(),
            counts: DaemonCounts::default(),
            untouched: true,
            taps: Default::default(),
        })
    }

    /// As it was, or would have been, when a recording began.
    pub fn at_beginning_of(header: &v1::RecordingHeader) -> anyhow::Result<Self> {
        let backend = wire::backend_kind(header.backend())
            .context("it was measured in a way that this weir does not know")?;
        let limits = header
            .limits
            .context("it does not say what bounded the daemon")?;
        // What no configuration allows, a replay does not make room for either.
        let mut config = Config::default();
        config.limits.max_sessions = limits.max_sessions;
        config.limits.max_viewers = limits.max_viewers;
        config.limits.max_cells = limits.max_cells;
        config.limits.max_deliveries_kept = limits.max_deliveries_kept;
        config.check()?;
        let limits = Limits::from(&config.limits);
        let settings = Arc::new(header.settings.clone().unwrap_or_default());
        let context = Context {
            unix_minus_monotonic_ns: header
                .begin_unix_ns
                .cast_signed()
                .saturating_sub(header.begin_monotonic_ns.cast_signed()),
            tick_hz: header.tick_hz,
            backend,
        };
        let mut intake = Self::new(limits, settings, context)?;
        let losses = header.losses.unwrap_or_default();
        intake.kernel_counts = wire::kernel_counts(&losses);
        intake.counts = DaemonCounts {
            hot_drained: losses.hot.map_or(0, |ring| ring.drained),
            bulk_drained: losses.bulk.map_or(0, |ring| ring.drained),
            records_malformed: losses.records_malformed,
            labels_taken_log: losses.labels_taken_log,
            labels_taken_tag: losses.labels_taken_tag,
            ..DaemonCounts::default()
        };
        if !header.learned_json.is_empty() {
            let families: Families = serde_json::from_str(&header.learned_json)
                .context("what it had learned of players is none of weir's")?;
            intake.learn_from(families.bounded());
        }
        if !header.whole {
            intake.fold.deaf_until(header.begin_monotonic_ns);
        }
        Ok(intake)
    }

    /// The batch's record at `at` is next, and those after it follow: has at hand what they need
    /// when they come.
    #[inline]
    pub fn foresee(&self, batch: &Batch, at: usize) {
        self.fold.foresee(batch.cookies(), at, batch.last_ns());
    }

    /// Takes in one thing that was said, and passes it on to whoever records.
    pub fn take<'a>(&mut self, said: &Said<'a>) -> Option<Told<'a>> {
        self.take_down(said);
        match said {
            Said::Record { ring, record } => return self.record(*ring, *record),
            Said::Drain { .. } => {}
            Said::Counts { now_ns, counts } => {
                if counts.bulk.ring_full > self.kernel_counts.bulk.ring_full {
                    self.fold.records_lost(*now_ns);
                }
                if counts.sessions_left_out > self.kernel_counts.sessions_left_out {
                    self.t_thinned_ns = Some(*now_ns);
                }
                self.kernel_counts = *counts;
            }
            Said::Clock {
                unix_minus_monotonic_ns,
                ..
            } => self.context.unix_minus_monotonic_ns = *unix_minus_monotonic_ns,
            Said::GiveUp(give_up) => self.half_open_give_up(give_up),
            Said::Now { now_ns } => {
                let is_sample = self.is_sample(*now_ns);
                self.fold.advance(*now_ns);
                let clocks = self.clocks();
                let cells = self.fold.cells_mut();
                self.audience.advance(*now_ns, clocks, cells);
                let raised = &mut self.raised;
                let viewers = || self.audience.standing();
                self.alarms
                    .look(cells, *now_ns, is_sample, viewers, |alarm| {
                        keep(raised, alarm);
                    });
            }
            Said::Settings(settings) => match labels(settings) {
                Ok(labels) => {
                    self.labels = labels;
                    self.fold.set_progress_ms(settings.progress_ms);
                    self.fold.set_rates_kbps(&settings.sustain_kbps);
                    self.audience.set(audience_settings(settings));
                    if promises(settings) != promises(&self.settings) {
                        // Another question: its evidence begins anew.
                        self.alarms = Alarms::new(promises(settings));
                    }
                    self.settings = settings.clone();
                }
                // They come from a configuration that was checked, or from a recording of one.
                Err(err) => tracing::error!("the names of cells stay as they are: {err:#}"),
            },
            Said::Missing { now_ns, .. } => self.fold.records_lost(*now_ns),
            Said::Label(label) => self.labelled(label),
            Said::ClientNetwork { prefix, name } => self.labels.learn_network(*prefix, name),
        }
        None
    }

    fn take_down(&mut self, said: &Said<'_>) {
        for n in 0..Listener::COUNT {
            if self.taps[n].as_ref().is_some_and(Tap::is_between_blocks) {
                let state = self.state();
                if let Some(tap) = &mut self.taps[n] {
                    tap.begin_block(state);
                }
            }
            if let Some(tap) = &mut self.taps[n] {
                tap.hear(said);
            }
        }
    }

    fn state(&self) -> State {
        State {
            losses: self.losses(&DaemonCounts::default()),
            unix_minus_monotonic_ns: self.context.unix_minus_monotonic_ns,
            settings: self.settings.clone(),
        }
    }

    fn record<'a>(&mut self, ring: Ring, record: Record<'a>) -> Option<Told<'a>> {
        self.untouched = false;
        let drained = match ring {
            Ring::Hot => &mut self.counts.hot_drained,
            Ring::Bulk => &mut self.counts.bulk_drained,
        };
        // Where a recording began they were what its header says, which may be anything.
        *drained = drained.saturating_add(1);
        let clocks = self.clocks();
        let labels = &self.labels;
        match record {
            Record::SessionStart(record) => {
                let cell = self.fold.session_start(record, |ends| labels.label(ends));
                let cells = self.fold.cells_mut();
                self.audience.session_start(record, cell, clocks, cells);
            }
            Record::SessionEnd(record) => {
                self.fold.session_end(record, |ends| labels.label(ends));
                let cells = self.fold.cells_mut();
                self.audience.session_end(record, clocks, cells);
            }
            Record::Delivery(record) => {
                let known = self.audience.class_of(record);
                let folded = self.fold.delivery(record, |ends| labels.label(ends), known);
                let cells = self.fold.cells_mut();
                self.audience
                    .delivery(record, folded.session_cell, clocks, cells);
                if ring == Ring::Hot {
                    self.look_at_once(folded.session_cell, record.header.t_ns);
                }
                return Some(Told { record, folded });
            }
            Record::Malformed => {
                let malformed = &mut self.counts.records_malformed;
                *malformed = malformed.saturating_add(1);
            }
        }
        None
    }

    /// Whether sessions were left out so lately that what is counted is of the others alone.
    fn is_sample(&self, now_ns: u64) -> bool {
        self.t_thinned_ns
            .is_some_and(|then_ns| now_ns < then_ns.saturating_add(SAMPLE_NS))
    }

    /// What the hot ring carries went wrong: whether that raises an alarm is not left to the next look.
    fn look_at_once(&mut self, cell: u32, now_ns: u64) {
        let is_sample = self.is_sample(now_ns);
        let (cells, raised) = (self.fold.cells(), &mut self.raised);
        self.alarms
            .look_at(cells, cell, now_ns, is_sample, |alarm| keep(raised, alarm));
    }

    /// The server's log or a tag names a request.
    fn labelled(&mut self, label: &RequestLabel) {
        self.untouched = false;
        let taken = match label.source {
            Source::AccessLog => &mut self.counts.labels_taken_log,
            Source::Tag => &mut self.counts.labels_taken_tag,
        };
        *taken = taken.saturating_add(1);
        let clocks = self.clocks();
        let cells = self.fold.cells_mut();
        self.audience.labelled(label, clocks, cells);
    }

    fn clocks(&self) -> Clocks {
        Clocks {
            unix_minus_monotonic_ns: self.context.unix_minus_monotonic_ns,
            tick_hz: self.context.tick_hz,
        }
    }

    fn half_open_give_up(&mut self, give_up: &HalfOpenGiveUp) {
        self.untouched = false;
        let remote = give_up.remote.to_canonical();
        let transport = if remote.is_ipv4() {
            Transport::Tcp4
        } else {
            Transport::Tcp6
        };
        let label = self.labels.label_of(give_up.local_port, remote);
        let cell = self.fold.half_open_give_up(
            label,
            transport,
            self.context.backend,
            give_up.synack_retransmits,
        );
        self.audience
            .half_open_give_up(remote, give_up.local_port, cell);
    }

    /// Begins a recording. `dropped` counts the records for which a slow recorder has no room.
    pub fn record_from(
        &mut self,
        listener: Listener,
        now_ns: u64,
        dropped: Arc<AtomicU64>,
    ) -> Result<Recording, AlreadyRecorded> {
        let place = &self.taps[listener as usize];
        if place.as_ref().is_some_and(|tap| !tap.is_closed()) {
            return Err(AlreadyRecorded);
        }
        let bound = |bound: usize| u32::try_from(bound).unwrap_or(u32::MAX);
        let header = v1::RecordingHeader {
            weir_version: env!("CARGO_PKG_VERSION").to_owned(),
            backend: wire::backend(self.context.backend).into(),
            tick_hz: self.context.tick_hz,
            abi_version: ABI_VERSION.into(),
            begin_monotonic_ns: now_ns,
            begin_unix_ns: self.context.unix_ns(now_ns),
            whole: self.untouched,
            losses: Some(self.losses(&DaemonCounts::default())),
            limits: Some(v1::FoldLimits {
                max_sessions: bound(self.limits.max_sessions),
                max_viewers: bound(self.limits.max_viewers),
                max_cells: bound(self.limits.max_cells),
                max_deliveries_kept: bound(self.limits.max_deliveries_kept),
            }),
            settings: Some((*self.settings).clone()),
            learned_json: serde_json::to_string(self.audience.learned().families())
                .unwrap_or_default(),
            ..v1::RecordingHeader::default()
        };
        let (tap, blocks) = Tap::new(dropped, now_ns);
        self.taps[listener as usize] = Some(tap);
        Ok(Recording { header, blocks })
    }

    /// Whether somebody records.
    pub fn is_recorded(&self) -> bool {
        self.taps.iter().flatten().any(|tap| !tap.is_closed())
    }

    /// Hands whoever records what was said until now; to be called about once a second.
    pub fn pass_on(&mut self) {
        for place in &mut self.taps {
            if place.as_ref().is_some_and(Tap::is_closed) {
                *place = None;
            }
            if let Some(tap) = place {
                tap.flush();
            }
        }
    }

    /// What was made of it all.
    pub fn fold(&self) -> &Fold {
        &self.fold
    }

    /// Whether anything is known of a session.
    pub fn knows(&self, cookie: u64) -> bool {
        self.fold.sessions().knows(cookie)
    }

    /// Forgets the names of client networks that a database gave. Who passes records on says them
    /// again before they are needed, so that it makes no difference to what is folded.
    pub fn forget_networks(&mut self) {
        self.labels.forget_networks();
    }

    /// The names in force.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// The settings in force.
    pub fn settings(&self) -> &v1::RecordedSettings {
        &self.settings
    }

    /// What all numbers are relative to.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The programs' latest counts.
    pub fn kernel_counts(&self) -> &KernelCounts {
        &self.kernel_counts
    }

    /// Records that could not be understood.
    pub fn records_malformed(&self) -> u64 {
        self.counts.records_malformed
    }

    /// Unix time of a monotonic time.
    pub fn unix_ns(&self, monotonic_ns: u64) -> u64 {
        self.context.unix_ns(monotonic_ns)
    }

    /// All that was lost; `others` is what was lost elsewhere in the daemon.
    pub fn losses(&self, others: &DaemonCounts) -> v1::Losses {
        let counts = DaemonCounts {
            hot_drained: self.counts.hot_drained,
            bulk_drained: self.counts.bulk_drained,
            records_malformed: self.counts.records_malformed,
            labels_taken_log: self.counts.labels_taken_log,
            labels_taken_tag: self.counts.labels_taken_tag,
            ..*others
        };
        wire::losses(
            &self.kernel_counts,
            &self.fold.losses(),
            &self.audience.losses(),
            &counts,
        )
    }

    /// Every cell, with its histograms.
    pub fn cells(&self) -> Vec<CellSnapshot> {
        self.fold
            .cells()
            .iter()
            .map(|(key, cell)| cell.snapshot(key.clone(), true))
            .collect()
    }
}

/// Where nobody fetches them: a rate turns once in a while, so a few are enough.
fn keep(raised: &mut VecDeque<Raised>, alarm: Raised) {
    if raised.len() >= ALARMS_KEPT {
        raised.pop_front();
    }
    raised.push_back(alarm);
}

#[cfg(test)]
mod tests {
    use probe_ebpf::record::flag;

    use super::*;

    fn header() -> v1::RecordingHeader {
        v1::RecordingHeader {
            backend: v1::Backend::Exact.into(),
            tick_hz: 1000,
            limits: Some(v1::FoldLimits {
                max_sessions: 1000,
                max_viewers: 100,
                max_cells: 16,
                max_deliveries_kept: 10,
            }),
            settings: Some(settings_of(&Config::default(), 1)),
            ..v1::RecordingHeader::default()
        }
    }

    const LATE_NS: u64 = 100_000_000_000;

    /// A delivery that has just become late, of a client in the `network`th network.
    fn late(network: u8) -> Delivery {
        let t_ns = LATE_NS + u64::from(network);
        let mut late = Delivery {
            cookie: u64::from(network) + 1,
            t_request_ns: 1,
            flags: flag::LATE,
            ..Delivery::default()
        };
        late.header.t_ns = t_ns;
        late.header.kind = kind::DELIVERY_LATE;
        late.endpoints.local_port = 443;
        late.endpoints.remote_addr[10..].copy_from_slice(&[0xff, 0xff, 10, 1, network, 1]);
        late
    }

    #[test]
    fn what_the_hot_ring_carries_raises_its_alarm_at_once_and_the_rest_at_the_next_look() {
        for ring in [Ring::Hot, Ring::Bulk] {
            let mut intake = Intake::at_beginning_of(&header()).unwrap();
            let mut raised_at = None;
            for network in 0..12 {
                let late = late(network);
                let record = Record::Delivery(&late);
                intake.take(&Said::Record { ring, record });
                if intake.next_alarm().is_some() {
                    raised_at = Some(late.header.t_ns);
                    break;
                }
            }
            let now_ns = LATE_NS + 250_000_000;
            intake.take(&Said::Now { now_ns });
            let raised = intake.next_alarm();
            match ring {
                Ring::Hot => assert!(raised_at.is_some(), "{raised:?}"),
                Ring::Bulk => assert!(raised_at.is_none() && raised.is_some(), "{raised_at:?}"),
            }
            assert_eq!(intake.alarms().count(), 1);
        }
    }

    #[test]
    fn a_header_that_makes_no_sense_is_an_error_and_not_an_allocation() {
        assert!(Intake::at_beginning_of(&header()).is_ok());
        let mut huge = header();
        huge.limits.as_mut().unwrap().max_deliveries_kept = u32::MAX;
        let mut unknown = header();
        unknown.backend = 99;
        let mut unnamed = header();
        let service = v1::RecordedService {
            name: "x".into(),
            ports: vec![70_000],
        };
        unnamed.settings.as_mut().unwrap().services.push(service);
        for (bad, why) in [
            (huge, "max_deliveries_kept"),
            (unknown, "does not know"),
            (unnamed, "a port is none"),
        ] {
            let err = Intake::at_beginning_of(&bad).unwrap_err();
            assert!(format!("{err:#}").contains(why), "{err:#}");
        }
    }
}
