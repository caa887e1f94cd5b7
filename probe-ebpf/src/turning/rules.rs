//! Finding the rule in force, and counting for it.

use core::ptr::read_volatile;

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    helpers::generated::bpf_ktime_get_boot_ns,
    macros::map,
    maps::{Array, LpmTrie, PerCpuArray, lpm_trie::Key},
};
use probe_ebpf::gate::{Control, Counts, KEY_BYTES, MAX_RULES, Rule, key_data};

/// One element; see [`Control`].
#[map]
static CONTROL: Array<Control> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// The rules of both slots, by port and the client's prefix.
#[map]
static RULES: LpmTrie<[u8; KEY_BYTES], Rule> =
    LpmTrie::with_max_entries(2 * MAX_RULES, BPF_F_NO_PREALLOC);
/// See [`Counts`].
#[map]
static COUNTS: PerCpuArray<Counts> = PerCpuArray::with_max_entries(MAX_RULES, 0);

/// A flip of the slots between two looks at the epoch is a millisecond's work of user space: it
/// cannot happen twice in one run of a program.
const TRIES: usize = 2;

/// A rule, copied while its slot was in force.
pub struct Found {
    pub rule: Rule,
    /// The position's time is over.
    pub is_over: bool,
}

/// What user space says, unless every position is neutral.
#[inline(always)]
pub fn control() -> Option<*const Control> {
    let control = CONTROL.get_ptr(0)?;
    // SAFETY: the map's one element, aligned words that are only ever stored whole.
    let until = unsafe {
        read_volatile(&raw const (*control).until_boot_ns[0])
            | read_volatile(&raw const (*control).until_boot_ns[1])
    };
    (until != 0).then_some(control)
}

/// Whether each connection is dealt out by itself.
#[inline(always)]
pub fn by_connection(control: *const Control) -> bool {
    // SAFETY: as in `control`.
    unsafe { read_volatile(&raw const (*control).by_connection) != 0 }
}

/// With what clients are dealt out.
#[inline(always)]
pub fn hash_key(control: *const Control) -> [u64; 2] {
    // SAFETY: as in `control`.
    unsafe {
        [
            read_volatile(&raw const (*control).hash_key[0]),
            read_volatile(&raw const (*control).hash_key[1]),
        ]
    }
}

/// The rule for a client at a port, of one position whole: what was found while the slots changed is
/// looked for again.
#[inline(always)]
pub fn find(control: *const Control, port: u16, client: &[u8; 16]) -> Option<Found> {
    let mut tries = 0;
    while tries < TRIES {
        // SAFETY: as in `control`.
        let (epoch, until) = unsafe {
            let epoch = read_volatile(&raw const (*control).epoch);
            let until = if epoch & 1 == 0 {
                read_volatile(&raw const (*control).until_boot_ns[0])
            } else {
                read_volatile(&raw const (*control).until_boot_ns[1])
            };
            (epoch, until)
        };
        let key = Key::new(
            8 * KEY_BYTES as u32,
            key_data(epoch as u8 & 1, port, client),
        );
        let rule = RULES.get(key).copied();
        // SAFETY: as in `control`.
        if unsafe { read_volatile(&raw const (*control).epoch) } == epoch {
            // Released: as if there were no rule.
            if until == 0 {
                return None;
            }
            // SAFETY: takes no argument.
            let now = unsafe { bpf_ktime_get_boot_ns() };
            return rule.map(|rule| Found {
                rule,
                is_over: now >= until,
            });
        }
        tries += 1;
    }
    None
}

/// Where a rule counts.
#[inline(always)]
pub fn counts(index: u32) -> Option<*mut Counts> {
    COUNTS.get_ptr_mut(index)
}

/// Raises one of a rule's counts on this CPU.
macro_rules! count {
    ($counts:expr, $name:ident) => {
        // SAFETY: the element lives as long as the program and is an aligned u64. Atomic, because
        // an interrupt on this CPU may count between load and store.
        unsafe { crate::atomic::add(&raw mut (*$counts).$name, 1) }
    };
}
pub(super) use count;
