//! What looking at sockets uses of this kernel, tried on a socket of its own.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};

use super::sockdiag::{Asker, Buffer, FAMILIES, Farewells, Seen, states};
use crate::kernel::{BackendKind, Probe, Verdict, namespaces, rungs::Rung};

const LIST: &str = "sock_diag/inet_diag";
const DESTROY: &str = "sock_diag/tcp_destroy";
const CGROUP: &str = "inet_diag/cgroup_id";
const NAMESPACES: &str = "setns";

/// What was found.
#[derive(Debug)]
pub(super) struct Findings {
    pub(super) probes: Vec<Probe>,
    pub(super) tells_cgroups: bool,
}

/// Tries everything; an error if nothing could be measured.
pub(super) fn findings() -> Result<Findings> {
    let own = list_own().context(LIST)?;
    Farewells::open().context(DESTROY)?;
    let tells_cgroups = own.cgroup.is_some();
    let probes = vec![
        ok(LIST, "every TCP socket is listed with its TCP_INFO"),
        ok(DESTROY, "every socket's last word is heard"),
        if tells_cgroups {
            ok(CGROUP, "the cgroup of each socket is told")
        } else {
            Probe {
                name: CGROUP.to_owned(),
                verdict: Verdict::Unsupported,
                reason: "this kernel does not have it (Linux 5.7 does)".to_owned(),
                lost: "filtering by cgroup".to_owned(),
            }
        },
        other_namespaces(),
    ];
    Ok(Findings {
        probes,
        tells_cgroups,
    })
}

/// What would be used here.
pub(in crate::kernel) fn try_sockets() -> Rung {
    match findings() {
        Ok(findings) => Rung::tried(BackendKind::Polled, findings.probes, true),
        Err(err) => {
            let probe = Probe {
                name: LIST.to_owned(),
                verdict: Verdict::Broken,
                reason: format!("{err:#}"),
                lost: "everything".to_owned(),
            };
            Rung::tried(BackendKind::Polled, vec![probe], false)
        }
    }
}

fn ok(name: &str, reason: &str) -> Probe {
    Probe {
        name: name.to_owned(),
        verdict: Verdict::Ok,
        reason: reason.to_owned(),
        lost: String::new(),
    }
}

/// Lists a listener that is made for it.
fn list_own() -> Result<Seen> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening on 127.0.0.1 to be seen")?;
    let port = listener.local_addr()?.port();
    let mut own = None;
    let mut asker = Asker::open()?;
    asker.each(FAMILIES[0], states::LISTEN, &mut Buffer::new(), |seen| {
        if seen.endpoints.local_port == port {
            own = Some(seen);
        }
    })?;
    let Some(own) = own else {
        bail!(
            "the kernel does not list a socket that is there: it needs CONFIG_INET_TCP_DIAG (the \
             module tcp_diag)"
        );
    };
    if own.info.is_none() {
        bail!("the kernel's TCP_INFO is too short: run Linux 4.19 or newer");
    }
    Ok(own)
}

fn other_namespaces() -> Probe {
    let entered = namespaces::own_file().and_then(|own| {
        // Into the one it is in, on a thread of its own: what is asked is whether it may.
        std::thread::spawn(move || setns(&own, CloneFlags::CLONE_NEWNET))
            .join()
            .map_or_else(
                |_| bail!("the thread inside panicked"),
                |entered| Ok(entered?),
            )
    });
    match entered {
        Ok(()) => ok(NAMESPACES, "other network namespaces can be entered"),
        Err(err) => Probe {
            name: NAMESPACES.to_owned(),
            verdict: Verdict::Broken,
            reason: format!("{err:#}; needs CAP_SYS_ADMIN"),
            lost: "sessions in other network namespaces than the daemon's own".to_owned(),
        },
    }
}
