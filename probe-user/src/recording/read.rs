//! The reading side of a recording: everything up to the first byte that is not as it was written.

use std::io::{self, Read};

use prost::Message as _;
use weir_proto::v1;

use super::Said;
use super::entry::{self, BadEntry};
use super::frame::{self, HEAD, Head, Kind, PRELUDE, Refused};

/// Why a recording cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is none, or of another version.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It breaks off, or is damaged, before its header is over.
    #[error("it is cut off or damaged before the end of its header, so nothing of it can be read")]
    NoHeader,
    /// The system does not give it.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is whole and not understood.
    #[error(transparent)]
    Entry(#[from] BadEntry),
}

/// How a recording ends.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// In order.
    Ended(v1::RecordingEnd),
    /// Without its last part: the recorder was killed, or has not ended yet. Nothing is known to
    /// be missing before.
    Open,
    /// In the middle of a part, which is dropped.
    Torn {
        /// Where the dropped part begins.
        at_bytes: u64,
    },
    /// A part is not as it was written: it and all after it are dropped.
    Damaged {
        /// Where that part begins.
        at_bytes: u64,
    },
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ended(end) => {
                write!(f, "ended in order ({})", end.cause().word())?;
                if end.records_unwritten > 0 {
                    write!(
                        f,
                        ", {} records could not be written",
                        end.records_unwritten
                    )?;
                }
                Ok(())
            }
            Self::Open => f.write_str(
                "not ended in order: the recorder was killed, had no room on its disk, or still runs",
            ),
            Self::Torn { at_bytes } => write!(
                f,
                "torn: what begins at byte {at_bytes} is incomplete and was left out"
            ),
            Self::Damaged { at_bytes } => write!(
                f,
                "DAMAGED: what begins at byte {at_bytes} is not as it was written; it and all after \
                 it was left out"
            ),
        }
    }
}

/// A recording that is being read.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    header: v1::RecordingHeader,
    at_bytes: u64,
    frames: u32,
    ending: Option<Ending>,
}

enum Frame {
    Whole(Kind, Vec<u8>),
    None(Ending),
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    pub fn open(mut from: R) -> Result<Self, ReadError> {
        let mut prelude = [0; PRELUDE];
        if fill(&mut from, &mut prelude)? < PRELUDE {
            return Err(Refused::NotARecording.into());
        }
        frame::check_prelude(&prelude)?;
        let mut reader = Self {
            from,
            header: v1::RecordingHeader::default(),
            at_bytes: PRELUDE as u64,
            frames: 0,
            ending: None,
        };
        match reader.frame()? {
            Frame::Whole(Kind::Header, content) => {
                reader.header =
                    v1::RecordingHeader::decode(&content[..]).map_err(|_| ReadError::NoHeader)?;
                Ok(reader)
            }
            _ => Err(ReadError::NoHeader),
        }
    }

    /// What must be known to fold it.
    pub fn header(&self) -> &v1::RecordingHeader {
        &self.header
    }

    /// The entries of the next block; none at the end, whose kind [`ending`](Self::ending) tells.
    pub fn next_block(&mut self) -> Result<Option<Vec<u8>>, ReadError> {
        if self.ending.is_some() {
            return Ok(None);
        }
        let begin = self.at_bytes;
        let damaged = Ending::Damaged { at_bytes: begin };
        let ending = match self.frame()? {
            Frame::Whole(Kind::Block, content) => return Ok(Some(content)),
            Frame::Whole(Kind::End, content) => match v1::RecordingEnd::decode(&content[..]) {
                // What stands behind the end was put there by somebody else.
                Ok(_) if fill(&mut self.from, &mut [0])? > 0 => Ending::Damaged {
                    at_bytes: self.at_bytes,
                },
                Ok(end) => Ending::Ended(end),
                Err(_) => damaged,
            },
            Frame::Whole(Kind::Header, _) => damaged,
            Frame::None(ending) => ending,
        };
        self.ending = Some(ending);
        Ok(None)
    }

    /// Calls `each` with all that was said, in order, and tells how the recording ends.
    pub fn each(&mut self, mut each: impl FnMut(Said<'_>)) -> Result<Ending, ReadError> {
        while let Some(block) = self.next_block()? {
            entry::read(&block, &mut each)?;
        }
        Ok(self.ending())
    }

    /// Bytes read so far, up to the end of a part.
    pub fn at_bytes(&self) -> u64 {
        self.at_bytes
    }

    /// How it ends, as far as it is read.
    pub fn ending(&self) -> Ending {
        self.ending.clone().unwrap_or(Ending::Open)
    }

    fn frame(&mut self) -> Result<Frame, ReadError> {
        let at_bytes = self.at_bytes;
        let mut head = [0; HEAD];
        match fill(&mut self.from, &mut head)? {
            0 => return Ok(Frame::None(Ending::Open)),
            HEAD => {}
            _ => return Ok(Frame::None(Ending::Torn { at_bytes })),
        }
        let damaged = Frame::None(Ending::Damaged { at_bytes });
        let Some(head) = Head::read(&head).filter(|head| head.number == self.frames) else {
            return Ok(damaged);
        };
        let mut stored = Vec::new();
        (&mut self.from)
            .take(head.stored as u64)
            .read_to_end(&mut stored)?;
        if stored.len() < head.stored {
            return Ok(Frame::None(Ending::Torn { at_bytes }));
        }
        let Some(content) = head.content(&stored) else {
            return Ok(damaged);
        };
        self.at_bytes += (HEAD + head.stored) as u64;
        self.frames += 1;
        Ok(Frame::Whole(head.kind, content))
    }
}

/// Reads until `buffer` is full or there is no more.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    Ok(filled)
}
