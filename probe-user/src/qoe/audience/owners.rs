//! Whose session it is: finding a viewer, making one, and telling its model what happens.

use probe_ebpf::record;

use super::super::cell::Cells;
use super::super::viewer::{self, Change, Ending, Labelled, SessionOver, Tier};
use super::entry::{Entry, Origin};
use super::side::Heard;
use super::{Audience, By, Happening, Key, MOST_CHANGES, NAMED_NS, told};
use crate::labels::address;
use crate::labels::family::Family;
use crate::labels::request::{Class, RequestLabel, Stream};

impl Audience {
    /// The viewer whose request a label is, which is made if it is new; it owns the session now.
    pub(super) fn viewer_of(
        &mut self,
        cookie: u64,
        heard: &Heard,
        cells: &mut Cells,
    ) -> Option<u32> {
        let label = &heard.label;
        let side = self.sides.get(&cookie)?;
        let client = address(side.ends.remote_addr);
        let key = label
            .viewer
            .map_or_else(|| Key::of_address(client, side.ends.local_port), Key::from);
        let tier = told::tier(label);
        let cell = cells.of_viewers(side.cell, tier);
        let (owner, port) = (side.viewer, side.ends.local_port);
        let t_attempt_ns = side.attempt_ns(if heard.t_begin_ns == 0 {
            label.t_heard_ns
        } else {
            heard.t_begin_ns
        });
        let is_young = self.is_young(label.t_heard_ns);
        let is_joined = side.is_adopted_lately(label.t_heard_ns) && !is_manifest_of_vod(label)
            || told::plays_already(label, is_young);
        let place = match self.viewers.find(key) {
            Some(place) => place,
            None => match self.adopt_nameless(owner, key) {
                Some(place) => place,
                None => self.make(
                    &Origin {
                        key,
                        name: label.viewer.and_then(|key| key.name),
                        client,
                        port,
                        family: label.family,
                        tier,
                        cell,
                        t_attempt_ns,
                        is_joined,
                    },
                    cells,
                )?,
            },
        };
        let entry = self.viewers.get_mut(place)?;
        entry.has_asked |= label.object.class != Class::Manifest || label.status >= 400;
        entry.family = label.family;
        self.learned.meet(label.family);
        entry.name = entry.name.or(label.viewer.and_then(|key| key.name));
        entry.is_live |= told::object(label).is_live;
        if entry.tier < tier {
            entry.move_to(cell, tier, cells);
        }
        self.own(cookie, place, label.t_heard_ns, cells);
        Some(place)
    }

    /// A viewer that was made out without a name turns out to have one.
    fn adopt_nameless(&mut self, place: Option<u32>, key: Key) -> Option<u32> {
        let place = place?;
        let entry = self.viewers.get(place)?;
        if entry.key.by != By::Address || entry.is_ended() || key.by == By::Address {
            return None;
        }
        self.viewers.rename(place, key);
        Some(place)
    }

    pub(super) fn make(&mut self, origin: &Origin, cells: &mut Cells) -> Option<u32> {
        if self.limits.max_viewers == 0 {
            return None;
        }
        while self.viewers.is_full() {
            let place = self.viewers.most_forgettable()?;
            let is_watching = self.viewers.get(place).is_some_and(|e| !e.is_ended());
            self.losses.viewers_evicted += u64::from(is_watching);
            self.forget(place, origin.t_attempt_ns, cells);
        }
        let mut entry = Entry::new(origin);
        if let Some(before) = self.viewers.latest(origin.key)
            && before.failure.is_some()
        {
            entry.t_failed_ns = before.t_failed_ns;
        }
        let cell = cells.get_mut(origin.cell);
        cell.counters.viewers_joined += u64::from(origin.is_joined);
        entry.enter(cell);
        Some(self.viewers.insert(entry))
    }

    /// The session is this viewer's from now on.
    pub(super) fn own(&mut self, cookie: u64, place: u32, now_ns: u64, cells: &mut Cells) {
        let Some(side) = self.sides.get_mut(&cookie) else {
            return;
        };
        let number = side.number;
        let before = side.viewer.replace(place);
        if before == Some(place) {
            return;
        }
        if let Some(entry) = self.viewers.get_mut(place) {
            entry.sessions += 1;
            entry.was_reached = true;
        }
        if let Some(before) = before {
            self.session_gone(before, number, now_ns, false, cells);
        }
    }

    /// A viewer has one session less.
    pub(super) fn session_gone(
        &mut self,
        place: u32,
        session: u32,
        t_ns: u64,
        by_client: bool,
        cells: &mut Cells,
    ) {
        let Some(entry) = self.viewers.get_mut(place) else {
            return;
        };
        entry.sessions = entry.sessions.saturating_sub(1);
        let told = SessionOver {
            session,
            t_ns,
            by_client,
            is_last: entry.sessions == 0,
        };
        self.tell(place, t_ns, cells, |model, with, out| {
            model.session_over(&told, t_ns, with, out);
        });
    }

    /// Whether viewers are made out by the kernel's numbers alone at this port now.
    pub(super) fn infers(&self, port: u16, now_ns: u64) -> bool {
        self.settings.infers && !self.is_named(port, now_ns)
    }

    /// Whether a label of a service at this port was heard lately.
    pub(super) fn is_named(&self, port: u16, now_ns: u64) -> bool {
        let heard_ns = self.named.get(&port);
        heard_ns.is_some_and(|heard_ns| heard_ns.saturating_add(NAMED_NS) >= now_ns)
    }

    /// The viewer that a session without labels has: everyone behind one address is one.
    pub(super) fn nameless(&mut self, record: &record::Delivery, cells: &mut Cells) -> Option<u32> {
        let side = self.sides.get(&record.cookie)?;
        if let Some(place) = side.viewer {
            return Some(place);
        }
        let client = address(side.ends.remote_addr);
        let key = Key::of_address(client, side.ends.local_port);
        let cell = side.cell;
        let t_attempt_ns = side.attempt_ns(record.t_request_ns);
        let is_joined = side.is_adopted_lately(record.header.t_ns);
        let place = match self.viewers.find(key) {
            Some(place) => place,
            None => self.make(
                &Origin {
                    key,
                    name: None,
                    client,
                    port: record.endpoints.local_port,
                    family: Family::default(),
                    tier: Tier::Kernel,
                    cell,
                    t_attempt_ns,
                    is_joined,
                },
                cells,
            )?,
        };
        self.own(record.cookie, place, record.header.t_ns, cells);
        Some(place)
    }

    pub(super) fn nameless_or_owner(
        &mut self,
        record: &record::Delivery,
        cells: &mut Cells,
    ) -> Option<u32> {
        match self.sides.get(&record.cookie)?.viewer {
            Some(place) => Some(place),
            None if self.settings.infers => self.nameless(record, cells),
            None => None,
        }
    }

    pub(super) fn forget(&mut self, place: u32, now_ns: u64, cells: &mut Cells) {
        self.tell(place, now_ns, cells, |model, with, out| {
            if !model.is_ended() {
                model.end(now_ns, Ending::Forgotten, with, out);
            }
        });
        self.remove(place);
    }

    pub(super) fn remove(&mut self, place: u32) {
        self.viewers.remove(place);
    }

    /// Tells a viewer's model something, and takes up what it says.
    pub(super) fn tell(
        &mut self,
        place: u32,
        now_ns: u64,
        cells: &mut Cells,
        what: impl Fn(&mut viewer::Viewer, &viewer::Thresholds, &mut Vec<Change>),
    ) {
        self.tell_both(place, now_ns, cells, &what, &what);
    }

    /// Tells that a request got a name, and what its player says.
    pub(super) fn tell_labelled(
        &mut self,
        place: u32,
        now_ns: u64,
        cells: &mut Cells,
        told: &Labelled,
    ) {
        let without = Labelled {
            claim: None,
            ..*told
        };
        self.tell_both(
            place,
            now_ns,
            cells,
            |model, with, out| model.labelled(told, now_ns, with, out),
            |shadow, with, out| shadow.labelled(&without, now_ns, with, out),
        );
    }

    /// The same, where the model that hears the player is told something else than its shadow.
    pub(super) fn tell_both(
        &mut self,
        place: u32,
        now_ns: u64,
        cells: &mut Cells,
        what: impl Fn(&mut viewer::Viewer, &viewer::Thresholds, &mut Vec<Change>),
        without: impl Fn(&mut viewer::Viewer, &viewer::Thresholds, &mut Vec<Change>),
    ) {
        let Some(entry) = self.viewers.get_mut(place) else {
            return;
        };
        if entry.is_ended() {
            return;
        }
        let with = self.learned.thresholds(entry.family);
        self.changes.clear();
        if let Some(shadow) = &mut entry.shadow {
            without(shadow, &with, &mut self.changes);
            self.changes.clear();
        }
        what(&mut entry.model, &with, &mut self.changes);
        entry.t_updated_ns = entry.t_updated_ns.max(now_ns);
        for change in &self.changes {
            let told = entry.told(change);
            entry.note(change, now_ns, cells.get_mut(entry.cell));
            let Some(change) = told else {
                continue;
            };
            if self.happenings.len() >= MOST_CHANGES {
                self.happenings.pop_front();
                self.losses.changes_dropped += 1;
            }
            self.happenings.push_back(Happening {
                viewer: place,
                change,
                now_ns,
            });
        }
        entry.count(cells.get_mut(entry.cell));
        if entry.is_ended()
            && let Some(shadow) = entry.shadow.take()
            && entry.t_started_ns != 0
        {
            let of = |model: &viewer::Viewer| model.view(now_ns, &with).sums.stalled_us.point;
            let (modelled_us, declared_us) = (of(&shadow), of(&entry.model));
            self.learned.compare(entry.family, modelled_us, declared_us);
        }
        self.viewers.plan(place);
    }
}

/// A manifest of what is not live is fetched to begin, and not to go on.
fn is_manifest_of_vod(label: &RequestLabel) -> bool {
    label.object.class == Class::Manifest && label.object.stream == Stream::Vod
}
