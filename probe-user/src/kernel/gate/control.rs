//! The word by which the programs are told what holds: a map's one element, mapped, so that each
//! change is one store that a program sees whole, and none can fail.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::unistd::{SysconfVar, sysconf};
use probe_ebpf::gate;

/// The mapped element.
#[derive(Debug)]
pub(super) struct Control {
    element: NonNull<gate::Control>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is only reached by atomic
// operations.
unsafe impl Send for Control {}

impl Control {
    /// Maps it.
    pub(super) fn map(map: &impl AsFd) -> io::Result<Self> {
        let page = sysconf(SysconfVar::PAGE_SIZE)?.unwrap_or(4096);
        let len = usize::try_from(page).map_err(io::Error::other)?;
        // SAFETY: a new mapping at an address of the kernel's choosing; the descriptor is open
        // during the call, and the mapping holds the map after it.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_fd().as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let element = NonNull::new(at.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { element, len })
    }

    /// With what clients are dealt out; before the programs are attached.
    pub(super) fn deal(&self, hash_key: [u64; 2], by_connection: bool) {
        let at = self.element.as_ptr();
        // SAFETY: the addresses are of fields of the mapped element.
        let (first, second, by) = unsafe {
            (
                &raw mut (*at).hash_key[0],
                &raw mut (*at).hash_key[1],
                &raw mut (*at).by_connection,
            )
        };
        for (word, value) in [
            (first, hash_key[0]),
            (second, hash_key[1]),
            (by, u64::from(by_connection)),
        ] {
            // SAFETY: of the mapped element.
            unsafe { word_at(word) }.store(value, Ordering::Relaxed);
        }
    }

    /// The slot that is not in force.
    pub(super) fn idle_slot(&self) -> u8 {
        u8::from(self.epoch().load(Ordering::SeqCst) & 1 == 0)
    }

    /// Puts the idle slot in force until then.
    pub(super) fn flip(&self, until_boot_ns: u64) {
        self.until(self.idle_slot())
            .store(until_boot_ns, Ordering::SeqCst);
        self.epoch().fetch_add(1, Ordering::SeqCst);
    }

    /// Until when the slot in force holds; 0: it does not.
    pub(super) fn held_until_boot_ns(&self) -> u64 {
        self.until(1 - self.idle_slot()).load(Ordering::SeqCst)
    }

    /// Holds the slot in force until then.
    pub(super) fn hold(&self, until_boot_ns: u64) {
        self.until(1 - self.idle_slot())
            .store(until_boot_ns, Ordering::SeqCst);
    }

    /// Neutral at once, whatever is in the slots.
    pub(super) fn release(&self) {
        for slot in [0, 1] {
            self.until(slot).store(0, Ordering::SeqCst);
        }
    }

    fn epoch(&self) -> &AtomicU64 {
        // SAFETY: a field of the mapped element.
        unsafe { word_at(&raw mut (*self.element.as_ptr()).epoch) }
    }

    fn until(&self, slot: u8) -> &AtomicU64 {
        let slot = usize::from(slot & 1);
        // SAFETY: an element, by a checked index, of a field of the mapped element.
        unsafe { word_at(&raw mut (*self.element.as_ptr()).until_boot_ns[slot]) }
    }
}

/// A word of the mapped element: aligned, zeroed by the kernel at first, and only reached by atomic
/// operations; the kernel's programs do no more than load it.
///
/// # Safety
/// `at` is in the element, which stays mapped as long as what is returned is used.
unsafe fn word_at<'a>(at: *mut u64) -> &'a AtomicU64 {
    // SAFETY: the caller's.
    unsafe { AtomicU64::from_ptr(at) }
}

impl Drop for Control {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and no reference to it outlives `self`.
        unsafe {
            libc::munmap(self.element.as_ptr().cast(), self.len);
        }
    }
}
