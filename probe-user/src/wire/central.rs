//! What a collector says to a host's gate, and what it is answered.

use weir_proto::v1;

use super::steer::checked_id;
use crate::query::steering::{Outcome, ToCentre};
use crate::steer::Scope;
use crate::steer::overrides::roles::Reach;
use crate::steer::overrides::{Action, Auth, Level, Order};
use crate::steer::policy::input::{DrainToken, Pool};

/// An order's texts are bounded, and there are few of them.
const MAX_ORDER_BYTES: usize = 16 << 10;
const WHOLE_PPM: u32 = 1_000_000;

/// An order as the centre has it; whether its author may give it and whether it can be taken is for
/// others to say.
///
/// # Errors
/// It is none of the centre's, in words.
pub fn order(said: &v1::CentralOrder) -> Result<(Order, Reach), String> {
    let order = read(&said.json)?;
    let is_its = |reach: &Reach| reach.as_str() == said.reach;
    let reach = Reach::ALL.into_iter().find(is_its);
    let reach = reach.ok_or_else(|| format!("{:?} is no reach", said.reach))?;
    if order.generation == 0 {
        return Err(format!("the order {} has no generation", order.id));
    }
    Ok((order, reach))
}

fn read(json: &str) -> Result<Order, String> {
    if json.len() > MAX_ORDER_BYTES {
        return Err(format!(
            "an order of {} bytes is too long (at most {MAX_ORDER_BYTES})",
            json.len()
        ));
    }
    let order: Order =
        serde_json::from_str(json).map_err(|err| format!("what came is no order: {err}"))?;
    checked_id(&order.id)?;
    if let Action::Release { order: Some(id) } = &order.action {
        checked_id(id)?;
    }
    // Whom this host's kernel or policies vouch for, no collector does.
    let is_known = |auth: &Auth| matches!(auth, Auth::Certificate { .. });
    let is_central = match order.level {
        Level::CentralHuman => is_known(&order.auth),
        Level::CentralAutomation => matches!(order.auth, Auth::Policy { .. }),
        Level::OnHostHuman | Level::LocalAutomation => false,
    };
    if !is_central
        || order
            .second
            .as_ref()
            .is_some_and(|second| !is_known(second))
    {
        return Err(format!(
            "the order {} is one of the {} by {}, which the centre cannot give",
            order.id,
            order.level.as_str(),
            super::steer::auth(&order.auth)
        ));
    }
    Ok(order)
}

/// The centre's word on the pool, and what a rebalance wants.
///
/// # Errors
/// It says what cannot be.
pub fn pool(said: &v1::PoolWord) -> Result<(Pool, Option<Order>), String> {
    let shares = [said.healthy_ppm, said.own_ppm, said.spare_ppm.unwrap_or(0)];
    if shares.iter().any(|ppm| *ppm > WHOLE_PPM) {
        return Err(format!(
            "shares of a pool of {shares:?} millionths cannot be"
        ));
    }
    let token = said.token.map(|token| {
        let floor = u16::try_from(token.floor_permille).unwrap_or(u16::MAX);
        DrainToken {
            floor_permille: floor.min(1000),
            until_boot_ns: token.until_boot_ns,
        }
    });
    let region = said.region.as_ref().map(region).transpose()?;
    let pool = Pool {
        heard_boot_ns: said.as_of_boot_ns,
        healthy_ppm: said.healthy_ppm,
        own_ppm: said.own_ppm,
        spare_ppm: said.spare_ppm,
        token,
        region_weight_permille: None,
    };
    Ok((pool, region))
}

/// What is done is what the order says, for that is what its author answers for.
fn region(said: &v1::RegionWeight) -> Result<Order, String> {
    let order = read(&said.order_json)?;
    let is_it = matches!(order.action, Action::Weight { permille } if u32::from(permille) == said.weight_permille);
    if !is_it || order.scope != Scope::Host || order.level != Level::CentralHuman {
        return Err(format!("the order {} is no rebalance", order.id));
    }
    Ok(order)
}

/// The answer to a command.
pub fn answer(to: &v1::Command, answer: &ToCentre, unix_ns: u64) -> v1::CommandResult {
    let outcome = match answer.outcome {
        Outcome::Done => v1::CommandOutcome::Done,
        Outcome::Refused => v1::CommandOutcome::Refused,
        Outcome::Failed => v1::CommandOutcome::Failed,
        Outcome::Elsewhere => v1::CommandOutcome::Elsewhere,
        Outcome::Busy => v1::CommandOutcome::Busy,
    };
    v1::CommandResult {
        id: to.id.clone(),
        outcome: outcome.into(),
        reason: answer.why.clone(),
        unix_ns,
        number: to.number,
        generation: answer.generation,
        hash: answer.hash.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steer::overrides::order::OnFail;

    fn given() -> Order {
        Order {
            id: "o1".to_owned(),
            generation: 7,
            scope: Scope::Host,
            action: Action::Weight { permille: 700 },
            level: Level::CentralHuman,
            actor: "noc".to_owned(),
            auth: Auth::Certificate {
                name: "noc".to_owned(),
            },
            second: None,
            reason: "because".to_owned(),
            created_unix_ns: 1,
            ttl_s: 60,
            ramp_s: 0,
            expect: None,
            on_fail: OnFail::Revert,
            is_break_glass: false,
            prev_hash: None,
        }
    }

    fn said(order: &Order) -> v1::CentralOrder {
        v1::CentralOrder {
            json: serde_json::to_string(order).unwrap(),
            reach: "region".to_owned(),
        }
    }

    #[test]
    fn an_order_comes_over_as_it_was_given() {
        let (came, reach) = order(&said(&given())).unwrap();
        assert_eq!((came.hash(), reach), (given().hash(), Reach::Region));
    }

    #[test]
    fn nobody_speaks_through_the_centre_for_whom_it_cannot_vouch() {
        let uid = || Auth::Uid { uid: 0, tty: None };
        for forged in [
            Order {
                level: Level::OnHostHuman,
                ..given()
            },
            Order {
                auth: uid(),
                ..given()
            },
            Order {
                second: Some(uid()),
                ..given()
            },
            Order {
                level: Level::CentralAutomation,
                ..given()
            },
            Order {
                level: Level::LocalAutomation,
                ..given()
            },
        ] {
            let why = order(&said(&forged)).unwrap_err();
            assert!(why.contains("cannot give"), "{why}");
        }
        for (json, reach) in [
            ("{}", "host"),
            ("", "host"),
            (&*said(&given()).json, "world"),
        ] {
            let said = v1::CentralOrder {
                json: json.to_owned(),
                reach: reach.to_owned(),
            };
            assert!(order(&said).is_err());
        }
        let long = v1::CentralOrder {
            json: " ".repeat(MAX_ORDER_BYTES + 1),
            reach: "host".to_owned(),
        };
        assert!(order(&long).unwrap_err().contains("too long"));
        let without = Order {
            generation: 0,
            ..given()
        };
        assert!(
            order(&said(&without))
                .unwrap_err()
                .contains("no generation")
        );
    }

    #[test]
    fn the_share_of_a_rebalance_is_what_its_order_says() {
        let word = |weight_permille, order: &Order| v1::PoolWord {
            region: Some(v1::RegionWeight {
                weight_permille,
                order_json: serde_json::to_string(order).unwrap(),
            }),
            ..v1::PoolWord::default()
        };
        let (_, region) = pool(&word(700, &given())).unwrap();
        assert_eq!(region, Some(given()));
        assert!(pool(&word(600, &given())).is_err());
        let drain = Order {
            action: Action::Drain,
            ..given()
        };
        assert!(pool(&word(0, &drain)).is_err());
        let too_healthy = v1::PoolWord {
            healthy_ppm: WHOLE_PPM + 1,
            ..v1::PoolWord::default()
        };
        assert!(pool(&too_healthy).is_err());
    }
}
