//! What policies see of the cells: windows of what each has counted, and a longer past of its trials
//! for the verdicts.

use std::collections::{HashMap, VecDeque};

use super::verdicts::Past;
use crate::kernel::BackendKind;
use crate::labels::{Name, Service};
use crate::qoe::viewer::Tier;
use crate::qoe::{CellKey, Counters, Gauges, Transport};
use crate::query;
use crate::steer::policy::input::{Blame, CellInput, Estimate};
use crate::steer::policy::measure::{counted, estimates};
use crate::steer::policy::rules::{Metric, SECOND_NS};
use crate::steer::validation::Count;
use crate::wire::Heard;

/// What a policy's share is taken over. With the dead time it is how long a step takes to be seen.
pub(super) const WINDOW_NS: u64 = 5 * SECOND_NS;
/// Between two looks at what the core has counted.
pub(super) const LOOK_NS: u64 = SECOND_NS;
/// Looks kept: a window's, one to begin it with, and some more that alarms ask for.
const LOOKS: usize = 14;
/// Looks that follow sooner replace the one before, so that alarms do not push a window out.
const APART_NS: u64 = LOOK_NS;
/// Between two entries of the longer past, and how many there are: five minutes.
const COARSE_NS: u64 = 5 * SECOND_NS;
const COARSE: usize = 62;
/// Viewers at risk are the same ones for a while: counted so seldom they are trials of their own.
const GAUGE_NS: u64 = 10 * SECOND_NS;
/// More of the records missing than one of so many, and a window means nothing.
const VOID_ONE_IN: u64 = 20;

/// What one cell has counted, cumulative.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    counters: Counters,
    late_ended: u64,
}

impl Look {
    fn since(&self, older: &Self) -> Self {
        Self {
            counters: self.counters.since(&older.counters),
            late_ended: self.late_ended.saturating_sub(older.late_ended),
        }
    }
}

/// One cell's past.
#[derive(Debug)]
struct Cell {
    name: String,
    looks: VecDeque<(u64, Look)>,
    gauges: Gauges,
    /// Trials by metric, cumulative, by time.
    coarse: VecDeque<(u64, [Count; Metric::ALL.len()])>,
    /// Viewers at each counting, added up.
    at_risk: Count,
    gauged_ns: u64,
}

/// All cells' past.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    cells: HashMap<CellKey, Cell>,
    heard: VecDeque<(u64, Heard)>,
    looked_ns: u64,
}

/// What the cells of the same sessions have in common.
type Family<'a> = (&'a Service, &'a Name, Transport, BackendKind);

fn family(key: &CellKey) -> Family<'_> {
    (&key.service, &key.network, key.transport, key.backend)
}

impl Numbers {
    /// Takes in what the core says; `asked_ns` is when it was asked.
    pub(super) fn take(&mut self, numbers: query::Numbers, asked_ns: u64) {
        if !numbers.is_measured {
            return;
        }
        self.looked_ns = asked_ns;
        keep_apart(&mut self.heard, (asked_ns, numbers.heard));
        for own in numbers.cells {
            let (counters, gauges) = (own.counters, own.gauges);
            // The core bounds how many there are.
            let cell = self.cells.entry(own.key).or_insert_with_key(|key| Cell {
                name: key.to_string(),
                looks: VecDeque::new(),
                gauges,
                coarse: VecDeque::new(),
                at_risk: Count::default(),
                gauged_ns: 0,
            });
            cell.gauges = gauges;
            if asked_ns.saturating_sub(cell.gauged_ns) >= GAUGE_NS {
                let (n, bad) = counted(Metric::SessionsAtRiskShare, &counters, &gauges);
                cell.at_risk.n = cell.at_risk.n.saturating_add(n);
                cell.at_risk.bad = cell.at_risk.bad.saturating_add(bad);
                cell.gauged_ns = asked_ns;
            }
            let look = Look {
                counters,
                late_ended: own.late_ended,
            };
            keep_apart(&mut cell.looks, (asked_ns, look));
            let is_due = |(latest, _): &(u64, _)| asked_ns.saturating_sub(*latest) >= COARSE_NS;
            if cell.coarse.back().is_none_or(is_due) {
                let trials = cell.trials();
                keep(&mut cell.coarse, (asked_ns, trials), COARSE);
            }
        }
    }

    /// What policies are to see.
    pub(super) fn inputs(&self) -> Vec<CellInput> {
        let is_void = self.is_void();
        let windows = self.cells.iter().map(|(key, cell)| (key, cell.in_window()));
        let windows: Vec<_> = windows.collect();
        let mut families: HashMap<Family<'_>, Look> = HashMap::new();
        for (key, window) in &windows {
            let sum = families.entry(family(key)).or_default();
            sum.counters.merge(&window.counters);
            sum.late_ended = sum.late_ended.saturating_add(window.late_ended);
        }
        let cells = windows.iter().filter_map(|(key, window)| {
            let cell = self.cells.get(*key)?;
            let of_family = families.get(&family(key)).copied().unwrap_or_default();
            let mut metrics = estimates(&window.counters, &cell.gauges, is_void);
            for (metric, estimate) in &mut metrics {
                if *metric == Metric::LateDeliveryShare {
                    *estimate = late_share(key, window, &of_family, is_void);
                }
            }
            // Without trials it is not that nothing can be said of a service, but nothing of this
            // cell.
            metrics.retain(|(_, estimate)| estimate.n > 0);
            let verdict = match key.tier {
                Tier::Kernel => of_family.counters.verdict(),
                _ => window.counters.verdict(),
            };
            Some(CellInput {
                name: cell.name.clone(),
                service: key.service.to_string(),
                class: key.content_class.to_string(),
                network: key.network.to_string(),
                measured_boot_ns: self.looked_ns,
                metrics,
                blame: verdict.as_ref().map(Blame::from),
            })
        });
        let mut cells: Vec<_> = cells.collect();
        // The same numbers in the same order give the same decisions.
        cells.sort_by(|a, b| a.name.cmp(&b.name));
        cells
    }

    fn is_void(&self) -> bool {
        let (Some((_, first)), Some((_, last))) = (self.heard.front(), self.heard.back()) else {
            return true;
        };
        let lost = last.lost.saturating_sub(first.lost);
        let seen = last.seen.saturating_sub(first.seen);
        lost.saturating_mul(VOID_ONE_IN) > seen
    }
}

/// Late deliveries of a cell. Those that are still open, or were cut off, are counted with the cell
/// of their session, for nobody knows of what class they are.
fn late_share(key: &CellKey, window: &Look, of_family: &Look, is_void: bool) -> Estimate {
    let open = match key.tier {
        Tier::Kernel => {
            let late = of_family.counters.late_deliveries;
            late.saturating_sub(of_family.late_ended)
        }
        _ => 0,
    };
    let n = window.counters.deliveries.saturating_add(open);
    Estimate::of_counts(n, window.late_ended.saturating_add(open), is_void)
}

impl Past for Numbers {
    fn trials(&self, metric: Metric, of: &dyn Fn(&str) -> bool, until_ns: Option<u64>) -> Count {
        let mut sum = Count::default();
        for cell in self.cells.values().filter(|cell| of(&cell.name)) {
            let all = match until_ns {
                None => Some(cell.trials()),
                // A cell that is younger had counted nothing then.
                Some(until_ns) => {
                    let older = cell.coarse.iter().rev().find(|(at, _)| *at <= until_ns);
                    older.map(|(_, all)| *all)
                }
            };
            let place = Metric::ALL.iter().position(|own| *own == metric);
            if let (Some(all), Some(place)) = (all, place) {
                sum.n = sum.n.saturating_add(all[place].n);
                sum.bad = sum.bad.saturating_add(all[place].bad);
            }
        }
        sum
    }

    fn names(&self) -> Vec<&str> {
        self.cells.values().map(|cell| cell.name.as_str()).collect()
    }
}

impl Cell {
    /// What was counted from a window's length ago until now.
    fn in_window(&self) -> Look {
        let Some((now_ns, latest)) = self.looks.back() else {
            return Look::default();
        };
        let begin_ns = now_ns.saturating_sub(WINDOW_NS);
        // The newest that is old enough; of a young cell its first.
        let older = self.looks.iter().rev().find(|(at, _)| *at <= begin_ns);
        let Some((_, older)) = older.or(self.looks.front()) else {
            return Look::default();
        };
        latest.since(older)
    }

    fn trials(&self) -> [Count; Metric::ALL.len()] {
        let Some((_, latest)) = self.looks.back() else {
            return Default::default();
        };
        Metric::ALL.map(|metric| match metric {
            Metric::SessionsAtRiskShare => self.at_risk,
            Metric::LateDeliveryShare => Count {
                n: latest.counters.deliveries,
                bad: latest.late_ended,
            },
            metric => {
                let (n, bad) = counted(metric, &latest.counters, &self.gauges);
                Count { n, bad }
            }
        })
    }
}

/// Keeps looks so far apart that a window of them fits.
fn keep_apart<T>(looks: &mut VecDeque<(u64, T)>, new: (u64, T)) {
    let before = looks.len().checked_sub(2).and_then(|at| looks.get(at));
    if before.is_some_and(|(at, _)| new.0.saturating_sub(*at) < APART_NS) {
        looks.pop_back();
    }
    keep(looks, new, LOOKS);
}

fn keep<T>(past: &mut VecDeque<T>, new: T, most: usize) {
    if past.len() >= most {
        past.pop_front();
    }
    past.push_back(new);
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::labels::Label;
    use crate::query::CellNumbers;

    pub(in super::super) fn key(service: &str) -> CellKey {
        let label = Label {
            service: Service::Named(service.into()),
            content_class: "-".into(),
            network: "-".into(),
        };
        CellKey::new(label, Transport::Tcp4, BackendKind::Exact)
    }

    /// So many deliveries since the beginning, and of these late ones.
    pub(in super::super) fn said(cells: &[(&str, u64, u64)]) -> query::Numbers {
        let cells = cells.iter().map(|(service, deliveries, late)| {
            let counters = Counters {
                deliveries: *deliveries,
                late_deliveries: *late,
                ..Counters::default()
            };
            CellNumbers {
                key: key(service),
                counters,
                gauges: Gauges::default(),
                late_ended: *late,
            }
        });
        query::Numbers {
            cells: cells.collect(),
            heard: Heard::default(),
            is_measured: true,
        }
    }

    fn late(numbers: &Numbers, at: usize) -> Option<(u64, u32, bool)> {
        let inputs = numbers.inputs();
        let late = |(metric, _): &&(Metric, Estimate)| *metric == Metric::LateDeliveryShare;
        let (_, found) = inputs[at].metrics.iter().find(late)?;
        Some((found.n, found.point_ppm, found.is_void))
    }

    #[test]
    fn a_cell_without_trials_says_nothing_and_does_not_make_its_service_void() {
        use crate::steer::policy::rules::Policy;
        let mut numbers = Numbers::default();
        for s in 1..4 {
            numbers.take(said(&[("live", 100 * s, s), ("idle", 0, 0)]), s * SECOND_NS);
        }
        assert_eq!(late(&numbers, 0), None, "idle");
        let inputs = crate::steer::policy::Inputs {
            cells: numbers.inputs(),
            ..Default::default()
        };
        let mut policy = Policy::new("p", Metric::LateDeliveryShare, 15, 7);
        policy.moves = crate::steer::policy::rules::Moves::Host;
        let seen = inputs.seen(&policy, 3 * SECOND_NS);
        assert!(seen[0].1.estimate.is_sound(), "{seen:?}");
        assert_eq!(seen[0].1.estimate.n, 200);
    }

    #[test]
    fn of_labelled_deliveries_each_late_one_is_in_one_share_and_open_ones_are_not_forgotten() {
        let mut numbers = Numbers::default();
        for s in 0..3 {
            // The session's cell has what is late, 30 a second, that of its class what ended, of
            // which 20 had been late.
            let session = CellNumbers {
                key: key("live"),
                counters: Counters {
                    late_deliveries: 30 * s,
                    ..Counters::default()
                },
                gauges: Gauges::default(),
                late_ended: 0,
            };
            let mut class = session.clone();
            class.key.content_class = "segment".into();
            class.key.tier = Tier::Joined;
            class.late_ended = 20 * s;
            class.counters = Counters {
                deliveries: 100 * s,
                ..Counters::default()
            };
            let cells = vec![session, class];
            let said = query::Numbers { cells, ..said(&[]) };
            numbers.take(said, s * SECOND_NS);
        }
        let shares: Vec<_> = (0..2).map(|at| late(&numbers, at).unwrap()).collect();
        assert_eq!(
            shares[0],
            (20, 1_000_000, false),
            "open ones, with the session's"
        );
        assert_eq!(shares[1], (200, 200_000, false), "of segments");
    }

    #[test]
    fn a_share_is_that_of_the_latest_window_and_not_of_all_time() {
        let mut numbers = Numbers::default();
        for s in 0..20 {
            // From the tenth second on all are late.
            let late = 100 * u64::saturating_sub(s, 9);
            numbers.take(said(&[("live", 100 * s, late)]), s * SECOND_NS);
        }
        assert_eq!(late(&numbers, 0), Some((500, 1_000_000, false)));
        assert_eq!(numbers.inputs()[0].measured_boot_ns, 19 * SECOND_NS);
        assert_eq!(numbers.inputs()[0].service, "live");
    }

    #[test]
    fn a_cell_of_one_look_has_no_evidence_and_what_is_off_keeps_its_age() {
        let mut numbers = Numbers::default();
        numbers.take(said(&[("live", 1000, 500)]), SECOND_NS);
        assert_eq!(
            late(&numbers, 0),
            None,
            "what was counted before is no window"
        );
        let off = query::Numbers {
            is_measured: false,
            ..said(&[("live", 2000, 500)])
        };
        numbers.take(off, 2 * SECOND_NS);
        assert_eq!(numbers.inputs()[0].measured_boot_ns, SECOND_NS);
    }

    #[test]
    fn a_window_of_which_too_much_is_missing_is_void() {
        let mut numbers = Numbers::default();
        for (s, lost) in [(1, 0), (2, 0), (3, 60)] {
            let heard = Heard {
                seen: s * 500,
                lost,
            };
            let said = query::Numbers {
                heard,
                ..said(&[("live", s * 500, 0)])
            };
            numbers.take(said, s * SECOND_NS);
            let is_void = late(&numbers, 0).map(|(.., is_void)| is_void);
            assert_eq!(is_void, (s > 1).then_some(lost > 50), "{s}");
        }
    }

    #[test]
    fn the_past_of_a_cell_is_kept_for_five_minutes_and_bounded() {
        let mut numbers = Numbers::default();
        for s in 0..1000 {
            numbers.take(
                said(&[("live", 10 * s, s), ("vod", 7 * s, 0)]),
                s * SECOND_NS,
            );
        }
        let is_live = |name: &str| name.starts_with("live/");
        let trials = |at| numbers.trials(Metric::LateDeliveryShare, &is_live, at);
        assert_eq!(trials(None), Count { n: 9990, bad: 999 });
        let then = trials(Some(700 * SECOND_NS));
        assert_eq!(then, Count { n: 7000, bad: 700 });
        for cell in numbers.cells.values() {
            assert!(cell.coarse.len() <= COARSE && cell.looks.len() <= LOOKS);
        }
    }
}
