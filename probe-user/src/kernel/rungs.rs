//! The ladder: the ways of measuring, best first, what each is worth, and which one is taken.

use anyhow::{Context as _, Result, bail};

use super::{Backend, BackendKind, Exact, Options, Polled, Portable, Probe, Settings, Verdict};

/// What a way of measuring tells, in an operator's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worth {
    /// What is exact.
    pub exact: &'static str,
    /// What is known to lie within bounds, and is marked so.
    pub bounded: &'static str,
    /// What is not measured.
    pub lost: &'static str,
    /// What it takes.
    pub needs: &'static str,
    /// How `budget_core_permille` is kept.
    pub budget: &'static str,
}

impl BackendKind {
    /// What this way of measuring tells.
    pub fn worth(self) -> Worth {
        match self {
            Self::Exact => Worth {
                exact: "every time, taken as the packet or the write passes; bytes, segments, \
                        retransmissions by kind; who ended a session",
                bounded: "what a missing probe would have told",
                lost: "nothing that this host's kernel knows",
                needs: "Linux 5.10 with BTF; CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, or root",
                budget: "kept by following a share of the sessions; before Linux 5.12 not kept, but \
                         measured, and an excess told; needs CAP_SYS_ADMIN",
            },
            Self::Portable => Worth {
                exact: "nearly every time, taken as the packet passes or the send call begins; \
                        bytes, segments, retransmissions",
                bounded: "the last write, by the last segment sent; answers that wait behind the \
                          client's closed window, told as ended where they began to wait; the end \
                          of an answer that the server's FIN follows, by the FIN's acknowledgement; \
                          the kind of a retransmission, by what is lost then",
                lost: "sessions from before the daemon, telling resets and timeouts from other \
                       ends, half-open sessions, network namespaces, delivery rates, time limited by receiver \
                       window and send buffer",
                needs: "Linux 5.10, cgroup v2; CAP_BPF and CAP_NET_ADMIN, or root; no BTF",
                budget: "not kept, but measured, and an excess told; needs CAP_SYS_ADMIN",
            },
            Self::Polled => Worth {
                exact: "sessions' totals at their end: bytes, segments, retransmissions; round-trip \
                        times, windows and rates as they are when looked at",
                bounded: "all times, by the looks around them (250 ms apart, more where there are \
                          very many sockets); exchanges that fall between two looks are one, \
                          and cut off if the last of them is",
                lost: "telling TLS handshakes from deliveries, retransmissions by kind, who ended \
                       a session that ends between two looks, handshake times",
                needs: "Linux 4.19 with inet_diag; no privilege, but CAP_SYS_ADMIN for other \
                        network namespaces",
                budget: "kept by looking less often, every two seconds at the least",
            },
        }
    }
}

/// One way of measuring, tried on this host.
#[derive(Clone, Debug)]
pub struct Rung {
    /// Which.
    pub backend: BackendKind,
    /// It can measure here.
    pub works: bool,
    /// Why not; empty if it works.
    pub reason: String,
    /// Everything that it uses.
    pub probes: Vec<Probe>,
}

impl Rung {
    /// What came of trying it.
    pub fn tried(backend: BackendKind, probes: Vec<Probe>, works: bool) -> Self {
        let in_the_way = probes
            .iter()
            .find(|probe| !works && !matches!(probe.verdict, Verdict::Ok | Verdict::NotApplicable));
        Self {
            backend,
            works,
            reason: in_the_way.map_or_else(String::new, |probe| {
                format!("{}: {}", probe.name, probe.reason)
            }),
            probes,
        }
    }
}

/// Which way of measuring is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The best that works.
    #[default]
    Auto,
    /// This one, or none.
    Only(BackendKind),
}

impl Choice {
    /// As the configuration and the command line name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Only(kind) => kind.as_str(),
        }
    }
}

impl std::str::FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        std::iter::once(Self::Auto)
            .chain(BackendKind::ALL.map(Self::Only))
            .find(|choice| choice.as_str() == text)
            .ok_or_else(|| "one of auto, exact, portable, polled is expected".to_owned())
    }
}

/// Begins to measure in the way that is wanted, and says at length why no better way was taken.
pub fn load(choice: Choice, options: &Options, settings: &Settings) -> Result<Box<dyn Backend>> {
    let kinds = match choice {
        Choice::Only(kind) => return load_one(kind, options, settings),
        Choice::Auto => BackendKind::ALL,
    };
    let mut failures = Vec::new();
    for kind in kinds {
        match load_one(kind, options, settings) {
            Ok(backend) => {
                if !failures.is_empty() {
                    let worth = kind.worth();
                    tracing::warn!(
                        backend = kind.as_str(),
                        bounded = worth.bounded,
                        lost = worth.lost,
                        "no better way of measuring works here (`weir doctor` says what it needs): {}",
                        failures.join("; ")
                    );
                }
                return Ok(backend);
            }
            Err(err) => failures.push(format!("{}: {err:#}", kind.as_str())),
        }
    }
    bail!("{}", failures.join("; "))
}

fn load_one(kind: BackendKind, options: &Options, settings: &Settings) -> Result<Box<dyn Backend>> {
    let backend: Box<dyn Backend> = match kind {
        BackendKind::Exact => Box::new(Exact::load(options, settings)?),
        BackendKind::Portable => Box::new(Portable::load(options, settings)?),
        BackendKind::Polled => {
            Box::new(Polled::start(options, settings).context("looking at the sockets")?)
        }
    };
    Ok(backend)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_written_as_it_is_read() {
        for text in ["auto", "exact", "portable", "polled"] {
            assert_eq!(text.parse::<Choice>().unwrap().as_str(), text);
        }
        assert!("best".parse::<Choice>().unwrap_err().contains("polled"));
    }

    #[test]
    fn a_rung_that_does_not_work_names_what_is_in_the_way() {
        let probe = |name: &str, verdict, reason: &str| Probe {
            name: name.into(),
            verdict,
            reason: reason.into(),
            lost: String::new(),
        };
        let probes = vec![
            probe("a", Verdict::Ok, "attached"),
            probe("b", Verdict::Broken, "no permission"),
        ];
        let tried = |works| Rung::tried(BackendKind::Exact, probes.clone(), works);
        assert_eq!(tried(false).reason, "b: no permission");
        assert_eq!(tried(true).reason, "");
    }
}
