//! The columns and orders of each listing. JSON needs neither: it prints the messages as they are.

pub mod cells;
pub mod deliveries;
pub mod fleet_steering;
pub mod hosts;
pub mod journal;
pub mod replay;
pub mod sessions;
pub mod simulation;
pub mod status;
pub mod steering;
pub mod versions;
pub mod viewers;

use std::cmp::Reverse;

use weir_proto::v1::{Counters, Session};

/// Orders `rows` by what `key` gives, largest first, or smallest first if `reverse`; equal ones
/// stay as they came.
pub fn sort_by_key<T>(rows: &mut [T], reverse: bool, key: impl Fn(&T) -> u64) {
    if reverse {
        rows.sort_by_key(key);
    } else {
        rows.sort_by_key(|row| Reverse(key(row)));
    }
}

/// Segments a cell retransmitted, for whatever reason.
pub fn retransmitted(counters: &Counters) -> u64 {
    counters.retrans_fast + counters.retrans_rto + counters.retrans_tlp
}

/// Segments a session retransmitted, for whatever reason.
pub fn session_retransmitted(session: &Session) -> u64 {
    session.retrans_fast + session.retrans_rto + session.retrans_tlp
}

/// `part` per million of `whole`, as an order; 0 if there is no whole.
pub fn ratio_ppm(part: u64, whole: u64) -> u64 {
    part.saturating_mul(1_000_000)
        .checked_div(whole)
        .unwrap_or(0)
}

/// The words whose condition holds, joined by commas; `-` if none.
fn flags(conditions: &[(bool, &str)]) -> String {
    let words: Vec<&str> = conditions
        .iter()
        .filter_map(|(holds, word)| holds.then_some(*word))
        .collect();
    if words.is_empty() {
        super::units::ABSENT.to_owned()
    } else {
        words.join(",")
    }
}
