//! An order that an operator on this host gives over the Unix socket: who that is, by the kernel's
//! word, and what is answered.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::unistd::User;
use tonic::Status;
use weir_proto::v1;

use super::access::Peer;
use super::steering::{Denial, Orders, Taken};
use crate::steer::overrides::roles::Reach;
use crate::steer::overrides::{Auth, Level, Order};
use crate::wire::steer::{self as wire, Author};

/// A rehearsal looks ahead at most so far.
const MOST_AHEAD_S: u32 = 600;

/// Does what `request` wants in the name of `peer`.
pub(super) async fn obey(
    orders: Option<&Orders>,
    peer: Peer,
    request: v1::OrderRequest,
) -> Result<v1::OrderResponse, Status> {
    let orders = orders.ok_or_else(|| status(&Denial::NoGate))?;
    // Names are looked up in the host's user database, which may be slow.
    let author = tokio::task::spawn_blocking(move || author(peer))
        .await
        .map_err(|_| Status::internal("who asks could not be found out"))?;
    let answer = if request.approves.is_empty() {
        let invalid = |why: String| Status::invalid_argument(why);
        let order = wire::order(&request, author, now_unix_ns()).map_err(invalid)?;
        if request.rehearse_s > 0 {
            return rehearse(orders, order, request.rehearse_s.min(MOST_AHEAD_S)).await;
        }
        let reach = Reach::from(&order.scope);
        orders.submit(order, reach).await
    } else {
        let id = wire::checked_id(&request.approves).map_err(Status::invalid_argument)?;
        orders.approve(id.to_owned(), author.auth).await
    };
    answer
        .map(|taken| response(&taken))
        .map_err(|denial| status(&denial))
}

async fn rehearse(
    orders: &Orders,
    order: Order,
    ahead_s: u32,
) -> Result<v1::OrderResponse, Status> {
    let (id, reach) = (order.id.clone(), Reach::from(&order.scope));
    let told = orders.rehearse(order, reach, ahead_s).await;
    let told = told.map_err(|denial| status(&denial))?;
    Ok(v1::OrderResponse {
        id,
        released: told
            .released
            .iter()
            .map(|own| wire::order_told(&own.order, 0))
            .collect(),
        moves: told.moves.iter().map(wire::moved).collect(),
        decisions: told
            .decisions
            .iter()
            .map(|own| wire::decision(own, 0))
            .collect(),
        ..v1::OrderResponse::default()
    })
}

fn response(taken: &Taken) -> v1::OrderResponse {
    v1::OrderResponse {
        id: taken.id.clone(),
        waits: taken.waits.clone().unwrap_or_default(),
        released: taken
            .released
            .iter()
            .map(|own| wire::order_told(&own.order, 0))
            .collect(),
        generation: taken.generation,
        ..v1::OrderResponse::default()
    }
}

fn status(denial: &Denial) -> Status {
    let why = denial.to_string();
    match denial {
        Denial::Unauthorised(_) => Status::permission_denied(why),
        Denial::Refused(_) | Denial::Book(_) => Status::invalid_argument(why),
        Denial::Unwritten(_) => Status::failed_precondition(why),
        Denial::Busy => Status::resource_exhausted(why),
        Denial::NoGate => Status::unimplemented(why),
    }
}

fn author(peer: Peer) -> Author {
    let uid = peer.uid.as_raw();
    let name = User::from_uid(peer.uid).ok().flatten();
    Author {
        level: Level::OnHostHuman,
        actor: name.map_or_else(|| format!("user {uid}"), |user| user.name),
        auth: Auth::Uid {
            uid,
            tty: tty_of(peer.pid),
        },
    }
}

/// The terminal of a process, if it has one and is still there.
fn tty_of(pid: i32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    tty_in(&stat)
}

/// The name of a process may have anything in it; what follows its end does not.
fn tty_in(stat: &str) -> Option<String> {
    let (_, after) = stat.rsplit_once(')')?;
    // State, parent, group, session, terminal: proc_pid_stat(5).
    let device: i32 = after.split_whitespace().nth(4)?.parse().ok()?;
    let device = u32::from_ne_bytes(device.to_ne_bytes());
    let major = (device >> 8) & 0xfff;
    let minor = (device & 0xff) | ((device >> 12) & 0xfff00);
    match major {
        // Pseudo-terminals have eight majors of 256 minors: Documentation/admin-guide/devices.txt.
        136..=143 => Some(format!("pts/{}", (major - 136) * 256 + minor)),
        4 if minor < 64 => Some(format!("tty{minor}")),
        4 => Some(format!("ttyS{}", minor - 64)),
        _ => None,
    }
}

fn now_unix_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_named_as_people_name_it_whatever_the_process_is_called() {
        let stat = |tty: u32| format!("7 (a) b) (c) S 1 7 7 {tty} 7 0 0");
        assert_eq!(tty_in(&stat(136 << 8 | 3)).as_deref(), Some("pts/3"));
        assert_eq!(tty_in(&stat(137 << 8 | 4)).as_deref(), Some("pts/260"));
        assert_eq!(tty_in(&stat(4 << 8 | 1)).as_deref(), Some("tty1"));
        assert_eq!(tty_in(&stat(4 << 8 | 64)).as_deref(), Some("ttyS0"));
        assert_eq!(tty_in(&stat(0)), None);
        assert_eq!(tty_in("nonsense"), None);
    }
}
