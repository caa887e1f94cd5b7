//! What `weir run` takes.

use std::path::PathBuf;

use clap::Args;

use crate::cli::{Tls, absolute, filter};
use crate::kernel::Choice;

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
