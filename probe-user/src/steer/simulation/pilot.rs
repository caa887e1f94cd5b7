//! Who decides: nobody, a naive threshold, or weir's own policy, one state for each host.

use super::fleet::{Seen, Shown};
use super::{Options, Pilot};
use crate::qoe::blame::WHOLE_PPM;
use crate::steer::Scope;
use crate::steer::policy::input::{Blame, CellInput, DrainToken, Estimate, Pool};
use crate::steer::policy::rules::{Metric, Moves, OwnFault, Policy, Rules, SECOND_NS};
use crate::steer::policy::{Inputs, State, decide};

const ENTER: f64 = 0.015;
const EXIT: f64 = 0.007;
/// Between two looks of the naive one.
const NAIVE_S: u32 = 5;

pub(super) struct Pilots {
    pilot: Pilot,
    rules: Rules,
    states: Vec<State>,
    weights: Vec<f64>,
    looked_s: u32,
    asked_human: u32,
}

impl Pilots {
    pub(super) fn new(pilot: Pilot, options: &Options) -> Self {
        let mut policy = Policy::new("simulated", Metric::LateDeliveryShare, 15, 7);
        policy.is_armed = true;
        policy.moves = Moves::Host;
        policy.dead_time_s = options.dead_time_s;
        Self {
            pilot,
            rules: Rules {
                is_armed: true,
                policies: vec![policy],
                ..Rules::default()
            },
            states: vec![State::default(); options.hosts],
            weights: vec![1.0; options.hosts],
            looked_s: 0,
            asked_human: 0,
        }
    }

    pub(super) fn asked_human(&self) -> u32 {
        self.asked_human
    }

    pub(super) fn decide(&mut self, shown: &Shown) -> Vec<f64> {
        match self.pilot {
            Pilot::None => {}
            Pilot::Naive => self.naive(shown),
            Pilot::Weir => self.weir(shown),
        }
        self.weights.clone()
    }

    fn naive(&mut self, shown: &Shown) {
        if shown.now_s < self.looked_s + NAIVE_S {
            return;
        }
        self.looked_s = shown.now_s;
        for (weight, seen) in self.weights.iter_mut().zip(&shown.hosts) {
            if seen.late > ENTER {
                *weight = 0.0;
            } else if seen.late < EXIT {
                *weight = 1.0;
            }
        }
    }

    fn weir(&mut self, shown: &Shown) {
        let hosts = shown.hosts.len();
        let now_ns = u64::from(shown.now_s) * SECOND_NS;
        let well = shown.hosts.iter().filter(|seen| seen.late <= ENTER).count();
        // The centre lends to a tenth of the hosts, those first that are lowest already.
        let mut lowest: Vec<_> = (0..hosts).collect();
        lowest.sort_by(|a, b| self.weights[*a].total_cmp(&self.weights[*b]));
        let lent = &lowest[..hosts / 10];
        for host in 0..hosts {
            let pool = Pool {
                heard_boot_ns: now_ns,
                healthy_ppm: share_ppm(well, hosts),
                own_ppm: share_ppm(1, hosts),
                spare_ppm: None,
                token: lent.contains(&host).then(|| DrainToken {
                    floor_permille: 0,
                    until_boot_ns: now_ns + 10 * SECOND_NS,
                }),
                region_weight_permille: None,
            };
            let inputs = Inputs {
                cells: vec![cell(&shown.hosts[host])],
                pool: Some(pool),
                ..Inputs::default()
            };
            let state = std::mem::take(&mut self.states[host]);
            let (state, outcome) = decide(&self.rules, state, &inputs, now_ns);
            let asks = outcome.decisions.iter().filter(|told| told.asks_human);
            self.asked_human += u32::try_from(asks.count()).unwrap_or(u32::MAX);
            // As an actuator holds it: in thousandths.
            let permille = outcome
                .position
                .settings
                .iter()
                .find(|own| own.scope == Scope::Host);
            self.weights[host] = permille.map_or(1.0, |own| f64::from(own.weight_permille) / 1e3);
            self.states[host] = state;
        }
    }
}

fn share_ppm(part: usize, whole: usize) -> u32 {
    let ppm = part as u64 * u64::from(WHOLE_PPM) / whole.max(1) as u64;
    u32::try_from(ppm).unwrap_or(WHOLE_PPM)
}

fn cell(seen: &Seen) -> CellInput {
    let deviation = (seen.late * (1.0 - seen.late) / seen.n.max(1) as f64).sqrt();
    let ppm = |share: f64| {
        let ppm = super::measure::whole((share.clamp(0.0, 1.0) * 1e6).round());
        u32::try_from(ppm).unwrap_or(WHOLE_PPM)
    };
    let estimate = Estimate {
        n: seen.n,
        low_ppm: ppm(seen.late - 2.0 * deviation),
        point_ppm: ppm(seen.late),
        high_ppm: ppm(seen.late + 2.0 * deviation),
        is_void: false,
    };
    CellInput {
        name: "live/segment/other/tcp4".to_owned(),
        service: "live".to_owned(),
        class: "segment".to_owned(),
        network: "other".to_owned(),
        measured_boot_ns: u64::from(seen.at_s) * SECOND_NS,
        metrics: vec![(Metric::LateDeliveryShare, estimate)],
        blame: Some(Blame {
            own: seen.is_own_fault.then_some(OwnFault::Think),
            is_likely: true,
        }),
    }
}
