//! A file's records beside it, while it cannot be read because it is not whole: one after the other,
//! each after its length, so that whatever ends costs the record it is in.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read as _, Result, Write as _};
use std::path::Path;

use prost::Message as _;
use weir_proto::v1::{self, journalled};

use super::super::record::{Origin, Record, What};

/// A record is not longer: a message of the wire is not.
const MAX_BYTES: u64 = 4 << 20;

/// One that is being written.
#[derive(Debug)]
pub(super) struct Journal {
    to: BufWriter<File>,
    message: Vec<u8>,
}

impl Journal {
    pub(super) fn new(file: File) -> Self {
        Self {
            to: BufWriter::with_capacity(256 << 10, file),
            message: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, record: &Record) -> Result<()> {
        self.message.clear();
        message(record).encode(&mut self.message)?;
        let length = u32::try_from(self.message.len()).unwrap_or(u32::MAX);
        self.to.write_all(&length.to_le_bytes())?;
        self.to.write_all(&self.message)
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        self.to.flush()
    }
}

/// The records of one, up to the first that is not whole.
pub(super) fn read(path: &Path) -> Result<impl Iterator<Item = Record>> {
    let mut from = BufReader::new(File::open(path)?);
    Ok(std::iter::from_fn(move || {
        let mut length = [0; 4];
        from.read_exact(&mut length).ok()?;
        let length = u64::from(u32::from_le_bytes(length));
        let mut message = Vec::new();
        (&mut from)
            .take(length.min(MAX_BYTES))
            .read_to_end(&mut message)
            .ok()?;
        let is_whole = message.len() as u64 == length;
        let message = is_whole.then(|| v1::Journalled::decode(&message[..]).ok())?;
        record(message?)
    }))
}

fn message(record: &Record) -> v1::Journalled {
    let origin = record.origin.clone();
    v1::Journalled {
        host: origin.host,
        boot_id: origin.boot_id,
        lane: origin.lane,
        seq: origin.seq,
        place: origin.place,
        collector: origin.collector,
        heard_unix_ns: origin.heard_unix_ns,
        unix_ns: record.unix_ns,
        what: Some(match record.what.clone() {
            What::Late(delivery) => journalled::What::Late(delivery),
            What::Aborted(delivery) => journalled::What::Aborted(delivery),
            What::Delivery(delivery) => journalled::What::Delivery(delivery),
            What::Viewer(event) => journalled::What::Viewer(event),
            What::Alarm(alarm) => journalled::What::Alarm(alarm),
            What::Steer(event) => journalled::What::Steer(event),
        }),
    }
}

fn record(message: v1::Journalled) -> Option<Record> {
    Some(Record {
        origin: Origin {
            host: message.host,
            boot_id: message.boot_id,
            lane: message.lane,
            seq: message.seq,
            place: message.place,
            collector: message.collector,
            heard_unix_ns: message.heard_unix_ns,
        },
        unix_ns: message.unix_ns,
        what: match message.what? {
            journalled::What::Late(delivery) => What::Late(delivery),
            journalled::What::Aborted(delivery) => What::Aborted(delivery),
            journalled::What::Delivery(delivery) => What::Delivery(delivery),
            journalled::What::Viewer(event) => What::Viewer(event),
            journalled::What::Alarm(alarm) => What::Alarm(alarm),
            journalled::What::Steer(event) => What::Steer(event),
        },
    })
}
