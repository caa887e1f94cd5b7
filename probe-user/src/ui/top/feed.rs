//! Where the live view's snapshots come from: a watch on the daemon that is taken up again
//! whenever it breaks.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use weir_proto::v1::{Snapshot, WatchRequest};

use crate::query::client::{self, Peer, QueryError};

/// Pause before looking for a lost daemon again: doubled each time, from and to these.
const RETRY: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(4)];

/// What is new.
#[derive(Debug)]
pub(super) enum News {
    /// The daemon's present state.
    Snapshot(Box<Snapshot>),
    /// It cannot be reached, and why.
    Gone(String),
}

/// Watches the daemon at `socket` until nobody wants the news any more. A changed request is put
/// at once.
pub(super) async fn feed(
    socket: PathBuf,
    mut request: watch::Receiver<WatchRequest>,
    news: mpsc::Sender<News>,
) {
    let mut pause = RETRY[0];
    loop {
        let mut heard = false;
        let Err(error) = follow(&socket, &mut request, &news, &mut heard).await else {
            return;
        };
        if heard {
            pause = RETRY[0];
        }
        // The first line says what; the others are advice for a shell.
        let why = error
            .to_string()
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned();
        if news.send(News::Gone(why)).await.is_err() {
            return;
        }
        tokio::select! {
            () = news.closed() => return,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY[1]),
        }
    }
}

/// Follows one connection. `Ok`: nobody listens any more.
async fn follow(
    socket: &std::path::Path,
    request: &mut watch::Receiver<WatchRequest>,
    news: &mpsc::Sender<News>,
    heard: &mut bool,
) -> Result<(), QueryError> {
    let peer = Peer::Daemon(socket.to_owned());
    let mut daemon = client::local(socket).await?;
    loop {
        let wanted = request.borrow_and_update().clone();
        let answer = daemon.watch(wanted).await;
        let mut stream = answer.map_err(|status| peer.error(&status))?.into_inner();
        loop {
            let snapshot = tokio::select! {
                () = news.closed() => return Ok(()),
                changed = request.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return Ok(()),
                },
                message = stream.message() => message.map_err(|status| peer.error(&status))?,
            };
            let Some(snapshot) = snapshot else {
                return Err(peer.ended());
            };
            *heard = true;
            if news.send(News::Snapshot(Box::new(snapshot))).await.is_err() {
                return Ok(());
            }
        }
    }
}
