//! The players: one headless Chromium in the client's namespace, driven by `tests/players`, and
//! what the players in it report.

use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use super::scenario::{Cmcd, Company, Pause, Player, Seek, Session};
use crate::lab::netns::Netns;
use crate::lab::process::Process;

/// How far ahead a player fills its buffer: short, so that a cut link is felt within seconds.
const BUFFER_SECONDS: u32 = 8;
/// How much later than the first a second viewer comes, and goes.
const COMPANY_AFTER_MS: u32 = 5_000;
/// A browser that has not started by then never will.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// A report of a player or of the driver; see `tests/players/player.js`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Report {
    /// Which session's; empty: the browser's.
    pub id: String,
    /// When, Unix milliseconds.
    pub t: u64,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// What can be reported.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(tag = "event", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the players document their reports")]
pub enum Event {
    Ready {
        version: String,
    },
    /// The player was given its URL; again: it was thrown away, and another begun.
    Load,
    Manifest,
    /// The first frame moves.
    Started,
    Stall {
        ahead: f64,
    },
    Resumed,
    /// The picture stands still for want of media, whether or not the player says that it waits.
    Frozen,
    Moving,
    Seeking {
        /// Whether the viewer asked for it, or the player jumps by itself.
        of_viewer: bool,
    },
    Seeked,
    Paused,
    /// The viewer wants to go on, whether or not the player can.
    Unpaused,
    /// Another page stands before the player's, and no longer.
    Hidden,
    Shown,
    Buffer {
        ahead: f64,
        position: f64,
        frames: u64,
        dropped: u64,
    },
    Level {
        bitrate: f64,
    },
    Fragment(Fragment),
    Error {
        fatal: bool,
        kind: String,
        #[serde(default)]
        details: String,
        #[serde(default)]
        code: u16,
    },
    Ended,
    Leaving {
        how: String,
    },
    /// The session's last.
    Closed,
}

/// A fragment as the player saw it come, times in Unix milliseconds.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[expect(missing_docs, reason = "the players document their reports")]
pub struct Fragment {
    pub requested: f64,
    pub first: f64,
    pub loaded: f64,
    pub bytes: u64,
    pub duration: f64,
    pub number: i64,
    pub media: String,
}

#[derive(Serialize)]
struct Options<'a> {
    id: &'a str,
    family: Player,
    url: &'a str,
    cmcd: Cmcd,
    cmcd_version: u8,
    sid: &'a str,
    cid: &'a str,
    buffer_s: u32,
    limit_ms: u32,
    seeks: &'a [Seek],
    pauses: &'a [Pause],
    restarts_ms: &'a [u32],
    backgrounds: &'a [Pause],
    #[serde(skip_serializing_if = "Option::is_none")]
    company: Option<Box<Companion<'a>>>,
}

/// A second player.
#[derive(Serialize)]
struct Companion<'a> {
    after_ms: u32,
    same_browser: bool,
    #[serde(flatten)]
    options: Options<'a>,
}

/// The reports of all browsers of a run, in the order they come; a copy is kept in a file.
#[derive(Debug)]
pub struct Reports {
    to: Sender<Result<Said>>,
    from: Receiver<Result<Said>>,
    kept: BufWriter<File>,
}

/// A line, and what it says.
#[derive(Debug)]
struct Said {
    line: String,
    report: Report,
}

impl Reports {
    /// None yet; they will be kept in `kept`.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn new(kept: &Path) -> Result<Self> {
        let file = File::create(kept).with_context(|| format!("cannot make {}", kept.display()))?;
        let (to, from) = mpsc::channel();
        Ok(Self {
            to,
            from,
            kept: BufWriter::new(file),
        })
    }

    /// The next one, if it comes within `patience`.
    ///
    /// # Errors
    /// A browser is gone, or reports nonsense.
    pub fn next(&mut self, patience: Duration) -> Result<Option<Report>> {
        match self.from.recv_timeout(patience) {
            Ok(said) => {
                let Said { line, report } = said?;
                writeln!(self.kept, "{line}").context("cannot keep the players' reports")?;
                Ok(Some(report))
            }
            Err(_) => Ok(None),
        }
    }
}

/// Reads one browser's reports to their end.
fn read(from: impl std::io::Read, to: &Sender<Result<Said>>) {
    for line in BufReader::new(from).lines() {
        let said = line
            .context("cannot read the players' reports")
            .and_then(|line| {
                let report = serde_json::from_str(&line)
                    .with_context(|| format!("the players reported what is no report: {line}"))?;
                Ok(Said { line, report })
            });
        if to.send(said).is_err() {
            return;
        }
    }
    let _ = to.send(Err(anyhow!("the browser is gone")));
}

/// A running browser.
#[derive(Debug)]
pub struct Players {
    process: Process,
    input: Option<ChildStdin>,
    reader: Option<JoinHandle<()>>,
    /// As the browser names it.
    pub version: String,
}

impl Players {
    /// Starts a browser, in `netns` if there is one, no session being under way yet; its page is at
    /// `page`. What the driver complains of goes into the file `log`.
    ///
    /// # Errors
    /// It does not start: node, Chromium or the modules are missing.
    pub fn start(
        netns: Option<&Netns>,
        page: &str,
        log: &Path,
        reports: &mut Reports,
    ) -> Result<Self> {
        let directory = directory();
        if !directory.join("node_modules/hls.js").is_dir() {
            bail!("the players are not installed: `cargo xtask setup --for qoe` does it");
        }
        let errors = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
        let mut command = Command::new("node");
        command
            .arg("driver.mjs")
            .current_dir(&directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors);
        let mut process = Process::start(command, netns)?;
        let child = process.child_mut();
        let input = child.stdin.take().context("no pipe to node")?;
        let output = child.stdout.take().context("no pipe from node")?;
        let to = reports.to.clone();
        let reader = std::thread::spawn(move || read(output, &to));
        let mut players = Self {
            process,
            input: Some(input),
            reader: Some(reader),
            version: String::new(),
        };
        let ready = reports.next(START_PATIENCE).with_context(|| {
            let words = std::fs::read_to_string(log).unwrap_or_default();
            format!("the browser does not start: {words}")
        })?;
        match ready.map(|report| report.event) {
            Some(Event::Ready { version }) => players.version = version,
            other => bail!("the browser did not say that it is ready but {other:?}"),
        }
        players.write(&format!("{{\"page\":{page:?}}}"))?;
        Ok(players)
    }

    /// Lets a session begin; `urls` are what its player is given, and what its second one.
    ///
    /// # Errors
    /// The browser is gone.
    pub fn play(&mut self, session: &Session, urls: &[String; 2]) -> Result<()> {
        let companion = session.companion();
        let options = |id, url| Options {
            id,
            family: session.player,
            url,
            cmcd: session.cmcd,
            cmcd_version: session.cmcd_version,
            sid: id,
            cid: "programme",
            buffer_s: BUFFER_SECONDS,
            limit_ms: session.stay_ms,
            seeks: &session.seeks,
            pauses: &session.pauses,
            restarts_ms: &session.restarts_ms,
            backgrounds: &session.backgrounds,
            company: None,
        };
        let [url, other] = urls;
        let company = session.company.map(|company| {
            Box::new(Companion {
                after_ms: COMPANY_AFTER_MS,
                same_browser: company == Company::SameBrowser,
                options: options(&companion, other),
            })
        });
        let options = Options {
            company,
            ..options(&session.name, url)
        };
        let line = serde_json::to_string(&options).context("cannot write a session's options")?;
        self.write(&line)
    }

    fn write(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("the browser was told to end")?;
        writeln!(input, "{line}").context("the browser is gone")
    }

    /// Lets it end, once all viewers have left.
    ///
    /// # Errors
    /// It does not.
    pub fn finish(mut self) -> Result<()> {
        self.input.take();
        self.process.wait(START_PATIENCE)?;
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        Ok(())
    }
}

/// Where the players are kept.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("players")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_players_reports_are_read_as_they_write_them() {
        let line = r#"{"id":"a","event":"fragment","t":5,"requested":1,"first":2.5,"loaded":3,"bytes":9,"duration":2.005,"number":1,"media":"main"}"#;
        let report: Report = serde_json::from_str(line).expect("a report");
        assert!(matches!(report.event, Event::Fragment(fragment) if fragment.bytes == 9));
        let line = r#"{"id":"a","event":"error","t":5,"fatal":false,"kind":"mediaError"}"#;
        let report: Report = serde_json::from_str(line).expect("a report");
        assert!(matches!(report.event, Event::Error { code: 0, .. }));
        assert!(serde_json::from_str::<Report>(r#"{"id":"a","event":"odd","t":5}"#).is_err());
    }
}
