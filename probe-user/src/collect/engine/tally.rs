//! Counts the finished deliveries that other collectors took: of the cold lane's frames their headers
//! alone are followed, which say what is counted of them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use weir_proto::v1;

use super::carried::unpack_bare;
use super::follow::{Follower, last_of, messages};
use crate::collect::decode;
use crate::collect::fleet::Way;
use crate::collect::holding::Held;
use crate::collect::known::Coming;

/// The header of a cold frame that has all of it but its deliveries.
pub(super) const BARE: &str = "Weir-Bare";
/// Time until what could not be followed is tried again.
const RETRY: Duration = Duration::from_secs(2);

impl Follower {
    /// Until it is aborted. What it fails in, the streams' keeper says.
    pub(super) async fn tally(mut self, held: Arc<Held>) {
        let mut last = 0;
        loop {
            let mut met = self.met.clone();
            if *met.borrow_and_update() > 0 {
                let followed = tokio::select! {
                    followed = self.tally_from(&held, &mut last) => followed,
                    _ = met.changed() => continue,
                };
                if let Err(err) = followed {
                    tracing::debug!("cannot count finished deliveries: {err:#}");
                    // Cells do not wait for that.
                    held.tallied();
                    tokio::time::sleep(RETRY).await;
                }
            } else if self.met.changed().await.is_err() {
                return;
            }
        }
    }

    async fn tally_from(&self, held: &Held, last: &mut u64) -> anyhow::Result<()> {
        let stream = self.context.get_stream(&self.streams.cold).await?;
        if stream.cached_info().state.last_sequence < *last {
            // It was made anew.
            *last = 0;
        }
        let filter = self.streams.of_cold(held.partition);
        let there = last_of(&stream, &filter).await?;
        let config = OrderedConfig {
            filter_subject: filter,
            headers_only: true,
            ..OrderedConfig::default()
        };
        let mut messages = messages(&self.context, &self.streams.cold, config, *last + 1).await?;
        loop {
            if *last >= there {
                held.tallied();
            }
            let (message, seq) = messages.next().await?;
            *last = seq;
            if self.is_known(held, &message) {
                continue;
            }
            if let Err(why) = self.count(held, &message) {
                self.counts.add(|counts| &counts.unusable);
                tracing::debug!(subject = %message.subject, "cannot count a cold frame: {why:#}");
            }
        }
    }

    fn count(&self, held: &Held, message: &Message) -> anyhow::Result<()> {
        let headers = message.headers.as_ref().context("it has no headers")?;
        let bare = headers.get(BARE).context("it does not say what it has")?;
        let (carried, deliveries) = unpack_bare(bare.as_str())?;
        let hello = carried.hello.context("it has no hello")?;
        let frame = carried.frame.context("it has no frame")?;
        decode::hello(&hello)?;
        if hello.lane() != v1::Lane::Cold || self.holding.partition(&hello.host) != held.partition {
            bail!("it is of another lane or partition");
        }
        decode::at_most(
            "deliveries",
            usize::try_from(deliveries)?,
            decode::MAX_DELIVERIES,
        )?;
        let cells = decode::frame(&frame, &hello, &[])?;
        let coming = Coming {
            hello: &hello,
            frame: &frame,
            way: Way::Engine,
            heard_unix_ns: carried.heard_unix_ns,
            deliveries,
        };
        held.known.merge(coming, cells)?;
        Ok(())
    }
}
