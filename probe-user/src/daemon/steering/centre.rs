//! What the centre wants of the gates and says of the pool, and what it is told of them.

use tokio::sync::mpsc;
use weir_proto::v1;
use weir_proto::v1::command::What;

use super::{Decider, WrittenFirst};
use crate::query::steering::{Denial, Orders, Outcome, ToCentre};
use crate::steer::Scope;
use crate::steer::journal::Body;
use crate::steer::overrides::book::MAX_AHEAD_NS;
use crate::steer::overrides::roles::Reach;
use crate::steer::overrides::{Action, Level, Order, Refusal};
use crate::steer::policy::gate::{Gate, Phase};
use crate::steer::policy::input::Pool;
use crate::steer::policy::invariants::{Invariant, SOFT_FLOOR_PPM};
use crate::steer::policy::rules::SECOND_NS;
use crate::uplink::Commanded;
use crate::wire::central as wire;

/// What the decider remembers of it.
#[derive(Debug, Default)]
pub(super) struct CentreSaid {
    /// The rebalance whose share is in force, or was refused, so that each is written down once.
    region: Option<(String, bool)>,
}

/// Passes on what the centre says, one after the other, until it says no more. `is_certified`: both
/// sides of the connection have shown who they are; otherwise anybody could speak.
pub(in crate::daemon) async fn obey(
    mut commands: mpsc::Receiver<Commanded>,
    orders: Orders,
    is_certified: bool,
) {
    while let Some(commanded) = commands.recv().await {
        let answer = if is_certified {
            pass_on(&commanded.command, &orders).await
        } else {
            let why = "commands are taken over connections with certificates alone";
            orders.unusable(why.to_owned());
            Some(refused(why.to_owned()))
        };
        if let Some(answer) = answer {
            commanded.answer(&answer);
        }
    }
}

fn refused(why: String) -> ToCentre {
    ToCentre {
        outcome: Outcome::Refused,
        why,
        generation: 0,
        hash: None,
    }
}

/// None: there is nothing to be answered.
async fn pass_on(command: &v1::Command, orders: &Orders) -> Option<ToCentre> {
    let (answered, is_awaited) = match &command.what {
        Some(What::Order(order)) => match wire::order(order) {
            Ok((order, reach)) => (orders.central(order, reach).await, true),
            Err(why) => {
                orders.unusable(why.clone());
                return Some(refused(why));
            }
        },
        Some(What::Pool(word)) => match wire::pool(word) {
            Ok((pool, region)) => {
                let is_awaited = region.is_some();
                (orders.pool(pool, region).await, is_awaited)
            }
            Err(why) => {
                orders.unusable(why);
                return None;
            }
        },
        None => return Some(refused("this host knows no such command".to_owned())),
    };
    let answer = answered.unwrap_or_else(|denial| ToCentre {
        outcome: match denial {
            Denial::Busy => Outcome::Busy,
            _ => Outcome::Failed,
        },
        ..refused(denial.to_string())
    });
    is_awaited.then_some(answer)
}

impl Decider {
    /// Takes an order of the centre's, or says why not; either way it is written down.
    pub(super) async fn central(&mut self, order: Order, reach: Reach) -> ToCentre {
        let level = order.level;
        let now_ns = self.clock.now().boot_ns;
        let is_panic = order.action == Action::Panic;
        let (outcome, why) = if is_panic || self.desk.has_room(now_ns) {
            match self.order(order, reach).await {
                Ok(taken) => match taken.waits {
                    None => (Outcome::Done, String::new()),
                    // It can be approved here; the centre is not to count on it.
                    Some(why) => (Outcome::Refused, format!("it waits at the host: {why}")),
                },
                Err(denial) => (outcome(&denial), denial.to_string()),
            }
        } else {
            (
                Outcome::Busy,
                "more orders came than one a second".to_owned(),
            )
        };
        self.answer(outcome, why, level)
    }

    fn answer(&self, outcome: Outcome, why: String, level: Level) -> ToCentre {
        let book = &self.state.book;
        ToCentre {
            outcome,
            why,
            generation: book.next_generation(level).saturating_sub(1),
            hash: book.latest_hash(level).map(str::to_owned),
        }
    }

    /// What the centre says of the pool.
    pub(super) async fn pool(&mut self, pool: Pool, region: Option<Order>) -> ToCentre {
        let mut bodies = Vec::new();
        let wanted = match region {
            None => {
                if let Some((id, true)) = self.centre.region.take() {
                    bodies.push(Body::Note(format!(
                        "the rebalance {id} wants nothing any longer"
                    )));
                }
                Ok(None)
            }
            Some(order) => self.region(order, &mut bodies).await,
        };
        let region_weight_permille = wanted.as_ref().ok().copied().flatten();
        self.inputs.pool = Some(Pool {
            region_weight_permille,
            ..pool
        });
        let now = self.clock.now();
        let first = WrittenFirst {
            bodies,
            ..WrittenFirst::default()
        };
        self.decide_and_hold(first, &now).await;
        match wanted {
            Ok(_) => self.answer(Outcome::Done, String::new(), Level::CentralHuman),
            Err(why) => self.answer(Outcome::Refused, why, Level::CentralHuman),
        }
    }

    /// What a rebalance wants, if its author may want it here.
    async fn region(
        &mut self,
        order: Order,
        bodies: &mut Vec<Body>,
    ) -> Result<Option<u16>, String> {
        let now = self.clock.now();
        let end_ns = order
            .created_unix_ns
            .saturating_add(u64::from(order.ttl_s) * SECOND_NS);
        let allowed = if now.unix_ns > end_ns.saturating_add(MAX_AHEAD_NS) {
            Err(Denial::Refused(format!(
                "the {} s of {} are over",
                order.ttl_s, order.id
            )))
        } else {
            let authorised = self.roles.authorise(&order, Reach::Region);
            authorised.map_err(|denied| Denial::Unauthorised(denied.to_string()))
        };
        let news = (order.id.clone(), allowed.is_ok());
        let is_new = self.centre.region.as_ref() != Some(&news);
        self.centre.region = Some(news);
        match allowed {
            Ok(()) => {
                let permille = order.action.weight_permille().unwrap_or(1000);
                if is_new {
                    bodies.push(Body::Note(format!(
                        "the rebalance {} by {} wants {permille} permille here: {}",
                        order.id, order.actor, order.reason
                    )));
                }
                Ok(Some(permille))
            }
            Err(denial) if is_new => Err(self.refuse(&order, denial, &now).await.to_string()),
            Err(denial) => Err(denial.to_string()),
        }
    }

    /// Writes down that the centre, or who takes its place, has said what cannot be used.
    pub(super) async fn unusable(&mut self, why: &str) {
        tracing::warn!("refused what the centre said: {why}");
        let now_ns = self.clock.now().boot_ns;
        if self.desk.may_write_refusal(now_ns) {
            self.write(vec![Body::Refused {
                who: "the centre".to_owned(),
                what: "a command".to_owned(),
                why: why.to_owned(),
            }])
            .await;
        }
    }

    /// How the gate stands, for the next frame.
    pub(super) fn tell_the_centre(&self) {
        let gates = self.state.gates.iter();
        let turned = gates.filter(|gate| gate.phase != Phase::Rest);
        let lowest_ppm = turned.map(|gate: &Gate| gate.weight_ppm).min();
        let lowest_ppm = lowest_ppm.unwrap_or(1_000_000).min(1_000_000);
        let of_host = self
            .held
            .settings
            .iter()
            .find(|setting| setting.scope == Scope::Host);
        let weight_permille = of_host.map_or(1000, |setting| setting.weight_permille);
        let word = v1::GateWord {
            boot_ns: self.clock.now().boot_ns,
            generation: self.held.generation,
            weight_permille: weight_permille.into(),
            automatic_permille: (1_000_000 - lowest_ppm) / 1000,
            wants_floor_permille: self.wants_floor_permille(lowest_ppm),
            armed: self.rules.is_armed,
            panicking: self.state.is_panicking,
        };
        self.ends.gate.send_replace(Some(word));
    }

    /// Down to where automation would go, if what keeps it from there is the want of a token.
    fn wants_floor_permille(&self, lowest_ppm: u32) -> u32 {
        let mut bound = self.state.bound.iter();
        let is_bound = bound.any(|(_, invariant)| *invariant == Invariant::DrainTokens);
        if !self.rules.is_armed || !(is_bound || lowest_ppm < SOFT_FLOOR_PPM) {
            return 1000;
        }
        let armed = self.rules.policies.iter().filter(|own| own.is_armed);
        let floor = armed.map(|own| own.floor_permille).min();
        floor.unwrap_or(1000)
    }
}

fn outcome(denial: &Denial) -> Outcome {
    match denial {
        // It came before, and was taken.
        Denial::Book(Refusal::Replayed { .. }) => Outcome::Done,
        Denial::Book(Refusal::ChainBroken { .. } | Refusal::Reordered { .. }) => Outcome::Elsewhere,
        Denial::Book(_) | Denial::Unauthorised(_) | Denial::Refused(_) => Outcome::Refused,
        Denial::Busy => Outcome::Busy,
        Denial::Unwritten(_) | Denial::NoGate => Outcome::Failed,
    }
}
