//! Single stories, as an operator would tell them.

use crate::steer::overrides::tests::{moment, order};
use crate::steer::overrides::{Action, Order};
use crate::steer::policy::input::{Blame, CellInput, Estimate, Hurt};
use crate::steer::policy::rules::{Metric, Moves, OwnFault, Policy, Rules};
use crate::steer::policy::{Decision, Inputs, Kind, State, decide};
use crate::steer::{Position, Scope};

/// A host with one policy, second by second.
struct Host {
    rules: Rules,
    state: State,
    s: u64,
    told: Vec<Decision>,
    position: Position,
}

impl Host {
    fn new() -> Self {
        let mut policy = Policy::new("own", Metric::LateDeliveryShare, 15, 7);
        policy.is_armed = true;
        policy.moves = Moves::Host;
        Self {
            rules: Rules {
                is_armed: true,
                policies: vec![policy],
                ..Rules::default()
            },
            state: State::default(),
            s: 100,
            told: Vec::new(),
            position: Position::default(),
        }
    }

    /// So many seconds in which this share is late; none: nothing is measured.
    fn goes_on(&mut self, seconds: u64, late_ppm: Option<u32>) -> &mut Self {
        for _ in 0..seconds {
            self.s += 1;
            let cells = late_ppm.map(|late_ppm| cell(late_ppm, moment(self.s).boot_ns));
            let inputs = Inputs {
                cells: cells.into_iter().collect(),
                ..Inputs::default()
            };
            self.decides(&inputs);
        }
        self
    }

    fn decides(&mut self, inputs: &Inputs) {
        let state = std::mem::take(&mut self.state);
        let (state, outcome) = decide(&self.rules, state, inputs, moment(self.s).boot_ns);
        self.state = state;
        self.told.extend(outcome.decisions);
        self.position = outcome.position;
    }

    fn gives(&mut self, order: Order) {
        let order = Order {
            created_unix_ns: moment(self.s).unix_ns,
            ..order
        };
        self.state.book.admit(order, &moment(self.s)).unwrap();
    }

    fn weight(&self) -> u16 {
        let host = self
            .position
            .settings
            .iter()
            .find(|own| own.scope == Scope::Host);
        host.map_or(1000, |own| own.weight_permille)
    }

    fn kinds(&self) -> Vec<Kind> {
        self.told.iter().map(|told| told.kind).collect()
    }
}

fn cell(late_ppm: u32, measured_boot_ns: u64) -> CellInput {
    CellInput {
        name: "live/segment/isp/tcp4".to_owned(),
        service: "live".to_owned(),
        class: "segment".to_owned(),
        network: "isp".to_owned(),
        measured_boot_ns,
        metrics: vec![(
            Metric::LateDeliveryShare,
            Estimate {
                n: 1000,
                low_ppm: late_ppm.saturating_sub(1000),
                point_ppm: late_ppm,
                high_ppm: late_ppm + 1000,
                is_void: false,
            },
        )],
        blame: Some(Blame {
            own: Some(OwnFault::ApplicationWrite),
            is_likely: true,
        }),
    }
}

const BAD: Option<u32> = Some(50_000);
const WELL: Option<u32> = Some(1_000);

#[test]
fn a_slow_disk_is_turned_away_from_at_once_and_taken_back_when_it_is_well() {
    let mut host = Host::new();
    host.goes_on(60, WELL).goes_on(1, BAD);
    assert!(host.weight() < 1000, "the first look at it moves");
    host.goes_on(3, BAD);
    assert_eq!(host.weight(), 900);
    let told = &host.told[0];
    assert_eq!(
        (told.kind, told.acts, told.id.as_str()),
        (Kind::TurnAway, true, "d1")
    );
    assert_eq!(
        told.reason,
        "late_delivery_share is 5.00 % [4.90, 5.10] of 1000, at or above 1.5 % for sure, and it is \
         this host's own fault (application write): turn away"
    );
    assert_eq!(told.expected.as_ref().map(|to| to.to_ppm), Some(7000));
    // Not before its effect can be seen.
    host.goes_on(8, BAD);
    assert_eq!(host.weight(), 900);
    host.goes_on(200, BAD);
    assert_eq!(host.weight(), 500, "the policy's floor");
    host.goes_on(900, WELL);
    assert!(host.position.settings.is_empty());
    assert_eq!(
        host.told
            .iter()
            .filter(|told| told.kind == Kind::TakeBack)
            .count(),
        1
    );
}

#[test]
fn what_is_decided_between_two_looks_begins_at_once_and_only_once() {
    let mut host = Host::new();
    host.goes_on(10, WELL);
    let begun_ns = moment(host.s).boot_ns;
    let mut weight_after = |ms: u64| {
        let now_ns = begun_ns + ms * 1_000_000;
        let inputs = Inputs {
            cells: vec![cell(50_000, now_ns)],
            ..Inputs::default()
        };
        let state = std::mem::take(&mut host.state);
        let (state, outcome) = decide(&host.rules, state, &inputs, now_ns);
        host.state = state;
        host.position = outcome.position;
        host.weight()
    };
    // 1/(e x 12 s) is 3.07 % a second; of that half a second's worth comes at once.
    assert_eq!(weight_after(20), 985);
    assert_eq!(weight_after(21), 985);
    assert_eq!(weight_after(40), 985);
    // And from then on the ramp's.
    assert_eq!(weight_after(520), 970);
    assert_eq!(weight_after(1020), 955);
}

#[test]
fn between_enter_and_exit_nothing_moves_and_another_ones_fault_moves_nothing() {
    let mut host = Host::new();
    host.goes_on(300, Some(12_000));
    assert!(host.told.is_empty());
    host.rules.policies[0].blame = vec![OwnFault::Think];
    host.goes_on(300, BAD);
    assert!(host.told.is_empty());
}

#[test]
fn a_hold_freezes_automation_and_its_end_lets_it_go_on() {
    let mut host = Host::new();
    host.goes_on(2, BAD);
    let held_at = host.weight();
    assert!((900..1000).contains(&held_at));
    let mut hold = order("h", Action::Hold);
    hold.ttl_s = 120;
    host.gives(hold);
    host.goes_on(119, BAD);
    assert_eq!(host.weight(), held_at);
    host.goes_on(30, BAD);
    assert!(host.weight() < held_at);
    assert!(host.kinds().contains(&Kind::Expire));
}

#[test]
fn a_humans_drain_is_done_in_its_ramp_and_ramps_back_when_it_ends() {
    let mut host = Host::new();
    host.goes_on(5, WELL);
    let mut drain = order("d", Action::Drain);
    (drain.ramp_s, drain.ttl_s) = (10, 60);
    host.gives(drain);
    host.goes_on(5, WELL);
    assert_eq!(host.weight(), 500);
    host.goes_on(54, WELL);
    assert_eq!(host.weight(), 0);
    host.goes_on(30, WELL);
    // A minute's way at the most, whatever the ramp there was.
    assert!((450..=520).contains(&host.weight()), "{}", host.weight());
    host.goes_on(40, WELL);
    assert_eq!(host.weight(), 1000);
    // Against automation too.
    host.gives(order("u", Action::Undrain));
    host.goes_on(100, BAD);
    assert_eq!(host.weight(), 1000);
}

#[test]
fn a_narrow_undrain_is_told_although_it_is_neutral() {
    let mut host = Host::new();
    let live = Scope::Service("live".to_owned());
    host.gives(order("d", Action::Drain));
    let mut undrain = order("u", Action::Undrain);
    undrain.scope = live.clone();
    host.gives(undrain);
    host.goes_on(1, WELL);
    let told: Vec<_> = host
        .position
        .settings
        .iter()
        .map(|own| (own.scope.clone(), own.weight_permille))
        .collect();
    assert_eq!(told, [(Scope::Host, 0), (live, 1000)]);
}

#[test]
fn numbers_that_stop_freeze_and_then_open() {
    let mut host = Host::new();
    host.goes_on(120, BAD).goes_on(3, None);
    let frozen_at = host.weight();
    host.goes_on(170, None);
    assert_eq!(host.weight(), frozen_at);
    assert!(host.kinds().contains(&Kind::Freeze));
    host.goes_on(100, None);
    let drifting = host.weight();
    assert!(drifting > frozen_at && drifting < 1000, "{drifting}");
    host.goes_on(200, None);
    assert_eq!(host.weight(), 1000);
    assert!(host.kinds().contains(&Kind::Drift));
}

#[test]
fn flapping_stays_where_it_is_and_asks_a_human() {
    let mut host = Host::new();
    for _ in 0..3 {
        host.goes_on(90, BAD).goes_on(200, WELL);
    }
    let suppressed: Vec<_> = host
        .told
        .iter()
        .filter(|told| told.kind == Kind::Suppress)
        .collect();
    assert_eq!(suppressed.len(), 1);
    assert!(suppressed[0].asks_human);
    let held_at = host.weight();
    assert!(held_at < 1000);
    host.goes_on(300, WELL);
    assert_eq!(host.weight(), held_at);
    // Half an hour forgives.
    host.goes_on(3600, WELL);
    assert!(host.kinds().contains(&Kind::Reuse));
    assert_eq!(host.weight(), 1000);
}

#[test]
fn what_hurts_is_undone_and_paged_and_not_tried_again_soon() {
    let mut host = Host::new();
    host.goes_on(100, BAD);
    let told = Hurt {
        by: "own".to_owned(),
        scope: Scope::Host,
        why: "hurt: +3.00 points".to_owned(),
    };
    host.s += 1;
    host.decides(&Inputs {
        hurt: vec![told],
        ..Inputs::default()
    });
    let undo = host.told.last().unwrap();
    assert_eq!(
        (undo.kind, undo.asks_human, undo.to_permille),
        (Kind::Undo, true, 1000)
    );
    host.goes_on(60, BAD);
    assert_eq!(host.weight(), 1000);
    host.goes_on(1700, BAD);
    assert_eq!(host.weight(), 1000);
    host.goes_on(60, BAD);
    assert!(host.weight() < 1000);
}

#[test]
fn an_order_that_hurts_is_taken_back_if_its_author_wants_it_so() {
    let mut host = Host::new();
    host.gives(order("d", Action::Drain));
    host.goes_on(2, WELL);
    assert_eq!(host.weight(), 0);
    host.s += 1;
    host.decides(&Inputs {
        hurt: vec![Hurt {
            by: "d".to_owned(),
            scope: Scope::Host,
            why: "hurt".to_owned(),
        }],
        ..Inputs::default()
    });
    assert!(host.state.book.orders().is_empty());
    host.goes_on(70, WELL);
    assert_eq!(host.weight(), 1000);
}

#[test]
fn a_cap_alone_turns_nobody_away() {
    let mut host = Host::new();
    host.rules.policies[0].floor_permille = 1000;
    host.rules.policies[0].cap_kbps = Some(3000);
    host.goes_on(30, BAD);
    let [setting] = &host.position.settings[..] else {
        panic!("{:?}", host.position);
    };
    assert_eq!(
        (setting.weight_permille, setting.cap_bps),
        (1000, Some(3_000_000))
    );
    host.goes_on(300, WELL);
    assert!(host.position.settings.is_empty(), "{:?}", host.position);
}

#[test]
fn advice_is_told_once_and_moves_nothing() {
    let mut host = Host::new();
    host.rules.is_armed = false;
    host.goes_on(600, BAD);
    assert_eq!(host.kinds(), [Kind::TurnAway]);
    assert!(!host.told[0].acts);
    assert_eq!(host.position, Position::default());
    // Armed, it goes on from there.
    host.rules.is_armed = true;
    host.goes_on(30, BAD);
    assert!(host.weight() < 1000);
    // And disarmed it gives back.
    host.rules.is_armed = false;
    host.goes_on(60, BAD);
    assert_eq!(host.weight(), 1000);
}

#[test]
fn a_policy_that_is_taken_out_of_the_configuration_opens() {
    let mut host = Host::new();
    host.goes_on(100, BAD);
    assert!(host.weight() < 1000);
    host.rules.policies.clear();
    host.goes_on(60, BAD);
    assert!(host.position.settings.is_empty());
}
