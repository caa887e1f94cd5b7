//! Gates outside of this host's kernel, turned by a process that is killed or hangs: a real HAProxy, a
//! real nginx that is posted to, a command, a file. Whatever happens to the holder, they are neutral
//! again within the lease.

mod gate;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use weir_tests::lab::process::{Process, ended_by, output, wait_for};
use weir_tests::watched::{PATIENCE, binary};

use gate::{Gate, Kind, LEASE, SECRET, posted};

const ROUNDS: usize = 10;

/// The guard of a holder.
fn guard_of(holder: &Process) -> Result<i32> {
    let own = format!("PPid:\t{}", holder.id());
    for process in std::fs::read_dir("/proc")? {
        let path = process?.path();
        // Others may end while they are looked at.
        let status = std::fs::read_to_string(path.join("status")).unwrap_or_default();
        if status.starts_with("Name:\tweir-gate-guard\n") && status.lines().any(|line| line == own)
        {
            let name = path.file_name().context("a process without a number")?;
            return Ok(name.to_string_lossy().parse()?);
        }
    }
    bail!("{} has no guard", holder.id())
}

fn is_gone(pid: i32) -> bool {
    !PathBuf::from(format!("/proc/{pid}")).exists()
}

/// Kills the holder's whole group, as what tidies up does, over and over.
fn neutral_after_kills(kind: Kind) -> Result<()> {
    let gate = Gate::new(kind)?;
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        let mut holder = gate.hold(30)?;
        let guard = guard_of(&holder)?;
        killpg(Pid::from_raw(holder.id().cast_signed()), Signal::SIGKILL)?;
        took.push(gate.until(100)?);
        assert!(ended_by(holder.wait(PATIENCE)?, Signal::SIGKILL));
        wait_for("the guard to end", PATIENCE, || Ok(is_gone(guard)))?;
        assert_eq!(gate.percent()?, 100);
    }
    took.sort_unstable();
    let (median, worst) = (took[ROUNDS / 2], took[ROUNDS - 1]);
    println!("{kind:?}: neutral after a kill in {median:?}, {worst:?} at most");
    // At once, and on a busy machine as soon as the guard's turn comes.
    assert!(median < LEASE / 2 && worst < 2 * LEASE, "{took:?}");
    Ok(())
}

/// Stops the holder as a machine without memory would: it has its descriptors, and does nothing.
fn neutral_after_a_hang(kind: Kind) -> Result<()> {
    let gate = Gate::new(kind)?;
    let mut holder = gate.hold(30)?;
    holder.signal(Signal::SIGSTOP)?;
    let took = gate.until(100)?;
    println!("{kind:?}: neutral after a hang in {took:?}");
    // Renewed at a third of the lease, so that two thirds were left at least.
    assert!(
        took > LEASE / 3 && took < LEASE + Duration::from_secs(1),
        "{took:?}"
    );
    holder.signal(Signal::SIGCONT)?;
    // It finds that it held nothing any more, says so, and turns nothing.
    let status = holder.wait(PATIENCE)?;
    assert!(!status.success(), "{}", holder.log());
    assert!(
        holder.log().contains("went back to neutral"),
        "{}",
        holder.log()
    );
    assert_eq!(gate.percent()?, 100);
    Ok(())
}

#[test]
fn a_killed_holder_leaves_neutral_by_agent() -> Result<()> {
    neutral_after_kills(Kind::Agent)
}

#[test]
fn a_killed_holder_leaves_neutral_by_socket() -> Result<()> {
    neutral_after_kills(Kind::Socket)
}

#[test]
fn a_killed_holder_leaves_neutral_by_hook() -> Result<()> {
    neutral_after_kills(Kind::Hook)
}

#[test]
fn a_killed_holder_leaves_neutral_by_webhook() -> Result<()> {
    neutral_after_kills(Kind::Webhook)
}

#[test]
fn a_killed_holder_leaves_neutral_by_file() -> Result<()> {
    neutral_after_kills(Kind::File)
}

#[test]
fn a_hanging_holder_leaves_neutral_at_the_leases_end_by_agent() -> Result<()> {
    neutral_after_a_hang(Kind::Agent)
}

#[test]
fn a_hanging_holder_leaves_neutral_at_the_leases_end_by_socket() -> Result<()> {
    neutral_after_a_hang(Kind::Socket)
}

#[test]
fn a_hanging_holder_leaves_neutral_at_the_leases_end_by_hook() -> Result<()> {
    neutral_after_a_hang(Kind::Hook)
}

#[test]
fn a_hanging_holder_leaves_neutral_at_the_leases_end_by_webhook() -> Result<()> {
    neutral_after_a_hang(Kind::Webhook)
}

#[test]
fn a_hanging_holder_leaves_neutral_at_the_leases_end_by_file() -> Result<()> {
    neutral_after_a_hang(Kind::File)
}

#[test]
fn an_agents_weight_is_followed_and_an_operators_drain_stays() -> Result<()> {
    let gate = Gate::new(Kind::Agent)?;
    let haproxy = gate.haproxy();
    let mut holder = gate.hold(30)?;
    assert_eq!(haproxy.server("live/e2")?.weight, 100);
    // HAProxy rounds a share of the weight 1 down to nothing, which docs/gates.md warns of.
    wait_for("the share of a small weight", PATIENCE, || {
        Ok(haproxy.server("live/small")?.weight == 0)
    })?;
    // `DRAIN (agent)` where an agent is asked as well.
    let is_drained =
        || -> Result<bool> { Ok(haproxy.server("live/e1")?.status.starts_with("DRAIN")) };
    haproxy.ask("set server live/e1 state drain")?;
    let guard = guard_of(&holder)?;
    assert!(holder.stop(Signal::SIGTERM)?.success(), "{}", holder.log());
    gate.until(100)?;
    wait_for("the guard to leave the port", PATIENCE, || {
        Ok(is_gone(guard))
    })?;
    let mut holder = gate.hold(50)?;
    assert!(is_drained()?);
    holder.signal(Signal::SIGKILL)?;
    gate.until(100)?;
    assert!(is_drained()?);
    haproxy.ask("set server live/e1 state ready")?;
    assert!(!is_drained()?);
    holder.wait(PATIENCE)?;
    Ok(())
}

#[test]
fn an_agent_that_is_gone_leaves_its_port_to_the_next_one() -> Result<()> {
    let gate = Gate::new(Kind::Agent)?;
    let mut holder = gate.hold(30)?;
    let guard = guard_of(&holder)?;
    holder.stop(Signal::SIGKILL)?;
    gate.until(100)?;
    // The guard answers still.
    assert!(!is_gone(guard));
    wait_for("the guard to end", PATIENCE, || Ok(is_gone(guard)))?;
    gate.hold(40)?;
    Ok(())
}

#[test]
fn a_guard_has_nothing_of_the_holders_but_their_channel() -> Result<()> {
    let gate = Gate::new(Kind::Socket)?;
    let holder = gate.hold(30)?;
    let guard = guard_of(&holder)?;
    let mut inherited = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{guard}/fd"))? {
        let target = std::fs::read_link(entry?.path()).unwrap_or_default();
        let target = target.display().to_string();
        let own = ["/dev/null", "socket:", "pipe:", "anon_inode:[event"];
        if !own.iter().any(|own| target.starts_with(own)) && !target.ends_with("holder.log") {
            inherited.push(target);
        }
    }
    assert_eq!(inherited, Vec::<String>::new());
    // A session of its own: what ends the holder's does not end it.
    let stat = std::fs::read_to_string(format!("/proc/{guard}/stat"))?;
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    assert_eq!(fields[3], guard.to_string(), "{stat}");
    // Nor does what ends services.
    nix::sys::signal::kill(Pid::from_raw(guard), Signal::SIGTERM)?;
    holder.signal(Signal::SIGKILL)?;
    gate.until(100)?;
    Ok(())
}

#[test]
fn a_weight_that_was_set_before_comes_back_and_one_that_is_set_meanwhile_stays() -> Result<()> {
    let gate = Gate::new(Kind::Socket)?;
    gate.haproxy().ask("set server live/e1 weight 40")?;
    let mut holder = Process::spawn(gate.command(500), None, &gate.dir().join("one.log"))?;
    gate.until(20)?;
    assert!(holder.stop(Signal::SIGTERM)?.success(), "{}", holder.log());
    assert_eq!(gate.percent()?, 40);

    let mut holder = Process::spawn(gate.command(300), None, &gate.dir().join("two.log"))?;
    gate.until(12)?;
    gate.haproxy().ask("set server live/e1 weight 80")?;
    // Over a renewal, which is not to take it back.
    let renewed = Instant::now() + LEASE;
    wait_for("a lease", PATIENCE, || Ok(Instant::now() > renewed))?;
    assert_eq!(gate.percent()?, 80);
    holder.stop(Signal::SIGKILL)?;
    assert_eq!(gate.percent()?, 80);
    Ok(())
}

#[test]
fn a_balancer_that_is_started_anew_is_turned_anew_and_given_back() -> Result<()> {
    let mut gate = Gate::new(Kind::Socket)?;
    let mut holder = gate.hold(30)?;
    gate.haproxy.as_mut().expect("HAProxy").restart()?;
    assert!(gate.until(30)? < LEASE);
    assert!(holder.stop(Signal::SIGTERM)?.success(), "{}", holder.log());
    assert_eq!(gate.percent()?, 100);
    Ok(())
}

#[test]
fn a_static_algorithm_is_turned_whole_or_not_at_all() -> Result<()> {
    let fixed = "balance source\n  hash-type map-based";
    let gate = Gate::with(Kind::Socket, fixed, "")?;
    let refused = gate.command(300).output()?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("static LB algorithm"),
        "{said}"
    );
    assert_eq!(gate.percent()?, 100);

    for kind in [Kind::Socket, Kind::Agent] {
        let gate = Gate::with(kind, fixed, "all_or_nothing = true")?;
        let holder = gate.hold(0)?;
        holder.signal(Signal::SIGKILL)?;
        gate.until(100)?;
    }
    Ok(())
}

#[test]
fn what_is_posted_is_signed_and_in_order() -> Result<()> {
    let gate = Gate::new(Kind::Webhook)?;
    let mut holder = gate.hold(30)?;
    holder.stop(Signal::SIGKILL)?;
    gate.until(100)?;
    let posted = posted(gate.dir())?;
    let [turned, neutral] = &*posted else {
        bail!("{posted:?}");
    };
    for (line, body) in &posted {
        let signed = gate.dir().join("signed");
        let timestamp = line["timestamp"].as_str().context("no timestamp")?;
        std::fs::write(&signed, format!("{timestamp}.{body}"))?;
        let signed = signed.display().to_string();
        // Another's idea of it.
        let said = output(
            "openssl",
            &["dgst", "-sha256", "-hmac", SECRET, "-r", &signed],
        )?;
        let digest = said.split_whitespace().next().context("no digest")?;
        assert_eq!(line["signature"], format!("v1={digest}"));
        assert_eq!(line["protocol"], "TLSv1.3");
    }
    assert_ne!(turned.0["key"], neutral.0["key"]);
    let order = |body: &str| -> Result<(u64, u64)> {
        let told: serde_json::Value = serde_json::from_str(body)?;
        let number = |key: &str| told[key].as_u64().context("no number");
        Ok((number("generation")?, number("sequence")?))
    };
    assert!(order(&neutral.1)? > order(&turned.1)?);
    assert!(neutral.1.contains("holder_gone"), "{}", neutral.1);
    Ok(())
}

#[test]
fn a_command_that_hangs_with_its_holder_does_not_undo_neutral_later() -> Result<()> {
    let gate = Gate::new(Kind::Hook)?;
    // Turning takes for ever, going back none at all.
    let dir = gate.dir().display().to_string();
    let text = format!(
        "#!/bin/sh\ncat > {dir}/new.$$\ntouch {dir}/began\ngrep -q '\"is_neutral\":true' \
         {dir}/new.$$ || sleep 30\nmv {dir}/new.$$ {dir}/told\n"
    );
    std::fs::write(gate.dir().join("turn"), text)?;
    let log = gate.dir().join("holder.log");
    let mut holder = Process::spawn(gate.command(300), None, &log)?;
    let began = gate.dir().join("began");
    wait_for("the command to begin", PATIENCE, || Ok(began.exists()))?;
    // Alone: its command is in a group of its own, and would go on.
    holder.stop(Signal::SIGKILL)?;
    let told = gate.dir().join("told");
    wait_for("the guard's command", PATIENCE, || Ok(told.exists()))?;
    assert_eq!(gate.percent()?, 100);
    let left = output("ps", &["-eo", "args"])?;
    let script = gate.dir().join("turn").display().to_string();
    assert!(!left.contains(&script), "{left}");
    Ok(())
}

#[test]
fn a_gate_that_is_not_there_and_the_kill_switch_are_told() -> Result<()> {
    let gate = Gate::new(Kind::File)?;
    let config = gate.dir().join("weir.toml");
    let mut command = Command::new(binary());
    command.args(["try-gate", "x", "--weight-permille", "0", "--config"]);
    let refused = command.arg(&config).output()?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("has no gate \"x\"; it has: g"), "{said}");

    let mut holder = gate.hold(30)?;
    std::fs::write(gate.dir().join("off"), "")?;
    gate.until(100)?;
    assert!(holder.wait(PATIENCE)?.success(), "{}", holder.log());
    let refused = gate.command(300).output()?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains("nothing is turned away from neutral"),
        "{said}"
    );
    Ok(())
}
