//! What is left of boots that are over: their names, so that none is counted twice, and what was
//! counted of their frames.

use std::collections::VecDeque;
use std::hash::Hasher;

use siphasher::sip128::{Hasher128 as _, SipHasher13};
use weir_proto::v1;

use super::boot::{Boot, Sums};

/// Names of one host that are remembered: of a daemon that ends every quarter of a second, more than
/// its ring can bring up again. 96 KiB.
const MAX_NAMES: usize = 4096;

/// Boots that are in the sum alone.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// Hash of the name, and when it began by its own clock; who was let go first is first.
    names: VecDeque<(Name, u64)>,
    /// Those that are forgotten began no later.
    forgotten_unix_ns: Option<u64>,
    pub(super) boots: u64,
    pub(super) sums: Sums,
}

/// In bytes, so that it takes no more than it must.
type Name = [u8; 16];

fn name(boot_id: &str) -> Name {
    let mut hasher = SipHasher13::new();
    hasher.write(boot_id.as_bytes());
    hasher.finish128().as_bytes()
}

impl Past {
    /// Whether a boot was let go. Of those that are forgotten only what they left on disk can come
    /// again: whoever speaks for itself runs, and clocks may have been set back before it began.
    pub(super) fn has(&self, hello: &v1::Hello) -> bool {
        let is_forgotten = hello.is_recovery
            && self
                .forgotten_unix_ns
                .is_some_and(|until| hello.started_unix_ns <= until);
        let name = name(&hello.boot_id);
        is_forgotten || self.names.iter().any(|(known, _)| *known == name)
    }

    /// A boot is over.
    pub(super) fn add(&mut self, boot: &Boot) {
        self.sums.add(&boot.sums());
        if boot.is_unheard() {
            // Nothing of it is in the sum, and it may come again.
            return;
        }
        self.boots += 1;
        if self.names.len() >= MAX_NAMES
            && let Some((_, began_unix_ns)) = self.names.pop_front()
        {
            self.forgotten_unix_ns = self.forgotten_unix_ns.max(Some(began_unix_ns));
        }
        let began_unix_ns = boot.hello.started_unix_ns;
        self.names
            .push_back((name(&boot.hello.boot_id), began_unix_ns));
    }
}
