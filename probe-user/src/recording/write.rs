//! The writing side of a recording: bounded, and whole up to its last frame whatever happens.

use std::fs::File;
use std::io::{self, Write};

use prost::Message as _;
use weir_proto::v1;
use weir_proto::v1::RecordingEndCause;

use super::frame::{self, Kind};

/// Room kept for the end's frame: it is never longer.
const END_BYTES: u64 = 128;

/// Where a recording is written.
pub trait Storage: Write {
    /// Takes away everything after the first `len` bytes.
    fn cut(&mut self, len: u64) -> io::Result<()>;
    /// Makes what was written survive a crash of the host.
    fn sync(&mut self) -> io::Result<()>;
}

impl Storage for File {
    fn cut(&mut self, len: u64) -> io::Result<()> {
        use io::{Seek, SeekFrom};
        self.set_len(len)?;
        self.seek(SeekFrom::Start(len)).map(|_| ())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

/// What became of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is written.
    Yes,
    /// The recording would be larger than allowed: it is not, and nothing more will be.
    Full,
}

/// A recording under way.
#[derive(Debug)]
pub struct Writer<S> {
    to: S,
    max_bytes: u64,
    bytes: u64,
    frames: u32,
    blocks: u64,
    records: u64,
    unwritten: u64,
    torn: bool,
}

impl<S: Storage> Writer<S> {
    /// Begins a recording of at most `max_bytes`.
    pub fn begin(to: S, header: &v1::RecordingHeader, max_bytes: u64) -> io::Result<Self> {
        let mut writer = Self {
            to,
            max_bytes,
            bytes: 0,
            frames: 0,
            blocks: 0,
            records: 0,
            unwritten: 0,
            torn: false,
        };
        let mut start = frame::prelude().to_vec();
        start.extend(frame::encode(Kind::Header, 0, &header.encode_to_vec())?);
        let bytes = start.len() as u64;
        if bytes + END_BYTES > max_bytes {
            return Err(io::Error::other(format!(
                "{max_bytes} bytes do not even hold the header of {bytes}: allow more"
            )));
        }
        writer.append(&start)?;
        Ok(writer)
    }

    /// Adds a block. After an error, all that was added before is whole and can be
    /// [ended](Self::end).
    pub fn block(&mut self, block: &v1::RecordBlock) -> io::Result<Kept> {
        let written = self.entries(&block.entries, block.records);
        if !matches!(written, Ok(Kept::Yes)) {
            self.unwritten += block.records;
        }
        written
    }

    /// The same for one that is kept elsewhere if it cannot be kept here.
    pub(super) fn entries(&mut self, entries: &[u8], records: u64) -> io::Result<Kept> {
        let frame = frame::encode(Kind::Block, self.frames, entries)?;
        if self.bytes + frame.len() as u64 + END_BYTES > self.max_bytes {
            return Ok(Kept::Full);
        }
        self.append(&frame)?;
        self.blocks += 1;
        self.records += records;
        Ok(Kept::Yes)
    }

    /// Counts records that are not in it and should be.
    pub(super) fn missed(&mut self, records: u64) {
        self.unwritten += records;
    }

    /// Ends the recording, and says what is in it.
    pub fn end(mut self, cause: RecordingEndCause) -> io::Result<v1::RecordingEnd> {
        let end = self.summary(cause);
        let frame = frame::encode(Kind::End, self.frames, &end.encode_to_vec())?;
        self.append(&frame)?;
        self.to.sync()?;
        Ok(end)
    }

    /// What is in it, if it ended now.
    pub fn summary(&self, cause: RecordingEndCause) -> v1::RecordingEnd {
        v1::RecordingEnd {
            cause: cause.into(),
            blocks: self.blocks,
            records: self.records,
            records_unwritten: self.unwritten,
        }
    }

    /// Whether it ends in half a frame, which could not be taken away: nothing can follow.
    pub(super) fn is_torn(&self) -> bool {
        self.torn
    }

    /// What it is written to.
    pub(super) fn storage(&self) -> &S {
        &self.to
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.torn {
            return Err(io::Error::other("a part before it is torn"));
        }
        let written = self.to.write_all(bytes).and_then(|()| self.to.flush());
        if let Err(err) = written {
            // What is left of it otherwise would be a torn tail, which readers drop all the same.
            if let Err(cut) = self.to.cut(self.bytes) {
                tracing::debug!("cannot take away a half-written frame: {cut}");
                self.torn = true;
            }
            return Err(err);
        }
        self.bytes += bytes.len() as u64;
        self.frames += 1;
        Ok(())
    }
}
