//! Hosts that are connected to this collector, or were: who they are, and which frames they sent, also
//! where another collector merges them.

use hashbrown::HashMap;
use weir_proto::v1;

use super::fleet::Error;
use super::gaps::{Arrival, Gaps};

/// Lanes, the one that is none included.
const LANES: usize = v1::Lane::Drill as usize + 1;
/// The lanes that are told of.
const TOLD: [v1::Lane; 4] = [
    v1::Lane::Hot,
    v1::Lane::Warm,
    v1::Lane::Cold,
    v1::Lane::Drill,
];

fn place(lane: v1::Lane) -> usize {
    lane as usize % LANES
}

/// One boot of one host.
#[derive(Debug)]
struct Guest {
    hello: v1::Hello,
    connections: [usize; LANES],
    seqs: [Gaps; LANES],
    /// Frames that could not be used, and that nobody else counts.
    refused: u64,
    last_heard_unix_ns: u64,
}

impl Guest {
    fn is_connected(&self) -> bool {
        self.connections.iter().any(|connections| *connections > 0)
    }
}

/// All of them, by host; of a host the latest boots.
#[derive(Debug)]
pub(super) struct Guests {
    by_host: HashMap<String, Vec<Guest>>,
    max_hosts: usize,
}

/// Boots of a host that are remembered.
const MAX_BOOTS: usize = 4;

impl Guests {
    pub(super) fn new(max_hosts: usize) -> Self {
        Self {
            by_host: HashMap::new(),
            max_hosts,
        }
    }

    /// A lane has connected.
    pub(super) fn connect(&mut self, hello: &v1::Hello, now_unix_ns: u64) -> Result<(), Error> {
        if !self.by_host.contains_key(&hello.host) && self.by_host.len() >= self.max_hosts {
            self.forget_one()?;
        }
        let boots = self.by_host.entry(hello.host.clone()).or_default();
        let known = |guest: &Guest| guest.hello.boot_id == hello.boot_id;
        let guest = if let Some(place) = boots.iter().position(known) {
            &mut boots[place]
        } else {
            if boots.len() >= MAX_BOOTS
                && let Some(gone) = boots.iter().position(|guest| !guest.is_connected())
            {
                boots.remove(gone);
            }
            boots.push(Guest {
                hello: hello.clone(),
                connections: [0; LANES],
                seqs: Default::default(),
                refused: 0,
                last_heard_unix_ns: now_unix_ns,
            });
            let last = boots.len() - 1;
            &mut boots[last]
        };
        guest.connections[place(hello.lane())] += 1;
        guest.last_heard_unix_ns = now_unix_ns;
        Ok(())
    }

    /// The host that has been gone for longest makes room.
    fn forget_one(&mut self) -> Result<(), Error> {
        let gone = self.by_host.iter().filter(|(_, boots)| {
            let mut boots = boots.iter();
            boots.all(|guest| !guest.is_connected())
        });
        let last_heard = |boots: &[Guest]| {
            let heard = boots.iter().map(|guest| guest.last_heard_unix_ns);
            heard.max().unwrap_or(0)
        };
        let oldest = gone.min_by_key(|(_, boots)| last_heard(boots));
        let host = oldest.map(|(host, _)| host.clone());
        let host = host.ok_or(Error::TooManyHosts(self.by_host.len()))?;
        self.by_host.remove(&host);
        Ok(())
    }

    /// A lane's connection has ended.
    pub(super) fn disconnect(&mut self, hello: &v1::Hello) {
        if let Some(guest) = self.guest(hello) {
            let connections = &mut guest.connections[place(hello.lane())];
            *connections = connections.saturating_sub(1);
        }
    }

    /// A frame has come. Says whether it was here before.
    pub(super) fn is_repeated(&mut self, hello: &v1::Hello, seq: u64, now_unix_ns: u64) -> bool {
        let Some(guest) = self.guest(hello) else {
            return false;
        };
        guest.last_heard_unix_ns = guest.last_heard_unix_ns.max(now_unix_ns);
        guest.seqs[place(hello.lane())].arrive(seq) == Arrival::Repeated
    }

    /// The newest frame of a lane that came here; 0: none.
    pub(super) fn newest(&self, hello: &v1::Hello) -> u64 {
        let boots = self.by_host.get(&hello.host);
        let mut boots = boots.into_iter().flatten();
        let guest = boots.find(|guest| guest.hello.boot_id == hello.boot_id);
        guest.map_or(0, |guest| guest.seqs[place(hello.lane())].newest())
    }

    /// A frame could not be used.
    pub(super) fn refuse(&mut self, hello: &v1::Hello) {
        if let Some(guest) = self.guest(hello) {
            guest.refused += 1;
        }
    }

    fn guest(&mut self, hello: &v1::Hello) -> Option<&mut Guest> {
        let mut boots = self.by_host.get_mut(&hello.host)?.iter_mut();
        boots.find(|guest| guest.hello.boot_id == hello.boot_id)
    }

    /// Each lane that is connected, once for each of its connections.
    pub(super) fn connected(&self) -> impl Iterator<Item = v1::Hello> {
        let all = self.by_host.values().flatten();
        all.flat_map(|guest| {
            TOLD.into_iter().flat_map(move |lane| {
                let hello = v1::Hello {
                    lane: lane.into(),
                    ..guest.hello.clone()
                };
                std::iter::repeat_n(hello, guest.connections[place(lane)])
            })
        })
    }

    /// Whether any lane of a host is connected, and when it was last heard of here.
    pub(super) fn seen(&self, host: &str) -> Option<(bool, u64)> {
        let boots = self.by_host.get(host)?;
        let is_connected = boots.iter().any(Guest::is_connected);
        let heard = boots.iter().map(|guest| guest.last_heard_unix_ns).max();
        Some((is_connected, heard.unwrap_or(0)))
    }

    /// What others cannot know of these hosts. `is_elsewhere`: whether who is asked as well does not
    /// know of a host's connections.
    pub(super) fn messages(
        &self,
        collector: &str,
        is_elsewhere: impl Fn(&str) -> bool,
    ) -> Vec<v1::Host> {
        let all = self.by_host.values().flatten();
        all.filter_map(|guest| {
            let is_told = guest.is_connected() && is_elsewhere(&guest.hello.host);
            if !is_told && guest.refused == 0 {
                return None;
            }
            let mut host = v1::Host {
                host: guest.hello.host.clone(),
                boot_id: guest.hello.boot_id.clone(),
                weir_version: guest.hello.weir_version.clone(),
                backend: guest.hello.backend,
                kernel_release: guest.hello.kernel_release.clone(),
                frames_refused: guest.refused,
                last_heard_unix_ns: guest.last_heard_unix_ns,
                ..v1::Host::default()
            };
            if is_told {
                host.connected = true;
                collector.clone_into(&mut host.collector);
                let lanes = TOLD.into_iter();
                let lanes = lanes.filter(|lane| guest.connections[place(*lane)] > 0);
                host.lanes = lanes
                    .map(|lane| v1::HostLane {
                        lane: lane.into(),
                        connected: true,
                        ..v1::HostLane::default()
                    })
                    .collect();
            }
            Some(host)
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(host: &str, lane: v1::Lane) -> v1::Hello {
        v1::Hello {
            host: host.into(),
            boot_id: "boot".into(),
            lane: lane.into(),
            ..v1::Hello::default()
        }
    }

    #[test]
    fn who_is_connected_is_told_until_it_goes_and_remembered_afterwards() {
        let mut guests = Guests::new(8);
        let (hot, warm) = (hello("a", v1::Lane::Hot), hello("a", v1::Lane::Warm));
        guests.connect(&hot, 1).unwrap();
        guests.connect(&warm, 2).unwrap();
        guests.connect(&warm, 3).unwrap();
        assert_eq!(guests.connected().count(), 3);
        let told = guests.messages("c", |_| true);
        assert_eq!((told.len(), told[0].lanes.len()), (1, 2));
        assert!(guests.messages("c", |_| false).is_empty());
        guests.disconnect(&warm);
        guests.disconnect(&warm);
        guests.disconnect(&hot);
        assert_eq!(
            (guests.connected().count(), guests.seen("a")),
            (0, Some((false, 3)))
        );
        assert_eq!(guests.seen("b"), None);
    }

    #[test]
    fn a_frame_that_comes_again_is_known_and_so_is_one_that_is_of_no_use() {
        let mut guests = Guests::new(8);
        let cold = hello("a", v1::Lane::Cold);
        guests.connect(&cold, 1).unwrap();
        assert!(!guests.is_repeated(&cold, 5, 1) && !guests.is_repeated(&cold, 4, 1));
        assert!(guests.is_repeated(&cold, 5, 1));
        assert_eq!(guests.newest(&cold), 5);
        guests.refuse(&cold);
        assert_eq!(guests.messages("c", |_| false)[0].frames_refused, 1);
    }

    #[test]
    fn who_is_gone_makes_room_and_who_is_connected_does_not() {
        let mut guests = Guests::new(2);
        for (host, at) in [("a", 1), ("b", 2)] {
            guests.connect(&hello(host, v1::Lane::Hot), at).unwrap();
        }
        let more = hello("c", v1::Lane::Hot);
        assert_eq!(guests.connect(&more, 3), Err(Error::TooManyHosts(2)));
        guests.disconnect(&hello("a", v1::Lane::Hot));
        guests.connect(&more, 3).unwrap();
        assert_eq!(guests.seen("a"), None);
    }
}
