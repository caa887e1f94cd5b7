//! What the commands take that ask a daemon on this host, or examine the host.

use std::path::PathBuf;

use clap::Args;

use crate::cli::{
    Cell, Client, DeliveryState, Output, SessionStateArg, Socket, Tls, filter, record,
};
use crate::ui::listing::{
    cells as cell_listing, deliveries as delivery_listing, sessions as session_listing,
    viewers as viewer_listing,
};

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
