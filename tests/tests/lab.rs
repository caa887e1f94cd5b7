//! The lab itself: a lab that leaves something behind, or whose losses are not what it says,
//! proves nothing.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;
use weir_tests::lab::client;
use weir_tests::lab::counters::tcp_counts;
use weir_tests::lab::link::{Lab, SERVER_V4};
use weir_tests::lab::nginx::{CLEAR, Nginx};
use weir_tests::lab::process::{Process, wait_for};
use weir_tests::lab::relay::Direction;
use weir_tests::lab::shaper::Shape;

const PATIENCE: Duration = Duration::from_secs(20);

fn traces(pid: u32) -> Vec<String> {
    let prefix = format!("weir-lab-{pid}-");
    ["/run/netns".into(), std::env::temp_dir()]
        .iter()
        .filter_map(|dir: &std::path::PathBuf| std::fs::read_dir(dir).ok())
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix))
        .collect()
}

fn truth(only: &str, log: &Path) -> Result<Process> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_truth"));
    let out = log.with_extension("out");
    command
        .args(["--witnesses", "--only", only, "--out"])
        .arg(out);
    Process::spawn(command, None, log)
}

#[test]
fn every_packet_that_the_link_loses_is_sent_again_by_the_kernel() -> Result<()> {
    let shape = Shape {
        delay_ns: 5_000_000,
        lose_every: 100,
        ..Shape::default()
    };
    let lab = Lab::with_relay(
        Shape {
            lose_every: 0,
            ..shape
        },
        1,
    )?;
    let _nginx = Nginx::start(&lab)?;
    lab.relay().set(Direction::Down, shape);
    let address = (SERVER_V4, CLEAR).into();
    lab.client
        .run(move || client::keep_alive(address, &["/f/4000000"], Duration::ZERO))?;
    let counts = lab.relay().counts(Direction::Down);
    assert!(counts.lost_every >= 20, "{counts:?}");
    assert_eq!(counts.lost(), counts.lost_every);
    // A probe of the tail may be sent for nothing; nothing lost goes unsent.
    let sent_again = tcp_counts(&lab.server)?.retrans_segs;
    assert!(
        (counts.lost_every..=counts.lost_every + 2).contains(&sent_again),
        "lost {}, sent again {sent_again}",
        counts.lost_every
    );
    Ok(())
}

#[test]
fn a_lab_can_be_dropped_before_what_runs_in_it() -> Result<()> {
    let lab = Lab::with_relay(Shape::default(), 1)?;
    let name = lab.server.name().to_owned();
    let _nginx = Nginx::start(&lab)?;
    let dropped = std::thread::spawn(move || drop(lab));
    wait_for("the lab to go", PATIENCE, || Ok(dropped.is_finished()))?;
    assert!(!Path::new("/run/netns").join(name).exists());
    Ok(())
}

#[test]
fn a_lab_is_gone_when_it_is_dropped() -> Result<()> {
    let lab = Lab::with_veth()?;
    let (name, dir) = (lab.server.name().to_owned(), lab.dir().to_owned());
    let nginx = Nginx::start(&lab)?;
    let pid = nginx.id();
    drop((nginx, lab));
    assert!(!Path::new("/run/netns").join(name).exists());
    assert!(!dir.exists());
    assert!(!Path::new("/proc").join(pid.to_string()).exists());
    Ok(())
}

#[test]
fn a_lab_is_gone_after_sigterm_and_swept_up_after_sigkill() -> Result<()> {
    let dir = tempfile::tempdir()?;
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let mut process = truth("keep-alive 3% 40ms", &dir.path().join("first.log"))?;
        let pid = process.id();
        wait_for("the lab to be up", PATIENCE, || Ok(traces(pid).len() >= 3))?;
        process.signal(signal)?;
        process.wait(PATIENCE)?;
        if signal == Signal::SIGKILL {
            assert!(!traces(pid).is_empty(), "nothing was left to sweep up");
            // A child that the run was about to start holds its lock until it is what it shall be.
            wait_for("a later run to sweep up", PATIENCE, || {
                let mut next = truth("no such scenario", &dir.path().join("next.log"))?;
                next.wait(PATIENCE)?;
                Ok(traces(pid).is_empty())
            })?;
        }
        assert_eq!(traces(pid), Vec::<String>::new(), "after {signal}");
    }
    Ok(())
}
