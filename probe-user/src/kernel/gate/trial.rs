//! Whether the gate can be had on this host, for `weir doctor`: tries it, and takes it out again.

use super::{Gate, Options, listener};
use crate::kernel::{Probe, Verdict, sys};

/// The kernel that has the hook first.
const SINCE: (u32, u32) = (5, 9);

const TURNING: (&str, &str) = (
    "sk_lookup",
    "turning a share of the new connections to another local listener; other gates are not concerned",
);
const CAPPING: (&str, &str) = (
    "cgroup/sock_ops (gate)",
    "capping new sessions, and giving them another congestion control",
);
const TAKING: (&str, &str) = (
    "pidfd_getfd",
    "taking the other listener from its server, without which nobody can be turned to it",
);

/// Each part of the gate.
pub(in crate::kernel) fn try_programs() -> Vec<Probe> {
    let (turning, capping) = match Gate::load(&Options::default()) {
        Ok(gate) => (None, gate.uncapped().map(str::to_owned)),
        Err(error) => {
            let why = format!("{error:#}");
            (Some(why.clone()), Some(why))
        }
    };
    let taking = listener::try_taking().err().map(|err| format!("{err}"));
    vec![
        judge(TURNING, SINCE, turning),
        judge(CAPPING, SINCE, capping),
        judge(TAKING, (5, 6), taking),
    ]
}

fn judge((name, lost): (&str, &str), since: (u32, u32), failure: Option<String>) -> Probe {
    let is_older = sys::kernel_version().is_some_and(|version| version < since);
    let (verdict, reason, lost) = match failure {
        None => (Verdict::Ok, "works".to_owned(), ""),
        Some(_) if is_older => (
            Verdict::Unsupported,
            format!(
                "this kernel does not have it (Linux {}.{} does)",
                since.0, since.1
            ),
            lost,
        ),
        Some(why) => (Verdict::Broken, why, lost),
    };
    Probe {
        name: name.to_owned(),
        verdict,
        reason,
        lost: lost.to_owned(),
    }
}
