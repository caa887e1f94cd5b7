//! Whether somebody is worse off since a step: those that take more, and those that were moved.
//!
//! Held to the hosts that have nothing to do with it, where there are any with enough trials; else to
//! themselves before. The bounds hold however often one looks.
//!
//! Pure.

use super::ledger::Ledger;
use crate::steer::Scope;
use crate::steer::overrides::order::{Direction, Expect};
use crate::steer::policy::rules::Metric;
use crate::steer::validation::{ALPHA, Count, Verdict, Window, bounds};

const SECOND_NS: u64 = 1_000_000_000;
/// How far back it is looked for what was before.
const BEFORE_NS: u64 = 120 * SECOND_NS;
/// After so long other things have happened, and it is looked no longer.
const WATCHED_NS: u64 = 300 * SECOND_NS;
/// Fewer trials say nothing.
const MIN_N: u64 = 100;

/// Hosts, by what the step is to them.
#[derive(Debug, Default)]
pub struct Groups<'a> {
    pub moved: Vec<&'a str>,
    pub targets: Vec<&'a str>,
    pub control: Vec<&'a str>,
}

/// What was before a step.
#[derive(Debug)]
pub struct Harm {
    by: String,
    begun_ns: u64,
    moved: Count,
    targets: Count,
    control: Count,
}

impl Harm {
    pub fn new(by: &str, groups: &Groups, ledger: &Ledger, now_ns: u64) -> Self {
        let before = |hosts: &[&str]| {
            let from_ns = now_ns.saturating_sub(BEFORE_NS);
            ledger.counted_of(hosts.iter().copied(), from_ns, now_ns)
        };
        Self {
            by: by.to_owned(),
            begun_ns: now_ns,
            moved: before(&groups.moved),
            targets: before(&groups.targets),
            control: before(&groups.control),
        }
    }

    /// Who is worse off beyond doubt, with the numbers that say so.
    pub fn found(&self, groups: &Groups, ledger: &Ledger, now_ns: u64) -> Option<String> {
        if now_ns.saturating_sub(self.begun_ns) > WATCHED_NS {
            return None;
        }
        let after =
            |hosts: &[&str]| ledger.counted_of(hosts.iter().copied(), self.begun_ns, now_ns);
        let control = (self.control, after(&groups.control));
        let told = [
            ("the hosts that take it", self.targets, &groups.targets),
            ("the hosts that give it", self.moved, &groups.moved),
        ];
        told.into_iter().find_map(|(who, before, hosts)| {
            let why = self.worse((before, after(hosts)), control, now_ns)?;
            Some(format!("late deliveries of {who}: {why}"))
        })
    }

    fn worse(&self, own: (Count, Count), control: (Count, Count), now_ns: u64) -> Option<String> {
        let is_enough = |(before, after): (Count, Count)| before.n >= MIN_N && after.n >= MIN_N;
        if !is_enough(own) {
            return None;
        }
        let (before, after) = own;
        if is_enough(control) {
            let expect = Expect {
                metric: Metric::LateDeliveryShare,
                direction: Direction::Falls,
                window_s: 300,
                min_effect_permille: 0,
                min_n: MIN_N,
            };
            let begun_ns = self.begun_ns;
            let mut window =
                Window::new(&self.by, Scope::Host, expect, before, control.0, begun_ns);
            window.saw(after, control.1, now_ns);
            let report = window.report();
            return (report.verdict == Verdict::Hurt).then(|| report.why());
        }
        let (_, most) = bounds(before.n, before.bad, ALPHA / 2.0);
        let (least, _) = bounds(after.n, after.bad, ALPHA / 2.0);
        (least > most).then(|| {
            format!(
                "at most {:.2} % of {} before, at least {:.2} % of {} since; there are no other hosts \
                 to compare with",
                most * 100.0,
                before.n,
                least * 100.0,
                after.n
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::View;
    use super::super::view::tests::view;
    use super::*;

    /// Hosts of which each has a hundred deliveries a second; `late` says how many of them are.
    fn play(
        ledger: &mut Ledger,
        from_s: u64,
        until_s: u64,
        late: &[(&str, u64)],
        views: &mut [View],
    ) {
        for s in from_s..until_s {
            for view in views.iter_mut() {
                let late = late.iter().find(|(host, _)| *host == view.host);
                view.deliveries.n += 100;
                view.deliveries.bad += late.map_or(1, |(_, late)| *late);
            }
            ledger.note(views, s * SECOND_NS);
        }
    }

    fn groups<'a>(control: &[&'a str]) -> Groups<'a> {
        Groups {
            moved: vec!["m"],
            targets: vec!["t"],
            control: control.to_vec(),
        }
    }

    fn found(control: &[&str], late: &[(&str, u64)]) -> Option<String> {
        let mut ledger = Ledger::default();
        let mut views = ["m", "t", "c"].map(view);
        play(&mut ledger, 0, 120, &[], &mut views);
        let groups = groups(control);
        let harm = Harm::new("r", &groups, &ledger, 119 * SECOND_NS);
        play(&mut ledger, 120, 180, late, &mut views);
        harm.found(&groups, &ledger, 179 * SECOND_NS)
    }

    #[test]
    fn who_is_worse_off_is_found_and_named() {
        assert_eq!(found(&["c"], &[]), None);
        assert_eq!(found(&[], &[]), None);
        let why = found(&["c"], &[("t", 6)]).unwrap();
        assert!(why.contains("the hosts that take it: hurt"), "{why}");
        let why = found(&[], &[("m", 6)]).unwrap();
        assert!(why.contains("that give it: at most"), "{why}");
    }

    #[test]
    fn what_befell_all_is_nobodys_harm() {
        assert_eq!(found(&["c"], &[("t", 6), ("m", 6), ("c", 6)]), None);
    }

    #[test]
    fn after_five_minutes_it_is_looked_no_longer() {
        let mut ledger = Ledger::default();
        let mut views = ["m", "t", "c"].map(view);
        play(&mut ledger, 0, 120, &[], &mut views);
        let groups = groups(&["c"]);
        let harm = Harm::new("r", &groups, &ledger, 119 * SECOND_NS);
        play(&mut ledger, 120, 500, &[("t", 6)], &mut views);
        assert!(harm.found(&groups, &ledger, 400 * SECOND_NS).is_some());
        assert_eq!(harm.found(&groups, &ledger, 420 * SECOND_NS), None);
    }
}
