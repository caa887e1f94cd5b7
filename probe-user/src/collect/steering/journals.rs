//! What hosts have written down of their gates lately, by host.
//!
//! Pure; bounded by host and in all. The hosts' own journals are what counts: this is for whoever asks
//! the centre, and to hold a journal to whose end might have been cut off.

use std::collections::{HashMap, VecDeque};

use weir_proto::v1;

/// Of one host.
const MAX_ENTRIES: usize = 128;
/// Of all hosts together, as they are held.
const MAX_BYTES: usize = 64 << 20;

#[derive(Debug, Default)]
struct Host {
    entries: VecDeque<v1::SteerEvent>,
    bytes: usize,
    heard: u64,
}

/// All hosts'.
#[derive(Debug, Default)]
pub struct Journals {
    hosts: HashMap<String, Host>,
    bytes: usize,
    heard: u64,
}

fn bytes_of(entry: &v1::SteerEvent) -> usize {
    let texts = [&entry.hash, &entry.kind, &entry.text, &entry.body_json];
    let texts: usize = texts.iter().map(|text| text.len()).sum();
    texts + size_of::<v1::SteerEvent>()
}

impl Journals {
    /// A host has written this down. What came before is not kept twice.
    pub fn note(&mut self, host: &str, entry: v1::SteerEvent) {
        self.heard += 1;
        let own = self.hosts.entry(host.to_owned()).or_default();
        own.heard = self.heard;
        if own.entries.iter().any(|known| known.hash == entry.hash) {
            return;
        }
        let bytes = bytes_of(&entry);
        own.bytes += bytes;
        self.bytes += bytes;
        own.entries.push_back(entry);
        if own.entries.len() > MAX_ENTRIES
            && let Some(oldest) = own.entries.pop_front()
        {
            own.bytes -= bytes_of(&oldest);
            self.bytes -= bytes_of(&oldest);
        }
        while self.bytes > MAX_BYTES {
            // Those of the host that has been quiet for longest.
            let quietest = self.hosts.iter().min_by_key(|(_, own)| own.heard);
            let Some(quietest) = quietest.map(|(host, _)| host.clone()) else {
                return;
            };
            if let Some(gone) = self.hosts.remove(&quietest) {
                self.bytes -= gone.bytes;
            }
        }
    }

    /// The newest last.
    pub fn of(&self, host: &str) -> Vec<v1::SteerEvent> {
        let own = self.hosts.get(host);
        own.map(|own| own.entries.iter().cloned().collect())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seq: u64, text_bytes: usize) -> v1::SteerEvent {
        v1::SteerEvent {
            seq,
            hash: format!("h{seq}"),
            text: "x".repeat(text_bytes),
            ..v1::SteerEvent::default()
        }
    }

    #[test]
    fn each_entry_is_kept_once_and_the_oldest_go() {
        let mut journals = Journals::default();
        for seq in 0..200 {
            journals.note("a", entry(seq, 1));
            journals.note("a", entry(seq, 1));
        }
        let kept = journals.of("a");
        assert_eq!(kept.len(), MAX_ENTRIES);
        assert_eq!(kept.last().unwrap().seq, 199);
        assert!(journals.of("b").is_empty());
    }

    #[test]
    fn all_together_are_bounded_and_the_quietest_go_first() {
        let mut journals = Journals::default();
        for seq in 0..40 {
            journals.note("quiet", entry(seq, 1 << 10));
        }
        for host in 0..2_000 {
            for seq in 0..10 {
                journals.note(&format!("h{host}"), entry(seq, 4 << 10));
            }
        }
        assert!(journals.bytes <= MAX_BYTES);
        let told: usize = journals.hosts.values().map(|own| own.bytes).sum();
        assert_eq!(journals.bytes, told);
        assert!(journals.of("quiet").is_empty());
        assert_eq!(journals.of("h1999").len(), 10);
    }
}
