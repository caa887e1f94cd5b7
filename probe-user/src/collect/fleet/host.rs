//! What is held of one host: its boots, and what is left of those that are over.

use hashbrown::HashSet;
use weir_proto::v1;

use super::boot::{Boot, Sums};
use super::past::Past;
use super::risk::Risk;
use super::{Error, FRESH_MS};
use crate::collect::gaps::Gaps;
use crate::collect::sent::SentCell;
use crate::qoe::Gauges;

/// Boots of one host that are kept apart; beyond, those that are over are kept in the sum alone.
const MAX_BOOTS: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Host {
    /// In the order in which they were met.
    pub(super) boots: Vec<Boot>,
    past: Past,
    /// Of the sum, those that this host has counted in.
    pub(super) places: HashSet<u32>,
    pub(super) risk: Risk,
}

impl Host {
    /// The boot that a hello names, which may be new; then `cells`, those that are held of all
    /// hosts, are less by what had to go for it.
    pub(super) fn meet(
        &mut self,
        hello: &v1::Hello,
        cells: &mut usize,
    ) -> Result<&mut Boot, Error> {
        let known = |boot: &Boot| boot.hello.boot_id == hello.boot_id;
        let place = if let Some(place) = self.boots.iter().position(known) {
            place
        } else {
            if self.past.has(hello) {
                return Err(Error::Past(hello.boot_id.clone()));
            }
            if self.boots.len() >= MAX_BOOTS {
                *cells -= self.let_one_go()?;
            }
            self.boots.push(Boot::new(hello.clone()));
            self.boots.len() - 1
        };
        Ok(&mut self.boots[place])
    }

    /// Lets the boot go that is not connected and has been silent for longest; what it counted stays
    /// in the sum. By way of the engine no boot is connected, and clocks step: what a boot says of
    /// its own beginning has no say. Returns how many cells were held for it.
    fn let_one_go(&mut self) -> Result<usize, Error> {
        let boots = self.boots.iter().enumerate();
        let (place, _) = boots
            .filter(|(_, boot)| !boot.is_connected())
            .min_by_key(|(_, boot)| (boot.last_alive_ms, boot.last_heard_ms))
            .ok_or(Error::TooManyBoots(self.boots.len()))?;
        let boot = self.boots.remove(place);
        self.past.add(&boot);
        Ok(boot.cells.len())
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
        for boot in &self.boots {
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
            boots: self.past.boots + self.boots.len() as u64,
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
