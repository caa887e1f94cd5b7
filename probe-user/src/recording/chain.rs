//! One or several files of a recording, read as the one history that they are.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use weir_proto::v1;

use super::read::{Ending, ReadError, Reader};

/// Why files cannot be read as one recording.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// One of them cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: ReadError,
    },
    /// They tell of different times.
    #[error(
        "{} and {} are of different starts of a daemon, so they are no one history: replay them \
         apart",
        one.display(), other.display()
    )]
    DifferentDaemons {
        /// The one.
        one: PathBuf,
        /// The other.
        other: PathBuf,
    },
    /// `weir record` makes files that stand alone.
    #[error(
        "{} is no part of a daemon's own recording (weir run --record): replay it alone",
        path.display()
    )]
    StandsAlone {
        /// Which.
        path: PathBuf,
    },
    /// The same twice.
    #[error("{} and {} are the same part of a recording: leave one out", one.display(), other.display())]
    Twice {
        /// The one.
        one: PathBuf,
        /// The other.
        other: PathBuf,
    },
    /// A pipe, a device, a directory.
    #[error(
        "{} is no regular file: a recording is read more than once, so put it into one",
        path.display()
    )]
    NoFile {
        /// Which.
        path: PathBuf,
    },
    /// There is none.
    #[error("no recording is given")]
    None,
}

/// What comes next.
#[derive(Debug)]
pub enum Piece {
    /// Entries.
    Block(Vec<u8>),
    /// A file begins that goes on where the one before ended.
    Part(Box<v1::RecordingHeader>),
}

#[derive(Debug)]
struct Part {
    path: PathBuf,
    header: v1::RecordingHeader,
    bytes: u64,
}

/// Files in order, read one after the other.
#[derive(Debug)]
pub struct Chain {
    parts: Vec<Part>,
    /// The next to be opened.
    next: usize,
    reader: Option<Reader<BufReader<File>>>,
    /// How each that was read ends.
    endings: Vec<Ending>,
    bytes_before: u64,
}

impl Chain {
    /// Reads the headers, and puts the files in order.
    pub fn open(paths: &[PathBuf]) -> Result<Self, ChainError> {
        let mut parts = Vec::new();
        for path in paths {
            if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
                return Err(ChainError::NoFile { path: path.clone() });
            }
            let (reader, bytes) = open(path)?;
            parts.push(Part {
                path: path.clone(),
                header: reader.header().clone(),
                bytes,
            });
        }
        if let [first, others @ ..] = &parts[..] {
            if !others.is_empty()
                && let Some(alone) = parts.iter().find(|part| part.header.part == 0)
            {
                return Err(ChainError::StandsAlone {
                    path: alone.path.clone(),
                });
            }
            let stranger = others
                .iter()
                .find(|part| part.header.boot_id != first.header.boot_id);
            if let Some(stranger) = stranger {
                return Err(ChainError::DifferentDaemons {
                    one: first.path.clone(),
                    other: stranger.path.clone(),
                });
            }
        }
        parts.sort_by_key(|part| part.header.part);
        let same = |pair: &&[Part]| pair[0].header.part == pair[1].header.part;
        if let Some([one, other]) = parts.windows(2).find(same) {
            return Err(ChainError::Twice {
                one: one.path.clone(),
                other: other.path.clone(),
            });
        }
        let mut chain = Self {
            parts,
            next: 0,
            reader: None,
            endings: Vec::new(),
            bytes_before: 0,
        };
        chain.open_next()?.ok_or(ChainError::None)?;
        Ok(chain)
    }

    /// What must be known to fold it.
    pub fn header(&self) -> &v1::RecordingHeader {
        &self.parts[0].header
    }

    /// What comes next; none: that was all.
    pub fn next_piece(&mut self) -> Result<Option<Piece>, ChainError> {
        let Some(reader) = &mut self.reader else {
            return Ok(None);
        };
        let at = self.next - 1;
        let block = reader.next_block().map_err(|source| ChainError::Read {
            path: self.parts[at].path.clone(),
            source,
        })?;
        if let Some(block) = block {
            return Ok(Some(Piece::Block(block)));
        }
        self.endings.push(reader.ending());
        self.bytes_before += self.parts[at].bytes;
        self.reader = None;
        let header = self.open_next()?;
        Ok(header.map(|header| Piece::Part(Box::new(header))))
    }

    fn open_next(&mut self) -> Result<Option<v1::RecordingHeader>, ChainError> {
        let Some(part) = self.parts.get(self.next) else {
            return Ok(None);
        };
        self.reader = Some(open(&part.path)?.0);
        self.next += 1;
        Ok(Some(part.header.clone()))
    }

    /// The file that is being read, or was last.
    pub fn path(&self) -> &Path {
        &self.parts[self.next.saturating_sub(1)].path
    }

    /// How many files there are.
    pub fn files(&self) -> usize {
        self.parts.len()
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    /// Bytes read so far.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_before + self.reader.as_ref().map_or(0, Reader::at_bytes)
    }

    /// How each file that was read to its end ends.
    pub fn endings(&self) -> impl Iterator<Item = (&Path, &Ending)> {
        let paths = self.parts.iter().map(|part| &*part.path);
        paths.zip(&self.endings)
    }
}

fn open(path: &Path) -> Result<(Reader<BufReader<File>>, u64), ChainError> {
    let failed = |source: ReadError| ChainError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(|err| failed(err.into()))?;
    let bytes = file.metadata().map_err(|err| failed(err.into()))?.len();
    let reader = Reader::open(BufReader::new(file)).map_err(failed)?;
    Ok((reader, bytes))
}
