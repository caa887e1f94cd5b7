//! The core of what must hold on every kernel, over real sockets: what was done against what the
//! daemon says.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::stage::{DEADLINE, DISTANT, LOSSY, ROUND_TRIP, Stage, settings};
use crate::lab::client::{self, Abort, Connection};
use crate::lab::counters::tcp_counts;
use crate::lab::netns::join;
use crate::lab::process::{ended_by, wait_for};
use crate::lab::server::{BANNER, BlockingServer, Mode};
use crate::record::{Counters, Delivery, Diagnosis};
use crate::watched::{PATIENCE, binary, kernel_objects, still_there, v4, v6};
use crate::weir::Daemon;

/// One thing that must hold.
pub(super) struct Check {
    pub(super) name: &'static str,
    /// The hooks that it cannot hold without, each by any of its names in `weir doctor`.
    needs: &'static [&'static [&'static str]],
    /// Tries it; says what was measured.
    pub(super) run: fn(&mut Stage) -> Result<String>,
}

/// All of them, in order: the last ones look back at the others.
pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "deliveries",
        needs: &[],
        run: deliveries,
    },
    Check {
        name: "closings",
        needs: &[
            &["tp_btf/tcp_receive_reset"],
            &["tp_btf/tcp_send_reset"],
            &["cgroup/sock_ops"],
        ],
        run: closings,
    },
    Check {
        name: "greeting",
        needs: &[
            &["iter/bpf_sk_storage_map"],
            &[
                "tp_btf/tcp_sendmsg_locked",
                "fentry/tcp_sendmsg_locked",
                "tp_btf/sock_send_length",
            ],
        ],
        run: greeting,
    },
    Check {
        name: "first write",
        needs: &[&["tp_btf/tcp_sendmsg_locked", "fentry/tcp_sendmsg_locked"]],
        run: first_write,
    },
    Check {
        name: "late",
        needs: &[&["iter/bpf_sk_storage_map"]],
        run: late,
    },
    Check {
        name: "retransmits",
        needs: &[&["tp_btf/tcp_retransmit_skb"]],
        run: retransmits,
    },
    Check {
        name: "reconciled",
        needs: &[],
        run: reconciled,
    },
    Check {
        name: "sigkill",
        needs: &[],
        run: sigkill,
    },
    Check {
        name: "adopted",
        needs: &[&["iter/tcp"]],
        run: adopted,
    },
];

impl Check {
    /// What is lost here, by the doctor's own words, that the check needs; none: it must hold.
    pub(super) fn missing(&self, diagnosis: &Diagnosis) -> Option<String> {
        self.needs.iter().find_map(|names| {
            let probes: Vec<_> = diagnosis
                .probes
                .iter()
                .filter(|probe| names.contains(&probe.name.as_str()))
                .collect();
            let works = probes.iter().any(|probe| probe.verdict == "ok");
            (!works).then(|| {
                let lost = probes.last().map_or("not probed", |probe| &probe.lost);
                format!("{}: {lost}", names.join(" or "))
            })
        })
    }
}

const COMPLETE: (&str, &str) = ("exchange", "complete");

/// The blocking server's header and body, in bytes.
fn answer_bytes(body: u64) -> u64 {
    let header = format!("HTTP/1.1 200 OK\r\nContent-Length: {body}\r\n\r\n");
    header.len() as u64 + body
}

fn in_order(delivery: &Delivery) -> bool {
    delivery.request_unix_ns <= delivery.first_write_unix_ns
        && delivery.first_write_unix_ns < delivery.first_acked_unix_ns
        && delivery.first_acked_unix_ns <= delivery.last_acked_unix_ns
}

/// Each answer is one delivery, of as many bytes as were sent, over both families at once.
fn deliveries(stage: &mut Stage) -> Result<String> {
    const PORT: u16 = 9000;
    const PATHS: [&str; 5] = ["/f/30000", "/f/1", "/f/300000", "/f/2000", "/f/100000"];
    let lab = &stage.watched.lab;
    let _server = BlockingServer::dual(&lab.server, PORT, Mode::KeepAlive)?;
    let clients: Vec<_> = (0..8)
        .map(|n| {
            let address = if n % 2 == 0 { v4(PORT) } else { v6(PORT) };
            lab.client.spawn("client", move || {
                client::keep_alive(address, &PATHS, Duration::from_millis(20))
            })
        })
        .collect::<Result<_>>()?;
    let mut bytes = 0;
    for client in clients {
        let seen = join(client)?;
        let (session, told) = stage.told(seen.port, &[COMPLETE; PATHS.len()])?;
        for (delivery, &body) in told.iter().zip(&seen.bodies) {
            ensure!(
                delivery.acked_bytes == answer_bytes(body)
                    && delivery.written_bytes == delivery.acked_bytes,
                "{} bytes were sent, and told {delivery:?}",
                answer_bytes(body)
            );
            ensure!(in_order(delivery), "out of order: {delivery:?}");
            ensure!(
                u128::from(delivery.latency_us) >= ROUND_TRIP.as_micros(),
                "quicker than the link: {delivery:?}"
            );
            bytes += delivery.acked_bytes;
        }
        ensure!(
            (session.ended.as_str(), session.adopted) == ("client_fin", false),
            "ended by the client, and told {session:?}"
        );
    }
    Ok(format!("{} deliveries, {bytes} bytes", 8 * PATHS.len()))
}

/// Exchanges that end with their session, each in another way.
fn closings(stage: &mut Stage) -> Result<String> {
    const PORT: u16 = 9001;
    const CLOSING: u16 = 9002;
    let (server, inside) = (&stage.watched.lab.server, &stage.watched.lab.client);
    let _server = BlockingServer::v4(server, PORT, Mode::KeepAlive)?;
    let _closing = BlockingServer::v4(server, CLOSING, Mode::CloseDelimited)?;
    let half = inside.run(|| client::half_closed(v4(PORT), "/f/300000?think=100"))?;
    let whole = inside.run(|| client::until_close(v4(CLOSING), "/f/300000"))?;
    let cut = inside.run(|| client::aborted(v4(PORT), "/f/4000000", 50_000, Abort::Reset))?;
    for (port, phase, ended) in [
        (half.port, "complete", "client_fin"),
        (whole.port, "complete", "server_fin"),
        (cut.port, "aborted", "client_rst"),
    ] {
        let (session, told) = stage.told(port, &[("exchange", phase)])?;
        ensure!(
            session.ended == ended,
            "{ended} was made, and told {session:?}"
        );
        let (acked, written) = (told[0].acked_bytes, told[0].written_bytes);
        let whole = phase == "complete";
        ensure!(
            (acked == written) == whole && (acked > 300_000) == whole,
            "{phase}, and told {told:?}"
        );
    }
    Ok("half-closed, closed by the server, reset by the client".into())
}

/// What the server says unasked is no answer.
fn greeting(stage: &mut Stage) -> Result<String> {
    const PORT: u16 = 9003;
    let lab = &stage.watched.lab;
    let _server = BlockingServer::v4(&lab.server, PORT, Mode::SpeaksFirst)?;
    let port = lab.client.run(|| {
        let mut connection = Connection::open(v4(PORT))?;
        connection.read_exactly(BANNER.len())?;
        std::thread::sleep(Duration::from_millis(100));
        connection.ask(&["/f/10000"], "1.1")?;
        connection.answer()?;
        connection.port()
    })?;
    let (_, told) = stage.told(port, &[("unsolicited", "complete"), COMPLETE])?;
    ensure!(told[0].acked_bytes == BANNER.len() as u64, "{told:?}");
    Ok(String::new())
}

/// The server's thinking ends with its first write, however long that write blocks.
fn first_write(stage: &mut Stage) -> Result<String> {
    const PORT: u16 = 9004;
    const THINKS_NS: u64 = 300_000_000;
    let lab = &stage.watched.lab;
    let _server = BlockingServer::v4(&lab.server, PORT, Mode::KeepAlive)?;
    let paths = ["/f/500?think=300", "/f/2000000?think=300"];
    let seen = lab
        .client
        .run(move || client::keep_alive(v4(PORT), &paths, Duration::ZERO))?;
    let (_, told) = stage.told(seen.port, &[COMPLETE; 2])?;
    let mut thinking = Vec::new();
    for delivery in &told {
        ensure!(
            !delivery.first_write_bounded,
            "the first write is only a bound: {delivery:?}"
        );
        ensure!(in_order(delivery), "out of order: {delivery:?}");
        let think_ns = delivery.first_write_unix_ns - delivery.request_unix_ns;
        ensure!(
            think_ns >= THINKS_NS,
            "thought for 300 ms, and told {delivery:?}"
        );
        thinking.push(format!("{} us", think_ns / 1000));
    }
    Ok(format!("thought for {}", thinking.join(" and ")))
}

/// What is late is told while nothing happens, before it ends.
fn late(stage: &mut Stage) -> Result<String> {
    const PORT: u16 = 9005;
    let lab = &stage.watched.lab;
    let _server = BlockingServer::v4(&lab.server, PORT, Mode::KeepAlive)?;
    let path = format!("/f/500?think={}", 4 * DEADLINE.as_millis());
    let client = lab.client.spawn("client", move || {
        client::keep_alive(v4(PORT), &[&path], Duration::ZERO)
    })?;
    let mut open_late = 0;
    while open_late == 0 && !client.is_finished() {
        let cells = stage.watched.daemon.cells()?;
        open_late = cells.iter().map(|cell| cell.deliveries_open_late).sum();
        std::thread::sleep(Duration::from_millis(50));
    }
    let seen = join(client)?;
    let (_, told) = stage.told(seen.port, &[COMPLETE])?;
    ensure!(open_late == 1, "told late only when it had ended: {told:?}");
    ensure!(told[0].late, "not told late at its end: {told:?}");
    Ok("told while it was silent".into())
}

/// Segments sent again are those that the kernel counts.
fn retransmits(stage: &mut Stage) -> Result<String> {
    const PORT: u16 = 9006;
    let lab = &stage.watched.lab;
    let server = BlockingServer::v4(&lab.server, PORT, Mode::KeepAlive)?;
    let before = tcp_counts(&lab.server)?;
    lab.server.netem(LOSSY)?;
    let clients: Vec<_> = (0..4)
        .map(|_| {
            lab.client.spawn("client", || {
                let paths = ["/f/600000", "/f/200000"];
                client::keep_alive(v4(PORT), &paths, Duration::from_millis(300))
            })
        })
        .collect::<Result<_>>()?;
    let ports: Vec<_> = clients
        .into_iter()
        .map(|client| Ok(join(client)?.port))
        .collect::<Result<_>>()?;
    // A lost FIN is sent again, too.
    lab.server.wait_until_closed(PORT)?;
    lab.server.netem(DISTANT)?;
    let after = tcp_counts(&lab.server)?;
    drop(server);
    let syn_acks = after.syn_retrans - before.syn_retrans;
    let made = after.retrans_segs - before.retrans_segs - syn_acks;
    ensure!(made > 0, "nothing was lost");
    let (mut by_session, mut by_delivery) = (0, 0);
    for port in ports {
        let (session, told) = stage.told(port, &[COMPLETE; 2])?;
        by_session += session.retransmitted();
        by_delivery += told
            .iter()
            .map(|d| u64::from(d.retrans_fast + d.retrans_rto + d.retrans_tlp))
            .sum::<u64>();
    }
    ensure!(
        by_session == made,
        "the kernel counts {made}, the sessions {by_session}"
    );
    // A FIN belongs to no delivery.
    ensure!(
        by_delivery <= made && made - by_delivery <= 4,
        "the kernel counts {made}, the deliveries {by_delivery}"
    );
    Ok(format!("{made} segments"))
}

/// Nothing of the checks before is missing, and every loss is accounted for.
fn reconciled(stage: &mut Stage) -> Result<String> {
    let daemon = &stage.watched.daemon;
    let made = stage.sessions;
    let mut counted = Counters::default();
    let caught_up = wait_for("every session to be counted", PATIENCE, || {
        counted = Counters::default();
        for cell in daemon.cells()? {
            counted.sessions_started += cell.counters.sessions_started;
            counted.sessions_ended += cell.counters.sessions_ended;
        }
        let losses = daemon.status()?.losses;
        Ok(counted.sessions_ended >= made
            && losses.bulk.drained == losses.bulk.exported
            && losses.hot.drained == losses.hot.exported)
    });
    caught_up.with_context(|| format!("{made} sessions were made, and told {counted:?}"))?;
    ensure!(
        (counted.sessions_started, counted.sessions_ended) == (made, made),
        "{made} sessions were made, and told {counted:?}"
    );
    let losses = daemon.status()?.losses;
    ensure!(losses.reconcile(), "{losses:?}");
    ensure!(
        losses.hot.ring_full + losses.bulk.ring_full + losses.records_malformed == 0,
        "something was lost: {losses:?}"
    );
    Ok(format!("{made} sessions"))
}

/// A daemon that is killed leaves nothing in the kernel.
fn sigkill(stage: &mut Stage) -> Result<String> {
    let process = stage.watched.daemon.process();
    let objects = kernel_objects(process.id())?;
    ensure!(
        objects.iter().any(|(kind, _)| kind == "prog"),
        "no programs loaded: {objects:?}"
    );
    process.signal(Signal::SIGKILL)?;
    let status = process.wait(PATIENCE)?;
    if !ended_by(status, Signal::SIGKILL) {
        bail!("it had ended before ({status})");
    }
    let clean = wait_for("the kernel to be clean", PATIENCE, || {
        Ok(still_there(&objects)?.is_empty())
    });
    clean.with_context(|| format!("{:?}", still_there(&objects)))?;
    Ok(format!("{} objects went", objects.len()))
}

/// A daemon that comes later takes up the sessions that are there; the one before is gone by now.
fn adopted(stage: &mut Stage) -> Result<String> {
    const PORT: u16 = 9007;
    let lab = &stage.watched.lab;
    let _server = BlockingServer::v4(&lab.server, PORT, Mode::KeepAlive)?;
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    let (tell, told) = std::sync::mpsc::channel();
    let client = lab.client.spawn("client", move || {
        let mut connection = Connection::open(v4(PORT))?;
        connection.ask(&["/f/500"], "1.1")?;
        connection.answer()?;
        tell.send(connection.port()?)?;
        wait.recv()?;
        connection.ask(&["/f/30000"], "1.1")?;
        connection.answer()
    })?;
    let port = told.recv().context("the client did not connect")?;
    let daemon = Daemon::start(&binary(), &lab.dir().join("again"), &settings())?;
    stage.watched.follower = daemon.follow()?;
    stage.watched.daemon = daemon;
    go_on.send(())?;
    let body = join(client)?;
    let (session, told) = stage.told(port, &[COMPLETE])?;
    ensure!(session.adopted && told[0].adopted, "{session:?}, {told:?}");
    ensure!(
        told[0].acked_bytes == answer_bytes(body),
        "{} bytes were sent, and told {told:?}",
        answer_bytes(body)
    );
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Probe;

    const CHECK: Check = Check {
        name: "first write",
        needs: &[&["tp_btf/a", "fentry/a"]],
        run: |_| Ok(String::new()),
    };

    fn diagnosis(probes: &[(&str, &str)]) -> Diagnosis {
        let probe = |&(name, verdict): &(&str, &str)| Probe {
            name: name.into(),
            verdict: verdict.into(),
            reason: String::new(),
            lost: "the first write".into(),
        };
        Diagnosis {
            kernel_release: String::new(),
            backend: Some("exact".into()),
            probes: probes.iter().map(probe).collect(),
        }
    }

    #[test]
    fn one_hook_of_several_is_enough_to_hold_a_check_to_its_word() {
        let stands_in = diagnosis(&[("tp_btf/a", "unsupported"), ("fentry/a", "ok")]);
        assert_eq!(CHECK.missing(&stands_in), None);
    }

    #[test]
    fn without_any_of_its_hooks_a_check_is_lost_in_the_doctors_words() {
        let none = diagnosis(&[("tp_btf/a", "unsupported"), ("fentry/a", "broken")]);
        let lost = CHECK.missing(&none).expect("it is missing");
        assert_eq!(lost, "tp_btf/a or fentry/a: the first write");
    }
}
