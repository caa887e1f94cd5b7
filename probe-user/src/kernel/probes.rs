//! The programs: what each hooks, since when the kernel has it, and what is lost without it.

use std::{io, os::fd::AsFd as _, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    Btf, Ebpf,
    programs::{
        BtfTracePoint, FEntry, Iter, Program, ProgramError, SockOps, fentry::FEntryLink,
        tp_btf::BtfTracePointLink,
    },
};

use super::{Probe, Verdict, cgroup, exact::Object, sys};

/// How a program meets the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    /// A tracepoint, with typed arguments.
    TpBtf,
    /// The entry of a kernel function.
    FEntry(&'static str),
    /// The root of the cgroup v2 hierarchy.
    SockOps,
    /// A walk, run by the daemon.
    Iter(&'static str),
}

/// One program.
#[derive(Clone, Copy, Debug)]
struct Spec {
    /// Its name in the object; for a tracepoint also the hook's.
    name: &'static str,
    hook: Hook,
    /// The kernel that has the hook first.
    since: &'static str,
    /// Without it nothing can be measured.
    required: bool,
    /// What is lost without it.
    lost: &'static str,
}

impl Spec {
    fn display_name(&self) -> String {
        match self.hook {
            Hook::TpBtf => format!("tp_btf/{}", self.name),
            Hook::FEntry(function) => format!("fentry/{function}"),
            Hook::SockOps => "cgroup/sock_ops".to_owned(),
            Hook::Iter(target) => format!("iter/{target}"),
        }
    }
}

/// Programs that write at the first byte come before the one that stands in for them.
const SPECS: &[Spec] = &[
    Spec {
        name: "tcp_probe",
        hook: Hook::TpBtf,
        since: "4.16",
        required: true,
        lost: "everything: requests and acknowledgements",
    },
    Spec {
        name: "inet_sock_set_state",
        hook: Hook::TpBtf,
        since: "4.16",
        required: true,
        lost: "everything: sessions",
    },
    Spec {
        name: SENDMSG,
        hook: Hook::TpBtf,
        since: "6.16",
        required: false,
        lost: "the last write, while a long send call is under way",
    },
    Spec {
        name: SENDMSG_ENTRY,
        hook: Hook::FEntry("tcp_sendmsg_locked"),
        since: "5.5",
        required: false,
        lost: "the first write of a blocking server, and telling TLS handshakes from deliveries",
    },
    Spec {
        name: SEND_LENGTH,
        hook: Hook::TpBtf,
        since: "6.3",
        required: false,
        lost: "first and last write: think time and delivery tail become bounds; and what the server \
               says unasked",
    },
    Spec {
        name: "tcp_retransmit_skb",
        hook: Hook::TpBtf,
        since: "4.16",
        required: false,
        lost: "retransmissions by kind and by delivery",
    },
    Spec {
        name: "tcp_retransmit_synack",
        hook: Hook::TpBtf,
        since: "4.16",
        required: false,
        lost: "SYN-ACK retransmissions and half-open sessions that were given up",
    },
    Spec {
        name: "tcp_receive_reset",
        hook: Hook::TpBtf,
        since: "4.16",
        required: false,
        lost: "whether the client reset a session",
    },
    Spec {
        name: "tcp_send_reset",
        hook: Hook::TpBtf,
        since: "4.16",
        required: false,
        lost: "whether the server reset a session",
    },
    Spec {
        name: "sock_ops",
        hook: Hook::SockOps,
        since: "5.10",
        required: false,
        lost: "the exact end of deliveries that outlast the server's close or the client's half-close",
    },
    Spec {
        name: ARRIVALS,
        hook: Hook::TpBtf,
        since: "6.3",
        required: false,
        lost: LOST_ARRIVALS,
    },
    Spec {
        name: ARRIVALS_ENTRY,
        hook: Hook::FEntry("sock_def_readable"),
        since: "5.5",
        required: false,
        lost: LOST_ARRIVALS,
    },
    Spec {
        name: SWEEP,
        hook: Hook::Iter("bpf_sk_storage_map"),
        since: "5.9",
        required: false,
        lost: LOST_SWEEP,
    },
    Spec {
        name: SWEEP_SOCKETS,
        hook: Hook::Iter("tcp"),
        since: "5.9",
        required: false,
        lost: LOST_SWEEP,
    },
    Spec {
        name: ADOPT,
        hook: Hook::Iter("tcp"),
        since: "5.9",
        required: false,
        lost: "sessions that were established before the daemon",
    },
];

const LOST_SWEEP: &str =
    "late deliveries on silent sessions, progress, and closing deliveries by the quiet gap";

const LOST_ARRIVALS: &str =
    "the exact time of requests, and so latencies, while the budget leaves sessions out";

const SENDMSG: &str = "tcp_sendmsg_locked";
const SENDMSG_ENTRY: &str = "sendmsg_entry";
const SEND_LENGTH: &str = "sock_send_length";
/// The program that runs when bytes of a client arrive, and what stands in for it.
const ARRIVALS: &str = "sk_data_ready";
const ARRIVALS_ENTRY: &str = "readable_entry";
/// The program that walks all sessions.
pub(super) const SWEEP: &str = "sweep";
/// What stands in for it, walking all sockets of the host.
pub(super) const SWEEP_SOCKETS: &str = "sweep_sockets";
/// The program that meets the sockets that are there already.
pub(super) const ADOPT: &str = "adopt";

/// The programs that run for every segment and every write, whatever session it is of: what can
/// be switched off as a whole.
#[derive(Default)]
pub(super) struct Clocks {
    names: Vec<&'static str>,
    /// Empty while they are off.
    links: Vec<Link>,
}

impl Clocks {
    const NAMES: [&'static str; 4] = ["tcp_probe", SENDMSG, SENDMSG_ENTRY, SEND_LENGTH];

    /// Attaches them again.
    pub(super) fn start(&mut self, ebpf: &mut Ebpf) -> Result<()> {
        if self.links.is_empty() {
            let attach = |name: &&'static str| {
                attach_clock(ebpf, name).with_context(|| format!("attaching {name}"))
            };
            // All or none.
            self.links = self.names.iter().map(attach).collect::<Result<_>>()?;
        }
        Ok(())
    }

    /// Detaches them.
    pub(super) fn stop(&mut self) {
        self.links.clear();
    }

    /// Whether they run.
    pub(super) fn is_attached(&self) -> bool {
        !self.links.is_empty()
    }
}

/// What keeps a clock attached.
enum Link {
    TpBtf(#[expect(dead_code, reason = "held, to be dropped")] BtfTracePointLink),
    FEntry(#[expect(dead_code, reason = "held, to be dropped")] FEntryLink),
}

/// Attaches a program that is loaded.
fn attach_clock(ebpf: &mut Ebpf, name: &str) -> Result<Link> {
    match program_mut(ebpf, name)? {
        Program::BtfTracePoint(program) => {
            let id = program.attach()?;
            Ok(Link::TpBtf(program.take_link(id)?))
        }
        Program::FEntry(program) => {
            let id = program.attach()?;
            Ok(Link::FEntry(program.take_link(id)?))
        }
        _ => bail!("it is no tracing program"),
    }
}

fn program_mut<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program> {
    ebpf.program_mut(name)
        .ok_or_else(|| anyhow!("the object holds no program of this name"))
}

/// Everything that [`attach_all`] has tried.
pub(super) struct Attached {
    pub(super) probes: Vec<Probe>,
    pub(super) clocks: Clocks,
    /// What runs when bytes of a client arrive: loaded, and attached only while sessions are left out.
    pub(super) arrivals: Clocks,
}

/// Which of those are there that others stand in for.
#[derive(Clone, Copy, Default)]
struct Has {
    sendmsg: bool,
    arrivals: bool,
    sweep: bool,
}

/// Why a program is not even tried.
fn is_not_needed(spec: &Spec, object: Object, has: Has) -> Option<String> {
    match spec.name {
        SENDMSG_ENTRY | SEND_LENGTH if has.sendmsg => {
            Some(format!("tp_btf/{SENDMSG} is there and tells more"))
        }
        ARRIVALS | ARRIVALS_ENTRY if object == Object::Keyed => {
            Some("no session is left out before Linux 5.12".to_owned())
        }
        ARRIVALS_ENTRY if has.arrivals => Some(format!("tp_btf/{ARRIVALS} is there")),
        SWEEP_SOCKETS if object == Object::Keyed => {
            Some("the daemon looks through the table of sessions itself".to_owned())
        }
        SWEEP_SOCKETS if has.sweep => {
            Some("iter/bpf_sk_storage_map is there and costs less".to_owned())
        }
        _ => None,
    }
}

/// Loads every program and attaches those that are attached to something; says of each how it
/// went.
pub(super) fn attach_all(object: Object, ebpf: &mut Ebpf, btf: &Btf) -> Attached {
    let mut clocks = Clocks::default();
    let mut arrivals = Clocks::default();
    let mut probes: Vec<Probe> = Vec::with_capacity(SPECS.len());
    let mut has = Has::default();
    for spec in SPECS {
        if let Some(reason) = is_not_needed(spec, object, has) {
            probes.push(Probe {
                name: spec.display_name(),
                verdict: Verdict::NotApplicable,
                reason,
                lost: String::new(),
            });
            continue;
        }
        if object == Object::Keyed && spec.name == SWEEP {
            probes.push(Probe {
                name: spec.display_name(),
                verdict: Verdict::Unsupported,
                reason: "needs socket storage in tracing programs (Linux 5.12); the daemon looks \
                         through the table of sessions itself"
                    .to_owned(),
                lost:
                    "closing deliveries by the quiet gap: they are reported with the next request"
                        .to_owned(),
            });
            continue;
        }
        let result = attach(ebpf, btf, spec).map(|link| {
            if let Some(link) = link {
                clocks.names.push(spec.name);
                clocks.links.push(link);
            }
        });
        if result.is_ok() {
            match spec.name {
                SENDMSG => has.sendmsg = true,
                SWEEP => has.sweep = true,
                ARRIVALS | ARRIVALS_ENTRY => {
                    has.arrivals = true;
                    arrivals.names.push(spec.name);
                }
                SWEEP_SOCKETS => stand_in_for_sweep(&mut probes),
                _ => {}
            }
        }
        probes.push(judge(spec, &result));
    }
    Attached {
        probes,
        clocks,
        arrivals,
    }
}

/// Another program does what the sweep would have done: what is lost is only some time.
fn stand_in_for_sweep(probes: &mut [Probe]) {
    let at = SPECS.iter().position(|spec| spec.name == SWEEP);
    let Some(sweep) = at.and_then(|at| probes.get_mut(at)) else {
        return;
    };
    sweep.verdict = Verdict::NotApplicable;
    sweep.reason = format!(
        "iter/tcp looks at every socket of the host instead, which takes longer; this one is refused: {}",
        sweep.reason
    );
    sweep.lost.clear();
}

/// The sum over all programs of one of the kernel's counts.
pub(super) fn sum_of(ebpf: &Ebpf, count: impl Fn(&sys::ProgramCounts) -> u64) -> Result<u64> {
    let mut sum = 0;
    for (name, program) in ebpf.programs() {
        // Those that could not be loaded have no descriptor.
        if let Ok(fd) = program.fd() {
            let counts = sys::program_counts(fd.as_fd())
                .with_context(|| format!("asking the kernel about {name}"))?;
            sum += count(&counts);
        }
    }
    Ok(sum)
}

/// How long all programs have run while the kernel kept statistics.
pub(super) fn run_time(ebpf: &Ebpf) -> Result<Duration> {
    sum_of(ebpf, |counts| counts.run_time_ns).map(Duration::from_nanos)
}

/// The first probe that is needed and does not work.
pub(super) fn missing_required(probes: &[Probe]) -> Option<&Probe> {
    SPECS
        .iter()
        .zip(probes)
        .find(|(spec, probe)| spec.required && probe.verdict != Verdict::Ok)
        .map(|(_, probe)| probe)
}

/// What every probe would be worth if nothing could be loaded, for the reason given.
pub(super) fn all_broken(reason: &str) -> Vec<Probe> {
    SPECS
        .iter()
        .map(|spec| Probe {
            name: spec.display_name(),
            verdict: Verdict::Broken,
            reason: reason.to_owned(),
            lost: spec.lost.to_owned(),
        })
        .collect()
}

/// Loads a program and attaches it; a clock's link is returned.
fn attach(ebpf: &mut Ebpf, btf: &Btf, spec: &Spec) -> Result<Option<Link>> {
    let is_clock = Clocks::NAMES.contains(&spec.name);
    let is_for_later = spec.name == ARRIVALS;
    let program = program_mut(ebpf, spec.name)?;
    match spec.hook {
        Hook::TpBtf => {
            let program: &mut BtfTracePoint = program.try_into()?;
            program.load(spec.name, btf)?;
            if !is_clock && !is_for_later {
                program.attach()?;
            }
        }
        Hook::FEntry(function) => {
            let program: &mut FEntry = program.try_into()?;
            program.load(function, btf)?;
        }
        Hook::SockOps => {
            let program: &mut SockOps = program.try_into()?;
            program.load()?;
            cgroup::attach(program, &cgroup::mount_point()?)?;
        }
        Hook::Iter(target) => {
            let program: &mut Iter = program.try_into()?;
            program.load(target, btf)?;
        }
    }
    is_clock.then(|| attach_clock(ebpf, spec.name)).transpose()
}

fn judge(spec: &Spec, result: &Result<()>) -> Probe {
    let (verdict, reason) = match result {
        Ok(()) if matches!(spec.name, ARRIVALS | ARRIVALS_ENTRY) => (
            Verdict::Ok,
            "loaded, for when the budget leaves sessions out".to_owned(),
        ),
        Ok(()) => (Verdict::Ok, "attached".to_owned()),
        Err(error) if not_on_this_machine(error) => (
            Verdict::Unsupported,
            "this kernel attaches no programs to functions on this architecture (arm64: Linux 6.4 \
             does)"
                .to_owned(),
        ),
        Err(error) if is_absent(error) => (
            Verdict::Unsupported,
            format!("this kernel does not have it (Linux {} does)", spec.since),
        ),
        Err(error) => (Verdict::Broken, gist(&format!("{error:#}"))),
    };
    Probe {
        name: spec.display_name(),
        lost: if verdict == Verdict::Ok {
            String::new()
        } else {
            spec.lost.to_owned()
        },
        verdict,
        reason,
    }
}

/// Whether the kernel has the function and cannot call a program from it: it says `ENOTSUPP`.
fn not_on_this_machine(error: &anyhow::Error) -> bool {
    const ENOTSUPP: i32 = 524;
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|cause| cause.raw_os_error() == Some(ENOTSUPP))
    })
}

/// Whether the kernel's BTF does not name the hook.
fn is_absent(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<ProgramError>(),
        Some(ProgramError::Btf(_))
    )
}

/// An error may carry the verifier's whole log; its last words say why, the rest is for the log.
pub(super) fn gist(text: &str) -> String {
    // How the log ends, whatever went wrong.
    const SUMMARY: [&str; 4] = ["processed ", "stack depth ", "verification time ", ": "];
    let Some((head, verifier)) = text.split_once("Verifier output:") else {
        return text.to_owned();
    };
    tracing::debug!("{text}");
    let last = verifier
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty() && !SUMMARY.iter().any(|summary| line.starts_with(summary)))
        .unwrap_or("nothing said");
    format!("{} The verifier: {last}", head.trim())
}
