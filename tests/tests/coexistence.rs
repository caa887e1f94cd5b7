//! weir beside others of its kind: a second weir, bpftrace on the same tracepoints, agents with
//! their own programs at the same cgroup. Each goes on seeing everything, and none finds what is
//! its own changed.

use std::fs;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use weir_tests::lab::agent::{
    Agent, Hold, Manner, Notes, RTT_CB, RTT_FLAG, STATE_CB, STATE_FLAG, cgroup_root, cookie,
};
use weir_tests::lab::client::{self, Connection};
use weir_tests::lab::counters::{bpftrace, tcp_counts};
use weir_tests::lab::link::Lab;
use weir_tests::lab::netns::join;
use weir_tests::lab::process::{output, wait_for};
use weir_tests::lab::relay::Direction;
use weir_tests::lab::server::{BlockingServer, Mode};
use weir_tests::lab::shaper::Shape;
use weir_tests::record::Delivery;
use weir_tests::watched::{
    DISTANT, PATIENCE, Watched, binary, kernel_objects, settings, still_there, v4,
};
use weir_tests::weir::{Daemon, Settings, doctor};

const PATHS: [&str; 3] = ["/f/30000", "/f/500", "/f/300000"];

/// A port that no other test serves at, of this process or of another: agents at the cgroup root
/// tell sessions by it.
fn own_port(test: u16) -> u16 {
    let process = u16::try_from(std::process::id() % 5000).expect("less than 5000");
    20_000 + process * 8 + test
}

/// The blocking server's header and body, in bytes.
fn answer_bytes(body: u64) -> u64 {
    let header = format!("HTTP/1.1 200 OK\r\nContent-Length: {body}\r\n\r\n");
    header.len() as u64 + body
}

/// One session of three exchanges and one whose last answer comes after the client's half-close,
/// which only the `sock_ops` program can time.
fn exchanges(watched: &Watched, port: u16) -> Result<Vec<Delivery>> {
    let inside = &watched.lab.client;
    let seen = inside.run(move || client::keep_alive(v4(port), &PATHS, Duration::ZERO))?;
    let half = inside.run(move || client::half_closed(v4(port), "/f/300000?think=50"))?;
    let (_, mut told) = watched.deliveries(v4(port), seen.port)?;
    told.extend(watched.deliveries(v4(port), half.port)?.1);
    let bodies: Vec<_> = seen.bodies.iter().chain(&half.bodies).copied().collect();
    ensure!(
        told.len() == bodies.len(),
        "{bodies:?} were sent, and told {told:?}"
    );
    for (delivery, body) in told.iter().zip(bodies) {
        ensure!(
            (delivery.kind.as_str(), delivery.phase.as_str()) == ("exchange", "complete")
                && delivery.acked_bytes == answer_bytes(body)
                && delivery.written_bytes == delivery.acked_bytes,
            "{body} bytes were sent, and told {delivery:?}"
        );
    }
    Ok(told)
}

fn all_exact(told: &[Delivery]) -> bool {
    told.iter().all(|delivery| !delivery.end_bounded)
}

/// Ids of the programs at the cgroup root.
fn attached() -> Result<Vec<u64>> {
    let root = cgroup_root()?;
    let root = root.to_str().context("an unprintable mount point")?;
    let shown: Vec<serde_json::Value> =
        serde_json::from_str(&output("bpftool", &["-j", "cgroup", "show", root])?)?;
    Ok(shown.iter().filter_map(|p| p["id"].as_u64()).collect())
}

#[test]
fn two_weirs_measure_the_same_and_either_may_be_killed() -> Result<()> {
    let watched = Watched::distant()?;
    let lab = &watched.lab;
    let mut other = Daemon::start(&binary(), &lab.dir().join("other"), &settings())?;
    let follower = other.follow()?;
    let port = own_port(0);
    let _server = BlockingServer::v4(&lab.server, port, Mode::KeepAlive)?;
    let told = exchanges(&watched, port)?;
    assert!(all_exact(&told), "{told:?}");
    for delivery in &told {
        let mut same = Vec::new();
        wait_for("the other's word on the same delivery", PATIENCE, || {
            same = follower.seen(|seen| {
                seen.endpoints.netns == watched.netns
                    && seen.endpoints.remote_port == delivery.endpoints.remote_port
                    && (seen.index, seen.kind.as_str()) == (delivery.index, "exchange")
                    && seen.phase == "complete"
            });
            Ok(!same.is_empty())
        })?;
        assert_eq!(same.len(), 1, "told twice: {same:?}");
        assert_eq!(same[0].acked_bytes, delivery.acked_bytes);
        assert_eq!(same[0].session, delivery.session, "one cookie, two names");
        let apart_ns = same[0]
            .last_acked_unix_ns
            .abs_diff(delivery.last_acked_unix_ns);
        assert!(apart_ns < 1_000_000, "{delivery:?} and {:?}", same[0]);
    }
    let objects = kernel_objects(other.process().id())?;
    other.process().signal(Signal::SIGKILL)?;
    other.process().wait(PATIENCE)?;
    wait_for("the killed one's objects to go", PATIENCE, || {
        Ok(still_there(&objects)?.is_empty())
    })?;
    let told = exchanges(&watched, port)?;
    assert!(all_exact(&told), "{told:?}");
    let losses = watched.daemon.status()?.losses;
    assert!(losses.reconcile(), "{losses:?}");
    Ok(())
}

#[test]
fn bpftrace_on_the_same_tracepoints_and_weir_both_see_everything() -> Result<()> {
    let watched = Watched::distant()?;
    let lab = &watched.lab;
    let port = own_port(1);
    let of_port = format!("/args->sport == {port}/");
    let program = format!(
        "BEGIN {{ printf(\"watching\\n\"); }}
         tracepoint:tcp:tcp_probe {of_port} {{ @segments = count(); }}
         tracepoint:tcp:tcp_retransmit_skb {of_port} {{ @again = count(); }}
         tracepoint:sock:inet_sock_set_state {of_port} {{ @state[args->newstate] = count(); }}"
    );
    let mut tracer = bpftrace(&program, lab.dir())?;
    let _server = BlockingServer::v4(&lab.server, port, Mode::KeepAlive)?;
    lab.relay().set(
        Direction::Down,
        Shape {
            lose_every: 40,
            ..DISTANT
        },
    );
    let before = tcp_counts(&lab.server)?;
    let told = exchanges(&watched, port)?;
    let after = tcp_counts(&lab.server)?;
    let told: u64 = told
        .iter()
        .map(|d| u64::from(d.retrans_fast + d.retrans_rto + d.retrans_tlp))
        .sum();
    tracer.stop(Signal::SIGINT)?;
    let log = tracer.log();
    let counted = |name: &str| -> Result<u64> {
        let line = log.lines().find_map(|line| line.strip_prefix(name));
        let line = line.with_context(|| format!("no {name} in {log}"))?;
        Ok(line.trim_start_matches(':').trim().parse()?)
    };
    assert_eq!(counted("@state[1]")?, 2, "sessions established: {log}");
    assert_eq!(counted("@state[7]")?, 2, "sessions closed: {log}");
    assert!(counted("@segments")? > 20, "{log}");
    let made = after.retrans_segs - before.retrans_segs;
    assert!(made > 0, "nothing was lost");
    assert_eq!(counted("@again")?, made, "{log}");
    // A lost FIN belongs to no delivery.
    assert!(told <= made && made - told <= 2, "{told} of {made}");
    Ok(())
}

#[test]
fn agents_that_add_their_flags_keep_them_and_so_does_weir() -> Result<()> {
    let port = own_port(2);
    let lab = Lab::with_relay(DISTANT, 1)?;
    let attach = |flags| {
        Agent::attach(&cgroup_root()?, port, flags, Manner::Adds, Hold::Beside)
            .context("attaching another agent's program")
    };
    // One is there before weir and one comes after it, so that each runs on either side of it.
    let earlier = attach(RTT_FLAG)?;
    let watched = Watched::new(lab, &settings())?;
    let later = attach(STATE_FLAG | RTT_FLAG)?;
    let _server = BlockingServer::v4(&watched.lab.server, port, Mode::KeepAlive)?;
    let told = exchanges(&watched, port)?;
    assert!(all_exact(&told), "{told:?}");
    // To ESTABLISHED, CLOSE_WAIT, LAST_ACK, CLOSE, each of two sessions.
    wait_for("the last change of state", PATIENCE, || {
        Ok(later.callbacks(STATE_CB)? >= 8)
    })?;
    for agent in [&earlier, &later] {
        assert!(agent.callbacks(RTT_CB)? > 5, "no more callbacks");
        assert_eq!(agent.flags_gone()?, 0, "its own flags were taken away");
    }
    drop(earlier);
    drop(later);
    let told = exchanges(&watched, port)?;
    assert!(all_exact(&told), "{told:?}");
    Ok(())
}

#[test]
fn the_portable_programs_share_the_cgroup_with_agents_and_with_an_exact_weir() -> Result<()> {
    let port = own_port(7);
    let lab = Lab::with_relay(DISTANT, 1)?;
    let flags = STATE_FLAG | RTT_FLAG;
    let attach = || {
        Agent::attach(&cgroup_root()?, port, flags, Manner::Adds, Hold::Beside).context("an agent")
    };
    let earlier = attach()?;
    let portable = Settings {
        backend: Some("portable"),
        ..settings()
    };
    let watched = Watched::new(lab, &portable)?;
    let later = attach()?;
    let other = Daemon::start(&binary(), &watched.lab.dir().join("other"), &settings())?;
    let _server = BlockingServer::v4(&watched.lab.server, port, Mode::KeepAlive)?;
    let told = exchanges(&watched, port)?;
    for agent in [&earlier, &later] {
        wait_for("the last change of state", PATIENCE, || {
            Ok(agent.callbacks(STATE_CB)? >= 8)
        })?;
        assert!(agent.callbacks(RTT_CB)? > 5, "no more callbacks");
        assert_eq!(agent.flags_gone()?, 0, "its own flags were taken away");
    }
    let session = told.first().context("none")?.session;
    let by_portable = watched.daemon.sessions()?;
    let by_exact = other.sessions()?;
    for (backend, sessions) in [("portable", by_portable), ("exact", by_exact)] {
        let found = sessions.iter().find(|told| told.session == session);
        let found = found.with_context(|| format!("{backend} knows nothing of it"))?;
        assert_eq!(found.backend, backend);
        assert_eq!(found.deliveries, PATHS.len() as u64, "{found:?}");
    }
    Ok(())
}

#[test]
fn an_agent_that_replaces_all_flags_costs_precision_and_nothing_else() -> Result<()> {
    let port = own_port(3);
    let watched = Watched::distant()?;
    let rude = Agent::attach(
        &cgroup_root()?,
        port,
        RTT_FLAG,
        Manner::Replaces,
        Hold::Beside,
    )?;
    let _server = BlockingServer::v4(&watched.lab.server, port, Mode::KeepAlive)?;
    let told = exchanges(&watched, port)?;
    let half = told.last().context("none")?;
    assert!(half.end_bounded, "weir was not called, and yet: {half:?}");
    assert!(all_exact(&told[..PATHS.len() - 1]), "{told:?}");
    assert!(rude.callbacks(RTT_CB)? > 5, "no more callbacks");
    drop(rude);
    let told = exchanges(&watched, port)?;
    assert!(all_exact(&told), "{told:?}");
    Ok(())
}

#[test]
fn what_others_have_in_the_kernel_is_as_it_was_when_weir_has_gone() -> Result<()> {
    let port = own_port(4);
    let lab = Lab::with_relay(DISTANT, 1)?;
    let agent = Agent::attach(&cgroup_root()?, port, RTT_FLAG, Manner::Adds, Hold::Beside)?;
    let notes = Notes::new().context("another agent's socket storage")?;
    let listener = lab
        .server
        .run(move || Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?))?;
    let client = lab.client.run(move || Connection::open(v4(port)))?;
    let (mut accepted, _) = listener.accept()?;
    notes.put(&accepted, 4711)?;
    let session = cookie(&accepted)?;
    let mine = kernel_objects(std::process::id())?;
    assert!(mine.len() >= 3, "a program and two maps: {mine:?}");
    let id = u64::from(agent.id()?);
    assert!(attached()?.contains(&id));

    let mut watched = Watched::new(lab, &settings())?;
    wait_for("weir to adopt the session", PATIENCE, || {
        Ok(watched
            .daemon
            .sessions()?
            .iter()
            .any(|s| s.adopted && s.session == session))
    })?;
    watched.daemon.process().signal(Signal::SIGKILL)?;
    watched.daemon.process().wait(PATIENCE)?;
    assert_eq!(still_there(&mine)?.len(), mine.len(), "{mine:?}");
    assert_eq!(notes.get(&accepted)?, 4711, "another's socket storage");
    assert_eq!(cookie(&accepted)?, session);
    let before = agent.callbacks(RTT_CB)?;
    accepted.write_all(b"still here")?;
    wait_for("another's callback", PATIENCE, || {
        Ok(agent.callbacks(RTT_CB)? > before)
    })?;
    drop(client);
    assert!(attached()?.contains(&id), "{:?}", attached()?);
    Ok(())
}

/// A weir whose cgroup root is a cgroup of the test's own, so that what is done there concerns no
/// other on this host: a script in weir's place.
struct Apart {
    cgroup: PathBuf,
    script: PathBuf,
}

impl Apart {
    fn new(lab: &Lab) -> Result<Self> {
        let root = cgroup_root()?;
        let name = lab.dir().file_name().context("a lab without a name")?;
        let cgroup = root.join(name);
        fs::create_dir(&cgroup).with_context(|| format!("cannot make {}", cgroup.display()))?;
        let script = lab.dir().join("weir-apart");
        // What its own cgroup namespace mounts is rooted at its cgroup.
        let text = format!(
            "#!/bin/sh\necho $$ > {0}/cgroup.procs\nexec unshare --cgroup --mount sh -c \
             'umount {1} && mount -t cgroup2 none {1} && exec {2} \"$@\"' weir \"$@\"\n",
            cgroup.display(),
            root.display(),
            binary().display()
        );
        fs::write(&script, text)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        Ok(Self { cgroup, script })
    }

    /// Attaches an agent's program at this weir's root.
    fn agent(&self, port: u16, hold: Hold) -> io::Result<Agent> {
        Agent::attach(&self.cgroup, port, RTT_FLAG, Manner::Adds, hold)
    }

    /// What doctor says of the `sock_ops` program: its verdict and the reason.
    fn doctor(&self) -> Result<(String, String)> {
        let exact = doctor(&self.script)?.rungs.swap_remove(0);
        let probe = exact
            .probes
            .into_iter()
            .find(|p| p.name == "cgroup/sock_ops");
        let probe = probe.context("not probed")?;
        Ok((probe.verdict, probe.reason))
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        // A process that has been killed leaves its cgroup a moment later.
        let _ = wait_for("the cgroup to be empty", PATIENCE, || {
            Ok(fs::remove_dir(&self.cgroup).is_ok())
        });
    }
}

#[test]
fn an_agent_that_holds_the_cgroup_alone_is_named_and_weir_measures_without_it() -> Result<()> {
    let lab = Lab::with_relay(DISTANT, 1)?;
    let port = own_port(5);
    let apart = Apart::new(&lab)?;
    assert_eq!(apart.doctor()?.0, "ok");
    let alone = apart.agent(port, Hold::Alone)?;
    let id = alone.id()?;
    let (verdict, reason) = apart.doctor()?;
    assert_eq!(verdict, "broken", "{reason}");
    assert!(
        reason.contains(&format!("program {id} holds")),
        "who is it? {reason}"
    );

    let mut watched = Watched::with_binary(lab, &apart.script, &settings())?;
    let _server = BlockingServer::v4(&watched.lab.server, port, Mode::KeepAlive)?;
    let told = exchanges(&watched, port)?;
    let half = told.last().context("none")?;
    assert!(half.end_bounded, "weir was not called, and yet: {half:?}");
    assert!(all_exact(&told[..PATHS.len()]), "{told:?}");
    assert_eq!(alone.id()?, id);
    drop(alone);
    assert_eq!(apart.doctor()?.0, "ok");
    watched.daemon.stop()?;
    drop(watched);
    Ok(())
}

#[test]
fn agents_may_come_and_go_and_none_can_take_the_cgroup_for_itself() -> Result<()> {
    let lab = Lab::with_relay(DISTANT, 1)?;
    let port = own_port(6);
    let apart = Apart::new(&lab)?;
    let mut watched = Watched::with_binary(lab, &apart.script, &settings())?;
    let _server = BlockingServer::v4(&watched.lab.server, port, Mode::KeepAlive)?;
    let refused = apart.agent(port, Hold::Alone).map(drop);
    let refused = refused.expect_err("weir is there already");
    assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    let client = {
        let inside = &watched.lab.client;
        inside.spawn("client", move || {
            client::keep_alive(v4(port), &["/f/100000"; 8], Duration::ZERO)
        })?
    };
    let mut visits = 0;
    while !client.is_finished() {
        drop(apart.agent(port, Hold::Beside)?);
        visits += 1;
    }
    assert!(visits > 0);
    let seen = join(client)?;
    let (_, told) = watched.deliveries(v4(port), seen.port)?;
    assert_eq!(told.len(), 8, "{told:?}");
    for delivery in &told {
        assert_eq!(delivery.acked_bytes, answer_bytes(100_000), "{delivery:?}");
    }
    assert!(all_exact(&told[..7]), "{told:?}");
    watched.daemon.stop()?;
    drop(watched);
    Ok(())
}
