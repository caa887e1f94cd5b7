//! The command line: what can be asked for, in words, and who answers it.

mod args;
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
mod steer_centre;
mod try_gate;
mod viewers;
mod watch;

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};

pub use args::*;
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
pub use steer::{simulate, steer};
pub use try_gate::{GateGuard, TryGate, gate_guard, try_gate};
pub use viewers::viewers;
pub use watch::{ring, watch};

use crate::config::socket;
use crate::tls;
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
     damaged, or has gaps; weir journal: it is not as it was written; weir steer --collector: not
     every host has taken the order
  6  weir steer: the order waits for a second person (weir steer approve)

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

/// How to reach a daemon.
#[derive(Args, Clone, Debug)]
pub struct Socket {
    /// The daemon's Unix socket.
    #[arg(long, value_name = "PATH", default_value_os_t = socket::to_ask())]
    pub socket: PathBuf,
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
            "weir steer drain",
            "weir steer drain --reason x --scope pool",
            "weir steer weight 70 --reason x",
            "weir steer weight 101% --reason x",
            "weir steer cap 3 --reason x --on-fail cry",
            "weir steer hold --reason x --expect late:falls:60s",
            "weir steer hold --reason x --expect late_delivery_share:falls:10s",
            "weir steer approve",
            "weir journal",
            "weir journal verify",
            "weir journal show f --kind rumour",
        ] {
            let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
