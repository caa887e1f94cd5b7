//! How right an account of viewers is. Pure: what really happened beside what was said, in counts
//! and distances that a report can print.

use serde::Serialize;

use super::said::{Stall, ViewerSaid, Warning};
use super::scenario::{Blame, Expected, Failure};
use super::truth::{APART_MS, SHORTEST_STALL_MS, Span, Truth};

/// How far a said onset may be from the true one.
pub const TOLERANCE_MS: u64 = 1_000;
/// A warning is right if playback stops so soon after.
pub const WARNING_HORIZON_MS: u64 = 10_000;
/// A rebuffer ratio is close within one point.
const CLOSE_RATIO: f64 = 0.01;

/// A session and what was said of it.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// What was planned to be said.
    pub expected: &'a Expected,
    /// What happened.
    pub truth: &'a Truth,
    /// What was said, if anything.
    pub said: Option<&'a ViewerSaid>,
}

/// The sums over some sessions.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "each is named in the report")]
pub struct Score {
    /// Sessions whose page and player worked.
    pub sessions: usize,
    /// Of them, those of which anything was said.
    pub spoken_of: usize,
    /// True stalls of [`SHORTEST_STALL_MS`] and more.
    pub stalls: usize,
    /// Those with a said onset within the tolerance.
    pub stalls_found: usize,
    /// Those that were found, or overlap with a said stall within the tolerance.
    pub stalls_touched: usize,
    /// Said stalls that are none.
    pub stalls_false: usize,
    /// Said, and taken back later.
    pub stalls_retracted: usize,
    /// True stalls with an onset within the tolerance as it was first said, whether or not it was taken
    /// back.
    pub stalls_found_as_told: usize,
    /// First said so, and none.
    pub stalls_false_as_told: usize,
    /// When a stall that was found was told, after its true onset.
    pub told_after_ms: Vec<f64>,
    /// Said minus true rebuffer ratio.
    pub ratio_errors: Vec<f64>,
    /// Sessions whose true ratio is between the bounds that were said, with the stalls that are too short
    /// to be judged or without them.
    pub ratios_bounded: usize,
    /// Said over true start-up time, less one.
    pub startup_errors: Vec<f64>,
    /// Starts that failed and left a trace at the server.
    pub failures: usize,
    pub failures_found: usize,
    /// Of those found, with the planned class.
    pub failures_classed: usize,
    /// Said of sessions that played.
    pub failures_false: usize,
    /// Starts that failed and of which no packet was accepted.
    pub failures_unseeable: usize,
    pub warnings: usize,
    pub warnings_right: usize,
    /// Stalls that a warning came before.
    pub stalls_warned: usize,
    /// From the warning to the stall.
    pub lead_ms: Vec<f64>,
    /// Sessions with a made fault, stalls of which were found and blamed.
    pub faults_blamed: usize,
    /// Of them, blamed rightly for most of the time.
    pub faults_right: usize,
    /// Blamed so, by the words.
    pub blames: Vec<(Blame, usize)>,
}

/// Scores some sessions together.
pub fn score<'a>(pairs: impl IntoIterator<Item = Pair<'a>>) -> Score {
    let mut score = Score::default();
    for pair in pairs.into_iter().filter(|pair| !pair.truth.is_void()) {
        score.add(pair);
    }
    score
}

impl Score {
    fn add(
        &mut self,
        Pair {
            expected,
            truth,
            said,
        }: Pair<'_>,
    ) {
        self.sessions += 1;
        self.spoken_of += usize::from(said.is_some());
        self.add_start(expected, truth, said);
        let silent = ViewerSaid::default();
        let said = said.unwrap_or(&silent);
        // Nobody watches a broken element, though its player may go on fetching.
        let seen = truth.is_broken.then(|| said.until(truth.left_ms));
        let said = seen.as_ref().unwrap_or(said);
        self.stalls_retracted += said.retracted.len();
        let as_told = match_stalls(&truth.stalls, &said.as_told());
        self.stalls_found_as_told += as_told.found.len();
        self.stalls_false_as_told += as_told.false_ones;
        let matched = match_stalls(&truth.stalls, &said.stalls);
        self.stalls += matched.real;
        self.stalls_found += matched.found.len();
        self.stalls_touched += matched.touched;
        self.stalls_false += matched.false_ones;
        for (real, told) in &matched.found {
            self.told_after_ms
                .push(ms(told.told_unix_ns) - real.begin_ms as f64);
        }
        self.add_warnings(&truth.stalls, &said.warnings);
        self.add_blame(expected, &matched.found);
        if let Some(ratio) = truth.rebuffer_ratio().filter(|_| !truth.is_broken)
            && let Some(guess) = said.rebuffer_ratio()
        {
            self.ratio_errors.push(guess - ratio);
            let watched = said.watched_us as f64;
            let low = said.stalled_us.low as f64 / watched;
            let high = said.stalled_us.high as f64 / watched;
            // A browser's hiccups are judged neither way.
            let judged = truth.judged_ratio().unwrap_or(ratio);
            self.ratios_bounded += usize::from(low <= ratio && judged <= high);
        }
    }

    fn add_start(&mut self, expected: &Expected, truth: &Truth, said: Option<&ViewerSaid>) {
        let failed = said.and_then(|said| said.failed);
        match truth.startup_ms() {
            Some(startup) => {
                self.failures_false += usize::from(failed.is_some());
                if let Some(said) = said.filter(|said| said.startup_us > 0) {
                    let ratio = said.startup_us as f64 / 1000.0 / (startup.max(1)) as f64;
                    self.startup_errors.push(ratio - 1.0);
                }
            }
            None if expected.unseeable => self.failures_unseeable += 1,
            None => {
                self.failures += 1;
                self.failures_found += usize::from(failed.is_some());
                // A start that nothing was planned to fail failed on its link.
                let class = expected.failure.unwrap_or(Failure::Network);
                let classed = failed == Some(class);
                self.failures_classed += usize::from(classed);
            }
        }
    }

    fn add_warnings(&mut self, stalls: &[Span], warnings: &[Warning]) {
        let real = || {
            stalls
                .iter()
                .filter(|stall| stall.lasts_ms() >= SHORTEST_STALL_MS)
        };
        self.warnings += warnings.len();
        for warning in warnings {
            let told = warning.told_unix_ns / 1_000_000;
            let soon = told..=told + WARNING_HORIZON_MS;
            // One that comes with the stall is right, though of no use.
            let right = real().any(|stall| {
                soon.contains(&stall.begin_ms) || (stall.begin_ms..stall.end_ms).contains(&told)
            });
            self.warnings_right += usize::from(right);
        }
        for stall in real() {
            let lead = warnings
                .iter()
                .map(|warning| stall.begin_ms as f64 - ms(warning.told_unix_ns))
                .filter(|lead| (0.0..=WARNING_HORIZON_MS as f64).contains(lead))
                .reduce(f64::max);
            if let Some(lead) = lead {
                self.stalls_warned += 1;
                self.lead_ms.push(lead);
            }
        }
    }

    /// By the cause that most of the stalled time is put down to.
    fn add_blame(&mut self, expected: &Expected, found: &[(Span, Stall)]) {
        if expected.blame.is_empty() {
            return;
        }
        let mut shares: Vec<(Blame, u64)> = Vec::new();
        for (real, told) in found {
            let Some(cause) = told.cause else { continue };
            match shares.iter_mut().find(|(blame, _)| *blame == cause) {
                Some((_, share)) => *share += real.lasts_ms(),
                None => shares.push((cause, real.lasts_ms())),
            }
        }
        let Some((blame, _)) = shares.into_iter().max_by_key(|(_, share)| *share) else {
            return;
        };
        self.faults_blamed += 1;
        self.faults_right += usize::from(expected.blame.contains(&blame));
        match self.blames.iter_mut().find(|(known, _)| *known == blame) {
            Some((_, count)) => *count += 1,
            None => self.blames.push((blame, 1)),
        }
    }

    /// Of the true stalls, those found.
    pub fn recall(&self) -> f64 {
        share(self.stalls_found, self.stalls)
    }

    /// Of the said stalls, the true ones.
    pub fn precision(&self) -> f64 {
        share(self.stalls_found, self.stalls_found + self.stalls_false)
    }

    /// Of the said stalls, the true ones, if those that were taken back count as false.
    pub fn precision_kept(&self) -> f64 {
        let told = self.stalls_found + self.stalls_false + self.stalls_retracted;
        share(self.stalls_found, told)
    }

    /// F1 of what somebody knew who listened while it happened: onsets as first said, nothing taken
    /// back.
    pub fn f1_as_told(&self) -> f64 {
        share(
            2 * self.stalls_found_as_told,
            self.stalls + self.stalls_found_as_told + self.stalls_false_as_told,
        )
    }

    /// The harmonic mean of both.
    pub fn f1(&self) -> f64 {
        share(
            2 * self.stalls_found,
            self.stalls + self.stalls_found + self.stalls_false,
        )
    }

    /// Of what somebody was told while it happened, what was so.
    pub fn precision_as_told(&self) -> f64 {
        let told = self.stalls_found_as_told + self.stalls_false_as_told;
        share(self.stalls_found_as_told, told)
    }

    /// Mean absolute error of the rebuffer ratio, in points.
    pub fn ratio_error_points(&self) -> f64 {
        let sum: f64 = self.ratio_errors.iter().map(|error| error.abs()).sum();
        100.0 * sum / self.ratio_errors.len() as f64
    }

    /// Share of sessions whose ratio is within one point.
    pub fn ratios_close(&self) -> f64 {
        let close = self
            .ratio_errors
            .iter()
            .filter(|error| error.abs() <= CLOSE_RATIO);
        share(close.count(), self.ratio_errors.len())
    }

    /// Median of the absolute relative error.
    pub fn startup_error(&self) -> f64 {
        let errors: Vec<_> = self
            .startup_errors
            .iter()
            .map(|error| error.abs())
            .collect();
        quantile(&errors, 0.5)
    }
}

/// NaN where there is nothing to have a share of.
pub fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

/// By the nearest rank; NaN of nothing.
pub fn quantile(values: &[f64], at: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (at * sorted.len() as f64).ceil().max(1.0);
    // A rank is at most the number of values.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "see above"
    )]
    let index = rank as usize - 1;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

/// Wilson's interval of a share, for 95 in 100.
pub fn interval(part: usize, whole: usize) -> Option<(f64, f64)> {
    const Z: f64 = 1.96;
    if whole == 0 {
        return None;
    }
    let (n, p) = (whole as f64, share(part, whole));
    let scale = 1.0 + Z * Z / n;
    let centre = p + Z * Z / (2.0 * n);
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    Some((
        (centre - half).max(0.0) / scale,
        (centre + half).min(scale) / scale,
    ))
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// Which said stall is which true one.
#[derive(Debug, Default)]
pub(super) struct Matched {
    real: usize,
    touched: usize,
    pub(super) false_ones: usize,
    pub(super) found: Vec<(Span, Stall)>,
}

/// Matches one to one by onset. Both in order of time, so that taking the first within the tolerance
/// matches as many as can be.
pub(super) fn match_stalls(truth: &[Span], said: &[Stall]) -> Matched {
    let mut left: Vec<Stall> = said.to_vec();
    left.sort_by_key(|stall| stall.begin_unix_ns);
    // As the true ones are joined.
    left.dedup_by(|next, one| {
        let same =
            one.end_unix_ns > 0 && next.begin_unix_ns <= one.end_unix_ns + APART_MS * 1_000_000;
        if same {
            one.end_unix_ns = next.end_unix_ns;
        }
        same
    });
    let onset = |stall: &Stall| stall.begin_unix_ns / 1_000_000;
    let near = |stall: &Stall, real: &Span| onset(stall).abs_diff(real.begin_ms) <= TOLERANCE_MS;
    let (real, short): (Vec<Span>, Vec<Span>) = truth
        .iter()
        .partition(|stall| stall.lasts_ms() >= SHORTEST_STALL_MS);
    let mut matched = Matched {
        real: real.len(),
        ..Matched::default()
    };
    for stall in &real {
        if let Some(at) = left.iter().position(|told| near(told, stall)) {
            matched.found.push((*stall, left.remove(at)));
            matched.touched += 1;
        } else if said.iter().any(|told| overlaps(told, stall)) {
            matched.touched += 1;
        }
    }
    let is_short = |told: &&Stall| short.iter().any(|stall| near(told, stall));
    matched.false_ones = left.iter().filter(|told| !is_short(told)).count();
    matched
}

fn overlaps(told: &Stall, real: &Span) -> bool {
    let begin = told.begin_unix_ns / 1_000_000;
    let end = if told.end_unix_ns == 0 {
        u64::MAX
    } else {
        told.end_unix_ns / 1_000_000
    };
    begin <= real.end_ms.saturating_add(TOLERANCE_MS)
        && end.saturating_add(TOLERANCE_MS) >= real.begin_ms
}

#[cfg(test)]
#[path = "score/tests.rs"]
mod tests;
