use fastrand::Rng;

use super::*;
use crate::steer::policy::rules::Metric;

const SECOND_NS: u64 = 1_000_000_000;

fn expect(direction: Direction) -> Expect {
    Expect {
        metric: Metric::LateDeliveryShare,
        direction,
        window_s: 120,
        min_effect_permille: 5,
        min_n: 100,
    }
}

fn trials(rng: &mut Rng, n: u64, share: f64) -> Count {
    let bad = (0..n).filter(|_| rng.f64() < share).count() as u64;
    Count { n, bad }
}

/// A window in which the moved and the control cells' shares go from the first to the second.
fn judged(rng: &mut Rng, moved: (f64, f64), control: (f64, f64), n: u64) -> Report {
    let before = (trials(rng, 60 * n, moved.0), trials(rng, 60 * n, control.0));
    let mut window = Window::new(
        "p",
        Scope::Host,
        expect(Direction::Falls),
        before.0,
        before.1,
        0,
    );
    (1..)
        .find_map(|s| {
            let (moved, control) = (trials(rng, n, moved.1), trials(rng, n, control.1));
            window.saw(moved, control, s * SECOND_NS)
        })
        .unwrap()
}

#[test]
fn what_changes_nothing_is_called_harmful_no_oftener_than_promised() {
    let mut rng = Rng::with_seed(31);
    let runs = 200;
    let mut hurt = 0;
    let mut helped = 0;
    for _ in 0..runs {
        // All fare worse, the moved ones were worse before: neither is the action's doing.
        match judged(&mut rng, (0.03, 0.06), (0.02, 0.05), 50).verdict {
            Verdict::Hurt => hurt += 1,
            Verdict::Helped => helped += 1,
            Verdict::Inconclusive => {}
        }
    }
    println!("of {runs} windows without an effect: {hurt} hurt, {helped} helped");
    assert!(f64::from(hurt + helped) <= f64::from(runs) * ALPHA);
}

#[test]
fn harm_is_found_before_the_window_ends_and_help_at_its_end() {
    let mut rng = Rng::with_seed(37);
    let hurt = judged(&mut rng, (0.02, 0.10), (0.02, 0.02), 200);
    assert_eq!(hurt.verdict, Verdict::Hurt);
    assert!(hurt.window_s < 120 && hurt.effect_low > 0.0, "{hurt:?}");
    assert!(
        hurt.hurt()
            .is_some_and(|told| told.why.starts_with("hurt: +"))
    );
    let helped = judged(&mut rng, (0.10, 0.02), (0.02, 0.02), 200);
    assert_eq!(helped.verdict, Verdict::Helped);
    assert_eq!(helped.window_s, 120);
    assert_eq!(helped.hurt(), None);
}

#[test]
fn little_evidence_is_no_success() {
    let mut rng = Rng::with_seed(41);
    let few = judged(&mut rng, (0.10, 0.0), (0.10, 0.10), 1);
    assert_eq!(few.verdict, Verdict::Inconclusive);
    // Nothing was left un-steered to compare with.
    let mut window = Window::new(
        "p",
        Scope::Host,
        expect(Direction::Falls),
        Count {
            n: 10_000,
            bad: 5000,
        },
        Count::default(),
        0,
    );
    let told = window.saw(
        Count { n: 10_000, bad: 0 },
        Count::default(),
        200 * SECOND_NS,
    );
    assert_eq!(told.unwrap().verdict, Verdict::Inconclusive);
}

#[test]
fn a_metric_that_should_rise_is_judged_the_other_way() {
    let count = |bad| Count { n: 10_000, bad };
    let of = |direction| {
        let mut window = Window::new(
            "p",
            Scope::Host,
            expect(direction),
            count(500),
            count(500),
            0,
        );
        window
            .saw(count(2000), count(500), 200 * SECOND_NS)
            .unwrap()
            .verdict
    };
    assert_eq!(of(Direction::Rises), Verdict::Helped);
    assert_eq!(of(Direction::Falls), Verdict::Hurt);
}

#[test]
fn counts_that_cannot_be_are_borne() {
    let mad = Count {
        n: 3,
        bad: u64::MAX,
    };
    let mut window = Window::new(
        "p",
        Scope::Host,
        expect(Direction::Falls),
        mad,
        mad,
        u64::MAX,
    );
    let report = window.saw(mad, mad, 0);
    assert_eq!(report, None);
    assert!(window.report().effect_low.is_finite());
}
