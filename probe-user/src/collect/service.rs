//! The collector's two services: what hosts report, and what operators ask.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{MissedTickBehavior, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use weir_proto::v1;
use weir_proto::v1::edge_message::Message as Up;

use super::decode;
use super::door::Guest;
use super::drills::Drills;
use super::engine::Engine;
use super::fleet::Error as FleetError;
use super::gather::Gather;
use super::holding::Holding;
use super::known::unix_ns;
use super::link::Link;
use super::looks;
use super::messages::Most;
use super::refusals::{Reason, Refusals};
use super::sinks::Sinks;
use super::steering::Steering;
use super::windows;
use crate::query::filter::Filter;

/// A host has so long to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Acknowledgements on their way to a host that does not read.
const ACKS: usize = 64;
/// Operators who watch at the same time.
const MAX_WATCHERS: usize = 64;
const WATCH_INTERVAL_MS: RangeInclusive<u32> = 250..=10_000;
const DEFAULT_WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Who may ask.
#[derive(Debug)]
pub(super) struct Operators {
    names: Vec<String>,
}

impl Operators {
    pub(super) fn new(names: &[String]) -> Self {
        Self {
            names: names.to_vec(),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|own| own.eq_ignore_ascii_case(name))
    }

    /// Or why not.
    fn admit(&self, guest: &Guest) -> Result<(), String> {
        if self.names.iter().any(|name| guest.is_called(name)) {
            return Ok(());
        }
        Err(format!(
            "the certificate is for {}, which is not among the collector's operators (--operator)",
            guest.told()
        ))
    }
}

/// Who asks, or why nobody is heard on this connection.
fn guest<T>(request: &Request<T>) -> Result<Guest, Status> {
    let guest = request.extensions().get::<Guest>().cloned();
    let guest = guest.ok_or_else(|| Status::internal("the connection has no peer"))?;
    match &guest.surplus {
        Some(why) => Err(Status::resource_exhausted(why.as_ref())),
        None => Ok(guest),
    }
}

/// What it knows of the fleet, and how it gets there.
#[derive(Debug)]
pub(super) struct Centre {
    pub(super) name: String,
    pub(super) holding: Arc<Holding>,
    pub(super) gather: Arc<Gather>,
    pub(super) drills: Arc<Drills>,
    pub(super) engine: Engine,
}

/// Both services; clones share all they know.
#[derive(Clone, Debug)]
pub(super) struct Collector {
    shared: Arc<Shared>,
}

/// What both services and each host's connection share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) name: String,
    pub(super) holding: Arc<Holding>,
    pub(super) gather: Arc<Gather>,
    pub(super) engine: Engine,
    pub(super) sinks: Sinks,
    started_unix_ns: u64,
    /// None: anybody.
    operators: Option<Operators>,
    pub(super) refusals: Arc<Refusals>,
    pub(super) drills: Arc<Drills>,
    /// None: nothing is ordered here.
    pub(super) steering: Option<Arc<Steering>>,
    watchers: Arc<Semaphore>,
    pub(super) stop: CancellationToken,
}

/// What a collector is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) centre: Centre,
    pub(super) sinks: Sinks,
    /// None: anybody may ask.
    pub(super) operators: Option<Operators>,
    pub(super) refusals: Arc<Refusals>,
    /// None: nothing is ordered here.
    pub(super) steering: Option<Arc<Steering>>,
    pub(super) stop: CancellationToken,
}

impl Collector {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts {
            centre:
                Centre {
                    name,
                    holding,
                    gather,
                    drills,
                    engine,
                },
            sinks,
            operators,
            refusals,
            steering,
            stop,
        } = parts;
        Self {
            shared: Arc::new(Shared {
                name,
                holding,
                gather,
                engine,
                sinks,
                started_unix_ns: unix_ns(),
                operators,
                refusals,
                drills,
                steering,
                watchers: Arc::new(Semaphore::new(MAX_WATCHERS)),
                stop,
            }),
        }
    }

    /// Lets operators ask, and nobody else.
    fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let guest = guest(request)?;
        let Some(operators) = &self.shared.operators else {
            return Ok(());
        };
        let Err(why) = operators.admit(&guest) else {
            return Ok(());
        };
        let refusals = &self.shared.refusals;
        refusals.count(Reason::Operator, &guest.address, &why);
        Err(Status::permission_denied(why))
    }

    /// Every cell of the sum, with its distributions; and when the oldest daemon that is in it began, as
    /// Unix time (0: nobody knows).
    pub(super) async fn all_cells(&self) -> (v1::ListCellsResponse, u64) {
        self.shared.gather.cells(&Filter::default(), true).await
    }

    /// An operator who may steer, by the name that speaks, and what does.
    fn steers<T>(&self, request: &Request<T>) -> Result<(String, Arc<Steering>), Status> {
        if let Err(status) = self.admit(request) {
            if let Some(steering) = &self.shared.steering {
                let who = format!("certificate {}", guest(request)?.told());
                steering.stranger(who, status.message().to_owned());
            }
            return Err(status);
        }
        let Some(steering) = &self.shared.steering else {
            return Err(Status::failed_precondition(
                "this collector orders nothing: it has no steer.journal_file",
            ));
        };
        let guest = guest(request)?;
        let names: Vec<_> = guest.names.iter().flat_map(|names| names.iter()).collect();
        let operators = self.shared.operators.as_ref();
        // Of several names in a certificate only those of operators speak.
        let names: Vec<String> = names
            .into_iter()
            .filter(|name| operators.is_some_and(|own| own.has(name)))
            .cloned()
            .collect();
        let Some(speaker) = steering.speaker(&names) else {
            return Err(Status::permission_denied(
                "who speaks is not known: orders need a certificate",
            ));
        };
        Ok((speaker.to_owned(), Arc::clone(steering)))
    }

    /// Every host, and the collector itself.
    pub(super) async fn hosts(&self) -> v1::ListHostsResponse {
        let (hosts, missing) = self.shared.gather.hosts().await;
        v1::ListHostsResponse {
            hosts,
            unix_ns: unix_ns(),
            missing,
            collector: Some(self.status()),
            connections_refused: self.shared.refusals.total(),
            refusals: self.shared.refusals.message(),
        }
    }

    /// Where what happened is passed on.
    pub(super) fn sinks(&self) -> &Sinks {
        &self.shared.sinks
    }

    /// What somebody who looks closer needs.
    fn looking(&self) -> (Arc<Gather>, Arc<Drills>) {
        let Shared { gather, drills, .. } = &*self.shared;
        (Arc::clone(gather), Arc::clone(drills))
    }

    /// Room for one who watches.
    fn watcher(&self) -> Result<OwnedSemaphorePermit, Status> {
        let permit = self.shared.watchers.clone().try_acquire_owned();
        permit.map_err(|_| {
            Status::resource_exhausted(format!("{MAX_WATCHERS} clients watch already"))
        })
    }

    /// The collector about itself.
    pub(super) fn status(&self) -> v1::CollectorStatus {
        let shared = &self.shared;
        v1::CollectorStatus {
            name: shared.name.clone(),
            weir_version: env!("CARGO_PKG_VERSION").to_owned(),
            started_unix_ns: shared.started_unix_ns,
            engine: shared.engine.status(),
            collectors: shared.gather.names(),
            ..shared.holding.status()
        }
    }

    /// Meets a host.
    async fn greet(
        &self,
        guest: &Guest,
        from: &mut Streaming<v1::EdgeMessage>,
    ) -> Result<Link, (Reason, Status)> {
        let silent = |_| {
            let why = "no hello came in time";
            (Reason::Silent, Status::deadline_exceeded(why))
        };
        let first = timeout(HELLO_TIMEOUT, from.message())
            .await
            .map_err(silent)?;
        let unusable = |why: String| (Reason::Hello, Status::invalid_argument(why));
        let first = first.map_err(|status| (Reason::Hello, status))?;
        let Some(Up::Hello(hello)) = first.and_then(|message| message.message) else {
            return Err(unusable("the first message must be a hello".to_owned()));
        };
        decode::hello(&hello).map_err(|err| unusable(err.to_string()))?;
        if !guest.is_called(&hello.host) {
            let why = format!(
                "the certificate is for {}, not for the host {}: collector.host must be one of its \
                 DNS names",
                guest.told(),
                hello.host
            );
            return Err((Reason::Identity, Status::permission_denied(why)));
        }
        let connected = self.shared.holding.connect(&hello);
        let mut last_seq = connected.map_err(|err| {
            let status = match err {
                // Not later either.
                FleetError::Past(_) => Status::failed_precondition(err.to_string()),
                err => Status::resource_exhausted(err.to_string()),
            };
            (Reason::Full, status)
        })?;
        let mut link = Link::new(Arc::clone(&self.shared), hello.clone());
        if last_seq == 0 && hello.lane() == v1::Lane::Warm && !link.is_merged_here() {
            // A host of which nothing is known looks for what it left on its disk.
            last_seq = self.shared.gather.newest(&hello).await;
        }
        link.begin_after(last_seq);
        tracing::info!(
            host = hello.host,
            boot_id = hello.boot_id,
            last_seq,
            "connected"
        );
        Ok(link)
    }
}

#[tonic::async_trait]
impl v1::uplink_server::Uplink for Collector {
    type ReportStream = ReceiverStream<Result<v1::CollectorMessage, Status>>;

    async fn report(
        &self,
        request: Request<Streaming<v1::EdgeMessage>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let guest = guest(&request)?;
        let Ok(place) = guest.reports.clone().try_acquire_owned() else {
            let why = "as many reports as a connection may make";
            let refusals = &self.shared.refusals;
            refusals.count(Reason::TooMany, &guest.address, &why);
            return Err(Status::resource_exhausted(why));
        };
        let most = request.extensions().get::<Most>().cloned();
        let mut from = request.into_inner();
        let (to, stream) = mpsc::channel(ACKS);
        let collector = self.clone();
        // The answer begins at once: a client may wait for it before it says hello.
        tokio::spawn(async move {
            let _place = place;
            match collector.greet(&guest, &mut from).await {
                Ok(link) => {
                    if let Some(most) = most {
                        most.set(link.most_bytes());
                    }
                    link.run(from, to).await;
                }
                Err((reason, status)) => {
                    let refusals = &collector.shared.refusals;
                    refusals.count(reason, &guest.address, &status.message());
                    let _ = to.send(Err(status)).await;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

#[tonic::async_trait]
impl v1::fleet_server::Fleet for Collector {
    type ListWindowStream = ReceiverStream<Result<v1::Window, Status>>;
    type FetchRingStream = ReceiverStream<Result<v1::RingPart, Status>>;
    type SubscribeStream = ReceiverStream<Result<v1::FleetSubscribeMessage, Status>>;
    type WatchStream = ReceiverStream<Result<v1::FleetSnapshot, Status>>;

    async fn subscribe(
        &self,
        request: Request<v1::FleetSubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        self.admit(&request)?;
        let request = request.into_inner();
        looks::check(&request)?;
        let permit = self.watcher()?;
        let (to, stream) = mpsc::channel(1);
        let (of, stop) = (self.looking(), self.shared.stop.clone());
        tokio::spawn(looks::subscribe(of, request, to, stop, permit));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn fetch_ring(
        &self,
        request: Request<v1::FleetFetchRingRequest>,
    ) -> Result<Response<Self::FetchRingStream>, Status> {
        self.admit(&request)?;
        let permit = self.watcher()?;
        let (to, stream) = mpsc::channel(1);
        let of = self.looking();
        tokio::spawn(looks::fetch_ring(of, request.into_inner(), to, permit));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn list_window(
        &self,
        request: Request<v1::ListWindowRequest>,
    ) -> Result<Response<Self::ListWindowStream>, Status> {
        self.admit(&request)?;
        let asked = windows::Asked::try_from(request.into_inner())?;
        let permit = self.watcher()?;
        let shared = Arc::clone(&self.shared);
        let (to, stream) = mpsc::channel(1);
        tokio::spawn(async move {
            let _permit = permit;
            let seconds = shared.holding.seconds();
            windows::send(&asked, &shared.gather, seconds, &to, &shared.stop).await;
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn order(
        &self,
        request: Request<v1::FleetOrderRequest>,
    ) -> Result<Response<v1::FleetOrderResponse>, Status> {
        let (speaker, steering) = self.steers(&request)?;
        let answer = steering.order(&speaker, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn rebalance(
        &self,
        request: Request<v1::RebalanceRequest>,
    ) -> Result<Response<v1::RebalanceResponse>, Status> {
        let (speaker, steering) = self.steers(&request)?;
        let answer = steering.rebalance(&speaker, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn get_steering(
        &self,
        request: Request<v1::GetFleetSteeringRequest>,
    ) -> Result<Response<v1::FleetSteering>, Status> {
        let (_, steering) = self.steers(&request)?;
        let request = request.into_inner();
        Ok(Response::new(steering.status(&request.journal_of)))
    }

    async fn list_hosts(
        &self,
        request: Request<v1::ListHostsRequest>,
    ) -> Result<Response<v1::ListHostsResponse>, Status> {
        self.admit(&request)?;
        Ok(Response::new(self.hosts().await))
    }

    async fn list_cells(
        &self,
        request: Request<v1::ListCellsRequest>,
    ) -> Result<Response<v1::ListCellsResponse>, Status> {
        self.admit(&request)?;
        let request = request.into_inner();
        let filter = Filter::try_from(request.filter)
            .and_then(Filter::for_fleet)
            .map_err(|err| Status::invalid_argument(err.to_string()))?;
        let gather = &self.shared.gather;
        let (cells, _) = gather.cells(&filter, request.histograms).await;
        Ok(Response::new(cells))
    }

    async fn watch(
        &self,
        request: Request<v1::FleetWatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.admit(&request)?;
        let request = request.into_inner();
        let filter = Filter::try_from(request.filter)
            .and_then(Filter::for_fleet)
            .map_err(|err| Status::invalid_argument(err.to_string()))?;
        let interval = match request.interval_ms {
            0 => DEFAULT_WATCH_INTERVAL,
            ms if WATCH_INTERVAL_MS.contains(&ms) => Duration::from_millis(ms.into()),
            ms => {
                return Err(Status::invalid_argument(format!(
                    "interval_ms = {ms} is out of range: {} to {}",
                    WATCH_INTERVAL_MS.start(),
                    WATCH_INTERVAL_MS.end()
                )));
            }
        };
        let permit = self.watcher()?;
        let (to, stream) = mpsc::channel(1);
        let collector = self.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let mut ticks = tokio::time::interval(interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    () = to.closed() => return,
                    () = collector.shared.stop.cancelled() => return,
                }
                let gather = &collector.shared.gather;
                let (hosts, (cells, _)) =
                    tokio::join!(collector.hosts(), gather.cells(&filter, request.histograms));
                let snapshot = v1::FleetSnapshot {
                    unix_ns: unix_ns(),
                    hosts: Some(hosts),
                    cells: Some(cells),
                };
                if to.send(Ok(snapshot)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
