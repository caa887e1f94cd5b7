//! From the daemon's own types to messages of the wire, and nowhere else.

pub mod central;
pub mod steer;
mod viewer;

pub use viewer::{alarm, learned, viewer, viewer_event};

use probe_ebpf::record::{self, ended, flag};
use weir_proto::v1;

use crate::kernel::{self, BackendKind, KernelCounts, RingCounts, Verdict};
use crate::labels::address;
use crate::labels::inlet::LabelCounts;
use crate::qoe::audience::AudienceLosses;
use crate::qoe::session::State;
use crate::qoe::viewer::Tier;
use crate::qoe::{CellKey, CellSnapshot, FoldLosses, Kind, Metric, Phase, Session, delivery};

/// Version of the wire that this daemon and collector speak.
pub const WIRE_VERSION: u32 = 2;

/// What a record's numbers are relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Unix time less monotonic time.
    pub unix_minus_monotonic_ns: i64,
    /// The kernel's ticks per second.
    pub tick_hz: u32,
    /// Who measured it.
    pub backend: BackendKind,
}

impl Context {
    /// Unix time of a monotonic time; 0 ("did not happen") stays 0.
    pub fn unix_ns(&self, monotonic_ns: u64) -> u64 {
        if monotonic_ns == 0 {
            return 0;
        }
        monotonic_ns.saturating_add_signed(self.unix_minus_monotonic_ns)
    }
}

/// Who measured it.
pub fn backend(kind: BackendKind) -> v1::Backend {
    match kind {
        BackendKind::Exact => v1::Backend::Exact,
        BackendKind::Portable => v1::Backend::Portable,
        BackendKind::Polled => v1::Backend::Polled,
    }
}

/// The same the other way; none if only a newer weir knows it.
pub fn backend_kind(backend: v1::Backend) -> Option<BackendKind> {
    match backend {
        v1::Backend::Exact => Some(BackendKind::Exact),
        v1::Backend::Portable => Some(BackendKind::Portable),
        v1::Backend::Polled => Some(BackendKind::Polled),
        v1::Backend::Unspecified => None,
    }
}

fn end_cause(how: u8) -> v1::EndCause {
    match how {
        ended::CLIENT_FIN => v1::EndCause::ClientFin,
        ended::SERVER_FIN => v1::EndCause::ServerFin,
        ended::CLIENT_RST => v1::EndCause::ClientRst,
        ended::SERVER_RST => v1::EndCause::ServerRst,
        ended::TIMEOUT => v1::EndCause::Timeout,
        ended::OTHER | ended::UNTRACKED => v1::EndCause::Other,
        _ => v1::EndCause::Unspecified,
    }
}

fn endpoints(endpoints: &record::Endpoints) -> v1::Endpoints {
    v1::Endpoints {
        local_address: address(endpoints.local_addr).to_string(),
        local_port: endpoints.local_port.into(),
        remote_address: address(endpoints.remote_addr).to_string(),
        remote_port: endpoints.remote_port.into(),
        netns: endpoints.netns,
    }
}

/// How much is known.
pub fn tier(tier: Tier) -> v1::EvidenceTier {
    match tier {
        Tier::Kernel => v1::EvidenceTier::Kernel,
        Tier::Joined => v1::EvidenceTier::Server,
        Tier::Declared => v1::EvidenceTier::Cmcd,
    }
}

/// The same the other way. Who does not say is older than the other tiers.
pub fn tier_kind(tier: v1::EvidenceTier) -> Tier {
    match tier {
        v1::EvidenceTier::Kernel | v1::EvidenceTier::Unspecified => Tier::Kernel,
        v1::EvidenceTier::Server => Tier::Joined,
        v1::EvidenceTier::Cmcd => Tier::Declared,
    }
}

/// A cell's key.
pub fn cell_key(key: &CellKey) -> v1::CellKey {
    v1::CellKey {
        service: key.service.to_string(),
        content_class: key.content_class.to_string(),
        network: key.network.to_string(),
        transport: key.transport.as_str().to_owned(),
        tier: tier(key.tier).into(),
        backend: backend(key.backend).into(),
    }
}

/// A delivery as its record stands.
pub fn delivery(record: &record::Delivery, cell: &CellKey, context: &Context) -> v1::Delivery {
    let has = |bit: u32| record.flags & bit != 0;
    let phase = delivery::phase_of(record);
    let complete = phase == Phase::Complete;
    let whole = |us: Option<u64>| us.filter(|_| complete).unwrap_or(0);
    let us = |ticks: u32| delivery::ticks_us(ticks, context.tick_hz);
    v1::Delivery {
        session: record.cookie,
        index: record.index,
        endpoints: Some(endpoints(&record.endpoints)),
        cell: Some(cell_key(cell)),
        kind: match delivery::kind_of(record) {
            Kind::Exchange => v1::DeliveryKind::Exchange,
            Kind::BusyPeriod => v1::DeliveryKind::BusyPeriod,
            Kind::Unsolicited => v1::DeliveryKind::Unsolicited,
            Kind::Resumed => v1::DeliveryKind::Resumed,
            Kind::Handshake => v1::DeliveryKind::Handshake,
        }
        .into(),
        phase: match phase {
            Phase::Complete => v1::DeliveryPhase::Complete,
            Phase::Aborted => v1::DeliveryPhase::Aborted,
            Phase::Unanswered => v1::DeliveryPhase::Unanswered,
            Phase::Late => v1::DeliveryPhase::Late,
            Phase::Open => v1::DeliveryPhase::Open,
        }
        .into(),
        ended: end_cause(record.ended).into(),
        // What is decoded names one that is known.
        backend: backend(BackendKind::of(&record.header).unwrap_or(context.backend)).into(),
        request_unix_ns: context.unix_ns(record.t_request_ns),
        request_last_unix_ns: context.unix_ns(record.t_request_last_ns),
        first_write_unix_ns: context.unix_ns(record.t_first_write_ns),
        last_write_unix_ns: context.unix_ns(record.t_last_write_ns),
        first_acked_unix_ns: context.unix_ns(record.t_first_acked_ns),
        last_acked_unix_ns: context.unix_ns(record.t_last_acked_ns),
        latency_us: whole(delivery::latency_us(record)),
        think_us: delivery::think_us(record).unwrap_or(0),
        first_byte_us: delivery::first_byte_us(record).unwrap_or(0),
        tail_us: whole(delivery::tail_us(record)),
        request_bytes: record.request_bytes,
        acked_bytes: record.acked_bytes,
        written_bytes: record.written_bytes,
        requests: record.requests,
        segments: record.segments,
        retrans_fast: record.retrans_fast,
        retrans_rto: record.retrans_rto,
        retrans_tlp: record.retrans_tlp,
        srtt_us: record.srtt_us,
        min_rtt_us: record.min_rtt_us,
        cwnd_segments: record.cwnd,
        mss_bytes: record.mss,
        peer_window_bytes: record.peer_window_bytes,
        delivery_rate_bps: record.delivery_rate_bytes_per_s.saturating_mul(8),
        delivery_rate_app_limited: has(flag::RATE_APP_LIMITED),
        busy_us: us(record.busy_ticks),
        rwnd_limited_us: us(record.rwnd_limited_ticks),
        sndbuf_limited_us: us(record.sndbuf_limited_ticks),
        adopted: has(flag::ADOPTED),
        tls: has(flag::TLS),
        late: has(flag::LATE) || phase == Phase::Late,
        settled: has(flag::SETTLED),
        end_bounded: has(flag::END_BOUNDED),
        first_write_bounded: has(flag::FIRST_WRITE_BOUNDED),
        request_bounded: has(flag::REQUEST_BOUNDED),
        first_acked_bounded: has(flag::FIRST_ACKED_BOUNDED),
        last_write_bounded: has(flag::LAST_WRITE_BOUNDED),
        missed_before: 0,
    }
}

/// What a session is doing.
pub fn session_state(state: State) -> v1::SessionState {
    match state {
        State::Idle => v1::SessionState::Idle,
        State::Delivering => v1::SessionState::Delivering,
        State::Late => v1::SessionState::Late,
        State::Ended => v1::SessionState::Ended,
    }
}

/// A session.
pub fn session(session: &Session, cell: &CellKey, context: &Context) -> v1::Session {
    let has = |bit: u32| session.flags & bit != 0;
    let open = session.open();
    v1::Session {
        session: session.cookie,
        endpoints: Some(endpoints(&session.endpoints)),
        cell: Some(cell_key(cell)),
        state: session_state(session.state()).into(),
        ended: end_cause(session.ended).into(),
        backend: backend(session.backend).into(),
        established_unix_ns: context.unix_ns(session.t_established_ns),
        updated_unix_ns: context.unix_ns(session.t_updated_ns),
        ended_unix_ns: context.unix_ns(session.t_ended_ns),
        handshake_us: session.handshake_us,
        synack_retransmits: session.synack_retransmits,
        deliveries: session.deliveries.into(),
        late_deliveries: session.late_deliveries.into(),
        aborted_deliveries: session.aborted_deliveries.into(),
        acked_bytes: session.traffic.acked_bytes,
        segments: session.traffic.segments,
        retrans_fast: session.traffic.retrans_fast,
        retrans_rto: session.traffic.retrans_rto,
        retrans_tlp: session.traffic.retrans_tlp,
        srtt_us: session.srtt_us,
        min_rtt_us: session.min_rtt_us,
        delivery_rate_bps: session.delivery_rate_bytes_per_s.saturating_mul(8),
        delivery_rate_app_limited: has(flag::RATE_APP_LIMITED),
        last_latency_us: session.last_latency_us,
        open_since_unix_ns: open.map_or(0, |open| context.unix_ns(open.t_request_ns)),
        open_acked_bytes: open.map_or(0, |open| open.acked_bytes),
        open_written_bytes: open.map_or(0, |open| open.written_bytes),
        adopted: has(flag::ADOPTED),
        tls: has(flag::TLS),
        busy_periods: has(flag::BUSY_PERIOD),
    }
}

/// A metric's name on the wire.
pub fn metric(metric: Metric) -> v1::Metric {
    match metric {
        Metric::DeliveryLatencyUs => v1::Metric::DeliveryLatencyUs,
        Metric::ThinkTimeUs => v1::Metric::ThinkTimeUs,
        Metric::FirstByteUs => v1::Metric::FirstByteUs,
        Metric::DeliveryTailUs => v1::Metric::DeliveryTailUs,
        Metric::SrttUs => v1::Metric::SrttUs,
        Metric::DeliveryRateKbps => v1::Metric::DeliveryRateKbps,
        Metric::RetransmitRatioPpm => v1::Metric::RetransmitRatioPpm,
        Metric::HandshakeUs => v1::Metric::HandshakeUs,
        Metric::StartupTimeUs => v1::Metric::StartupTimeUs,
        Metric::StallTimeUs => v1::Metric::StallTimeUs,
        Metric::ChunkPerformancePermille => v1::Metric::ChunkPerformancePermille,
        Metric::BitrateKbps => v1::Metric::BitrateKbps,
    }
}

/// A cell, of so many hosts.
pub fn cell(cell: &CellSnapshot, hosts: u32, heard: Heard) -> v1::Cell {
    v1::Cell {
        key: Some(cell_key(&cell.key)),
        counters: Some((&cell.counters).into()),
        histograms: cell
            .histograms
            .iter()
            .map(|(which, histogram)| v1::Histogram {
                metric: metric(*which).into(),
                grouping_power: histogram.config().grouping_power().into(),
                max_value_power: histogram.config().max_value_power().into(),
                bucket: histogram.index().to_vec(),
                count: histogram.count().to_vec(),
            })
            .collect(),
        sessions_open: cell.gauges.sessions_open,
        deliveries_open: cell.gauges.deliveries_open,
        deliveries_open_late: cell.gauges.deliveries_open_late,
        hosts,
        viewers_active: cell.gauges.viewers_active,
        viewers_stalled: cell.gauges.viewers_stalled,
        viewers_at_risk: cell.gauges.viewers_at_risk,
        sustain: cell
            .sustain
            .iter()
            .filter(|sustain| sustain.tested > 0)
            .map(|sustain| v1::Sustain {
                rate_bps: sustain.rate_bps,
                tested: sustain.tested,
                sustained: sustain.sustained,
            })
            .collect(),
        records_seen: heard.seen,
        records_lost: heard.lost,
    }
}

/// How much of what the kernel had to say was heard; cumulative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Records.
    pub seen: u64,
    /// Of these, those that no ring had room for.
    pub lost: u64,
}

impl Heard {
    /// Of one daemon.
    pub fn of(losses: &v1::Losses) -> Self {
        let mut heard = Self::default();
        for ring in [losses.hot, losses.bulk].into_iter().flatten() {
            heard.merge(Self {
                seen: ring.seen,
                lost: ring.ring_full,
            });
        }
        heard
    }

    /// Adds another daemon's.
    pub fn merge(&mut self, other: Self) {
        self.seen = self.seen.saturating_add(other.seen);
        self.lost = self.lost.saturating_add(other.lost);
    }
}

/// What the daemon itself has taken out of the rings and could not keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DaemonCounts {
    /// Records taken out of the hot ring.
    pub hot_drained: u64,
    /// Records taken out of the bulk ring.
    pub bulk_drained: u64,
    /// Records that could not be understood.
    pub records_malformed: u64,
    /// Labels taken in from an access log.
    pub labels_taken_log: u64,
    /// Labels taken in from tags.
    pub labels_taken_tag: u64,
    /// Datagrams received, and what became of those that were not taken in.
    pub labels: LabelCounts,
    /// Deliveries that slow followers missed.
    pub followers_dropped: u64,
    /// Events that the uplink dropped.
    pub uplink_events_dropped: u64,
    /// Frames that the uplink dropped.
    pub uplink_frames_dropped: u64,
    /// Seconds that the disk of the uplink's ring did not take.
    pub uplink_ring_unwritten: u64,
    /// Finished deliveries that the uplink's cold lane shed.
    pub uplink_deliveries_dropped: u64,
    /// Records that a slow recorder missed.
    pub recorder_dropped: u64,
    /// Records that the disk of the daemon's own recording did not take.
    pub recorder_unwritten: u64,
}

/// All that was lost, by cause.
pub fn losses(
    kernel: &KernelCounts,
    fold: &FoldLosses,
    audience: &AudienceLosses,
    daemon: &DaemonCounts,
) -> v1::Losses {
    let ring = |counts: &RingCounts, drained| v1::RingLoss {
        seen: counts.seen,
        exported: counts.exported,
        ring_full: counts.ring_full,
        drained,
    };
    v1::Losses {
        hot: Some(ring(&kernel.hot, daemon.hot_drained)),
        bulk: Some(ring(&kernel.bulk, daemon.bulk_drained)),
        sessions_seen: kernel.sessions_seen,
        sessions_tracked: kernel.sessions_tracked,
        sessions_filtered: kernel.sessions_filtered,
        sessions_storage_refused: kernel.sessions_storage_refused,
        half_open_refused: kernel.half_open_refused,
        programs_skipped: kernel.programs_skipped,
        sessions_left_out: kernel.sessions_left_out,
        ends_unseen: kernel.ends_unseen,
        end_overflows: kernel.end_overflows,
        looks_left_out: kernel.looks_left_out,
        sessions_evicted: fold.sessions_evicted,
        records_malformed: daemon.records_malformed,
        cells_overflowed: fold.cells_overflowed,
        followers_dropped: daemon.followers_dropped,
        uplink_events_dropped: daemon.uplink_events_dropped,
        uplink_frames_dropped: daemon.uplink_frames_dropped,
        recorder_dropped: daemon.recorder_dropped,
        recorder_unwritten: daemon.recorder_unwritten,
        labels_heard_log: daemon.labels.heard_log,
        labels_heard_tag: daemon.labels.heard_tag,
        labels_malformed: daemon.labels.malformed,
        labels_dropped: daemon.labels.dropped,
        labels_homeless: audience.labels_homeless,
        viewers_evicted: audience.viewers_evicted,
        viewer_events_dropped: audience.changes_dropped,
        labels_taken_log: daemon.labels_taken_log,
        labels_taken_tag: daemon.labels_taken_tag,
        uplink_ring_unwritten: daemon.uplink_ring_unwritten,
        uplink_deliveries_dropped: daemon.uplink_deliveries_dropped,
    }
}

/// The programs' counts among the losses.
pub fn kernel_counts(losses: &v1::Losses) -> KernelCounts {
    let ring = |ring: &Option<v1::RingLoss>| {
        ring.as_ref()
            .map_or_else(RingCounts::default, |ring| RingCounts {
                seen: ring.seen,
                exported: ring.exported,
                ring_full: ring.ring_full,
            })
    };
    KernelCounts {
        hot: ring(&losses.hot),
        bulk: ring(&losses.bulk),
        sessions_seen: losses.sessions_seen,
        sessions_tracked: losses.sessions_tracked,
        sessions_filtered: losses.sessions_filtered,
        sessions_storage_refused: losses.sessions_storage_refused,
        half_open_refused: losses.half_open_refused,
        programs_skipped: losses.programs_skipped,
        sessions_left_out: losses.sessions_left_out,
        ends_unseen: losses.ends_unseen,
        end_overflows: losses.end_overflows,
        looks_left_out: losses.looks_left_out,
    }
}

/// A probe's state, as a recording has it.
pub fn recorded_probe(probe: &v1::Probe) -> kernel::Probe {
    kernel::Probe {
        name: probe.name.clone(),
        verdict: match probe.verdict() {
            v1::Verdict::Ok => Verdict::Ok,
            v1::Verdict::Unsupported => Verdict::Unsupported,
            v1::Verdict::NotApplicable => Verdict::NotApplicable,
            v1::Verdict::Broken | v1::Verdict::Unspecified => Verdict::Broken,
        },
        reason: probe.reason.clone(),
        lost: probe.lost.clone(),
    }
}

/// A probe's state.
pub fn probe(probe: &kernel::Probe) -> v1::Probe {
    v1::Probe {
        name: probe.name.clone(),
        verdict: match probe.verdict {
            Verdict::Ok => v1::Verdict::Ok,
            Verdict::Unsupported => v1::Verdict::Unsupported,
            Verdict::Broken => v1::Verdict::Broken,
            Verdict::NotApplicable => v1::Verdict::NotApplicable,
        }
        .into(),
        reason: probe.reason.clone(),
        lost: probe.lost.clone(),
    }
}
