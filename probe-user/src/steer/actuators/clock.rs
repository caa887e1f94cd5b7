//! The clocks that leases run by.

use nix::time::{ClockId, clock_gettime};

fn read_ns(clock: ClockId) -> u64 {
    // Neither clock fails on Linux. If one did, every lease would be over: neutral.
    clock_gettime(clock).map_or(u64::MAX, |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        let nanoseconds = u64::try_from(time.tv_nsec()).unwrap_or(0);
        seconds * 1_000_000_000 + nanoseconds
    })
}

/// `CLOCK_BOOTTIME`: goes on in suspend and cannot be set.
pub fn boot_ns() -> u64 {
    read_ns(ClockId::CLOCK_BOOTTIME)
}

/// Of the calendar.
pub fn unix_ns() -> u64 {
    read_ns(ClockId::CLOCK_REALTIME)
}

/// Names this boot, so that a reader can tell whose boot time a number is.
pub fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.unwrap_or_default().trim().to_owned()
}
