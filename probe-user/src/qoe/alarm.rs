//! Alarms on a cell's rates that may be looked at all the time: sequential tests whose chance to cry
//! wolf within a day is bounded, however often one looks.
//!
//! A test bets against "the rate is no worse than its base": its wealth is a nonnegative
//! supermartingale while that is true, so that the chance that it ever multiplies by 1 / alpha is at
//! most alpha (Ville's inequality; Waudby-Smith and Ramdas, "Estimating means of bounded random
//! variables by betting", 2024). Part of the stake is kept for changes that come later in the day.

/// Nanoseconds of a day, over which alpha is promised.
const DAY_NS: u64 = 86_400_000_000_000;
/// How many times the base the rates are that are bet on, and the stake on each: most on the tenfold
/// rise that is to be found fast.
const BETS: [(f64, f64); 3] = [(3.0, 0.04), (10.0, 0.92), (30.0, 0.04)];
/// The stake on a change that was there from the start.
const STAKE_AT_ONCE: f64 = 0.9;
/// The rest is staked piece by piece, one after each so many trials.
const BLOCK: u32 = 25;
/// A batch is taken in so many pieces at the most.
const PIECES: u64 = 256;
/// More than this proves no more.
const MOST_WEALTH: f64 = 1e100;
/// No rate above this is bet on.
const MOST: f64 = 0.9;
/// So sure must be that it is over.
const CLEAR_ALPHA: f64 = 0.01;

/// What a test is to find, and how rarely it may be wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Promise {
    /// The rate up to which all is well: a share between 0 and 1.
    pub base: f64,
    /// Chance of a false alarm per day and cell.
    pub alpha: f64,
}

impl Default for Promise {
    fn default() -> Self {
        Self {
            base: 0.01,
            alpha: 1e-4,
        }
    }
}

impl Promise {
    /// With what is beyond reason brought back to it.
    fn bounded(self) -> Self {
        let within = |value: f64, least: f64, most: f64| {
            if value.is_finite() {
                value.clamp(least, most)
            } else {
                least
            }
        };
        Self {
            base: within(self.base, 1e-6, 0.5),
            alpha: within(self.alpha, 1e-12, 0.5),
        }
    }
}

/// What an alarm rests on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evidence {
    /// Trials since the test's beginning, or since the onset.
    pub n: u64,
    /// Of those, bad; whole trials and parts.
    pub bad: f64,
    /// Their rate.
    pub rate: f64,
    /// The rate up to which all is well.
    pub base: f64,
    /// How many times over the bet was won: the chance of this or more, had nothing changed, is at
    /// most its inverse.
    pub e_value: f64,
}

/// What a test says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Alarm {
    /// The rate is above its base.
    Onset(Evidence),
    /// It is back.
    Cleared(Evidence),
}

/// One rate of one cell, watched.
#[derive(Clone, Debug)]
pub struct Watch {
    promise: Promise,
    /// What each bet has come to.
    wealth: [f64; BETS.len()],
    /// Not yet staked.
    kept: f64,
    blocks: u32,
    in_block: u32,
    n: u64,
    bad: f64,
    day: u64,
    /// While it is raised: the bet that it is over.
    clearing: Option<f64>,
}

impl Watch {
    /// Begins to watch. Trials are to be nearly independent: attempts and deliveries are; of what
    /// is not, such as a viewer's ticks, take each tick's share over many viewers as one trial
    /// ([`Self::saw_share`]).
    pub fn new(promise: Promise) -> Self {
        let mut watch = Self {
            promise: promise.bounded(),
            wealth: [0.0; BETS.len()],
            kept: 0.0,
            blocks: 0,
            in_block: 0,
            n: 0,
            bad: 0.0,
            day: 0,
            clearing: None,
        };
        watch.stake();
        watch
    }

    /// Whether the alarm is raised.
    pub fn is_raised(&self) -> bool {
        self.clearing.is_some()
    }

    /// Takes in trials, of which some were bad. Looking more often costs nothing.
    pub fn saw(&mut self, trials: u64, bad: u64, now_ns: u64) -> Option<Alarm> {
        let bad = bad.min(trials);
        if trials == 0 {
            return None;
        }
        self.turn(now_ns);
        // Stakes are laid between the pieces of a batch. Only its end is looked at: in which order
        // its trials came is not known, and the promise is for what is known.
        let piece = (trials / PIECES).max(u64::from(BLOCK));
        let (mut left, mut left_bad) = (trials, bad);
        while left > 0 {
            let some = left.min(piece);
            let scaled = u128::from(left_bad) * u128::from(some) / u128::from(left);
            let some_bad = u64::try_from(scaled).unwrap_or(left_bad);
            left -= some;
            left_bad -= some_bad;
            self.take(some, some_bad as f64);
        }
        self.judge()
    }

    /// Takes in one trial that was bad in part: a share between 0 and 1. Its mean is what is
    /// tested, whatever ties those in it together.
    pub fn saw_share(&mut self, share: f64, now_ns: u64) -> Option<Alarm> {
        if !share.is_finite() {
            return None;
        }
        self.turn(now_ns);
        self.take(1, share.clamp(0.0, 1.0));
        self.judge()
    }

    /// The e-value, and what it rests on.
    pub fn evidence(&self) -> Evidence {
        Evidence {
            n: self.n,
            bad: self.bad,
            rate: self.bad / (self.n.max(1)) as f64,
            base: self.promise.base,
            e_value: self.clearing.unwrap_or_else(|| self.total()),
        }
    }

    fn total(&self) -> f64 {
        self.wealth.iter().sum::<f64>() + self.kept
    }

    /// Lays the first stakes.
    fn stake(&mut self) {
        for (wealth, (_, stake)) in self.wealth.iter_mut().zip(BETS) {
            *wealth = stake * STAKE_AT_ONCE;
        }
        self.kept = 1.0 - STAKE_AT_ONCE;
        self.blocks = 0;
        self.in_block = 0;
        self.n = 0;
        self.bad = 0.0;
    }

    /// A new day has a new promise; an alarm that is raised stays so.
    fn turn(&mut self, now_ns: u64) {
        let day = now_ns / DAY_NS;
        if day > self.day {
            self.day = day;
            if !self.is_raised() {
                self.stake();
            }
        }
    }

    fn take(&mut self, trials: u64, bad: f64) {
        self.n = self.n.saturating_add(trials);
        self.bad += bad;
        let base = self.promise.base;
        if let Some(wealth) = &mut self.clearing {
            // Bets that the rate is back at its base, against three times that. What is lost is
            // given back, so that a long bad time is no debt.
            *wealth = (*wealth * odds(worse(base, 3.0), base, trials, bad)).max(1.0);
            return;
        }
        for (wealth, (times, _)) in self.wealth.iter_mut().zip(BETS) {
            *wealth = (*wealth * odds(base, worse(base, times), trials, bad)).min(MOST_WEALTH);
        }
        self.in_block += u32::try_from(trials).unwrap_or(BLOCK).min(BLOCK);
        if self.in_block >= BLOCK {
            self.in_block = 0;
            self.stake_more();
        }
    }

    /// Whether the bets are won.
    fn judge(&mut self) -> Option<Alarm> {
        let evidence = self.evidence();
        if self.is_raised() {
            if evidence.e_value < 1.0 / CLEAR_ALPHA {
                return None;
            }
            self.clearing = None;
            self.stake();
            return Some(Alarm::Cleared(evidence));
        }
        if evidence.e_value < 1.0 / self.promise.alpha {
            return None;
        }
        self.clearing = Some(1.0);
        self.n = 0;
        self.bad = 0.0;
        Some(Alarm::Onset(evidence))
    }

    /// Stakes a piece on a change that comes now. The pieces of all blocks sum to what was kept.
    fn stake_more(&mut self) {
        self.blocks += 1;
        let k = f64::from(self.blocks);
        let piece = ((1.0 - STAKE_AT_ONCE) / (k * (k + 1.0))).min(self.kept);
        self.kept -= piece;
        for (wealth, (_, stake)) in self.wealth.iter_mut().zip(BETS) {
            *wealth += piece * stake;
        }
    }
}

/// A rate so many times the base.
fn worse(base: f64, times: f64) -> f64 {
    (base * times).min(MOST).max(base)
}

/// What a bet on `against`, where `base` is the rule, comes to after trials of which some were bad.
/// A trial that is bad in part counts between: 1 + l (x - base), which is fair for any mean `base`.
fn odds(base: f64, against: f64, trials: u64, bad: f64) -> f64 {
    let (won, lost) = (against / base, (1.0 - against) / (1.0 - base));
    if trials == 1 {
        return won * bad + lost * (1.0 - bad);
    }
    // Never so large that a sum of them is no number.
    let log = bad * won.ln() + (trials as f64 - bad) * lost.ln();
    log.min(200.0).exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;

    const ALPHA: f64 = 1e-4;

    fn watch(base: f64, alpha: f64) -> Watch {
        Watch::new(Promise { base, alpha })
    }

    /// Trials until the alarm, of one day at a rate; none within `most`.
    fn until_onset(watch: &mut Watch, rate: f64, most: u64, rng: &mut Rng) -> Option<u64> {
        (1..=most).find(|_| {
            let bad = u64::from(rng.f64() < rate);
            matches!(watch.saw(1, bad, 1), Some(Alarm::Onset(_)))
        })
    }

    fn median_onset(base: f64, rate: f64) -> u64 {
        let mut rng = Rng::with_seed(7);
        let mut counts: Vec<u64> = (0..1001)
            .filter_map(|_| until_onset(&mut watch(base, ALPHA), rate, 10_000, &mut rng))
            .collect();
        assert_eq!(counts.len(), 1001);
        counts.sort_unstable();
        counts[500]
    }

    /// Thousands of days of hundreds of trials at the base rate.
    #[test]
    fn under_the_base_rate_days_with_a_false_alarm_are_no_more_than_promised() {
        let alpha = 0.01;
        for base in [0.005, 0.05] {
            let mut rng = Rng::with_seed(3);
            let days = 5_000;
            let false_days = (0..days)
                .filter(|_| until_onset(&mut watch(base, alpha), base, 500, &mut rng).is_some())
                .count();
            println!(
                "base {base}: {false_days} of {days} days with a false alarm, {alpha} promised"
            );
            // Five standard deviations above the promise would be no accident.
            let most = f64::from(days) * alpha + 5.0 * (f64::from(days) * alpha).sqrt();
            assert!((false_days as f64) < most, "{false_days}");
            // And the promise is not kept by never speaking.
            assert!(false_days > 0);
        }
    }

    #[test]
    fn at_the_alpha_of_a_day_there_is_no_false_alarm_in_thousands_of_days() {
        let mut rng = Rng::with_seed(5);
        let days = 3_000;
        let false_days = (0..days)
            .filter(|_| until_onset(&mut watch(0.01, ALPHA), 0.01, 1000, &mut rng).is_some())
            .count();
        // The mean is at most a half; five is beyond one in ten thousand.
        assert!(false_days < 5, "{false_days}");
    }

    #[test]
    fn a_tenfold_rise_is_found_within_the_trials_that_theory_gives() {
        for (base, rate, within) in [(0.005, 0.05, 129), (0.01, 0.10, 64)] {
            let median = median_onset(base, rate);
            println!("{base} -> {rate}: median {median} trials, theory's mean {within}");
            assert!(median <= within, "{median}");
        }
    }

    #[test]
    fn a_rise_late_in_the_day_is_found_too() {
        let mut rng = Rng::with_seed(11);
        let mut found = Vec::new();
        for _ in 0..500 {
            let mut watch = watch(0.01, ALPHA);
            if until_onset(&mut watch, 0.01, 2000, &mut rng).is_none() {
                found.extend(until_onset(&mut watch, 0.10, 10_000, &mut rng));
            }
        }
        found.sort_unstable();
        let median = found[found.len() / 2];
        println!("after 2000 good trials: median {median}");
        assert!(found.len() > 490 && median < 200, "{median}");
    }

    #[test]
    fn batches_of_any_size_promise_the_same() {
        let mut rng = Rng::with_seed(13);
        let days = 4_000;
        let false_days = (0..days)
            .filter(|_| {
                let mut watch = watch(0.02, 0.01);
                (0..20).any(|_| {
                    let trials = rng.u64(1..100);
                    let bad = (0..trials).filter(|_| rng.f64() < 0.02).count() as u64;
                    matches!(watch.saw(trials, bad, 1), Some(Alarm::Onset(_)))
                })
            })
            .count();
        assert!(false_days < 75, "{false_days}");
    }

    #[test]
    fn what_is_raised_is_cleared_when_the_rate_is_back_and_says_on_what_evidence() {
        let mut watch = watch(0.01, ALPHA);
        let Some(Alarm::Onset(onset)) = watch.saw(100, 20, 1) else {
            panic!("a fifth is bad, and nothing is said");
        };
        assert!(onset.e_value >= 1.0 / ALPHA && onset.rate > 0.1);
        assert!(watch.is_raised());
        let mut rng = Rng::with_seed(17);
        let still = (0..1000).any(|_| {
            let bad = u64::from(rng.f64() < 0.2);
            watch.saw(1, bad, 1).is_some()
        });
        assert!(!still);
        let back = (1..5000).find(|_| {
            let bad = u64::from(rng.f64() < 0.005);
            matches!(watch.saw(1, bad, 1), Some(Alarm::Cleared(_)))
        });
        assert!(back.is_some_and(|n| n < 1000), "{back:?}");
        assert!(!watch.is_raised());
    }

    #[test]
    fn a_share_of_many_is_one_trial() {
        let mut watch = watch(0.01, ALPHA);
        // A whole city's viewers stall and go on together: one tick is no proof.
        assert_eq!(watch.saw_share(0.9, 1), None);
        let told = (0..20).any(|_| watch.saw_share(0.3, 1).is_some());
        assert!(told);
    }

    #[test]
    fn nonsense_costs_nothing() {
        let mut watch = watch(f64::NAN, f64::INFINITY);
        assert_eq!(watch.saw(0, 5, 1), None);
        assert_eq!(watch.saw_share(f64::NAN, 1), None);
        watch.saw(u64::from(u32::MAX), u64::MAX, u64::MAX);
        assert!(watch.evidence().e_value.is_finite());
    }
}
