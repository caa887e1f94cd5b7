//! What this host offers to eBPF measurement: privileges and kernel settings, each with its
//! remedy. Whether the probes themselves load is the loader's to find out.

use std::path::Path;

use super::{BackendKind, Choice, Probe, Verdict, rungs::Rung, sys};

/// What `weir doctor` found.
#[derive(Clone, Debug)]
pub struct Diagnosis {
    /// E.g. `6.1.0-30-amd64`.
    pub kernel_release: String,
    /// Privileges and settings.
    pub facts: Vec<Fact>,
    /// Every way of measuring, best first.
    pub rungs: Vec<Rung>,
    /// The way that is asked for.
    pub wanted: Choice,
    /// What turning traffic away in the kernel takes. Measuring does without.
    pub gate: Vec<Probe>,
}

/// How well weir can measure here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// The exact backend with everything it can give.
    Exact,
    /// It measures, in some way, and something is lost.
    Degraded,
    /// It cannot measure at all.
    Unable,
}

impl Diagnosis {
    /// This host's facts, with what was tried on it: the ways of measuring, best first, and the gate.
    pub fn of_this_host(
        wanted: Choice,
        kill_switch: &Path,
        rungs: Vec<Rung>,
        gate: Vec<Probe>,
    ) -> Self {
        let root = Path::new("/");
        Self {
            kernel_release: kernel_release(root),
            facts: facts(root, kill_switch),
            rungs,
            wanted,
            gate,
        }
    }

    /// The way of measuring that `weir run` would take; none: weir cannot measure here, or not in
    /// the way that is asked for.
    pub fn taken(&self) -> Option<&Rung> {
        self.rungs.iter().find(|rung| {
            let is_wanted = match self.wanted {
                Choice::Auto => true,
                Choice::Only(kind) => rung.backend == kind,
            };
            is_wanted && rung.works
        })
    }

    /// Whether the kill switch keeps weir off, whatever it could measure.
    pub fn is_switched_off(&self) -> bool {
        self.facts
            .iter()
            .any(|fact| fact.name == KILL_SWITCH && !fact.ok)
    }

    /// The sum of the findings.
    pub fn health(&self) -> Health {
        let Some(rung) = self.taken().filter(|_| !self.is_switched_off()) else {
            return Health::Unable;
        };
        let is_whole = rung
            .probes
            .iter()
            .all(|probe| matches!(probe.verdict, Verdict::Ok | Verdict::NotApplicable));
        if rung.backend == BackendKind::Exact && is_whole && self.facts.iter().all(|fact| fact.ok) {
            Health::Exact
        } else {
            Health::Degraded
        }
    }
}

/// The name of the fact that weir is kept off.
pub const KILL_SWITCH: &str = "kill switch";

/// One privilege or setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// E.g. `CAP_BPF`, `kernel.perf_event_paranoid`.
    pub name: String,
    /// As found.
    pub value: String,
    /// It does not stand in the way.
    pub ok: bool,
    /// What it costs and what to do; empty if it is fine.
    pub remedy: String,
}

impl Fact {
    fn fine(name: &str, value: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            value: value.into(),
            ok: true,
            remedy: String::new(),
        }
    }

    fn bad(name: &str, value: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            value: value.into(),
            ok: false,
            remedy: remedy.into(),
        }
    }
}

/// The capabilities weir uses: name, bit (capabilities(7), linux/capability.h), what for.
const CAPABILITIES: [(&str, u32, &str); 5] = [
    ("CAP_BPF", 39, "loading programs and making maps"),
    (
        "CAP_PERFMON",
        38,
        "attaching to tracepoints and reading kernel memory",
    ),
    (
        "CAP_NET_ADMIN",
        12,
        "socket programs, and asking for the sessions of every user",
    ),
    (
        "CAP_SYS_ADMIN",
        21,
        "entering other network namespaces to adopt their sessions",
    ),
    (
        "CAP_SYS_PTRACE",
        19,
        "finding the network namespaces of other users' processes, and taking the kernel gate's \
         other listener",
    ),
];
const CAP_SYS_ADMIN_BIT: u32 = 21;
/// Capabilities that `CAP_SYS_ADMIN` includes (capabilities(7)).
const WITHIN_SYS_ADMIN: [&str; 2] = ["CAP_BPF", "CAP_PERFMON"];

/// The release of the running kernel, below `root` (`/`, but for tests).
pub fn kernel_release(root: &Path) -> String {
    read(root, "proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".to_owned())
}

/// Every fact, read below `root` (`/`, but for tests). What cannot be read says so in its value.
pub fn facts(root: &Path, kill_switch: &Path) -> Vec<Fact> {
    let mut facts = vec![release(root), btf(root), cgroup2(root)];
    facts.extend(privileges(root));
    facts.extend([
        unprivileged_bpf(root),
        perf_event_paranoid(root),
        jit(root),
        lockdown(root),
    ]);
    facts.extend(switched_off(root, kill_switch));
    facts
}

fn read(root: &Path, path: &str) -> Option<String> {
    let text = std::fs::read_to_string(root.join(path)).ok()?;
    Some(text.trim_end().to_owned())
}

/// The first with everything that measuring exactly cannot do without.
const LEAST_KERNEL: (u32, u32) = (5, 10);

fn release(root: &Path) -> Fact {
    let release = kernel_release(root);
    match sys::version_of(&release) {
        Some(version) if version < LEAST_KERNEL => Fact::bad(
            "kernel",
            release,
            format!(
                "older than {}.{}, the first on which the programs run: weir looks at the sockets \
                 instead; run a newer kernel",
                LEAST_KERNEL.0, LEAST_KERNEL.1
            ),
        ),
        _ => Fact::fine("kernel", release),
    }
}

fn btf(root: &Path) -> Fact {
    const PATH: &str = "sys/kernel/btf/vmlinux";
    match std::fs::File::open(root.join(PATH)).and_then(|file| file.metadata()) {
        Ok(meta) => Fact::fine("BTF", format!("/{PATH} ({} kB)", meta.len() / 1000)),
        Err(error) => Fact::bad(
            "BTF",
            format!("/{PATH}: {error}"),
            "the programs cannot learn the kernel's field offsets: run a kernel built with \
             CONFIG_DEBUG_INFO_BTF=y, with /sys mounted",
        ),
    }
}

fn cgroup2(root: &Path) -> Fact {
    let mounts = read(root, "proc/self/mountinfo").unwrap_or_default();
    // mountinfo: the mount point is the 5th field; the type follows the lone "-" (proc(5)).
    let at = mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let is_cgroup2 = right.split(' ').next() == Some("cgroup2");
        left.split(' ').nth(4).filter(|_| is_cgroup2)
    });
    match at {
        Some(at) => Fact::fine("cgroup v2", format!("mounted at {at}")),
        None => Fact::bad(
            "cgroup v2",
            "not mounted",
            "sessions cannot be filtered by cgroup: \
             mount -t cgroup2 none /sys/fs/cgroup/unified",
        ),
    }
}

fn privileges(root: &Path) -> Vec<Fact> {
    let status = read(root, "proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let Some(effective) = effective else {
        return vec![Fact::bad(
            "capabilities",
            "/proc/self/status has none",
            "mount /proc, so that privileges can be read",
        )];
    };
    let has = |bit: u32| effective & (1 << bit) != 0;
    let mut facts: Vec<Fact> = CAPABILITIES
        .iter()
        .map(|(name, bit, purpose)| {
            if has(*bit) {
                Fact::fine(name, "held")
            } else if WITHIN_SYS_ADMIN.contains(name) && has(CAP_SYS_ADMIN_BIT) {
                Fact::fine(name, "within CAP_SYS_ADMIN")
            } else {
                Fact::bad(
                    name,
                    "missing",
                    format!(
                        "needed for {purpose}: run as root, or give it to the service \
                         (AmbientCapabilities={name})"
                    ),
                )
            }
        })
        .collect();
    facts.push(user_namespace(root));
    facts
}

/// Capabilities count for eBPF only in the initial user namespace, whose map is the identity.
fn user_namespace(root: &Path) -> Fact {
    let map = read(root, "proc/self/uid_map").unwrap_or_default();
    let words: Vec<&str> = map.split_whitespace().collect();
    match words.as_slice() {
        ["0", "0", "4294967295"] => Fact::fine("user namespace", "the initial one"),
        [] => Fact::fine("user namespace", "unknown (no /proc/self/uid_map)"),
        _ => Fact::bad(
            "user namespace",
            "not the initial one",
            "the kernel takes no tracing programs from here: run on the host, \
             or in a container without a user namespace of its own",
        ),
    }
}

fn unprivileged_bpf(root: &Path) -> Fact {
    const NAME: &str = "kernel.unprivileged_bpf_disabled";
    // With CAP_BPF none of the values is in the way.
    match read(root, "proc/sys/kernel/unprivileged_bpf_disabled").as_deref() {
        Some("0") => Fact::fine(NAME, "0 (any user may load some programs)"),
        Some(value) => Fact::fine(NAME, format!("{value} (privileged users only)")),
        None => Fact::bad(
            NAME,
            "absent",
            "the kernel seems to be built without the bpf(2) system call: \
             run one with CONFIG_BPF_SYSCALL=y",
        ),
    }
}

fn perf_event_paranoid(root: &Path) -> Fact {
    const NAME: &str = "kernel.perf_event_paranoid";
    // With CAP_PERFMON none of the values is in the way.
    match read(root, "proc/sys/kernel/perf_event_paranoid") {
        Some(value) => Fact::fine(NAME, format!("{value} (does not bind CAP_PERFMON)")),
        None => Fact::fine(NAME, "absent"),
    }
}

fn jit(root: &Path) -> Fact {
    const NAME: &str = "net.core.bpf_jit_enable";
    match read(root, "proc/sys/net/core/bpf_jit_enable").as_deref() {
        Some("0") => Fact::bad(
            NAME,
            "0",
            "programs are interpreted, at several times the cost: sysctl -w net.core.bpf_jit_enable=1",
        ),
        Some(value) => Fact::fine(NAME, value),
        // The setting exists in the initial network namespace only.
        None => Fact::fine(NAME, "not visible from this network namespace"),
    }
}

/// Only where the kill switch is on.
fn switched_off(root: &Path, kill_switch: &Path) -> Option<Fact> {
    let path = kill_switch.display();
    let on = root.join(kill_switch.strip_prefix("/").unwrap_or(kill_switch));
    on.symlink_metadata().is_ok().then(|| {
        Fact::bad(
            KILL_SWITCH,
            format!("{path} is there"),
            format!("weir is off as long as it is: rm {path}"),
        )
    })
}

fn lockdown(root: &Path) -> Fact {
    const NAME: &str = "lockdown";
    let Some(modes) = read(root, "sys/kernel/security/lockdown") else {
        return Fact::fine(NAME, "none visible");
    };
    // The mode in force is bracketed: "none [integrity] confidentiality".
    let mode = modes
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
        .map_or(modes.as_str(), |(mode, _)| mode);
    if mode == "confidentiality" {
        return Fact::bad(
            NAME,
            mode,
            "programs may not read kernel memory: boot with lockdown=integrity or less",
        );
    }
    Fact::fine(NAME, mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host in a directory.
    struct Host(tempfile::TempDir);

    impl Host {
        /// One on which everything is as it should be.
        fn good() -> Self {
            let host = Self(tempfile::tempdir().unwrap());
            host.set("proc/sys/kernel/osrelease", "6.1.0-30-amd64\n");
            host.set("sys/kernel/btf/vmlinux", "BTF");
            host.set(
                "proc/self/mountinfo",
                "30 23 0:26 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw\n",
            );
            host.set(
                "proc/self/status",
                "Name:\tweir\nCapEff:\t000001ffffffffff\n",
            );
            host.set("proc/self/uid_map", "         0          0 4294967295\n");
            host.set("proc/sys/kernel/unprivileged_bpf_disabled", "2\n");
            host.set("proc/sys/kernel/perf_event_paranoid", "3\n");
            host.set("proc/sys/net/core/bpf_jit_enable", "1\n");
            host.set(
                "sys/kernel/security/lockdown",
                "none [integrity] confidentiality\n",
            );
            host
        }

        fn set(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        fn remove(&self, path: &str) {
            std::fs::remove_file(self.0.path().join(path)).unwrap();
        }

        fn bad(&self) -> Vec<(String, String)> {
            facts(self.0.path(), Path::new("/etc/off"))
                .into_iter()
                .filter(|fact| !fact.ok)
                .map(|fact| (fact.name, fact.remedy))
                .collect()
        }

        /// Asserts that exactly this fact is bad, and that its remedy says so.
        fn assert_only_bad(&self, name: &str, remedy: &str) {
            let bad = self.bad();
            assert_eq!(bad.len(), 1, "{bad:?}");
            assert_eq!(bad[0].0, name);
            assert!(bad[0].1.contains(remedy), "{bad:?}");
        }
    }

    #[test]
    fn a_good_host_has_nothing_to_remedy() {
        assert_eq!(Host::good().bad(), []);
    }

    #[test]
    fn each_missing_capability_is_named_with_its_purpose() {
        let host = Host::good();
        let all = 0x1ff_ffff_ffff_u64;
        host.set(
            "proc/self/status",
            &format!("CapEff:\t{:016x}\n", all & !(1 << 12)),
        );
        host.assert_only_bad("CAP_NET_ADMIN", "sessions of every user");

        host.set("proc/self/status", "CapEff:\t0000000000000000\n");
        let names: Vec<String> = host.bad().into_iter().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            [
                "CAP_BPF",
                "CAP_PERFMON",
                "CAP_NET_ADMIN",
                "CAP_SYS_ADMIN",
                "CAP_SYS_PTRACE"
            ]
        );
    }

    #[test]
    fn sys_admin_includes_bpf_and_perfmon() {
        let host = Host::good();
        let mask = (1_u64 << 21) | (1 << 19) | (1 << 12);
        host.set("proc/self/status", &format!("CapEff:\t{mask:016x}\n"));
        assert_eq!(host.bad(), []);
    }

    #[test]
    fn each_setting_in_the_way_is_named_with_its_remedy() {
        let host = Host::good();
        host.set("proc/sys/kernel/osrelease", "5.4.0\n");
        host.assert_only_bad("kernel", "run a newer kernel");

        let host = Host::good();
        host.remove("sys/kernel/btf/vmlinux");
        host.assert_only_bad("BTF", "CONFIG_DEBUG_INFO_BTF");

        let host = Host::good();
        host.set(
            "proc/self/mountinfo",
            "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n",
        );
        host.assert_only_bad("cgroup v2", "mount -t cgroup2");

        let host = Host::good();
        host.set("proc/self/uid_map", "0 100000 65536\n");
        host.assert_only_bad("user namespace", "run on the host");

        let host = Host::good();
        host.set("proc/sys/net/core/bpf_jit_enable", "0\n");
        host.assert_only_bad("net.core.bpf_jit_enable", "sysctl -w");

        let host = Host::good();
        host.set(
            "sys/kernel/security/lockdown",
            "none integrity [confidentiality]\n",
        );
        host.assert_only_bad("lockdown", "lockdown=integrity");

        let host = Host::good();
        host.set("etc/off", "");
        host.assert_only_bad("kill switch", "rm /etc/off");
    }

    #[test]
    fn health_is_exact_only_with_every_probe_and_fact() {
        let probe = |verdict| Probe {
            name: "tp_btf/tcp_probe".into(),
            verdict,
            reason: String::new(),
            lost: String::new(),
        };
        let mut diagnosis = Diagnosis {
            kernel_release: "6.1".into(),
            facts: facts(Host::good().0.path(), Path::new("/etc/off")),
            wanted: Choice::Auto,
            gate: vec![probe(Verdict::Unsupported)],
            rungs: vec![
                Rung::tried(
                    BackendKind::Exact,
                    vec![probe(Verdict::Ok), probe(Verdict::NotApplicable)],
                    true,
                ),
                Rung::tried(BackendKind::Polled, vec![probe(Verdict::Ok)], true),
            ],
        };
        assert_eq!(diagnosis.health(), Health::Exact);
        diagnosis.wanted = Choice::Only(BackendKind::Polled);
        assert_eq!(diagnosis.taken().unwrap().backend, BackendKind::Polled);
        assert_eq!(diagnosis.health(), Health::Degraded);
        diagnosis.wanted = Choice::Only(BackendKind::Portable);
        assert_eq!(diagnosis.health(), Health::Unable);
        diagnosis.wanted = Choice::Auto;
        diagnosis.rungs[0].probes.push(probe(Verdict::Unsupported));
        assert_eq!(diagnosis.health(), Health::Degraded);
        diagnosis.rungs[0].works = false;
        assert_eq!(diagnosis.taken().unwrap().backend, BackendKind::Polled);
        assert_eq!(diagnosis.health(), Health::Degraded);
        diagnosis.rungs[1].works = false;
        assert_eq!(diagnosis.health(), Health::Unable);
    }
}
