//! Weir's deliveries against the witness's: matched by session and order, then measured.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Serialize;

use super::promise::Backend;
use super::witness::{Connection, Kind, Phase, Witnessed};
use crate::record::{Delivery, Session};

/// What counts as the same time.
pub const TOLERANCE_NS: u64 = 1_000_000;
/// If a session's counts differ, deliveries further apart than this are not the same one.
const ALIGN_NS: u64 = 20_000_000;

/// One time of deliveries, over all that were matched.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Measure {
    /// Pairs in which either side has this time.
    pub compared: u64,
    /// Of these, at most 1 ms apart.
    pub within_1ms: u64,
    /// The largest distance.
    pub worst_us: u64,
    /// Pairs in which only one side has it; they are not within 1 ms.
    pub one_sided: u64,
    /// Marked as bounds, and no earlier than it was; not among those compared.
    pub bounds: u64,
    /// Marked as bounds that do not hold.
    pub bounds_broken: u64,
}

impl Measure {
    /// A time that is marked as a bound: no earlier than it was, but for `least_ns`, and later by
    /// `most_ns` at the most.
    fn add_bound(
        &mut self,
        witnessed_ns: u64,
        weir_ns: u64,
        most_ns: u64,
        least_ns: u64,
    ) -> Option<String> {
        let latest_ns = witnessed_ns.saturating_add(most_ns);
        if weir_ns.saturating_add(least_ns) >= witnessed_ns && weir_ns <= latest_ns {
            self.bounds += 1;
            return None;
        }
        self.bounds_broken += 1;
        let apart_ms = (i128::from(weir_ns) - i128::from(witnessed_ns)) as f64 / 1e6;
        Some(format!("{apart_ms:+.3} ms, which is no bound"))
    }

    fn add(&mut self, witnessed_ns: Option<u64>, weir_ns: u64) -> Option<String> {
        match (witnessed_ns, weir_ns) {
            (None, 0) => None,
            (Some(witnessed_ns), weir_ns) if weir_ns > 0 => {
                self.compared += 1;
                let apart_ns = witnessed_ns.abs_diff(weir_ns);
                self.worst_us = self.worst_us.max(apart_ns / 1000);
                if apart_ns <= TOLERANCE_NS {
                    self.within_1ms += 1;
                    return None;
                }
                let sign = if weir_ns > witnessed_ns { '+' } else { '-' };
                Some(format!("{sign}{:.3} ms", apart_ns as f64 / 1e6))
            }
            (witnessed_ns, _) => {
                self.compared += 1;
                self.one_sided += 1;
                let who = if witnessed_ns.is_some() {
                    "the capture"
                } else {
                    "weir"
                };
                Some(format!("only {who} has it"))
            }
        }
    }

    /// Adds another scenario's.
    pub fn merge(&mut self, other: &Self) {
        self.compared += other.compared;
        self.within_1ms += other.within_1ms;
        self.worst_us = self.worst_us.max(other.worst_us);
        self.one_sided += other.one_sided;
        self.bounds += other.bounds;
        self.bounds_broken += other.bounds_broken;
    }

    /// Share within 1 ms; 1 if nothing was compared.
    pub fn share(&self) -> f64 {
        if self.compared == 0 {
            1.0
        } else {
            self.within_1ms as f64 / self.compared as f64
        }
    }
}

/// What a comparison found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Comparison {
    /// Deliveries in the capture.
    pub witnessed: u64,
    /// Deliveries that weir reports.
    pub reported: u64,
    /// In the capture and not in weir.
    pub unmatched: u64,
    /// In weir and not in the capture.
    pub invented: u64,
    /// Request's first byte.
    pub request: Measure,
    /// Weir's first write against the first packet of the answer.
    pub first_byte: Measure,
    /// First acknowledgement.
    pub first_acked: Measure,
    /// Last acknowledgement.
    pub end: Measure,
    /// Pairs whose acknowledged bytes differ.
    pub bytes_differ: u64,
    /// Pairs that ended differently.
    pub phase_differs: u64,
    /// Busy periods not marked so, or other kinds mixed up.
    pub kind_differs: u64,
    /// Pairs in which weir counts a TLS handshake's last flight with another delivery than the
    /// capture does, where its way of measuring may.
    pub merged: u64,
    /// Pairs whose first packet of the answer crossed the session's first request, over TLS, and is
    /// counted with the handshake by weir (HTTP/2's SETTINGS of the server).
    pub crossed: u64,
    /// Sessions whose acknowledged bytes differ.
    pub totals_differ: u64,
    /// Weir says of so many times that they are bounds.
    pub bounded: u64,
    /// What differs, in words.
    pub differences: Vec<String>,
}

impl Comparison {
    /// The four measures with their names.
    pub fn measures(&self) -> [(&'static str, &Measure); 4] {
        [
            ("request", &self.request),
            ("first byte", &self.first_byte),
            ("first acked", &self.first_acked),
            ("end", &self.end),
        ]
    }

    /// Adds another scenario's numbers; its words stay there.
    pub fn merge(&mut self, other: &Self) {
        self.witnessed += other.witnessed;
        self.reported += other.reported;
        self.unmatched += other.unmatched;
        self.invented += other.invented;
        self.request.merge(&other.request);
        self.first_byte.merge(&other.first_byte);
        self.first_acked.merge(&other.first_acked);
        self.end.merge(&other.end);
        self.bytes_differ += other.bytes_differ;
        self.phase_differs += other.phase_differs;
        self.kind_differs += other.kind_differs;
        self.merged += other.merged;
        self.crossed += other.crossed;
        self.totals_differ += other.totals_differ;
        self.bounded += other.bounded;
    }
}

/// By what deliveries are held against the capture.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// Whose promise.
    pub backend: Backend,
    /// What every delivery must end as, where packets cannot tell (they do not show what was
    /// written and never sent).
    pub every_phase: Option<Phase>,
    /// Acknowledged bytes of a connection that are in no delivery: the TLS handshake's.
    pub handshakes: BTreeMap<(SocketAddr, SocketAddr), u64>,
}

impl Terms {
    /// For a capture's connections.
    pub fn new(backend: Backend, every_phase: Option<Phase>, connections: &[Connection]) -> Self {
        let outside = |connection: &Connection| {
            let inside: u64 = connection.deliveries.iter().map(|d| d.acked_bytes).sum();
            let ends = (connection.client, connection.server);
            (ends, connection.acked_bytes.saturating_sub(inside))
        };
        Self {
            backend,
            every_phase,
            handshakes: connections.iter().map(outside).collect(),
        }
    }
}

/// Compares every delivery.
pub fn compare(witnessed: &[Witnessed], reported: &[Delivery], terms: &Terms) -> Comparison {
    let mut result = Comparison {
        witnessed: witnessed.len() as u64,
        reported: reported.len() as u64,
        ..Comparison::default()
    };
    let mut sessions: BTreeMap<(SocketAddr, SocketAddr), Both<'_>> = BTreeMap::new();
    for delivery in witnessed {
        sessions
            .entry((delivery.client, delivery.server))
            .or_default()
            .0
            .push(delivery);
    }
    for delivery in reported {
        let ends = (delivery.endpoints.remote(), delivery.endpoints.local());
        sessions.entry(ends).or_default().1.push(delivery);
    }
    for (ends, (witnessed, mut reported)) in sessions {
        reported.sort_by_key(|delivery| (delivery.session, delivery.index));
        for (n, pair) in align(&witnessed, &reported).into_iter().enumerate() {
            match pair {
                (Some(witnessed), Some(delivery)) => {
                    let handshake = terms.handshakes.get(&ends).filter(|_| n == 0);
                    let mut delivery = delivery.clone();
                    if let Some(bytes) = handshake
                        && terms.backend.merges_handshake()
                        && unmerge(witnessed, &mut delivery, *bytes)
                    {
                        result.merged += 1;
                    }
                    if n == 0 && uncross(witnessed, &mut delivery) {
                        result.crossed += 1;
                    }
                    result.pair(witnessed, &delivery, terms);
                }
                (Some(witnessed), None) => {
                    result.unmatched += 1;
                    result
                        .differences
                        .push(format!("not in weir: {}", show_witnessed(witnessed)));
                }
                (None, Some(delivery)) => {
                    result.invented += 1;
                    result
                        .differences
                        .push(format!("only in weir: {}", show(delivery)));
                }
                (None, None) => {}
            }
        }
    }
    result
}

/// Puts a TLS handshake's last flight, of `most_bytes` at the most, where the capture has it: the
/// client's may have come together with the request, and the server's (its session tickets) may
/// then be counted with either. If with the request, the times are the flight's, and no later.
fn unmerge(witnessed: &Witnessed, delivery: &mut Delivery, most_bytes: u64) -> bool {
    let less = witnessed.acked_bytes.saturating_sub(delivery.acked_bytes);
    if delivery.tls && (1..=most_bytes).contains(&less) {
        delivery.acked_bytes += less;
        return true;
    }
    let more = delivery.acked_bytes.saturating_sub(witnessed.acked_bytes);
    let is_merged = delivery.tls
        && (1..=most_bytes).contains(&more)
        && delivery.request_unix_ns <= witnessed.request_ns.saturating_add(TOLERANCE_NS);
    if is_merged {
        delivery.acked_bytes -= more;
        delivery.request_unix_ns = witnessed.request_ns;
        delivery.first_write_unix_ns = witnessed.first_sent_ns.unwrap_or(0);
        delivery.first_acked_unix_ns = witnessed.first_acked_ns.unwrap_or(0);
        delivery.kind = match witnessed.kind {
            Kind::Exchange if delivery.kind == "busy_period" => "exchange".into(),
            _ => std::mem::take(&mut delivery.kind),
        };
    }
    is_merged
}

/// Puts what crossed the first request over TLS where the capture has it: whether the server wrote it
/// before TCP had the request, packets do not show.
fn uncross(witnessed: &Witnessed, delivery: &mut Delivery) -> bool {
    let less = witnessed.acked_bytes.saturating_sub(delivery.acked_bytes);
    let is_crossed = delivery.tls && less > 0 && less == witnessed.crossing_bytes;
    if is_crossed {
        delivery.acked_bytes += less;
        delivery.first_write_unix_ns = witnessed.first_sent_ns.unwrap_or(0);
        delivery.first_acked_unix_ns = witnessed.first_acked_ns.unwrap_or(0);
    }
    is_crossed
}

/// Holds every session's total against the capture.
pub fn totals(connections: &[Connection], sessions: &[Session], result: &mut Comparison) {
    for connection in connections {
        let session = sessions.iter().find(|session| {
            session.endpoints.remote() == connection.client
                && session.endpoints.local() == connection.server
        });
        // One that is missing is noted with its retransmissions.
        if let Some(session) = session
            && session.acked_bytes != connection.acked_bytes
        {
            result.totals_differ += 1;
            result.differences.push(format!(
                "session {}: {} bytes acknowledged in the capture, {} in weir",
                connection.client, connection.acked_bytes, session.acked_bytes
            ));
        }
    }
}

/// Holds times of looks against the capture: each is marked as a bound, and is one of what
/// happened last before it, later by `most_ns` at the most. The kernel tells the times of what a look
/// finds by its tick, which begins before the event: they may be earlier by `tick_ns`.
pub fn bounds(
    witnessed: &[Witnessed],
    reported: &[Delivery],
    most_ns: u64,
    tick_ns: u64,
) -> Comparison {
    let mut result = Comparison {
        witnessed: witnessed.len() as u64,
        reported: reported.len() as u64,
        ..Comparison::default()
    };
    for delivery in reported {
        let ends = (delivery.endpoints.remote(), delivery.endpoints.local());
        // The last before it, or else the first of all.
        let last_before = |weir_ns: u64, time: fn(&Witnessed) -> Option<u64>| {
            let of_session = witnessed.iter().filter(|w| (w.client, w.server) == ends);
            let mut times: Vec<u64> = of_session.filter_map(time).collect();
            times.sort_unstable();
            let earlier = times.partition_point(|t| *t <= weir_ns.saturating_add(tick_ns));
            times.get(earlier.saturating_sub(1)).copied().unwrap_or(0)
        };
        let mut words = Vec::new();
        if !(delivery.request_bounded && delivery.first_write_bounded && delivery.end_bounded) {
            result.request.bounds_broken += 1;
            words.push("not every time is marked as a bound".to_owned());
        }
        result.bounded += 1;
        let (request_ns, end_ns) = (delivery.request_unix_ns, delivery.last_acked_unix_ns);
        let request = last_before(request_ns, |w| Some(w.request_ns));
        if let Some(what) = result
            .request
            .add_bound(request, request_ns, most_ns, tick_ns)
        {
            words.push(format!("request {what}"));
        }
        if end_ns != 0 {
            let end = last_before(end_ns, |w| w.last_acked_ns);
            if let Some(what) = result.end.add_bound(end, end_ns, most_ns, tick_ns) {
                words.push(format!("end {what}"));
            }
        }
        if !words.is_empty() {
            let what = format!("{}: {}", words.join("; "), show(delivery));
            result.differences.push(what);
        }
    }
    result
}

/// One session's deliveries, by either.
type Both<'a> = (Vec<&'a Witnessed>, Vec<&'a Delivery>);
type Pair<'a> = (Option<&'a Witnessed>, Option<&'a Delivery>);

/// In order if there are as many of both; else by the time of the request.
fn align<'a>(witnessed: &[&'a Witnessed], reported: &[&'a Delivery]) -> Vec<Pair<'a>> {
    if witnessed.len() == reported.len() {
        return witnessed
            .iter()
            .zip(reported)
            .map(|(w, d)| (Some(*w), Some(*d)))
            .collect();
    }
    let (mut w, mut d) = (witnessed.iter().peekable(), reported.iter().peekable());
    let mut pairs = Vec::new();
    loop {
        match (w.peek(), d.peek()) {
            (None, None) => return pairs,
            (Some(_), None) => pairs.push((w.next().copied(), None)),
            (None, Some(_)) => pairs.push((None, d.next().copied())),
            (Some(one), Some(other)) => {
                let (one, other) = (one.request_ns, other.request_unix_ns);
                if one.abs_diff(other) <= ALIGN_NS {
                    pairs.push((w.next().copied(), d.next().copied()));
                } else if one < other {
                    pairs.push((w.next().copied(), None));
                } else {
                    pairs.push((None, d.next().copied()));
                }
            }
        }
    }
}

impl Comparison {
    fn pair(&mut self, witnessed: &Witnessed, delivery: &Delivery, terms: &Terms) {
        let phase = terms.every_phase.unwrap_or(witnessed.phase);
        let mut words = Vec::new();
        for (name, measure, is_bounded, witnessed_ns, weir_ns) in [
            (
                "request",
                &mut self.request,
                delivery.request_bounded,
                Some(witnessed.request_ns),
                delivery.request_unix_ns,
            ),
            (
                "first byte",
                &mut self.first_byte,
                delivery.first_write_bounded,
                witnessed.first_sent_ns,
                delivery.first_write_unix_ns,
            ),
            (
                "first acked",
                &mut self.first_acked,
                delivery.end_bounded,
                witnessed.first_acked_ns,
                delivery.first_acked_unix_ns,
            ),
            (
                "end",
                &mut self.end,
                delivery.end_bounded,
                witnessed.last_acked_ns,
                delivery.last_acked_unix_ns,
            ),
        ] {
            let what = match witnessed_ns {
                Some(witnessed_ns) if is_bounded && terms.backend.allows_bounds() => {
                    measure.add_bound(witnessed_ns, weir_ns, u64::MAX, TOLERANCE_NS)
                }
                _ => measure.add(witnessed_ns, weir_ns),
            };
            if let Some(what) = what {
                words.push(format!("{name} {what}"));
            }
        }
        if witnessed.acked_bytes != delivery.acked_bytes {
            self.bytes_differ += 1;
            words.push(format!(
                "acked bytes {} in the capture, {} in weir",
                witnessed.acked_bytes, delivery.acked_bytes
            ));
        }
        if word(phase) != delivery.phase {
            self.phase_differs += 1;
            words.push(format!(
                "phase {} in the capture, {} in weir",
                word(phase),
                delivery.phase
            ));
        }
        if !same_kind(witnessed.kind, &delivery.kind) {
            self.kind_differs += 1;
            words.push(format!(
                "kind {:?} in the capture, {} in weir",
                witnessed.kind, delivery.kind
            ));
        }
        self.bounded += u64::from(
            delivery.end_bounded || delivery.first_write_bounded || delivery.request_bounded,
        );
        if !words.is_empty() {
            self.differences
                .push(format!("{}: {}", words.join("; "), show(delivery)));
        }
    }
}

fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Complete => "complete",
        Phase::Aborted => "aborted",
        Phase::Unanswered => "unanswered",
    }
}

/// Weir may call a busy period what held one request only: it does not read HTTP/2.
fn same_kind(witnessed: Kind, weir: &str) -> bool {
    match witnessed {
        Kind::Exchange => matches!(weir, "exchange" | "busy_period"),
        Kind::BusyPeriod => weir == "busy_period",
        Kind::Unsolicited => weir == "unsolicited",
        Kind::Resumed => weir == "resumed",
    }
}

fn show(delivery: &Delivery) -> String {
    format!(
        "{} -> {} #{} {} {} ended={} at {} latency {} us, {} bytes asked, {} acked, {} written{}{}",
        delivery.endpoints.remote(),
        delivery.endpoints.local(),
        delivery.index,
        delivery.kind,
        delivery.phase,
        delivery.ended,
        delivery.request_unix_ns,
        delivery.latency_us,
        delivery.request_bytes,
        delivery.acked_bytes,
        delivery.written_bytes,
        if delivery.end_bounded {
            ", end bounded"
        } else {
            ""
        },
        if delivery.settled { ", settled" } else { "" },
    )
}

fn show_witnessed(witnessed: &Witnessed) -> String {
    format!(
        "{} -> {} {:?} {:?} at {}, {} bytes asked, {} acked, {} sent",
        witnessed.client,
        witnessed.server,
        witnessed.kind,
        witnessed.phase,
        witnessed.request_ns,
        witnessed.request_bytes,
        witnessed.acked_bytes,
        witnessed.sent_bytes,
    )
}

#[cfg(test)]
mod tests;
