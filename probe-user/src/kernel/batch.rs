//! Records kept for a moment: a ring lends one at a time, and whoever wants to know what comes next
//! must have several.

use bytemuck::bytes_of;
use probe_ebpf::record::Delivery;

use super::{Record, decode};

/// No record is longer.
const RECORD_BYTES: usize = size_of::<Delivery>();
/// Enough to look ahead by, and few enough to stay in a near cache.
const CAPACITY: usize = 64;

/// A few records, in the order in which they came.
#[derive(Debug)]
pub struct Batch {
    records: Box<[Kept; CAPACITY]>,
    cookies: [u64; CAPACITY],
    len: usize,
    last_ns: u64,
}

/// A record's bytes, aligned as it is.
#[derive(Clone, Copy, Debug)]
#[repr(align(8))]
struct Kept {
    bytes: [u8; RECORD_BYTES],
    len: usize,
}

impl Batch {
    /// An empty one.
    pub fn new() -> Self {
        let none = Kept {
            bytes: [0; RECORD_BYTES],
            len: 0,
        };
        Self {
            records: Box::new([none; CAPACITY]),
            cookies: [0; CAPACITY],
            len: 0,
            last_ns: 0,
        }
    }

    /// Takes one more; whether that was the last there is room for. One that finds no room is not
    /// taken.
    pub fn push(&mut self, record: Record<'_>) -> bool {
        // What is no record stays none without a byte of it.
        let (bytes, cookie, t_ns) = match record {
            Record::SessionStart(record) => (bytes_of(record), record.cookie, record.header.t_ns),
            Record::SessionEnd(record) => (bytes_of(record), record.cookie, record.header.t_ns),
            Record::Delivery(record) => (bytes_of(record), record.cookie, record.header.t_ns),
            Record::Malformed => (&[][..], 0, self.last_ns),
        };
        if let Some(kept) = self.records.get_mut(self.len) {
            kept.bytes[..bytes.len()].copy_from_slice(bytes);
            kept.len = bytes.len();
            self.cookies[self.len] = cookie;
            self.len += 1;
            self.last_ns = t_ns;
        }
        self.len == CAPACITY
    }

    /// Whose records they are; 0: nobody's.
    pub fn cookies(&self) -> &[u64] {
        &self.cookies[..self.len]
    }

    /// When the last of them was made.
    pub fn last_ns(&self) -> u64 {
        self.last_ns
    }

    /// The records.
    pub fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        let kept = self.records[..self.len].iter();
        kept.map(|kept| decode::record(&kept.bytes[..kept.len]))
    }

    /// Forgets them.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use probe_ebpf::record::{ABI_VERSION, Header, SessionEnd, SessionStart, kind};

    use super::*;

    fn header<T>(kind: u8) -> Header {
        Header {
            kind,
            version: ABI_VERSION,
            len: u16::try_from(size_of::<T>()).unwrap(),
            ..Header::default()
        }
    }

    #[test]
    fn records_come_out_as_they_went_in() {
        let start = SessionStart {
            header: header::<SessionStart>(kind::SESSION_START),
            cookie: 1,
            ..SessionStart::default()
        };
        let delivery = Delivery {
            header: header::<Delivery>(kind::DELIVERY_END),
            cookie: 2,
            acked_bytes: 3,
            ..Delivery::default()
        };
        let end = SessionEnd {
            header: header::<SessionEnd>(kind::SESSION_END),
            cookie: 4,
            ..SessionEnd::default()
        };
        let mut batch = Batch::new();
        for _ in 0..2 {
            batch.push(Record::Delivery(&delivery));
            batch.push(Record::SessionStart(&start));
            batch.push(Record::Malformed);
            batch.push(Record::SessionEnd(&end));
            assert_eq!(batch.cookies(), [2, 1, 0, 4]);
            let records: Vec<_> = batch.iter().collect();
            assert!(matches!(records[0], Record::Delivery(record) if *record == delivery));
            assert!(matches!(records[1], Record::SessionStart(record) if *record == start));
            assert!(matches!(records[2], Record::Malformed));
            assert!(matches!(records[3], Record::SessionEnd(record) if *record == end));
            batch.clear();
            assert_eq!(batch.iter().count(), 0);
        }
    }

    #[test]
    fn a_full_batch_says_so_and_takes_no_more() {
        let mut batch = Batch::new();
        let fills = (0..=CAPACITY).map(|_| batch.push(Record::Malformed));
        assert_eq!(fills.filter(|full| *full).count(), 2);
        assert_eq!(batch.iter().count(), CAPACITY);
    }
}
