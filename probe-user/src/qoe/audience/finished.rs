//! What follows from a delivery that is over, once all that is known of it is here.

use probe_ebpf::record::{self, flag};

use super::super::blame::Spent;
use super::super::cell::Cells;
use super::super::learn::Pupil;
use super::super::metric::Metric;
use super::super::viewer::{self, Labelled, Tier};
use super::side::Heard;
use super::{Audience, Clocks, told};
use crate::labels::request::{NO_UPSTREAM, RequestLabel};

impl Audience {
    /// A delivery is over, and all that is known of it is here: nothing, one label, or in a busy
    /// period several. Of a busy period that is not over: the labels of those of its answers that are.
    #[expect(
        clippy::too_many_arguments,
        reason = "what is known, and where it is counted"
    )]
    pub(super) fn finished(
        &mut self,
        record: &record::Delivery,
        session: u32,
        cell: u32,
        heard: &[Heard],
        clocks: Clocks,
        now_ns: u64,
        cells: &mut Cells,
    ) {
        let spent = Spent::of(record, clocks.tick_hz, record.header.t_ns);
        let is_over = record.header.kind == record::kind::DELIVERY_END;
        cells.get_mut(cell).counters.deliveries_labelled += u64::from(is_over && !heard.is_empty());
        let mut told = told::finished(record, session);
        if heard.is_empty() {
            if is_over {
                self.count_nameless(record, cell, cells);
            }
            let Some(place) = self.nameless_or_owner(record, cells) else {
                return;
            };
            if self
                .viewers
                .get(place)
                .is_some_and(|e| e.tier == Tier::Kernel)
            {
                told.object = self
                    .sides
                    .get_mut(&record.cookie)
                    .and_then(|side| {
                        let cadence = side.cadence.get_or_insert_default();
                        let bytes = record.acked_bytes;
                        cadence.saw(record.t_request_ns, record.t_last_acked_ns, bytes)
                    })
                    .map(|duration_us| viewer::Object {
                        duration_us,
                        ..viewer::Object::default()
                    });
                told.is_inferred = true;
            }
            self.tell_finished(place, &told, record.acked_bytes, &spent, now_ns, cells);
            return;
        }
        let tail_ns = record
            .t_last_acked_ns
            .saturating_sub(record.t_last_write_ns);
        let end = told.end;
        for (ordinal, heard) in (0..).zip(heard) {
            let label = &heard.label;
            told.id = if label.is_http2 {
                heard.id
            } else {
                told::request_id(session, record.index, ordinal)
            };
            told.status = label.status;
            told.object = Some(told::object(label));
            told.end = end;
            if end == viewer::End::Complete && label.end_unix_ns != 0 && !label.is_complete {
                // HTTP/2 cuts off one answer without the session.
                told.end = viewer::End::ClientAbort;
            }
            if record.flags & flag::BUSY_PERIOD != 0 {
                // Its own end is not known to the kernel: as long after its last write as the whole
                // period's was.
                told.t_request_ns = match heard.t_begin_ns {
                    0 => record.t_request_ns,
                    t_ns if t_ns < record.t_first_write_ns => t_ns,
                    t_ns => t_ns.max(record.t_request_ns),
                };
                if heard.t_acked_ns != 0 {
                    told.t_last_acked_ns = heard.t_acked_ns;
                } else if heard.t_end_ns != 0 && record.t_last_acked_ns != 0 {
                    let t_acked_ns = heard.t_end_ns.saturating_add(tail_ns);
                    told.t_last_acked_ns = t_acked_ns.min(record.t_last_acked_ns);
                }
                told.acked_bytes = label.sent_bytes;
            }
            count_object(cell, label, &told, cells);
            let upstream_us = match label.upstream_us {
                NO_UPSTREAM => 0,
                us if is_slow(&told) => u64::from(us),
                _ => 0,
            };
            let of_class = cells.of_class(cell, label.object.class, told::tier(label));
            cells.get_mut(of_class).counters.upstream_us += upstream_us;
            if !told::is_playback(label) {
                continue;
            }
            let Some(place) = self.viewer_of(record.cookie, heard, cells) else {
                continue;
            };
            if let Some(entry) = self.viewers.get_mut(place) {
                entry.upstream_us += upstream_us;
            }
            let claim = label.cmcd.as_ref().map(told::claim);
            if let Some(claim) = &claim {
                self.learn(place, &told, claim);
            }
            if !heard.is_told {
                let labelled = Labelled {
                    id: told.id,
                    t_request_ns: told.t_request_ns,
                    object: told::object(label),
                    status: label.status,
                    is_written: true,
                    expected_bytes: label.sent_bytes,
                    claim,
                };
                self.tell_labelled(place, now_ns, cells, &labelled);
            }
            self.tell_finished(place, &told, told.acked_bytes, &spent, now_ns, cells);
        }
    }

    /// Nothing names a delivery, where deliveries are named. Those of a session that is over are counted
    /// with its end.
    fn count_nameless(&self, record: &record::Delivery, cell: u32, cells: &mut Cells) {
        if self.named.contains_key(&record.endpoints.local_port)
            && let Some(side) = self.sides.get(&record.cookie)
        {
            let of_viewer = self.cell_of(side.viewer, cell);
            cells.get_mut(of_viewer).counters.requests_nameless += 1;
        }
    }

    /// What a player says of its buffer teaches what its family does with it.
    fn learn(&mut self, place: u32, told: &viewer::Finished, claim: &viewer::Claim) {
        let Some(entry) = self.viewers.get_mut(place) else {
            return;
        };
        let Some(object) = told.object.filter(|object| {
            object.media != viewer::Media::Audio && object.class == viewer::Class::Segment
        }) else {
            return;
        };
        let pupil = entry.pupil.get_or_insert_with(|| Box::new(Pupil::new()));
        let lesson = claim.ahead_ms.and_then(|ahead_ms| {
            pupil.claimed(
                told.t_request_ns,
                u64::from(ahead_ms) * 1000,
                claim.starved,
                claim.starting == Some(true),
            )
        });
        if told.end == viewer::End::Complete {
            let one_way_ns = u64::from(told.srtt_us) * 500;
            let t_ns = told.t_last_acked_ns.saturating_sub(one_way_ns);
            pupil.arrived(t_ns, object.duration_us);
        }
        if let Some(lesson) = lesson {
            self.learned.learn(entry.family, &lesson);
        }
    }

    fn tell_finished(
        &mut self,
        place: u32,
        told: &viewer::Finished,
        acked_bytes: u64,
        spent: &Spent,
        now_ns: u64,
        cells: &mut Cells,
    ) {
        if let Some(entry) = self.viewers.get_mut(place) {
            entry.acked_bytes += acked_bytes;
            let is_slow = is_slow(told);
            if is_slow {
                entry.blame.merge(spent);
                entry.slow_deliveries += 1;
            }
            entry.blame(told.t_request_ns, told.t_last_acked_ns, spent);
            if let Some(object) = told.object
                && matches!(object.class, viewer::Class::Segment | viewer::Class::Part)
            {
                entry.objects += 1;
                entry.media_us += u64::from(object.duration_us);
            }
        }
        self.tell(place, now_ns, cells, |model, with, out| {
            model.finished(told, now_ns, with, out);
        });
    }
}

/// Whether it took longer than what was in it plays, or was cut off.
fn is_slow(told: &viewer::Finished) -> bool {
    let latency_us = told.t_last_acked_ns.saturating_sub(told.t_request_ns) / 1000;
    told.end != viewer::End::Complete
        || told
            .object
            .is_some_and(|object| object.duration_us > 0 && latency_us > object.duration_us.into())
}

/// What an object says of itself goes to its class's cell.
fn count_object(cell: u32, label: &RequestLabel, told: &viewer::Finished, cells: &mut Cells) {
    let object = told::object(label);
    let is_media = matches!(object.class, viewer::Class::Segment | viewer::Class::Part);
    let at_origin_late = object.is_live && is_media && (label.status == 404 || label.status == 425);
    let place = cells.of_class(cell, label.object.class, told::tier(label));
    let cell = cells.get_mut(place);
    cell.counters.late_at_origin += u64::from(at_origin_late);
    if !is_media || object.duration_us == 0 || told.end != viewer::End::Complete {
        return;
    }
    let latency_us = told.t_last_acked_ns.saturating_sub(told.t_request_ns) / 1000;
    let duration_us = u64::from(object.duration_us);
    cell.counters.media_us += duration_us;
    if latency_us > 0 && object.range.is_none() {
        cell.counters.chunks += 1;
        cell.counters.slow_chunks += u64::from(latency_us > duration_us);
        cell.record(
            Metric::ChunkPerformancePermille,
            duration_us.saturating_mul(1000) / latency_us,
        );
        let kbps = told.acked_bytes.saturating_mul(8000) / duration_us;
        cell.record(Metric::BitrateKbps, kbps);
    }
}
