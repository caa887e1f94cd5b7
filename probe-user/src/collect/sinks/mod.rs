//! Where a collector passes on what it knows: metrics, pushed again and again, and records of what
//! happened, each once.
//!
//! Each sink has a bound of its own, counts what it could not pass on, and holds nobody up: of
//! metrics the newest win, of records those that find the queue full are lost.

pub(super) mod files;
mod otlp;
mod push;
mod record;
mod remote_write;

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::metrics::Gatherer;
use crate::config::collect::Config;
pub(super) use files::Files;
pub(super) use push::Identity;
pub(super) use record::Origin;

/// What became of what a sink was given; cumulative.
#[derive(Debug)]
pub(super) struct Counts {
    /// Which sink.
    pub(super) sink: &'static str,
    /// Records or samples that were passed on.
    pub(super) passed: AtomicU64,
    /// Those that were not.
    pub(super) lost: AtomicU64,
    /// Times that passing on failed.
    pub(super) failures: AtomicU64,
    error: Mutex<String>,
}

impl Counts {
    fn new(sink: &'static str) -> Arc<Self> {
        Arc::new(Self {
            sink,
            passed: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            error: Mutex::new(String::new()),
        })
    }

    fn pass(&self, count: u64) {
        self.passed.fetch_add(count, Ordering::Relaxed);
        let mut error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        if !error.is_empty() {
            tracing::info!("the sink {} works again", self.sink);
            error.clear();
        }
    }

    fn lose(&self, count: u64) {
        self.lost.fetch_add(count, Ordering::Relaxed);
    }

    /// Says once what is wrong, until it is something else.
    fn fail(&self, why: &str) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let mut error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        if *error != why {
            tracing::warn!("the sink {}: {why}", self.sink);
            why.clone_into(&mut error);
        }
    }
}

/// The sinks that are configured, those that push not begun yet.
#[derive(Debug, Default)]
pub(super) struct Sinks {
    /// Takes records.
    pub(super) files: Option<Files>,
    otlp: Option<Arc<Counts>>,
    remote_write: Option<Arc<Counts>>,
}

impl Sinks {
    /// Begins those that are given what comes.
    pub(super) fn new(config: &Config, collector: &str) -> Result<Self> {
        let files = config.files.as_ref();
        let files = files.map(|files| Files::start(files, collector, Counts::new("files")));
        Ok(Self {
            files: files.transpose()?,
            otlp: config.otlp.is_some().then(|| Counts::new("otlp")),
            remote_write: config
                .remote_write
                .is_some()
                .then(|| Counts::new("remote_write")),
        })
    }

    /// Begins those that ask for what they pass on.
    pub(super) fn push(
        &self,
        config: &Config,
        gatherer: &Gatherer,
        stop: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) -> Result<()> {
        if let (Some(otlp), Some(counts)) = (&config.otlp, &self.otlp) {
            let sink = otlp::Otlp::new(&otlp.url, gatherer.identity())?;
            let counts = Arc::clone(counts);
            let push = push::run(
                sink,
                otlp.interval_s,
                gatherer.clone(),
                counts,
                stop.clone(),
            );
            tasks.spawn(push);
        }
        if let (Some(write), Some(counts)) = (&config.remote_write, &self.remote_write) {
            let sink = remote_write::RemoteWrite::new(&write.url, gatherer.identity())?;
            let counts = Arc::clone(counts);
            let push = push::run(
                sink,
                write.interval_s,
                gatherer.clone(),
                counts,
                stop.clone(),
            );
            tasks.spawn(push);
        }
        Ok(())
    }

    /// Waits until what was handed over is written.
    pub(super) fn end(&self) {
        if let Some(files) = &self.files {
            files.end();
        }
    }

    /// Of every sink that is configured.
    pub(super) fn counts(&self) -> impl Iterator<Item = &Counts> {
        let files = self.files.as_ref().map(Files::counts);
        let pushed = [self.otlp.as_deref(), self.remote_write.as_deref()];
        pushed.into_iter().flatten().chain(files)
    }
}
