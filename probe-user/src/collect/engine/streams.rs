//! The streams: their names, their bounds, and that they are there.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream;
use async_nats::jetstream::stream;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{Counts, Part};
use crate::config::collect as config;

/// The server knows a repetition for so long.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// Of each boot so many latest frames are kept: one that was sent again may come after a newer one.
const FRAMES_OF_A_BOOT: i64 = 2;
/// Time until what could not be made is tried again.
const REPAIR: Duration = Duration::from_secs(10);

/// All of them.
#[derive(Debug)]
pub(super) struct Streams {
    /// Of every frame.
    pub(super) frames: String,
    /// Of the latest frames with cells, by boot.
    pub(super) boots: String,
    /// Of finished deliveries, for others to take; collectors follow its headers alone.
    pub(super) cold: String,
    config: config::Nats,
    there: Mutex<There>,
}

/// What is known to be there.
#[derive(Debug, Default)]
struct There {
    /// Since that meeting with the server.
    met: u64,
    frames: bool,
    others: bool,
    others_tried: Option<Instant>,
}

impl Streams {
    pub(super) fn of(config: &config::Nats) -> Self {
        let frames = config.prefix.to_uppercase();
        Self {
            boots: format!("{frames}_BOOTS"),
            cold: format!("{frames}_COLD"),
            frames,
            config: config.clone(),
            there: Mutex::default(),
        }
    }

    /// The subjects of a partition's frames.
    pub(super) fn of_frames(&self, partition: u32) -> String {
        format!("{}.frames.{partition}.>", self.config.prefix)
    }

    /// Of those among them that the stream of boots has.
    pub(super) fn of_boots(&self, partition: u32) -> String {
        format!("{}.frames.{partition}.warm.>", self.config.prefix)
    }

    /// Of the cold lane's.
    pub(super) fn of_cold(&self, partition: u32) -> String {
        format!("{}.cold.{partition}.>", self.config.prefix)
    }

    /// Makes them, or puts their bounds in force, once for each meeting with the server. Fails if there
    /// is no stream of frames; what collectors can do without is tried again now and then.
    pub(super) async fn ensure(
        &self,
        context: &jetstream::Context,
        counts: &Counts,
        met: u64,
    ) -> anyhow::Result<()> {
        let mut there = self.there.lock().await;
        if there.met != met {
            *there = There {
                met,
                ..There::default()
            };
        }
        if !there.frames {
            self.ensure_frames(context).await?;
            there.frames = true;
        }
        let is_due = there
            .others_tried
            .is_none_or(|tried| tried.elapsed() >= REPAIR);
        if !there.others && is_due {
            there.others = self.ensure_others(context, counts).await;
            there.others_tried = Some(Instant::now());
        }
        Ok(())
    }

    /// They may have been deleted.
    pub(super) async fn forget(&self) {
        self.there.lock().await.frames = false;
    }

    /// Makes what collectors can do without; says whether it is there.
    async fn ensure_others(&self, context: &jetstream::Context, counts: &Counts) -> bool {
        let made = [
            self.ensure_boots(context).await,
            self.ensure_cold(context).await,
        ];
        let failed: Vec<_> = made.into_iter().filter_map(Result::err).collect();
        if failed.is_empty() {
            counts.works(Part::Streams);
            return true;
        }
        let why = failed.iter().map(|err| format!("{err:#}"));
        let why = why.collect::<Vec<_>>().join("; ");
        counts.fail(Part::Streams, &why);
        false
    }

    /// Makes that of every frame. Without it there is nothing.
    async fn ensure_frames(&self, context: &jetstream::Context) -> anyhow::Result<()> {
        let frames = stream::Config {
            name: self.frames.clone(),
            description: Some("weir: every frame of the last minutes".to_owned()),
            subjects: vec![format!("{}.frames.>", self.config.prefix)],
            ..self.of_minutes(self.config.max_bytes)?
        };
        ensure(context, frames).await
    }

    /// Likewise that of the boots' latest frames.
    async fn ensure_boots(&self, context: &jetstream::Context) -> anyhow::Result<()> {
        let config = &self.config;
        let boots = stream::Config {
            name: self.boots.clone(),
            description: Some("weir: the latest frames of each boot".to_owned()),
            sources: Some(vec![stream::Source {
                name: self.frames.clone(),
                filter_subject: Some(format!("{}.frames.*.warm.>", config.prefix)),
                ..stream::Source::default()
            }]),
            max_messages_per_subject: FRAMES_OF_A_BOOT,
            max_age: Duration::from_secs(config.keep_boots_s.into()),
            max_bytes: i64::try_from(config.boots_max_bytes)?,
            num_replicas: usize::try_from(config.replicas)?,
            ..stream::Config::default()
        };
        ensure(context, boots).await
    }

    /// Likewise that of the cold lane.
    async fn ensure_cold(&self, context: &jetstream::Context) -> anyhow::Result<()> {
        let cold = stream::Config {
            name: self.cold.clone(),
            description: Some("weir: the cold lane's frames of the last minutes".to_owned()),
            subjects: vec![format!("{}.cold.>", self.config.prefix)],
            ..self.of_minutes(self.config.cold_max_bytes)?
        };
        ensure(context, cold).await
    }

    /// The bounds of a stream that holds what was published in the last minutes.
    fn of_minutes(&self, max_bytes: u64) -> anyhow::Result<stream::Config> {
        let keep = Duration::from_secs(self.config.keep_s.into());
        Ok(stream::Config {
            max_age: keep,
            max_bytes: i64::try_from(max_bytes)?,
            duplicate_window: DUPLICATE_WINDOW.min(keep),
            num_replicas: usize::try_from(self.config.replicas)?,
            ..stream::Config::default()
        })
    }
}

async fn ensure(context: &jetstream::Context, stream: stream::Config) -> anyhow::Result<()> {
    let name = stream.name.clone();
    let made = context.create_or_update_stream(stream).await;
    made.with_context(|| format!("cannot make the stream {name}"))?;
    Ok(())
}
