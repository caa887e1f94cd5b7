//! The last seconds, for those who ask: once, or again and again.

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use weir_proto::v1;

use super::gather::Gather;
use crate::query::filter::Filter;

const DEFAULT_SECONDS: u32 = 60;
const MAX_INTERVAL_S: u32 = 3_600;

/// What is asked for, checked.
#[derive(Debug)]
pub(super) struct Asked {
    filter: Filter,
    histograms: bool,
    seconds: u32,
    /// None: once.
    interval_s: Option<u32>,
}

impl TryFrom<v1::ListWindowRequest> for Asked {
    type Error = Status;

    fn try_from(request: v1::ListWindowRequest) -> Result<Self, Status> {
        let filter = Filter::try_from(request.filter)
            .and_then(Filter::for_fleet)
            .map_err(|err| Status::invalid_argument(err.to_string()))?;
        let interval_s = request.interval_s.max(1);
        if interval_s > MAX_INTERVAL_S {
            return Err(Status::invalid_argument(format!(
                "interval_s = {interval_s} is out of range: 1 to {MAX_INTERVAL_S}"
            )));
        }
        Ok(Self {
            filter,
            histograms: request.histograms,
            seconds: match request.seconds {
                0 => DEFAULT_SECONDS,
                seconds => seconds,
            },
            interval_s: request.follow.then_some(interval_s),
        })
    }
}

/// Sends until the client goes or the collector ends; a client that does not read is waited for,
/// and misses what is over by then.
pub(super) async fn send(
    asked: &Asked,
    gather: &Gather,
    mut seconds: watch::Receiver<u64>,
    to: &mpsc::Sender<Result<v1::Window, Status>>,
    stop: &CancellationToken,
) {
    loop {
        let told = *seconds.borrow_and_update();
        let window = gather
            .window(&asked.filter, asked.histograms, asked.seconds)
            .await;
        if to.send(Ok(window)).await.is_err() {
            return;
        }
        let Some(interval_s) = asked.interval_s else {
            return;
        };
        let is_due = |second: &u64| *second >= told + u64::from(interval_s);
        tokio::select! {
            due = seconds.wait_for(is_due) => if due.is_err() { return },
            () = to.closed() => return,
            () = stop.cancelled() => return,
        }
    }
}
