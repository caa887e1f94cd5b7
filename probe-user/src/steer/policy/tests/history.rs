//! Random histories of a host: what is measured, ordered and broken, with time that jumps, numbers
//! that lie and a daemon that restarts in the midst.

use fastrand::Rng;

use crate::qoe::blame::WHOLE_PPM;
use crate::steer::Scope;
use crate::steer::overrides::{Action, Auth, Book, Level, Moment, Order};
use crate::steer::policy::input::{Blame, Capacity, CellInput, DrainToken, Estimate, Hurt, Pool};
use crate::steer::policy::rules::{Bounds, Metric, Moves, OwnFault, Policy, Rules, SECOND_NS};
use crate::steer::policy::{Inputs, Outcome, State, decide};

/// Histories for each property, unless `WEIR_HISTORIES` says otherwise.
const HISTORIES: u64 = 300;
const STEPS: u32 = 120;
const SERVICES: [&str; 2] = ["live", "vod"];
const NETWORKS: [&str; 2] = ["isp", "other"];

/// One call, with what was before and after it.
pub(super) struct Step<'a> {
    pub(super) rules: &'a Rules,
    pub(super) before: &'a State,
    pub(super) after: &'a State,
    pub(super) inputs: &'a Inputs,
    pub(super) outcome: &'a Outcome,
    pub(super) now_ns: u64,
    /// Since the call before; negative jumps are none.
    pub(super) dt_ns: u64,
    /// The daemon was started between the two.
    pub(super) is_restarted: bool,
}

impl Step<'_> {
    /// Every scope that had or has a setting.
    pub(super) fn scopes(&self) -> Vec<Scope> {
        let all = self.before.settings.iter().chain(&self.after.settings);
        let mut scopes: Vec<_> = all.map(|own| own.scope.clone()).collect();
        scopes.sort();
        scopes.dedup();
        scopes
    }

    pub(super) fn was(&self, scope: &Scope) -> u32 {
        self.before.stands(scope).weight_ppm
    }

    pub(super) fn is(&self, scope: &Scope) -> u32 {
        self.after.stands(scope).weight_ppm
    }
}

/// Counts what happened, so that no property holds because nothing did.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) histories: u64,
    pub(super) steps: u64,
    pub(super) turned_away: u64,
    pub(super) orders: u64,
    pub(super) restarts: u64,
}

/// A host in a random history.
pub(super) struct Host {
    pub(super) rng: Rng,
    pub(super) rules: Rules,
    pub(super) state: State,
    pub(super) clock: Moment,
    orders: u64,
    /// Share of bad in each cell, which walks.
    ill_ppm: Vec<u32>,
    pool: Option<Pool>,
    last: Inputs,
    /// Ill for long, allowed all: so that the last of it is reached too.
    is_extreme: bool,
}

impl Host {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut rules = rules(&mut rng);
        let is_extreme = rng.u32(0..4) == 0;
        if is_extreme {
            go_to_extremes(&mut rules);
        }
        let clock = Moment {
            boot_ns: rng.u64(0..1000) * SECOND_NS,
            unix_ns: 1_700_000_000 * SECOND_NS,
            boot_id: "first".to_owned(),
        };
        Self {
            rules,
            state: State::default(),
            clock,
            orders: 0,
            ill_ppm: vec![0; SERVICES.len() * NETWORKS.len()],
            pool: None,
            last: Inputs::default(),
            is_extreme,
            rng,
        }
    }

    fn pass(&mut self) {
        let ns = match self.rng.u32(0..40) {
            0 => 0,
            1 => self.rng.u64(1..5_000_000),
            2 => self.rng.u64(1..400) * SECOND_NS,
            3 => {
                // Not what the kernel's clock does, but it must not matter.
                let back = self.rng.u64(0..60) * SECOND_NS;
                self.clock.boot_ns = self.clock.boot_ns.saturating_sub(back);
                return;
            }
            4..=9 => self.rng.u64(50..200) * 1_000_000,
            _ => self.rng.u64(500..4000) * 1_000_000,
        };
        self.clock.boot_ns += ns;
        self.clock.unix_ns += ns;
    }

    fn inputs(&mut self) -> Inputs {
        if self.rng.u32(0..12) == 0 {
            // The same once more, which grows old.
            return Inputs {
                is_panic: false,
                hurt: Vec::new(),
                ..self.last.clone()
            };
        }
        let now_ns = self.clock.boot_ns;
        let rng = &mut self.rng;
        let mut cells = Vec::new();
        for (n, ill) in self.ill_ppm.iter_mut().enumerate() {
            match rng.u32(0..30) {
                1..=29 if self.is_extreme => *ill = 300_000,
                0 => *ill = rng.u32(0..WHOLE_PPM),
                1..=3 => *ill = 0,
                4 | 5 => *ill = rng.u32(10_000..100_000),
                _ => {}
            }
            if rng.u32(0..20) > 0 {
                cells.push(cell(rng, n, *ill, now_ns));
            }
        }
        if rng.u32(0..25) == 0 {
            self.pool = (rng.u32(0..3) > 0).then(|| pool(rng, now_ns));
            if let Some(pool) = self.pool.as_mut().filter(|_| self.is_extreme) {
                pool.healthy_ppm = WHOLE_PPM;
                pool.own_ppm = 1000;
                pool.token = Some(DrainToken {
                    floor_permille: 0,
                    until_boot_ns: now_ns + rng.u64(0..60) * SECOND_NS,
                });
            }
        }
        if let Some(pool) = &mut self.pool
            && rng.u32(0..4) > 0
        {
            pool.heard_boot_ns = now_ns;
        }
        let hurt = self.state.gates.first().filter(|_| rng.u32(0..40) == 0);
        let hurt = hurt.map(|gate| Hurt {
            by: gate.policy.clone(),
            scope: gate.scope.clone(),
            why: "e = 40".to_owned(),
        });
        self.last = Inputs {
            cells,
            capacity: (rng.u32(0..2) == 0).then(|| Capacity {
                measured_boot_ns: now_ns,
                used_ppm: rng.u32(0..1_500_000),
            }),
            pool: self.pool,
            hurt: hurt.into_iter().collect(),
            is_panic: rng.u32(0..150) == 0,
        };
        self.last.clone()
    }

    /// Gives an order, which may be refused.
    fn order(&mut self) -> bool {
        let rng = &mut self.rng;
        self.orders += 1;
        let level = [
            Level::OnHostHuman,
            Level::CentralHuman,
            Level::CentralAutomation,
        ][rng.usize(0..3)];
        let permille = rng.u16(0..=1100);
        let action = match rng.u32(0..10) {
            0 | 1 => Action::Hold,
            2 | 3 => Action::Weight { permille },
            4 => Action::Drain,
            5 => Action::Undrain,
            6 => Action::Pin {
                permille: rng.bool().then_some(permille),
            },
            7 => Action::CapBitrate { bps: 3_000_000 },
            8 => Action::Shed { permille },
            _ => Action::Release { order: None },
        };
        let scope = scopes()[rng.usize(0..scopes().len())].clone();
        let generation = match level {
            Level::OnHostHuman => 0,
            // Now and then out of order.
            level => (self.state.book.next_generation(level) + rng.u64(0..3)).saturating_sub(1),
        };
        let order = Order {
            id: format!("o{}", self.orders - u64::from(rng.u32(0..20) == 0)),
            generation,
            scope,
            action,
            level,
            actor: "somebody".to_owned(),
            auth: Auth::Uid {
                uid: 1000,
                tty: None,
            },
            second: None,
            reason: "because".to_owned(),
            created_unix_ns: self.clock.unix_ns - rng.u64(0..400) * SECOND_NS,
            ttl_s: rng.u32(1..1200),
            ramp_s: [0, 0, 10, 60][rng.usize(0..4)],
            expect: None,
            on_fail: crate::steer::overrides::order::OnFail::Revert,
            is_break_glass: level.is_human() && rng.u32(0..6) == 0,
            prev_hash: None,
        };
        self.state.book.admit(order, &self.clock).is_ok()
    }

    /// The daemon ends and starts; sometimes with the whole host.
    fn restart(&mut self) {
        let kept = self.clock.clone();
        if self.rng.bool() {
            let down_ns = self.rng.u64(0..300) * SECOND_NS;
            self.clock = Moment {
                boot_ns: self.rng.u64(0..30) * SECOND_NS,
                unix_ns: kept.unix_ns + down_ns,
                boot_id: format!("{}'", kept.boot_id),
            };
            self.last = Inputs::default();
            self.pool = None;
        }
        let book: Book = self.state.book.clone().restored(&kept, &self.clock);
        let generation = self.state.position.generation;
        self.state = State::resumed(book, generation, self.state.decisions);
    }
}

/// How many histories a property is shown.
pub(super) fn count() -> u64 {
    let count = std::env::var("WEIR_HISTORIES").ok();
    count.map_or(HISTORIES, |text| {
        text.parse().expect("WEIR_HISTORIES is a number")
    })
}

/// Runs histories and shows each step.
pub(super) fn histories(salt: u64, mut check: impl FnMut(&Step)) -> Tally {
    let mut tally = Tally::default();
    for n in 0..count() {
        let mut host = Host::new(salt.wrapping_mul(1 << 32).wrapping_add(n));
        tally.histories += 1;
        run(&mut host, &mut tally, &mut check);
    }
    println!("{tally:?}");
    assert!(
        tally.turned_away * 2 > tally.histories && tally.orders > tally.histories,
        "histories in which too little happens show nothing: {tally:?}"
    );
    tally
}

/// One history. What it does to the host is to be seen in the host.
pub(super) fn run(host: &mut Host, tally: &mut Tally, check: &mut impl FnMut(&Step)) {
    for _ in 0..STEPS {
        host.pass();
        let mut is_restarted = false;
        if host.rng.u32(0..100) == 0 {
            host.restart();
            is_restarted = true;
            tally.restarts += 1;
        }
        if host.rng.u32(0..25) == 0 && host.order() {
            tally.orders += 1;
        }
        let inputs = host.inputs();
        step(host, &inputs, is_restarted, tally, check);
    }
}

/// One call of `decide`, shown.
pub(super) fn step(
    host: &mut Host,
    inputs: &Inputs,
    is_restarted: bool,
    tally: &mut Tally,
    check: &mut impl FnMut(&Step),
) {
    let before = host.state.clone();
    let now_ns = host.clock.boot_ns;
    let (after, outcome) = decide(&host.rules, before.clone(), inputs, now_ns);
    tally.steps += 1;
    let is_away = |d: &&crate::steer::policy::Decision| d.kind == super::super::Kind::TurnAway;
    tally.turned_away += outcome.decisions.iter().filter(is_away).count() as u64;
    check(&Step {
        rules: &host.rules,
        before: &before,
        after: &after,
        inputs,
        outcome: &outcome,
        now_ns: after.now_ns,
        dt_ns: after.now_ns.saturating_sub(before.now_ns),
        is_restarted,
    });
    host.state = after;
}

fn scopes() -> Vec<Scope> {
    vec![
        Scope::Host,
        Scope::Service("live".to_owned()),
        Scope::Service("vod".to_owned()),
        Scope::Cell("live/segment/isp/tcp4".to_owned()),
        Scope::Prefix("198.51.100.0/24".parse().unwrap()),
        Scope::Prefix("198.51.100.0/25".parse().unwrap()),
    ]
}

fn rules(rng: &mut Rng) -> Rules {
    let policy = |rng: &mut Rng, n: usize| {
        let mut policy = Policy::new(&format!("p{n}"), Metric::LateDeliveryShare, 15, 7);
        policy.is_armed = rng.u32(0..5) > 0;
        policy.moves = Moves::ALL[rng.usize(0..3)];
        policy.selector.service = (rng.bool()).then(|| SERVICES[rng.usize(0..2)].to_owned());
        policy.dwell_s = [0, 10, 60][rng.usize(0..3)];
        policy.dead_time_s = [1, 12, 300][rng.usize(0..3)];
        policy.step_permille = [50, 100, 400, 1000][rng.usize(0..4)];
        policy.floor_permille = [0, 300, 500, 1000][rng.usize(0..4)];
        policy.cap_kbps = (rng.u32(0..3) == 0).then_some(3000);
        if rng.bool() {
            policy.blame = Vec::new();
        }
        policy
    };
    Rules {
        is_armed: rng.u32(0..8) > 0,
        policies: (0..rng.usize(1..4)).map(|n| policy(rng, n)).collect(),
        bounds: Bounds {
            min_healthy_permille: rng.u32(0..=1000),
            max_drain_permille: rng.u32(0..=1000),
            control_permille: rng.u32(20..=50),
        },
    }
}

/// Nothing but the invariants stands in the way.
fn go_to_extremes(rules: &mut Rules) {
    rules.is_armed = true;
    rules.bounds.max_drain_permille = 1000;
    for policy in &mut rules.policies {
        policy.is_armed = true;
        policy.floor_permille = 0;
        policy.step_permille = 1000;
        policy.dead_time_s = 1;
        policy.min_n = 1;
        policy.blame = Vec::new();
    }
}

fn cell(rng: &mut Rng, n: usize, ill_ppm: u32, now_ns: u64) -> CellInput {
    let (service, network) = (SERVICES[n % 2], NETWORKS[n / 2]);
    let half = rng.u32(0..5000);
    let mut estimate = Estimate {
        n: [0, 50, 1000, 100_000, u64::MAX][rng.usize(0..5).max(rng.usize(0..5))],
        low_ppm: ill_ppm.saturating_sub(half),
        point_ppm: ill_ppm,
        high_ppm: (ill_ppm + half).min(WHOLE_PPM),
        is_void: rng.u32(0..30) == 0,
    };
    if rng.u32(0..60) == 0 {
        // A liar.
        estimate.low_ppm = rng.u32(..);
        estimate.point_ppm = rng.u32(..);
    }
    let measured_boot_ns = match rng.u32(0..30) {
        0 => rng.u64(..),
        1 => now_ns.saturating_sub(rng.u64(0..400) * SECOND_NS),
        _ => now_ns.saturating_sub(rng.u64(0..2) * SECOND_NS),
    };
    CellInput {
        name: format!("{service}/segment/{network}/tcp4"),
        service: service.to_owned(),
        class: "segment".to_owned(),
        network: network.to_owned(),
        measured_boot_ns,
        metrics: vec![(Metric::LateDeliveryShare, estimate)],
        blame: (rng.u32(0..10) > 0).then(|| Blame {
            own: (rng.u32(0..5) > 0).then_some(OwnFault::Think),
            is_likely: rng.u32(0..8) > 0,
        }),
    }
}

fn pool(rng: &mut Rng, now_ns: u64) -> Pool {
    Pool {
        heard_boot_ns: now_ns,
        healthy_ppm: [0, 400_000, 600_000, 800_000, WHOLE_PPM, u32::MAX][rng.usize(0..6)],
        own_ppm: [0, 1000, 50_000, 200_000, WHOLE_PPM][rng.usize(0..5)],
        spare_ppm: rng.bool().then(|| rng.u32(0..WHOLE_PPM)),
        token: rng.bool().then(|| DrainToken {
            floor_permille: rng.u16(0..1200),
            until_boot_ns: now_ns + rng.u64(0..120) * SECOND_NS,
        }),
        region_weight_permille: (rng.u32(0..3) == 0).then(|| rng.u16(0..1200)),
    }
}
