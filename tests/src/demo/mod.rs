//! weir at work: a stream, an audience, a brown-out in the middle, and what the host and the
//! collector say of it.

pub mod ladder;
pub mod numbers;
pub mod players;
pub mod view;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};

use self::numbers::{Sums, percentile, segment_latencies_ms};
use self::players::{NETWORKS, PORT, Players};
use self::view::View;
use crate::lab::cleanup;
use crate::lab::link::Lab;
use crate::lab::nginx::{self, Nginx};
use crate::lab::process::wait_for;
use crate::lab::shaper::Shape;
use crate::weir::{Collector, Daemon, Follower, Settings};

/// The link on a good day: 60 Mbit/s, 30 ms.
const CALM: Shape = Shape {
    delay_ns: 15_000_000,
    loss_ppm: 0,
    lose_every: 0,
    rate_bps: 60_000_000,
    queue_bytes: 1_500_000,
};
/// The brown-out: half of what the audience needs, and 2 % loss.
const BROWN_OUT: Shape = Shape {
    loss_ppm: 20_000,
    rate_bps: 6_000_000,
    queue_bytes: 150_000,
    ..CALM
};

/// What to show.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The binary.
    pub weir: PathBuf,
    /// Length of the show.
    pub seconds: u32,
    /// Lines instead of the live view.
    pub plain: bool,
    /// Where the ladder is kept.
    pub out: PathBuf,
}

struct Phase {
    name: &'static str,
    shape: Shape,
    /// Of the whole, in percent.
    share: u32,
}

const PHASES: [Phase; 3] = [
    Phase {
        name: "before",
        shape: CALM,
        share: 30,
    },
    Phase {
        name: "during",
        shape: BROWN_OUT,
        share: 35,
    },
    Phase {
        name: "after",
        shape: CALM,
        share: 35,
    },
];

struct Stage {
    binary: PathBuf,
    daemon: Daemon,
    collector: Collector,
    follower: Follower,
    lab: Lab,
}

/// What a phase looked like.
struct Shown {
    name: &'static str,
    seconds: f64,
    edge: Sums,
    centre: Sums,
    latencies_ms: Vec<u64>,
}

/// Runs the show; returns whether the collector agreed with the host at the end.
///
/// # Errors
/// A part does not start, or the audience leaves early.
pub fn run(plan: &Plan) -> Result<bool> {
    cleanup::start()?;
    std::fs::create_dir_all(&plan.out)
        .with_context(|| format!("cannot make {}", plan.out.display()))?;
    let ladder = ladder::make(&plan.out.canonicalize()?)?;
    let lab = Lab::with_relay(CALM, 7)?;
    lab.set_congestion_control("cubic")?;
    let _nginx = serve(&lab, &ladder)?;
    let stage = set(plan, lab)?;
    let mut players = Players::start(&stage.lab)?;
    println!(
        "{} players on {} networks; 60 Mbit/s, 30 ms; for the middle third 6 Mbit/s and 2 % loss",
        players.playing()?,
        NETWORKS.len()
    );
    let mut view = if plan.plain {
        println!("{}", line_heading());
        None
    } else {
        Some(View::open(&stage.binary, stage.daemon.socket())?)
    };
    let mut shown = Vec::new();
    for phase in &PHASES {
        shown.push(show(plan, phase, &stage, &mut players, &mut view)?);
    }
    drop(view);
    drop(players);
    let agreed = agree(&stage);
    print!("{}", summary(&shown, agreed));
    stage.follower.finish()?;
    Ok(agreed.is_some())
}

fn serve(lab: &Lab, ladder: &Path) -> Result<Nginx> {
    let dir = lab.dir().join("nginx");
    let mut config = nginx::preamble(&dir);
    let _ = write!(
        config,
        "http {{\n  access_log off;\n  sendfile on;\n  keepalive_timeout 60;\n  types {{ \
         application/vnd.apple.mpegurl m3u8; video/mp4 m4s mp4; }}\n  \
         server {{ listen {PORT}; root {}; }}\n}}\n",
        ladder.display()
    );
    Nginx::with_config(lab, &dir, &config, PORT)
}

/// Daemon and collector, on the host and outside every namespace, as they would be in life.
fn set(plan: &Plan, lab: Lab) -> Result<Stage> {
    let collector = Collector::anywhere(&plan.weir, lab.dir())?;
    let mut more = format!("[[service]]\nname = \"hls\"\nports = [{PORT}]\n");
    for (name, [a, b, c]) in NETWORKS {
        let _ = write!(
            more,
            "\n[[network]]\nname = {name:?}\nprefixes = [\"{a}.{b}.{c}.0/24\"]\n"
        );
    }
    let settings = Settings {
        // A live segment must arrive within its own media time.
        deadline_ms: ladder::SEGMENT_SECONDS * 1000,
        ports: vec![PORT],
        prefixes: vec!["10.78.0.0/16".into()],
        collector: Some(collector.url()),
        more,
        ..Settings::default()
    };
    let daemon = Daemon::start(&plan.weir, &lab.dir().join("weir"), &settings)?;
    let follower = daemon.follow()?;
    Ok(Stage {
        binary: plan.weir.clone(),
        daemon,
        collector,
        follower,
        lab,
    })
}

fn unix_ns() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

fn show(
    plan: &Plan,
    phase: &Phase,
    stage: &Stage,
    players: &mut Players,
    view: &mut Option<View>,
) -> Result<Shown> {
    stage.lab.shape(phase.shape);
    let (edge, centre) = (
        Sums::of(&stage.daemon.cells()?),
        Sums::of(&stage.collector.cells()?),
    );
    let (begin, begin_ns) = (Instant::now(), unix_ns());
    let lasts = Duration::from_millis(u64::from(plan.seconds) * u64::from(phase.share) * 10);
    let mut last = edge;
    let mut tick = Duration::from_secs(1);
    while begin.elapsed() < lasts {
        std::thread::sleep(tick.min(lasts).saturating_sub(begin.elapsed()));
        tick += Duration::from_secs(1);
        if players.playing()? == 0 {
            bail!("every player has ended early:\n{}", players.complaint());
        }
        if let Some(open) = view {
            if open.is_open()? {
                continue;
            }
            *view = None;
            last = Sums::of(&stage.daemon.cells()?);
            println!(
                "the live view is closed; Ctrl-C ends the demo\n{}",
                line_heading()
            );
        }
        let cells = stage.daemon.cells()?;
        let now = Sums::of(&cells);
        let open_late: u64 = cells.iter().map(|cell| cell.deliveries_open_late).sum();
        println!("{}", line(phase.name, now.since(last), open_late));
        last = now;
    }
    let end_ns = unix_ns();
    let deliveries = stage.follower.seen(|delivery| {
        let end = delivery.last_acked_unix_ns;
        delivery.phase == "complete" && begin_ns <= end && end < end_ns
    });
    Ok(Shown {
        name: phase.name,
        seconds: begin.elapsed().as_secs_f64(),
        edge: Sums::of(&stage.daemon.cells()?).since(edge),
        centre: Sums::of(&stage.collector.cells()?).since(centre),
        latencies_ms: segment_latencies_ms(&deliveries),
    })
}

fn line_heading() -> &'static str {
    "phase   deliveries/s    late/s  late now  Mbit/s  retransmitted"
}

fn line(phase: &str, second: Sums, late_now: u64) -> String {
    format!(
        "{phase:<7} {:>12} {:>9} {late_now:>9} {:>7.1} {:>12.2} %",
        second.deliveries,
        second.late,
        second.mbps(1.0),
        second.retransmitted_percent(),
    )
}

/// With the audience gone the host's counters stand still; the collector's must become the same.
fn agree(stage: &Stage) -> Option<Sums> {
    let mut agreed = None;
    let waited = wait_for("the collector to have all", Duration::from_secs(10), || {
        let edge = Sums::of(&stage.daemon.cells()?);
        agreed = (edge == Sums::of(&stage.collector.cells()?)).then_some(edge);
        Ok(agreed.is_some() && stage.daemon.status()?.sessions_open == 0)
    });
    if let Err(error) = waited {
        println!("{error:#}");
    }
    agreed
}

fn summary(shown: &[Shown], agreed: Option<Sums>) -> String {
    let mut text = String::from(
        "\n                 segments: p50    p95    max ms | host: deliveries  late  Mbit/s  \
         retransmitted | collector: deliveries  late  retransmitted\n",
    );
    for phase in shown {
        let latencies = &phase.latencies_ms;
        let _ = writeln!(
            text,
            "{:<8} {:>4.0} s {:>13} {:>6} {:>9} | {:>16} {:>5} {:>7.1} {:>12.2} % | {:>21} {:>5} {:>12.2} %",
            phase.name,
            phase.seconds,
            percentile(latencies, 50),
            percentile(latencies, 95),
            latencies.last().copied().unwrap_or_default(),
            phase.edge.deliveries,
            phase.edge.late,
            phase.edge.mbps(phase.seconds),
            phase.edge.retransmitted_percent(),
            phase.centre.deliveries,
            phase.centre.late,
            phase.centre.retransmitted_percent(),
        );
    }
    let _ = match agreed {
        Some(sums) => writeln!(
            text,
            "at the end host and collector agree: {} deliveries, {} late, {} bytes, {} segments, {} retransmitted",
            sums.deliveries, sums.late, sums.acked_bytes, sums.segments, sums.retransmitted
        ),
        None => writeln!(text, "at the end host and collector DO NOT agree"),
    };
    text
}
