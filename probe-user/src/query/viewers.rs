//! Listing viewers, page by page, and following what happens to them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{OwnedSemaphorePermit, broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use weir_proto::v1;
use weir_proto::v1::viewer_message::Message;

use super::filter::Filter;
use super::server::{QueryCounts, ask};
use super::{FollowedViewer, Query};

type To = mpsc::Sender<Result<v1::ViewerMessage, Status>>;

/// One who asks for viewers.
pub(super) struct Viewers {
    pub(super) core: mpsc::Sender<Query>,
    pub(super) filter: Filter,
    pub(super) limit: usize,
    pub(super) counts: Arc<QueryCounts>,
    pub(super) stop: CancellationToken,
}

impl Viewers {
    /// Sends them; with a permit to follow also what happens afterwards.
    pub(super) async fn send(self, permit: Option<OwnedSemaphorePermit>, to: To) {
        match self.send_all(&to).await {
            Ok(Some(follow)) if permit.is_some() => {
                tokio::select! {
                    () = self.follow(follow, &to) => {}
                    () = to.closed() => {}
                    () = self.stop.cancelled() => {}
                }
            }
            Ok(_) => {}
            Err(status) => {
                let _ = to.send(Err(status)).await;
            }
        }
    }

    /// None: the reader is gone.
    async fn send_all(
        &self,
        to: &To,
    ) -> Result<Option<broadcast::Receiver<FollowedViewer>>, Status> {
        let mut follow = None;
        let mut next = Some(0);
        let mut left = self.limit;
        while let Some(from) = next {
            let filter = self.filter.clone();
            let page = ask(&self.core, |reply| Query::Viewers {
                filter,
                from,
                reply,
            })
            .await?;
            next = page.next;
            // What happens while the others are listed is not missed.
            follow.get_or_insert(page.follow);
            for viewer in page.viewers.into_iter().take(left) {
                left -= 1;
                let message = Some(Message::Viewer(viewer));
                if to.send(Ok(v1::ViewerMessage { message })).await.is_err() {
                    return Ok(None);
                }
            }
            if left == 0 {
                break;
            }
        }
        Ok(follow)
    }

    async fn follow(&self, mut follow: broadcast::Receiver<FollowedViewer>, to: &To) {
        loop {
            let message = match follow.recv().await {
                Ok(followed) if !self.filter.matches_followed(&followed) => continue,
                Ok(followed) => (*followed.message).clone(),
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    self.counts
                        .followers_dropped
                        .fetch_add(missed, Ordering::Relaxed);
                    let message = Some(Message::Missed(missed));
                    v1::ViewerMessage { message }
                }
                Err(broadcast::error::RecvError::Closed) => return,
            };
            if to.send(Ok(message)).await.is_err() {
                return;
            }
        }
    }
}
