//! One network namespace: whom it listens for, its sessions from round to round, and the last
//! words of those that end between.

use std::collections::HashSet;

use anyhow::Result;
use hashbrown::HashMap;
use probe_ebpf::{drive::state, settings::Settings};

use super::{
    filter::Judge,
    half_open::Handshakes,
    info::TcpInfo,
    monotonic_ns,
    queue::Queue,
    session::{Followed, Name, Out},
    sockdiag::{Asker, Buffer, FAMILIES, Farewells, Heard, Seen, states},
};
use crate::kernel::{HalfOpenGiveUp, KernelCounts};

/// Last words read before the records that come of them are handed out.
const FAREWELLS_AT_ONCE: usize = 256;

/// What all namespaces have in common.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) judge: Judge,
    pub(super) settings: Settings,
    pub(super) hot: Queue,
    pub(super) bulk: Queue,
    /// All but those of the queues.
    pub(super) counts: KernelCounts,
    /// Sessions followed now, and how many may be.
    pub(super) followed: usize,
    pub(super) max_followed: usize,
    pub(super) given_up: Vec<HalfOpenGiveUp>,
}

impl Common {
    fn out(&mut self) -> Out<'_> {
        Out {
            hot: &mut self.hot,
            bulk: &mut self.bulk,
            settings: self.settings,
        }
    }
}

/// A namespace under watch.
#[derive(Debug)]
pub(super) struct Namespace {
    asker: Asker,
    pub(super) farewells: Farewells,
    sessions: Sessions,
}

/// Everything known of its sessions.
#[derive(Debug)]
struct Sessions {
    netns: u32,
    listeners: HashSet<u16>,
    followed: HashMap<u64, Followed>,
    /// Those that are not followed, so that each is counted once.
    left_out: HashMap<u64, LeftOut>,
    handshakes: Handshakes,
    round: u32,
    /// When the latest whole round began.
    t_round_ns: u64,
    /// Sessions may be there that are older than the watch.
    is_adopting: bool,
}

#[derive(Clone, Copy, Debug)]
struct LeftOut {
    filter_generation: u32,
    round: u32,
}

impl Namespace {
    /// Begins to watch the calling thread's network namespace, whose inode number is `netns`.
    pub(super) fn enter(netns: u32) -> Result<Self> {
        // First, so that nothing ends unheard between the two.
        let farewells = Farewells::open()?;
        Ok(Self {
            asker: Asker::open()?,
            farewells,
            sessions: Sessions {
                netns,
                listeners: HashSet::new(),
                followed: HashMap::new(),
                left_out: HashMap::new(),
                handshakes: Handshakes::default(),
                round: 0,
                t_round_ns: 0,
                is_adopting: true,
            },
        })
    }

    /// Its inode number.
    pub(super) fn netns(&self) -> u32 {
        self.sessions.netns
    }

    /// Looks at every socket once.
    pub(super) fn round(&mut self, buffer: &mut Buffer, common: &mut Common) -> Result<()> {
        let Self {
            asker, sessions, ..
        } = self;
        let began_ns = monotonic_ns();
        sessions.round = sessions.round.wrapping_add(1);
        let mut listeners = HashSet::new();
        let mut is_waiting = false;
        for family in FAMILIES {
            asker.each(
                family,
                states::LISTEN | states::SYN_RECV | states::OPEN,
                buffer,
                |seen| match seen.state {
                    state::LISTEN => {
                        listeners.insert(seen.endpoints.local_port);
                    }
                    state::SYN_RECV => {
                        if common.judge.admits_handshake(&seen.endpoints) {
                            sessions.handshakes.saw(&seen, sessions.round);
                        }
                    }
                    _ => is_waiting |= sessions.saw(&seen, &listeners, common),
                },
            )?;
        }
        sessions.listeners = listeners;
        self.hear(buffer, common)?;
        self.sessions.round_over(began_ns, is_waiting, common);
        Ok(())
    }

    /// Takes in what was destroyed since.
    pub(super) fn hear(&mut self, buffer: &mut Buffer, common: &mut Common) -> Result<()> {
        let Self {
            farewells,
            sessions,
            ..
        } = self;
        let mut overflows = 0;
        let result = loop {
            let heard = farewells.each(
                FAREWELLS_AT_ONCE,
                buffer,
                || overflows += 1,
                |seen| sessions.ended(&seen, common),
            );
            match heard {
                Ok(Heard::Part) if !common.bulk.is_tight() => {}
                other => break other.map(drop),
            }
        };
        common.counts.end_overflows += overflows;
        result
    }

    /// The namespace is gone, and so are its sessions.
    pub(super) fn leave(mut self, common: &mut Common) {
        let now_ns = monotonic_ns();
        for (_, followed) in self.sessions.followed.drain() {
            common.followed -= 1;
            common.counts.ends_unseen += 1;
            followed.end(None, now_ns, &mut common.out());
        }
    }
}

impl Sessions {
    fn name(&self, seen: &Seen) -> Name {
        let mut endpoints = seen.endpoints;
        endpoints.netns = self.netns;
        Name {
            cookie: seen.cookie,
            endpoints,
        }
    }

    /// A session was found. Returns whether it has to wait for room to be reported.
    fn saw(&mut self, seen: &Seen, listeners: &HashSet<u16>, common: &mut Common) -> bool {
        let Some(info) = seen.info else {
            return false;
        };
        let now_ns = monotonic_ns();
        let generation = common.settings.filter_generation;
        if let Some(followed) = self.followed.get_mut(&seen.cookie) {
            followed.round = self.round;
            followed.is_missing = false;
            if followed.session.filter_generation != generation {
                if !common.judge.admits(&seen.endpoints, seen.cgroup) {
                    if let Some(followed) = self.followed.remove(&seen.cookie) {
                        common.followed -= 1;
                        followed.untrack(now_ns, &mut common.out());
                    }
                    self.leave_out(seen.cookie, common);
                    return false;
                }
                followed.session.filter_generation = generation;
            }
            followed.look(info, seen, now_ns, &mut common.out());
            return false;
        }
        let mut is_adopted = self.is_adopting;
        if let Some(left_out) = self.left_out.get_mut(&seen.cookie) {
            left_out.round = self.round;
            if left_out.filter_generation == generation {
                return false;
            }
            left_out.filter_generation = generation;
            if !common.judge.admits(&seen.endpoints, seen.cgroup) {
                return false;
            }
            self.left_out.remove(&seen.cookie);
            is_adopted = true;
        } else if !self.is_accepted(seen, listeners) {
            return false;
        }
        if common.bulk.is_tight() {
            return true;
        }
        self.meet(info, seen, is_adopted, now_ns, common);
        false
    }

    /// Whether a session was accepted here: its port listens.
    fn is_accepted(&self, seen: &Seen, listeners: &HashSet<u16>) -> bool {
        let port = seen.endpoints.local_port;
        listeners.contains(&port) || self.listeners.contains(&port)
    }

    fn meet(
        &mut self,
        info: TcpInfo,
        seen: &Seen,
        is_adopted: bool,
        now_ns: u64,
        common: &mut Common,
    ) {
        let synacks = self.handshakes.established(seen.cookie);
        common.counts.sessions_seen += 1;
        if !common.judge.admits(&seen.endpoints, seen.cgroup) {
            common.counts.sessions_filtered += 1;
            self.leave_out(seen.cookie, common);
            return;
        }
        if common.followed >= common.max_followed {
            common.counts.sessions_storage_refused += 1;
            self.leave_out(seen.cookie, common);
            return;
        }
        common.counts.sessions_tracked += 1;
        common.followed += 1;
        let name = self.name(seen);
        let mut out = common.out();
        let mut followed = if is_adopted {
            Followed::adopted(name, info, seen, now_ns, &mut out)
        } else {
            let mut begun = Followed::begun(name, info, synacks, self.t_round_ns, now_ns, &mut out);
            begun.look(info, seen, now_ns, &mut out);
            begun
        };
        followed.round = self.round;
        self.followed.insert(seen.cookie, followed);
    }

    /// Remembers that a session is not followed; as many as may be followed are remembered.
    fn leave_out(&mut self, cookie: u64, common: &Common) {
        if self.left_out.len() < common.max_followed {
            let left_out = LeftOut {
                filter_generation: common.settings.filter_generation,
                round: self.round,
            };
            self.left_out.insert(cookie, left_out);
        }
    }

    /// A socket was destroyed, with these last words.
    fn ended(&mut self, seen: &Seen, common: &mut Common) {
        let synacks = self.handshakes.established(seen.cookie);
        let Some(info) = seen.info else {
            return;
        };
        let now_ns = monotonic_ns();
        if let Some(followed) = self.followed.remove(&seen.cookie) {
            common.followed -= 1;
            followed.end(Some((info, seen)), now_ns, &mut common.out());
            return;
        }
        // One from before the watch is nobody's; a listener or a socket that was never connected
        // has no other end.
        if self.left_out.remove(&seen.cookie).is_some()
            || self.is_adopting
            || seen.endpoints.remote_port == 0
            || !self.is_accepted(seen, &self.listeners)
        {
            return;
        }
        // It has come and gone since the round before.
        common.counts.sessions_seen += 1;
        if !common.judge.admits(&seen.endpoints, seen.cgroup) {
            common.counts.sessions_filtered += 1;
            return;
        }
        common.counts.sessions_tracked += 1;
        let name = self.name(seen);
        let mut out = common.out();
        Followed::begun(name, info, synacks, self.t_round_ns, now_ns, &mut out).end(
            Some((info, seen)),
            now_ns,
            &mut out,
        );
    }

    /// A round is over that began at `began_ns`; `is_waiting`: not all that was found could be
    /// met.
    fn round_over(&mut self, began_ns: u64, is_waiting: bool, common: &mut Common) {
        let now_ns = monotonic_ns();
        let round = self.round;
        // The last word of one that was not found may still be on its way.
        let unheard = self.followed.extract_if(|_, followed| {
            let is_found = followed.round == round;
            !is_found && std::mem::replace(&mut followed.is_missing, true)
        });
        for (_, followed) in unheard {
            common.followed -= 1;
            common.counts.ends_unseen += 1;
            let mut out = Out {
                hot: &mut common.hot,
                bulk: &mut common.bulk,
                settings: common.settings,
            };
            followed.end(None, now_ns, &mut out);
        }
        self.left_out
            .retain(|_, left_out| round.wrapping_sub(left_out.round) <= 1);
        common.counts.half_open_refused += self.handshakes.round_over(round, &mut common.given_up);
        self.t_round_ns = began_ns;
        self.is_adopting &= is_waiting;
    }
}
