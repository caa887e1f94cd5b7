//! The table of sessions: found by cookie in constant time, bounded, and in order of when each was
//! last heard of.
//!
//! A session is in one of three lists, each ordered so, idle ones to within some seconds: open with a delivery under way, idle, or
//! ended. Ended ones stay for a few seconds, because the two rings are not ordered against each
//! other: a cut delivery (hot) may be read after its session's end (bulk), and must find it.

use super::chunks::Chunks;
use super::index::Index;
use super::session::Session;
use crate::prefetch::prefetch;

/// Sessions whose memory is fetched together: more than a processor waits for at once.
const AT_ONCE: usize = 32;

const NONE: u32 = u32::MAX;
/// Idle sessions are in order to within this: moving one at each of its records would fetch three
/// more lines from memory, which is half of what a record costs when there are many.
const GRAIN_NS: u64 = 16_000_000_000;

/// The lists, in the order in which a full table forgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum List {
    Ended,
    Idle,
    Open,
}

impl List {
    const ALL: [Self; 3] = [Self::Ended, Self::Idle, Self::Open];
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    oldest: u32,
    newest: u32,
    len: usize,
}

/// A session's neighbours in its list. Apart from the sessions, so that moving one to its list's
/// end does not fetch its neighbours too.
#[derive(Clone, Copy, Debug)]
struct Link {
    older: u32,
    newer: u32,
}

/// The sessions.
#[derive(Debug)]
pub struct Sessions {
    index: Index,
    slots: Chunks<Session>,
    /// Of the slot at the same place.
    links: Chunks<Link>,
    free: Vec<u32>,
    lists: [Ends; 3],
    max: usize,
}

impl Sessions {
    pub(super) fn new(max: usize) -> Self {
        Self {
            index: Index::new(),
            slots: Chunks::new(),
            links: Chunks::new(),
            free: Vec::new(),
            lists: [Ends {
                oldest: NONE,
                newest: NONE,
                len: 0,
            }; 3],
            max: max.clamp(1, NONE as usize),
        }
    }

    /// Sessions that are not over.
    pub fn open(&self) -> usize {
        self.lists[List::Idle as usize].len + self.lists[List::Open as usize].len
    }

    /// All sessions, the lately ended ones included.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sessions from place `from` on, each with its place; for reading the table in pieces.
    pub fn iter_from(&self, from: usize) -> impl Iterator<Item = (usize, &Session)> {
        (from..)
            .zip(self.slots.iter_from(from))
            .filter(|(_, session)| session.list.is_some())
    }

    /// The places there are, in use or not.
    pub fn places(&self) -> usize {
        self.slots.len()
    }

    /// Whether a session is known, ended or not.
    pub fn knows(&self, cookie: u64) -> bool {
        self.find(cookie).is_some()
    }

    pub(super) fn find(&self, cookie: u64) -> Option<u32> {
        self.index
            .find(cookie, |place| self.slots[place].cookie == cookie)
    }

    /// A record of the session `cookies[at]`, made at about `now_ns`, is next, and those of the others
    /// follow: fetches what they will need. With many sessions little of it is in the cache; fetched
    /// for many at once, step by step because each step says where the next one goes, all of it
    /// takes little longer than one of them would.
    #[inline]
    pub(super) fn foresee(&self, cookies: &[u64], at: usize, now_ns: u64) {
        if at.is_multiple_of(AT_ONCE) {
            let last = cookies.len().min(at + AT_ONCE);
            self.fetch(cookies.get(at..last).unwrap_or_default(), now_ns);
        }
    }

    /// At most [`AT_ONCE`].
    fn fetch(&self, cookies: &[u64], now_ns: u64) {
        for cookie in cookies {
            self.index.fetch(*cookie);
        }
        let mut places = [NONE; AT_ONCE];
        for (place, cookie) in places.iter_mut().zip(cookies) {
            *place = self.index.guess(*cookie).unwrap_or(NONE);
        }
        for place in places {
            if let Some(session) = self.slots.get(place) {
                // One of each line that a delivery's record needs.
                prefetch(&session.cookie);
                prefetch(&session.min_rtt_us);
            }
        }
        for place in places {
            if let Some(session) = self.slots.get(place)
                && !session.may_stay(now_ns)
            {
                let link = self.links[place];
                for neighbour in [link.older, link.newer] {
                    if let Some(link) = self.links.get(neighbour) {
                        prefetch(link);
                    }
                }
            }
        }
    }

    pub(super) fn at(&mut self, place: u32) -> &mut Session {
        &mut self.slots[place]
    }

    pub(super) fn is_full(&self) -> bool {
        self.index.len() >= self.max
    }

    /// The session that a full table forgets first. One that was heard of since it was put where
    /// it is gets another chance, as some others do; not all of them at one go.
    pub(super) fn most_forgettable(&mut self) -> Option<u32> {
        const CHANCES: usize = 16;
        for _ in 0..CHANCES {
            let place = List::ALL.into_iter().find_map(|list| self.oldest(list))?;
            let session = &self.slots[place];
            if session.t_updated_ns <= session.t_listed_ns {
                return Some(place);
            }
            let list = session.proper_list();
            self.unlink(place);
            self.link(place, list);
        }
        List::ALL.into_iter().find_map(|list| self.oldest(list))
    }

    /// The session of a list that was not heard of for longest; of the idle ones, one of those not
    /// heard of for almost as long.
    pub(super) fn oldest(&self, list: List) -> Option<u32> {
        let place = self.lists[list as usize].oldest;
        (place != NONE).then_some(place)
    }

    /// Adds a session. The caller has made room.
    pub(super) fn insert(&mut self, session: &Session) -> u32 {
        let cookie = session.cookie;
        let list = session.proper_list();
        let place = if let Some(place) = self.free.pop() {
            self.slots[place] = *session;
            place
        } else {
            self.slots.push(*session);
            self.links.push(Link {
                older: NONE,
                newer: NONE,
            });
            to_u32(self.slots.len() - 1)
        };
        self.index.insert(cookie, place);
        self.link(place, list);
        place
    }

    pub(super) fn remove(&mut self, place: u32) -> Session {
        self.unlink(place);
        let session = self.slots[place];
        self.index.remove(session.cookie, place);
        self.free.push(place);
        session
    }

    /// Puts a session, just heard of, at the new end of the list it belongs to.
    pub(super) fn touch(&mut self, place: u32, t_ns: u64) {
        let session = &mut self.slots[place];
        session.t_updated_ns = session.t_updated_ns.max(t_ns);
        let list = session.proper_list();
        if session.list == Some(list) && session.may_stay(session.t_updated_ns) {
            return;
        }
        self.unlink(place);
        self.link(place, list);
    }

    fn link(&mut self, place: u32, list: List) {
        let session = &mut self.slots[place];
        session.list = Some(list);
        session.t_listed_ns = session.t_updated_ns;
        let ends = &mut self.lists[list as usize];
        self.links[place] = Link {
            older: ends.newest,
            newer: NONE,
        };
        match ends.newest {
            NONE => ends.oldest = place,
            newest => self.links[newest].newer = place,
        }
        ends.newest = place;
        ends.len += 1;
    }

    fn unlink(&mut self, place: u32) {
        let Some(list) = self.slots[place].list.take() else {
            return;
        };
        let Link { older, newer } = self.links[place];
        let ends = &mut self.lists[list as usize];
        match older {
            NONE => ends.oldest = newer,
            older => self.links[older].newer = newer,
        }
        match newer {
            NONE => ends.newest = older,
            newer => self.links[newer].older = older,
        }
        ends.len -= 1;
    }
}

impl Session {
    /// Whether it may stay where it is in its list though it is heard of again.
    fn may_stay(&self, now_ns: u64) -> bool {
        self.list == Some(List::Idle) && now_ns < self.t_listed_ns.saturating_add(GRAIN_NS)
    }
}

/// Places fit: the table is bounded below `NONE`.
fn to_u32(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(NONE)
}

#[cfg(test)]
mod tests {
    use probe_ebpf::record::Endpoints;

    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn table(cookies: impl IntoIterator<Item = u64>) -> Sessions {
        let mut sessions = Sessions::new(1000);
        for cookie in cookies {
            let session = Session::new(cookie, Endpoints::default(), 0, cookie * SECOND_NS);
            sessions.insert(&session);
        }
        sessions
    }

    fn forget(sessions: &mut Sessions) -> u64 {
        let place = sessions.most_forgettable().unwrap();
        sessions.remove(place).cookie
    }

    #[test]
    fn what_was_heard_of_lately_is_not_forgotten_first() {
        let mut sessions = table(1..=4);
        // Within the grain, so that both stay where they are.
        for cookie in [1, 3] {
            let place = sessions.find(cookie).unwrap();
            sessions.touch(place, 5 * SECOND_NS);
        }
        let order: Vec<_> = (0..4).map(|_| forget(&mut sessions)).collect();
        assert_eq!(order, [2, 4, 1, 3]);
        assert!(sessions.is_empty());
        assert_eq!(sessions.most_forgettable(), None);
    }

    #[test]
    fn a_full_table_in_which_all_are_busy_forgets_without_a_search_through_all() {
        let mut sessions = table(1..=500);
        for place in 0..500 {
            sessions.touch(place, 501 * SECOND_NS);
        }
        let before = sessions.open();
        assert!(sessions.most_forgettable().is_some());
        assert_eq!(sessions.open(), before);
    }

    #[test]
    fn a_place_that_is_free_is_not_listed_and_is_used_again() {
        let mut sessions = table(1..=3);
        let place = sessions.find(2).unwrap();
        sessions.remove(place);
        let cookies = |sessions: &Sessions| -> Vec<u64> {
            sessions
                .iter_from(0)
                .map(|(_, session)| session.cookie)
                .collect()
        };
        assert_eq!(cookies(&sessions), [1, 3]);
        assert_eq!(sessions.find(2), None);
        sessions.insert(&Session::new(9, Endpoints::default(), 0, 0));
        assert_eq!(cookies(&sessions), [1, 9, 3]);
        assert_eq!((sessions.len(), sessions.places()), (3, 3));
    }

    #[test]
    fn looking_ahead_changes_nothing_and_takes_any_cookie() {
        let sessions = table(1..=100);
        let cookies: Vec<u64> = (50..150).chain([0, u64::MAX]).collect();
        for at in 0..=cookies.len() {
            sessions.foresee(&cookies, at, u64::MAX);
        }
        assert_eq!(sessions.len(), 100);
    }
}
