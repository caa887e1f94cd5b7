//! The report of a run: scores by teller, set and tier, beside what is aimed at, and what a short
//! run must not fall short of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::aims::{self, Aim};
use super::crowd::{self, Crowd};
use super::said::ViewerSaid;
use super::scenario::{PATH, Player, Set, Tier};
use super::score::{Pair, Score, interval, quantile, score, share};
use super::stage::Played;
use super::truth::SHORTEST_STALL_MS;

/// Below such a recall or precision, finding stalls has collapsed.
const COLLAPSE: f64 = 0.4;
/// Beyond such a mean error of the rebuffer ratio, in points, it says nothing any more.
const RATIO_COLLAPSE: f64 = 8.0;

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
    /// Only those of this player; none: both.
    pub player: Option<Player>,
    /// Only those in which this happens.
    pub scenario: Option<String>,
    /// How right it is.
    pub score: Score,
    /// Shares and quantiles of the score, by name; absent where there is nothing to have one of.
    pub figures: BTreeMap<&'static str, f64>,
    /// Intervals of the shares, for 95 in 100.
    pub intervals: BTreeMap<&'static str, (f64, f64)>,
}

/// A session as the report keeps it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Kept<'a> {
    #[serde(flatten)]
    session: &'a super::scenario::Session,
    client: Ipv4Addr,
    pub(super) truth: &'a super::truth::Truth,
    #[serde(skip_serializing_if = "Option::is_none")]
    company: Option<&'a super::truth::Truth>,
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
    /// The first teller's by player, and by what happens, both sets together.
    pub by_player: Vec<Row>,
    /// See `by_player`.
    pub by_scenario: Vec<Row>,
    /// What the first teller makes of addresses with several viewers; these are in no other number.
    pub crowds: Vec<Crowd>,
    /// Of whom the first teller had not said that they are over.
    pub not_over: Vec<String>,
    /// The first teller beside what is aimed at.
    pub aims: Vec<Aim>,
    pub(super) sessions: Vec<Kept<'a>>,
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
            for (set, tier) in parts() {
                rows.extend(Row::of(teller, set, tier, None, None, played));
            }
        }
        let (mut by_player, mut by_scenario) = (Vec::new(), Vec::new());
        if let Some(teller) = tellers.first() {
            let scenarios: BTreeSet<&str> = played
                .iter()
                .map(|one| one.session.scenario.as_str())
                .collect();
            for (set, tier) in parts() {
                for player in [Player::Hls, Player::Dash] {
                    by_player.extend(Row::of(teller, set, tier, Some(player), None, played));
                }
                for scenario in &scenarios {
                    by_scenario.extend(Row::of(teller, set, tier, None, Some(scenario), played));
                }
            }
        }
        let crowds = tellers
            .first()
            .map(|teller| crowd::judge(played, &teller.said))
            .unwrap_or_default();
        let not_over = tellers.first().map(|teller| {
            let lasting = played
                .iter()
                .filter(|one| about(one, &teller.said).is_some_and(|said| !said.is_over));
            lasting.map(|one| one.session.name.clone()).collect()
        });
        let first = tellers.first().map(|teller| teller.name);
        let of_first = rows.iter().filter(|row| Some(row.teller) == first);
        let aims = aims::judge(of_first.map(|row| (row.set, row.tier, &row.score)));
        let sessions = played
            .iter()
            .map(|one| Kept {
                session: &one.session,
                client: one.client,
                truth: &one.truth,
                company: one.company.as_ref(),
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
            by_player,
            by_scenario,
            crowds,
            not_over: not_over.unwrap_or_default(),
            sessions,
            failures: failures(played),
        }
    }

    /// Holds weir to what even a short run can tell: that finding stalls has not collapsed, that they
    /// are told soon, that not most are invented, and that ratios and blame are no guesswork. A handful of stalls says no more; the aims are
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
            all.ratio_errors.extend(&row.score.ratio_errors);
            all.faults_blamed += row.score.faults_blamed;
            all.faults_right += row.score.faults_right;
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
            (
                // Of nothing there is no mean; a run without ratios fails by its stalls.
                all.ratio_errors.is_empty() || all.ratio_error_points() <= RATIO_COLLAPSE,
                format!(
                    "{teller} is {:.1} points off with the rebuffer ratio, at the mean",
                    all.ratio_error_points()
                ),
            ),
            (
                2 * all.faults_right >= all.faults_blamed,
                format!(
                    "{teller} blamed {} of {} faults rightly",
                    all.faults_right, all.faults_blamed
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
}

/// All there are of sets and tiers.
fn parts() -> impl Iterator<Item = (Set, Tier)> {
    [Set::Training, Set::HeldOut].into_iter().flat_map(|set| {
        [Tier::T0, Tier::T1, Tier::T2]
            .into_iter()
            .map(move |tier| (set, tier))
    })
}

impl Row {
    /// Of the sessions that are such; `None`: there are none.
    fn of(
        teller: &Teller,
        set: Set,
        tier: Tier,
        player: Option<Player>,
        scenario: Option<&str>,
        played: &[Played],
    ) -> Option<Self> {
        let of_part = played
            .iter()
            .map(|one| (one, &one.session))
            .filter(|(_, session)| {
                // Several viewers are judged apart.
                session.company.is_none()
                    && (session.set, session.tier) == (set, tier)
                    && player.is_none_or(|player| player == session.player)
                    && scenario.is_none_or(|scenario| scenario == session.scenario)
            });
        let score = score(of_part.map(|(one, session)| Pair {
            expected: &session.expected,
            truth: &one.truth,
            said: about(one, &teller.said),
        }));
        let scenario = scenario.map(str::to_owned);
        (score.sessions > 0).then(|| Self {
            player,
            scenario,
            ..Self::new(teller.name, set, tier, score)
        })
    }

    fn new(teller: &'static str, set: Set, tier: Tier, score: Score) -> Self {
        let figures = [
            ("recall", score.recall()),
            ("precision", score.precision()),
            ("f1", score.f1()),
            ("precision_kept", score.precision_kept()),
            ("precision_as_told", score.precision_as_told()),
            ("f1_as_told", score.f1_as_told()),
            (
                "ratios_bounded",
                share(score.ratios_bounded, score.ratio_errors.len()),
            ),
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
                "precision_kept",
                interval(score.stalls_found, told + score.stalls_retracted),
            ),
            (
                "ratios_bounded",
                interval(score.ratios_bounded, score.ratio_errors.len()),
            ),
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
            player: None,
            scenario: None,
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
