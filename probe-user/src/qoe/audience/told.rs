//! From what labels and records say to what a viewer's model is told.

use probe_ebpf::record::{self, ended, flag};

use super::super::delivery::{self, Kind, Phase};
use super::super::viewer::{self, Claim, End, Finished, RequestId, Tier, UnderWay};
use crate::labels::cmcd::{Cmcd, PlayState};
use crate::labels::request::{Class, Media, RequestLabel, Stream};

/// Segments are counted from 0 or 1, and of the first two or three one may be heard of late.
const FIRST_NUMBERS: u64 = 3;
/// Requests that are told apart within one delivery (a busy period may hold many).
/// Where segments are ranges of one file, that begins with its initialisation segment and its index.
const MOST_HEAD_BYTES: u64 = 8 << 10;
const PER_DELIVERY: u32 = 4096;

/// The request `ordinal` of a delivery. Those of the latter half are for labels that come when it is
/// over.
pub(super) fn request_id(session: u32, index: u32, ordinal: u32) -> RequestId {
    RequestId {
        session,
        number: index
            .wrapping_mul(PER_DELIVERY)
            .wrapping_add(ordinal % (PER_DELIVERY / 2)),
    }
}

/// A request of a delivery that is over, of which the label came only then; told from others by its
/// time.
pub(super) fn late_request_id(session: u32, index: u32, t_begin_ns: u64) -> RequestId {
    let half = u64::from(PER_DELIVERY / 2);
    let ordinal = u32::try_from(t_begin_ns / 1_000_000 % half).unwrap_or(0);
    RequestId {
        session,
        number: index
            .wrapping_mul(PER_DELIVERY)
            .wrapping_add(PER_DELIVERY / 2 + ordinal),
    }
}

/// What was asked for, as the model takes it.
pub(super) fn object(label: &RequestLabel) -> viewer::Object {
    let object = &label.object;
    let range = label.range.map(|range| viewer::Range {
        first: range.first,
        last: range.last,
    });
    let is_head = range.is_some_and(|range| range.last < MOST_HEAD_BYTES);
    viewer::Object {
        class: match object.class {
            Class::Segment if is_head => viewer::Class::Init,
            Class::Manifest => viewer::Class::Manifest,
            Class::Init => viewer::Class::Init,
            Class::Segment => viewer::Class::Segment,
            Class::Part => viewer::Class::Part,
            Class::Key | Class::Other | Class::Unknown => viewer::Class::Other,
        },
        media: match object.media {
            Media::Audio => viewer::Media::Audio,
            Media::Video => viewer::Media::Video,
            Media::Muxed | Media::Unknown => viewer::Media::Muxed,
        },
        duration_us: object.duration_us,
        bitrate_bps: object.bitrate_bps,
        rung: object.rung,
        number: object.number,
        is_live: object.stream == Stream::Live,
        range,
    }
}

/// How much is known with such a label.
pub(super) fn tier(label: &RequestLabel) -> Tier {
    if label.cmcd.is_some() {
        Tier::Declared
    } else {
        Tier::Joined
    }
}

/// What the player declared.
pub(super) fn claim(cmcd: &Cmcd) -> Claim {
    Claim {
        ahead_ms: cmcd.bl_ms,
        starved: cmcd.bs,
        // Version 1 says `su` only when it holds, and never that it does not.
        starting: match cmcd.sta {
            Some(PlayState::Starting | PlayState::Rebuffering | PlayState::Seeking) => Some(true),
            Some(PlayState::Playing | PlayState::Paused | PlayState::Ended) => Some(false),
            _ => cmcd.su.then_some(true),
        },
        rate_percent: cmcd.pr_x100,
        startup_ms: cmcd.msd_ms,
        failed: cmcd.sta == Some(PlayState::Fatal),
    }
}

/// Whether a viewer whose first request this is says or shows that it plays already. `is_young`: what
/// it asked for before may have been before weir.
pub(super) fn plays_already(label: &RequestLabel, is_young: bool) -> bool {
    if let Some(claim) = label.cmcd.as_ref().map(claim)
        && let Some(has_media) = match claim.starting {
            Some(starting) => Some(!starting),
            None => claim.ahead_ms.map(|ms| ms > 0),
        }
    {
        return has_media;
    }
    let object = &label.object;
    is_young
        && object.class == Class::Segment
        && object.stream == Stream::Vod
        && object.number.is_some_and(|number| number > FIRST_NUMBERS)
}

/// Whether the labelled request belongs to a playback at all.
pub(super) fn is_playback(label: &RequestLabel) -> bool {
    matches!(
        label.object.class,
        Class::Manifest | Class::Init | Class::Segment | Class::Part
    )
}

/// A record of a delivery that is not over.
pub(super) fn under_way(record: &record::Delivery, session: u32, expected_bytes: u64) -> UnderWay {
    let is_app_limited = record.flags & flag::RATE_APP_LIMITED != 0;
    UnderWay {
        id: request_id(session, record.index, 0),
        t_request_ns: record.t_request_ns,
        t_ns: record.header.t_ns,
        is_sole: delivery::kind_of(record) == Kind::Exchange,
        acked_bytes: record.acked_bytes,
        written_bytes: record.written_bytes,
        expected_bytes,
        delivery_rate_bytes_per_s: if is_app_limited {
            0
        } else {
            record.delivery_rate_bytes_per_s
        },
        is_app_limited,
        srtt_us: record.srtt_us,
    }
}

/// The request that ended a delivery by coming after it; none if something else ended it.
pub(super) fn next_under_way(record: &record::Delivery, session: u32) -> Option<UnderWay> {
    let is_next = record.flags & flag::SETTLED == 0
        && record.ended == ended::OPEN
        && delivery::kind_of(record) == Kind::Exchange
        && delivery::phase_of(record) == Phase::Complete;
    is_next.then(|| UnderWay {
        id: request_id(session, record.index.saturating_add(1), 0),
        t_request_ns: record.header.t_ns,
        t_ns: record.header.t_ns,
        is_sole: true,
        ..UnderWay::default()
    })
}

/// A delivery that is over, before it is known what it was.
pub(super) fn finished(record: &record::Delivery, session: u32) -> Finished {
    Finished {
        id: request_id(session, record.index, 0),
        t_request_ns: record.t_request_ns,
        t_first_write_ns: record.t_first_write_ns,
        t_last_acked_ns: record.t_last_acked_ns,
        t_ns: record.header.t_ns,
        acked_bytes: record.acked_bytes,
        srtt_us: record.srtt_us,
        min_rtt_us: record.min_rtt_us,
        had_timeouts: record.retrans_rto > 0,
        end: match delivery::phase_of(record) {
            Phase::Unanswered => End::Unanswered,
            Phase::Aborted => match record.ended {
                ended::CLIENT_FIN | ended::CLIENT_RST => End::ClientAbort,
                _ => End::OtherAbort,
            },
            Phase::Complete | Phase::Late | Phase::Open => End::Complete,
        },
        status: 0,
        object: None,
        is_inferred: false,
    }
}
