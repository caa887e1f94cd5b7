//! Sessions' lives as the kernel would write them, told in any order that the rings allow.

use probe_ebpf::record::{Delivery, Endpoints, SessionEnd, SessionStart, ended, flag, kind};
use proptest::prelude::*;

use super::{Counters, Record, SECOND_NS, header};

/// What a generated delivery is like.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) flags: u32,
    pub(super) late: bool,
    /// Reports before it is late.
    reports_before: u32,
    reports: u32,
    retrans: [u32; 3],
    segments: u32,
}

fn shape() -> impl Strategy<Value = Shape> {
    let kinds = prop_oneof![
        4 => Just(0),
        1 => Just(flag::BUSY_PERIOD),
        1 => Just(flag::UNSOLICITED),
        1 => Just(flag::RESUMED),
        1 => Just(flag::HANDSHAKE),
        1 => Just(flag::UNANSWERED),
    ];
    (
        kinds,
        any::<bool>(),
        (0..3_u32, 0..3_u32),
        [0..5_u32, 0..5, 0..5],
        20..100_u32,
    )
        .prop_map(
            |(flags, late, (before, reports), retrans, segments)| Shape {
                flags,
                late: late && flags & flag::HANDSHAKE == 0,
                reports_before: before.min(reports),
                reports,
                retrans,
                segments,
            },
        )
}

/// One session's life as the kernel would write it, ring by ring, and what is true of it.
#[derive(Clone, Debug)]
pub(super) struct Life {
    hot: Vec<Record>,
    bulk: Vec<Record>,
    pub(super) end: SessionEnd,
    pub(super) shapes: Vec<Shape>,
    pub(super) aborted: bool,
}

fn life(cookie: u64) -> impl Strategy<Value = Life> {
    let outside = [0..3_u32, 0..3, 0..3];
    let port = prop_oneof![Just(80_u16), Just(443)];
    (
        proptest::collection::vec(shape(), 0..5),
        any::<bool>(),
        any::<bool>(),
        outside,
        port,
    )
        .prop_map(move |(shapes, cut, adopted, outside, port)| {
            live(cookie, shapes, cut, adopted, outside, port)
        })
}

fn live(
    cookie: u64,
    shapes: Vec<Shape>,
    cut: bool,
    adopted: bool,
    outside: [u32; 3],
    port: u16,
) -> Life {
    let endpoints = Endpoints {
        local_port: port,
        ..Endpoints::default()
    };
    let adopted = if adopted { flag::ADOPTED } else { 0 };
    let mut t_ns = SECOND_NS + cookie;
    let mut bulk = vec![Record::Start(SessionStart {
        header: header(kind::SESSION_START, t_ns),
        cookie,
        t_established_ns: t_ns,
        endpoints,
        flags: adopted,
        ..SessionStart::default()
    })];
    let mut hot = Vec::new();
    let mut end = SessionEnd {
        cookie,
        t_established_ns: t_ns,
        endpoints,
        flags: adopted,
        segments: 10,
        acked_bytes: 1000,
        retrans_fast: outside[0],
        retrans_rto: outside[1],
        retrans_tlp: outside[2],
        ended: ended::CLIENT_RST,
        ..SessionEnd::default()
    };
    let last = shapes.len().wrapping_sub(1);
    let mut aborted = false;
    for (n, shape) in shapes.iter().enumerate() {
        let index = u32::try_from(n).unwrap();
        let t_request_ns = t_ns + 1000;
        let steps = shape.reports + 1 + u32::from(shape.late);
        let at = |step: u32| Delivery {
            cookie,
            index,
            endpoints,
            t_request_ns,
            t_request_last_ns: t_request_ns,
            t_first_write_ns: t_request_ns + 5_000_000,
            t_first_acked_ns: t_request_ns + 9_000_000,
            t_last_write_ns: t_request_ns + 10_000_000,
            t_last_acked_ns: t_request_ns + 20_000_000,
            flags: shape.flags | adopted,
            acked_bytes: u64::from(1000 * step / steps),
            segments: shape.segments * step / steps,
            retrans_fast: shape.retrans[0] * step / steps,
            retrans_rto: shape.retrans[1] * step / steps,
            retrans_tlp: shape.retrans[2] * step / steps,
            busy_ticks: 30 * step / steps,
            rwnd_limited_ticks: 20 * step / steps,
            sndbuf_limited_ticks: 10 * step / steps,
            srtt_us: 5000,
            ..Delivery::default()
        };
        let mut late = 0;
        for step in 0..steps - 1 {
            t_ns += SECOND_NS;
            // Once one report is that it is late, the rest say so as well.
            let is_late = shape.late && step == shape.reports_before;
            let mut record = at(step);
            record.flags |= late;
            if is_late {
                late = flag::LATE;
                record.flags |= late;
                record.header = header(kind::DELIVERY_LATE, t_ns);
                hot.push(Record::Delivery(record));
            } else {
                record.header = header(kind::DELIVERY_PROGRESS, t_ns);
                bulk.push(Record::Delivery(record));
            }
        }
        t_ns += SECOND_NS;
        let mut record = at(steps);
        record.flags |= late;
        record.header = header(kind::DELIVERY_END, t_ns);
        let exempt = flag::UNANSWERED | flag::HANDSHAKE;
        if cut && n == last && shape.flags & exempt == 0 {
            aborted = true;
            record.flags |= flag::ABORTED;
            hot.push(Record::Delivery(record));
        } else {
            bulk.push(Record::Delivery(record));
        }
        end.segments += record.segments;
        end.acked_bytes += record.acked_bytes;
        end.retrans_fast += record.retrans_fast;
        end.retrans_rto += record.retrans_rto;
        end.retrans_tlp += record.retrans_tlp;
    }
    end.header = header(kind::SESSION_END, t_ns + 1);
    bulk.push(Record::End(end));
    Life {
        hot,
        bulk,
        end,
        shapes,
        aborted,
    }
}

impl Life {
    /// All that there is to count of it; both ways to begin, of which it has one. Counts that are
    /// not bounded here are as they were told.
    pub(super) fn at_most(&self, told: &Counters) -> Counters {
        let of = |bit: u32| self.shapes.iter().filter(|s| s.flags & bit != 0).count() as u64;
        let all = self.shapes.len() as u64;
        let aborted = u64::from(self.aborted);
        let not_counted =
            of(flag::UNSOLICITED | flag::RESUMED | flag::HANDSHAKE | flag::UNANSWERED);
        let end = &self.end;
        Counters {
            sessions_started: 1,
            sessions_adopted: 1,
            sessions_ended: 1,
            ended_client_rst: 1,
            deliveries: all - not_counted,
            late_deliveries: self.shapes.iter().filter(|s| s.late).count() as u64,
            aborted_deliveries: aborted,
            unanswered_requests: of(flag::UNANSWERED),
            busy_periods: of(flag::BUSY_PERIOD),
            unsolicited: of(flag::UNSOLICITED),
            resumed: of(flag::RESUMED),
            tls_handshakes: of(flag::HANDSHAKE),
            acked_bytes: end.acked_bytes,
            segments: end.segments.into(),
            retrans_fast: end.retrans_fast.into(),
            retrans_rto: end.retrans_rto.into(),
            retrans_tlp: end.retrans_tlp.into(),
            // A tick is a millisecond.
            busy_us: all * 30_000,
            rwnd_limited_us: all * 20_000,
            sndbuf_limited_us: all * 10_000,
            ..*told
        }
    }
}

/// Several lives, each ring in its order, the rings against each other and the sessions among
/// each other in any; and which records get lost.
#[derive(Clone, Debug)]
pub(super) struct Story {
    pub(super) lives: Vec<Life>,
    pub(super) records: Vec<(Record, bool)>,
}

impl Story {
    pub(super) fn retrans(&self) -> u64 {
        let ends = self.lives.iter().map(|life| life.end);
        ends.map(|end| u64::from(end.retrans_fast + end.retrans_rto + end.retrans_tlp))
            .sum()
    }
}

fn t_ns(record: &Record) -> u64 {
    match record {
        Record::Start(record) => record.header.t_ns,
        Record::Delivery(record) => record.header.t_ns,
        Record::End(record) => record.header.t_ns,
    }
}

/// The port at which a session alone is served, in a story whose sessions are kept apart.
pub(super) fn port_of(cookie: u64) -> u16 {
    u16::try_from(cookie).unwrap()
}

/// The same, with a cell for each session, so that what one counts twice is not hidden by what
/// another loses.
pub(super) fn apart(mut story: Story) -> Story {
    for (record, _) in &mut story.records {
        let (cookie, endpoints) = match record {
            Record::Start(record) => (record.cookie, &mut record.endpoints),
            Record::Delivery(record) => (record.cookie, &mut record.endpoints),
            Record::End(record) => (record.cookie, &mut record.endpoints),
        };
        endpoints.local_port = port_of(cookie);
    }
    story
}

/// The same, with the hot ring never behind the bulk one, as the daemon reads them.
pub(super) fn hot_first(mut story: Story) -> Story {
    let is_hot = |record: &Record| match record {
        Record::Delivery(record) => {
            record.header.kind == kind::DELIVERY_LATE || record.flags & flag::ABORTED != 0
        }
        _ => false,
    };
    let mut n = 0;
    while n < story.records.len() {
        let now = t_ns(&story.records[n].0);
        let overdue = (n + 1..story.records.len()).find(|later| {
            let record = &story.records[*later].0;
            is_hot(record) && t_ns(record) < now
        });
        if let Some(overdue) = overdue {
            let record = story.records.remove(overdue);
            story.records.insert(n, record);
        }
        n += 1;
    }
    story
}

pub(super) fn story(lossy: bool) -> impl Strategy<Value = Story> {
    let lives = (life(1), life(2), life(3), life(4)).prop_map(|(a, b, c, d)| vec![a, b, c, d]);
    let picks = proptest::collection::vec((any::<usize>(), any::<u8>()), 200);
    (lives, picks).prop_map(move |(lives, picks)| {
        let mut queues: Vec<std::collections::VecDeque<Record>> = lives
            .iter()
            .flat_map(|life| [life.hot.clone().into(), life.bulk.clone().into()])
            .collect();
        let mut records = Vec::new();
        let mut picks = picks.into_iter().cycle();
        while queues.iter().any(|queue| !queue.is_empty()) {
            let (pick, lost) = picks.next().unwrap();
            queues.retain(|queue| !queue.is_empty());
            let chosen = pick % queues.len();
            let record = queues[chosen].pop_front().unwrap();
            records.push((record, lossy && lost < 64));
        }
        Story { lives, records }
    })
}
