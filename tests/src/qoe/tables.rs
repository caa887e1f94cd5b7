//! The tables of a report for a terminal.

use std::fmt::Write as _;

use super::report::{Report, Row};
use super::scenario::{Player, Set};
use super::score::{interval, quantile, share};

impl Report<'_> {
    /// All tables, what is short of an aim, and what does not hold.
    pub fn summary(&self) -> String {
        let mut text = stalls(&self.rows);
        text += &as_told(&self.rows);
        text += &starts(&self.rows);
        text += "\nby player:";
        text += &stalls(&self.by_player);
        text += "\nby what happens:";
        text += &scenarios(&self.by_scenario);
        if !self.crowds.is_empty() {
            text += "\nseveral viewers at one address: told apart, or left out of every number\n";
            for crowd in &self.crowds {
                let _ = writeln!(text, "{}", crowd.line());
            }
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
        } else if !self.not_over.is_empty() {
            let _ = writeln!(
                text,
                "judged before they were over: {}",
                self.not_over.join(", ")
            );
        }
        for failure in &self.failures {
            let _ = writeln!(text, "FAILED: {failure}");
        }
        text
    }
}

fn stalls(rows: &[Row]) -> String {
    let mut text = String::from(
        "\nstalls: true onsets found within 1 s; delay from the true onset to when it was told; \
         rebuffer ratio: mean absolute error in points, share within one point, share of sessions whose \
         true ratio lies within [low, high]\n",
    );
    text += "teller       set       tier of      n  said | stalls found false recall  prec    F1 | delay p50   p99 ms | ratio err <=1pt bounded\n";
    for row in rows {
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
    text
}

/// Hindsight taken away, and how sure the shares are.
fn as_told(rows: &[Row]) -> String {
    let mut text = String::from(
        "\nas it was told while it happened: told live and taken back, precision if those are false; \
         then by onsets as first told, nothing taken back | intervals for 95 in 100 of the table above\n",
    );
    text += "teller       set       tier of      n | back  prec | found false  prec    F1 | recall         precision      prec. with back  bounded\n";
    for row in rows {
        let s = &row.score;
        let told = s.stalls_found + s.stalls_false;
        let _ = writeln!(
            text,
            "{} {:>2} | {:>4} {} | {:>5} {:>5} {} {} | {} {} {}   {}",
            row.name(),
            s.sessions,
            s.stalls_retracted,
            figure(s.precision_kept(), 5, 2),
            s.stalls_found_as_told,
            s.stalls_false_as_told,
            figure(s.precision_as_told(), 5, 2),
            figure(s.f1_as_told(), 5, 2),
            between(s.stalls_found, s.stalls),
            between(s.stalls_found, told),
            between(s.stalls_found, told + s.stalls_retracted),
            between(s.ratios_bounded, s.ratio_errors.len()),
        );
    }
    text
}

fn starts(rows: &[Row]) -> String {
    let mut text = String::from(
        "\nstarts: median error of the start-up time; failed ones found of all, with the right class, \
         false, not seeable | warnings | blame by fault\n",
    );
    text += "teller       set       tier of      n | start err | failed found class false unseen | warned right lead p50 ms stalls | faults right\n";
    for row in rows {
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
    text
}

fn scenarios(rows: &[Row]) -> String {
    let mut text = String::from(
        "\nset       tier scenario             n | stalls found false back | ratio err bounded | failed found false | faults right\n",
    );
    for row in rows {
        let s = &row.score;
        let _ = writeln!(
            text,
            "{:<9} {:?}   {:<19} {:>2} | {:>6} {:>5} {:>5} {:>4} | {} {:>7} | {:>6} {:>5} {:>5} | {:>6} {:>5}",
            row.set(),
            row.tier,
            row.scenario.as_deref().unwrap_or_default(),
            s.sessions,
            s.stalls,
            s.stalls_found,
            s.stalls_false,
            s.stalls_retracted,
            figure(s.ratio_error_points(), 9, 2),
            format!("{}/{}", s.ratios_bounded, s.ratio_errors.len()),
            s.failures,
            s.failures_found,
            s.failures_false,
            s.faults_blamed,
            s.faults_right,
        );
    }
    text
}

fn figure(value: f64, width: usize, digits: usize) -> String {
    if value.is_finite() {
        format!("{value:>width$.digits$}")
    } else {
        format!("{:>width$}", "-")
    }
}

fn between(part: usize, whole: usize) -> String {
    let text = interval(part, whole).map_or("-".to_owned(), |(low, high)| {
        format!("[{low:.2}..{high:.2}]")
    });
    format!("{text:<14}")
}

impl Row {
    fn set(&self) -> &'static str {
        match self.set {
            Set::Training => "training",
            Set::HeldOut => "held out",
        }
    }

    fn name(&self) -> String {
        let player = match self.player {
            None => "both",
            Some(Player::Hls) => "hls.js",
            Some(Player::Dash) => "dash.js",
        };
        format!(
            "{:<12} {:<9} {:?}   {player:<7}",
            self.teller,
            self.set(),
            self.tier
        )
    }
}
