//! `/metrics` over HTTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::door::Door;
use super::gather::Gatherer;
use super::prometheus::Format;

/// Answers that are made at the same time; who comes meanwhile waits.
const AT_ONCE: usize = 2;
/// Who waits for longer is told to come again.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
struct Serving {
    gatherer: Gatherer,
    room: Arc<Semaphore>,
}

/// Listens, and answers until `stop`. Gives the address and what is to be awaited.
pub(in crate::collect) async fn serve(
    listen: SocketAddr,
    gatherer: Gatherer,
    stop: CancellationToken,
) -> anyhow::Result<(SocketAddr, impl Future<Output = ()>)> {
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen} (metrics.listen)"))?;
    let address = listener.local_addr().context("cannot tell the address")?;
    let serving = Serving {
        gatherer,
        room: Arc::new(Semaphore::new(AT_ONCE)),
    };
    let router = Router::new()
        .route("/metrics", get(metrics))
        .with_state(serving);
    let served = async move {
        let server = axum::serve(Door::new(listener), router);
        let stopped = server.with_graceful_shutdown(stop.clone().cancelled_owned());
        // Who keeps a connection open is not waited for.
        tokio::select! {
            served = stopped => if let Err(err) = served {
                tracing::warn!("/metrics is no longer answered: {err}");
            },
            () = stop.cancelled() => {}
        }
    };
    Ok((address, served))
}

async fn metrics(State(serving): State<Serving>, headers: HeaderMap) -> Response {
    let accept: Vec<_> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let format = Format::of(&accept.join(","));
    let Ok(Ok(_room)) = tokio::time::timeout(PATIENCE, serving.room.acquire()).await else {
        return (StatusCode::SERVICE_UNAVAILABLE, "others ask already\n").into_response();
    };
    let families = serving.gatherer.gather().await;
    let made = tokio::task::spawn_blocking(move || format.encode(families)).await;
    match made {
        Ok(Ok(body)) => ([(header::CONTENT_TYPE, format.content_type())], body).into_response(),
        _ => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "the metrics could not be written\n",
        )
            .into_response(),
    }
}
