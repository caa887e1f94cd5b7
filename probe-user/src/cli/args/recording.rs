//! What `weir record` and `weir replay` take.

use std::path::PathBuf;

use clap::Args;

use crate::cli::{Output, Socket, record, replay};
use crate::replay::{Moment, Speed};

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
