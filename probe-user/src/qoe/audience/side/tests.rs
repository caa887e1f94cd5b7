use probe_ebpf::record::{Delivery, flag};

use super::*;
use crate::labels::request::{SessionRef, Source};

const MS: u64 = 1_000_000;

fn label(begin_ms: u64, sent_bytes: u64) -> Heard {
    let label = RequestLabel {
        sent_bytes,
        t_heard_ns: (begin_ms + 5) * MS,
        ..RequestLabel::of(Source::AccessLog, SessionRef::Cookie(1))
    };
    Heard {
        label,
        t_begin_ns: begin_ms * MS,
        t_end_ns: (begin_ms + 5) * MS,
        is_told: false,
    }
}

fn delivery(index: u32, request_ms: u64, written_ms: u64) -> Delivery {
    let mut record = Delivery {
        index,
        t_request_ns: request_ms * MS,
        t_request_last_ns: request_ms * MS,
        t_first_write_ns: request_ms * MS + 1,
        t_last_write_ns: written_ms * MS,
        t_last_acked_ns: written_ms * MS + 40 * MS,
        ..Delivery::default()
    };
    record.header.t_ns = record.t_last_acked_ns + 300 * MS;
    record
}

fn side() -> Side {
    Side::new(1, record::Endpoints::default(), 0)
}

#[test]
fn an_exchange_takes_the_nearest_label_and_leaves_later_ones() {
    let mut side = side();
    for (begin_ms, bytes) in [(100, 1), (300, 2), (500, 3)] {
        assert!(side.keep_label(&label(begin_ms, bytes)).is_none());
    }
    let (taken, stale) = side.take_labels(&delivery(1, 299, 310));
    assert_eq!(
        taken.iter().map(|l| l.label.sent_bytes).collect::<Vec<_>>(),
        [2]
    );
    // The one before met nothing, and never will.
    assert_eq!(
        stale.iter().map(|l| l.label.sent_bytes).collect::<Vec<_>>(),
        [1]
    );
    let (taken, stale) = side.take_labels(&delivery(2, 499, 900));
    assert_eq!((taken.len(), stale.len()), (1, 0));
    assert!(!side.is_waiting());
}

#[test]
fn a_busy_period_takes_all_that_began_in_it_in_order() {
    let mut side = side();
    for begin_ms in [130, 110, 150] {
        side.keep_label(&label(begin_ms, begin_ms));
    }
    let mut record = delivery(0, 100, 160);
    record.flags |= flag::BUSY_PERIOD;
    let (taken, stale) = side.take_labels(&record);
    let order: Vec<_> = taken.iter().map(|l| l.label.sent_bytes).collect();
    assert_eq!(order, [110, 130, 150]);
    assert!(stale.is_empty());
}

#[test]
fn a_label_that_comes_after_its_delivery_finds_it() {
    let mut side = side();
    side.keep_delivery(&delivery(0, 100, 120));
    side.keep_delivery(&delivery(1, 400, 420));
    let found = side.take_delivery(&label(401, 7)).unwrap();
    assert_eq!(found.index, 1);
    assert!(side.take_delivery(&label(401, 7)).is_none());
    assert!(side.take_delivery(&label(900, 7)).is_none());
}

#[test]
fn nothing_waits_for_ever_and_nothing_waits_in_great_numbers() {
    let mut side = side();
    side.keep_delivery(&delivery(0, 100, 120));
    side.keep_label(&label(5000, 1));
    let (labels, deliveries) = side.take_stale(500 * MS + PATIENCE_NS);
    assert_eq!((labels.len(), deliveries.len()), (0, 1));
    // While something is under way, its label may have come long before its end.
    side.open = Some(Open {
        index: 1,
        t_request_ns: 5000 * MS,
    });
    let (labels, _) = side.take_stale(60_000 * MS);
    assert!(labels.is_empty());
    side.open = None;
    let (labels, _) = side.take_stale(60_000 * MS);
    assert_eq!(labels.len(), 1);
    for n in 0..100 {
        let over = side.keep_label(&label(n, n));
        assert_eq!(over.is_some(), n >= MOST_WAITING as u64);
    }
}

#[test]
fn an_answer_that_paused_is_one_with_its_rest() {
    let mut side = side();
    let first = delivery(1, 1000, 1010);
    side.next_index = 2;
    side.t_latest_ns = first.header.t_ns;
    assert!(side.keep_delivery(&first).is_none());
    // The server logs it when it has written the rest.
    let mut heard = label(1000, 500);
    heard.t_end_ns = 5510 * MS;
    assert!(side.take_delivery(&heard).is_none());
    assert_eq!(side.paused_for(&heard).map(|open| open.index), Some(1));
    assert!(side.keep_label(&heard).is_none());
    let mut rest = delivery(2, 5500, 5510);
    rest.flags = flag::RESUMED;
    rest.header.kind = record::kind::DELIVERY_END;
    let joined = side.joined(&rest);
    assert_eq!((joined.index, joined.t_request_ns), (1, 1000 * MS));
    assert_eq!(joined.t_last_acked_ns, rest.t_last_acked_ns);
    let (taken, stale) = side.take_labels(&joined);
    assert_eq!((taken.len(), stale.len()), (1, 0));
    assert!(!side.is_waiting());
    // What goes on with nothing stands for itself.
    side.next_index = 3;
    let other = Delivery {
        flags: flag::RESUMED,
        ..delivery(3, 9000, 9010)
    };
    assert_eq!(side.joined(&other).index, 3);
}
