//! The kernel gate on another kernel: what must hold of it, over real sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use crate::gate::crowd::{self, all_call, gather};
use crate::gate::holder::{Holder, Made, Setting};
use crate::gate::teller::{Teller, Then};
use crate::lab::client::Connection;
use crate::lab::link::Lab;
use crate::lab::process::wait_for;
use crate::lab::server::{BlockingServer, Mode};
use crate::record::Probe;
use crate::watched::{PATIENCE, binary, kernel_objects, still_there, v4, v6};

const PORT: u16 = 9100;
const CAPPED: u16 = 9101;
const OTHER: u16 = 9190;
const USUAL: u8 = b'u';
const TURNED: u8 = b't';
/// Enough that the share of a half is known to some points, and few for an emulated machine.
const CROWD: u32 = 400;
const LONG: Duration = Duration::from_secs(600);

/// Lab, servers, and a gate at which nothing is held.
pub(super) struct Stand {
    holder: Holder,
    _servers: Vec<Teller>,
    _capped: BlockingServer,
    lab: Lab,
}

/// Whether it holds, and what was seen.
type Check = fn(&mut Stand) -> Result<String>;

/// What must hold, in order: the last one ends the gate.
pub(super) const CHECKS: [(&str, Check); 5] = [
    ("turning", turning),
    ("networks", networks),
    ("cap", cap),
    ("lease", lease),
    ("sigkill", sigkill),
];

/// Whether it can be had, by the doctor's word.
pub(super) fn doctor(probes: &[Probe]) -> Result<String> {
    ensure!(!probes.is_empty(), "says nothing of the gate");
    let bad = probes.iter().filter(|probe| probe.verdict != "ok");
    let bad: Vec<_> = bad
        .map(|probe| format!("{}: {} ({})", probe.name, probe.reason, probe.lost))
        .collect();
    ensure!(bad.is_empty(), "{}", bad.join("; "));
    Ok(String::new())
}

impl Stand {
    pub(super) fn new() -> Result<Self> {
        let lab = Lab::with_veth()?;
        gather(&lab)?;
        let others: Vec<SocketAddr> = vec![
            (Ipv4Addr::LOCALHOST, OTHER).into(),
            (Ipv6Addr::LOCALHOST, OTHER).into(),
        ];
        let any: SocketAddr = (Ipv6Addr::UNSPECIFIED, PORT).into();
        let mut servers = vec![Teller::start(&lab.server, any, USUAL, Then::Closes)?];
        for address in &others {
            servers.push(Teller::start(&lab.server, *address, TURNED, Then::Closes)?);
        }
        let capped = BlockingServer::dual(&lab.server, CAPPED, Mode::KeepAlive)?;
        let made = Made {
            ports: vec![PORT, CAPPED],
            others,
            ..Made::default()
        };
        let holder = Holder::start(&binary(), &lab.server, &made)?;
        Ok(Self {
            holder,
            _servers: servers,
            _capped: capped,
            lab,
        })
    }

    /// How many of so many clients are turned.
    fn turned(&self, address: fn(u32) -> IpAddr, count: u32) -> Result<usize> {
        let from: Vec<_> = (1..=count).map(address).collect();
        let to = if from[0].is_ipv4() {
            v4(PORT)
        } else {
            v6(PORT)
        };
        let calls = all_call(&self.lab, &from, to)?;
        ensure!(calls.len() == from.len(), "not all were answered");
        Ok(calls.iter().filter(|call| call.by == TURNED).count())
    }
}

fn turning(stand: &mut Stand) -> Result<String> {
    let mut said = Vec::new();
    for address in [crowd::v4 as fn(u32) -> IpAddr, crowd::v6] {
        for permille in [0, 500, 1000] {
            stand.holder.acquire(&[Setting::turning(permille)], LONG)?;
            let turned = stand.turned(address, CROWD)?;
            let is_it = match permille {
                0 => turned == 0,
                1000 => turned == CROWD as usize,
                // Five standard deviations.
                _ => turned.abs_diff(CROWD as usize / 2) <= 50,
            };
            ensure!(is_it, "{turned} of {CROWD} at {permille} permille");
            said.push(turned.to_string());
        }
    }
    Ok(format!("{} of {CROWD}", said.join(", ")))
}

fn networks(stand: &mut Stand) -> Result<String> {
    let position = [
        Setting::turning(1000),
        Setting::turning(0).of("10.80.0.0/16"),
        Setting::turning(0).of("fd80::/120"),
    ];
    stand.holder.acquire(&position, LONG)?;
    let beside = |n| crowd::v4((1 << 16) + n);
    let turned = (
        stand.turned(crowd::v4, 50)?,
        stand.turned(beside, 50)?,
        // 255 of them are spared.
        stand.turned(crowd::v6, 300)?,
    );
    ensure!(turned == (0, 50, 45), "turned {turned:?}");
    Ok(String::new())
}

fn cap(stand: &mut Stand) -> Result<String> {
    const PATH: &str = "/f/500000";
    let timed = |lab: &Lab| {
        lab.client.run(|| {
            let mut connection = Connection::open(v4(CAPPED))?;
            let began = Instant::now();
            connection.ask(&[PATH], "1.1")?;
            connection.answer()?;
            Ok(began.elapsed())
        })
    };
    stand.holder.release()?;
    let free = timed(&stand.lab)?;
    let position = [Setting::turning(0).capped(2_000_000)];
    stand.holder.acquire(&position, LONG)?;
    let capped = timed(&stand.lab)?;
    let ideal = Duration::from_secs(2);
    ensure!(
        capped > ideal.mul_f64(0.85) && free < ideal / 2,
        "took {free:?} free and {capped:?} capped"
    );
    Ok(format!("{free:?} free, {capped:?} capped"))
}

fn lease(stand: &mut Stand) -> Result<String> {
    const LEASE: Duration = Duration::from_secs(3);
    let acquired = stand.holder.acquire(&[Setting::turning(1000)], LEASE)?;
    stand.holder.process().signal(Signal::SIGSTOP)?;
    let end = acquired.called_boot_ns + u64::try_from(LEASE.as_nanos())?;
    let (mut held, mut open) = (0, 0);
    let give_up = Instant::now() + PATIENCE;
    while open < 20 && Instant::now() < give_up {
        for call in all_call(&stand.lab, &[crowd::v4(3)], v4(PORT))? {
            if call.connected_boot_ns < end {
                ensure!(call.by == TURNED, "open early");
                held += 1;
            } else if call.began_boot_ns >= end {
                ensure!(call.by == USUAL, "held late");
                open += 1;
            }
        }
    }
    stand.holder.process().signal(Signal::SIGCONT)?;
    ensure!(held > 0 && open >= 20, "{held} calls before, {open} after");
    Ok(format!("{held} calls before the end, {open} after"))
}

fn sigkill(stand: &mut Stand) -> Result<String> {
    stand.holder.acquire(&[Setting::turning(1000)], LONG)?;
    ensure!(stand.turned(crowd::v4, 1)? == 1, "not turned");
    let objects = kernel_objects(stand.holder.process().id())?;
    stand.holder.process().signal(Signal::SIGKILL)?;
    stand.holder.process().wait(PATIENCE)?;
    ensure!(stand.turned(crowd::v4, 50)? == 0, "turned by nobody");
    wait_for("the kernel to be clean", PATIENCE, || {
        Ok(still_there(&objects)?.is_empty())
    })
    .with_context(|| format!("{:?}", still_there(&objects)))?;
    Ok(format!("{} objects are gone", objects.len()))
}
