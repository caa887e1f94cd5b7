//! A run judged once more: what the kernel and the server's log told weir then, folded by the weir of
//! now, beside what the players said then. Without players, kernel or waiting.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::players;
use super::report::Teller;
use super::stage::Played;
use super::truth::Truth;
use super::weir::{self, Line};
use super::{access_log, baseline, matrix};
use crate::record::Delivery;

/// What is read of the report of a run.
#[derive(Debug, Deserialize)]
struct Was {
    kernel: String,
    browser: String,
    sessions: Vec<WasPlayed>,
}

#[derive(Debug, Deserialize)]
struct WasPlayed {
    name: String,
    client: Ipv4Addr,
}

/// A run that was.
#[derive(Debug)]
pub struct Run {
    /// Its kernel's release.
    pub kernel: String,
    /// Its browser's version.
    pub browser: String,
    /// Its sessions.
    pub played: Vec<Played>,
    /// What is said of them now.
    pub tellers: Vec<Teller>,
}

/// Reads the run whose report, players' reports, access log and recording are in `dir`, and has the
/// recording folded by `binary`.
///
/// # Errors
/// One of the files is not there or is not a run's, or `binary` cannot replay the recording.
pub fn read(dir: &Path, binary: &Path) -> Result<Run> {
    let text = |name: &str| {
        let path = dir.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let was: Was =
        serde_json::from_str(&text("report.json")?).context("report.json is no run's")?;
    let mut reports: HashMap<String, Vec<players::Report>> = HashMap::new();
    for line in text("reports.jsonl")?.lines() {
        let report: players::Report =
            serde_json::from_str(line).context("reports.jsonl is no run's")?;
        reports.entry(report.id.clone()).or_default().push(report);
    }
    let mut plans: HashMap<_, _> = matrix::sessions(false)
        .into_iter()
        .chain(matrix::sessions(true))
        .map(|session| (session.name.clone(), session))
        .collect();
    let mut played = Vec::new();
    for WasPlayed { name, client } in was.sessions {
        let Some(session) = plans.remove(&name) else {
            bail!("no session is planned that is called {name}: the run is of another version");
        };
        let truth_of = |id: &str| Truth::of(reports.get(id).map_or(&[], Vec::as_slice));
        played.push(Played {
            truth: truth_of(&name),
            company: session.company.map(|_| truth_of(&session.companion())),
            session,
            client,
        });
    }
    let entries = access_log::parse(&text("access.log")?)?;
    let recording = dir.join("viewers.weir");
    let events: Vec<Line> = replay(binary, &recording, "--viewer-events")?;
    let deliveries: Vec<Delivery> = replay(binary, &recording, "--deliveries")?;
    let teller = |name, said| Teller { name, said };
    let tellers = vec![
        teller(super::WEIR, weir::account(events)),
        teller("access log", baseline::by_log(&entries)),
        teller("naive acks", baseline::by_acks(&entries, &deliveries)),
    ];
    Ok(Run {
        kernel: was.kernel,
        browser: was.browser,
        played,
        tellers,
    })
}

/// What `weir replay` lists.
fn replay<T: DeserializeOwned>(binary: &Path, recording: &Path, what: &str) -> Result<Vec<T>> {
    let out = Command::new(binary)
        .args(["replay", what, "--output", "json"])
        .arg(recording)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", binary.display()))?;
    ensure!(
        out.status.success(),
        "weir replay {}: {}",
        recording.display(),
        String::from_utf8_lossy(&out.stderr).trim()
    );
    String::from_utf8(out.stdout)
        .context("weir replay wrote no text")?
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("weir replay wrote {line}")))
        .collect()
}
