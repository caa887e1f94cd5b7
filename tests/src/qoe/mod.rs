//! `cargo xtask truth --qoe`: what weir says of viewers, held to what real players say of
//! themselves.
//!
//! hls.js and dash.js play a real ladder from nginx in headless Chromium, each over a link of its
//! own that is spoiled as the session's plan says. Their own accounts are the truth; weir's, and two
//! baselines' from the same run, are scored against it.

pub mod access_log;
pub mod again;
pub mod aims;
pub mod baseline;
pub mod crowd;
pub mod ladder;
pub mod live;
pub mod matrix;
pub mod narrow;
pub mod origin;
pub mod parts;
pub mod path;
pub mod players;
pub mod plot;
pub mod report;
pub mod said;
pub mod sampler;
pub mod scenario;
pub mod score;
pub mod servers;
pub mod setup;
pub mod stage;
pub mod tables;
pub mod trace;
pub mod truth;
pub mod weir;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

use self::report::{Report, Teller};
use self::scenario::{Session, Set};
use self::stage::{Played, Stage};
use self::weir::Viewers;
use crate::lab::cleanup;
use crate::lab::process::{output, wait_for};
use crate::weir::Daemon;

/// How the report names weir.
const WEIR: &str = "weir";

/// Of a viewer whose sessions are closed weir says after fifteen seconds that it has left, and of one
/// whose path is dead after a minute.
const OVER_PATIENCE: Duration = Duration::from_secs(75);

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The binary.
    pub weir: PathBuf,
    /// A few sessions instead of more than a hundred.
    pub quick: bool,
    /// Only sessions whose name contains one of these; none: all.
    pub only: Vec<String>,
    /// Only sessions of this set.
    pub set: Option<Set>,
    /// Where the programme is kept, and the report goes.
    pub out: PathBuf,
}

impl Plan {
    fn wants(&self, session: &Session) -> bool {
        let named = |only: &String| session.name.contains(only.as_str());
        (self.only.is_empty() || self.only.iter().any(named))
            && self.set.is_none_or(|set| set == session.set)
    }
}

/// Measures, prints, and returns whether everything held.
///
/// # Errors
/// The lab does not work here.
pub fn run(plan: &Plan) -> Result<bool> {
    cleanup::start()?;
    std::fs::create_dir_all(&plan.out)
        .with_context(|| format!("cannot make {}", plan.out.display()))?;
    let out = plan.out.canonicalize()?;
    let programme = ladder::make(&out)?;
    let dir = tempfile::tempdir().context("cannot make a directory")?;
    let knows_viewers = setup::knows_viewers(&plan.weir);
    let recording = out.join("viewers.weir");
    let settings = setup::settings(dir.path(), &recording, knows_viewers);
    let mut daemon = Daemon::start(&plan.weir, &dir.path().join("weir"), &settings)?;
    let deliveries = daemon.follow()?;
    let viewers = knows_viewers
        .then(|| Viewers::follow(&daemon))
        .transpose()?;
    let socket = knows_viewers.then(|| setup::log_socket(dir.path()));
    let mut sessions = matrix::sessions(plan.quick);
    sessions.retain(|session| plan.wants(session));
    let count = sessions.len();
    let reports = out.join("reports.jsonl");
    let mut stage = Stage::set(&programme, socket.as_deref(), sessions, &reports)?;
    println!(
        "{} sessions in Chromium {}\n{}",
        count,
        stage.browser(),
        report::heading()
    );
    let played = stage.play(|played| println!("{}", report::line(played)))?;
    settle(&daemon, knows_viewers);
    let log = std::fs::read_to_string(stage.access_log()).context("cannot read the access log")?;
    let entries = access_log::parse(&log)?;
    std::fs::write(out.join("access.log"), &log)?;
    let mut tellers = vec![
        Teller {
            name: "access log",
            said: baseline::by_log(&entries),
        },
        Teller {
            name: "naive acks",
            said: baseline::by_acks(&entries, &deliveries.seen(|_| true)),
        },
    ];
    if let Some(viewers) = viewers {
        tellers.insert(
            0,
            Teller {
                name: WEIR,
                said: viewers.finish()?,
            },
        );
    }
    deliveries.finish()?;
    let browser = stage.browser().to_owned();
    if let Err(error) = stage.finish() {
        println!("the browser: {error:#}");
    }
    daemon.stop()?;
    let version = output(&plan.weir.to_string_lossy(), &["--version"])?
        .trim()
        .to_owned();
    let kernel = output("uname", &["-r"])?.trim().to_owned();
    let weir = knows_viewers.then_some(version);
    let mut report = Report::new(weir, kernel, browser, &played, &tellers);
    if knows_viewers {
        report.hold(WEIR);
    }
    if plan.only.is_empty() && plan.set.is_none() {
        report.hold_run(if plan.quick { 3 } else { 40 });
    }
    report.write(&out.join("report.json"))?;
    draw(&played, &tellers, &out)?;
    print!("{}", report.summary());
    println!("report: {}", plan.out.join("report.json").display());
    Ok(report.failures.is_empty())
}

/// Judges the run that is in the plan's directory once more, by the plan's weir; prints, and returns
/// whether everything held. The result is in `again.json` there.
///
/// # Errors
/// There is no whole run, or weir cannot replay it.
pub fn judge_again(plan: &Plan) -> Result<bool> {
    let mut run = again::read(&plan.out, &plan.weir)?;
    run.played.retain(|played| plan.wants(&played.session));
    let version = output(&plan.weir.to_string_lossy(), &["--version"])?;
    let mut report = Report::new(
        Some(version.trim().to_owned()),
        run.kernel,
        run.browser,
        &run.played,
        &run.tellers,
    );
    report.hold(WEIR);
    report.write(&plan.out.join("again.json"))?;
    print!("{}", report.summary());
    println!("report: {}", plan.out.join("again.json").display());
    Ok(report.failures.is_empty())
}

/// The players are gone; waits until weir says of each viewer that it is over, for what it says last is
/// what it is judged by. One that it does not see go is still judged, and named in the report.
fn settle(daemon: &Daemon, knows_viewers: bool) {
    let ask = daemon.asker(&["viewers"]);
    let settled = wait_for("the viewers to be over", OVER_PATIENCE, || {
        if daemon.status()?.sessions_open > 0 {
            return Ok(false);
        }
        Ok(!knows_viewers || weir::not_over(&sampler::listing(&mut ask())?) == 0)
    });
    if let Err(error) = settled {
        println!("{error:#}");
    }
}

/// Of the sessions that are judged by weir, or else by the best baseline: the one with most stalls.
fn draw(played: &[Played], tellers: &[Teller], out: &std::path::Path) -> Result<()> {
    let Some(one) = played.iter().max_by_key(|one| one.truth.stalls.len()) else {
        return Ok(());
    };
    let accounts: Vec<_> = tellers
        .iter()
        .filter_map(|teller| Some((teller.name, report::about(one, &teller.said)?)))
        .collect();
    let svg = plot::draw(one, &accounts)?;
    let path = out.join("session.svg");
    std::fs::write(&path, svg).with_context(|| format!("cannot write {}", path.display()))?;
    println!("plot of {}: {}", one.session.name, path.display());
    Ok(())
}
