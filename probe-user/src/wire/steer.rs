//! Orders as they come over the wire, and what is told of the gate.

use weir_proto::v1;

use crate::steer::forecast::Move;
use crate::steer::overrides::order::{DEFAULT_TTL_S, Direction, Expect, OnFail};
use crate::steer::overrides::{Action, Auth, Held, Level, Order};
use crate::steer::policy::Decision;
use crate::steer::policy::rules::Metric;
use crate::steer::validation::Report;

/// Of an id; some thousand of them are remembered.
const MAX_ID_BYTES: usize = 64;

/// Who gives an order, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    pub level: Level,
    /// In words.
    pub actor: String,
    pub auth: Auth,
}

/// An order as it was asked for; whether it may be given and taken is for others to say.
///
/// # Errors
/// It is none, in words for whoever asked.
pub fn order(
    request: &v1::OrderRequest,
    author: Author,
    now_unix_ns: u64,
) -> Result<Order, String> {
    let id = match request.id.as_str() {
        "" => uuid::Uuid::new_v4().simple().to_string(),
        id => checked_id(id)?.to_owned(),
    };
    if request.reason.contains(char::is_control) {
        return Err("a reason is one line without control characters".to_owned());
    }
    let on_fail = match request.on_fail.as_str() {
        "" | "revert" => OnFail::Revert,
        "hold" => OnFail::Hold,
        "page" => OnFail::Page,
        other => return Err(format!("{other:?} is none of revert, hold and page")),
    };
    Ok(Order {
        id,
        generation: 0,
        scope: request.scope.parse()?,
        action: action(request)?,
        level: author.level,
        actor: author.actor,
        auth: author.auth,
        second: None,
        reason: request.reason.trim().to_owned(),
        created_unix_ns: match request.created_unix_ns {
            0 => now_unix_ns,
            created => created,
        },
        ttl_s: match request.ttl_s {
            0 => DEFAULT_TTL_S,
            ttl_s => ttl_s,
        },
        ramp_s: request.ramp_s,
        expect: request.expect.as_ref().map(expectation).transpose()?,
        on_fail,
        is_break_glass: request.break_glass,
        prev_hash: None,
    })
}

/// An order's name, as others can refer to it.
///
/// # Errors
/// It is none.
pub fn checked_id(id: &str) -> Result<&str, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if id.is_empty() || id.len() > MAX_ID_BYTES || !id.chars().all(is_plain) {
        return Err(format!(
            "{id:?} is no order's id: 1 to {MAX_ID_BYTES} of a-z, A-Z, 0-9, '-', '_', '.' and ':'"
        ));
    }
    Ok(id)
}

fn action(request: &v1::OrderRequest) -> Result<Action, String> {
    let permille = || {
        let said = request
            .permille
            .ok_or_else(|| format!("{} needs a share in thousandths", request.verb))?;
        u16::try_from(said).map_err(|_| format!("{said} permille is out of range: 0 to 1000"))
    };
    Ok(match request.verb.as_str() {
        "hold" => Action::Hold,
        "weight" => Action::Weight {
            permille: permille()?,
        },
        "drain" => Action::Drain,
        "undrain" => Action::Undrain,
        "pin" => Action::Pin {
            permille: request.permille.map(|_| permille()).transpose()?,
        },
        "cap" => Action::CapBitrate {
            bps: request.cap_bps,
        },
        "shed" => Action::Shed {
            permille: permille()?,
        },
        "release" => Action::Release {
            order: match request.releases.as_str() {
                "" => None,
                id => Some(checked_id(id)?.to_owned()),
            },
        },
        "panic" => Action::Panic,
        other => return Err(format!("{other:?} is nothing that can be ordered")),
    })
}

fn expectation(expect: &v1::OrderExpectation) -> Result<Expect, String> {
    let metric = Metric::ALL
        .into_iter()
        .find(|metric| metric.as_str() == expect.metric)
        .ok_or_else(|| format!("{:?} is no number that is watched", expect.metric))?;
    Ok(Expect {
        metric,
        direction: if expect.rises {
            Direction::Rises
        } else {
            Direction::Falls
        },
        window_s: expect.window_s,
        min_effect_permille: expect.min_effect_permille.min(1000),
        min_n: expect.min_n,
    })
}

/// Who it is, in a word.
pub fn auth(auth: &Auth) -> String {
    match auth {
        Auth::Uid { uid, tty: None } => format!("uid {uid}"),
        Auth::Uid {
            uid,
            tty: Some(tty),
        } => format!("uid {uid} at {tty}"),
        Auth::Certificate { name } => format!("certificate {name}"),
        Auth::Policy { name, version } => format!("policy {name} version {version}"),
    }
}

/// An order and what is left of its time.
pub fn order_told(order: &Order, left_ns: u64) -> v1::SteerOrder {
    let (permille, cap_bps) = match &order.action {
        Action::Weight { permille } | Action::Shed { permille } => (Some(*permille), 0),
        Action::Pin { permille } => (*permille, 0),
        Action::CapBitrate { bps } => (None, *bps),
        _ => (None, 0),
    };
    v1::SteerOrder {
        id: order.id.clone(),
        scope: order.scope.key(),
        verb: order.action.verb().as_str().to_owned(),
        permille: permille.map(u32::from),
        cap_bps,
        level: order.level.as_str().to_owned(),
        actor: order.actor.clone(),
        auth: auth(&order.auth),
        second: order.second.as_ref().map(auth).unwrap_or_default(),
        reason: order.reason.clone(),
        created_unix_ns: order.created_unix_ns,
        ttl_s: order.ttl_s,
        left_s: left_s(left_ns),
        ramp_s: order.ramp_s,
        break_glass: order.is_break_glass,
        generation: order.generation,
    }
}

/// Seconds, the begun one included.
pub fn left_s(left_ns: u64) -> u32 {
    u32::try_from(left_ns.div_ceil(1_000_000_000)).unwrap_or(u32::MAX)
}

/// One that is in force.
pub fn held(held: &Held, now_boot_ns: u64) -> v1::SteerOrder {
    order_told(&held.order, held.deadline.left_ns(now_boot_ns))
}

pub fn decision(told: &Decision, unix_minus_boot_ns: i64) -> v1::SteerDecision {
    v1::SteerDecision {
        id: told.id.clone(),
        unix_ns: told.boot_ns.saturating_add_signed(unix_minus_boot_ns),
        // As the journal writes it.
        kind: serde_json::to_value(told.kind)
            .ok()
            .and_then(|kind| kind.as_str().map(str::to_owned))
            .unwrap_or_default(),
        by: told.by.clone(),
        scope: told.scope.key(),
        from_permille: told.from_permille.into(),
        to_permille: told.to_permille.into(),
        reason: told.reason.clone(),
        acts: told.acts,
        asks_human: told.asks_human,
    }
}

pub fn moved(told: &Move) -> v1::SteerMove {
    v1::SteerMove {
        scope: told.scope.key(),
        from_permille: told.from_permille.into(),
        to_permille: told.to_permille.into(),
        cap_bps: told.cap_bps.unwrap_or(0),
        settled_after_s: told.settled_after_s,
    }
}

pub fn verdict(report: &Report, unix_ns: u64) -> v1::SteerVerdict {
    v1::SteerVerdict {
        unix_ns,
        by: report.by.clone(),
        scope: report.scope.key(),
        verdict: report.verdict.as_str().to_owned(),
        why: report.why(),
    }
}

/// What is wanted, in words, for the journal of what was refused.
pub fn in_words(order: &Order) -> String {
    let what = order.action.verb().as_str();
    let amount = match &order.action {
        Action::Weight { permille }
        | Action::Shed { permille }
        | Action::Pin {
            permille: Some(permille),
        } => format!(" {permille} permille"),
        Action::CapBitrate { bps } => format!(" {bps} bit/s"),
        Action::Release { order: Some(id) } => format!(" {id}"),
        _ => String::new(),
    };
    format!("{what}{amount} of {} ({})", order.scope, order.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(verb: &str) -> v1::OrderRequest {
        v1::OrderRequest {
            scope: "host".to_owned(),
            verb: verb.to_owned(),
            reason: " disk 3 is slow ".to_owned(),
            ..v1::OrderRequest::default()
        }
    }

    fn author() -> Author {
        Author {
            level: Level::OnHostHuman,
            actor: "alice".to_owned(),
            auth: Auth::Uid {
                uid: 1000,
                tty: Some("pts/1".to_owned()),
            },
        }
    }

    fn read(request: &v1::OrderRequest) -> Result<Order, String> {
        order(request, author(), 7)
    }

    #[test]
    fn each_verb_is_read_as_what_it_says_and_told_as_the_same() {
        for verb in [
            "hold", "weight", "drain", "undrain", "pin", "cap", "shed", "release", "panic",
        ] {
            let request = v1::OrderRequest {
                permille: Some(300),
                cap_bps: 3_000_000,
                ..asked(verb)
            };
            let order = read(&request).unwrap();
            assert_eq!(order.action.verb().as_str(), verb);
            assert_eq!(
                (order.reason.as_str(), order.ttl_s),
                ("disk 3 is slow", 1800)
            );
            assert_eq!(order.created_unix_ns, 7);
            let told = order_told(&order, 1_500_000_000);
            assert_eq!((told.verb.as_str(), told.left_s), (verb, 2));
            assert_eq!(told.auth, "uid 1000 at pts/1");
        }
        assert_eq!(
            read(&asked("pin")).unwrap().action,
            Action::Pin { permille: None }
        );
    }

    #[test]
    fn what_says_nothing_is_refused_in_words() {
        let with = |change: fn(&mut v1::OrderRequest)| {
            let mut request = asked("weight");
            request.permille = Some(500);
            change(&mut request);
            read(&request).unwrap_err()
        };
        for (told, names) in [
            (with(|own| own.verb = "dance".into()), "dance"),
            (with(|own| own.scope = "pool".into()), "pool"),
            (with(|own| own.permille = None), "needs a share"),
            (with(|own| own.permille = Some(70_000)), "70000"),
            (with(|own| own.reason = "a\nb".into()), "one line"),
            (with(|own| own.id = "a b".into()), "no order's id"),
            (with(|own| own.id = "x".repeat(65)), "no order's id"),
            (with(|own| own.on_fail = "cry".into()), "cry"),
            (
                with(|own| own.expect = Some(v1::OrderExpectation::default())),
                "no number",
            ),
        ] {
            assert!(told.contains(names), "{told}");
        }
    }
}
