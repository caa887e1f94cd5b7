//! What is expected of each way of measuring: the one place that says how exact it must be, and
//! what may be lost with it.

use std::time::Duration;

use anyhow::Result;

use super::checks as run;
use super::keeping;
use super::stage::Stage;
use crate::record::Rung;

/// A way of measuring, as weir names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backend {
    Exact,
    Portable,
    Polled,
}

/// How exact a backend is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Promise {
    /// Exchanges so far apart are told apart.
    pub(super) apart: Duration,
    /// How much later than it happened a time may be that is marked as a bound.
    pub(super) bound: Duration,
    /// Every time is that of its event, and none is marked.
    pub(super) times_all: bool,
    /// The ends of sessions that are told by name; others may be.
    pub(super) ends: &'static [&'static str],
    /// Programs, maps and links are in the kernel while it measures.
    pub(super) loads: bool,
}

impl Promise {
    /// Whether an end may be told in this way.
    pub(super) fn allows(&self, made: &str, told: &str) -> bool {
        told == made || (told == "other" && !self.ends.contains(&made))
    }
}

impl Backend {
    /// Best first.
    pub(super) const ALL: [Self; 3] = [Self::Exact, Self::Portable, Self::Polled];

    /// Its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Portable => "portable",
            Self::Polled => "polled",
        }
    }

    /// How exact it is.
    pub(super) fn promise(self) -> Promise {
        match self {
            Self::Exact => Promise {
                apart: Duration::from_millis(20),
                bound: Duration::ZERO,
                times_all: true,
                ends: &["client_fin", "server_fin", "client_rst"],
                loads: true,
            },
            // Called for every packet and for nothing that is written.
            Self::Portable => Promise {
                apart: Duration::from_millis(20),
                bound: Duration::from_millis(250),
                times_all: false,
                ends: &["client_fin", "server_fin"],
                loads: true,
            },
            // Four looks a second, and a quiet gap of 300 ms.
            Self::Polled => Promise {
                apart: Duration::from_millis(1500),
                bound: Duration::from_millis(250),
                times_all: false,
                ends: &[],
                loads: false,
            },
        }
    }
}

/// One thing that must hold.
pub(super) struct Check {
    pub(super) name: &'static str,
    /// The hooks that it cannot hold without, each by any of its names in `weir doctor`; a backend
    /// that uses none of a hook's names does without it.
    needs: &'static [&'static [&'static str]],
    /// The backends that do not promise it, and why; with these it is not tried.
    beyond: &'static [(Backend, &'static str)],
    /// Tries it; says what was measured.
    pub(super) run: fn(&mut Stage) -> Result<String>,
}

/// All of them, in order: the last ones look back at the others.
pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "deliveries",
        needs: &[],
        beyond: &[],
        run: run::deliveries,
    },
    Check {
        name: "totals",
        needs: &[],
        beyond: &[],
        run: run::totals,
    },
    Check {
        name: "closings",
        needs: &[
            &["tp_btf/tcp_receive_reset"],
            &["tp_btf/tcp_send_reset"],
            &["cgroup/sock_ops"],
        ],
        beyond: &[],
        run: run::closings,
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
        beyond: &[],
        run: run::greeting,
    },
    Check {
        name: "first write",
        needs: &[&["tp_btf/tcp_sendmsg_locked", "fentry/tcp_sendmsg_locked"]],
        beyond: &[(Backend::Polled, "writes are seen at the next look")],
        run: run::first_write,
    },
    Check {
        name: "late",
        needs: &[&["iter/bpf_sk_storage_map"]],
        beyond: &[],
        run: run::late,
    },
    Check {
        name: "retransmits",
        needs: &[&["tp_btf/tcp_retransmit_skb"]],
        beyond: &[],
        run: run::retransmits,
    },
    Check {
        name: "reconciled",
        needs: &[],
        beyond: &[],
        run: run::reconciled,
    },
    Check {
        name: "sigkill",
        needs: &[],
        beyond: &[],
        run: run::sigkill,
    },
    Check {
        name: "adopted",
        needs: &[&["iter/tcp"]],
        beyond: &[(
            Backend::Portable,
            "callbacks come for sessions that began after the daemon",
        )],
        run: run::adopted,
    },
    // Each of these starts a daemon of its own.
    Check {
        name: "kill switch",
        needs: &[],
        beyond: &[],
        run: keeping::kill_switch,
    },
    Check {
        name: "recording",
        needs: &[],
        beyond: &[],
        run: keeping::recording,
    },
    Check {
        name: "budget",
        needs: &[],
        beyond: &[],
        run: keeping::budget,
    },
];

impl Check {
    /// Why this backend does not promise it.
    pub(super) fn is_beyond(&self, backend: Backend) -> Option<&'static str> {
        let beyond = self.beyond.iter().find(|(of, _)| *of == backend);
        beyond.map(|(_, why)| *why)
    }

    /// Why it may fail here, in the doctor's words; none: it must hold.
    pub(super) fn missing(&self, rung: &Rung) -> Option<String> {
        self.needs.iter().find_map(|names| {
            let probes: Vec<_> = rung
                .probes
                .iter()
                .filter(|probe| names.contains(&probe.name.as_str()))
                .collect();
            let works = probes.iter().any(|probe| probe.verdict == "ok");
            let lost = probes.last().filter(|_| !works)?;
            Some(format!("{}: {}", names.join(" or "), lost.lost))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Probe;

    const CHECK: Check = Check {
        name: "first write",
        needs: &[&["tp_btf/a", "fentry/a"]],
        beyond: &[(Backend::Polled, "writes")],
        run: |_| Ok(String::new()),
    };

    fn rung(probes: &[(&str, &str)]) -> Rung {
        let probe = |&(name, verdict): &(&str, &str)| Probe {
            name: name.into(),
            verdict: verdict.into(),
            reason: String::new(),
            lost: "the first write".into(),
        };
        Rung {
            backend: "exact".into(),
            works: true,
            reason: String::new(),
            probes: probes.iter().map(probe).collect(),
        }
    }

    #[test]
    fn one_hook_of_several_is_enough_to_hold_a_check_to_its_word() {
        let stands_in = rung(&[("tp_btf/a", "unsupported"), ("fentry/a", "ok")]);
        assert_eq!(CHECK.missing(&stands_in), None);
    }

    #[test]
    fn without_any_of_its_hooks_a_check_is_lost_in_the_doctors_words() {
        let none = rung(&[("tp_btf/a", "unsupported"), ("fentry/a", "broken")]);
        let lost = CHECK.missing(&none);
        assert_eq!(
            lost.as_deref(),
            Some("tp_btf/a or fentry/a: the first write")
        );
    }

    #[test]
    fn a_backend_that_has_no_such_hook_is_held_to_its_word_unless_it_promises_nothing() {
        let other = rung(&[("cgroup/sock_ops", "ok")]);
        assert_eq!(CHECK.missing(&other), None);
        assert_eq!(CHECK.is_beyond(Backend::Portable), None);
        assert_eq!(CHECK.is_beyond(Backend::Polled), Some("writes"));
    }
}
