//! The clocks by which orders end and leases hold.

use anyhow::Context as _;

pub(super) use crate::steer::actuators::clock::boot_ns;
use crate::steer::actuators::clock::unix_ns;
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
            unix_ns: unix_ns(),
            boot_id: self.boot_id.clone(),
        }
    }
}
