//! The clocks by which orders end and leases hold.

use anyhow::Context as _;
use nix::time::{ClockId, clock_gettime};

use crate::steer::overrides::Moment;

/// Tells the time; which boot it is does not change while this runs.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    boot_id: String,
}

impl Clock {
    pub(super) fn new() -> anyhow::Result<Self> {
        let path = "/proc/sys/kernel/random/boot_id";
        let boot_id = std::fs::read_to_string(path)
            .with_context(|| format!("cannot tell which boot this is: {path}"))?;
        let clock = Self {
            boot_id: boot_id.trim().to_owned(),
        };
        // Whether there is one at all is found out now: later it cannot fail.
        anyhow::ensure!(boot_ns() > 0, "this kernel has no CLOCK_BOOTTIME");
        Ok(clock)
    }

    pub(super) fn now(&self) -> Moment {
        Moment {
            boot_ns: boot_ns(),
            unix_ns: read(ClockId::CLOCK_REALTIME),
            boot_id: self.boot_id.clone(),
        }
    }
}

/// Nanoseconds of `CLOCK_BOOTTIME`.
pub(super) fn boot_ns() -> u64 {
    read(ClockId::CLOCK_BOOTTIME)
}

fn read(clock: ClockId) -> u64 {
    let Ok(time) = clock_gettime(clock) else {
        return 0;
    };
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0)
}
