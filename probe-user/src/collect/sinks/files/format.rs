//! The two formats.

use std::fs::File;
use std::io::{BufWriter, Result, Write};

use super::super::record::Record;
use super::journal::Journal;
use super::table::Table;

/// A file that is being written.
pub(super) trait Format: Send {
    fn write(&mut self, record: &Record) -> Result<()>;

    /// So that what was written is seen by others, where the format can.
    fn flush(&mut self) -> Result<()>;

    /// What is written so far, roughly.
    fn bytes(&self) -> u64;

    /// Makes it whole.
    fn finish(self: Box<Self>) -> Result<File>;
}

/// One JSON object a line.
#[derive(Debug)]
pub(super) struct Lines {
    to: BufWriter<File>,
    bytes: u64,
    line: Vec<u8>,
}

impl Lines {
    pub(super) fn new(file: File) -> Self {
        Self {
            to: BufWriter::with_capacity(256 << 10, file),
            bytes: 0,
            line: Vec::new(),
        }
    }
}

impl Format for Lines {
    fn write(&mut self, record: &Record) -> Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, record)?;
        self.line.push(b'\n');
        self.bytes += self.line.len() as u64;
        self.to.write_all(&self.line)
    }

    fn flush(&mut self) -> Result<()> {
        self.to.flush()
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn finish(self: Box<Self>) -> Result<File> {
        self.to
            .into_inner()
            .map_err(std::io::IntoInnerError::into_error)
    }
}

/// Apache Parquet. As it can be read only when it is whole, its records are in a journal until then.
pub(super) struct Parquet {
    table: Table,
    journal: Journal,
}

impl Parquet {
    pub(super) fn new(file: File, journal: File) -> Result<Self> {
        Ok(Self {
            table: Table::new(file)?,
            journal: Journal::new(journal),
        })
    }
}

impl Format for Parquet {
    fn write(&mut self, record: &Record) -> Result<()> {
        self.journal.push(record)?;
        self.table.push(record)
    }

    fn flush(&mut self) -> Result<()> {
        self.journal.flush()
    }

    fn bytes(&self) -> u64 {
        self.table.bytes()
    }

    fn finish(mut self: Box<Self>) -> Result<File> {
        // Should that fail, the journal has it all.
        self.journal.flush()?;
        self.table.finish()
    }
}
