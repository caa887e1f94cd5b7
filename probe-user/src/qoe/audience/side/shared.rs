//! Requests that share a session at the same time (HTTP/2). To the kernel they are one busy period;
//! the server's log says when each answer was written to its end, and so how far into the period's
//! bytes it reaches. When the client has acknowledged so far, it has that answer, whatever else is
//! still under way.

use std::collections::VecDeque;

use probe_ebpf::record::{self, kind};

use super::super::super::delivery::{self, Kind};
use super::super::super::viewer::{RequestId, UnderWay};
use super::super::told;
use super::{Heard, Side, ends_in, meets};

/// What the server writes besides what it logs: headers of frames and records.
const BESIDES_BYTES: u64 = 4096;

/// How far a session had come.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    /// Of the record.
    t_ns: u64,
    /// Of the last acknowledgement.
    t_acked_ns: u64,
    written_bytes: u64,
    acked_bytes: u64,
}

/// The busy period under way, or the next.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared {
    /// Its index among the session's deliveries.
    index: u32,
    /// Labels heard of its requests, so that each has a number of its own.
    labels: u32,
    /// Written by those that are over, by the log.
    over_bytes: u64,
    /// As far as the answers that were written to their end reach.
    known_bytes: u64,
    before: Mark,
    latest: Mark,
    /// A request that no label names yet was told to be under way, by this number.
    nameless: Option<u32>,
    /// The first label, which says of what class the whole is.
    first: Option<Heard>,
}

impl Shared {
    /// Gives a label's request a number of its own within the delivery `index`.
    pub(super) fn name(&mut self, index: u32, session: u32, heard: &Heard) -> RequestId {
        self.turn_to(index);
        if self.index != index {
            return told::late_request_id(session, index, heard.t_begin_ns);
        }
        let ordinal = self.labels;
        self.labels = self.labels.wrapping_add(1);
        if self.nameless == Some(ordinal) && told::is_playback(&heard.label) {
            self.nameless = None;
        }
        if self.first.is_none() {
            self.first = Some(*heard);
        }
        told::request_id(session, index, ordinal)
    }

    /// Goes on to a later delivery; a label may have gone before the record of the one before its own.
    fn turn_to(&mut self, index: u32) {
        if index.wrapping_sub(self.index).cast_signed() > 0 {
            *self = Self {
                index,
                ..Self::default()
            };
        }
    }

    /// Whether it is that delivery, and labels were heard of it.
    pub(super) fn is_named(&self, index: u32) -> bool {
        self.index == index && self.labels > 0
    }

    /// The first label of a delivery.
    pub(super) fn first(&self, index: u32) -> Option<&Heard> {
        self.first.as_ref().filter(|_| self.index == index)
    }

    /// Takes notice of a record, and of how far the answers of `labels` reach.
    pub(super) fn saw<'a>(
        &mut self,
        record: &record::Delivery,
        labels: impl Iterator<Item = &'a mut Heard>,
    ) {
        self.turn_to(record.index);
        if self.index != record.index {
            return;
        }
        self.before = if self.latest.t_ns == 0 {
            Mark {
                t_ns: record.t_request_ns,
                t_acked_ns: record.t_first_acked_ns.max(record.t_request_ns),
                ..Mark::default()
            }
        } else {
            self.latest
        };
        self.latest = Mark {
            t_ns: record.header.t_ns,
            t_acked_ns: record.t_last_acked_ns.max(self.before.t_acked_ns),
            written_bytes: record.written_bytes,
            acked_bytes: record.acked_bytes,
        };
        let mut unplaced: Vec<_> = labels
            .filter(|heard| {
                heard.reaches_bytes == 0
                    && heard.t_end_ns != 0
                    && heard.t_end_ns <= self.latest.t_ns
            })
            .collect();
        unplaced.sort_by_key(|heard| heard.t_end_ns);
        let count = unplaced.len();
        for (n, heard) in unplaced.into_iter().enumerate() {
            self.over_bytes = self.over_bytes.saturating_add(heard.label.sent_bytes);
            let is_last = n + 1 == count && record.requests <= self.labels;
            let reaches = if is_last {
                self.latest.written_bytes
            } else {
                // Others may have been written to meanwhile.
                self.written_at(heard.t_end_ns).max(self.over_bytes)
            };
            heard.reaches_bytes = reaches.min(self.latest.written_bytes).max(1);
            self.known_bytes = self.known_bytes.max(heard.reaches_bytes);
        }
    }

    fn written_at(&self, t_ns: u64) -> u64 {
        between(
            t_ns.saturating_sub(self.before.t_ns),
            self.latest.t_ns.saturating_sub(self.before.t_ns),
            self.before.written_bytes,
            self.latest.written_bytes,
        )
    }

    /// When the client had acknowledged as far as a label's answer reaches; none: it has not.
    pub(super) fn acked_ns(&self, heard: &Heard) -> Option<u64> {
        let reaches = heard.reaches_bytes;
        if reaches == 0 || reaches > self.latest.acked_bytes {
            return None;
        }
        let t_ns = between(
            reaches.saturating_sub(self.before.acked_bytes),
            self.latest
                .acked_bytes
                .saturating_sub(self.before.acked_bytes),
            self.before.t_acked_ns,
            self.latest.t_acked_ns,
        );
        Some(t_ns.max(heard.t_end_ns.min(self.latest.t_acked_ns)))
    }

    /// What is under way after a record: of the answers in `labels` that are written and not all
    /// acknowledged the first, and a request that no label names yet, if there seems to be one.
    pub(super) fn under_way<'a>(
        &mut self,
        record: &record::Delivery,
        session: u32,
        labels: impl Iterator<Item = &'a Heard>,
    ) -> [Option<UnderWay>; 2] {
        let whole = told::under_way(record, session, 0);
        let of_label = labels
            .filter(|heard| heard.is_told && heard.reaches_bytes > 0)
            .min_by_key(|heard| heard.reaches_bytes)
            .map(|heard| {
                let sent_bytes = heard.label.sent_bytes;
                let left = heard.reaches_bytes.saturating_sub(record.acked_bytes);
                UnderWay {
                    id: heard.id,
                    t_request_ns: heard.t_begin_ns,
                    acked_bytes: sent_bytes.saturating_sub(left),
                    written_bytes: sent_bytes,
                    expected_bytes: sent_bytes,
                    ..whole
                }
            });
        let is_more = record.requests > self.labels
            || record.written_bytes > self.known_bytes.saturating_add(BESIDES_BYTES);
        if is_more && self.nameless.is_none() {
            self.nameless = Some(self.labels);
        }
        let nameless = self.nameless.filter(|_| is_more).map(|ordinal| UnderWay {
            id: told::request_id(session, self.index, ordinal),
            t_request_ns: if ordinal == 0 {
                record.t_request_ns
            } else {
                record.header.t_ns
            },
            acked_bytes: record.acked_bytes.saturating_sub(self.known_bytes),
            written_bytes: record.written_bytes.saturating_sub(self.known_bytes),
            ..whole
        });
        [of_label, nameless]
    }

    /// The request that no label named, once the delivery is over.
    pub(super) fn take_nameless(
        &mut self,
        record: &record::Delivery,
        session: u32,
    ) -> Option<RequestId> {
        if self.index != record.index || record.header.kind != kind::DELIVERY_END {
            return None;
        }
        let ordinal = self.nameless.take()?;
        Some(told::request_id(session, self.index, ordinal))
    }
}

/// The value at `at` of `all` of the way.
fn between(at: u64, all: u64, from: u64, to: u64) -> u64 {
    if all == 0 || at >= all {
        return to;
    }
    let more = u128::from(to.saturating_sub(from)) * u128::from(at) / u128::from(all);
    let more = u64::try_from(more).unwrap_or(u64::MAX);
    from.saturating_add(more)
}

impl Side {
    /// Gives the request of a label a number of its own within the busy period `index`.
    pub(in super::super) fn name_shared(&mut self, index: u32, heard: &Heard) -> RequestId {
        let number = self.number;
        let shared = self.shared.get_or_insert_default();
        shared.name(index, number, heard)
    }

    /// Takes out the labels of a busy period that is not over whose answers are all acknowledged, with
    /// the time of that, and says what is still under way. None: its requests have no labels.
    pub(in super::super) fn shared_progress(
        &mut self,
        record: &record::Delivery,
    ) -> Option<(Vec<Heard>, [Option<UnderWay>; 2])> {
        if delivery::kind_of(record) != Kind::BusyPeriod {
            return None;
        }
        let shared = self.shared.as_mut()?;
        let waiting = self.waiting.get_or_insert_default();
        shared.saw(record, shares(&mut waiting.labels, record));
        if !shared.is_named(record.index) {
            return None;
        }
        let mut over = Vec::new();
        waiting.labels.retain(|heard| {
            let t_acked_ns = shared.acked_ns(heard);
            if let Some(t_acked_ns) = t_acked_ns {
                over.push(Heard {
                    t_acked_ns,
                    ..*heard
                });
            }
            t_acked_ns.is_none()
        });
        over.sort_by_key(|heard| heard.t_acked_ns);
        let under_way = shared.under_way(record, self.number, waiting.labels.iter());
        Some((over, under_way))
    }

    /// The same for one that is over, whose labels are `heard`. Returns whether any label named it
    /// before, and the request that none has named.
    pub(in super::super) fn shared_end(
        &mut self,
        record: &record::Delivery,
        heard: &mut [Heard],
    ) -> (bool, Option<RequestId>) {
        let Some(shared) = &mut self.shared else {
            return (false, None);
        };
        shared.saw(
            record,
            heard.iter_mut().filter(|heard| heard.label.is_http2),
        );
        if shared.index == record.index {
            for heard in heard {
                heard.t_acked_ns = shared.acked_ns(heard).unwrap_or(0);
            }
        }
        let nameless = shared.take_nameless(record, self.number);
        (shared.is_named(record.index), nameless)
    }
}

/// Of labels, those whose requests share a busy period.
fn shares<'a>(
    labels: &'a mut VecDeque<Heard>,
    record: &record::Delivery,
) -> impl Iterator<Item = &'a mut Heard> {
    labels.iter_mut().filter(move |heard| {
        heard.label.is_http2 && (meets(heard, record) || ends_in(heard, record))
    })
}
