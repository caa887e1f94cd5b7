//! The command line: what can be asked for, in words, and who answers it.

mod ask;
mod exit;
mod filter;
mod fleet_sim;
mod hold_gate;
mod journal;
mod live;
mod playback;
mod record;
mod replay;
mod run;
mod steer;
mod try_gate;
mod viewers;
mod watch;

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};

pub use ask::{cells, deliveries, hosts, sessions, status};
pub use exit::{Outcome, conclude};
pub use filter::{Cell, Client, DeliveryState, SessionStateArg};
pub use fleet_sim::fleet_sim;
pub use hold_gate::{HoldGate, hold_gate};
pub use journal::journal;
pub use live::top;
pub use playback::playback;
pub use record::{record, record_until};
pub use replay::{replay, replay_at_terminal};
pub use run::{collect, run};
pub use steer::steer;
pub use try_gate::{GateGuard, TryGate, gate_guard, try_gate};
pub use viewers::viewers;
pub use watch::{ring, watch};

use crate::config::socket;
use crate::kernel::Choice;
use crate::replay::{Moment, Speed};
use crate::steer::simulation::Scene;
use crate::tls;
use crate::ui::listing::{
    cells as cell_listing, deliveries as delivery_listing, hosts as host_listing,
    sessions as session_listing, viewers as viewer_listing,
};
use crate::ui::table::Format;

/// A path that stays the same wherever the process is.
fn absolute() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(std::path::absolute)
}

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default());

/// Measures every TCP session of a streaming server in the kernel, and says how its viewers fare.
///
/// `weir run` measures; the other commands ask a running daemon over its Unix socket, or a
/// collector over the network; `weir replay` reads a recording.
#[derive(Debug, Parser)]
#[command(
    name = "weir",
    version,
    styles = STYLES,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
Exit status:
  0  it worked; a reader that went away early (weir sessions | head) counts as that
  1  it failed; standard error says what, on what, and what to do
  2  the command line was not understood
  3  weir doctor: weir can measure here, but something is lost
  4  weir doctor: weir cannot measure here
  5  weir replay: all that is there was replayed, and something is missing: a file is torn or
     damaged, or has gaps; weir journal: it is not as it was written

Listings:
  Numbers are plain and in the unit that the column's name ends in; \"-\" is \"did not happen\" or
  \"unknown\". -o json prints one object per line with the field names of weir.proto; times are
  Unix nanoseconds. Colour only on a terminal, and never if NO_COLOR is set. Only on a terminal
  are lines clipped to its width."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    Run(Run),
    Top(Top),
    Sessions(Sessions),
    Deliveries(Deliveries),
    Viewers(Viewers),
    Cells(Cells),
    Hosts(Hosts),
    Status(Status),
    Doctor(Doctor),
    Collect(Collect),
    Watch(Watch),
    Ring(Ring),
    FleetSim(FleetSim),
    Record(Record),
    Replay(Replay),
    Steer(Steer),
    Journal(Journal),
    TryGate(TryGate),
    #[command(hide = true)]
    GateGuard(GateGuard),
    #[command(hide = true)]
    HoldGate(HoldGate),
}

/// Measure: load the programs, fold what they say, answer queries.
///
/// Without options it watches every accepted TCP session on this host, as exactly as the host lets
/// it (an ordinary user may only look at the sockets), and works alone. On a
/// terminal it shows the live view (as `weir top` does) while the daemon runs in the same process;
/// q ends both, and what was logged meanwhile is printed then. SIGTERM and SIGINT end it, SIGHUP
/// reads the configuration again.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  weir run                                     everything, live view on a terminal
  weir run --ports 80,443 --no-top             two ports, plain logs
  weir run --config /etc/weir/weir.toml        as a service does
  weir run --backend polled                    load nothing into the kernel
  weir run --collector http://127.0.0.1:7447 --plain-text
                                               and report to a collector on this host
  weir run --record /var/tmp/edge.weir         and keep what the kernel says")]
pub struct Run {
    /// The configuration file. Without it: the built-in defaults.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Report to the collector at this address (https://HOST:PORT).
    #[arg(long, value_name = "URL")]
    pub collector: Option<String>,
    #[command(flatten)]
    pub tls: Tls,
    /// Report in plain text, to a collector on this host (http://127.0.0.1:PORT).
    #[arg(long, requires = "collector", conflicts_with = "ca")]
    pub plain_text: bool,
    /// Answer queries on this Unix socket.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Measure only sessions to these ports of the server (instead of the configuration's).
    #[arg(long, value_name = "PORT", value_delimiter = ',', value_parser = filter::port())]
    pub ports: Vec<u16>,
    /// Measure in this way (instead of the configuration's): the best that works here, or this one
    /// alone (auto, exact, portable, polled); `weir doctor` says what each is worth.
    #[arg(long, value_name = "HOW", value_parser = str::parse::<Choice>)]
    pub backend: Option<Choice>,
    /// Record all that the kernel says, from the first record on, to be replayed.
    ///
    /// FILE is the latest part; when it is full (`recording.max_bytes` of the configuration) it
    /// gets a number in its name, and the oldest go. What is there already is kept as an older part.
    #[arg(long, value_name = "FILE", value_parser = absolute())]
    pub record: Option<PathBuf>,
    /// Show the live view also where it would not come by itself.
    #[arg(long, conflicts_with = "no_top")]
    pub top: bool,
    /// Log in plain lines also on a terminal.
    #[arg(long)]
    pub no_top: bool,
}

/// How to reach a daemon.
#[derive(Args, Clone, Debug)]
pub struct Socket {
    /// The daemon's Unix socket.
    #[arg(long, value_name = "PATH", default_value_os_t = socket::to_ask())]
    pub socket: PathBuf,
}

/// The collector that is asked, and as whom.
#[derive(Args, Clone, Debug)]
pub struct Centre {
    /// Ask the collector at this address: https://HOST:PORT, or http://127.0.0.1:PORT in plain text
    /// on this host.
    #[arg(long, value_name = "URL")]
    pub collector: String,
    #[command(flatten)]
    pub tls: Tls,
}

/// Who this side is, and whom it believes; PEM files, read again when they change.
#[derive(Args, Clone, Debug, Default)]
pub struct Tls {
    /// Certificates of the authority that issued the other side's.
    #[arg(long, value_name = "FILE", requires_all = ["cert", "key"], value_parser = absolute())]
    pub ca: Option<PathBuf>,
    /// This side's certificate.
    #[arg(long, value_name = "FILE", requires_all = ["ca", "key"], value_parser = absolute())]
    pub cert: Option<PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "FILE", requires_all = ["ca", "cert"], value_parser = absolute())]
    pub key: Option<PathBuf>,
}

impl Tls {
    /// None: plain text.
    pub fn files(&self) -> Option<tls::Files> {
        Some(tls::Files {
            ca: self.ca.clone()?,
            cert: self.cert.clone()?,
            key: self.key.clone()?,
        })
    }
}

/// How a listing is printed.
#[derive(Args, Clone, Copy, Debug)]
pub struct Output {
    /// As a table, or as one JSON object per line.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

/// Watch the daemon live: cells, worst sessions, late deliveries, losses.
///
/// Rates and percentiles are those of a window that ends now (w changes it). It waits for a daemon
/// that goes away. Press ? for the keys.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  weir top
  weir top --port 443 --prefix 192.0.2.0/24
  NO_COLOR=1 weir top --interval-ms 500")]
pub struct Top {
    #[command(flatten)]
    pub socket: Socket,
    #[command(flatten)]
    pub client: Client,
    #[command(flatten)]
    pub cell: Cell,
    /// Time between two looks.
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(100..=10_000))]
    pub interval_ms: u32,
}

/// List the sessions that the daemon knows.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  weir sessions --state late
  weir sessions --port 443 --sort retransmit --limit 20
  weir sessions -o json | jq -r 'select(.srtt_us > 200000) | .endpoints.remote_address'")]
pub struct Sessions {
    #[command(flatten)]
    pub socket: Socket,
    #[command(flatten)]
    pub output: Output,
    #[command(flatten)]
    pub client: Client,
    #[command(flatten)]
    pub cell: Cell,
    /// Only sessions in one of these states.
    #[arg(long, value_enum, value_name = "STATE", value_delimiter = ',')]
    pub state: Vec<SessionStateArg>,
    /// Only sessions with late, aborted or retransmitted deliveries.
    #[arg(long)]
    pub troubled: bool,
    /// Order by this, largest first. Without it: as the daemon sends them.
    #[arg(long, value_enum, value_name = "KEY")]
    pub sort: Option<session_listing::Sort>,
    /// The other way round.
    #[arg(long, requires = "sort")]
    pub reverse: bool,
    /// At most so many.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
}

/// List finished deliveries, latest last; with --follow, then each one as it ends.
///
/// A delivery is one request and its answer, up to the acknowledgement of the answer's last byte.
/// The daemon keeps a bounded number of them. A late one is also reported while it is still open
/// (phase "late").
#[derive(Args, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line"
)]
#[command(after_help = "\
Examples:
  weir deliveries --follow --troubled
  weir deliveries --sort latency --limit 10
  weir deliveries --prefix 2001:db8::/32 --state aborted,unanswered
  weir deliveries --follow -o json >> deliveries.jsonl")]
pub struct Deliveries {
    #[command(flatten)]
    pub socket: Socket,
    #[command(flatten)]
    pub output: Output,
    #[command(flatten)]
    pub client: Client,
    #[command(flatten)]
    pub cell: Cell,
    /// Only deliveries in one of these states; `late` are those reported late, finished or not.
    #[arg(long, value_enum, value_name = "STATE", value_delimiter = ',')]
    pub state: Vec<DeliveryState>,
    /// Only deliveries that were late, aborted or retransmitted something.
    #[arg(long)]
    pub troubled: bool,
    /// Also the parts of TLS handshakes.
    #[arg(long)]
    pub handshakes: bool,
    /// Order by this, largest first.
    #[arg(long, value_enum, value_name = "KEY", conflicts_with = "follow")]
    pub sort: Option<delivery_listing::Sort>,
    /// The other way round.
    #[arg(long, requires = "sort")]
    pub reverse: bool,
    /// At most so many of those already finished: the latest, or with --sort the first. With
    /// --follow they are counted before --state is looked at.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
    /// Go on with each delivery as it ends.
    #[arg(short, long)]
    pub follow: bool,
}

/// List the viewers: who starts, plays, stands still or is about to, and whose fault it is.
///
/// What a viewer's playback does is an estimate from what was delivered to it: exact in what the
/// server did, between bounds in what the player made of it (2.10 [1.80,2.40]). The
/// tier says what it rests on: kernel (packets alone), server (joined to the server's log or a
/// tag), cmcd (the player's own word as well).
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  weir viewers --troubled
  weir viewers --sort rebuffer --limit 10
  weir viewers --follow --prefix 198.51.100.0/24
  weir viewers -o json | jq 'select(.stalls > 0) | [.client_address, .verdict]'
  weir viewers --follow -o json >> viewers.jsonl")]
pub struct Viewers {
    #[command(flatten)]
    pub socket: Socket,
    #[command(flatten)]
    pub output: Output,
    #[command(flatten)]
    pub client: Client,
    #[command(flatten)]
    pub cell: Cell,
    /// Only viewers that failed to start, stood still or are about to.
    #[arg(long)]
    pub troubled: bool,
    /// Order by this, largest first. Without it: as the daemon sends them.
    #[arg(long, value_enum, value_name = "KEY", conflicts_with = "follow")]
    pub sort: Option<viewer_listing::Sort>,
    /// The other way round.
    #[arg(long, requires = "sort")]
    pub reverse: bool,
    /// At most so many.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
    /// Go on with each thing that happens to one of them.
    #[arg(short, long)]
    pub follow: bool,
}

/// List the cells: aggregates by service, content class, client network and transport.
///
/// Counts are cumulative since the daemon's start. With --collector: merged over all hosts that
/// report there, and with --last, of the last seconds alone.
#[derive(Args, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line"
)]
#[command(after_help = "\
Examples:
  weir cells --sort latency-p99
  weir cells --collector http://127.0.0.1:7447 --last 60s
  weir cells --collector http://127.0.0.1:7447 --last 10s --follow -o json
  weir cells --collector http://127.0.0.1:7447 --cell /mobile/
  weir cells --qoe
  weir cells -o json | jq '.percentiles.delivery_latency_us.p99'
  weir cells -o json --buckets > cells.jsonl")]
pub struct Cells {
    #[command(flatten)]
    pub socket: Socket,
    /// Ask the collector at this address instead of the daemon: https://HOST:PORT, or
    /// http://127.0.0.1:PORT in plain text on this host.
    #[arg(long, value_name = "URL", conflicts_with = "socket")]
    pub collector: Option<String>,
    #[command(flatten)]
    pub tls: Tls,
    #[command(flatten)]
    pub output: Output,
    /// Only cells of the services at these ports of the server.
    #[arg(long, value_name = "PORT", value_delimiter = ',', value_parser = filter::port(), conflicts_with = "collector")]
    pub port: Vec<u16>,
    #[command(flatten)]
    pub cell: Cell,
    /// Only cells with anything late, aborted, unanswered or retransmitted.
    #[arg(long)]
    pub troubled: bool,
    /// Order by this, largest first.
    #[arg(long, value_enum, value_name = "KEY", default_value = "name")]
    pub sort: cell_listing::Sort,
    /// The other way round.
    #[arg(long)]
    pub reverse: bool,
    /// At most so many.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
    /// What viewers have of it: starts and why they failed, stalls, bitrate, switches, exits, rates,
    /// each with its interval and count, and how much is labelled.
    #[arg(long)]
    pub qoe: bool,
    /// With -o json: the histograms' buckets too.
    #[arg(long)]
    pub buckets: bool,
    /// Only what was counted in the last time before now (e.g. 60s, 5m), to the second.
    #[arg(long, value_name = "TIME", requires = "collector", value_parser = record::parse_duration)]
    pub last: Option<std::time::Duration>,
    /// Go on: the window that ends then, after each second (or --every).
    #[arg(short, long, requires = "last")]
    pub follow: bool,
    /// Time from one window to the next.
    #[arg(long, value_name = "TIME", requires = "follow", default_value = "1s", value_parser = record::parse_duration)]
    pub every: std::time::Duration,
}

/// List the hosts that report to a collector, those first where most viewers are at risk.
///
/// A host's rank is the viewer time of its last minute that stood still or was about to
/// (`at_risk_s_per_min`: 60 is one viewer, all the time). SILENT: nothing was heard for 15 s, by any
/// collector. A clock offset beyond half a second is marked.
#[derive(Args, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line"
)]
#[command(after_help = "\
Examples:
  weir hosts --collector http://127.0.0.1:7447
  weir hosts --collector https://collector:7447 --ca ca.pem --cert me.pem --key me.key
  weir hosts --collector http://127.0.0.1:7447 --silent
  weir hosts --collector http://127.0.0.1:7447 --versions
  weir hosts --collector http://127.0.0.1:7447 --sort clock --limit 10
  weir hosts --collector http://127.0.0.1:7447 -o json | jq 'select(.frames_lost > 0)'")]
pub struct Hosts {
    #[command(flatten)]
    pub centre: Centre,
    #[command(flatten)]
    pub output: Output,
    /// Order by this, largest first.
    #[arg(long, value_enum, value_name = "KEY", default_value = "risk")]
    pub sort: host_listing::Sort,
    /// The other way round.
    #[arg(long)]
    pub reverse: bool,
    /// Only hosts that have fallen silent.
    #[arg(long)]
    pub silent: bool,
    /// Only hosts whose clock is off.
    #[arg(long)]
    pub clock_off: bool,
    /// At most so many.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
    /// Instead: how many hosts run which version.
    #[arg(long, conflicts_with_all = ["sort", "reverse", "limit"])]
    pub versions: bool,
}

/// Show the daemon's own state: backend, probes, configuration, uplink, losses.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  weir status
  weir status -o json | jq .losses")]
pub struct Status {
    #[command(flatten)]
    pub socket: Socket,
    #[command(flatten)]
    pub output: Output,
}

/// Examine this host: privileges, kernel settings, and every way of measuring with its probes.
///
/// Of each way it says whether it works here and why not, what it measures exactly, what it bounds
/// and what is lost, and what the next better one would give. It tries to load each program and
/// measures nothing; a running daemon is not disturbed.
#[derive(Args, Debug)]
#[command(after_help = "\
Exit status:
  0  weir measures exactly here, nothing is lost
  1  the examination itself failed
  3  weir can measure here, but something is lost (it says what)
  4  weir cannot measure here

Examples:
  sudo weir doctor
  sudo weir doctor --config /etc/weir/weir.toml    as the service would measure
  sudo weir doctor -o json | jq -r '.rungs[] | select(.works) | .backend'
  sudo weir doctor -o json | jq '.probes[] | select(.verdict != \"ok\")'")]
pub struct Doctor {
    /// Examine for a daemon with this configuration: its way of measuring, its kill switch.
    /// Without it: the built-in defaults.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub output: Output,
}

/// Look closer, through a collector: at one viewer, a client prefix, a cell or some kind of event.
///
/// Each host that is connected to that collector is asked, and answers at the interval, or less often
/// if looking costs it too much; it forgets the look soon after this command ends. Prints one JSON
/// object per line: what each host answers at first (with why, if it refuses), then what it sees.
/// Clients have the names that the host gives them (`labels.hash_clients`).
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  weir watch --collector http://127.0.0.1:7447 --prefix 198.51.100.0/24
  weir watch --collector http://127.0.0.1:7447 --sid 6e2fb550 --interval-ms 250
  weir watch --collector http://127.0.0.1:7447 --host edge-1 --cell /mobile/ --duration 5m
  weir watch --collector http://127.0.0.1:7447 --event late,viewer | jq -c .message.drill.events[]?")]
pub struct Watch {
    #[command(flatten)]
    pub centre: Centre,
    /// Only this host; may be given several times.
    #[arg(long, value_name = "NAME")]
    pub host: Vec<String>,
    /// Viewers with this session id; hosts know it only with `labels.keep_session_ids`.
    #[arg(long, value_name = "SID", required_unless_present_any = ["prefix", "cell", "event"])]
    pub sid: Option<String>,
    /// Clients within this prefix (CIDR).
    #[arg(long, value_name = "PREFIX")]
    pub prefix: Option<ipnet::IpNet>,
    /// Cells whose name contains this.
    #[arg(long, value_name = "TEXT")]
    pub cell: Option<String>,
    /// Events of these kinds alone.
    #[arg(long, value_enum, value_name = "KIND", value_delimiter = ',')]
    pub event: Vec<EventKind>,
    /// Between two answers of a host.
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(250..=10_000))]
    pub interval_ms: u32,
    /// End after so long (e.g. 90s, 10m, 2h).
    #[arg(long, value_name = "TIME", value_parser = record::parse_duration)]
    pub duration: Option<std::time::Duration>,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum EventKind {
    /// A delivery is late.
    Late,
    /// A delivery was cut off.
    Aborted,
    /// A viewer starts, stalls or is about to.
    Viewer,
    /// A cell's rate is not what is usual.
    Alarm,
}

/// Read the last minutes that a host keeps on its disk: its own, or through a collector.
///
/// Prints one JSON object per line, a second each, oldest first: all cells with their distributions,
/// cumulative. With --directory no daemon is needed, and the one that writes there is not disturbed.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  weir ring --directory /var/lib/weir/ring --last 5m > incident.jsonl
  weir ring --collector http://127.0.0.1:7447 --host edge-1 > incident.jsonl
  weir ring --directory /var/lib/weir/ring | jq -c '[.unix_ns, (.cells | length)]'")]
pub struct Ring {
    /// Of this host: `collector.ring_directory` of its configuration.
    #[arg(
        long,
        value_name = "PATH",
        required_unless_present = "collector",
        conflicts_with = "collector"
    )]
    pub directory: Option<PathBuf>,
    /// Ask the collector at this address: https://HOST:PORT, or http://127.0.0.1:PORT in plain text
    /// on this host.
    #[arg(long, value_name = "URL", requires = "host")]
    pub collector: Option<String>,
    #[command(flatten)]
    pub tls: Tls,
    /// The host, as the collector knows it.
    #[arg(long, value_name = "NAME", requires = "collector")]
    pub host: Option<String>,
    /// Only the last of it (e.g. 90s, 5m).
    #[arg(long, value_name = "TIME", value_parser = record::parse_duration)]
    pub last: Option<std::time::Duration>,
}

/// Be the central collector: merge what hosts report, and answer for all of them.
///
/// Over a network with mutual TLS: a host may report as one of the DNS names in its certificate,
/// and who is named by --operator may ask. On loopback in plain text, if asked for.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  weir collect --plain-text
  weir collect --listen '[::]:7447' --ca ca.pem --cert centre.pem --key centre.key --operator alice
  weir collect --config /etc/weir/weir-collect.toml      with an engine, sinks, /metrics
  weir hosts --collector http://127.0.0.1:7447     asks it")]
pub struct Collect {
    /// The configuration file. Without it: the built-in defaults.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Take hosts' reports and operators' questions at this address [default: the
    /// configuration's, else 127.0.0.1:7447].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<std::net::SocketAddr>,
    #[command(flatten)]
    pub tls: Tls,
    /// A name in the certificate of somebody who may ask; may be given several times.
    #[arg(long, value_name = "NAME")]
    pub operator: Vec<String>,
    /// Take reports and questions in plain text from this host; whoever is on it may report as any
    /// host and ask anything.
    #[arg(long, conflicts_with_all = ["ca", "operator"])]
    pub plain_text: bool,
    /// What the collector calls itself. Without it: the host's name.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}

/// Play a fleet of edges against collectors, to size or to test them.
///
/// Every edge speaks the real wire over connections of its own, and says what it sends is made up
/// (kernel "simulated"); do not aim it at a collector in use. With --start-collectors it starts its
/// own on this host, tells what they take of it, and in the end holds their totals to what was sent,
/// to the unit. The fleet and the collectors share this host's processors: the delay is an upper
/// bound of what the same collectors do elsewhere.
#[derive(Args, Debug)]
#[command(after_help = "\
Exit status 1 if the collectors' totals are not those of the edges, or an edge's last word was not
acknowledged.

Examples:
  weir fleet-sim --start-collectors 1 --edges 500
  weir fleet-sim --start-collectors 2 --nats nats://127.0.0.1:4222 --edges 300 --duration 60s
  weir fleet-sim --start-collectors 1 --edges 200 --kills-per-min 60 --partitions-per-min 60
  weir fleet-sim --collector http://127.0.0.1:7447 --edges 100 --clocks-off 3 -o json")]
pub struct FleetSim {
    /// Play against the collector at this address (https://HOST:PORT, or http:// on this host); may
    /// be given several times, and the edges are spread over them.
    #[arg(long, value_name = "URL", required_unless_present = "start_collectors")]
    pub collector: Vec<String>,
    /// The edges' certificate must have all their names.
    #[command(flatten)]
    pub tls: Tls,
    /// Start so many collectors on this host, and end them afterwards.
    #[arg(long, value_name = "N", conflicts_with_all = ["collector", "ca"], value_parser = clap::value_parser!(u32).range(1..=16))]
    pub start_collectors: Option<u32>,
    /// Put this NATS server behind them, with streams of their own (at most 1.1 GB), which are deleted
    /// at the end.
    #[arg(long, value_name = "URL", requires = "start_collectors")]
    pub nats: Option<String>,
    /// Edges.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub edges: u32,
    /// Cells of each edge.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub cells: u32,
    /// Of these, those that change in a tick.
    #[arg(long, value_name = "N", default_value_t = 25)]
    pub busy_cells: u32,
    /// Time from one tick to the next.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = record::parse_duration)]
    pub interval: std::time::Duration,
    /// How long it is measured, after all edges are connected.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = record::parse_duration)]
    pub duration: std::time::Duration,
    /// What the edges are called, before their number.
    #[arg(long, value_name = "NAME", default_value = "sim-")]
    pub prefix: String,
    /// Edges that are killed in each minute, all together; each comes back with a new boot.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub kills_per_min: u32,
    /// Edges that are cut off for 5 s in each minute.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub partitions_per_min: u32,
    /// Edges whose clock is off by a minute and a half.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub clocks_off: u32,
    /// What load and failures are dealt out from.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    #[command(flatten)]
    pub output: Output,
}

/// Record what the kernel says to a running daemon, to be replayed.
///
/// The daemon measures as before and passes on what it takes in; this process writes it to FILE,
/// compressed, until SIGINT, SIGTERM, a bound or the daemon's end. What was written is whole
/// whatever happens, also to this process. Without --force a file that is there already is kept.
/// The file holds clients' addresses, and only its owner may read it.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  weir record /tmp/evening.weir --max-duration 10m
  weir record /tmp/evening.weir --max-bytes 200M --force
  weir replay /tmp/evening.weir                    what came of it")]
pub struct Record {
    /// The recording. It must not exist yet.
    pub file: PathBuf,
    #[command(flatten)]
    pub socket: Socket,
    /// End before the file would be larger. K, M and G are powers of 1024.
    #[arg(long, value_name = "BYTES", default_value = "1G", value_parser = record::parse_bytes)]
    pub max_bytes: u64,
    /// End after so long (e.g. 90s, 10m, 2h), to the second.
    #[arg(long, value_name = "TIME", value_parser = record::parse_duration)]
    pub max_duration: Option<std::time::Duration>,
    /// Write over a file that is there already.
    #[arg(long)]
    pub force: bool,
}

/// Replay a recording through the daemon's own fold, and list what comes of it.
///
/// It needs no daemon, no privilege and no kernel programs, and its listing is the same each time,
/// bit for bit: what the daemon would have said at the recording's end (cells, sessions) or as it
/// went on (deliveries, events). Standard error tells whose recording it is and whether it is all
/// there.
#[derive(Args, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line"
)]
#[command(after_help = "\
Examples:
  weir replay evening.weir                          cells
  weir replay evening.weir --deliveries -o json > deliveries.jsonl
  weir replay evening.weir --events --speed 10x     late and cut-off deliveries, ten times as fast
  weir replay evening.weir --top --speed 10x        the live view of it
  weir replay evening.weir --from 90s --until 2m    the cells of that half minute
  weir replay evening.weir --stats -o json          how much is in it, and how fast it is folded
  weir replay edge.*.weir edge.weir                 files of a daemon's own recording, as one")]
pub struct Replay {
    /// The recording; of a daemon's own recording as many files as you like, in any order.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// How many times as fast as it was (e.g. 1, 0.5 or 10x), or as fast as it can [default: max;
    /// with --top or --serve: 1].
    #[arg(long, value_name = "N|max", value_parser = replay::parse_speed)]
    pub speed: Option<Speed>,
    /// Tell only what came later: so long after the recording's beginning (e.g. 90s), or at that
    /// time (e.g. 2026-03-01T20:15:00Z).
    ///
    /// What came before is folded all the same, so that what is told is as it was; cells are what
    /// was counted since.
    #[arg(long, value_name = "TIME", value_parser = replay::parse_moment, conflicts_with_all = ["sessions", "viewers"])]
    pub from: Option<Moment>,
    /// End there, and tell of the state at that moment.
    #[arg(long, value_name = "TIME", value_parser = replay::parse_moment)]
    pub until: Option<Moment>,
    #[command(flatten)]
    pub output: Output,
    /// The cells at its end; so without any of these.
    #[arg(long, group = "listing")]
    pub cells: bool,
    /// Each delivery as it ends.
    #[arg(long, group = "listing")]
    pub deliveries: bool,
    /// The sessions at its end.
    #[arg(long, group = "listing")]
    pub sessions: bool,
    /// Each delivery that is late while it is open, or cut off.
    #[arg(long, group = "listing")]
    pub events: bool,
    /// The viewers at its end.
    #[arg(long, group = "listing")]
    pub viewers: bool,
    /// What happens to each viewer: starts, stalls, and what is about to.
    #[arg(long, group = "listing")]
    pub viewer_events: bool,
    /// How much is in it, and how fast it was read and folded.
    #[arg(long, group = "listing")]
    pub stats: bool,
    /// Show it in the live view, as `weir top` would have then; the end stays until q.
    #[arg(long, group = "listing")]
    pub top: bool,
    /// Stand in for the daemon at this socket: `weir top`, `weir deliveries --follow` and all
    /// others that take --socket ask it, also after the end, until SIGINT or SIGTERM.
    #[arg(long, value_name = "PATH", group = "listing")]
    pub serve: Option<PathBuf>,
    /// With --deliveries: also the parts of TLS handshakes.
    #[arg(long, requires = "deliveries")]
    pub handshakes: bool,
    /// With cells and -o json: the histograms' buckets too.
    #[arg(long, conflicts_with_all = ["deliveries", "sessions", "viewers", "viewer_events", "events", "stats", "top", "serve"])]
    pub buckets: bool,
}

/// Steer traffic: rehearse what the policy would do, before it is armed.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  weir steer simulate
  weir steer simulate --scene step,heal --dead-time-s 12 --hosts 40
  weir steer simulate -o json | jq -c '[.scene, .pilot, .amplitude_percent]'")]
pub struct Steer {
    #[command(subcommand)]
    pub command: SteerCommand,
}

/// What of it.
#[derive(Debug, Subcommand)]
pub enum SteerCommand {
    Simulate(SteerSimulate),
}

/// Play a fleet in a closed loop: with nobody at the gates, with a naive threshold, with weir.
///
/// Every host decides as the daemon does, with the policy's defaults, armed; load, faults and the dead
/// time are made up. Amplitude: the largest swing of a host's weight in the last third. Settling: from
/// the fault until every host stays near where it ends (\"-\": it never does). Moved: traffic that
/// changed its host, in percent of the fleet's. The same seed gives the same table.
#[derive(Args, Debug)]
#[command(after_help = "\
Scenes:
  step      load rises from 60 % to 80 % of the fleet, and an eighth of the hosts is weak
  heal      the same, and after a third of the time all is as before
  stale     the same as step; the numbers stop for a minute, and later for ten
  regional  half of the fleet loses its transit: nobody's fault there
  release   half of the fleet gets a bad release: each host's own fault
  liar      one host says that it is very late, and is well

Examples:
  weir steer simulate
  weir steer simulate --scene step --dead-time-s 12,300 -o json")]
pub struct SteerSimulate {
    /// Only these scenes.
    #[arg(long, value_name = "SCENE", value_delimiter = ',', value_parser = str::parse::<Scene>)]
    pub scene: Vec<Scene>,
    /// From a decision to when it is felt in the numbers.
    #[arg(long, value_name = "S", value_delimiter = ',', default_value = "12,300", value_parser = clap::value_parser!(u32).range(2..=3600))]
    pub dead_time_s: Vec<u32>,
    /// Hosts.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub hosts: u32,
    /// Simulated time [default: thirty dead times, an hour at least].
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(600..=86_400))]
    pub duration_s: Option<u32>,
    /// What load and noise are dealt out from.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    #[command(flatten)]
    pub output: Output,
}

/// Read the journal of decisions and orders, or verify that it is as it was written.
///
/// It is read from its files (`steer.journal_file` of the configuration, and those with a number after
/// it); no daemon is needed, and the one that writes there is not disturbed.
#[derive(Args, Debug)]
#[command(after_help = "\
Exit status 5 if a line was changed, removed, put in or put elsewhere. That lines at the end are
gone cannot be seen from the files: compare the last hash with one that was noted elsewhere.

Examples:
  weir journal show /var/lib/weir/steer.journal --kind order,refused
  weir journal show /var/lib/weir/steer.journal -o json | jq -c .body.decision
  weir journal verify /var/lib/weir/steer.journal")]
pub struct Journal {
    #[command(subcommand)]
    pub command: JournalCommand,
}

/// What of it.
#[derive(Debug, Subcommand)]
pub enum JournalCommand {
    Show(JournalShow),
    Verify(JournalVerify),
}

/// List what was decided and ordered, oldest first; damage is told and read past.
#[derive(Args, Debug)]
pub struct JournalShow {
    /// The journal; older files of it are found beside it.
    pub file: PathBuf,
    /// Only entries of these kinds.
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = [
        "opened", "order", "refused", "decision", "position", "actuated", "verdict", "checkpoint",
        "repaired", "note",
    ])]
    pub kind: Vec<String>,
    /// Only entries from this number on.
    #[arg(long, value_name = "N")]
    pub from_seq: Option<u64>,
    #[command(flatten)]
    pub output: Output,
}

/// Verify its chain of hashes, over all its files.
#[derive(Args, Debug)]
pub struct JournalVerify {
    /// The journal; older files of it are found beside it.
    pub file: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_long_help_with_an_example() {
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            let help = command.clone().render_long_help().to_string();
            assert!(help.contains("Examples:"), "{name} has none");
            assert!(
                help.contains(&format!("weir {name}")),
                "{name} shows another"
            );
        }
    }

    #[test]
    fn a_port_that_is_none_a_prefix_that_is_none_and_an_unknown_state_are_usage_errors() {
        for line in [
            "weir sessions --port 70000",
            "weir sessions --port 0",
            "weir sessions --prefix 10.0.0.0/33",
            "weir sessions --state tired",
            "weir sessions --reverse",
            "weir deliveries --follow --sort latency",
            "weir cells --collector http://c:1 --socket /s",
            "weir hosts",
            "weir watch --collector http://127.0.0.1:1",
            "weir watch --sid x",
            "weir watch --collector http://127.0.0.1:1 --sid x --interval-ms 100",
            "weir ring",
            "weir ring --collector http://127.0.0.1:1",
            "weir ring --directory /d --collector http://127.0.0.1:1 --host h",
            "weir run --top --no-top",
            "weir run --plain-text",
            "weir run --ca f",
            "weir collect --plain-text --ca a --cert b --key c",
            "weir collect --plain-text --operator alice",
            "weir run --backend best",
            "weir record",
            "weir record f --max-bytes 0",
            "weir replay f --speed 0",
            "weir replay f --cells --events",
            "weir replay f --handshakes",
            "weir replay",
            "weir replay f --speed x",
            "weir replay f --from yesterday",
            "weir replay f --sessions --from 5s",
            "weir replay f --stats --buckets",
            "weir steer",
            "weir steer simulate --scene calm",
            "weir steer simulate --dead-time-s 0",
            "weir try-gate",
            "weir try-gate g",
            "weir try-gate g --weight-permille 1001",
            "weir journal",
            "weir journal verify",
            "weir journal show f --kind rumour",
        ] {
            let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
