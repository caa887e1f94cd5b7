//! The alarms of all cells: which rates are watched, with what promise, and what their tests say.

use super::alarm::{Alarm, Evidence, Promise, Watch};
use super::cell::{Cells, Gauges};
use super::counters::Counters;

/// A viewer that stands still now is likely to do so in the next moment too: one look is as good as
/// several, so there is one in so long.
const LOOK_NS: u64 = 10_000_000_000;
/// What is so old counts half of what is found of late.
const RECENT_NS: f64 = 30e9;
/// Fewer viewers are no rate.
const LEAST_VIEWERS: u64 = 10;

/// A rate that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Rate {
    /// Start-up failures, of start attempts.
    StartFailures,
    /// Viewers that stand still, of those that are active.
    StalledViewers,
    /// Late deliveries, of deliveries.
    LateDeliveries,
}

impl Rate {
    /// How many there are.
    pub const COUNT: usize = 3;
    /// All of them, each at the index of its value.
    pub const ALL: [Self; Self::COUNT] = [
        Self::StartFailures,
        Self::StalledViewers,
        Self::LateDeliveries,
    ];

    /// Trials and bad ones, of what is counted.
    fn counted(self, counters: &Counters) -> (u64, u64) {
        match self {
            Self::StartFailures => {
                let failed = counters.start_failures();
                (counters.starts + failed, failed)
            }
            Self::StalledViewers => (0, 0),
            Self::LateDeliveries => {
                // A delivery that a label names is counted with its class, and its lateness here.
                let late = counters.late_deliveries;
                let all = counters.deliveries + counters.deliveries_labelled;
                (all.max(late), late)
            }
        }
    }
}

/// What is usual of each rate, and how rarely an alarm may be false.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Promises {
    /// Up to these shares all is well, by [`Rate`].
    pub bases: [f64; Rate::COUNT],
    /// Chance of a false alarm for each cell and day.
    pub alpha: f64,
}

impl Default for Promises {
    fn default() -> Self {
        Self {
            bases: [0.02, 0.02, 0.05],
            alpha: 1e-4,
        }
    }
}

/// An alarm that was raised, or has cleared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Raised {
    /// Of which cell.
    pub cell: u32,
    /// Of which rate.
    pub rate: Rate,
    /// It is on.
    pub is_on: bool,
    /// When it was raised.
    pub t_onset_ns: u64,
    /// When this was found.
    pub t_ns: u64,
    /// What it rests on, since the test's day began.
    pub evidence: Evidence,
    /// The rate of late.
    pub rate_found: f64,
    /// How rarely it is false, for each cell and day.
    pub alpha: f64,
}

/// The tests of one cell.
#[derive(Clone, Debug)]
struct Watched {
    watches: [Watch; Rate::COUNT],
    seen: Counters,
    /// Trials and bad ones of late, older ones counting less.
    recent: [(f64, f64); Rate::COUNT],
    t_seen_ns: u64,
    on: [Option<Raised>; Rate::COUNT],
}

/// All alarms.
#[derive(Debug)]
pub struct Alarms {
    promises: Promises,
    cells: Vec<Option<Box<Watched>>>,
    t_looked_ns: u64,
}

impl Alarms {
    /// None yet.
    pub fn new(promises: Promises) -> Self {
        Self {
            promises,
            cells: Vec::new(),
            t_looked_ns: 0,
        }
    }

    /// Those that are on.
    pub fn on(&self) -> impl Iterator<Item = &Raised> {
        self.cells
            .iter()
            .flatten()
            .flat_map(|watched| watched.on.iter().flatten())
    }

    /// Looks at what was counted since the last time; calls `tell` with what follows. `is_sample`:
    /// only a share of the sessions is followed, of the others only what went wrong is counted.
    pub fn look(
        &mut self,
        cells: &Cells,
        now_ns: u64,
        is_sample: bool,
        mut tell: impl FnMut(Raised),
    ) {
        let is_turn = now_ns.saturating_sub(self.t_looked_ns) >= LOOK_NS;
        if is_turn {
            self.t_looked_ns = now_ns;
        }
        for (index, _, cell) in cells.iter_indexed() {
            let place = index as usize;
            if self.cells.len() <= place {
                self.cells.resize(place + 1, None);
            }
            let promises = self.promises;
            let watched =
                self.cells[place].get_or_insert_with(|| Box::new(Watched::new(&promises)));
            let since = cell.counters.since(&watched.seen);
            watched.seen = cell.counters;
            watched.age(now_ns);
            for rate in Rate::ALL {
                if is_sample && rate == Rate::LateDeliveries {
                    continue;
                }
                let found = watched.judge(rate, &since, &cell.gauges, is_turn, now_ns);
                if let Some(found) = found {
                    watched.took(rate, index, &found, (now_ns, promises.alpha), &mut tell);
                }
            }
        }
    }
}

impl Watched {
    fn new(promises: &Promises) -> Self {
        Self {
            watches: promises.bases.map(|base| {
                Watch::new(Promise {
                    base,
                    alpha: promises.alpha,
                })
            }),
            seen: Counters::default(),
            recent: [(0.0, 0.0); Rate::COUNT],
            t_seen_ns: 0,
            on: [None; Rate::COUNT],
        }
    }

    fn age(&mut self, now_ns: u64) {
        let since_ns = now_ns.saturating_sub(self.t_seen_ns);
        self.t_seen_ns = now_ns;
        let left = (-(since_ns as f64) / RECENT_NS).exp2();
        for (trials, bad) in &mut self.recent {
            (*trials, *bad) = (*trials * left, *bad * left);
        }
    }

    fn judge(
        &mut self,
        rate: Rate,
        since: &Counters,
        gauges: &Gauges,
        is_turn: bool,
        now_ns: u64,
    ) -> Option<Alarm> {
        let watch = &mut self.watches[rate as usize];
        if rate == Rate::StalledViewers {
            let is_enough = gauges.viewers_active >= LEAST_VIEWERS;
            if !is_turn || !is_enough {
                return None;
            }
            let share = gauges.viewers_stalled as f64 / gauges.viewers_active as f64;
            let (trials, bad) = &mut self.recent[rate as usize];
            (*trials, *bad) = (*trials + 1.0, *bad + share);
            return watch.saw_share(share, now_ns);
        }
        let (trials, bad) = rate.counted(since);
        let recent = &mut self.recent[rate as usize];
        *recent = (recent.0 + trials as f64, recent.1 + bad as f64);
        watch.saw(trials, bad, now_ns)
    }

    fn took(
        &mut self,
        rate: Rate,
        cell: u32,
        found: &Alarm,
        (now_ns, alpha): (u64, f64),
        tell: &mut impl FnMut(Raised),
    ) {
        let on = &mut self.on[rate as usize];
        let (is_on, evidence) = match *found {
            Alarm::Onset(evidence) => (true, evidence),
            Alarm::Cleared(evidence) => (false, evidence),
        };
        let raised = Raised {
            cell,
            rate,
            is_on,
            t_onset_ns: on.map_or(now_ns, |before| before.t_onset_ns),
            t_ns: now_ns,
            evidence,
            rate_found: self.recent[rate as usize].1 / self.recent[rate as usize].0.max(1.0),
            alpha,
        };
        *on = is_on.then_some(raised);
        tell(raised);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::BackendKind;
    use crate::labels::{Label, Service};
    use crate::qoe::cell::{CellKey, Transport};

    fn cells() -> (Cells, u32) {
        let mut cells = Cells::new(8);
        let label = Label {
            service: Service::Port(443),
            content_class: "-".into(),
            network: "other".into(),
        };
        let cell = cells.place(CellKey::new(label, Transport::Tcp4, BackendKind::Exact));
        (cells, cell)
    }

    #[test]
    fn failing_starts_raise_an_alarm_once_and_good_ones_clear_it() {
        let (mut cells, cell) = cells();
        let mut alarms = Alarms::new(Promises::default());
        let mut said = Vec::new();
        let mut second = 0;
        let mut go = |cells: &mut Cells, alarms: &mut Alarms, good: u64, bad: u64| {
            second += 1;
            let counters = &mut cells.get_mut(cell).counters;
            counters.starts += good;
            counters.start_failures_http += bad;
            alarms.look(cells, second * 1_000_000_000, false, |raised| {
                said.push(raised);
            });
        };
        for _ in 0..200 {
            go(&mut cells, &mut alarms, 10, 0);
        }
        assert_eq!(alarms.on().count(), 0);
        for _ in 0..20 {
            go(&mut cells, &mut alarms, 5, 5);
        }
        assert_eq!(alarms.on().count(), 1);
        for _ in 0..400 {
            go(&mut cells, &mut alarms, 10, 0);
        }
        assert_eq!(alarms.on().count(), 0);
        let on: Vec<_> = said
            .iter()
            .map(|raised| (raised.rate, raised.is_on))
            .collect();
        assert_eq!(
            on,
            [(Rate::StartFailures, true), (Rate::StartFailures, false)]
        );
        let evidence = said[0].evidence;
        assert!(
            said[0].rate_found > 0.02 && evidence.e_value >= 1e4,
            "{:?}",
            said[0]
        );
        assert_eq!(said[1].t_onset_ns, said[0].t_ns);
    }

    #[test]
    fn lateness_is_not_judged_where_only_what_went_wrong_is_counted() {
        let (mut cells, cell) = cells();
        let mut alarms = Alarms::new(Promises::default());
        for second in 1..100 {
            let counters = &mut cells.get_mut(cell).counters;
            counters.deliveries += 1;
            counters.late_deliveries += 1;
            alarms.look(&cells, second * 1_000_000_000, true, |raised| {
                panic!("{raised:?}")
            });
        }
        cells.get_mut(cell).counters.late_deliveries += 100;
        alarms.look(&cells, 100_000_000_000, false, |_| {});
        assert_eq!(alarms.on().count(), 1);
    }

    #[test]
    fn one_viewer_alone_never_raises_an_alarm() {
        let (mut cells, cell) = cells();
        let mut alarms = Alarms::new(Promises::default());
        let gauges = &mut cells.get_mut(cell).gauges;
        (gauges.viewers_active, gauges.viewers_stalled) = (1, 1);
        for second in 1..10_000 {
            alarms.look(&cells, second * 1_000_000_000, false, |raised| {
                panic!("{raised:?}")
            });
        }
        let gauges = &mut cells.get_mut(cell).gauges;
        (gauges.viewers_active, gauges.viewers_stalled) = (100, 40);
        for second in 10_000..10_600 {
            alarms.look(&cells, second * 1_000_000_000, false, |_| {});
        }
        assert_eq!(alarms.on().count(), 1);
    }
}
