//! From the kernel's event to the centre: a program writes a cut delivery into the daemon's hot ring,
//! and who takes the daemon's frames says when it has it; while the cold lane has nothing to carry,
//! and while it has far more than it can.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::codec::CompressionEncoding;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use weir::wire::WIRE_VERSION;
use weir_proto::v1::collector_message::Message as Down;
use weir_proto::v1::edge_message::Message as Up;
use weir_proto::v1::hot_event::Event;
use weir_proto::v1::uplink_server::{Uplink, UplinkServer};
use weir_proto::v1::{self, Lane};
use weir_tests::lab::link::Lab;

use crate::daemon::{Daemon, WITHOUT_BUDGET};
use crate::latency::{Flood, Follower, Rings, monotonic_ns};
use crate::measure::Plan;
use crate::observer::Tools;
use crate::programs::Producer;
use crate::report::{Aim, Bound, Report, Samples, Table, Unit, quantile};

/// A batch of 256 deliveries every so often: some fifty thousand a second.
const REFILL: Duration = Duration::from_millis(5);
/// What the cold lane may carry.
const COLD_BYTES_PER_S: u32 = 128 << 10;
/// Enough for every event that is made: what is measured is the way, not the budget.
const HOT_BYTES_PER_S: u32 = 8 << 20;

/// What was measured in each round.
#[derive(Clone, Debug, Default)]
struct Side {
    p50_us: Samples,
    p99_us: Samples,
    p999_us: Samples,
    hot_bytes_per_s: Samples,
    hot_permille: Samples,
    cold_made_per_sent: Samples,
}

/// A daemon that reports, and who takes it.
struct Edge {
    daemon: Daemon,
    centre: Follower,
    rings: Rings,
    events: Producer,
    _lab: Lab,
}

impl Edge {
    fn start(tools: &Tools, cold_bytes_per_s: u32) -> Result<Self> {
        let lab = Lab::with_veth()?;
        let (centre, port) = centre()?;
        let config = format!(
            "{WITHOUT_BUDGET}\n[collector]\nurl = \"http://127.0.0.1:{port}\"\nplain_text = true\n\
             hot_bytes_per_s = {HOT_BYTES_PER_S}\ncold_bytes_per_s = {cold_bytes_per_s}\n"
        );
        let mut daemon = Daemon::start(&tools.weir, lab.dir(), None, &config)?;
        daemon.wait("a connection to the centre", |status| {
            status
                .uplink
                .as_ref()
                .is_some_and(|uplink| uplink.connected)
        })?;
        let rings = Rings::pin(&daemon)?;
        let mut events = rings.producer(&tools.programs)?;
        centre.await_first(&mut events)?;
        Ok(Self {
            daemon,
            centre,
            rings,
            events,
            _lab: lab,
        })
    }

    fn counts(&self, lane: Lane) -> Result<v1::LaneCounts> {
        let uplink = self
            .daemon
            .status()?
            .uplink
            .context("a status without uplink")?;
        let lane = uplink.lanes.iter().find(|one| one.lane() == lane);
        Ok(lane.and_then(|lane| lane.counts).unwrap_or_default())
    }

    fn round(
        &mut self,
        plan: &Plan,
        tools: &Tools,
        is_flooded: bool,
        side: &mut Side,
    ) -> Result<()> {
        let flood = is_flooded
            .then(|| Flood::start(self.rings.producer(&tools.programs)?, REFILL))
            .transpose()?;
        let begin = Instant::now();
        let (hot, cold) = (self.counts(Lane::Hot)?, self.counts(Lane::Cold)?);
        let ran_ns = self.daemon.thread_ns("weir-hot")?;
        let latencies = self.centre.time(&mut self.events, plan.latency_events)?;
        let ran_ns = self.daemon.thread_ns("weir-hot")? - ran_ns;
        let seconds = begin.elapsed().as_secs_f64();
        let (hot_after, cold_after) = (self.counts(Lane::Hot)?, self.counts(Lane::Cold)?);
        if let Some(flood) = flood {
            flood.finish()?;
        }
        let us = |share: f64| quantile(&latencies, share).map(|ns| ns / 1e3);
        side.p50_us.0.push(us(0.5)?);
        side.p99_us.0.push(us(0.99)?);
        side.p999_us.0.push(us(0.999)?);
        let bytes = hot_after.bytes_sent - hot.bytes_sent;
        side.hot_bytes_per_s.0.push(bytes as f64 / seconds);
        side.hot_permille.0.push(ran_ns as f64 / 1e6 / seconds);
        let made = cold_after.items_made - cold.items_made;
        let shed = cold_after.items_shed - cold.items_shed;
        let sent = made.saturating_sub(shed).max(1);
        side.cold_made_per_sent.0.push(made as f64 / sent as f64);
        Ok(())
    }
}

/// Measures, and adds to the report.
pub(crate) fn measure(plan: &Plan, tools: &Tools, report: &mut Report) -> Result<()> {
    let mut without = Edge::start(tools, 0)?;
    let mut with = Edge::start(tools, COLD_BYTES_PER_S)?;
    let mut sides = [Side::default(), Side::default(), Side::default()];
    for round in 0..plan.latency_rounds {
        let [idle, flooded, saturated] = &mut sides;
        with.round(plan, tools, false, idle)?;
        without.round(plan, tools, true, flooded)?;
        with.round(plan, tools, true, saturated)?;
        eprintln!("  uplink, round {} of {}", round + 1, plan.latency_rounds);
    }
    tell(&sides, report);
    with.daemon.stop()?;
    without.daemon.stop()
}

fn tell([idle, flooded, saturated]: &[Side; 3], report: &mut Report) {
    let mut table = Table::new(
        "uplink",
        "From the kernel's event to the centre",
        "cold lane",
        &[
            ("p50", Unit::Microseconds),
            ("p99", Unit::Microseconds),
            ("p99.9", Unit::Microseconds),
            ("hot bytes/s", Unit::PerSecond),
            ("hot, thousandths of a core", Unit::Ratio),
            ("cold made, of sent", Unit::Ratio),
        ],
    )
    .note(
        "From the time in the record, taken in the kernel, to its receipt by a server of the wire \
         over loopback, some thousand events a second. Saturated: fifty thousand deliveries a second \
         end, which the cold lane has to shed. Off: the same, and no cold lane.",
    );
    for (name, side) in [
        ("idle", idle),
        ("off, as many deliveries", flooded),
        ("saturated", saturated),
    ] {
        table.row(
            name,
            vec![
                side.p50_us.clone(),
                side.p99_us.clone(),
                side.p999_us.clone(),
                side.hot_bytes_per_s.clone(),
                side.hot_permille.clone(),
                side.cold_made_per_sent.clone(),
            ],
        );
    }
    report.tables.push(table);
    let ratio = |what: &str, measured: Samples| Aim {
        what: what.into(),
        unit: Unit::Ratio,
        bound: Bound::AtMost,
        limit: 1.2,
        measured,
    };
    report.aims.extend([
        Aim {
            what: "hot event to centre, p99, cold lane saturated".into(),
            unit: Unit::Microseconds,
            bound: Bound::AtMost,
            limit: 10_000.0,
            measured: saturated.p99_us.clone(),
        },
        ratio(
            "the same, of that with the cold lane idle",
            saturated.p99_us.over(&idle.p99_us),
        ),
        ratio(
            "the same, of that with as many deliveries and no cold lane",
            saturated.p99_us.over(&flooded.p99_us),
        ),
        Aim {
            what: "deliveries made, of those that the saturated cold lane carries".into(),
            unit: Unit::Ratio,
            bound: Bound::AtLeast,
            limit: 10.0,
            measured: saturated.cold_made_per_sent.clone(),
        },
    ]);
}

/// Takes frames, acknowledges each, and says when events came. Returns it with its port.
fn centre() -> Result<(Follower, u16)> {
    let (to, received) = mpsc::channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting a runtime")?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
    let port = listener.local_addr()?.port();
    let service = UplinkServer::new(Centre(to))
        .max_decoding_message_size(16 << 20)
        .accept_compressed(CompressionEncoding::Zstd);
    let thread = std::thread::Builder::new()
        .name("bench-centre".into())
        .spawn(move || {
            let serve = Server::builder().add_service(service);
            let serve = serve.serve_with_incoming(TcpListenerStream::new(listener));
            runtime.block_on(serve).context("serving")
        })
        .context("cannot start a thread")?;
    let follower = Follower {
        received,
        missed: Arc::new(AtomicU64::new(0)),
        _thread: thread,
    };
    Ok((follower, port))
}

#[derive(Debug)]
struct Centre(Sender<u64>);

#[tonic::async_trait]
impl Uplink for Centre {
    type ReportStream = ReceiverStream<Result<v1::CollectorMessage, Status>>;

    async fn report(
        &self,
        request: Request<Streaming<v1::EdgeMessage>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let mut from = request.into_inner();
        let events_to = self.0.clone();
        let (to, answers) = tokio::sync::mpsc::channel(64);
        tokio::spawn(async move {
            while let Ok(Some(message)) = from.message().await {
                let answer = match message.message {
                    Some(Up::Hello(_)) => Down::Welcome(v1::Welcome {
                        wire_version: WIRE_VERSION,
                        collector: "bench".into(),
                        last_seq: 1,
                    }),
                    Some(Up::Frame(frame)) => {
                        let now = monotonic_ns().unwrap_or_default();
                        for event in frame.events {
                            if let Some(Event::Aborted(delivery)) = event.event {
                                // The event's session is named by its time.
                                let _ = events_to.send(now.saturating_sub(delivery.session));
                            }
                        }
                        Down::Ack(v1::Ack { seq: frame.seq })
                    }
                    _ => continue,
                };
                let message = Some(answer);
                if to.send(Ok(v1::CollectorMessage { message })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}
