//! The alarms of all cells: which rates are watched, with what promise, and what their tests say.

use hashbrown::HashMap;

use super::alarm::{Alarm, Evidence, Promise, Watch};
use super::cell::{Cell, Cells};
use super::poll::LEFT_OUT;

/// A viewer that stands still now is likely to do so in the next moment too: one look is as good as
/// several, so there is one in so long.
const LOOK_NS: u64 = 10_000_000_000;
/// What is so old counts half of what is found of late.
const RECENT_NS: f64 = 30e9;
/// Fewer viewers are no rate, and neither are fewer client networks.
const LEAST_VIEWERS: u64 = 10;
const LEAST_NETWORKS: usize = 5;
/// A client network has one say in so long on failed starts: whoever fails tries again.
pub const START_ROUND_NS: u64 = 300_000_000_000;
/// And on late deliveries: a viewer asks every few seconds, and what befalls one delivery befalls the
/// next.
pub const LATE_ROUND_NS: u64 = 30_000_000_000;

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

    /// Trials and bad ones of the networks that have a say; cumulative.
    fn counted(self, cell: &Cell) -> (u64, u64) {
        match self {
            Self::StartFailures => cell.start_poll.counted(),
            Self::StalledViewers => (0, 0),
            Self::LateDeliveries => cell.late_poll.counted(),
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
    /// What was counted at the last look.
    seen: [(u64, u64); Rate::COUNT],
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
    /// `viewers`: those that are active now; asked for once in a while.
    pub fn look<V: Iterator<Item = Standing>>(
        &mut self,
        cells: &Cells,
        now_ns: u64,
        is_sample: bool,
        viewers: impl FnOnce() -> V,
        mut tell: impl FnMut(Raised),
    ) {
        let is_turn = now_ns.saturating_sub(self.t_looked_ns) >= LOOK_NS;
        let shares = if is_turn {
            self.t_looked_ns = now_ns;
            stalled_shares(cells, viewers)
        } else {
            HashMap::new()
        };
        let promises = self.promises;
        for (index, _, cell) in cells.iter_indexed() {
            let watched = self.watched(index);
            watched.age(now_ns);
            for rate in Rate::ALL {
                let found = match rate {
                    Rate::StalledViewers => shares
                        .get(&index)
                        .and_then(|share| watched.judge_share(*share, now_ns)),
                    _ => watched.judge_counted(rate, cell, now_ns, is_sample),
                };
                if let Some(found) = found {
                    let at = (now_ns, promises.alpha);
                    watched.took(rate, index, &found, at, &mut tell);
                }
            }
        }
    }

    /// The same for what one cell has counted, without waiting for the next look: its tests may be
    /// looked at as often as one likes.
    pub fn look_at(
        &mut self,
        cells: &Cells,
        index: u32,
        now_ns: u64,
        is_sample: bool,
        mut tell: impl FnMut(Raised),
    ) {
        let at = (now_ns, self.promises.alpha);
        let watched = self.watched(index);
        watched.age(now_ns);
        for rate in [Rate::StartFailures, Rate::LateDeliveries] {
            let cell = cells.get(index);
            if let Some(found) = watched.judge_counted(rate, cell, now_ns, is_sample) {
                watched.took(rate, index, &found, at, &mut tell);
            }
        }
    }

    fn watched(&mut self, index: u32) -> &mut Watched {
        let place = index as usize;
        if self.cells.len() <= place {
            self.cells.resize(place + 1, None);
        }
        let promises = &self.promises;
        self.cells[place].get_or_insert_with(|| Box::new(Watched::new(promises)))
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
            seen: [(0, 0); Rate::COUNT],
            recent: [(0.0, 0.0); Rate::COUNT],
            t_seen_ns: 0,
            on: [None; Rate::COUNT],
        }
    }

    fn age(&mut self, now_ns: u64) {
        let since_ns = now_ns.saturating_sub(self.t_seen_ns);
        // A record may be older than the latest look.
        self.t_seen_ns = self.t_seen_ns.max(now_ns);
        let left = (-(since_ns as f64) / RECENT_NS).exp2();
        for (trials, bad) in &mut self.recent {
            (*trials, *bad) = (*trials * left, *bad * left);
        }
    }

    /// What was counted of a rate since the last look.
    fn since(&mut self, rate: Rate, cell: &Cell) -> (u64, u64) {
        let counted = rate.counted(cell);
        let (trials, bad) = std::mem::replace(&mut self.seen[rate as usize], counted);
        (
            counted.0.saturating_sub(trials),
            counted.1.saturating_sub(bad),
        )
    }

    /// What the cell counted since it was last judged. Of a sample of the sessions lateness says nothing.
    fn judge_counted(
        &mut self,
        rate: Rate,
        cell: &Cell,
        now_ns: u64,
        is_sample: bool,
    ) -> Option<Alarm> {
        let since = self.since(rate, cell);
        if rate == Rate::LateDeliveries && is_sample {
            return None;
        }
        self.judge(rate, since, now_ns)
    }

    fn judge(&mut self, rate: Rate, (trials, bad): (u64, u64), now_ns: u64) -> Option<Alarm> {
        let recent = &mut self.recent[rate as usize];
        *recent = (recent.0 + trials as f64, recent.1 + bad as f64);
        self.watches[rate as usize].saw(trials, bad, now_ns)
    }

    fn judge_share(&mut self, share: f64, now_ns: u64) -> Option<Alarm> {
        let (trials, bad) = &mut self.recent[Rate::StalledViewers as usize];
        (*trials, *bad) = (*trials + 1.0, *bad + share);
        self.watches[Rate::StalledViewers as usize].saw_share(share, now_ns)
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

/// How a viewer stands that is active.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// Its cell.
    pub cell: u32,
    /// Its client's network ([`super::poll::network_of`]).
    pub network: u64,
    /// It stands still.
    pub is_stalled: bool,
}

/// The share of viewers that stand still, of each cell with enough of them: the mean over the client
/// networks, each of which weighs the same, without those that fare worst.
fn stalled_shares<V: Iterator<Item = Standing>>(
    cells: &Cells,
    viewers: impl FnOnce() -> V,
) -> HashMap<u32, f64> {
    let is_enough = |cell: &Cell| cell.gauges.viewers_active >= LEAST_VIEWERS;
    let can_be_bad =
        |cell: &Cell| is_enough(cell) && cell.gauges.viewers_stalled > u64::from(LEFT_OUT);
    let mut shares: HashMap<u32, f64> = cells
        .iter_indexed()
        .filter(|(_, _, cell)| is_enough(cell))
        .map(|(index, _, _)| (index, 0.0))
        .collect();
    if !cells.iter().any(|(_, cell)| can_be_bad(cell)) {
        return shares;
    }
    let mut networks: HashMap<(u32, u64), (u32, u32)> = HashMap::new();
    for viewer in viewers() {
        if can_be_bad(cells.get(viewer.cell)) {
            let (all, stalled) = networks.entry((viewer.cell, viewer.network)).or_default();
            *all += 1;
            *stalled += u32::from(viewer.is_stalled);
        }
    }
    let mut of_cells: HashMap<u32, Vec<f64>> = HashMap::new();
    for ((cell, _), (all, stalled)) in networks {
        let share = f64::from(stalled) / f64::from(all);
        of_cells.entry(cell).or_default().push(share);
    }
    for (cell, mut of_networks) in of_cells {
        if of_networks.len() < LEAST_NETWORKS {
            shares.remove(&cell);
            continue;
        }
        // In one order, so that a sum of floating numbers is the same in a replay.
        of_networks.sort_by(f64::total_cmp);
        let kept = of_networks.len() - LEFT_OUT as usize;
        let sum: f64 = of_networks.iter().take(kept).sum();
        shares.insert(cell, sum / of_networks.len() as f64);
    }
    shares
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

    /// Of this many networks, the first ones fare badly.
    fn starts(cells: &mut Cells, cell: u32, second: u64, networks: u64, bad: u64) {
        let poll = &mut cells.get_mut(cell).start_poll;
        for network in 0..networks {
            poll.saw(network, network < bad, second * S, START_ROUND_NS);
        }
    }

    const S: u64 = 1_000_000_000;

    fn nobody() -> std::iter::Empty<Standing> {
        std::iter::empty()
    }

    #[test]
    fn failing_starts_raise_an_alarm_once_and_good_ones_clear_it() {
        let (mut cells, cell) = cells();
        let mut alarms = Alarms::new(Promises::default());
        let mut said = Vec::new();
        let mut second = 0;
        let mut go = |cells: &mut Cells, alarms: &mut Alarms, networks: u64, bad: u64| {
            second += START_ROUND_NS / S;
            starts(cells, cell, second, networks, bad);
            alarms.look(cells, second * S, false, nobody, |raised| said.push(raised));
        };
        for _ in 0..20 {
            go(&mut cells, &mut alarms, 100, 0);
        }
        assert_eq!(alarms.on().count(), 0);
        for _ in 0..3 {
            go(&mut cells, &mut alarms, 50, 25);
        }
        assert_eq!(alarms.on().count(), 1);
        for _ in 0..40 {
            go(&mut cells, &mut alarms, 100, 0);
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
    fn an_outage_is_found_with_the_seventh_network_that_it_hits() {
        for (networks, is_found) in [(5, false), (8, true)] {
            let (mut cells, cell) = cells();
            let mut alarms = Alarms::new(Promises::default());
            starts(&mut cells, cell, 1, networks, networks);
            alarms.look(&cells, S, false, nobody, |_| {});
            assert_eq!(alarms.on().count() == 1, is_found, "{networks}");
        }
    }

    #[test]
    fn one_cell_can_be_looked_at_between_looks_and_nothing_is_judged_twice() {
        let (mut cells, cell) = cells();
        let mut alarms = Alarms::new(Promises::default());
        let mut said = Vec::new();
        for network in 0..8 {
            let poll = &mut cells.get_mut(cell).late_poll;
            poll.saw(network, true, S + network, LATE_ROUND_NS);
            alarms.look_at(&cells, cell, S + network, false, |raised| {
                said.push((network, raised.rate, raised.is_on, raised.evidence.n));
            });
        }
        // The first two are left out, and four of the others prove it: at once, with the sixth.
        assert_eq!(said, [(5, Rate::LateDeliveries, true, 4)]);
        alarms.look(&cells, 2 * S, false, nobody, |raised| panic!("{raised:?}"));
        assert_eq!(alarms.on().count(), 1);
    }

    #[test]
    fn of_a_sample_lateness_is_not_judged_between_looks_either() {
        let (mut cells, cell) = cells();
        let mut alarms = Alarms::new(Promises::default());
        for network in 0..20 {
            let poll = &mut cells.get_mut(cell).late_poll;
            poll.saw(network, true, S, LATE_ROUND_NS);
            alarms.look_at(&cells, cell, S, true, |raised| panic!("{raised:?}"));
        }
        alarms.look_at(&cells, cell, 2 * S, false, |raised| panic!("{raised:?}"));
    }

    #[test]
    fn lateness_is_not_judged_where_only_what_went_wrong_is_counted() {
        let (mut cells, cell) = cells();
        let mut alarms = Alarms::new(Promises::default());
        let late = |cells: &mut Cells, second: u64| {
            let poll = &mut cells.get_mut(cell).late_poll;
            for network in 0..20 {
                poll.saw(network, true, second * S, LATE_ROUND_NS);
            }
        };
        for second in 1..100 {
            late(&mut cells, second);
            alarms.look(&cells, second * S, true, nobody, |raised| {
                panic!("{raised:?}")
            });
        }
        late(&mut cells, 200);
        alarms.look(&cells, 200 * S, false, nobody, |_| {});
        assert_eq!(alarms.on().count(), 1);
    }

    /// Viewers in networks of `each`, the first of which stand still.
    fn standing(cell: u32, all: u64, stalled: u64, each: u64) -> impl Iterator<Item = Standing> {
        (0..all).map(move |n| Standing {
            cell,
            network: n / each,
            is_stalled: n < stalled,
        })
    }

    #[test]
    fn viewers_that_stand_still_in_one_or_two_networks_raise_no_alarm() {
        for (all, stalled, each, is_found) in [
            (1, 1, 1, false),
            (10, 1, 1, false),
            (10, 2, 1, false),
            (10, 4, 1, true),
            // A whole site, and its neighbour.
            (200, 40, 20, false),
            (200, 120, 20, true),
            // All behind few networks: who it is cannot be told.
            (100, 80, 50, false),
        ] {
            let (mut cells, cell) = cells();
            let mut alarms = Alarms::new(Promises::default());
            let gauges = &mut cells.get_mut(cell).gauges;
            (gauges.viewers_active, gauges.viewers_stalled) = (all, stalled);
            for second in 1..3600 {
                let viewers = || standing(cell, all, stalled, each);
                alarms.look(&cells, second * S, false, viewers, |_| {});
            }
            let case = (all, stalled, each);
            assert_eq!(alarms.on().count() == 1, is_found, "{case:?}");
        }
    }
}
