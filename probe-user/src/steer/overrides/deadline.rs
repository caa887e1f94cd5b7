//! Until when an order holds, such that neither a clock that is set nor a reboot can extend it.

use serde::{Deserialize, Serialize};

/// The clocks of this host at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// `CLOCK_BOOTTIME`: goes on in suspend, cannot be set, begins anew with each boot.
    pub boot_ns: u64,
    pub unix_ns: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
}

/// An end in boot time. What was left is derived when it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    pub until_boot_ns: u64,
}

impl Deadline {
    pub fn after(now_boot_ns: u64, ttl_s: u32) -> Self {
        let ttl_ns = u64::from(ttl_s) * 1_000_000_000;
        Self {
            until_boot_ns: now_boot_ns.saturating_add(ttl_ns),
        }
    }

    pub fn left_ns(&self, now_boot_ns: u64) -> u64 {
        self.until_boot_ns.saturating_sub(now_boot_ns)
    }

    pub fn is_over(&self, now_boot_ns: u64) -> bool {
        now_boot_ns >= self.until_boot_ns
    }

    /// The same end after a restart. Within one boot it is the same number. After a reboot the wall
    /// clock says how long the host was down; what was left when it was kept is the most. None: it
    /// is over, also where the wall clock went back and nothing can be known.
    #[must_use]
    pub fn restored(&self, kept: &Moment, now: &Moment) -> Option<Self> {
        if kept.boot_id == now.boot_id {
            return (!self.is_over(now.boot_ns)).then_some(*self);
        }
        let left_ns = self.left_ns(kept.boot_ns);
        let away_ns = now.unix_ns.checked_sub(kept.unix_ns)?;
        let left_ns = left_ns.checked_sub(away_ns).filter(|left| *left > 0)?;
        Some(Self {
            until_boot_ns: now.boot_ns.saturating_add(left_ns),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_NS: u64 = 60_000_000_000;

    fn moment(boot: u64, unix: u64, boot_id: &str) -> Moment {
        Moment {
            boot_ns: boot * MINUTE_NS,
            unix_ns: unix * MINUTE_NS,
            boot_id: boot_id.to_owned(),
        }
    }

    #[test]
    fn a_reboot_cannot_extend_a_deadline() {
        let kept = moment(100, 1000, "a");
        let deadline = Deadline::after(kept.boot_ns, 30 * 60);
        let left = |now: &Moment| {
            let restored = deadline.restored(&kept, now);
            restored.map(|deadline| deadline.left_ns(now.boot_ns) / MINUTE_NS)
        };
        // The daemon alone was restarted.
        assert_eq!(left(&moment(110, 1010, "a")), Some(20));
        assert_eq!(left(&moment(130, 1030, "a")), None);
        // The host was: its boot clock says nothing of before.
        assert_eq!(left(&moment(1, 1005, "b")), Some(25));
        assert_eq!(left(&moment(1, 1030, "b")), None);
        // Its wall clock was set back, or has no battery.
        assert_eq!(left(&moment(1, 999, "b")), None);
        assert_eq!(left(&moment(0, 1000, "b")), Some(30));
    }
}
