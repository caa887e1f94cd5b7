//! A session as the audience sees it: whose it is, what labels have said of it, and which of its
//! deliveries nobody has named yet. Labels and deliveries meet here, by time.

mod shared;

use std::collections::VecDeque;

use probe_ebpf::record::{self, flag};

use super::super::delivery::{self, Kind};
use super::super::viewer::RequestId;
use super::super::viewer::cadence::Cadence;
use super::pairing::Numbered;
use crate::labels::request::RequestLabel;
use shared::Shared;

/// A server notes the begin of a request when it has read it, which is later than its arrival in
/// the kernel, and in whole milliseconds, which may be earlier.
pub(super) const EARLIER_NS: u64 = 20_000_000;
/// Labels without their delivery, and deliveries without their label, of one session.
const MOST_WAITING: usize = 16;
/// Neither waits longer.
pub(super) const PATIENCE_NS: u64 = 3_000_000_000;

/// A session that was opened longer before its first request was not opened for that.
const MOST_OPENING_NS: u64 = 5_000_000_000;

/// Whoever played when weir began has asked for something after so long.
pub(super) const YOUNG_NS: u64 = 120_000_000_000;

/// The latest delivery of a session waits so long: a server that pauses in the middle of an answer
/// logs it when it has written the rest.
const PAUSE_NS: u64 = 15_000_000_000;
/// An answer that the server wrote so long after a delivery's last write goes on after it.
const GOES_ON_NS: u64 = 100_000_000;

/// A label that was heard of a session, on the clock of the records.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    pub(super) label: RequestLabel,
    /// When its request began; 0: not said.
    pub(super) t_begin_ns: u64,
    /// When its answer was written; 0: not said.
    pub(super) t_end_ns: u64,
    /// By what the viewer's model knows its request.
    pub(super) id: RequestId,
    /// The viewer's model has heard of it.
    pub(super) is_told: bool,
    /// How far into the bytes of a busy period its answer reaches; 0: not known.
    pub(super) reaches_bytes: u64,
    /// When these were acknowledged; 0: not known.
    pub(super) t_acked_ns: u64,
}

/// A session.
#[derive(Debug)]
pub(super) struct Side {
    /// Tells the sessions of one viewer apart.
    pub(super) number: u32,
    /// Whose it is.
    pub(super) viewer: Option<u32>,
    /// Where its client is, and the server's port.
    pub(super) ends: record::Endpoints,
    /// Where it is counted.
    pub(super) cell: u32,
    /// When its client began to open it; 0: not known.
    pub(super) t_open_ns: u64,
    /// When it was adopted; 0: it was not.
    pub(super) t_adopted_ns: u64,
    /// The delivery that comes after the last one that is over.
    pub(super) next_index: u32,
    /// When that was over; 0: none is.
    pub(super) t_latest_ns: u64,
    /// When anything was heard of it last.
    pub(super) t_updated_ns: u64,
    /// It stands in the audience's queue of those on which something waits.
    pub(super) is_queued: bool,
    /// Request times of the delivery under way, if it was reported.
    pub(super) open: Option<Open>,
    /// What its requests' pace tells, where nobody labels them.
    pub(super) cadence: Option<Box<Cadence>>,
    /// What its labels are numbered, and the tags whose lines have not come.
    pub(super) numbered: Option<Box<Numbered>>,
    waiting: Option<Box<Waiting>>,
    /// How far requests have come that share it.
    shared: Option<Box<Shared>>,
    /// What the delivery under way goes on with, after a pause of the server.
    paused: Option<Box<record::Delivery>>,
}

/// A delivery under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    pub(super) index: u32,
    pub(super) t_request_ns: u64,
}

#[derive(Debug, Default)]
struct Waiting {
    labels: VecDeque<Heard>,
    deliveries: VecDeque<record::Delivery>,
}

impl Side {
    pub(super) fn new(number: u32, ends: record::Endpoints, cell: u32) -> Self {
        Self {
            number,
            viewer: None,
            ends,
            cell,
            t_open_ns: 0,
            t_adopted_ns: 0,
            next_index: 0,
            t_latest_ns: 0,
            t_updated_ns: 0,
            is_queued: false,
            open: None,
            cadence: None,
            numbered: None,
            waiting: None,
            shared: None,
            paused: None,
        }
    }

    /// When a viewer's attempt began whose first request came here at `t_request_ns`: with the
    /// session, if that was opened for it.
    pub(super) fn attempt_ns(&self, t_request_ns: u64) -> u64 {
        let before_ns = t_request_ns.saturating_sub(self.t_open_ns);
        if self.t_open_ns != 0 && self.viewer.is_none() && before_ns <= MOST_OPENING_NS {
            self.t_open_ns.min(t_request_ns)
        } else {
            t_request_ns
        }
    }

    /// Whether it was there before weir, so lately that whoever uses it may have used it then.
    pub(super) fn is_adopted_lately(&self, now_ns: u64) -> bool {
        self.t_adopted_ns != 0 && now_ns < self.t_adopted_ns.saturating_add(YOUNG_NS)
    }

    /// Whether anything waits here.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting
            .as_ref()
            .is_some_and(|waiting| !waiting.labels.is_empty() || !waiting.deliveries.is_empty())
    }

    /// A delivery with what it goes on with: one that seemed to be over when the server paused, and
    /// that nobody has named yet. They are one answer, as the viewer's model and the label have it.
    pub(super) fn joined(&mut self, record: &record::Delivery) -> record::Delivery {
        if delivery::kind_of(record) != Kind::Resumed || record.index != self.next_index {
            self.paused = None;
            return *record;
        }
        if self.paused.is_none() {
            self.paused = self.take_latest().map(Box::new);
        }
        let Some(before) = &self.paused else {
            return *record;
        };
        let kinds = flag::RESUMED | flag::BUSY_PERIOD;
        let joined = record::Delivery {
            index: before.index,
            flags: record.flags & !kinds | before.flags & kinds,
            t_request_ns: before.t_request_ns,
            t_request_last_ns: before.t_request_last_ns,
            t_first_write_ns: before.t_first_write_ns,
            t_first_acked_ns: before.t_first_acked_ns,
            acked_bytes: before.acked_bytes.saturating_add(record.acked_bytes),
            written_bytes: before.written_bytes.saturating_add(record.written_bytes),
            ..*record
        };
        if record.header.kind == record::kind::DELIVERY_END {
            self.paused = None;
        }
        joined
    }

    /// The latest delivery, if nobody has named it yet.
    fn latest(&self) -> Option<&record::Delivery> {
        let latest = self.waiting.as_ref()?.deliveries.back()?;
        (latest.header.t_ns == self.t_latest_ns).then_some(latest)
    }

    fn take_latest(&mut self) -> Option<record::Delivery> {
        self.latest()?;
        self.waiting.as_mut()?.deliveries.pop_back()
    }

    /// The delivery that a label's answer goes on after.
    pub(super) fn paused_for(&self, heard: &Heard) -> Option<Open> {
        let before = self.paused.as_deref().or_else(|| self.latest())?;
        (meets(heard, before) && goes_on(heard, before)).then_some(Open {
            index: before.index,
            t_request_ns: before.t_request_ns,
        })
    }

    /// Which delivery a label is of that none has met: its index, and when it was asked for. That is
    /// the one under way, or the next; but the server's line may come before the kernel's record, so
    /// that requests of which labels were heard already come before it.
    pub(super) fn awaited_by(&self, heard: &Heard) -> Open {
        let first = self.paused_for(heard).or(self.open);
        let base = first.unwrap_or(Open {
            index: self.next_index,
            t_request_ns: self.t_latest_ns,
        });
        let since_ns = base.t_request_ns.saturating_sub(EARLIER_NS);
        let is_before = |other: &&Heard| {
            !other.label.is_http2 && (since_ns..heard.t_begin_ns).contains(&other.t_begin_ns)
        };
        let labels = self.waiting.iter().flat_map(|waiting| &waiting.labels);
        // Of those that share it, all are of the one under way.
        let before = if heard.label.is_http2 {
            0
        } else {
            labels.filter(is_before).count()
        };
        match (before, first) {
            (0, Some(open)) => open,
            _ => Open {
                index: base
                    .index
                    .saturating_add(u32::try_from(before).unwrap_or(0)),
                t_request_ns: heard.t_begin_ns,
            },
        }
    }

    /// Keeps a label until its delivery is over; returns one that has no room any more.
    pub(super) fn keep_label(&mut self, heard: &Heard) -> Option<Heard> {
        let labels = &mut self.waiting.get_or_insert_default().labels;
        let over = if labels.len() >= MOST_WAITING {
            labels.pop_front()
        } else {
            None
        };
        labels.push_back(*heard);
        over
    }

    /// The labels that wait here.
    pub(super) fn labels_mut(&mut self) -> Option<&mut VecDeque<Heard>> {
        Some(&mut self.waiting.as_mut()?.labels)
    }

    /// Keeps a delivery that is over until its label comes; returns one that has no room any more.
    pub(super) fn keep_delivery(&mut self, record: &record::Delivery) -> Option<record::Delivery> {
        let deliveries = &mut self.waiting.get_or_insert_default().deliveries;
        let over = if deliveries.len() >= MOST_WAITING {
            deliveries.pop_front()
        } else {
            None
        };
        deliveries.push_back(*record);
        over
    }

    /// The label that waits for a delivery that is not over, if its size is told.
    pub(super) fn expected_bytes(&self, record: &record::Delivery) -> u64 {
        let labels = self.waiting.iter().flat_map(|waiting| &waiting.labels);
        labels
            .filter(|heard| meets(heard, record))
            .map(|heard| heard.label.sent_bytes)
            .next_back()
            .unwrap_or(0)
    }

    /// The label that says most of a delivery, which stays here.
    pub(super) fn label_of(&self, record: &record::Delivery) -> Option<&Heard> {
        let labels = self.waiting.iter().flat_map(|waiting| &waiting.labels);
        labels
            .filter(|heard| meets(heard, record))
            .min_by_key(|heard| heard.t_begin_ns.abs_diff(record.t_request_ns))
            .or_else(|| self.shared.as_ref()?.first(record.index))
    }

    /// Takes out the labels of a delivery that is over: of an exchange the nearest, of a busy period
    /// all. Those of earlier requests have met nothing; they come second.
    pub(super) fn take_labels(&mut self, record: &record::Delivery) -> (Vec<Heard>, Vec<Heard>) {
        let Some(waiting) = &mut self.waiting else {
            return (Vec::new(), Vec::new());
        };
        let is_exchange = delivery::kind_of(record) == Kind::Exchange;
        let nearest = waiting
            .labels
            .iter()
            .enumerate()
            .filter(|(_, heard)| meets(heard, record))
            .min_by_key(|(_, heard)| heard.t_begin_ns.abs_diff(record.t_request_ns))
            .map(|(at, _)| at);
        let (mut taken, mut stale) = (Vec::new(), Vec::new());
        let mut at = 0;
        waiting.labels.retain(|heard| {
            let takes = if is_exchange {
                nearest == Some(at)
            } else {
                meets(heard, record) || ends_in(heard, record)
            };
            at += 1;
            if takes {
                taken.push(*heard);
                return false;
            }
            let is_past = heard.t_begin_ns != 0
                && heard
                    .t_begin_ns
                    .max(heard.t_end_ns)
                    .saturating_add(EARLIER_NS)
                    < record.t_request_ns;
            if is_past {
                stale.push(*heard);
            }
            !is_past
        });
        taken.sort_by_key(|heard| heard.t_begin_ns);
        (taken, stale)
    }

    /// Takes out the delivery that a label is of, if it is over already.
    pub(super) fn take_delivery(&mut self, heard: &Heard) -> Option<record::Delivery> {
        let deliveries = &mut self.waiting.as_mut()?.deliveries;
        let (at, record) = deliveries
            .iter()
            .enumerate()
            .filter(|(_, record)| meets(heard, record) && !goes_on(heard, record))
            .min_by_key(|(_, record)| heard.t_begin_ns.abs_diff(record.t_request_ns))?;
        // A busy period may hold what further labels are of.
        if delivery::kind_of(record) == Kind::Exchange {
            deliveries.remove(at)
        } else {
            Some(*record)
        }
    }

    /// Takes out what has waited too long.
    pub(super) fn take_stale(&mut self, now_ns: u64) -> (Vec<Heard>, Vec<record::Delivery>) {
        let Some(waiting) = &mut self.waiting else {
            return (Vec::new(), Vec::new());
        };
        let limit_ns = now_ns.saturating_sub(PATIENCE_NS);
        let paused_ns = now_ns.saturating_sub(PAUSE_NS);
        let mut deliveries = Vec::new();
        while let Some(first) = waiting.deliveries.front()
            && first.header.t_ns < limit_ns
            && (first.header.t_ns != self.t_latest_ns
                || first.header.t_ns < paused_ns
                || self.open.is_some())
        {
            deliveries.extend(waiting.deliveries.pop_front());
        }
        // A label comes before the end of its delivery, however long that takes.
        let labels = if self.open.is_none() {
            let mut labels = Vec::new();
            while let Some(first) = waiting.labels.front()
                && first.label.t_heard_ns < limit_ns
            {
                labels.extend(waiting.labels.pop_front());
            }
            labels
        } else {
            Vec::new()
        };
        if waiting.labels.is_empty() && waiting.deliveries.is_empty() {
            self.waiting = None;
        }
        (labels, deliveries)
    }

    /// Takes out all that waits: the session is over.
    pub(super) fn take_all(&mut self) -> (Vec<Heard>, Vec<record::Delivery>) {
        self.waiting
            .take()
            .map_or_else(Default::default, |waiting| {
                (waiting.labels.into(), waiting.deliveries.into())
            })
    }
}

/// Whether a label's answer was not all written when its delivery seemed to be over.
fn goes_on(heard: &Heard, record: &record::Delivery) -> bool {
    heard.t_end_ns > record.t_last_write_ns.saturating_add(GOES_ON_NS)
}

/// Whether a label's answer, begun before, was written to its end in a delivery: others shared the
/// session meanwhile.
fn ends_in(heard: &Heard, record: &record::Delivery) -> bool {
    heard.t_end_ns != 0
        && heard.t_end_ns >= record.t_first_write_ns.saturating_sub(EARLIER_NS)
        && heard.t_end_ns <= record.t_last_write_ns.saturating_add(EARLIER_NS)
}

/// Whether a label may be of a delivery: its request began while the delivery was asked for and
/// written.
fn meets(heard: &Heard, record: &record::Delivery) -> bool {
    if heard.t_begin_ns == 0 {
        // A tag that says no time is of what is asked for when it comes.
        return heard.label.t_heard_ns >= record.t_request_ns
            && (record.t_last_acked_ns == 0 || heard.label.t_heard_ns <= record.header.t_ns);
    }
    let first_ns = record.t_request_ns.saturating_sub(EARLIER_NS);
    let last_ns = record
        .t_last_write_ns
        .max(record.t_request_last_ns)
        .saturating_add(EARLIER_NS);
    (first_ns..=last_ns).contains(&heard.t_begin_ns)
}

#[cfg(test)]
mod tests;
