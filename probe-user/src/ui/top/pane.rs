//! What the panes' columns are: how to write a row's value, how wide, and how to order by it.

use std::cmp::Ordering;

use weir_proto::v1::{
    Delivery, DeliveryPhase, EndCause, Session, SessionState, StartFailure, Viewer, ViewerState,
};

use super::model::{CellRow, Rates};
use crate::ui::listing::deliveries::{phase_mark, retransmitted};
use crate::ui::listing::session_retransmitted;
use crate::ui::listing::sessions::state_mark;
use crate::ui::listing::viewers::{ratio as rebuffer_ratio, state_mark as viewer_mark, tier_word};
use crate::ui::losses;
use crate::ui::out::Mark;
use crate::ui::percentile::Percentiles;
use crate::ui::units::{self, ABSENT, short_bytes, short_count, short_rate, short_us};

/// A share of retransmitted segments from which on it is marked: 1 %.
const NOTABLE_RETRANSMIT: f64 = 0.01;

/// What a row is ordered by.
#[derive(Clone, Debug, PartialEq)]
pub enum Key {
    /// By size, largest first.
    Number(f64),
    /// By the alphabet.
    Text(String),
}

impl Key {
    /// The order in which rows are shown.
    pub fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => b.total_cmp(a),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::Number(_), Self::Text(_)) => Ordering::Less,
            (Self::Text(_), Self::Number(_)) => Ordering::Greater,
        }
    }
}

/// One column of a pane.
#[derive(Debug)]
pub struct Column<R> {
    /// Its heading.
    pub title: &'static str,
    /// Its least width; the first column of a pane takes what is left over.
    pub width: u16,
    /// Numbers stand to the right.
    pub right: bool,
    /// Wide terminals only: columns of higher rank go first when room is short.
    pub rank: u8,
    /// What is written, and how it is meant.
    pub text: fn(&R) -> (String, Mark),
    /// What rows are ordered by; none: as the daemon sent them.
    pub key: Option<fn(&R) -> Key>,
}

/// A session with what is shown of it.
#[derive(Clone, Debug)]
pub struct SessionRow {
    /// As the daemon sent it.
    pub session: Session,
    /// Age of the delivery under way; 0 if there is none.
    pub open_us: u64,
}

fn plain(text: impl Into<String>) -> (String, Mark) {
    (text.into(), Mark::Plain)
}

fn rates(row: &CellRow, text: impl Fn(&Rates) -> (String, Mark)) -> (String, Mark) {
    if row.void {
        return (losses::VOID.to_owned(), Mark::Bad);
    }
    row.rates.as_ref().map_or_else(|| plain(ABSENT), text)
}

fn rates_key(row: &CellRow, key: impl Fn(&Rates) -> f64) -> Key {
    Key::Number(row.rates.as_ref().map_or(0.0, key))
}

fn percentile(found: Option<Percentiles>, which: fn(&Percentiles) -> u64) -> (String, Mark) {
    plain(
        found
            .as_ref()
            .map_or(ABSENT.to_owned(), |found| short_us(which(found))),
    )
}

fn percentile_key(found: Option<Percentiles>, which: fn(&Percentiles) -> u64) -> f64 {
    found.as_ref().map_or(0.0, |found| which(found) as f64)
}

fn counted(count: u64, mark: Mark) -> (String, Mark) {
    let mark = if count == 0 { Mark::Plain } else { mark };
    (short_count(count), mark)
}

/// A ratio in percent, marked from 1 % on.
pub fn percent(ratio: Option<f64>) -> (String, Mark) {
    let Some(ratio) = ratio else {
        return plain(ABSENT);
    };
    let mark = if ratio >= NOTABLE_RETRANSMIT {
        Mark::Warn
    } else {
        Mark::Plain
    };
    (format!("{:.2}%", ratio * 100.0), mark)
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// The cells pane.
pub const CELLS: &[Column<CellRow>] = &[
    Column {
        title: "cell",
        width: 20,
        right: false,
        rank: 0,
        text: |row| plain(&row.path),
        key: Some(|row| Key::Text(row.path.clone())),
    },
    Column {
        title: "open",
        width: 5,
        right: true,
        rank: 1,
        text: |row| plain(short_count(row.sessions_open)),
        key: Some(|row| Key::Number(row.sessions_open as f64)),
    },
    Column {
        title: "deliv/s",
        width: 7,
        right: true,
        rank: 0,
        text: |row| rates(row, |rates| plain(short_rate(rates.deliveries_per_s()))),
        key: Some(|row| rates_key(row, Rates::deliveries_per_s)),
    },
    Column {
        title: "Mbit/s",
        width: 6,
        right: true,
        rank: 0,
        text: |row| rates(row, |rates| plain(short_rate(rates.bits_per_s() / 1e6))),
        key: Some(|row| rates_key(row, Rates::bits_per_s)),
    },
    Column {
        title: "p50",
        width: 6,
        right: true,
        rank: 0,
        text: |row| rates(row, |rates| percentile(rates.latency_us, |found| found.p50)),
        key: Some(|row| {
            rates_key(row, |rates| {
                percentile_key(rates.latency_us, |found| found.p50)
            })
        }),
    },
    Column {
        title: "p99",
        width: 6,
        right: true,
        rank: 0,
        text: |row| rates(row, |rates| percentile(rates.latency_us, |found| found.p99)),
        key: Some(|row| {
            rates_key(row, |rates| {
                percentile_key(rates.latency_us, |found| found.p99)
            })
        }),
    },
    Column {
        title: "think p99",
        width: 9,
        right: true,
        rank: 3,
        text: |row| rates(row, |rates| percentile(rates.think_us, |found| found.p99)),
        key: None,
    },
    Column {
        title: "first byte p99",
        width: 14,
        right: true,
        rank: 4,
        text: |row| {
            rates(row, |rates| {
                percentile(rates.first_byte_us, |found| found.p99)
            })
        },
        key: None,
    },
    Column {
        title: "tail p99",
        width: 8,
        right: true,
        rank: 3,
        text: |row| rates(row, |rates| percentile(rates.tail_us, |found| found.p99)),
        key: None,
    },
    Column {
        title: "late",
        width: 5,
        right: true,
        rank: 0,
        text: |row| rates(row, |rates| counted(rates.late, Mark::Bad)),
        key: Some(|row| rates_key(row, |rates| rates.late as f64)),
    },
    Column {
        title: "now",
        width: 4,
        right: true,
        rank: 0,
        text: |row| counted(row.open_late, Mark::Bad),
        key: Some(|row| Key::Number(row.open_late as f64)),
    },
    Column {
        title: "abort",
        width: 5,
        right: true,
        rank: 1,
        text: |row| rates(row, |rates| counted(rates.aborted, Mark::Warn)),
        key: Some(|row| rates_key(row, |rates| rates.aborted as f64)),
    },
    Column {
        title: "retr",
        width: 6,
        right: true,
        rank: 0,
        text: |row| rates(row, |rates| percent(rates.retransmit_ratio())),
        key: Some(|row| rates_key(row, |rates| rates.retransmit_ratio().unwrap_or(0.0))),
    },
];

fn session_ratio(session: &Session) -> Option<f64> {
    ratio(session_retransmitted(session), session.segments)
}

/// The viewers pane.
pub const VIEWERS: &[Column<Viewer>] = &[
    Column {
        title: "viewer",
        width: 18,
        right: false,
        rank: 0,
        text: |row| {
            plain(if row.sid.is_empty() {
                row.client_address.clone()
            } else {
                row.sid.clone()
            })
        },
        key: Some(|row| Key::Text(row.client_address.clone())),
    },
    Column {
        title: "state",
        width: 9,
        right: false,
        rank: 0,
        text: |row| {
            let word = match row.state() {
                // The loudest word for what matters most.
                ViewerState::Stalled => "STALLED".to_owned(),
                ViewerState::Playing if row.at_risk => "at risk".to_owned(),
                ViewerState::Ended if row.start_failure() != StartFailure::Unspecified => {
                    "no start".to_owned()
                }
                state => state.word(),
            };
            (word, viewer_mark(row))
        },
        // "worst": the daemon's own order.
        key: None,
    },
    Column {
        title: "tier",
        width: 6,
        right: false,
        rank: 2,
        text: |row| plain(tier_word(row)),
        key: None,
    },
    Column {
        title: "buffer",
        width: 6,
        right: true,
        rank: 0,
        text: |row| plain(short_us(row.buffer_us.unwrap_or_default().point)),
        key: Some(|row| Key::Number(row.buffer_us.unwrap_or_default().point as f64)),
    },
    Column {
        title: "start",
        width: 6,
        right: true,
        rank: 1,
        text: |row| plain(short_us(row.startup_us)),
        key: Some(|row| Key::Number(row.startup_us as f64)),
    },
    Column {
        title: "stalls",
        width: 6,
        right: true,
        rank: 0,
        text: |row| counted(row.stalls, Mark::Bad),
        key: Some(|row| Key::Number(row.stalls as f64)),
    },
    Column {
        title: "rebuffer % [low,high]",
        width: 21,
        right: true,
        rank: 3,
        text: |row| plain(rebuffer_ratio(row.stalled_us, row.watched_us)),
        key: None,
    },
    Column {
        title: "Mbit/s",
        width: 6,
        right: true,
        rank: 1,
        text: |row| plain(short_rate(row.bitrate_bps as f64 / 1e6)),
        key: Some(|row| Key::Number(row.bitrate_bps as f64)),
    },
    Column {
        title: "verdict",
        width: 22,
        right: false,
        rank: 0,
        text: |row| {
            plain(if row.verdict.is_empty() {
                ABSENT
            } else {
                row.verdict.as_str()
            })
        },
        key: None,
    },
    Column {
        title: "cell",
        width: 24,
        right: false,
        rank: 4,
        text: |row| plain(units::cell_path(row.cell.as_ref())),
        key: None,
    },
];

/// The sessions pane.
pub const SESSIONS: &[Column<SessionRow>] = &[
    Column {
        title: "client",
        width: 21,
        right: false,
        rank: 0,
        text: |row| plain(units::client(row.session.endpoints.as_ref())),
        key: Some(|row| Key::Text(units::client(row.session.endpoints.as_ref()))),
    },
    Column {
        title: "state",
        width: 10,
        right: false,
        rank: 0,
        text: |row| {
            let state = row.session.state();
            let word = match state {
                // The loudest word for what matters most.
                SessionState::Late => "LATE".to_owned(),
                state => state.word(),
            };
            (word, state_mark(state))
        },
        // "worst": the daemon's own order.
        key: None,
    },
    Column {
        title: "cell",
        width: 24,
        right: false,
        rank: 2,
        text: |row| plain(units::cell_path(row.session.cell.as_ref())),
        key: None,
    },
    Column {
        title: "age",
        width: 6,
        right: true,
        rank: 0,
        text: |row| plain(short_us(row.open_us)),
        key: Some(|row| Key::Number(row.open_us as f64)),
    },
    Column {
        title: "acked/written",
        width: 13,
        right: true,
        rank: 0,
        text: |row| {
            let session = &row.session;
            if row.open_us == 0 {
                return plain(ABSENT);
            }
            plain(format!(
                "{}/{}",
                short_bytes(session.open_acked_bytes).trim_end_matches('B'),
                short_bytes(session.open_written_bytes)
            ))
        },
        key: None,
    },
    Column {
        title: "srtt/min",
        width: 11,
        right: true,
        rank: 1,
        text: |row| {
            let session = &row.session;
            plain(format!(
                "{}/{}",
                short_us(session.srtt_us.into()),
                short_us(session.min_rtt_us.into())
            ))
        },
        key: Some(|row| Key::Number(f64::from(row.session.srtt_us))),
    },
    Column {
        title: "retr",
        width: 6,
        right: true,
        rank: 0,
        text: |row| percent(session_ratio(&row.session)),
        key: Some(|row| Key::Number(session_ratio(&row.session).unwrap_or(0.0))),
    },
    Column {
        title: "Mbit/s",
        width: 6,
        right: true,
        rank: 1,
        text: |row| plain(short_rate(row.session.delivery_rate_bps as f64 / 1e6)),
        key: Some(|row| Key::Number(row.session.delivery_rate_bps as f64)),
    },
    Column {
        title: "last",
        width: 6,
        right: true,
        rank: 0,
        text: |row| plain(short_us(row.session.last_latency_us)),
        key: Some(|row| Key::Number(row.session.last_latency_us as f64)),
    },
    Column {
        title: "deliv",
        width: 5,
        right: true,
        rank: 3,
        text: |row| plain(short_count(row.session.deliveries)),
        key: None,
    },
    Column {
        title: "late",
        width: 5,
        right: true,
        rank: 2,
        text: |row| counted(row.session.late_deliveries, Mark::Bad),
        key: Some(|row| Key::Number(row.session.late_deliveries as f64)),
    },
];

fn what(delivery: &Delivery) -> String {
    match delivery.phase() {
        DeliveryPhase::Late => "LATE".to_owned(),
        DeliveryPhase::Complete if delivery.late => "late, done".to_owned(),
        phase => phase.word(),
    }
}

/// The pane of late, aborted and unanswered deliveries.
pub const TROUBLED: &[Column<Delivery>] = &[
    Column {
        title: "client",
        width: 21,
        right: false,
        rank: 0,
        text: |row| plain(units::client(row.endpoints.as_ref())),
        key: Some(|row| Key::Text(units::client(row.endpoints.as_ref()))),
    },
    Column {
        title: "what",
        width: 10,
        right: false,
        rank: 0,
        text: |row| (what(row), phase_mark(row)),
        key: None,
    },
    Column {
        title: "asked",
        width: 8,
        right: false,
        rank: 1,
        text: |row| plain(units::clock(row.request_unix_ns)),
        key: Some(|row| Key::Number(row.request_unix_ns as f64)),
    },
    Column {
        title: "latency",
        width: 7,
        right: true,
        rank: 0,
        text: |row| plain(short_us(row.latency_us)),
        key: Some(|row| Key::Number(row.latency_us as f64)),
    },
    Column {
        title: "think",
        width: 6,
        right: true,
        rank: 0,
        text: |row| plain(short_us(row.think_us)),
        key: None,
    },
    Column {
        title: "first",
        width: 6,
        right: true,
        rank: 0,
        text: |row| plain(short_us(row.first_byte_us)),
        key: None,
    },
    Column {
        title: "tail",
        width: 6,
        right: true,
        rank: 0,
        text: |row| plain(short_us(row.tail_us)),
        key: None,
    },
    Column {
        title: "acked",
        width: 6,
        right: true,
        rank: 2,
        text: |row| plain(short_bytes(row.acked_bytes)),
        key: Some(|row| Key::Number(row.acked_bytes as f64)),
    },
    Column {
        title: "f/rto/tlp",
        width: 9,
        right: true,
        rank: 0,
        text: |row| {
            let mark = if row.retrans_rto > 0 {
                Mark::Warn
            } else {
                Mark::Plain
            };
            let text = format!(
                "{}/{}/{}",
                row.retrans_fast, row.retrans_rto, row.retrans_tlp
            );
            (text, mark)
        },
        key: Some(|row| Key::Number(retransmitted(row) as f64)),
    },
    Column {
        title: "ended by",
        width: 10,
        right: false,
        rank: 3,
        text: |row| {
            plain(match row.ended() {
                EndCause::Unspecified => ABSENT.to_owned(),
                cause => cause.word(),
            })
        },
        key: None,
    },
    Column {
        title: "cell",
        width: 24,
        right: false,
        rank: 4,
        text: |row| plain(units::cell_path(row.cell.as_ref())),
        key: None,
    },
];
