//! A session as the audience sees it: whose it is, what labels have said of it, and which of its
//! deliveries nobody has named yet. Labels and deliveries meet here, by time.

use std::collections::VecDeque;

use probe_ebpf::record;

use super::super::delivery::{self, Kind};
use super::super::viewer::cadence::Cadence;
use crate::labels::request::RequestLabel;

/// A server notes the begin of a request when it has read it, which is later than its arrival in
/// the kernel, and in whole milliseconds, which may be earlier.
const EARLIER_NS: u64 = 20_000_000;
/// Labels without their delivery, and deliveries without their label, of one session.
const MOST_WAITING: usize = 16;
/// Neither waits longer.
pub(super) const PATIENCE_NS: u64 = 3_000_000_000;

/// A label that was heard of a session, on the clock of the records.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    pub(super) label: RequestLabel,
    /// When its request began; 0: not said.
    pub(super) t_begin_ns: u64,
    /// When its answer was written; 0: not said.
    pub(super) t_end_ns: u64,
    /// The viewer's model has heard of it.
    pub(super) is_told: bool,
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
    /// The delivery that comes after the last one that is over.
    pub(super) next_index: u32,
    /// Request times of the delivery under way, if it was reported.
    pub(super) open: Option<Open>,
    /// What its requests' pace tells, where nobody labels them.
    pub(super) cadence: Option<Box<Cadence>>,
    waiting: Option<Box<Waiting>>,
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
            next_index: 0,
            open: None,
            cadence: None,
            waiting: None,
        }
    }

    /// Whether anything waits here.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting
            .as_ref()
            .is_some_and(|waiting| !waiting.labels.is_empty() || !waiting.deliveries.is_empty())
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
                meets(heard, record)
            };
            at += 1;
            if takes {
                taken.push(*heard);
                return false;
            }
            let is_past = heard.t_begin_ns != 0
                && heard.t_begin_ns.saturating_add(EARLIER_NS) < record.t_request_ns;
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
            .filter(|(_, record)| meets(heard, record))
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
        let mut deliveries = Vec::new();
        while let Some(first) = waiting.deliveries.front()
            && first.header.t_ns < limit_ns
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
