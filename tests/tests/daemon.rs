//! The daemon as a process: signals, who may ask, filters, and what it leaves in the kernel.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use weir_tests::lab::client::{self, Connection};
use weir_tests::lab::link::Lab;
use weir_tests::lab::netns::join;
use weir_tests::lab::nginx::{CLEAR, COPY, Nginx};
use weir_tests::lab::process::{ended_by, wait_for};
use weir_tests::watched::{
    DISTANT, PATIENCE, Watched, binary, kernel_objects, settings, still_there, v4,
};
use weir_tests::weir::{Daemon, Settings};

#[test]
fn sigterm_ends_it_cleanly_and_leaves_nothing_in_the_kernel() -> Result<()> {
    let mut watched = Watched::distant()?;
    let objects = kernel_objects(watched.daemon.process().id())?;
    assert!(
        objects.iter().any(|(kind, _)| kind == "prog"),
        "no programs loaded: {objects:?}"
    );
    let socket = watched.daemon.socket().to_owned();
    let status = watched.daemon.stop()?;
    assert!(status.success(), "{status}: {}", watched.daemon.log());
    assert!(!socket.exists(), "the socket is still there");
    wait_for("the kernel to be clean", PATIENCE, || {
        Ok(still_there(&objects)?.is_empty())
    })
    .with_context(|| format!("{:?}", still_there(&objects)))
}

#[test]
fn after_sigkill_under_load_the_kernel_is_clean_and_a_restart_adopts_the_sessions() -> Result<()> {
    let mut watched = Watched::distant()?;
    let _nginx = Nginx::start(&watched.lab)?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    let mut ports = Vec::new();
    for _ in 0..8 {
        let stop = Arc::clone(&stop);
        let (tell, told) = std::sync::mpsc::channel();
        clients.push(watched.lab.client.spawn("client", move || {
            let mut connection = Connection::open(v4(CLEAR))?;
            tell.send(connection.port()?)?;
            while !stop.load(Ordering::Acquire) {
                connection.ask(&["/f/100000"], "1.1")?;
                connection.answer()?;
            }
            Ok(())
        })?);
        ports.push(told.recv().context("a client did not connect")?);
    }
    let of_ours = |daemon: &Daemon| -> Result<Vec<_>> {
        let mut sessions = daemon.sessions()?;
        sessions.retain(|session| {
            session.endpoints.is_in(watched.netns) && ports.contains(&session.endpoints.remote_port)
        });
        Ok(sessions)
    };
    wait_for("deliveries under load", PATIENCE, || {
        let sessions = of_ours(&watched.daemon)?;
        Ok(sessions.len() == 8 && sessions.iter().all(|session| session.deliveries > 2))
    })?;

    let objects = kernel_objects(watched.daemon.process().id())?;
    watched.daemon.process().signal(Signal::SIGKILL)?;
    let status = watched.daemon.process().wait(PATIENCE)?;
    assert!(ended_by(status, Signal::SIGKILL));
    wait_for("the kernel to be clean", PATIENCE, || {
        Ok(still_there(&objects)?.is_empty())
    })
    .with_context(|| format!("{:?}", still_there(&objects)))?;

    let daemon = Daemon::start(&binary(), &watched.lab.dir().join("again"), &settings())?;
    let mut sessions = Vec::new();
    wait_for("the sessions to be adopted and measured", PATIENCE, || {
        sessions = of_ours(&daemon)?;
        Ok(sessions.len() == 8 && sessions.iter().all(|session| session.deliveries > 2))
    })
    .with_context(|| daemon.log())?;
    assert!(
        sessions.iter().all(|session| session.adopted),
        "{sessions:?}"
    );
    stop.store(true, Ordering::Release);
    for client in clients {
        join(client)?;
    }
    Ok(())
}

#[test]
fn filters_change_on_sighup_without_reloading_the_programs() -> Result<()> {
    let lab = Lab::with_relay(DISTANT, 1)?;
    let first = Settings {
        ports: vec![CLEAR],
        ..settings()
    };
    let mut watched = Watched::new(lab, &first)?;
    let _nginx = Nginx::start(&watched.lab)?;
    let objects = kernel_objects(watched.daemon.process().id())?;
    let visit = |port: u16| {
        watched
            .lab
            .client
            .run(move || client::keep_alive(v4(port), &["/f/500"], Duration::ZERO))
    };
    let measured = |watched: &Watched| -> Vec<u16> {
        watched
            .follower
            .seen(|delivery| delivery.endpoints.is_in(watched.netns))
            .iter()
            .map(|delivery| delivery.endpoints.local_port)
            .collect()
    };
    visit(COPY)?;
    let seen = visit(CLEAR)?;
    watched.deliveries(v4(CLEAR), seen.port)?;
    assert_eq!(measured(&watched), [CLEAR]);

    watched.daemon.reload(&Settings {
        ports: vec![COPY],
        ..settings()
    })?;
    visit(CLEAR)?;
    let seen = visit(COPY)?;
    watched.deliveries(v4(COPY), seen.port)?;
    assert_eq!(measured(&watched), [CLEAR, COPY]);

    // A client's prefix that no client of the lab has.
    let nobody = Settings {
        prefixes: vec!["192.0.2.0/24".into()],
        ..settings()
    };
    watched.daemon.reload(&nobody)?;
    visit(COPY)?;
    // A session that is still open would be adopted.
    watched.lab.server.wait_until_closed(COPY)?;
    let all = Settings {
        prefixes: vec!["10.77.0.0/16".into()],
        ..settings()
    };
    watched.daemon.reload(&all)?;
    let seen = visit(CLEAR)?;
    watched.deliveries(v4(CLEAR), seen.port)?;
    assert_eq!(measured(&watched), [CLEAR, COPY, CLEAR]);

    let programs = |objects: &std::collections::BTreeSet<(String, u32)>| -> Vec<u32> {
        objects
            .iter()
            .filter(|(kind, _)| kind == "prog")
            .map(|(_, id)| *id)
            .collect()
    };
    let after = kernel_objects(watched.daemon.process().id())?;
    assert_eq!(programs(&objects), programs(&after));
    Ok(())
}

#[test]
fn a_file_with_a_mistake_is_refused_and_the_old_settings_stay() -> Result<()> {
    let mut watched = Watched::distant()?;
    let before = watched.daemon.status()?.config_generation;
    let wrong = Settings {
        more: "[filtre]\nports = [1]\n".into(),
        ..settings()
    };
    assert!(watched.daemon.reload(&wrong).is_err());
    assert!(
        watched.daemon.process().try_wait()?.is_none(),
        "it ended: {}",
        watched.daemon.log()
    );
    assert_eq!(watched.daemon.status()?.config_generation, before);
    assert!(
        watched.daemon.log().contains("filtre"),
        "{}",
        watched.daemon.log()
    );
    Ok(())
}

#[test]
fn only_users_that_the_configuration_names_may_ask() -> Result<()> {
    const NAMED: u32 = 61_001;
    const OTHER: u32 = 61_002;
    let lab = Lab::with_relay(DISTANT, 1)?;
    let named = format!("[query]\nallow_users = [{NAMED}]\n");
    let watched = Watched::new(
        lab,
        &Settings {
            more: named,
            ..settings()
        },
    )?;
    // The build's directory may be closed to others.
    let program = watched.lab.dir().join("weir-for-all");
    std::fs::copy(binary(), &program).context("cannot copy weir")?;
    for path in [
        &program,
        &watched.lab.dir().to_owned(),
        &watched.lab.dir().join("weir"),
    ] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    }
    let ask = |uid: u32| {
        Command::new(&program)
            .args(["status", "-o", "json", "--socket"])
            .arg(watched.daemon.socket())
            .stdin(Stdio::null())
            .current_dir("/")
            .uid(uid)
            .gid(uid)
            .output()
            .context("cannot run weir as another user")
    };
    let answered = ask(NAMED)?;
    assert!(
        answered.status.success(),
        "{}",
        String::from_utf8_lossy(&answered.stderr)
    );
    let refused = ask(OTHER)?;
    assert!(!refused.status.success(), "another user was answered");
    assert!(refused.stdout.is_empty());
    let words = String::from_utf8_lossy(&refused.stderr).to_lowercase();
    assert!(
        words.contains("refused") && words.contains(&OTHER.to_string()),
        "{words}"
    );
    Ok(())
}
