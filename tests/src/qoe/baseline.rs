//! What others would say of the same sessions, from the same run: the access log alone, and the
//! times of acknowledgements put into the plainest buffer model. Pure.
//!
//! The model of both: each segment is two seconds; playback begins with the first of each medium,
//! stops when the medium that has least runs dry, goes on with the next segment. It knows no
//! requests, seeks, pauses or ends.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;

use super::access_log::{Entry, Media};
use super::ladder::SEGMENT_SECONDS;
use super::said::{Estimate, Stall, ViewerSaid};
use super::scenario::Failure;
use crate::record::Delivery;

const SEGMENT_NS: u64 = SEGMENT_SECONDS as u64 * 1_000_000_000;

/// A segment that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Arrival {
    t_ns: u64,
    media: Media,
    /// When it was asked for.
    requested_ns: u64,
}

/// When such a teller can know of a stall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Knows {
    /// From the line that ends it: a log is silent before.
    Afterwards,
    /// At once, if the segment that ends it had been asked for by then.
    InFlight,
}

/// By the access log alone: a segment has come when its line is written.
pub fn by_log(entries: &[Entry]) -> Vec<ViewerSaid> {
    per_client(entries, Knows::Afterwards, |entry| entry.end_unix_ns)
}

/// By acknowledgements: a segment has come when the delivery that carried it was acknowledged.
pub fn by_acks(entries: &[Entry], deliveries: &[Delivery]) -> Vec<ViewerSaid> {
    let mut by_ends: HashMap<_, Vec<(u64, u64)>> = HashMap::new();
    for delivery in deliveries
        .iter()
        .filter(|delivery| delivery.phase == "complete")
    {
        let ends = &delivery.endpoints;
        by_ends
            .entry((ends.remote_address, ends.remote_port, ends.local_port))
            .or_default()
            .push((delivery.request_unix_ns, delivery.last_acked_unix_ns));
    }
    for times in by_ends.values_mut() {
        times.sort_unstable();
    }
    per_client(entries, Knows::InFlight, |entry| {
        let ends = (entry.client.into(), entry.client_port, entry.server_port);
        // The one asked for last when the line was written; the log's clock ticks in milliseconds.
        let acked = by_ends.get(&ends).and_then(|times| {
            let after = times.partition_point(|(request, _)| *request <= entry.end_unix_ns);
            Some(times[after.checked_sub(1)?].1)
        });
        acked.unwrap_or(entry.end_unix_ns).max(entry.end_unix_ns)
    })
}

fn per_client(entries: &[Entry], knows: Knows, arrives: impl Fn(&Entry) -> u64) -> Vec<ViewerSaid> {
    let mut clients: BTreeMap<Ipv4Addr, Vec<&Entry>> = BTreeMap::new();
    for entry in entries {
        clients.entry(entry.client).or_default().push(entry);
    }
    clients
        .into_iter()
        .map(|(client, entries)| {
            let mut arrivals: Vec<_> = entries
                .iter()
                .filter_map(|entry| {
                    Some(Arrival {
                        t_ns: arrives(entry),
                        media: entry.media()?,
                        requested_ns: entry.begin_unix_ns,
                    })
                })
                .collect();
            arrivals.sort_by_key(|arrival| arrival.t_ns);
            let attempt = entries
                .iter()
                .map(|entry| entry.begin_unix_ns)
                .min()
                .unwrap_or(0);
            let mut said = model(attempt, &arrivals, knows);
            said.client = Some(client);
            if said.started_unix_ns == 0 {
                said.failed = Some(failure(&entries));
            }
            said
        })
        .collect()
}

/// All that a log can say of a start without segments.
fn failure(entries: &[&Entry]) -> Failure {
    if entries
        .iter()
        .any(|entry| entry.status >= 400 && entry.status != 499)
    {
        return Failure::Http;
    }
    Failure::Client
}

fn model(attempt_unix_ns: u64, arrivals: &[Arrival], knows: Knows) -> ViewerSaid {
    let media: BTreeSet<Media> = arrivals.iter().map(|arrival| arrival.media).collect();
    let mut have: BTreeMap<Media, u64> = media.iter().map(|media| (*media, 0)).collect();
    let mut said = ViewerSaid {
        attempt_unix_ns,
        ..ViewerSaid::default()
    };
    // Media played, and when that was so; while it stalls the playhead stands at `playable`.
    let (mut playhead, mut at, mut playable) = (0, 0, 0);
    let mut stalled_ns = 0;
    for arrival in arrivals {
        *have.entry(arrival.media).or_default() += SEGMENT_NS;
        let now_playable = have.values().copied().min().unwrap_or(0);
        if now_playable == playable {
            continue;
        }
        if said.started_unix_ns == 0 {
            said.started_unix_ns = arrival.t_ns;
        } else {
            let dry = at + (playable - playhead);
            playhead = (playhead + (arrival.t_ns - at)).min(playable);
            if dry < arrival.t_ns {
                stalled_ns += arrival.t_ns - dry;
                said.stalls.push(Stall {
                    begin_unix_ns: dry,
                    first_begin_unix_ns: dry,
                    end_unix_ns: arrival.t_ns,
                    told_unix_ns: match knows {
                        Knows::Afterwards => arrival.t_ns,
                        Knows::InFlight => dry.max(arrival.requested_ns),
                    },
                    cause: None,
                });
            }
        }
        (at, playable) = (arrival.t_ns, now_playable);
        said.buffer.push((at, (playable - playhead) / 1000));
    }
    if said.started_unix_ns > 0 {
        said.startup_us = said.started_unix_ns.saturating_sub(attempt_unix_ns) / 1000;
        // It takes the viewer to have left when the last segment had been played.
        let end = at + (playable - playhead);
        said.watched_us = end.saturating_sub(attempt_unix_ns) / 1000;
        let point = stalled_ns / 1000;
        said.stalled_us = Estimate {
            low: point,
            point,
            high: point,
        };
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn arrival(t_s: u64, media: Media) -> Arrival {
        Arrival {
            t_ns: t_s * S,
            media,
            requested_ns: t_s * S - S / 2,
        }
    }

    #[test]
    fn it_plays_what_both_media_have_and_stalls_when_one_is_dry() {
        let arrivals = [
            arrival(11, Media::Audio),
            arrival(12, Media::Video),
            arrival(13, Media::Audio),
            // Two seconds of pictures, from 12 on: dry at 14.
            arrival(16, Media::Video),
            arrival(17, Media::Audio),
            arrival(17, Media::Video),
        ];
        let said = model(10 * S, &arrivals, Knows::Afterwards);
        assert_eq!((said.started_unix_ns, said.startup_us), (12 * S, 2_000_000));
        let stalls: Vec<_> = said
            .stalls
            .iter()
            .map(|stall| {
                (
                    stall.begin_unix_ns / S,
                    stall.end_unix_ns / S,
                    stall.told_unix_ns / S,
                )
            })
            .collect();
        assert_eq!(stalls, [(14, 16, 16)]);
        let early = model(10 * S, &arrivals, Knows::InFlight);
        assert_eq!(early.stalls[0].told_unix_ns, 15 * S + S / 2);
        // From 10 to 20, when six seconds from 12 on and two of stalling are over.
        assert_eq!(
            (said.watched_us, said.stalled_us.point),
            (10_000_000, 2_000_000)
        );
    }

    #[test]
    fn nothing_is_said_to_have_started_without_segments() {
        let said = model(10 * S, &[], Knows::Afterwards);
        assert_eq!((said.started_unix_ns, said.watched_us), (0, 0));
        assert_eq!(said.rebuffer_ratio(), None);
    }
}
