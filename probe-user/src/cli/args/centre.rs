//! What the commands take that ask a collector, are one, or play a fleet against some.

use std::path::PathBuf;

use clap::Args;

use crate::cli::{Output, Tls, fleet_sim, record};
use crate::ui::listing::hosts as host_listing;

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

/// Look closer, through a collector: at one viewer, a client prefix, a cell or some kind of event.
///
/// Each host that is connected, to that collector or to another of the same engine, is asked, and
/// answers at the interval, or less often if looking costs it too much; it forgets the look soon after
/// this command ends. Prints one JSON object per line: what each host answers at first (with why, if
/// it refuses), then what it sees.
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
    /// The gate was moved, ordered to move, or refused to.
    Steer,
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
///
/// With --recording each edge plays all the recordings given, one after the other, through the same
/// fold as `weir replay`, as they were in time: edges begin with different ones, and those that begin
/// with the same one each at another place in it. What lies before that place is counted already, as
/// of a daemon that has run for so long. Each recording is a start of a daemon, with its own boot id.
/// Where the last is over, an edge goes on with its frames at the counts that it has.
#[derive(Args, Debug)]
#[command(after_help = "\
Exit status 1 if the collectors' totals are not those of the edges, or an edge's last word was not
acknowledged.

Examples:
  weir fleet-sim --start-collectors 1 --edges 500
  weir fleet-sim --start-collectors 2 --nats nats://127.0.0.1:4222 --edges 300 --duration 60s
  weir fleet-sim --start-collectors 1 --edges 200 --kills-per-min 60 --partitions-per-min 60
  weir fleet-sim --start-collectors 1 --edges 50 --recording evening.weir --repeat
  weir fleet-sim --start-collectors 1 --edges 50 --recording *.weir --speed 4x --duration 5m
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
    /// Play these recordings (of `weir record` or `weir run --record`) instead of made-up counts; may
    /// be given several times. The files of a daemon's own recording are one. They are read once
    /// before anything begins, and one that is torn or damaged is refused.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["cells", "busy_cells"])]
    pub recording: Vec<PathBuf>,
    /// After the last recording begin with the first again, each with a boot id of its own.
    #[arg(long, requires = "recording")]
    pub repeat: bool,
    /// How many times as fast as it was (e.g. 1, 0.5 or 10x) recordings are played.
    #[arg(long, value_name = "N", default_value = "1", requires = "recording", value_parser = fleet_sim::parse_factor)]
    pub speed: f64,
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
