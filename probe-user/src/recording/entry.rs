//! One [`Said`] as bytes and back. An entry is 8 bytes of head (tag, ring, two zero bytes, length
//! of the body) and the body; numbers are little-endian, as the records themselves are.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use bytemuck::Pod;
use probe_ebpf::record::{Delivery, SessionEnd, SessionStart};
use prost::Message as _;
use weir_proto::v1;

use super::{Said, label};
use crate::kernel::{BackendKind, HalfOpenGiveUp, KernelCounts, Record, Ring, RingCounts};
use crate::labels::network;

#[cfg(target_endian = "big")]
compile_error!("recordings hold records as the kernel wrote them, and those are little-endian");

const HEAD: usize = 8;

mod tag {
    pub(super) const DRAIN: u8 = 1;
    pub(super) const SESSION_START: u8 = 2;
    pub(super) const SESSION_END: u8 = 3;
    pub(super) const DELIVERY: u8 = 4;
    pub(super) const MALFORMED: u8 = 5;
    pub(super) const COUNTS: u8 = 6;
    pub(super) const CLOCK: u8 = 7;
    pub(super) const GIVE_UP: u8 = 8;
    pub(super) const NOW: u8 = 9;
    pub(super) const SETTINGS: u8 = 10;
    pub(super) const MISSING: u8 = 11;
    pub(super) const LABEL: u8 = 12;
    pub(super) const CLIENT_NETWORK: u8 = 13;
}

/// An entry that this version does not understand, in a block whose checksum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no entry of this version at byte {at} of a block")]
pub struct BadEntry {
    /// Where in the block.
    pub at: usize,
}

/// Appends an entry to `to`.
pub fn append(to: &mut Vec<u8>, said: &Said<'_>) {
    match said {
        Said::Drain { ring, now_ns } => put(to, tag::DRAIN, *ring, &now_ns.to_le_bytes()),
        Said::Record { ring, record } => match record {
            Record::SessionStart(record) => put_pod(to, tag::SESSION_START, *ring, *record),
            Record::SessionEnd(record) => put_pod(to, tag::SESSION_END, *ring, *record),
            Record::Delivery(record) => put_pod(to, tag::DELIVERY, *ring, *record),
            Record::Malformed => put(to, tag::MALFORMED, *ring, &[]),
        },
        Said::Counts { now_ns, counts } => {
            let mut words = [0; 1 + COUNTS];
            words[0] = *now_ns;
            words[1..].copy_from_slice(&count_words(counts));
            put_words(to, tag::COUNTS, &words);
        }
        Said::Clock {
            now_ns,
            unix_minus_monotonic_ns,
        } => put_words(
            to,
            tag::CLOCK,
            &[*now_ns, unix_minus_monotonic_ns.cast_unsigned()],
        ),
        Said::GiveUp(give_up) => put(to, tag::GIVE_UP, Ring::Hot, &give_up_bytes(give_up)),
        Said::Now { now_ns } => put_words(to, tag::NOW, &[*now_ns]),
        Said::Settings(settings) => {
            put(to, tag::SETTINGS, Ring::Hot, &settings.encode_to_vec());
        }
        Said::Missing { now_ns, records } => put_words(to, tag::MISSING, &[*now_ns, *records]),
        Said::Label(said) => {
            let message = label::message(said);
            put(to, tag::LABEL, Ring::Hot, &message.encode_to_vec());
        }
        Said::ClientNetwork { prefix, name } => {
            let message = v1::RecordedClientNetwork {
                prefix: prefix.to_string(),
                name: name.to_string(),
            };
            put(to, tag::CLIENT_NETWORK, Ring::Hot, &message.encode_to_vec());
        }
    }
}

/// Calls `each` with every entry of a block.
pub fn read(block: &[u8], mut each: impl FnMut(Said<'_>)) -> Result<(), BadEntry> {
    let mut at = 0;
    while at < block.len() {
        at = read_at(block, at, &mut each)?;
    }
    Ok(())
}

/// Calls `each` with the entry that begins at byte `at` of a block. Gives where the next one begins.
///
/// # Errors
/// No entry of this version begins there.
pub fn read_at(
    block: &[u8],
    at: usize,
    each: &mut impl FnMut(Said<'_>),
) -> Result<usize, BadEntry> {
    let bad = BadEntry { at };
    let left = block.get(at..).ok_or(bad)?;
    let (head, rest) = left.split_first_chunk::<HEAD>().ok_or(bad)?;
    let [tag, ring, 0, 0, len @ ..] = *head else {
        return Err(bad);
    };
    let len = u32::from_le_bytes(len) as usize;
    let body = rest.get(..len).ok_or(bad)?;
    let ring = match ring {
        0 => Ring::Hot,
        1 => Ring::Bulk,
        _ => return Err(bad),
    };
    read_one(tag, ring, body, each).ok_or(bad)?;
    Ok(at + HEAD + len)
}

/// None: no entry of this version.
fn read_one(tag: u8, ring: Ring, body: &[u8], each: &mut impl FnMut(Said<'_>)) -> Option<()> {
    let said = match tag {
        tag::DRAIN => {
            let [now_ns] = words(body)?;
            Said::Drain { ring, now_ns }
        }
        tag::SESSION_START => {
            let record: SessionStart = pod(body)?;
            BackendKind::of(&record.header)?;
            let record = Record::SessionStart(&record);
            each(Said::Record { ring, record });
            return Some(());
        }
        tag::SESSION_END => {
            let record: SessionEnd = pod(body)?;
            BackendKind::of(&record.header)?;
            let record = Record::SessionEnd(&record);
            each(Said::Record { ring, record });
            return Some(());
        }
        tag::DELIVERY => {
            let record: Delivery = pod(body)?;
            BackendKind::of(&record.header)?;
            let record = Record::Delivery(&record);
            each(Said::Record { ring, record });
            return Some(());
        }
        tag::MALFORMED if body.is_empty() => Said::Record {
            ring,
            record: Record::Malformed,
        },
        tag::COUNTS => {
            let [now_ns, counts @ ..] = words_so_far::<{ 1 + COUNTS }>(body, 1 + LEAST_COUNTS)?;
            Said::Counts {
                now_ns,
                counts: counts_of(counts),
            }
        }
        tag::CLOCK => {
            let [now_ns, offset] = words(body)?;
            Said::Clock {
                now_ns,
                unix_minus_monotonic_ns: offset.cast_signed(),
            }
        }
        tag::GIVE_UP => Said::GiveUp(give_up_of(body)?),
        tag::NOW => {
            let [now_ns] = words(body)?;
            Said::Now { now_ns }
        }
        tag::SETTINGS => Said::Settings(Arc::new(v1::RecordedSettings::decode(body).ok()?)),
        tag::MISSING => {
            let [now_ns, records] = words(body)?;
            Said::Missing { now_ns, records }
        }
        tag::LABEL => {
            let label = label::of_message(&v1::RecordedLabel::decode(body).ok()?)?;
            each(Said::Label(&label));
            return Some(());
        }
        tag::CLIENT_NETWORK => {
            let message = v1::RecordedClientNetwork::decode(body).ok()?;
            Said::ClientNetwork {
                prefix: message.prefix.parse().ok()?,
                name: network::database_name(&message.name)?,
            }
        }
        _ => return None,
    };
    each(said);
    Some(())
}

fn put(to: &mut Vec<u8>, tag: u8, ring: Ring, body: &[u8]) {
    let ring = match ring {
        Ring::Hot => 0,
        Ring::Bulk => 1,
    };
    // Of those without a fixed length only settings are long, and a configuration of 4 GiB does not
    // load.
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    to.extend_from_slice(&[tag, ring, 0, 0]);
    to.extend_from_slice(&len.to_le_bytes());
    to.extend_from_slice(body);
}

fn put_pod<T: Pod>(to: &mut Vec<u8>, tag: u8, ring: Ring, record: &T) {
    put(to, tag, ring, bytemuck::bytes_of(record));
}

fn put_words(to: &mut Vec<u8>, tag: u8, words: &[u64]) {
    put(to, tag, Ring::Hot, bytemuck::cast_slice(words));
}

/// A block need not be aligned, so this copies.
fn pod<T: Pod>(body: &[u8]) -> Option<T> {
    bytemuck::try_pod_read_unaligned(body).ok()
}

fn words<const N: usize>(body: &[u8]) -> Option<[u64; N]> {
    let (chunks, rest) = body.as_chunks::<8>();
    let mut words = [0; N];
    if chunks.len() != N || !rest.is_empty() {
        return None;
    }
    for (word, chunk) in words.iter_mut().zip(chunks) {
        *word = u64::from_le_bytes(*chunk);
    }
    Some(words)
}

/// The same where later versions append: at least `least` are there, the others 0 if they are not,
/// and what only a newer weir knows is left.
fn words_so_far<const N: usize>(body: &[u8], least: usize) -> Option<[u64; N]> {
    let (chunks, rest) = body.as_chunks::<8>();
    if chunks.len() < least || !rest.is_empty() {
        return None;
    }
    let mut words = [0; N];
    for (word, chunk) in words.iter_mut().zip(chunks) {
        *word = u64::from_le_bytes(*chunk);
    }
    Some(words)
}

/// How many counts are written, and how many the first version wrote.
const COUNTS: usize = 16;
const LEAST_COUNTS: usize = 12;

fn count_words(counts: &KernelCounts) -> [u64; COUNTS] {
    [
        counts.hot.seen,
        counts.hot.exported,
        counts.hot.ring_full,
        counts.bulk.seen,
        counts.bulk.exported,
        counts.bulk.ring_full,
        counts.sessions_seen,
        counts.sessions_tracked,
        counts.sessions_filtered,
        counts.sessions_storage_refused,
        counts.half_open_refused,
        counts.programs_skipped,
        counts.ends_unseen,
        counts.end_overflows,
        counts.looks_left_out,
        counts.sessions_left_out,
    ]
}

fn counts_of(words: [u64; COUNTS]) -> KernelCounts {
    let ring = |at: usize| RingCounts {
        seen: words[at],
        exported: words[at + 1],
        ring_full: words[at + 2],
    };
    KernelCounts {
        hot: ring(0),
        bulk: ring(3),
        sessions_seen: words[6],
        sessions_tracked: words[7],
        sessions_filtered: words[8],
        sessions_storage_refused: words[9],
        half_open_refused: words[10],
        programs_skipped: words[11],
        ends_unseen: words[12],
        end_overflows: words[13],
        looks_left_out: words[14],
        sessions_left_out: words[15],
    }
}

/// The address (16 bytes, IPv4 as v4-mapped), both ports, and the repetitions.
fn give_up_bytes(give_up: &HalfOpenGiveUp) -> [u8; 24] {
    let address = match give_up.remote {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let mut bytes = [0; 24];
    bytes[..16].copy_from_slice(&address.octets());
    bytes[16..18].copy_from_slice(&give_up.remote_port.to_le_bytes());
    bytes[18..20].copy_from_slice(&give_up.local_port.to_le_bytes());
    bytes[20..].copy_from_slice(&give_up.synack_retransmits.to_le_bytes());
    bytes
}

fn give_up_of(body: &[u8]) -> Option<HalfOpenGiveUp> {
    let (address, rest) = body.split_first_chunk::<16>()?;
    let (remote_port, rest) = rest.split_first_chunk::<2>()?;
    let (local_port, rest) = rest.split_first_chunk::<2>()?;
    Some(HalfOpenGiveUp {
        // As given: a v4-mapped address stands for the IPv4 address everywhere in weir.
        remote: Ipv6Addr::from(*address).to_canonical(),
        remote_port: u16::from_le_bytes(*remote_port),
        local_port: u16::from_le_bytes(*local_port),
        synack_retransmits: u32::from_le_bytes(rest.try_into().ok()?),
    })
}
