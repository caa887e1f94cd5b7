use probe_ebpf::record::{Delivery, flag};

use super::*;
use crate::labels::request::{Class, SessionRef, Source};

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
        id: RequestId::default(),
        is_told: false,
        reaches_bytes: 0,
        t_acked_ns: 0,
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

#[test]
fn labels_that_overtake_the_kernels_records_are_of_the_deliveries_that_follow() {
    let mut side = side();
    side.open = Some(Open {
        index: 7,
        t_request_ns: 1000 * MS,
    });
    let first = label(1001, 1);
    assert_eq!(side.awaited_by(&first).index, 7);
    assert_eq!(side.awaited_by(&first).t_request_ns, 1000 * MS);
    side.keep_label(&first);
    // The kernel has not said yet that the seventh is over.
    for (begin_ms, index) in [(3000, 8), (4000, 9)] {
        let next = label(begin_ms, 1);
        let awaited = side.awaited_by(&next);
        assert_eq!(
            (awaited.index, awaited.t_request_ns),
            (index, begin_ms * MS)
        );
        side.keep_label(&next);
    }
    // Nor that any is under way.
    side.open = None;
    side.next_index = 8;
    side.t_latest_ns = 2990 * MS;
    assert_eq!(side.awaited_by(&label(3000, 1)).index, 8);
    assert_eq!(side.awaited_by(&label(5000, 1)).index, 10);
}

/// Of HTTP/2: a small answer that ends while a large one is written, and that one.
#[test]
fn answers_that_share_a_session_are_over_when_as_much_is_acknowledged_as_they_reach() {
    let mut side = side();
    let shared = |begin_ms, end_ms, sent_bytes| {
        let mut heard = label(begin_ms, sent_bytes);
        heard.label.is_http2 = true;
        heard.label.object.class = Class::Segment;
        heard.t_end_ns = end_ms * MS;
        heard.is_told = true;
        heard
    };
    let record = |t_ms: u64, written_bytes, acked_bytes| {
        let mut record = delivery(3, 1000, t_ms);
        record.flags |= flag::BUSY_PERIOD;
        record.requests = 2;
        record.header.t_ns = t_ms * MS;
        record.t_last_acked_ns = t_ms * MS;
        record.written_bytes = written_bytes;
        record.acked_bytes = acked_bytes;
        record
    };
    let mut small = shared(1010, 1100, 20_000);
    small.id = side.name_shared(3, &small);
    side.keep_label(&small);
    // Half of the way to the first report, so within the first half of what was written by then.
    let (over, under_way) = side
        .shared_progress(&record(1200, 200_000, 50_000))
        .unwrap();
    assert!(over.is_empty());
    let [named, nameless] = under_way;
    assert_eq!(named.unwrap().id, small.id);
    // There were two requests, and one label.
    let nameless = nameless.unwrap();
    assert_ne!(nameless.id, small.id);
    let (over, _) = side
        .shared_progress(&record(1400, 300_000, 150_000))
        .unwrap();
    let [over] = &over[..] else {
        panic!("{over:?}")
    };
    assert_eq!((over.id, over.reaches_bytes), (small.id, 100_000));
    assert_eq!(over.t_acked_ns, 1300 * MS);
    // The second label takes the number under which its request was told.
    let mut large = shared(1005, 1500, 300_000);
    large.id = side.name_shared(3, &large);
    assert_eq!(large.id, nameless.id);
    side.keep_label(&large);
    let mut end = record(1900, 320_500, 320_500);
    end.header.kind = record::kind::DELIVERY_END;
    let (mut heard, _) = side.take_labels(&end);
    let (was_named, left) = side.shared_end(&end, &mut heard);
    assert!(was_named && left.is_none());
    let [heard] = &heard[..] else {
        panic!("{heard:?}")
    };
    // The last reaches to the end, whatever the log leaves out.
    assert_eq!(
        (heard.reaches_bytes, heard.t_acked_ns),
        (320_500, 1900 * MS)
    );
    // The next period has numbers of its own, and none is given twice, though a record of the one before
    // comes after its first label.
    let other = shared(2001, 2002, 5);
    let first = side.name_shared(4, &other);
    assert_ne!(first, small.id);
    assert!(
        side.shared_progress(&record(1950, 320_500, 320_500))
            .is_none()
    );
    assert_ne!(side.name_shared(4, &other), first);
}
