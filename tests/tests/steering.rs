//! The gate of a real daemon: who may order, what outlives a kill, a full disk, and deliveries that
//! are really late.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use serde_json::Value;
use weir_tests::lab::client;
use weir_tests::lab::link::Lab;
use weir_tests::lab::netns::join;
use weir_tests::lab::process::{output, wait_for};
use weir_tests::lab::server::{BlockingServer, Mode};
use weir_tests::watched::{PATIENCE, binary, settings, v4};
use weir_tests::weir::{Daemon, Settings};

/// Users of no account here.
const ALICE: u32 = 54_001;
const BOB: u32 = 54_002;
const MALLORY: u32 = 54_003;
/// Of whom the configuration knows nothing.
const STRANGER: u32 = 54_004;

/// A daemon in a directory that every user may enter.
struct Host {
    daemon: Daemon,
    settings: Settings,
    dir: tempfile::TempDir,
}

impl Host {
    fn start(more: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        Self::start_in(dir, more)
    }

    fn start_in(dir: tempfile::TempDir, more: &str) -> Result<Self> {
        open_to_all(dir.path(), 0o755)?;
        let path = dir.path().display();
        let settings = Settings {
            backend: Some("polled"),
            deadline_ms: 300,
            first: format!("kill_switch = \"{path}/off\""),
            more: more.replace("DIR", &path.to_string()),
            ..settings()
        };
        let daemon = Daemon::start(&binary(), dir.path(), &settings)?;
        // Other users need not be able to enter the build's directory.
        let copy = dir.path().join("weir");
        let from = binary().display().to_string();
        output("cp", &[&from, &copy.display().to_string()])?;
        open_to_all(&copy, 0o755)?;
        Ok(Self {
            daemon,
            settings,
            dir,
        })
    }

    fn journal(&self) -> PathBuf {
        self.dir.path().join("steer.journal")
    }

    fn command(&self, args: &[&str]) -> Vec<String> {
        let weir = self.dir.path().join("weir").display().to_string();
        let mut all = vec![weir, "steer".to_owned()];
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        let socket = self.daemon.socket().display().to_string();
        all.extend([
            "--socket".to_owned(),
            socket,
            "-o".to_owned(),
            "json".to_owned(),
        ]);
        all
    }

    /// `weir steer ARGS` as root.
    fn steer(&self, args: &[&str]) -> Result<Output> {
        let all = self.command(args);
        run(Command::new(&all[0]).args(&all[1..]))
    }

    /// The same as another user.
    fn steer_as(&self, uid: u32, args: &[&str]) -> Result<Output> {
        let id = uid.to_string();
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
        run(setpriv.args(self.command(args)))
    }

    fn status(&self) -> Result<Value> {
        let out = self.steer(&["status"])?;
        serde_json::from_slice(&out.stdout).with_context(|| said(&out))
    }

    fn weight(&self) -> Result<u64> {
        let status = self.status()?;
        let settings = status["settings"].as_array().context("no settings")?;
        let weights = settings.iter().map(|own| own["weight_permille"].as_u64());
        Ok(weights.flatten().min().unwrap_or(1000))
    }

    /// The bodies of the journal's entries of a kind; the journal must be sound.
    fn written(&self, kind: &str) -> Result<Vec<Value>> {
        let file = self.journal().display().to_string();
        let weir = binary().display().to_string();
        output(&weir, &["journal", "verify", &file])?;
        let lines = output(
            &weir,
            &["journal", "show", &file, "--kind", kind, "-o", "json"],
        )?;
        let parse = |line: &str| {
            let entry: Value = serde_json::from_str(line)?;
            Ok(entry["body"][kind].clone())
        };
        lines.lines().map(parse).collect()
    }
}

fn open_to_all(path: &Path, mode: u32) -> Result<()> {
    let mode = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, mode).with_context(|| format!("cannot open {}", path.display()))
}

fn run(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .context("cannot run weir steer")
}

fn said(out: &Output) -> String {
    let words = String::from_utf8_lossy(&out.stderr).into_owned();
    format!("{}: {words}", out.status)
}

fn taken(out: &Output) -> Result<Value> {
    anyhow::ensure!(out.status.success(), "not taken: {}", said(out));
    Ok(serde_json::from_slice(&out.stdout)?)
}

const ROLES: &str = "
[query]
allow_users = [54001, 54002, 54003]

[steer]
journal_file = \"DIR/steer.journal\"
two_person_above_permille = 500

[[steer.role]]
name = \"noc\"
users = [54001, 54002]
verbs = [\"hold\", \"weight\", \"drain\", \"release\"]
";

#[test]
fn a_user_without_a_role_changes_nothing_and_what_turns_away_most_needs_two_who_have_one()
-> Result<()> {
    let host = Host::start(ROLES)?;
    let why = ["--reason", "a test", "--ramp", "0s"];
    let with = |args: &[&'static str]| [args, &why[..]].concat();

    let refused = host.steer_as(MALLORY, &with(&["drain"]))?;
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        said(&refused).contains("user 54003 has no role here"),
        "{}",
        said(&refused)
    );
    assert_eq!(host.weight()?, 1000);
    let written = host.written("refused")?;
    let [own] = &written[..] else {
        panic!("{written:?}");
    };
    assert!(
        own["who"]
            .as_str()
            .is_some_and(|who| who.contains("uid 54003")),
        "{own}"
    );
    assert!(
        own["what"]
            .as_str()
            .is_some_and(|what| what.starts_with("drain of host")),
        "{own}"
    );

    // Who may not even look is turned away before anything is heard, and is in the journal as well.
    let refused = host.steer_as(STRANGER, &with(&["panic"]))?;
    assert_eq!(refused.status.code(), Some(1));
    let strangers = || -> Result<usize> {
        let written = host.written("refused")?;
        let is_stranger = |own: &&Value| own["who"] == format!("uid {STRANGER}");
        Ok(written.iter().filter(is_stranger).count())
    };
    wait_for("the stranger to be written down", PATIENCE, || {
        Ok(strangers()? > 0)
    })?;
    let strange = strangers()?;

    let waits = host.steer_as(ALICE, &with(&["drain"]))?;
    assert_eq!(waits.status.code(), Some(6), "{}", said(&waits));
    let id = serde_json::from_slice::<Value>(&waits.stdout)?["id"].clone();
    let id = id.as_str().context("no id")?.to_owned();
    for nobody in [ALICE, MALLORY] {
        let refused = host.steer_as(nobody, &["approve", &id])?;
        assert_eq!(refused.status.code(), Some(1), "{nobody}");
    }
    assert_eq!(host.weight()?, 1000);
    taken(&host.steer_as(BOB, &["approve", &id])?)?;
    assert_eq!(host.weight()?, 0);
    let status = host.status()?;
    assert_eq!(status["orders"][0]["auth"], "uid 54001");
    assert_eq!(status["orders"][0]["second"], "uid 54002");
    assert_eq!(host.written("refused")?.len(), 3 + strange);
    Ok(())
}

const JOURNAL: &str = "\n[steer]\njournal_file = \"DIR/steer.journal\"\n";

#[test]
fn after_a_kill_orders_hold_again_with_what_was_left_and_the_journal_is_sound() -> Result<()> {
    let mut host = Host::start(JOURNAL)?;
    let order = [
        "weight", "40%", "--reason", "a test", "--ramp", "0s", "--ttl", "10m",
    ];
    let id = taken(&host.steer(&order)?)?["id"].clone();
    assert_eq!(host.weight()?, 400);
    let before = host.status()?;
    host.daemon.process().signal(Signal::SIGKILL)?;
    host.daemon.process().wait(PATIENCE)?;

    let Host {
        daemon,
        settings,
        dir,
    } = host;
    drop(daemon);
    let daemon = Daemon::start(&binary(), dir.path(), &settings)?;
    let host = Host {
        daemon,
        settings,
        dir,
    };
    wait_for("the order to hold again", PATIENCE, || {
        Ok(host.weight()? == 400)
    })?;
    let after = host.status()?;
    assert_eq!(after["orders"][0]["id"], id);
    let left = |status: &Value| status["orders"][0]["left_s"].as_u64();
    assert!(left(&after) <= left(&before), "{after}");
    assert!(after["generation"].as_u64() > before["generation"].as_u64());
    // Its first word after the start was neutral: nothing is taken up that nobody decided.
    let notes = host.written("note")?;
    let begun = notes.iter().filter(|note| {
        note.as_str()
            .is_some_and(|note| note.contains("weights are neutral"))
    });
    assert_eq!(begun.count(), 2);
    Ok(())
}

/// A disk of 256 KiB.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(at: &Path) -> Result<Self> {
        std::fs::create_dir_all(at)?;
        mount(
            Some("tmpfs"),
            at,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("size=256k"),
        )
        .context("cannot mount a small disk")?;
        Ok(Self(at.to_owned()))
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    fn fill(&self) -> Result<()> {
        let bytes = vec![0_u8; 1 << 20];
        // It takes what it can, and that is the point.
        let _ = std::fs::write(self.filler(), bytes);
        anyhow::ensure!(self.filler().metadata()?.len() < 1 << 20, "it is not full");
        Ok(())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn on_a_full_disk_gates_only_go_back_to_neutral_until_there_is_room() -> Result<()> {
    // Unmounted before its place is removed.
    let place = tempfile::tempdir()?;
    let disk = SmallDisk::new(&place.path().join("disk"))?;
    let file = disk.0.join("steer.journal").display().to_string();
    let host = Host::start(&format!("\n[steer]\njournal_file = {file:?}\n"))?;
    let why = ["--reason", "a test", "--ramp", "0s"];
    let steer = |args: &[&'static str]| host.steer(&[args, &why[..]].concat());
    taken(&steer(&["weight", "97%"])?)?;
    assert_eq!(host.weight()?, 970);
    disk.fill()?;

    // The file's last page may have room for some entries.
    let mut orders = 1;
    let before = loop {
        let before = host.weight()?;
        let share = if orders % 2 == 0 { "97%" } else { "95%" };
        let out = steer(&["weight", share])?;
        if !out.status.success() {
            assert_eq!(out.status.code(), Some(1));
            break before;
        }
        orders += 1;
        anyhow::ensure!(orders < 20, "the disk is never full");
    };
    assert_eq!(host.weight()?, before, "a refused order moved it");
    // Towards neutral neither: what was not taken has no effect.
    let opened = steer(&["weight", "99%"])?;
    assert_eq!(opened.status.code(), Some(1), "{}", said(&opened));
    assert_eq!(host.weight()?, before);
    let drained = steer(&["drain"])?;
    assert_eq!(drained.status.code(), Some(1));
    let words = said(&drained);
    assert!(
        words.contains("not taken") && words.contains("steer.journal"),
        "{words}"
    );
    assert_eq!(host.weight()?, before);
    let error = host.status()?["journal_error"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(error.contains("cannot write the journal"), "{error}");
    assert!(
        host.daemon.log().contains("free space"),
        "{}",
        host.daemon.log()
    );

    taken(&steer(&["release"])?)?;
    wait_for("the gate to open", PATIENCE, || Ok(host.weight()? == 1000))?;

    std::fs::remove_file(disk.filler())?;
    wait_for("the disk to be written again", PATIENCE, || {
        Ok(host.status()?["journal_error"] == "")
    })?;
    taken(&steer(&["weight", "70%"])?)?;
    assert_eq!(host.weight()?, 700);
    // What was refused is not in it as an order, and what was done meanwhile is.
    let weir = binary().display().to_string();
    output(&weir, &["journal", "verify", &file])?;
    let show = ["journal", "show", &file, "--kind", "order", "-o", "json"];
    let written = output(&weir, &show)?;
    let with = |what: &str| written.lines().filter(|line| line.contains(what)).count();
    assert_eq!(with("\"drain\""), 0, "{written}");
    assert_eq!(with("\"release\""), 1, "{written}");
    assert_eq!(with("\"weight\""), orders + 1, "{written}");
    Ok(())
}

const PORT: u16 = 8090;

/// Clients that ask again and again for what the server thinks about for so long, until dropped.
struct Viewers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Result<()>>>,
}

impl Viewers {
    fn start(lab: &Lab, path: &'static str) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = (0..20).map(|_| {
            let stop = Arc::clone(&stop);
            lab.client.spawn("viewer", move || {
                let mut connection = client::Connection::open(v4(PORT))?;
                while !stop.load(Ordering::Relaxed) {
                    connection.ask(&[path], "1.1")?;
                    connection.answer()?;
                    // Two looks of a daemon that only looks must fit between two answers.
                    std::thread::sleep(Duration::from_millis(100));
                }
                Ok(())
            })
        });
        Ok(Self {
            tasks: tasks.collect::<Result<_>>()?,
            stop,
        })
    }

    fn leave(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.into_iter().try_for_each(join)
    }
}

fn policy(armed: bool) -> String {
    format!(
        "
[steer]
armed = {armed}
journal_file = \"DIR/steer.journal\"

[[steer.policy]]
name = \"own-faults\"
armed = true
metric = \"late_delivery_share\"
enter_permille = 50
exit_permille = 20
min_n = 20
dead_time_s = 1
dwell_s = 10
"
    )
}

#[test]
fn answers_that_are_late_by_the_servers_own_fault_are_advice_until_the_host_is_armed() -> Result<()>
{
    let lab = Lab::with_veth()?;
    let _server = BlockingServer::v4(&lab.server, PORT, Mode::KeepAlive)?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().display().to_string();
    let mut host = Host::start_in(dir, "")?;
    // The exact way of measuring: whose fault it is is a matter of milliseconds.
    host.settings.backend = Some("exact");
    host.settings.ports = vec![PORT];
    host.settings.more = policy(false).replace("DIR", &path);
    host.daemon.stop()?;
    host.daemon = Daemon::start(&binary(), host.dir.path(), &host.settings)?;

    let well = Viewers::start(&lab, "/f/30000")?;
    wait_for("deliveries", PATIENCE, || {
        let cells = host.daemon.cells()?;
        Ok(cells
            .iter()
            .map(|cell| cell.counters.deliveries)
            .sum::<u64>()
            > 200)
    })?;
    assert!(host.written("decision")?.is_empty());
    well.leave()?;

    let ill = Viewers::start(&lab, "/f/30000?think=400")?;
    wait_for("advice", PATIENCE, || {
        Ok(host.status()?["advice"]
            .as_array()
            .is_some_and(|all| !all.is_empty()))
    })
    .with_context(|| host.daemon.log())?;
    let status = host.status()?;
    let advice = &status["advice"][0];
    assert_eq!(advice["kind"], "turn_away", "{status}");
    assert_eq!(advice["scope"], "service=8090", "{status}");
    assert_eq!(advice["acts"], false);
    assert!(
        advice["reason"]
            .as_str()
            .is_some_and(|why| why.contains("own fault (think)"))
    );
    assert_eq!(host.weight()?, 1000);
    assert!(host.written("position")?.is_empty(), "advice moves nothing");

    let armed = Settings {
        more: policy(true).replace("DIR", &path),
        ..host.settings.clone()
    };
    host.daemon.reload(&armed)?;
    wait_for("traffic to be turned away", PATIENCE, || {
        Ok(host.weight()? <= 900)
    })
    .with_context(|| host.daemon.log())?;
    let status = host.status()?;
    assert_eq!(status["settings"][0]["by"], "own-faults");
    assert_eq!(status["settings"][0]["level"], "policy");
    let decided = host.written("decision")?;
    let acts = decided.iter().find(|own| own["acts"] == true);
    let acts = acts.context("no decision acts")?;
    assert_eq!(acts["expected"]["metric"], "late_delivery_share");
    assert!(acts["seen"]["estimate"]["n"].as_u64() >= Some(20), "{acts}");
    ill.leave()?;
    host.daemon.stop()?;
    let positions = host.written("position")?;
    let last = positions.last().context("no position")?;
    assert_eq!(
        last["settings"],
        Value::Array(Vec::new()),
        "the end is neutral"
    );
    Ok(())
}
