//! Runs a command of the operator's with the position on its standard input.
//!
//! An argument vector and no shell, an empty environment, a time limit, one at a time; all of its
//! process group ends with it. What it did stays done, so the guard runs it once more, neutral, when
//! this process cannot.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::child::with_nothing_of_ours;
use super::guard::{Guarded, Plan, Running};
use super::notice::Notice;
use super::settings::Hook as Settings;
use super::told::{Means, Undo};

/// Of each output; the rest is read and thrown away.
const MAX_OUTPUT_BYTES: usize = 4096;
/// For output of a command that has ended: what it left running may hold it open.
const LAST_WORDS: Duration = Duration::from_millis(100);
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Means for Settings {
    /// Lets the guard know what runs, so that it does not go on after a lease's end.
    async fn tell(&self, notice: &Notice, guarded: Option<&mut Guarded>) -> Result<Option<String>> {
        let started = start(self, &notice.gate)?;
        let Some(guarded) = guarded else {
            return started.finish(notice).await.map(Some);
        };
        guarded.running(started.running()).await?;
        let done = started.finish(notice).await;
        guarded.running(None).await?;
        done.map(Some)
    }

    fn tells_renewals(&self) -> bool {
        self.tell_renewals
    }

    fn plan(end: Undo<Self>) -> Plan {
        Plan::Hook(end)
    }
}

/// A command that runs. Dropped before its end, its group is killed.
#[derive(Debug)]
struct Started {
    child: Child,
    program: String,
    limit: Duration,
    /// None: it has ended.
    group: Option<Pid>,
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // Not waited for yet, so the number is still its own.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

fn start(settings: &Settings, gate: &str) -> Result<Started> {
    let (program, args) = settings.command.split_first().context("an empty command")?;
    let mut command = Command::new(program);
    with_nothing_of_ours(command.as_std_mut());
    let child = command
        .args(args)
        .env_clear()
        .env("PATH", PATH)
        .env("WEIR_GATE", gate)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    Ok(Started {
        child,
        program: program.clone(),
        limit: Duration::from_secs(settings.timeout_s.into()),
        group: pid.map(Pid::from_raw),
    })
}

impl Started {
    fn running(&self) -> Option<Running> {
        let pid = self.group?.as_raw();
        let started = start_ticks(pid)?;
        Some(Running { pid, started })
    }

    /// Tells it, waits for its end, and gives back what it said.
    async fn finish(mut self, notice: &Notice) -> Result<String> {
        let told = serde_json::to_vec(notice)?;
        let (stdin, out, err) = (
            self.child.stdin.take(),
            self.child.stdout.take(),
            self.child.stderr.take(),
        );
        let program = self.program.clone();
        let limit = self.limit;
        let told = async {
            if let Some(mut stdin) = stdin {
                // It need not read what it does not want.
                let _ = stdin.write_all(&told).await;
                let _ = stdin.write_all(b"\n").await;
            }
        };
        let (mut said, mut complained) = (Vec::new(), Vec::new());
        let status = {
            let reading = async {
                tokio::join!(told, read(out, &mut said), read(err, &mut complained));
            };
            tokio::pin!(reading);
            let mut is_read = false;
            let ended = async {
                loop {
                    tokio::select! {
                        status = self.child.wait() => return status,
                        () = &mut reading, if !is_read => is_read = true,
                    }
                }
            };
            let ended = timeout(limit, ended).await;
            // Dropping `self` kills it, and all that it started.
            let status =
                ended.with_context(|| format!("{program} did not end within {limit:?}"))?;
            self.group = None;
            if !is_read {
                let _ = timeout(LAST_WORDS, &mut reading).await;
            }
            status.with_context(|| format!("lost {program}"))?
        };
        let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        conclude(&program, status, &words(&said), &words(&complained))
    }
}

fn conclude(program: &str, status: ExitStatus, said: &str, complained: &str) -> Result<String> {
    if !status.success() {
        let why = if complained.is_empty() {
            said
        } else {
            complained
        };
        bail!("{program} ended with {status}: {why}");
    }
    Ok(said.to_owned())
}

/// Keeps the beginning and reads on, so that what writes is never held up.
async fn read(from: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut from) = from else { return };
    let mut part = [0; 1024];
    while let Ok(length @ 1..) = from.read(&mut part).await {
        let room = MAX_OUTPUT_BYTES.saturating_sub(kept.len());
        kept.extend_from_slice(&part[..length.min(room)]);
    }
}

/// When a process began, in ticks since boot: with its number, what tells it from a later one.
fn start_ticks(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, which comes second, may have anything in it but ends with the last parenthesis.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

/// Kills a command that runs still, with all its group.
pub(super) fn kill(running: Running) {
    if start_ticks(running.pid) == Some(running.started) {
        let _ = killpg(Pid::from_raw(running.pid), Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steer::actuators::notice::Cause;

    fn script(command: &str, timeout_s: u32) -> Settings {
        Settings {
            command: ["/bin/sh", "-c", command].map(str::to_owned).into(),
            timeout_s,
            tell_renewals: false,
        }
    }

    async fn run(command: &str, timeout_s: u32) -> Result<String> {
        let notice = Notice::neutral("balancer", 7, "d1", Cause::Released);
        let said = script(command, timeout_s).tell(&notice, None).await;
        said.map(Option::unwrap_or_default)
    }

    #[tokio::test]
    async fn it_has_the_notice_on_its_input_and_nothing_of_this_process_around_it() {
        let said = run("env | sort; pwd; cat", 10).await.unwrap();
        let lines: Vec<_> = said.lines().collect();
        let own = |line: &&str| !line.starts_with("_=") && !line.starts_with("SHLVL");
        let lines: Vec<_> = lines.into_iter().filter(own).collect();
        let [path, pwd, gate, place, notice] = &*lines else {
            panic!("{lines:?}");
        };
        assert_eq!((*path, *pwd), (&*format!("PATH={PATH}"), "PWD=/"));
        assert_eq!((*gate, *place), ("WEIR_GATE=balancer", "/"));
        let notice: Notice = serde_json::from_str(notice).unwrap();
        assert!(notice.is_neutral && notice.generation == 7);
    }

    #[tokio::test]
    async fn its_status_and_what_it_complains_of_are_the_error() {
        let failed = run("echo no such pool >&2; exit 3", 10).await.unwrap_err();
        assert_eq!(
            failed.to_string(),
            "/bin/sh ended with exit status: 3: no such pool"
        );
        // It need not read what it is told.
        assert_eq!(run("exec <&-; echo done", 10).await.unwrap(), "done");
    }

    #[tokio::test]
    async fn what_it_says_without_end_is_cut_and_does_not_hold_it_up() {
        let said = run("yes | head -c 1000000; echo >&2", 10).await.unwrap();
        assert!(said.len() <= MAX_OUTPUT_BYTES && said.len() > MAX_OUTPUT_BYTES - 3);
    }

    #[tokio::test]
    async fn one_that_does_not_end_is_killed_with_all_that_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        let command = format!("sleep 1000 & echo $! > {}; wait", path.display());
        let failed = run(&command, 1).await.unwrap_err().to_string();
        assert!(failed.contains("did not end within 1s"), "{failed}");
        let pid: i32 = std::fs::read_to_string(&path)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        // Killed, it is gone or waits for its new parent to look.
        let is_over = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            stat.is_ok_and(|stat| stat.contains(") Z ")) || start_ticks(pid).is_none()
        };
        while !is_over() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    #[tokio::test]
    async fn a_number_that_another_process_has_by_now_is_not_killed() {
        let mut child = Command::new("/bin/sleep")
            .arg("1000")
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id().unwrap()).unwrap();
        let started = start_ticks(pid).unwrap();
        kill(Running {
            pid,
            started: started + 1,
        });
        assert!(child.try_wait().unwrap().is_none());
        kill(Running { pid, started });
        assert!(!child.wait().await.unwrap().success());
    }
}
