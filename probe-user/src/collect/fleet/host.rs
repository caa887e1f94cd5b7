//! What is held of one host: its boots, those that rest, and what is left of those that are over.

use hashbrown::HashSet;
use weir_proto::v1;

use super::boot::{Boot, Sums};
use super::past::Past;
use super::risk::Risk;
use super::{Error, FRESH_MS};
use crate::collect::gaps::Gaps;
use crate::collect::sent::SentCell;
use crate::qoe::Gauges;

/// Boots of one host that are kept apart; beyond, those that are silent rest.
const MAX_BOOTS: usize = 8;
/// Boots of one host that rest: what they had counted is known, so that one that speaks again goes on
/// from there. Beyond, they are kept in the sum alone.
const MAX_RESTING: usize = 24;

#[derive(Debug, Default)]
pub(super) struct Host {
    /// In the order in which they were met.
    pub(super) boots: Vec<Boot>,
    /// Nobody has heard of them for longest; none of them is connected.
    resting: Vec<Boot>,
    past: Past,
    /// Of the sum, those that this host has counted in.
    pub(super) places: HashSet<u32>,
    pub(super) risk: Risk,
}

impl Host {
    /// Makes the boot that a hello names one of those that are kept apart: it is, it rests, or it is new.
    /// `cells`, those that are held of all hosts, are less by what had to go for it. `may_rest`: there
    /// is room for what was counted by one that is silent.
    pub(super) fn meet(
        &mut self,
        hello: &v1::Hello,
        may_rest: bool,
        cells: &mut usize,
    ) -> Result<(), Error> {
        if self.boot(&hello.boot_id).is_some() {
            return Ok(());
        }
        let is_it = |boot: &Boot| boot.is(&hello.boot_id);
        let resting = self.resting.iter().position(is_it);
        if resting.is_none() && self.past.has(hello) {
            return Err(Error::Past(hello.boot_id.clone()));
        }
        let silent = if self.boots.len() >= MAX_BOOTS {
            let silent = longest_silent(&self.boots);
            Some(silent.ok_or(Error::TooManyBoots(self.boots.len()))?)
        } else {
            None
        };
        // First, so that it is not the one that goes.
        let boot = match resting {
            Some(place) => self.resting.remove(place),
            None => Boot::new(hello.clone()),
        };
        if let Some(silent) = silent {
            let silent = self.boots.remove(silent);
            *cells -= self.rest(silent, may_rest);
        }
        self.boots.push(boot);
        Ok(())
    }

    /// A boot is silent: it rests, if there is room for it. Returns how many cells were held for the one
    /// that is in the sum alone from now on.
    fn rest(&mut self, mut boot: Boot, may_rest: bool) -> usize {
        if boot.is_unheard() || !may_rest {
            self.past.add(&boot);
            return boot.cells.len();
        }
        // It says how things were.
        boot.vital = None;
        self.resting.push(boot);
        if self.resting.len() <= MAX_RESTING {
            return 0;
        }
        let Some(oldest) = longest_silent(&self.resting) else {
            return 0;
        };
        let oldest = self.resting.remove(oldest);
        self.past.add(&oldest);
        oldest.cells.len()
    }

    /// Those that rest are in the sum alone from now on. Returns how many cells were held for them.
    pub(super) fn give_up_resting(&mut self) -> usize {
        let mut cells = 0;
        for boot in std::mem::take(&mut self.resting) {
            self.past.add(&boot);
            cells += boot.cells.len();
        }
        cells
    }

    pub(super) fn has_resting(&self) -> bool {
        !self.resting.is_empty()
    }

    /// One of those that are kept apart.
    pub(super) fn boot(&self, boot_id: &str) -> Option<&Boot> {
        self.boots.iter().find(|boot| boot.is(boot_id))
    }

    /// The same.
    pub(super) fn boot_mut(&mut self, boot_id: &str) -> Option<&mut Boot> {
        self.boots.iter_mut().find(|boot| boot.is(boot_id))
    }

    /// All whose cells are known, those that rest as well.
    pub(super) fn all(&self) -> impl Iterator<Item = &Boot> {
        self.boots.iter().chain(&self.resting)
    }

    /// The same.
    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut Boot> {
        self.boots.iter_mut().chain(&mut self.resting)
    }

    /// The boot that spoke for itself last: the one that runs. Of two that began at once, the one
    /// that was met later.
    fn newest(&self) -> Option<&Boot> {
        let boots = self.boots.iter();
        boots.max_by_key(|boot| (boot.last_alive_ms, boot.last_heard_ms))
    }

    /// Whether a boot's gauges are of now: it was heard of lately, and is either connected or the
    /// newest.
    fn is_current(&self, boot: &Boot, now_unix_ns: u64) -> bool {
        let age_ms = (now_unix_ns / 1_000_000).saturating_sub(boot.last_tick_ms);
        let is_newest = self
            .newest()
            .is_some_and(|newest| std::ptr::eq(newest, boot));
        age_ms <= FRESH_MS && (boot.is_connected() || is_newest)
    }

    pub(super) fn current_cells(&self, now_unix_ns: u64) -> impl Iterator<Item = (u32, &SentCell)> {
        self.boots
            .iter()
            .filter(move |boot| self.is_current(boot, now_unix_ns))
            .flat_map(|boot| boot.cells.iter())
    }

    /// None before the first boot.
    pub(super) fn message(&self, now_unix_ns: u64) -> Option<v1::Host> {
        let newest = self.newest()?;
        let mut sums = self.past.sums;
        for boot in self.all() {
            sums.add(&boot.sums());
        }
        let mut open = Gauges::default();
        for (_, cell) in self.current_cells(now_unix_ns) {
            open.merge(&cell.gauges);
        }
        let now_ms = now_unix_ns / 1_000_000;
        let last_heard_ms = self.boots.iter().map(|boot| boot.last_heard_ms).max();
        let last_heard_ms = last_heard_ms.unwrap_or(0);
        let is_silent = now_ms.saturating_sub(last_heard_ms) > FRESH_MS;
        let [active, stalled, at_risk] = match newest.viewers() {
            Some(viewers) if !is_silent => viewers,
            _ => [
                open.viewers_active,
                open.viewers_stalled,
                open.viewers_at_risk,
            ],
        };
        let Sums {
            frames,
            frames_lost,
            frames_stale,
            frames_refused,
            events,
            events_lost,
            deliveries,
            deliveries_lost,
        } = sums;
        Some(v1::Host {
            host: newest.hello.host.clone(),
            boot_id: newest.hello.boot_id.clone(),
            weir_version: newest.hello.weir_version.clone(),
            backend: newest.hello.backend,
            kernel_release: newest.hello.kernel_release.clone(),
            connected: self.boots.iter().any(Boot::is_connected),
            last_frame_unix_ns: newest.last_frame_unix_ns,
            last_seq: newest.seqs.iter().map(Gaps::newest).max().unwrap_or(0),
            frames,
            frames_lost,
            frames_stale,
            frames_refused,
            events,
            events_lost,
            sessions_open: open.sessions_open,
            boots: self.past.boots + self.all().count() as u64,
            clock_offset_ms: newest.clock_offset_ms,
            losses: Some(newest.losses),
            off: newest.off.clone(),
            budget: newest.budget.clone(),
            vital: newest.vital.clone(),
            gate: newest.gate,
            lanes: newest.lanes(),
            deliveries,
            deliveries_lost,
            viewers_active: active,
            viewers_stalled: stalled,
            viewers_at_risk: at_risk,
            at_risk_minute_ms: self.risk.minute_ms(now_ms),
            last_heard_unix_ns: last_heard_ms * 1_000_000,
            collector: String::new(),
        })
    }
}

/// The place of the boot that is not connected and has been silent for longest. By way of the engine
/// no boot is connected, and clocks step: what a boot says of its own beginning has no say.
fn longest_silent(boots: &[Boot]) -> Option<usize> {
    let boots = boots.iter().enumerate();
    let silent = boots.filter(|(_, boot)| !boot.is_connected());
    let longest = silent.min_by_key(|(_, boot)| (boot.last_alive_ms, boot.last_heard_ms));
    longest.map(|(place, _)| place)
}
