//! The kernel gate over real sockets: who is turned, who is left alone, and that nothing holds once
//! its lease is over or its holder is gone.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::json;
use weir_tests::gate::crowd::{self, Call, all_call, ask, call, gather, now_boot_ns};
use weir_tests::gate::holder::{Holder, Made, Setting};
use weir_tests::gate::teller::{Teller, Then};
use weir_tests::lab::client::Connection;
use weir_tests::lab::link::Lab;
use weir_tests::lab::netns::join;
use weir_tests::lab::nginx::{Nginx, preamble};
use weir_tests::lab::process::{output, wait_for};
use weir_tests::lab::server::{BlockingServer, Mode};
use weir_tests::watched::{PATIENCE, binary, kernel_objects, still_there, v4, v6};
use weir_tests::weir::doctor;

/// What clients call.
const PORT: u16 = 8080;
/// What they are turned to.
const OTHER: u16 = 8090;
const USUAL: u8 = b'u';
const TURNED: u8 = b't';
/// Longer than any of these tests.
const LONG: Duration = Duration::from_secs(600);
/// Enough that a point is four standard deviations at the worst share.
const CROWD: u32 = 40_000;

fn anywhere(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

fn others() -> Vec<SocketAddr> {
    vec![
        (Ipv4Addr::LOCALHOST, OTHER).into(),
        (Ipv6Addr::LOCALHOST, OTHER).into(),
    ]
}

fn made() -> Made {
    Made {
        ports: vec![PORT],
        others: others(),
        ..Made::default()
    }
}

/// A lab with a usual server and another on loopback, for both families.
struct Scene {
    _servers: Vec<Teller>,
    other: Vec<Teller>,
    lab: Lab,
}

impl Scene {
    fn new(then: Then) -> Result<Self> {
        let lab = Lab::with_veth()?;
        gather(&lab)?;
        let usual = Teller::start(&lab.server, anywhere(PORT), USUAL, then)?;
        let other = others()
            .into_iter()
            .map(|address| Teller::start(&lab.server, address, TURNED, then))
            .collect::<Result<_>>()?;
        Ok(Self {
            _servers: vec![usual],
            other,
            lab,
        })
    }

    fn holder(&self, made: &Made) -> Result<Holder> {
        Holder::start(&binary(), &self.lab.server, made)
    }

    fn call(&self, from: &[IpAddr]) -> Result<Vec<Call>> {
        let to = if from.first().is_some_and(IpAddr::is_ipv6) {
            v6(PORT)
        } else {
            v4(PORT)
        };
        all_call(&self.lab, from, to)
    }

    /// Who answers one client.
    fn who(&self) -> Result<u8> {
        Ok(self.call(&[crowd::v4(1)])?[0].by)
    }
}

fn turned(calls: &[Call]) -> u64 {
    calls.iter().filter(|call| call.by == TURNED).count() as u64
}

fn clients(calls: &[Call]) -> BTreeSet<IpAddr> {
    let turned = calls.iter().filter(|call| call.by == TURNED);
    turned.map(|call| call.from.ip()).collect()
}

/// Whether a share is within one point of what was ordered.
fn ensure_share(what: &str, calls: &[Call], permille: u16) -> Result<()> {
    let share = turned(calls) as f64 * 1000.0 / calls.len() as f64;
    println!(
        "{what}: {} calls, ordered {permille} permille, turned {share:.2}",
        calls.len()
    );
    let exact = permille.is_multiple_of(1000);
    let off = (share - f64::from(permille)).abs();
    ensure!(
        off <= if exact { 0.0 } else { 10.0 },
        "{what}: {share} permille were turned, not {permille}"
    );
    Ok(())
}

/// Orders a share, has everybody call, and holds the gate's counts to what the clients heard.
fn ordered(
    scene: &Scene,
    holder: &mut Holder,
    permille: u16,
    from: &[IpAddr],
) -> Result<Vec<Call>> {
    let before = holder.of_all()?;
    holder.acquire(&[Setting::turning(permille)], LONG)?;
    let calls = scene.call(from)?;
    let after = holder.of_all()?;
    let (seen, counted) = (after.seen - before.seen, after.turned - before.turned);
    // Neutral: no rule.
    let called = if permille == 0 { 0 } else { calls.len() as u64 };
    // A SYN that is sent again is looked up again, and so is what comes after a connection is gone.
    let strays = called / 1000 + 1;
    ensure!(
        (called..=called + strays).contains(&seen)
            && (turned(&calls)..=turned(&calls) + strays).contains(&counted)
            && after.could_not + after.left_to_others + after.expired == 0,
        "of {called} calls {} were turned, counted {seen} and {counted}: {after:?}",
        turned(&calls)
    );
    Ok(calls)
}

#[test]
fn each_share_of_clients_is_turned_and_those_of_a_share_are_among_those_of_a_larger_one()
-> Result<()> {
    let scene = Scene::new(Then::Closes)?;
    let mut holder = scene.holder(&made())?;
    for (family, address) in [
        ("IPv4", crowd::v4 as fn(u32) -> IpAddr),
        ("IPv6", crowd::v6),
    ] {
        let crowd: Vec<_> = (1..=CROWD).map(address).collect();
        let mut smaller = BTreeSet::new();
        for permille in [0, 100, 300, 500, 1000] {
            // The ends are exact: fewer do.
            let from = if permille % 1000 == 0 {
                &crowd[..10_000]
            } else if family == "IPv6" && permille != 300 {
                continue;
            } else {
                &crowd[..]
            };
            let calls = ordered(&scene, &mut holder, permille, from)?;
            ensure_share(&format!("{family} by client"), &calls, permille)?;
            let larger = clients(&calls);
            if permille < 1000 {
                ensure!(
                    smaller.is_subset(&larger),
                    "a client came back at {permille}"
                );
            }
            smaller = larger;
        }
    }
    // The same clients again, from other ports.
    let some: Vec<_> = (1..=2_000).map(crowd::v4).collect();
    let first = clients(&ordered(&scene, &mut holder, 300, &some)?);
    let again = clients(&ordered(&scene, &mut holder, 300, &some)?);
    ensure!(
        first == again && !first.is_empty(),
        "clients have changed sides"
    );
    Ok(())
}

#[test]
fn by_connection_a_share_of_each_clients_connections_is_turned() -> Result<()> {
    let scene = Scene::new(Then::Closes)?;
    let mut holder = scene.holder(&Made {
        by_connection: true,
        ..made()
    })?;
    let one: Vec<_> = (0..CROWD).map(|_| crowd::v4(7)).collect();
    for permille in [100, 500] {
        let calls = ordered(&scene, &mut holder, permille, &one)?;
        ensure_share("one client, by connection", &calls, permille)?;
    }
    Ok(())
}

#[test]
fn each_network_has_its_own_share_and_who_is_in_none_has_the_rest() -> Result<()> {
    let scene = Scene::new(Then::Closes)?;
    let mut holder = scene.holder(&made())?;
    let half = 1 << 15;
    let lower: Vec<_> = (0..20_000).map(crowd::v4).collect();
    let upper: Vec<_> = (half..half + 20_000).map(crowd::v4).collect();
    let outside: Vec<_> = (0..1000).map(|n| crowd::v4((1 << 16) + n)).collect();
    let sixth: Vec<_> = (1..1000).map(crowd::v6).collect();
    holder.acquire(
        &[
            Setting::turning(500).of("10.80.0.0/17"),
            Setting::turning(100).of("10.80.128.0/17"),
            // Spared within what is turned.
            Setting::turning(0).of("10.80.0.0/24"),
        ],
        LONG,
    )?;
    let calls = scene.call(&lower)?;
    let (spared, shared): (Vec<Call>, Vec<Call>) = calls
        .into_iter()
        .partition(|call| matches!(call.from.ip(), IpAddr::V4(ip) if ip.octets()[2] == 0));
    ensure!(
        spared.len() == 256 && turned(&spared) == 0,
        "the spared were turned"
    );
    ensure_share("a network", &shared, 500)?;
    ensure_share("the network beside it", &scene.call(&upper)?, 100)?;
    ensure_share("who is in neither", &scene.call(&outside)?, 0)?;
    ensure_share("IPv6", &scene.call(&sixth)?, 0)?;

    // Another position: every connection sees one or the other, and the old one is wholly gone.
    holder.acquire(&[Setting::turning(1000).of("fd80::/64")], LONG)?;
    ensure_share("IPv6, alone", &scene.call(&sixth)?, 1000)?;
    ensure_share("a network, after", &scene.call(&lower[..1000])?, 0)?;
    holder.acquire(
        &[Setting::turning(1000), Setting::turning(0).of("::/0")],
        LONG,
    )?;
    ensure_share("all but IPv6", &scene.call(&sixth)?, 0)?;
    ensure_share("all but IPv6", &scene.call(&lower[..1000])?, 1000)?;
    Ok(())
}

#[test]
fn while_positions_change_every_connection_sees_one_of_them() -> Result<()> {
    let scene = Scene::new(Then::Closes)?;
    let mut holder = scene.holder(&made())?;
    // Each of the two turns everybody, by other rules.
    let wide = vec![Setting::turning(1000)];
    let narrow: Vec<_> = ["0.0.0.0/1", "128.0.0.0/1", "10.80.0.0/16"]
        .iter()
        .map(|net| Setting::turning(1000).of(net))
        .collect();
    holder.acquire(&wide, LONG)?;
    let from: Vec<_> = (0..20_000).map(crowd::v4).collect();
    let lab = &scene.lab;
    let (changes, calls) = std::thread::scope(|scope| {
        let callers = scope.spawn(|| all_call(lab, &from, v4(PORT)));
        let mut changes = 0_u64;
        while !callers.is_finished() {
            let next = if changes.is_multiple_of(2) {
                &narrow
            } else {
                &wide
            };
            holder.acquire(next, LONG)?;
            changes += 1;
        }
        let calls = callers.join().expect("the callers do not panic")?;
        anyhow::Ok((changes, calls))
    })?;
    println!("{changes} changes under {} calls", calls.len());
    ensure!(changes > 100, "too few changes to see anything: {changes}");
    ensure_share("under changes", &calls, 1000)
}

#[test]
fn what_is_established_stays_where_it_is() -> Result<()> {
    const OLD: u32 = 200;
    let scene = Scene::new(Then::Stays)?;
    let mut holder = scene.holder(&made())?;
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (tell, told) = std::sync::mpsc::channel();
    let old = scene.lab.client.spawn("old", move || {
        let mut streams = (0..OLD)
            .map(|n| Ok(call(crowd::v4(n), v4(PORT))?.1))
            .collect::<Result<Vec<_>>>()?;
        tell.send(())?;
        wait.recv()?;
        streams.iter_mut().map(ask).collect::<Result<Vec<_>>>()
    })?;
    told.recv().context("the old sessions did not come about")?;
    holder.acquire(&[Setting::turning(1000).capped(8_000_000)], LONG)?;
    let new: Vec<_> = (0..OLD).map(crowd::v4).collect();
    ensure_share("new", &scene.call(&new)?, 1000)?;
    go.send(())?;
    let names = join(old)?;
    ensure!(
        names.iter().all(|name| *name == USUAL),
        "an old session was turned"
    );
    holder.release()?;
    ensure_share("after the release", &scene.call(&new)?, 0)
}

#[test]
fn when_the_holder_is_killed_the_gate_is_open_at_once_and_nothing_is_left() -> Result<()> {
    let scene = Scene::new(Then::Closes)?;
    let mut holder = scene.holder(&made())?;
    holder.acquire(&[Setting::turning(1000)], LONG)?;
    ensure!(scene.who()? == TURNED);
    let objects = kernel_objects(holder.process().id())?;
    let kinds: BTreeSet<_> = objects.iter().map(|(kind, _)| kind.as_str()).collect();
    ensure!(
        kinds == BTreeSet::from(["link", "map", "prog"]),
        "{objects:?}"
    );
    let pinned = output("find", &["/sys/fs/bpf", "-type", "f"]).unwrap_or_default();
    let process = holder.process();
    process.signal(Signal::SIGKILL)?;
    process.wait(PATIENCE)?;
    let from: Vec<_> = (0..200).map(crowd::v4).collect();
    ensure_share("after the kill", &scene.call(&from)?, 0)?;
    wait_for("the kernel to be clean", PATIENCE, || {
        Ok(still_there(&objects)?.is_empty())
    })
    .with_context(|| format!("{:?}", still_there(&objects)))?;
    let after = output("find", &["/sys/fs/bpf", "-type", "f"]).unwrap_or_default();
    ensure!(pinned == after, "{after} is pinned");
    Ok(())
}

#[test]
fn when_the_holder_hangs_the_gate_opens_at_the_end_of_its_lease() -> Result<()> {
    const LEASE: Duration = Duration::from_millis(1500);
    let scene = Scene::new(Then::Closes)?;
    let mut holder = scene.holder(&made())?;
    let acquired = holder.acquire(&[Setting::turning(1000)], LEASE)?;
    holder.process().signal(Signal::SIGSTOP)?;
    let end = acquired.called_boot_ns + u64::try_from(LEASE.as_nanos())?;
    let (mut held, mut open) = (0, 0);
    let give_up = Instant::now() + PATIENCE;
    while open < 100 && Instant::now() < give_up {
        for call in scene.call(&[crowd::v4(3), crowd::v4(4)])? {
            if call.connected_boot_ns < end {
                ensure!(
                    call.by == TURNED,
                    "open {} ns early",
                    end - call.connected_boot_ns
                );
                held += 1;
            } else if call.began_boot_ns >= end {
                ensure!(
                    call.by == USUAL,
                    "held {} ns late",
                    call.began_boot_ns - end
                );
                open += 1;
            }
        }
    }
    ensure!(
        held > 10 && open >= 100,
        "{held} calls before the end, {open} after"
    );
    holder.process().signal(Signal::SIGCONT)?;
    let counted = holder.of_all()?;
    ensure!(
        counted.expired >= open && counted.turned >= held,
        "{counted:?}"
    );

    // What has become neutral stays so until it is acquired anew.
    let refused = holder.ask(&json!({ "renew": { "lease_ms": 60_000 } }))?;
    ensure!(
        refused
            .error
            .as_ref()
            .is_some_and(|why| why.contains("acquired anew")),
        "{refused:?}"
    );
    ensure!(scene.who()? == USUAL);
    holder.acquire(&[Setting::turning(1000)], LEASE)?;
    // Renewed often enough, it holds beyond its first end.
    let until = now_boot_ns() + 2 * u64::try_from(LEASE.as_nanos())?;
    while now_boot_ns() < until {
        holder.renew(LEASE)?;
        ensure!(scene.who()? == TURNED, "a renewed lease ended");
    }
    Ok(())
}

#[test]
fn without_the_other_listener_everybody_passes_and_its_successor_is_found() -> Result<()> {
    let mut scene = Scene::new(Then::Closes)?;
    let mut holder = scene.holder(&made())?;
    holder.acquire(&[Setting::turning(1000)], LONG)?;
    ensure!(scene.who()? == TURNED);
    scene.other.clear();
    let from: Vec<_> = (0..100).map(crowd::v4).collect();
    ensure_share("without the other", &scene.call(&from)?, 0)?;
    ensure!(holder.of_all()?.could_not == 100, "{:?}", holder.of_all());
    let renewed = holder.renew(LONG)?;
    ensure!(
        renewed.missing.len() == 2 && renewed.missing[0].contains("nothing listens at 127.0.0.1"),
        "{renewed:?}"
    );
    // Nobody can be turned anywhere: that is no position to take.
    let refused = holder.position(&[Setting::turning(500)], LONG);
    let refused = holder.ask(&refused)?;
    ensure!(
        refused
            .error
            .is_some_and(|why| why.contains("nobody can be turned"))
    );

    for address in others() {
        let other = Teller::start(&scene.lab.server, address, TURNED, Then::Closes)?;
        scene.other.push(other);
    }
    let renewed = holder.renew(LONG)?;
    ensure!(renewed.missing.is_empty(), "{renewed:?}");
    ensure_share("with its successor", &scene.call(&from)?, 1000)
}

/// nginx at the service's port, and another as the other listener.
#[test]
fn a_real_server_takes_what_is_turned_and_may_be_restarted() -> Result<()> {
    const USUALLY: &str = "usual";
    const OTHERWISE: &str = "elsewhere";
    let lab = Lab::with_veth()?;
    let nginx = |says: &str, port: u16| {
        let dir = lab.dir().join(says);
        let config = format!(
            "{}http {{ access_log off; server {{ listen {port}; location / {{ return 200 {says}; }} }} }}\n",
            preamble(&dir)
        );
        Nginx::with_config(&lab, &dir, &config, port)
    };
    let _usual = nginx(USUALLY, PORT)?;
    let other = nginx(OTHERWISE, OTHER)?;
    let mut holder = Holder::start(
        &binary(),
        &lab.server,
        &Made {
            others: vec![(Ipv4Addr::LOCALHOST, OTHER).into()],
            ..made()
        },
    )?;
    // They say as many bytes as their answer has.
    let said = || {
        lab.client.run(|| {
            let mut connection = Connection::open(v4(PORT))?;
            connection.ask(&["/"], "1.1")?;
            connection.answer()
        })
    };
    let (usual, elsewhere) = (USUALLY.len() as u64, OTHERWISE.len() as u64);
    ensure!(said()? == usual);
    holder.acquire(&[Setting::turning(1000)], LONG)?;
    ensure!(said()? == elsewhere);
    drop(other);
    ensure!(said()? == usual);
    ensure!(holder.of_all()?.could_not == 1);
    let _other = nginx(OTHERWISE, OTHER)?;
    holder.renew(LONG)?;
    ensure!(said()? == elsewhere);
    ensure!(holder.of_all()?.turned == 2);
    Ok(())
}

/// How long an answer takes.
fn timed(connection: &mut Connection, path: &str) -> Result<Duration> {
    let began = Instant::now();
    connection.ask(&[path], "1.1")?;
    connection.answer()?;
    Ok(began.elapsed())
}

/// The congestion control of the server's side of a session, as ss(8) tells it.
fn congestion_control(lab: &Lab, port: u16) -> Result<String> {
    lab.server.run(move || {
        let filter = format!("sport = :{PORT} and dport = :{port}");
        let told = output("ss", &["-tinH", &filter])?;
        let mut words = told.lines().nth(1).unwrap_or_default().split_whitespace();
        words
            .next()
            .map(str::to_owned)
            .with_context(|| format!("ss says {told}"))
    })
}

#[test]
fn a_cap_slows_new_sessions_and_no_old_one_and_gives_them_their_congestion_control() -> Result<()> {
    const BYTES: u64 = 2_000_000;
    const PATH: &str = "/f/2000000";
    const CAP_BPS: u64 = 4_000_000;
    let lab = Lab::with_veth()?;
    gather(&lab)?;
    let default = lab
        .server
        .read("/proc/sys/net/ipv4/tcp_congestion_control")?;
    let wanted = if default.trim() == "reno" {
        "cubic"
    } else {
        "reno"
    };
    let _server = BlockingServer::dual(&lab.server, PORT, Mode::KeepAlive)?;
    let mut holder = Holder::start(
        &binary(),
        &lab.server,
        &Made {
            congestion_control: Some(wanted.to_owned()),
            ..made()
        },
    )?;
    let open = |to| lab.client.run(move || Connection::open(to));
    let mut old = open(v4(PORT))?;
    let before = timed(&mut old, PATH)?;
    // Capped, and nobody is turned: no other listener is needed.
    holder.acquire(&[Setting::turning(0).capped(CAP_BPS)], LONG)?;
    let ideal = Duration::from_nanos(BYTES * 8 * 1_000_000_000 / CAP_BPS);
    for to in [v4(PORT), v6(PORT)] {
        let mut new = open(to)?;
        let took = timed(&mut new, PATH)?;
        println!("{to}: {BYTES} bytes took {took:?}, at the cap {ideal:?}, before {before:?}");
        // What may go before pacing begins is an initial window; what is slower than the cap is
        // this machine.
        ensure!(
            took > ideal.mul_f64(0.9) && took < ideal.mul_f64(2.0),
            "a new session took {took:?}, not {ideal:?}"
        );
        ensure!(congestion_control(&lab, new.port()?)? == wanted);
    }
    let after = timed(&mut old, PATH)?;
    ensure!(after < ideal / 2, "an old session took {after:?}");
    ensure!(congestion_control(&lab, old.port()?)? == default.trim());
    let counted = holder.of_all()?;
    ensure!(
        (counted.capped, counted.could_not_cap) == (2, 0),
        "{counted:?}"
    );

    // A network's cap is no other's.
    holder.acquire(
        &[Setting::turning(0).capped(CAP_BPS).of("10.80.0.0/16")],
        LONG,
    )?;
    let mut beside = open(v4(PORT))?;
    let took = timed(&mut beside, PATH)?;
    ensure!(
        took < ideal / 2,
        "a session of another network took {took:?}"
    );
    holder.release()?;
    let mut later = open(v4(PORT))?;
    let took = timed(&mut later, PATH)?;
    ensure!(
        took < ideal / 2,
        "after the release a session took {took:?}"
    );
    ensure!(holder.of_all()?.capped == 2);
    Ok(())
}

#[test]
fn a_congestion_control_that_is_not_there_is_counted_and_the_cap_holds() -> Result<()> {
    let lab = Lab::with_veth()?;
    let _server = BlockingServer::dual(&lab.server, PORT, Mode::KeepAlive)?;
    let mut holder = Holder::start(
        &binary(),
        &lab.server,
        &Made {
            congestion_control: Some("none_such".to_owned()),
            ..made()
        },
    )?;
    holder.acquire(&[Setting::turning(0).capped(8_000_000)], LONG)?;
    let took = lab
        .client
        .run(|| timed(&mut Connection::open(v4(PORT))?, "/f/1000000"))?;
    ensure!(
        took > Duration::from_millis(900),
        "the cap was lost too: {took:?}"
    );
    let counted = holder.of_all()?;
    ensure!(
        (counted.capped, counted.could_not_cap) == (0, 1),
        "{counted:?}"
    );
    Ok(())
}

#[test]
fn another_namespace_is_not_concerned() -> Result<()> {
    let scene = Scene::new(Then::Closes)?;
    let _there = Teller::start(&scene.lab.client, anywhere(PORT), b'c', Then::Closes)?;
    let mut holder = scene.holder(&made())?;
    holder.acquire(&[Setting::turning(1000).capped(8_000_000)], LONG)?;
    let there: SocketAddr = (Ipv4Addr::LOCALHOST, PORT).into();
    let calls = all_call(&scene.lab, &[crowd::v4(1), crowd::v4(2)], there)?;
    ensure!(calls.iter().all(|call| call.by == b'c'), "{calls:?}");
    let counted = holder.of_all()?;
    ensure!((counted.seen, counted.turned) == (0, 0), "{counted:?}");
    let can_tell = doctor(&binary())?.kernel_release;
    let is_told = version(&can_tell) >= (5, 15);
    ensure!(!is_told || counted.capped == 0, "{counted:?}");
    Ok(())
}

fn version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[test]
fn what_another_program_has_chosen_is_left_as_it_is() -> Result<()> {
    const THIRD: u16 = 8091;
    let scene = Scene::new(Then::Closes)?;
    let third: SocketAddr = (Ipv4Addr::LOCALHOST, THIRD).into();
    let _third = Teller::start(&scene.lab.server, third, b'3', Then::Closes)?;
    // Programs run in the order in which they were attached.
    let mut first = scene.holder(&made())?;
    let mut second = scene.holder(&Made {
        others: vec![third],
        ..made()
    })?;
    let from: Vec<_> = (0..500).map(crowd::v4).collect();
    let by = |name| move |calls: Vec<Call>| calls.iter().filter(|call| call.by == name).count();
    second.acquire(&[Setting::turning(1000)], LONG)?;
    ensure!(by(b'3')(scene.call(&from)?) == 500);
    first.acquire(&[Setting::turning(1000)], LONG)?;
    ensure!(by(TURNED)(scene.call(&from)?) == 500);
    let counted = second.of_all()?;
    ensure!(
        (counted.turned, counted.left_to_others) == (500, 500),
        "{counted:?}"
    );
    first.release()?;
    second.release()?;
    ensure!(by(USUAL)(scene.call(&from)?) == 500);
    Ok(())
}

#[test]
fn what_the_kernel_cannot_follow_and_what_is_old_is_refused_and_nothing_moves() -> Result<()> {
    let scene = Scene::new(Then::Closes)?;
    let mut holder = scene.holder(&made())?;
    let old = holder.position(&[Setting::turning(0)], LONG);
    holder.acquire(&[Setting::turning(1000)], LONG)?;
    let too_many: Vec<_> = (0..600)
        .map(|n| Setting::turning(1).of(&format!("10.{}.{}.0/24", n / 250, n % 250)))
        .collect();
    // What the kernel can follow of it is followed: the host stays turned.
    let cell = [
        Setting::turning(1000),
        Setting::turning(500).of_cell("gate/segment/-/tcp/kernel"),
    ];
    for (request, said) in [
        (old, "older than"),
        (holder.position(&cell, LONG), "known when it has asked"),
        (holder.position(&too_many, LONG), "takes 512 rules"),
        (
            holder.position(&[Setting::turning(0)], Duration::ZERO),
            "before it began",
        ),
        (json!("upside down"), "no request"),
    ] {
        let answer = holder.ask(&request)?;
        ensure!(
            answer.error.as_ref().is_some_and(|why| why.contains(said)),
            "{answer:?}"
        );
        ensure!(scene.who()? == TURNED, "the gate moved: {answer:?}");
    }
    Ok(())
}

#[test]
fn doctor_says_whether_the_gate_can_be_had() -> Result<()> {
    let gate = doctor(&binary())?.gate;
    let names: Vec<_> = gate.iter().map(|probe| probe.name.as_str()).collect();
    ensure!(
        names == ["sk_lookup", "cgroup/sock_ops (gate)", "pidfd_getfd"],
        "{names:?}"
    );
    ensure!(gate.iter().all(|probe| probe.verdict == "ok"), "{gate:?}");
    Ok(())
}

/// Not a test of anything but that it is there: figures, to be read with `--nocapture`.
#[test]
fn how_long_a_turn_takes_and_what_it_costs() -> Result<()> {
    const TURNS: usize = 200;
    let scene = Scene::new(Then::Closes)?;
    let mut holder = scene.holder(&Made {
        statistics: true,
        ..made()
    })?;
    let mut first = Vec::with_capacity(TURNS);
    let mut call_ns = Vec::with_capacity(TURNS);
    for _ in 0..TURNS {
        // A client that calls again and again, and ends when it is turned.
        let (tell, told) = std::sync::mpsc::channel();
        let client = scene.lab.client.spawn("client", move || {
            let give_up = Instant::now() + PATIENCE;
            let mut is_told = false;
            while Instant::now() < give_up {
                let (call, _) = call(crowd::v4(5), v4(PORT))?;
                if call.by == TURNED {
                    return Ok(call);
                }
                if !is_told {
                    tell.send(())?;
                    is_told = true;
                }
            }
            anyhow::bail!("never turned")
        })?;
        told.recv().context("the client does not call")?;
        let answer = holder.acquire(&[Setting::turning(1000)], LONG)?;
        let call = join(client)?;
        first.push(call.connected_boot_ns.saturating_sub(answer.called_boot_ns));
        call_ns.push(answer.done_boot_ns - answer.called_boot_ns);
        holder.release()?;
    }
    let us = |all: &mut Vec<u64>, permille: usize| {
        all.sort_unstable();
        all[(all.len() - 1) * permille / 1000] as f64 / 1e3
    };
    println!(
        "from `acquire` called to the first connection turned, {TURNS} turns: p50 {:.0} us, p99 {:.0} us",
        us(&mut first, 500),
        us(&mut first, 990)
    );
    println!(
        "`acquire` alone: p50 {:.0} us, p99 {:.0} us",
        us(&mut call_ns, 500),
        us(&mut call_ns, 990)
    );
    ensure!(
        us(&mut first, 990) < 1e6,
        "turning takes more than a second"
    );
    let from: Vec<_> = (1..=20_000).map(crowd::v4).collect();
    let narrow: Vec<_> = (0..500)
        .map(|n| Setting::turning(300).of(&format!("10.{}.{}.0/24", 80 + n / 250, n % 250)))
        .collect();
    let wide = vec![Setting::turning(300)];
    let none = vec![];
    let capped = vec![Setting::turning(300).capped(1_000_000_000)];
    for (what, settings) in [
        ("neutral", &none),
        ("one rule, 30 %", &wide),
        ("500 networks, 30 %", &narrow),
        ("one rule, 30 %, capped", &capped),
    ] {
        holder.acquire(settings, LONG)?;
        let before = holder.counts()?.costs;
        scene.call(&from)?;
        let after = holder.counts()?.costs;
        let per = |n: usize| {
            let runs = (after[n].runs - before[n].runs).max(1);
            (after[n].run_time_ns - before[n].run_time_ns) as f64 / runs as f64
        };
        println!(
            "{what}: sk_lookup {:.0} ns a connection, sock_ops {:.0} ns a call",
            per(0),
            per(1)
        );
        ensure!(
            after[0].runs - before[0].runs >= 20_000,
            "the program did not run"
        );
    }
    Ok(())
}
