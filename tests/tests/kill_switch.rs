//! The kill switch on a real daemon: while the file is there, nothing of weir is in the kernel.

use anyhow::{Context as _, Result};
use weir_tests::lab::client::Connection;
use weir_tests::lab::link::Lab;
use weir_tests::lab::netns::join;
use weir_tests::lab::nginx::{CLEAR, Nginx};
use weir_tests::lab::process::wait_for;
use weir_tests::record::Session;
use weir_tests::watched::{
    DISTANT, PATIENCE, Watched, binary, kernel_objects, settings, still_there, v4,
};
use weir_tests::weir::{Collector, Daemon, Settings};

fn switched(lab: &Lab) -> Settings {
    Settings {
        first: format!("kill_switch = \"{}\"", lab.dir().join("off").display()),
        ..settings()
    }
}

#[test]
fn while_it_is_on_nothing_is_in_the_kernel_and_after_it_sessions_are_adopted_and_counts_go_on()
-> Result<()> {
    let lab = Lab::with_relay(DISTANT, 1)?;
    let collector = Collector::anywhere(&binary(), &lab.dir().join("collector"))?;
    let settings = Settings {
        collector: Some(collector.url()),
        ..switched(&lab)
    };
    let switch = lab.dir().join("off");
    let mut watched = Watched::new(lab, &settings)?;
    let _nginx = Nginx::start(&watched.lab)?;
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (tell, told) = std::sync::mpsc::channel();
    let client = watched.lab.client.spawn("client", move || {
        let mut connection = Connection::open(v4(CLEAR))?;
        for _ in 0..2 {
            connection.ask(&["/f/30000"], "1.1")?;
            connection.answer()?;
            tell.send(connection.port()?)?;
            wait.recv()?;
        }
        Ok(())
    })?;
    let port = told.recv().context("the client did not connect")?;
    let of_client = |daemon: &Daemon| -> Result<Option<Session>> {
        let sessions = daemon.sessions()?.into_iter();
        let mut ours = sessions.filter(|session| session.endpoints.remote_port == port);
        Ok(ours.next())
    };
    wait_for("the first delivery", PATIENCE, || {
        Ok(of_client(&watched.daemon)?.is_some_and(|session| session.deliveries == 1))
    })?;
    let pid = watched.daemon.process().id();
    let objects = kernel_objects(pid)?;
    assert!(
        objects.iter().any(|(kind, _)| kind == "prog"),
        "{objects:?}"
    );
    let before = watched.daemon.status()?.losses;

    std::fs::write(&switch, "")?;
    wait_for("the kernel to be clean", PATIENCE, || {
        Ok(still_there(&objects)?.is_empty())
    })
    .with_context(|| format!("{:?}\n{}", still_there(&objects), watched.daemon.log()))?;
    wait_for("weir to say so", PATIENCE, || {
        Ok(watched.daemon.status()?.off.contains("kill switch"))
    })?;
    wait_for("the collector to know", PATIENCE, || {
        let hosts = collector.hosts()?;
        Ok(hosts.len() == 1 && hosts[0].off.contains("kill switch"))
    })?;
    assert!(kernel_objects(pid)?.is_empty());
    let off = watched.daemon.status()?.losses;
    assert!(off.reconcile(), "{off:?}");
    assert!(off.bulk.seen > before.bulk.seen, "no session was dismissed");
    let dismissed = of_client(&watched.daemon)?.context("the session is forgotten")?;
    assert_eq!(
        (dismissed.state.as_str(), dismissed.ended.as_str()),
        ("ended", "other")
    );
    assert!(dismissed.acked_bytes > 30_000, "{dismissed:?}");

    std::fs::remove_file(&switch)?;
    wait_for("the session to be adopted", PATIENCE, || {
        Ok(of_client(&watched.daemon)?.is_some_and(|session| session.state != "ended"))
    })
    .with_context(|| watched.daemon.log())?;
    assert!(watched.daemon.status()?.off.is_empty());
    wait_for("the collector to know", PATIENCE, || {
        let hosts = collector.hosts()?;
        Ok(hosts.len() == 1 && hosts[0].off.is_empty())
    })?;
    let objects = kernel_objects(pid)?;
    assert!(
        objects.iter().any(|(kind, _)| kind == "prog"),
        "{objects:?}"
    );
    go.send(())?;
    told.recv().context("the second answer did not come")?;
    wait_for("the second delivery", PATIENCE, || {
        Ok(of_client(&watched.daemon)?
            .is_some_and(|session| session.adopted && session.deliveries == 1))
    })?;
    let after = watched.daemon.status()?.losses;
    assert!(after.reconcile(), "{after:?}");
    assert!(after.sessions_tracked > off.sessions_tracked);
    assert!(after.bulk.seen >= off.bulk.seen && after.hot.seen >= off.hot.seen);
    go.send(())?;
    join(client)
}

#[test]
fn a_daemon_started_while_it_is_on_loads_nothing_until_it_is_gone() -> Result<()> {
    let lab = Lab::with_relay(DISTANT, 1)?;
    let settings = switched(&lab);
    let switch = lab.dir().join("off");
    std::fs::write(&switch, "")?;
    let dir = lab.dir().join("weir");
    let log = dir.join("weir.log");
    // The daemon belongs to the thread that starts it.
    let release = std::thread::spawn(move || {
        wait_for("weir to say that it waits", PATIENCE, || {
            Ok(std::fs::read_to_string(&log).is_ok_and(|log| log.contains("measures again once")))
        })?;
        std::fs::remove_file(&switch).context("the switch is gone already")
    });
    let mut daemon = Daemon::start(&binary(), &dir, &settings)?;
    join(release)?;
    let log = daemon.log();
    let (waited, measured) = (log.find("off: the kill switch"), log.find("measuring"));
    assert!(waited.is_some() && waited < measured, "{log}");
    assert!(daemon.status()?.off.is_empty());
    assert!(daemon.stop()?.success());
    Ok(())
}
