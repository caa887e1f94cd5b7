//! Whether what was done helped: a window for each action that says what it expects.

use crate::steer::overrides::order::Expect;
use crate::steer::policy::rules::{Metric, SECOND_NS};
use crate::steer::validation::{Count, Report, Window};
use crate::steer::{Position, Scope};

/// Actions that are watched at the same time; those beyond have no verdict, and it is said so.
const MOST: usize = 64;

/// What was counted, by time.
pub(super) trait Past {
    /// Trials of a metric in the cells of these names, all together: until then, or until now.
    fn trials(&self, metric: Metric, of: &dyn Fn(&str) -> bool, until_ns: Option<u64>) -> Count;

    fn names(&self) -> Vec<&str>;
}

#[derive(Debug)]
struct Trial {
    by: String,
    scope: Scope,
    metric: Metric,
    window: Window,
    /// Of the cells that were not moved, those of the same classes: chosen once.
    control: Vec<String>,
    moved_seen: Count,
    control_seen: Count,
}

/// All that is watched.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    trials: Vec<Trial>,
}

impl Verdicts {
    /// Begins to watch; one action of the same author in the same scope is watched at a time, so a
    /// policy's further steps are part of the first. Says whether there was room.
    pub(super) fn begin(
        &mut self,
        by: &str,
        scope: &Scope,
        expect: &Expect,
        standing: &Position,
        past: &impl Past,
        now_ns: u64,
    ) -> bool {
        let is_same = |own: &Trial| own.by == by && own.scope == *scope;
        if self.trials.iter().any(is_same) {
            return true;
        }
        if self.trials.len() >= MOST {
            return false;
        }
        let metric = expect.metric;
        let control = control(scope, standing, past);
        let is_moved = |name: &str| is_in(scope, name);
        let is_control = |name: &str| control.iter().any(|own| own == name);
        let began_ns = now_ns.saturating_sub(u64::from(expect.window_s) * SECOND_NS);
        let moved_seen = past.trials(metric, &is_moved, None);
        let control_seen = past.trials(metric, &is_control, None);
        let before = |seen: Count, of: &dyn Fn(&str) -> bool| {
            since(seen, past.trials(metric, of, Some(began_ns)))
        };
        self.trials.push(Trial {
            by: by.to_owned(),
            scope: scope.clone(),
            metric,
            window: Window::new(
                by,
                scope.clone(),
                expect.clone(),
                before(moved_seen, &is_moved),
                before(control_seen, &is_control),
                now_ns,
            ),
            control,
            moved_seen,
            control_seen,
        });
        true
    }

    /// Looks at what was counted since; gives the verdicts that are there, whose windows are over.
    pub(super) fn look(&mut self, past: &impl Past, now_ns: u64) -> Vec<Report> {
        let mut reports = Vec::new();
        self.trials.retain_mut(|trial| {
            let scope = &trial.scope;
            let control = &trial.control;
            let moved = past.trials(trial.metric, &|name| is_in(scope, name), None);
            let others = past.trials(
                trial.metric,
                &|name| control.iter().any(|own| own == name),
                None,
            );
            let moved_new = since(moved, trial.moved_seen);
            let control_new = since(others, trial.control_seen);
            (trial.moved_seen, trial.control_seen) = (moved, others);
            let report = trial.window.saw(moved_new, control_new, now_ns);
            let is_over = report.is_some();
            reports.extend(report);
            !is_over
        });
        reports
    }
}

fn is_in(scope: &Scope, cell: &str) -> bool {
    scope.covers(&Scope::Cell(cell.to_owned()))
}

/// The cells to compare with: not in the scope, not moved by anybody else, and of a class that is in
/// the scope too, for likes are compared with likes.
fn control(scope: &Scope, standing: &Position, past: &impl Past) -> Vec<String> {
    let class = |name: &str| name.split('/').nth(1).unwrap_or_default().to_owned();
    let names = past.names();
    let moved = names.iter().filter(|name| is_in(scope, name));
    let classes: Vec<_> = moved.map(|name| class(name)).collect();
    let is_moved_otherwise = |name: &str| {
        let turned = standing.settings.iter().filter(|own| !own.is_neutral());
        turned.into_iter().any(|own| is_in(&own.scope, name))
    };
    names
        .into_iter()
        .filter(|name| {
            !is_in(scope, name) && !is_moved_otherwise(name) && classes.contains(&class(name))
        })
        .map(str::to_owned)
        .collect()
}

fn since(now: Count, then: Count) -> Count {
    Count {
        n: now.n.saturating_sub(then.n),
        bad: now.bad.saturating_sub(then.bad),
    }
}

#[cfg(test)]
mod tests {
    use super::super::numbers::Numbers;
    use super::super::numbers::tests::said;
    use super::*;
    use crate::steer::overrides::order::Direction;
    use crate::steer::validation::Verdict;

    fn expect() -> Expect {
        Expect {
            metric: Metric::LateDeliveryShare,
            direction: Direction::Falls,
            window_s: 60,
            min_effect_permille: 0,
            min_n: 100,
        }
    }

    /// 100 s before and up to 100 s after an action on `live`, with `vod` to compare with; the late
    /// ones of a thousand deliveries each second before and after.
    fn watched(live: (u64, u64), vod: (u64, u64)) -> (Verdict, u64) {
        let mut numbers = Numbers::default();
        let mut verdicts = Verdicts::default();
        let scope = Scope::Service("live".to_owned());
        let counted = |s: u64, (before, after): (u64, u64)| {
            before * s.min(100) + after * s.saturating_sub(100)
        };
        for s in 0..200 {
            let now_ns = s * SECOND_NS;
            let cells = [
                ("live", 1000 * s, counted(s, live)),
                ("vod", 1000 * s, counted(s, vod)),
            ];
            numbers.take(said(&cells), now_ns);
            if s == 100 {
                let standing = Position::default();
                assert!(verdicts.begin("p", &scope, &expect(), &standing, &numbers, now_ns));
                // A further step is part of the same.
                assert!(verdicts.begin("p", &scope, &expect(), &standing, &numbers, now_ns));
                assert_eq!(verdicts.trials.len(), 1);
            }
            if let [report] = &verdicts.look(&numbers, now_ns)[..] {
                return (report.verdict, s - 100);
            }
        }
        panic!("no verdict");
    }

    #[test]
    fn what_falls_here_and_not_elsewhere_helped_and_what_falls_everywhere_shows_nothing() {
        assert_eq!(watched((100, 20), (30, 30)), (Verdict::Helped, 60));
        assert_eq!(watched((100, 20), (100, 20)), (Verdict::Inconclusive, 60));
    }

    #[test]
    fn what_hurts_is_found_before_the_window_ends() {
        let (verdict, after_s) = watched((20, 100), (20, 20));
        assert_eq!(verdict, Verdict::Hurt);
        assert!(after_s < 30, "{after_s}");
    }

    #[test]
    fn without_anything_to_compare_with_nothing_is_shown() {
        let mut numbers = Numbers::default();
        let mut verdicts = Verdicts::default();
        for s in 0..200 {
            numbers.take(said(&[("live", 1000 * s, 10 * s)]), s * SECOND_NS);
            if s == 100 {
                let standing = Position::default();
                verdicts.begin(
                    "o",
                    &Scope::Host,
                    &expect(),
                    &standing,
                    &numbers,
                    s * SECOND_NS,
                );
            }
            for report in verdicts.look(&numbers, s * SECOND_NS) {
                assert_eq!(report.verdict, Verdict::Inconclusive);
                assert_eq!(report.control_after.n, 0);
            }
        }
        assert!(verdicts.trials.is_empty(), "its window ended");
    }
}
