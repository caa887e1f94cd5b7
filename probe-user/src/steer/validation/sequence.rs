//! Bounds on a share that hold however often one looks.
//!
//! The likelihood of what was seen, averaged over all shares (with Jeffreys' weights) and divided by
//! that under the true share, is a nonnegative martingale with mean 1; that it ever exceeds 1 / alpha
//! has a chance of at most alpha (Ville). So all shares for which it is below that make a
//! confidence sequence: H. Robbins, "Statistical methods related to the law of the iterated
//! logarithm", Ann. Math. Stat. 41 (1970); as a bet in Waudby-Smith and Ramdas, "Estimating means
//! of bounded random variables by betting", JRSS B 86 (2024). It depends on the counts alone.

/// Halvings of the interval in which a bound is looked for: below one in 10^9.
const HALVINGS: u32 = 32;

/// The bounds, each between 0 and 1; without trials they say nothing.
pub fn bounds(n: u64, bad: u64, alpha: f64) -> (f64, f64) {
    if n == 0 {
        return (0.0, 1.0);
    }
    let bad = bad.min(n);
    let (bad, good) = (bad as f64, (n - bad) as f64);
    let mixture = ln_beta(bad + 0.5, good + 0.5) - ln_beta(0.5, 0.5);
    let is_within = |share: f64| mixture - ln_likelihood(bad, good, share) < -alpha.ln();
    let likeliest = bad / (bad + good);
    (
        edge(0.0, likeliest, is_within),
        edge(1.0, likeliest, is_within),
    )
}

/// Between a share that may be outside and one that is inside: the last one outside.
fn edge(outside: f64, inside: f64, is_within: impl Fn(f64) -> bool) -> f64 {
    if is_within(outside) {
        return outside;
    }
    let (mut outside, mut inside) = (outside, inside);
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(outside, inside);
        if is_within(middle) {
            inside = middle;
        } else {
            outside = middle;
        }
    }
    outside
}

fn ln_likelihood(bad: f64, good: f64, share: f64) -> f64 {
    let term = |count: f64, share: f64| {
        if count == 0.0 {
            0.0
        } else {
            count * share.ln()
        }
    };
    term(bad, share) + term(good, 1.0 - share)
}

fn ln_beta(a: f64, b: f64) -> f64 {
    ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b)
}

/// Stirling's series from 12 on, where its error is below 1e-12 (Abramowitz and Stegun, 6.1.41);
/// smaller arguments are brought there by the recurrence.
fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut below) = (x, 0.0);
    while x < 12.0 {
        below += x.ln();
        x += 1.0;
    }
    let inverse = 1.0 / (x * x);
    let series =
        (1.0 / 12.0 - inverse * (1.0 / 360.0 - inverse * (1.0 / 1260.0 - inverse / 1680.0))) / x;
    (x - 0.5) * x.ln() - x + 0.5 * std::f64::consts::TAU.ln() + series - below
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;

    #[test]
    fn the_gamma_function_is_that_of_the_tables() {
        for (x, want) in [
            (0.5, 0.572_364_942_924_700_4),
            (1.0, 0.0),
            (10.0, 12.801_827_480_081_467),
            (100.5, 361.435_540_467_777_6),
        ] {
            assert!((ln_gamma(x) - want).abs() < 1e-9, "{x}: {}", ln_gamma(x));
        }
    }

    #[test]
    fn bounds_hold_the_truth_at_every_look_as_often_as_promised() {
        let alpha = 0.05;
        for truth in [0.001, 0.02, 0.5] {
            let mut rng = Rng::with_seed(23);
            let runs = 1000;
            let wrong = (0..runs)
                .filter(|_| {
                    let mut bad = 0;
                    (1..=1000).any(|n| {
                        bad += u64::from(rng.f64() < truth);
                        // Looks are dear to compute, and each tenth is looking often.
                        let (low, high) = if n % 10 == 0 {
                            bounds(n, bad, alpha)
                        } else {
                            (0.0, 1.0)
                        };
                        !(low..=high).contains(&truth)
                    })
                })
                .count();
            println!("truth {truth}: {wrong} of {runs} runs ever wrong, {alpha} promised");
            assert!((wrong as f64) < f64::from(runs) * alpha, "{wrong}");
        }
    }

    #[test]
    fn bounds_narrow_and_hold_what_was_seen() {
        assert_eq!(bounds(0, 0, 0.05), (0.0, 1.0));
        let mut width = 1.0;
        for n in [10, 100, 1000, 10_000, 1_000_000] {
            let (low, high) = bounds(n, n / 10, 0.05);
            assert!((low..high).contains(&0.1) && high - low < width);
            width = high - low;
        }
        let (low, high) = bounds(1000, 0, 0.05);
        assert!(low <= 0.0 && high < 0.02);
        let (low, high) = bounds(u64::MAX, u64::MAX, 0.05);
        assert!(low > 0.99 && high >= 1.0);
    }
}
