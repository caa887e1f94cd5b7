//! What an operator relies on, on every kernel: the kill switch takes weir out and lets it in again, a
//! recording says what the daemon said, and the budget is kept or said not to be.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::checks::{A_WHILE, COMPLETE, answer_bytes, ask, check_times, serve};
use super::expected::Backend;
use super::stage::Stage;
use crate::lab::client::{Abort, Connection};
use crate::lab::netns::join;
use crate::lab::process::wait_for;
use crate::lab::server::Mode;
use crate::record::{Budget, Delivery};
use crate::truth::measure::recording_settings;
use crate::watched::{binary, kernel_objects, linked_programs, still_there, v4};

/// While the file is there nothing of weir is in the kernel, and nothing is counted; after it weir
/// measures again.
pub(super) fn kill_switch(stage: &mut Stage) -> Result<String> {
    const PORT: u16 = 9009;
    let promise = stage.promise();
    let switch = stage.watched.lab.dir().join("off");
    stage.restart(|settings| {
        settings.first = format!("kill_switch = {:?}", switch.to_string_lossy());
    })?;
    let _server = serve(stage, PORT, Mode::KeepAlive)?;
    let pid = stage.watched.daemon.process().id();
    let loads = |objects: &BTreeSet<(String, u32)>| objects.iter().any(|(kind, _)| kind == "prog");
    let objects = kernel_objects(pid)?;
    ensure!(loads(&objects) == promise.loads, "{objects:?}");

    std::fs::write(&switch, "")?;
    let off = wait_for("weir to be off", A_WHILE, || {
        Ok(stage.watched.daemon.status()?.off.contains("kill switch"))
    });
    off.with_context(|| stage.watched.daemon.log())?;
    let left = kernel_objects(pid)?;
    ensure!(left.is_empty(), "it holds {left:?}");
    wait_for("the kernel to be clean", A_WHILE, || {
        Ok(still_there(&objects)?.is_empty())
    })
    .with_context(|| format!("{:?}", still_there(&objects)))?;
    let seen = stage.watched.daemon.status()?.losses.sessions_seen;
    let inside = &stage.watched.lab.client;
    inside.run(|| ask(v4(PORT), &["/f/2000"], Duration::ZERO))?;
    let losses = stage.watched.daemon.status()?.losses;
    ensure!(
        losses.sessions_seen == seen,
        "measured while off: {losses:?}"
    );

    std::fs::remove_file(&switch)?;
    let on = wait_for("weir to be on again", A_WHILE, || {
        Ok(stage.watched.daemon.status()?.off.is_empty())
    });
    on.with_context(|| stage.watched.daemon.log())?;
    let again = kernel_objects(pid)?;
    ensure!(loads(&again) == promise.loads, "{again:?}");
    std::thread::sleep(promise.apart);
    let inside = &stage.watched.lab.client;
    let (port, asked) = inside.run(move || ask(v4(PORT), &["/f/30000"], promise.apart))?;
    let (_, told) = stage.told(v4(PORT), port, &[COMPLETE])?;
    ensure!(
        told[0].acked_bytes == answer_bytes(asked[0].body),
        "{told:?}"
    );
    Ok(format!("{} objects went, and came again", objects.len()))
}

/// A replay says what the daemon said: the same cells, to the last digit, and the same deliveries.
pub(super) fn recording(stage: &mut Stage) -> Result<String> {
    const PORT: u16 = 9010;
    const PATHS: [&str; 3] = ["/f/30000", "/f/1", "/f/200000"];
    let apart = stage.promise().apart;
    let file = stage.watched.lab.dir().join("kept.weir");
    stage.restart(|settings| settings.more = recording_settings(&file))?;
    let _server = serve(stage, PORT, Mode::KeepAlive)?;
    let lab = &stage.watched.lab;
    let clients: Vec<_> = (0..4)
        .map(|_| {
            lab.client
                .spawn("client", move || ask(v4(PORT), &PATHS, apart))
        })
        .collect::<Result<_>>()?;
    for client in clients {
        let (port, _) = join(client)?;
        stage.told(v4(PORT), port, &[COMPLETE; PATHS.len()])?;
    }
    wait_for("every record to be folded", A_WHILE, || {
        let losses = stage.watched.daemon.status()?.losses;
        Ok(
            losses.bulk.drained == losses.bulk.exported
                && losses.hot.drained == losses.hot.exported,
        )
    })?;
    let printed = |command: &mut Command| -> Result<String> {
        let out = command.output().context("cannot run weir")?;
        let words = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "{}: {words}", out.status);
        Ok(String::from_utf8(out.stdout)?)
    };
    let daemon = &mut stage.watched.daemon;
    let cells = printed(&mut daemon.asker(&["cells", "--buckets"])())?;
    let status = daemon.stop()?;
    ensure!(status.success(), "the daemon ended with {status}");
    let replay = |what: &[&str]| {
        let mut command = Command::new(binary());
        command
            .arg("replay")
            .arg(&file)
            .args(what)
            .args(["-o", "json"]);
        printed(&mut command)
    };
    let replayed = replay(&["--cells", "--buckets"])?;
    ensure!(
        cells == replayed,
        "the daemon said\n{cells}and the replay\n{replayed}"
    );
    // A follower that comes late is told what was before it by the clock as it is then: some
    // nanoseconds more or less.
    let line = |delivery: &Delivery| {
        let mut delivery = delivery.clone();
        delivery.request_unix_ns = 0;
        delivery.first_write_unix_ns = 0;
        delivery.first_acked_unix_ns = 0;
        delivery.last_acked_unix_ns = 0;
        serde_json::to_string(&delivery)
    };
    let said: Vec<_> = stage
        .watched
        .follower
        .seen(|_| true)
        .iter()
        .map(line)
        .collect::<Result<_, _>>()?;
    let again: Vec<_> = replay(&["--deliveries"])?
        .lines()
        .map(|text| line(&serde_json::from_str(text)?))
        .collect::<Result<_, _>>()?;
    ensure!(
        !said.is_empty() && said == again,
        "the daemon said {said:#?}, and the replay {again:#?}"
    );
    let bytes = std::fs::metadata(&file)?.len();
    Ok(format!("{} deliveries in {bytes} bytes", said.len()))
}

/// What is asked for until it is dropped.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<std::thread::JoinHandle<Result<()>>>,
}

impl Load {
    fn start(stage: &Stage, port: u16) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let stopped = Arc::clone(&stop);
            stage.watched.lab.client.spawn("load", move || {
                let mut connection = Connection::open(v4(port))?;
                while !stopped.load(Ordering::Acquire) {
                    connection.ask(&["/f/100000"], "1.1")?;
                    connection.answer()?;
                }
                Ok(())
            })
        };
        let clients = (0..4).map(client).collect::<Result<_>>()?;
        Ok(Self { stop, clients })
    }

    fn end(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Release);
        self.clients.drain(..).try_for_each(join)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

fn budget_of(stage: &Stage) -> Result<Budget> {
    let budget = stage.watched.daemon.status()?.budget;
    budget.context("weir does not tell of its budget")
}

/// Next to nothing is allowed: sessions are left out and what is cut off is told all the same, and
/// with a larger limit everything is followed again; or weir says why it cannot keep to it.
pub(super) fn budget(stage: &mut Stage) -> Result<String> {
    const PORT: u16 = 9011;
    stage.restart(|settings| settings.budget_core_permille = 1)?;
    let _server = serve(stage, PORT, Mode::KeepAlive)?;
    let load = Load::start(stage, PORT)?;
    let mut budget = budget_of(stage)?;
    let settled = wait_for("weir to do something about its cost", A_WHILE, || {
        budget = budget_of(stage)?;
        // Looks may be so cheap that there is nothing to do.
        let is_looked_at = stage.backend == Backend::Polled && budget.cost_core_permille > 0.0;
        Ok(budget.followed_permille < 1000.0 || !budget.error.is_empty() || is_looked_at)
    });
    settled.with_context(|| format!("{budget:?}\n{}", stage.watched.daemon.log()))?;
    let cost = budget.cost_core_permille;
    if budget.followed_permille >= 1000.0 {
        load.end()?;
        let is_kept = cost <= f64::from(budget.limit_core_permille);
        let is_told = match stage.backend {
            Backend::Exact => !is_kept && budget.error.contains("before Linux 5.12"),
            Backend::Portable => !is_kept && budget.error.contains("left out"),
            // What it does against it is tested where looks take time.
            Backend::Polled => true,
        };
        ensure!(is_told, "{budget:?}");
        let said = match budget.error.as_str() {
            "" => "measured",
            _ => "not kept, and told so",
        };
        return Ok(format!("{cost:.1} thousandths of a core: {said}"));
    }
    let pid = stage.watched.daemon.process().id();
    let linked = linked_programs(pid)?;
    ensure!(!linked.contains("tcp_probe"), "{linked:?}");

    let inside = &stage.watched.lab.client;
    let port = inside.run(|| {
        let mut connection = Connection::open(v4(PORT))?;
        connection.ask(&["/f/4000000"], "1.1")?;
        connection.read_exactly(50_000)?;
        let port = connection.port()?;
        connection.abort(Abort::Reset)?;
        Ok(port)
    })?;
    let (session, told) = stage.all_told(v4(PORT), port)?;
    ensure!(
        told.len() == 1 && told[0].phase == "aborted",
        "cut off, and told {session:?}, {told:?}"
    );
    let losses = stage.watched.daemon.status()?.losses;
    ensure!(
        losses.sessions_left_out > 0 && losses.reconcile(),
        "{losses:?}"
    );
    let least = budget_of(stage)?.followed_permille;

    stage.reload(|settings| settings.budget_core_permille = 4000)?;
    let whole = wait_for("everything to be followed", A_WHILE, || {
        Ok(budget_of(stage)?.followed_permille >= 1000.0)
    });
    whole.with_context(|| format!("{:?}\n{}", budget_of(stage), stage.watched.daemon.log()))?;
    let linked = linked_programs(pid)?;
    ensure!(linked.contains("tcp_probe"), "{linked:?}");
    load.end()?;
    let promise = stage.promise();
    let inside = &stage.watched.lab.client;
    let (port, asked) = inside.run(move || ask(v4(PORT), &["/f/30000"], promise.apart))?;
    let (_, told) = stage.told(v4(PORT), port, &[COMPLETE])?;
    check_times(&told[0], asked[0], promise)?;
    Ok(format!(
        "{cost:.1} thousandths of a core, {least:.1} of 1000 sessions followed, and all again"
    ))
}
