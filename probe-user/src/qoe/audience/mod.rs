//! The audience: who watches, on which sessions, and how each of them fares.
//!
//! What the server, a tag or the player says of a request meets what the kernel says of its delivery
//! ([`meeting`]); both go to the model of the viewer whose request it was ([`owners`], [`finished`],
//! [`super::viewer`]), and what that says is counted in the viewer's cell ([`entry`]). Bounded in
//! everything.

mod entry;
mod finished;
mod learned;
mod meeting;
mod owners;
mod pairing;
mod side;
mod table;
mod told;
mod unreached;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use hashbrown::HashMap;
use probe_ebpf::record;

pub use entry::{Entry, Stall};
pub use learned::Learned;

use super::alarms::Standing;
use super::cell::Cells;
use super::viewer::{self, Change};
use crate::labels::address;
use crate::labels::request::{KeyBy, RequestLabel, SessionRef, ViewerKey};
use side::Side;
use table::Viewers;
use unreached::Unreached;

/// Labels that wait for their session to be known: it may still be on its way in a ring.
const MOST_HOMELESS: usize = 4096;
/// A service of which a label was heard so lately is one whose requests are named.
const NAMED_NS: u64 = 60_000_000_000;
/// Viewers that are over stay so long, to be listed.
const ENDED_KEPT_NS: u64 = 60_000_000_000;
/// A session of which nothing was heard for so long may have ended unheard.
const SILENT_NS: u64 = 900_000_000_000;
/// Such are looked for so often.
const SILENT_LOOK_NS: u64 = 60_000_000_000;
/// Changes that wait to be told; beyond, the oldest are dropped.
const MOST_CHANGES: usize = 4096;

/// What tells a viewer from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Equal for one viewer while the daemon runs.
    pub hash: u64,
    /// By what.
    pub by: By,
}

/// By what a viewer is told from others, the surest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum By {
    /// Its session id.
    Sid,
    /// Something in the URL.
    Token,
    /// Address, content and user agent.
    Heuristic,
    /// Address and service.
    Address,
}

/// Something that happened to a viewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Happening {
    /// To which: its place.
    pub viewer: u32,
    /// What.
    pub change: Change,
    /// When it was said.
    pub now_ns: u64,
}

impl Happening {
    /// Whether those far away must hear of it at once.
    pub fn is_hot(&self) -> bool {
        matches!(
            self.change,
            Change::Failed { .. }
                | Change::StallBegan { .. }
                | Change::StallEnded { .. }
                | Change::StallRetracted { .. }
                | Change::AtRisk { .. }
                | Change::Safe { .. }
        )
    }
}

/// How clocks stand, and what else a label needs to meet a record.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    /// Unix time less monotonic time.
    pub unix_minus_monotonic_ns: i64,
    /// The kernel's ticks per second.
    pub tick_hz: u32,
}

impl Clocks {
    /// Monotonic time of a Unix time; 0 stays 0.
    fn monotonic_ns(self, unix_ns: u64) -> u64 {
        if unix_ns == 0 {
            return 0;
        }
        unix_ns.saturating_add_signed(self.unix_minus_monotonic_ns.saturating_neg())
    }
}

/// What the audience could not keep, or could not join.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AudienceLosses {
    /// Labels whose session never became known.
    pub labels_homeless: u64,
    /// Viewers forgotten because there were too many.
    pub viewers_evicted: u64,
    /// Changes that nobody fetched in time.
    pub changes_dropped: u64,
}

/// What of the configuration it goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AudienceLimits {
    /// Viewers, those lately ended included; 0: none are followed.
    pub max_viewers: usize,
    /// Sessions.
    pub max_sessions: usize,
}

/// What the settings in force say of viewers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AudienceSettings {
    /// Labels can come.
    pub hears: bool,
    /// Viewers are made out also where no label says anything.
    pub infers: bool,
}

/// Everyone who watches.
#[derive(Debug)]
pub struct Audience {
    limits: AudienceLimits,
    settings: AudienceSettings,
    sides: HashMap<u64, Side>,
    by_ends: HashMap<(SocketAddr, u16), u64>,
    /// Sessions on which something waits, oldest first; each at most once.
    waiting: VecDeque<u64>,
    homeless: VecDeque<RequestLabel>,
    /// How many of these wait for which session.
    awaited: HashMap<SessionRef, u32>,
    t_silent_ns: u64,
    /// When a session was heard of first; 0: none was.
    t_born_ns: u64,
    viewers: Viewers,
    /// When a label of a service at this port was heard last.
    named: HashMap<u16, u64>,
    learned: Learned,
    unreached: Unreached,
    happenings: VecDeque<Happening>,
    changes: Vec<Change>,
    losses: AudienceLosses,
    next_session: u32,
}

impl Audience {
    /// Nobody yet.
    pub fn new(limits: AudienceLimits, settings: AudienceSettings) -> Self {
        Self {
            limits,
            settings,
            sides: HashMap::new(),
            by_ends: HashMap::new(),
            waiting: VecDeque::new(),
            homeless: VecDeque::new(),
            awaited: HashMap::new(),
            t_silent_ns: 0,
            t_born_ns: 0,
            viewers: Viewers::new(limits.max_viewers),
            named: HashMap::new(),
            learned: Learned::default(),
            unreached: Unreached::default(),
            happenings: VecDeque::new(),
            changes: Vec::new(),
            losses: AudienceLosses::default(),
            next_session: 0,
        }
    }

    /// Other settings are in force.
    pub fn set(&mut self, settings: AudienceSettings) {
        self.settings = settings;
    }

    /// What was learned of player families.
    pub fn learned(&self) -> &Learned {
        &self.learned
    }

    /// Takes up what was learned before.
    pub fn learn_from(&mut self, learned: Learned) {
        self.learned = learned;
    }

    /// Every viewer from a place on, with its place, in the order of their places.
    pub fn iter_from(&self, from: usize) -> impl Iterator<Item = (u32, &Entry)> {
        self.viewers.iter_from(from)
    }

    /// How those stand who are active, for the alarms.
    pub fn standing(&self) -> impl Iterator<Item = Standing> {
        self.viewers
            .iter_from(0)
            .filter_map(|(_, entry)| entry.standing())
    }

    /// Places, free ones included.
    pub fn places(&self) -> usize {
        self.viewers.places()
    }

    /// A viewer by its place.
    pub fn get(&self, place: u32) -> Option<&Entry> {
        self.viewers.get(place)
    }

    /// What it goes by of a viewer's family.
    pub fn thresholds(&self, entry: &Entry) -> viewer::Thresholds {
        self.learned.thresholds(entry.family)
    }

    /// What could not be kept or joined.
    pub fn losses(&self) -> AudienceLosses {
        self.losses
    }

    /// The next thing that happened and was not fetched yet.
    pub fn next_happening(&mut self) -> Option<Happening> {
        self.happenings.pop_front()
    }

    /// Whether there is anybody to follow: without, nothing is kept of any session.
    fn is_idle(&self) -> bool {
        self.limits.max_viewers == 0 || !(self.settings.hears || self.settings.infers)
    }

    /// Whether viewers may have asked for something that nothing was heard of, so lately that they
    /// are met only now.
    fn is_young(&self, now_ns: u64) -> bool {
        now_ns < self.t_born_ns.saturating_add(side::YOUNG_NS)
    }

    /// Lets time pass.
    pub fn advance(&mut self, now_ns: u64, clocks: Clocks, cells: &mut Cells) {
        self.house(now_ns, clocks, cells);
        self.judge_unreached(now_ns, cells);
        for _ in 0..self.waiting.len() {
            let Some(cookie) = self.waiting.pop_front() else {
                break;
            };
            let Some(side) = self.sides.get_mut(&cookie) else {
                continue;
            };
            let (labels, deliveries) = side.take_stale(now_ns);
            let (number, cell) = (side.number, side.cell);
            side.is_queued = side.is_waiting();
            if side.is_queued {
                self.waiting.push_back(cookie);
            }
            cells.get_mut(cell).counters.labels_unmatched += labels.len() as u64;
            for record in deliveries {
                self.finished(&record, number, cell, &[], clocks, now_ns, cells);
            }
        }
        // Each once: who wants to be looked at again at once waits for the next time.
        for _ in 0..self.viewers.planned() {
            let Some(place) = self.viewers.next_to_wake(now_ns) else {
                break;
            };
            self.tell(place, now_ns, cells, |model, with, out| {
                model.advance(now_ns, with, out);
            });
        }
        if now_ns >= self.t_silent_ns.saturating_add(SILENT_LOOK_NS) {
            self.t_silent_ns = now_ns;
            self.part_with_silent(now_ns, clocks, cells);
            // Several viewers in one say nothing of their end.
            let limit_ns = now_ns.saturating_sub(ENDED_KEPT_NS);
            let gone: Vec<_> = self
                .viewers
                .iter_from(0)
                .filter(|(_, entry)| entry.is_shared && entry.t_updated_ns < limit_ns)
                .map(|(place, _)| place)
                .collect();
            for place in gone {
                self.remove(place);
            }
        }
        while let Some(place) = self
            .viewers
            .ended_before(now_ns.saturating_sub(ENDED_KEPT_NS))
        {
            self.remove(place);
        }
    }
}

impl Key {
    /// Of everyone behind an address who uses a service.
    fn of_address(client: IpAddr, port: u16) -> Self {
        use std::hash::{Hash as _, Hasher as _};

        // The same in a replay: no random state.
        let mut hasher = std::hash::DefaultHasher::new();
        (client, port).hash(&mut hasher);
        Self {
            hash: hasher.finish(),
            by: By::Address,
        }
    }
}

impl From<ViewerKey> for Key {
    fn from(key: ViewerKey) -> Self {
        Self {
            hash: key.hash,
            by: match key.by {
                KeyBy::Sid => By::Sid,
                KeyBy::Token => By::Token,
                KeyBy::Heuristic => By::Heuristic,
            },
        }
    }
}

fn ends_of(ends: &record::Endpoints) -> (SocketAddr, u16) {
    let remote = SocketAddr::new(address(ends.remote_addr), ends.remote_port);
    (remote, ends.local_port)
}

fn canonical(remote: SocketAddr) -> SocketAddr {
    SocketAddr::new(remote.ip().to_canonical(), remote.port())
}

fn canonical_ref(session: SessionRef) -> SessionRef {
    match session {
        SessionRef::Cookie(_) => session,
        SessionRef::Ends { remote, local_port } => SessionRef::Ends {
            remote: canonical(remote),
            local_port,
        },
    }
}

#[cfg(test)]
mod tests;
