//! Records in files that any warehouse loads, written by a thread of its own, so that a slow disk
//! holds nobody up.
//!
//! A file has its name once it is whole and on the disk; before, it ends in `.part`, and what could
//! not be read of it is in a journal beside it. What a full queue, a full or a failing disk does not
//! take is counted as lost.

mod format;
mod journal;
mod recover;
mod table;
mod writer;

use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use weir_proto::v1;

use super::Counts;
use super::record::{Origin, Record};
use crate::config::collect as config;
use writer::Writer;

/// Records that wait for the disk: about 16 MB.
const QUEUE: usize = 16_384;

/// Where records are handed over.
#[derive(Debug)]
pub(in crate::collect) struct Files {
    /// None: it has ended.
    to: Mutex<Option<SyncSender<Box<Record>>>>,
    counts: Arc<Counts>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Files {
    /// Begins with what is left of an earlier process there.
    pub(super) fn start(
        config: &config::Files,
        collector: &str,
        counts: Arc<Counts>,
    ) -> Result<Self> {
        let writer = Writer::open(config, collector, Arc::clone(&counts))?;
        let (to, from) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("weir-files".to_owned())
            .spawn(move || writer.run(&from))
            .context("cannot start a thread")?;
        Ok(Self {
            to: Mutex::new(Some(to)),
            counts,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Hands over what a frame brings; does not wait.
    pub(in crate::collect) fn take(&self, origin: &Origin, frame: &v1::Frame) {
        let to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        for record in Record::all(origin, frame) {
            match to.as_ref().map(|to| to.try_send(Box::new(record))) {
                Some(Ok(())) => {}
                Some(Err(TrySendError::Full(_))) => {
                    self.counts.lose(1);
                    self.counts.fail("the disk is slower than the records come");
                }
                Some(Err(TrySendError::Disconnected(_))) | None => self.counts.lose(1),
            }
        }
    }

    /// Waits until what was handed over is written, and takes no more.
    pub(super) fn end(&self) {
        drop(
            self.to
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the sink files has failed; its last file may be missing");
        }
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }
}
