//! What a delivery counts for: traffic as it goes, lateness once, and at its end the counters and
//! distributions that its kind and its end entitle it to. `docs/metrics.md` says which and why.

use probe_ebpf::record::{Delivery, flag, kind as record_kind};

use super::Counters;
use super::alarms::LATE_ROUND_NS;
use super::blame::{Part, Spent};
use super::cell::{Cell, RATES, Sustain};
use super::delivery::{self, Kind, Phase};
use super::fold::{Event, Fold};
use super::metric::Metric;
use super::poll::network_of;
use super::session::{Partial, Recalled, Session, Traffic};
use super::sustain::{Shown, Transfer, Untestable};
use crate::kernel::BackendKind;
use crate::labels::address;

impl Fold {
    /// Counts what a delivery has carried since its last record. What one that is recalled carried
    /// until now may have been counted before its session was forgotten, so it is taken as counted.
    pub(super) fn count_traffic(
        &mut self,
        place: u32,
        record: &Delivery,
        is_end: bool,
        recalled: Option<Recalled>,
    ) {
        let session = self.sessions.at(place);
        let number = record.index.saturating_add(1);
        let known = session.partial_of(number);
        if !is_end && known.is_none() {
            let over = record.index < session.over;
            // The hot ring may be ahead of the end of the delivery before, which is still to come
            // on the bulk ring: what was counted of that one must not be lost sight of.
            let ahead =
                record.header.kind == record_kind::DELIVERY_LATE && session.partial_number() != 0;
            if over || ahead || number < session.partial_number() {
                return;
            }
        }
        let mut before = known.unwrap_or_default();
        let now = partial_of(record);
        if let Some(recalled) = recalled {
            before = now.at_least(&before);
            before.is_unsure = recalled == Recalled::Unsure;
        }
        if !is_end {
            // Rings read out of step: this one may be older than what is known.
            session.set_partial(Some(now.at_least(&before)));
        } else if known.is_some() {
            session.set_partial(None);
        }
        let cell = self.cells.get_mut(session.cell);
        add_traffic(session, cell, &now.traffic, &before.traffic);
        let more_us = |now: u32, before: u32| {
            delivery::ticks_us(now, self.tick_hz)
                .saturating_sub(delivery::ticks_us(before, self.tick_hz))
        };
        let counters = &mut cell.counters;
        counters.busy_us += more_us(now.busy_ticks, before.busy_ticks);
        counters.rwnd_limited_us += more_us(now.rwnd_limited_ticks, before.rwnd_limited_ticks);
        counters.sndbuf_limited_us +=
            more_us(now.sndbuf_limited_ticks, before.sndbuf_limited_ticks);
    }

    /// Counts a late delivery once, whichever of its records says so first. The first may have come
    /// before the session was forgotten.
    pub(super) fn count_late(
        &mut self,
        place: u32,
        record: &Delivery,
        recalled: Option<Recalled>,
    ) -> Option<Event> {
        let reported = record.header.kind == record_kind::DELIVERY_LATE;
        let session = self.sessions.at(place);
        if !(reported || record.flags & flag::LATE != 0) || record.index < session.late_counted {
            return None;
        }
        session.late_counted = record.index.saturating_add(1);
        session.late_deliveries += 1;
        let still_open = reported && record.index >= session.over && !session.is_ended();
        // No record says so before the one that is about it: if that one is younger than all that
        // was forgotten, it is the first.
        let is_first = match recalled {
            None => true,
            Some(Recalled::Sure) => reported,
            Some(Recalled::Unsure) => false,
        };
        let network = network_of(address(session.endpoints.remote_addr));
        let cell = self.cells.get_mut(session.cell);
        cell.counters.late_deliveries += u64::from(is_first);
        if is_first {
            let t_ns = record.header.t_ns;
            cell.late_poll.saw(network, true, t_ns, LATE_ROUND_NS);
        }
        still_open.then_some(Event::Late)
    }

    /// Counts a delivery that is over in a cell, by its kind and its end.
    pub(super) fn count_end(
        &mut self,
        place: u32,
        cell: u32,
        record: &Delivery,
        kind: Kind,
        phase: Phase,
    ) {
        let session = self.sessions.at(place);
        // What is late had its say when it was.
        if matches!(kind, Kind::Exchange | Kind::BusyPeriod)
            && phase == Phase::Complete
            && record.flags & flag::LATE == 0
        {
            let network = network_of(address(session.endpoints.remote_addr));
            let poll = &mut self.cells.get_mut(session.cell).late_poll;
            poll.saw(network, false, record.header.t_ns, LATE_ROUND_NS);
        }
        let cell = self.cells.get_mut(cell);
        let counters = &mut cell.counters;
        match kind {
            Kind::Handshake => {
                counters.tls_handshakes += 1;
                return;
            }
            Kind::BusyPeriod => {
                counters.busy_periods += 1;
                session.flags |= flag::BUSY_PERIOD;
            }
            Kind::Unsolicited => counters.unsolicited += 1,
            Kind::Resumed => counters.resumed += 1,
            Kind::Exchange => {}
        }
        match phase {
            Phase::Unanswered => {
                counters.unanswered_requests += 1;
                return;
            }
            Phase::Aborted => {
                counters.aborted_deliveries += 1;
                session.aborted_deliveries += 1;
            }
            _ if matches!(kind, Kind::Exchange | Kind::BusyPeriod) => {
                counters.deliveries += 1;
                cell.late_ended += u64::from(record.flags & flag::LATE != 0);
                session.deliveries += 1;
                session.last_latency_us = delivery::latency_us(record).unwrap_or(0);
            }
            _ => {}
        }
        if kind == Kind::Exchange {
            let bounded = |bit: u32| record.flags & bit != 0;
            let mut measured = |metric: Metric, value: Option<u64>| {
                if let Some(value) = value {
                    cell.record(metric, value);
                }
            };
            // From a bound on, nothing is a latency: what falls between two looks seems to take no
            // time at all.
            let is_exact = session.backend == BackendKind::Exact;
            if !bounded(flag::REQUEST_BOUNDED) {
                if phase == Phase::Complete {
                    measured(Metric::DeliveryLatencyUs, delivery::latency_us(record));
                }
                if !bounded(flag::FIRST_WRITE_BOUNDED) {
                    measured(Metric::ThinkTimeUs, delivery::think_us(record));
                }
                if !bounded(flag::FIRST_ACKED_BOUNDED) {
                    measured(Metric::FirstByteUs, delivery::first_byte_us(record));
                }
            }
            if phase == Phase::Complete
                && !bounded(flag::LAST_WRITE_BOUNDED)
                && (is_exact || !bounded(flag::END_BOUNDED | flag::FIRST_WRITE_BOUNDED))
            {
                measured(Metric::DeliveryTailUs, delivery::tail_us(record));
            }
        }
        let spent = Spent::of(record, self.tick_hz, record.header.t_ns);
        if phase == Phase::Aborted || record.flags & flag::LATE != 0 {
            cell.counters.slow_deliveries += 1;
            count_blame(&mut cell.counters, &spent);
        }
        if phase == Phase::Complete && kind == Kind::Exchange {
            count_sustain(
                session,
                cell,
                record,
                &spent,
                (self.tick_hz, &self.rates_bps),
            );
        }
        if record.srtt_us > 0 {
            cell.record(Metric::SrttUs, record.srtt_us.into());
        }
        if record.delivery_rate_bytes_per_s > 0 && record.flags & flag::RATE_APP_LIMITED == 0 {
            let kbps = record.delivery_rate_bytes_per_s.saturating_mul(8) / 1000;
            cell.record(Metric::DeliveryRateKbps, kbps);
        }
        let retransmits = delivery::retransmits(record);
        if let Some(ppm) = delivery::retransmit_ratio_ppm(retransmits, record.segments.into()) {
            cell.record(Metric::RetransmitRatioPpm, ppm);
        }
    }
}

/// Adds where the time of a slow delivery went.
fn count_blame(counters: &mut Counters, spent: &Spent) {
    for (count, part) in [
        (&mut counters.blame_think_us, Part::Think),
        (&mut counters.blame_write_us, Part::ApplicationWrite),
        (&mut counters.blame_sender_window_us, Part::SenderWindow),
        (&mut counters.blame_loss_us, Part::LossRecovery),
        (&mut counters.blame_queue_us, Part::PathQueue),
        (&mut counters.blame_receiver_us, Part::ReceiverWindow),
        (&mut counters.blame_pacing_us, Part::Pacing),
    ] {
        *count = count.saturating_add(spent.us(part));
    }
}

/// What a delivery shows of the rates that its path sustains.
fn count_sustain(
    session: &mut Session,
    cell: &mut Cell,
    record: &Delivery,
    spent: &Spent,
    (tick_hz, rates_bps): (u32, &[u64; RATES]),
) {
    let transfer = Transfer {
        bytes: record.acked_bytes,
        took_us: record
            .t_last_acked_ns
            .saturating_sub(record.t_first_write_ns)
            / 1000,
        min_rtt_us: record.min_rtt_us,
        mss: record.mss,
        window_bytes: session.window_bytes.into(),
        ideal_before_bytes: session.ideal_window_bytes.into(),
        rwnd_limited_us: delivery::ticks_us(record.rwnd_limited_ticks, tick_hz),
        idle_us: spent.us(Part::ApplicationWrite),
        pacing_us: spent.us(Part::Pacing),
        is_live_source: false,
    };
    let clip = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
    session.window_bytes = record.cwnd.saturating_mul(record.mss);
    session.ideal_window_bytes = clip(transfer.ideal_window_bytes());
    for (n, (count, rate_bps)) in cell.sustain.iter_mut().zip(rates_bps).enumerate() {
        if count.rate_bps != *rate_bps {
            // Another rate has its place from now on.
            *count = Sustain {
                rate_bps: *rate_bps,
                ..Sustain::default()
            };
        }
        if *rate_bps == 0 {
            continue;
        }
        let shown = transfer.shows(*rate_bps);
        match shown {
            Shown::Achieved => {
                count.tested += 1;
                count.sustained += 1;
            }
            Shown::Missed => count.tested += 1,
            // What cannot show the lowest rate can show no higher one.
            Shown::Untestable(why) if n == 0 => {
                let counters = &mut cell.counters;
                *match why {
                    Untestable::TooSmall => &mut counters.untestable_small,
                    Untestable::Application => &mut counters.untestable_application,
                    Untestable::Receiver => &mut counters.untestable_receiver,
                    Untestable::Pacing => &mut counters.untestable_pacing,
                    Untestable::LiveSource => &mut counters.untestable_live,
                } += 1;
            }
            Shown::Untestable(_) => {}
        }
    }
}

/// All that a delivery has carried so far.
pub(super) fn partial_of(record: &Delivery) -> Partial {
    Partial {
        number: record.index.saturating_add(1),
        traffic: Traffic {
            acked_bytes: record.acked_bytes,
            segments: record.segments.into(),
            retrans_fast: record.retrans_fast.into(),
            retrans_rto: record.retrans_rto.into(),
            retrans_tlp: record.retrans_tlp.into(),
        },
        busy_ticks: record.busy_ticks,
        rwnd_limited_ticks: record.rwnd_limited_ticks,
        sndbuf_limited_ticks: record.sndbuf_limited_ticks,
        is_unsure: false,
    }
}

/// Takes over what a delivery record says about the path.
pub(super) fn note_path(session: &mut Session, record: &Delivery) {
    session.flags |= record.flags & flag::TLS;
    if record.srtt_us > 0 {
        session.srtt_us = record.srtt_us;
    }
    if record.min_rtt_us > 0 {
        session.min_rtt_us = record.min_rtt_us;
    }
    if record.delivery_rate_bytes_per_s > 0 {
        session.delivery_rate_bytes_per_s = record.delivery_rate_bytes_per_s;
        session.flags =
            session.flags & !flag::RATE_APP_LIMITED | record.flags & flag::RATE_APP_LIMITED;
    }
}

/// Counts the part of `now` that is beyond `before`, unless the session's totals are settled.
pub(super) fn add_traffic(session: &mut Session, cell: &mut Cell, now: &Traffic, before: &Traffic) {
    macro_rules! add {
        ($($field:ident),*) => {
            $(
                let more = now.$field.saturating_sub(before.$field);
                // What a recording of unknown origin says may be anything.
                session.traffic.$field = session.traffic.$field.saturating_add(more);
                cell.counters.$field = cell.counters.$field.saturating_add(more);
            )*
        };
    }
    if !session.volume_settled {
        add!(acked_bytes, segments);
    }
    if !session.retrans_settled {
        add!(retrans_fast, retrans_rto, retrans_tlp);
    }
}
