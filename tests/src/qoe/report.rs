//! The report of a run: scores by teller, set and tier, beside what is aimed at, and what a short
//! run must not fall short of.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::aims::{self, Aim};
use super::said::ViewerSaid;
use super::scenario::{PATH, Set, Tier};
use super::score::{Pair, Score, interval, quantile, score, share};
use super::stage::Played;
use super::truth::SHORTEST_STALL_MS;

/// Below such a recall or precision, finding stalls has collapsed.
const COLLAPSE: f64 = 0.4;

/// Who says something of the viewers.
#[derive(Clone, Debug)]
pub struct Teller {
    /// How the report names it.
    pub name: &'static str,
    /// What it says.
    pub said: Vec<ViewerSaid>,
}

/// The scores of a teller on a part of the sessions.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The teller.
    pub teller: &'static str,
    /// Which sessions.
    pub set: Set,
    /// Which of them.
    pub tier: Tier,
    /// How right it is.
    pub score: Score,
    /// Shares and quantiles of the score, by name; absent where there is nothing to have one of.
    pub figures: BTreeMap<&'static str, f64>,
    /// Intervals of the shares, for 95 in 100.
    pub intervals: BTreeMap<&'static str, (f64, f64)>,
}

/// A session as the report keeps it.
#[derive(Clone, Debug, Serialize)]
struct Kept<'a> {
    #[serde(flatten)]
    session: &'a super::scenario::Session,
    client: Ipv4Addr,
    truth: &'a super::truth::Truth,
    said: BTreeMap<&'static str, &'a ViewerSaid>,
}

/// A run.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    /// Which weir; none: it was not there, or knows no viewers.
    pub weir: Option<String>,
    /// The kernel's release.
    pub kernel: String,
    /// The browser's version.
    pub browser: String,
    /// The scores.
    pub rows: Vec<Row>,
    /// The first teller beside what is aimed at.
    pub aims: Vec<Aim>,
    sessions: Vec<Kept<'a>>,
    /// What does not hold, in words.
    pub failures: Vec<String>,
}

/// What a teller says of a session: by the client's address, which is the session's own. Of several
/// viewers there, the one that is said to have watched most.
pub fn about<'a>(played: &Played, said: &'a [ViewerSaid]) -> Option<&'a ViewerSaid> {
    said.iter()
        .filter(|said| said.client == Some(played.client))
        .max_by_key(|said| (said.started_unix_ns > 0, said.watched_us))
}

impl<'a> Report<'a> {
    /// Scores what the tellers say of the sessions that were played.
    pub fn new(
        weir: Option<String>,
        kernel: String,
        browser: String,
        played: &'a [Played],
        tellers: &'a [Teller],
    ) -> Self {
        let mut rows = Vec::new();
        for teller in tellers {
            for set in [Set::Training, Set::HeldOut] {
                for tier in [Tier::T0, Tier::T1, Tier::T2] {
                    let of_part = played
                        .iter()
                        .filter(|one| one.session.set == set && one.session.tier == tier);
                    let pairs = of_part.map(|one| Pair {
                        expected: &one.session.expected,
                        truth: &one.truth,
                        said: about(one, &teller.said),
                    });
                    let score = score(pairs);
                    if score.sessions > 0 {
                        rows.push(Row::new(teller.name, set, tier, score));
                    }
                }
            }
        }
        let first = tellers.first().map(|teller| teller.name);
        let of_first = rows.iter().filter(|row| Some(row.teller) == first);
        let aims = aims::judge(of_first.map(|row| (row.set, row.tier, &row.score)));
        let sessions = played
            .iter()
            .map(|one| Kept {
                session: &one.session,
                client: one.client,
                truth: &one.truth,
                said: tellers
                    .iter()
                    .filter_map(|teller| Some((teller.name, about(one, &teller.said)?)))
                    .collect(),
            })
            .collect();
        Self {
            weir,
            kernel,
            browser,
            aims,
            rows,
            sessions,
            failures: failures(played),
        }
    }

    /// Holds weir to what even a short run can tell: that finding stalls has not collapsed, that they
    /// are told soon, and that not most are invented. A handful of stalls says no more; the aims are
    /// for a whole run.
    pub fn hold(&mut self, teller: &str) {
        let mut all = Score::default();
        let rows = self
            .rows
            .iter()
            .filter(|row| row.teller == teller && row.tier != Tier::T0);
        for row in rows {
            all.stalls += row.score.stalls;
            all.stalls_found += row.score.stalls_found;
            all.stalls_false += row.score.stalls_false;
            all.failures += row.score.failures;
            all.failures_found += row.score.failures_found;
            all.failures_false += row.score.failures_false;
            all.told_after_ms.extend(&row.score.told_after_ms);
        }
        let delay = quantile(&all.told_after_ms, 0.5);
        for (holds, what) in [
            (
                all.recall() >= COLLAPSE,
                format!(
                    "{teller} found {} of {} stalls",
                    all.stalls_found, all.stalls
                ),
            ),
            (
                all.precision() >= COLLAPSE,
                format!(
                    "{teller} told {} stalls that were none, and {} that were",
                    all.stalls_false, all.stalls_found
                ),
            ),
            (
                delay <= 2_000.0,
                format!("{teller} told stalls {delay:.0} ms after their onset, at the median"),
            ),
            (
                2 * all.failures_found >= all.failures,
                format!(
                    "{teller} found {} of {} failed starts",
                    all.failures_found, all.failures
                ),
            ),
            (
                all.failures_false == 0,
                format!(
                    "{teller} called {} starts failed that were not",
                    all.failures_false
                ),
            ),
        ] {
            if !holds {
                self.failures.push(what);
            }
        }
    }

    /// Holds the run to having had so many true stalls: without them nothing was judged.
    pub fn hold_run(&mut self, stalls: usize) {
        let had: usize = self
            .sessions
            .iter()
            .flat_map(|one| &one.truth.stalls)
            .filter(|stall| stall.lasts_ms() >= SHORTEST_STALL_MS)
            .count();
        if had < stalls {
            self.failures
                .push(format!("only {had} true stalls; {stalls} make a run"));
        }
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("cannot write the report")?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The tables for a terminal.
    pub fn summary(&self) -> String {
        let mut text = String::from(
            "\nstalls: true onsets found within 1 s; delay from the true onset to when it was told; \
             rebuffer ratio: mean absolute error in points, share within one point\n",
        );
        text += "teller       set       tier  n  said | stalls found false recall  prec    F1 | delay p50   p99 ms | ratio err <=1pt bounded\n";
        for row in &self.rows {
            let s = &row.score;
            let _ = writeln!(
                text,
                "{} {:>2} {:>5} | {:>6} {:>5} {:>5} {} {} {} | {} {} | {} {} {}",
                row.name(),
                s.sessions,
                s.spoken_of,
                s.stalls,
                s.stalls_found,
                s.stalls_false,
                figure(s.recall(), 6, 2),
                figure(s.precision(), 5, 2),
                figure(s.f1(), 5, 2),
                figure(quantile(&s.told_after_ms, 0.5), 9, 0),
                figure(quantile(&s.told_after_ms, 0.99), 8, 0),
                figure(s.ratio_error_points(), 9, 2),
                figure(s.ratios_close(), 5, 2),
                figure(share(s.ratios_bounded, s.ratio_errors.len()), 7, 2),
            );
        }
        text += "\nstarts: median error of the start-up time; failed ones found of all, with the right class, false, not seeable | warnings | blame by fault\n";
        text += "teller       set       tier  n | start err | failed found class false unseen | warned right lead p50 ms stalls | faults right\n";
        for row in &self.rows {
            let s = &row.score;
            let _ = writeln!(
                text,
                "{} {:>2} | {} | {:>6} {:>5} {:>5} {:>5} {:>6} | {:>6} {:>5} {} {:>6} | {:>6} {:>5}",
                row.name(),
                s.sessions,
                figure(s.startup_error() * 100.0, 7, 1) + " %",
                s.failures,
                s.failures_found,
                s.failures_classed,
                s.failures_false,
                s.failures_unseeable,
                s.warnings,
                s.warnings_right,
                figure(quantile(&s.lead_ms, 0.5), 11, 0),
                s.stalls_warned,
                s.faults_blamed,
                s.faults_right,
            );
        }
        if let Some(row) = self.rows.first().filter(|_| !self.aims.is_empty()) {
            let _ = writeln!(text, "\n{} on the held-out set:", row.teller);
            for aim in &self.aims {
                let _ = writeln!(text, "{}", aim.line());
            }
        }
        let (frames, dropped) = self.sessions.iter().fold((0, 0), |(frames, dropped), one| {
            (
                frames + one.truth.frames,
                dropped + one.truth.dropped_frames,
            )
        });
        let _ = writeln!(
            text,
            "\nof {frames} frames {dropped} were dropped: many, and the machine was too busy for its players"
        );
        if self.weir.is_none() {
            text += "\nthis weir has no `viewers`: the baselines alone were judged\n";
        }
        for failure in &self.failures {
            let _ = writeln!(text, "FAILED: {failure}");
        }
        text
    }
}

fn figure(value: f64, width: usize, digits: usize) -> String {
    if value.is_finite() {
        format!("{value:>width$.digits$}")
    } else {
        format!("{:>width$}", "-")
    }
}

impl Row {
    fn new(teller: &'static str, set: Set, tier: Tier, score: Score) -> Self {
        let figures = [
            ("recall", score.recall()),
            ("precision", score.precision()),
            ("f1", score.f1()),
            ("delay_p50_ms", quantile(&score.told_after_ms, 0.5)),
            ("delay_p99_ms", quantile(&score.told_after_ms, 0.99)),
            ("ratio_error_points", score.ratio_error_points()),
            ("ratios_within_point", score.ratios_close()),
            ("startup_error", score.startup_error()),
            ("lead_p50_ms", quantile(&score.lead_ms, 0.5)),
            (
                "warnings_right",
                share(score.warnings_right, score.warnings),
            ),
            (
                "blame_right",
                share(score.faults_right, score.faults_blamed),
            ),
        ];
        let told = score.stalls_found + score.stalls_false;
        let intervals = [
            ("recall", interval(score.stalls_found, score.stalls)),
            ("precision", interval(score.stalls_found, told)),
            (
                "warnings_right",
                interval(score.warnings_right, score.warnings),
            ),
            (
                "failures_found",
                interval(score.failures_found, score.failures),
            ),
            (
                "blame_right",
                interval(score.faults_right, score.faults_blamed),
            ),
        ];
        Self {
            teller,
            set,
            tier,
            figures: figures
                .into_iter()
                .filter(|(_, value)| value.is_finite())
                .collect(),
            intervals: intervals
                .into_iter()
                .filter_map(|(name, interval)| Some((name, interval?)))
                .collect(),
            score,
        }
    }

    fn name(&self) -> String {
        let set = if self.set == Set::Training {
            "training"
        } else {
            "held out"
        };
        format!("{:<12} {set:<9} {:?}  ", self.teller, self.tier)
    }
}

/// What says that the run itself is not to be trusted.
fn failures(played: &[Played]) -> Vec<String> {
    let mut failures: Vec<_> = played
        .iter()
        .filter(|one| one.truth.is_void())
        .map(|one| {
            let words: Vec<_> = one
                .truth
                .errors
                .iter()
                .map(|error| error.words.as_str())
                .collect();
            format!(
                "{}: its player never began: {}",
                one.session.name,
                words.join("; ")
            )
        })
        .collect();
    for one in played {
        let failed = one.truth.started_ms.is_none() && !one.truth.is_void();
        let expected = &one.session.expected;
        // On a bad enough link nothing starts.
        let may = expected.failure.is_some() || expected.blame == PATH;
        if failed && !may {
            failures.push(format!(
                "{}: it was not meant to fail to start, and did",
                one.session.name
            ));
        }
    }
    failures
}

/// A line for a session that is over.
pub fn line(played: &Played) -> String {
    let truth = &played.truth;
    let stalled: u64 = truth.stalls.iter().map(|stall| stall.lasts_ms()).sum();
    let startup = truth
        .startup_ms()
        .map_or("-".to_owned(), |ms| ms.to_string());
    let words = truth
        .errors
        .iter()
        .find(|error| error.fatal)
        .map(|error| error.words.as_str());
    format!(
        "{:<32} {startup:>7} {:>7} {stalled:>9} {:>8.1} {:>8} {:>6} {}",
        played.session.name,
        truth.stalls.len(),
        truth.watched_ms() as f64 / 1000.0,
        truth.levels_bps.len().saturating_sub(1),
        truth.dropped_frames,
        words.unwrap_or_default()
    )
}

/// What [`line`] has.
pub fn heading() -> String {
    format!(
        "{:<32} {:>7} {:>7} {:>9} {:>8} {:>8} {:>6}",
        "session", "start", "stalls", "stalled", "watched", "switches", "frames"
    ) + "\n"
        + &format!(
            "{:<32} {:>7} {:>7} {:>9} {:>8} {:>8} {:>6}",
            "", "ms", "", "ms", "s", "", "lost"
        )
}
