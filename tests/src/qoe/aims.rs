//! What is aimed at on the held-out set, and how far a teller is from it. Not a bound that a run
//! fails by: what falls short is to be explained.

use serde::Serialize;

use super::scenario::{Set, Tier};
use super::score::{Score, quantile, share};

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Better {
    More,
    Less,
}

/// An aim, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Aim {
    what: &'static str,
    tier: Tier,
    bound: f64,
    better: Better,
    found: f64,
    /// How many the figure is of.
    n: usize,
}

impl Aim {
    fn holds(&self) -> bool {
        match self.better {
            Better::More => self.found >= self.bound,
            Better::Less => self.found <= self.bound,
        }
    }

    /// A line for a terminal.
    pub fn line(&self) -> String {
        let verdict = if self.holds() { "ok" } else { "SHORT" };
        let sign = if self.better == Better::More {
            ">="
        } else {
            "<="
        };
        format!(
            "{:<44} {:?} {:>9.2}  aim {sign} {:<8} n {:<5} {verdict}",
            self.what, self.tier, self.found, self.bound, self.n
        )
    }
}

/// The aims at what can be judged of these scores: those of one teller, by set and tier.
pub fn judge<'a>(scores: impl Iterator<Item = (Set, Tier, &'a Score)>) -> Vec<Aim> {
    scores
        .filter(|(set, ..)| *set == Set::HeldOut)
        .flat_map(|(_, tier, score)| of_tier(tier, score))
        .filter(|aim| aim.n > 0)
        .collect()
}

fn of_tier(tier: Tier, score: &Score) -> Vec<Aim> {
    let aim = |what, bound, better, found, n| Aim {
        what,
        tier,
        bound,
        better,
        found,
        n,
    };
    let found = score.stalls_found;
    let started = score.startup_errors.len();
    let ratios = score.ratio_errors.len();
    let mut aims = vec![
        aim(
            "delay of stalls, median ms",
            500.0,
            Better::Less,
            quantile(&score.told_after_ms, 0.5),
            found,
        ),
        aim(
            "delay of stalls, p99 ms",
            2_000.0,
            Better::Less,
            quantile(&score.told_after_ms, 0.99),
            found,
        ),
        aim(
            "start-up time, median error %",
            10.0,
            Better::Less,
            100.0 * score.startup_error(),
            started,
        ),
        aim(
            "failed starts found",
            1.0,
            Better::More,
            share(score.failures_found, score.failures),
            score.failures,
        ),
        aim(
            "failed starts of the right class",
            1.0,
            Better::More,
            share(score.failures_classed, score.failures),
            score.failures,
        ),
        aim(
            "starts falsely called failed",
            0.0,
            Better::Less,
            score.failures_false as f64,
            score.sessions,
        ),
        aim(
            "faults blamed rightly",
            0.95,
            Better::More,
            share(score.faults_right, score.faults_blamed),
            score.faults_blamed,
        ),
    ];
    let f1 = match tier {
        Tier::T0 => return aims,
        Tier::T1 => 0.90,
        Tier::T2 => 0.97,
    };
    aims.insert(
        0,
        aim(
            "stalls, F1 within 1 s",
            f1,
            Better::More,
            score.f1(),
            score.stalls,
        ),
    );
    aims.push(aim(
        "rebuffer ratio, mean error in points",
        0.5,
        Better::Less,
        score.ratio_error_points(),
        ratios,
    ));
    aims.push(aim(
        "sessions within one point",
        0.95,
        Better::More,
        score.ratios_close(),
        ratios,
    ));
    aims
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_held_out_set_is_judged_and_only_by_what_there_is() {
        let score = Score {
            sessions: 2,
            stalls: 10,
            stalls_found: 8,
            ..Score::default()
        };
        assert!(judge([(Set::Training, Tier::T1, &score)].into_iter()).is_empty());
        let aims = judge([(Set::HeldOut, Tier::T1, &score)].into_iter());
        let f1 = aims
            .iter()
            .find(|aim| aim.what.contains("F1"))
            .expect("stalls");
        assert!(!f1.holds() && f1.line().contains("SHORT"), "{}", f1.line());
        assert!(aims.iter().all(|aim| !aim.what.contains("blamed")));
        let none_false = aims
            .iter()
            .find(|aim| aim.what.contains("falsely"))
            .expect("sessions");
        assert!(none_false.holds());
    }

    #[test]
    fn an_aim_that_nothing_was_measured_for_is_short() {
        let aim = Aim {
            what: "a figure",
            tier: Tier::T2,
            bound: 1.0,
            better: Better::Less,
            found: f64::NAN,
            n: 1,
        };
        assert!(!aim.holds());
    }
}
