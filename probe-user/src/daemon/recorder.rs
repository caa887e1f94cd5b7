//! Keeps the daemon's own recording, on a thread that may wait for the disk.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::oneshot;
use weir_proto::v1::RecordingEndCause;

use crate::config;
use crate::intake::Recording;
use crate::recording::directory::Disk;
use crate::recording::history::{Bounds, History, Shared};

/// At the end, the disk has so long to take what is left.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// The thread that writes.
#[derive(Debug)]
pub(super) struct Recorder {
    shared: Arc<Shared>,
    ended: oneshot::Receiver<()>,
}

impl Recorder {
    /// Writes what `recording` says to `file` until the core has ended.
    pub(super) fn start(
        file: &std::path::Path,
        recording: Recording,
        shared: Arc<Shared>,
    ) -> anyhow::Result<Self> {
        let name = file.display();
        let Recording { header, mut blocks } = recording;
        let begun = History::begin(Disk, file.to_owned(), header, shared.clone());
        let mut history = begun.with_context(|| {
            format!("cannot record to {name} (--record, or recording.file in the configuration)")
        })?;
        let (ended_to, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("weir-recording".to_owned())
            .spawn(move || {
                while let Some(block) = blocks.blocking_recv() {
                    history.block(&block);
                }
                history.end(RecordingEndCause::DaemonEnded);
                // Fails only if nobody waits any more.
                let _ = ended_to.send(());
            })
            .context("cannot start the recording's thread")?;
        tracing::info!(file = %name, "recording");
        Ok(Self { shared, ended })
    }

    /// Puts other bounds in force, and goes on in the next file.
    pub(super) fn reload(&self, config: &config::Recording) {
        self.shared.reload(bounds(config));
    }

    /// Waits until all that was said is written; to be called when the core has ended.
    pub(super) async fn finish(self) {
        match tokio::time::timeout(LAST_WRITES, self.ended).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => tracing::error!("the recording's thread failed; its end is missing"),
            Err(_) => tracing::warn!(
                "the disk has not taken the recording's end within {LAST_WRITES:?}; it is missing"
            ),
        }
    }
}

/// What a configuration allows.
pub(super) fn bounds(config: &config::Recording) -> Bounds {
    Bounds {
        max_bytes: config.max_bytes,
        max_files: config.max_files,
        min_free_bytes: config.min_free_bytes,
    }
}
