//! The model's word against the player's truth.

use super::super::cadence::Cadence;
use super::super::*;
use super::network::{EPOCH_NS, Input, Said, ns};
use super::player::Truth;

/// How often a daemon lets time pass.
const TICK_MS: u32 = 250;
const TOLERANCE_NS: u64 = 1_000_000_000;

/// What the model said of one playback.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    /// Begin, end and when the begin was said; not those taken back.
    pub stalls: Vec<(u64, u64, u64)>,
    pub retracted: u32,
    pub risks: Vec<u64>,
    pub sums: Sums,
}

/// Tells the model everything, in the order in which it would hear it.
pub(super) fn hear(said: &Said, with: &Thresholds, truth: &Truth) -> Heard {
    let mut viewer = Viewer::new(EPOCH_NS);
    let mut heard = Heard::default();
    let mut out = Vec::new();
    let mut said = said.iter().peekable();
    let end_ms = u32::try_from((truth.end_ns - EPOCH_NS) / 1_000_000).unwrap();
    let mut before = Sums::default();
    for t_ms in 0..=end_ms {
        let now_ns = ns(t_ms);
        while let Some((_, input)) = said.next_if(|(at_ms, _)| *at_ms <= t_ms) {
            match input {
                Input::UnderWay(told) => viewer.under_way(told, now_ns, with, &mut out),
                Input::Labelled(told) => viewer.labelled(told, now_ns, with, &mut out),
                Input::Finished(told) => viewer.finished(told, now_ns, with, &mut out),
            }
        }
        if t_ms % TICK_MS == 0 && viewer.wake_ns() <= now_ns {
            viewer.advance(now_ns, with, &mut out);
        }
        if t_ms == end_ms {
            viewer.end(now_ns, Ending::Left, with, &mut out);
        }
        for change in out.drain(..) {
            note(&mut heard, change, now_ns);
        }
        let sums = viewer.sums();
        assert!(sums.played_us >= before.played_us && sums.stalls >= before.stalls);
        assert!(sums.stalled_us.point >= before.stalled_us.point);
        before = sums;
    }
    heard.sums = viewer.sums();
    heard
}

fn note(heard: &mut Heard, change: Change, now_ns: u64) {
    match change {
        Change::StallBegan { t_ns, .. } => heard.stalls.push((t_ns, 0, now_ns)),
        Change::StallEnded {
            t_began_ns, t_ns, ..
        } => {
            let last = heard.stalls.last_mut().unwrap();
            (last.0, last.1) = (t_began_ns, t_ns);
        }
        Change::StallRetracted { .. } => {
            heard.stalls.pop().unwrap();
            heard.retracted += 1;
        }
        Change::AtRisk { t_ns, .. } => heard.risks.push(t_ns),
        _ => {}
    }
}

/// What is left of it where nothing is labelled: the objects' length is guessed by their cadence.
pub(super) fn without_labels(said: &Said) -> Said {
    let mut cadence = Cadence::default();
    let mut guess = |told: &Finished| {
        let us = cadence.saw(told.t_request_ns, told.t_last_acked_ns, told.acked_bytes)?;
        Some(Object {
            duration_us: us,
            ..Object::default()
        })
    };
    said.iter()
        .filter_map(|(t_ms, input)| match input {
            Input::Labelled(_) => None,
            Input::UnderWay(_) => Some((*t_ms, *input)),
            Input::Finished(told) => {
                let told = Finished {
                    object: guess(told),
                    is_inferred: true,
                    ..*told
                };
                Some((*t_ms, Input::Finished(told)))
            }
        })
        .collect()
}

/// Many playbacks together.
#[derive(Clone, Debug, Default)]
pub(super) struct Score {
    pub hits: usize,
    pub misses: usize,
    pub inventions: usize,
    pub retracted: u32,
    delays_ms: Vec<u64>,
    ratio_errors: Vec<f64>,
    ratios: (f64, f64),
    /// In percent.
    startup_errors: Vec<u64>,
    risks: (usize, usize),
    leads_ms: Vec<u64>,
    idle_errors: u32,
    came_late: u32,
    /// Playbacks whose true stalled time lies within the bounds.
    bracketed: usize,
}

impl Score {
    pub(super) fn add(&mut self, heard: &Heard, truth: &Truth) {
        let mut used = vec![false; heard.stalls.len()];
        for (began, ended) in &truth.stalls {
            let fits = |(n, stall): &(usize, &(u64, u64, u64))| {
                let end = if stall.1 == 0 { truth.end_ns } else { stall.1 };
                !used[*n] && stall.0 < ended + TOLERANCE_NS && *began < end + TOLERANCE_NS
            };
            match heard.stalls.iter().enumerate().find(fits) {
                Some((n, stall)) => {
                    used[n] = true;
                    self.hits += 1;
                    self.delays_ms
                        .push(stall.2.saturating_sub(*began) / 1_000_000);
                }
                None => self.misses += 1,
            }
        }
        self.inventions += used.iter().filter(|used| !**used).count();
        self.retracted += heard.retracted;
        let stalled: u64 = truth.stalls.iter().map(|(b, e)| e - b).sum();
        let within = heard.sums.stalled_us.lo..=heard.sums.stalled_us.hi;
        // The player's own step is ten milliseconds.
        let is_near =
            |us: u64| within.contains(&us) || us.abs_diff(heard.sums.stalled_us.point) < 20_000;
        self.bracketed += usize::from(is_near(stalled / 1000));
        let watched = truth.startup_ns + truth.played_ns + stalled;
        let true_ratio = stalled as f64 / watched.max(1) as f64;
        let own = heard.sums.stalled_us.point as f64 / heard.sums.watched_us().max(1) as f64;
        self.ratio_errors.push((own - true_ratio).abs() * 100.0);
        self.ratios.0 += true_ratio * 100.0;
        self.ratios.1 += own * 100.0;
        if let Some(true_us) = (truth.startup_ns / 1000).checked_sub(1) {
            let error_us = heard.sums.startup_us.abs_diff(true_us);
            self.startup_errors.push(100 * error_us / true_us.max(1));
        }
        for risk in &heard.risks {
            self.risks.0 += 1;
            let next = truth
                .stalls
                .iter()
                .find(|(began, _)| *began + TOLERANCE_NS > *risk);
            if let Some((began, _)) = next
                && *began < risk + 15_000_000_000
            {
                self.risks.1 += 1;
                self.leads_ms.push(began.saturating_sub(*risk) / 1_000_000);
            }
        }
        self.idle_errors += heard.sums.idle_errors;
        self.came_late += heard.sums.came_late;
    }

    pub(super) fn recall(&self) -> f64 {
        share(self.hits, self.hits + self.misses)
    }

    pub(super) fn precision(&self) -> f64 {
        share(self.hits, self.hits + self.inventions)
    }

    pub(super) fn f1(&self) -> f64 {
        let (p, r) = (self.precision(), self.recall());
        2.0 * p * r / (p + r).max(f64::MIN_POSITIVE)
    }

    /// Mean absolute error of the rebuffer ratio, in points.
    pub(super) fn ratio_error(&self) -> f64 {
        self.ratio_errors.iter().sum::<f64>() / self.ratio_errors.len().max(1) as f64
    }

    /// Share of playbacks whose true stalled time lies within the bounds.
    pub(super) fn bounded(&self) -> f64 {
        share(self.bracketed, self.ratio_errors.len())
    }

    pub(super) fn delay_ms(&self, percent: usize) -> u64 {
        quantile(&self.delays_ms, percent)
    }

    pub(super) fn print(&self, what: &str) {
        let n = self.ratio_errors.len().max(1);
        let within = self
            .ratio_errors
            .iter()
            .filter(|error| **error <= 1.0)
            .count();
        println!(
            "{what:32} {:3} players {:4} stalls  F1 {:.3} (P {:.3} R {:.3}, {} retracted)  delay {} / {} ms  \
             ratio {:.2} % for {:.2} %, error {:.2}, within 1: {:.0} %, bounded {:.0} %  startup {} %  \
             risk {}/{} lead {} ms  idle {} late {}",
            n,
            self.hits + self.misses,
            self.f1(),
            self.precision(),
            self.recall(),
            self.retracted,
            self.delay_ms(50),
            self.delay_ms(99),
            self.ratios.1 / n as f64,
            self.ratios.0 / n as f64,
            self.ratio_error(),
            100.0 * share(within, n),
            100.0 * self.bounded(),
            quantile(&self.startup_errors, 50),
            self.risks.1,
            self.risks.0,
            quantile(&self.leads_ms, 50),
            self.idle_errors,
            self.came_late,
        );
    }
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        1.0
    } else {
        part as f64 / whole as f64
    }
}

fn quantile(values: &[u64], percent: usize) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or(0)
}
