//! Where labels and deliveries meet: on their session, by time, whichever comes first.

use probe_ebpf::record::{self, flag, kind as record_kind};

use super::super::blame::Spent;
use super::super::cell::Cells;
use super::super::delivery::{self, Kind};
use super::super::viewer::{Finished, Labelled, RequestId, Tier};
use super::pairing::Paired;
use super::side::{self, Heard, Open, Side};
use super::unreached;
use super::{Audience, Clocks, MOST_HOMELESS, SILENT_NS, canonical, canonical_ref, ends_of, told};
use crate::labels::address;
use crate::labels::request::{Class, RequestLabel, SessionRef};

impl Audience {
    /// A session is known.
    pub fn session_start(
        &mut self,
        record: &record::SessionStart,
        cell: u32,
        clocks: Clocks,
        cells: &mut Cells,
    ) {
        let Some(side) = self.side(record.cookie, &record.endpoints, cell, record.header.t_ns)
        else {
            return;
        };
        side.t_updated_ns = record.header.t_ns;
        side.t_open_ns = opened_ns(record);
        if record.flags & flag::ADOPTED != 0 {
            side.t_adopted_ns = record.header.t_ns;
        }
        // Labels of others are looked at when time passes.
        let (remote, local_port) = ends_of(&record.endpoints);
        let by_ends = SessionRef::Ends { remote, local_port };
        if self.awaited.contains_key(&by_ends)
            || self
                .awaited
                .contains_key(&SessionRef::Cookie(record.cookie))
        {
            self.house(record.header.t_ns, clocks, cells);
        }
    }

    /// Keeps a label until its session is known.
    fn shelter(&mut self, label: &RequestLabel) {
        if self.homeless.len() >= MOST_HOMELESS {
            self.next_homeless();
            self.losses.labels_homeless += 1;
        }
        self.homeless.push_back(*label);
        *self
            .awaited
            .entry(canonical_ref(label.session))
            .or_default() += 1;
    }

    fn next_homeless(&mut self) -> Option<RequestLabel> {
        let label = self.homeless.pop_front()?;
        let session = canonical_ref(label.session);
        if let Some(count) = self.awaited.get_mut(&session) {
            *count -= 1;
            if *count == 0 {
                self.awaited.remove(&session);
            }
        }
        Some(label)
    }

    /// The labels that came before their session was known.
    pub(super) fn house(&mut self, now_ns: u64, clocks: Clocks, cells: &mut Cells) {
        for _ in 0..self.homeless.len() {
            let Some(label) = self.next_homeless() else {
                return;
            };
            if self.cookie_of(&label).is_some() {
                self.labelled(&label, clocks, cells);
            } else if label.t_heard_ns.saturating_add(side::PATIENCE_NS) > now_ns {
                self.shelter(&label);
            } else {
                self.losses.labels_homeless += 1;
            }
        }
    }

    fn cookie_of(&self, label: &RequestLabel) -> Option<u64> {
        let cookie = match label.session {
            SessionRef::Cookie(cookie) => cookie,
            SessionRef::Ends { remote, local_port } => {
                *self.by_ends.get(&(canonical(remote), local_port))?
            }
        };
        self.sides.contains_key(&cookie).then_some(cookie)
    }

    fn side(
        &mut self,
        cookie: u64,
        ends: &record::Endpoints,
        cell: u32,
        now_ns: u64,
    ) -> Option<&mut Side> {
        if self.is_idle() {
            return None;
        }
        if !self.sides.contains_key(&cookie) {
            if self.sides.len() >= self.limits.max_sessions {
                return None;
            }
            if self.t_born_ns == 0 {
                self.t_born_ns = now_ns.max(1);
            }
            self.next_session = self.next_session.wrapping_add(1);
            let side = Side::new(self.next_session, *ends, cell);
            self.sides.insert(cookie, side);
            self.by_ends.insert(ends_of(ends), cookie);
        }
        self.sides.get_mut(&cookie)
    }

    /// Of what class a delivery that is over is known to be, before it is counted, and how that is
    /// known.
    pub fn class_of(&self, record: &record::Delivery) -> Option<(Class, Tier)> {
        if self.is_idle() || record.header.kind != record_kind::DELIVERY_END {
            return None;
        }
        let label = &self.sides.get(&record.cookie)?.label_of(record)?.label;
        Some((label.object.class, told::tier(label)))
    }

    /// A request got a name.
    pub fn labelled(&mut self, label: &RequestLabel, clocks: Clocks, cells: &mut Cells) {
        let now_ns = label.t_heard_ns;
        if let SessionRef::Ends { local_port, .. } = label.session {
            self.named.insert(local_port, now_ns);
        }
        let Some(cookie) = self.cookie_of(label) else {
            self.shelter(label);
            return;
        };
        let mut heard = Heard {
            label: *label,
            t_begin_ns: clocks.monotonic_ns(label.begin_unix_ns),
            t_end_ns: clocks.monotonic_ns(label.end_unix_ns),
            id: RequestId::default(),
            is_told: false,
            reaches_bytes: 0,
            t_acked_ns: 0,
        };
        let paired = self.pair(cookie, &mut heard, cells);
        if matches!(paired, Paired::Known) {
            return;
        }
        let label = heard.label;
        let label = &label;
        let place = told::is_playback(label)
            .then(|| self.viewer_of(cookie, &heard, cells))
            .flatten();
        let Some(side) = self.sides.get(&cookie) else {
            return;
        };
        if matches!(paired, Paired::Alone) {
            let cell = self.cell_of(place.or(side.viewer), side.cell);
            cells.get_mut(cell).counters.requests_named += 1;
        }
        let Some(side) = self.sides.get_mut(&cookie) else {
            return;
        };
        self.named.insert(side.ends.local_port, now_ns);
        let tagged = match paired {
            Paired::With(id) => Some((id, side.take_tagged(id).is_some())),
            Paired::Alone | Paired::Known => None,
        };
        if let Some(record) = side.take_delivery(&heard) {
            let (number, cell) = (side.number, side.cell);
            heard.id = told::late_request_id(number, record.index, heard.t_begin_ns);
            self.keep_tag(cookie, &heard);
            self.finished(&record, number, cell, &[heard], clocks, now_ns, cells);
            return;
        }
        let Open {
            index,
            mut t_request_ns,
        } = side.awaited_by(&heard);
        heard.id = if let Some((id, _)) = tagged
            && !label.is_http2
        {
            id
        } else if label.is_http2 {
            t_request_ns = t_request_ns.max(heard.t_begin_ns);
            side.name_shared(index, &heard)
        } else {
            told::request_id(side.number, index, 0)
        };
        side.t_updated_ns = now_ns;
        let cell = side.cell;
        heard.is_told = place.is_some();
        // Of one whose delivery met its tag and is over, only what became of it is news.
        if tagged.is_none_or(|(_, is_waiting)| is_waiting) {
            let was_queued = std::mem::replace(&mut side.is_queued, true);
            if side.keep_label(&heard).is_some() {
                cells.get_mut(cell).counters.labels_unmatched += 1;
            }
            if !was_queued {
                self.waiting.push_back(cookie);
            }
        }
        self.keep_tag(cookie, &heard);
        if let Some(place) = place {
            let told = Labelled {
                id: heard.id,
                t_request_ns,
                object: told::object(label),
                status: label.status,
                is_written: label.end_unix_ns != 0,
                expected_bytes: label.sent_bytes,
                claim: label.cmcd.as_ref().map(told::claim),
            };
            self.tell_labelled(place, now_ns, cells, &told);
        }
    }

    /// A delivery is under way, or over.
    pub fn delivery(
        &mut self,
        record: &record::Delivery,
        cell: u32,
        clocks: Clocks,
        cells: &mut Cells,
    ) {
        if self.is_idle() {
            return;
        }
        if delivery::kind_of(record) == Kind::Handshake {
            if let Some(side) = self.sides.get_mut(&record.cookie) {
                side.next_index = side.next_index.max(record.index.saturating_add(1));
            }
            return;
        }
        if record.header.kind == record_kind::DELIVERY_END {
            self.over(record, cell, clocks, cells);
        } else {
            self.under_way(record, cell, clocks, cells);
        }
    }

    /// The session of a record, which was just heard of, and whether its viewers are made out without
    /// labels.
    fn heard_of(&mut self, record: &record::Delivery, cell: u32) -> Option<(&mut Side, bool)> {
        let now_ns = record.header.t_ns;
        let infers = self.infers(record.endpoints.local_port, now_ns);
        let side = self.side(record.cookie, &record.endpoints, cell, now_ns)?;
        side.t_updated_ns = now_ns;
        Some((side, infers))
    }

    fn under_way(
        &mut self,
        record: &record::Delivery,
        cell: u32,
        clocks: Clocks,
        cells: &mut Cells,
    ) {
        let now_ns = record.header.t_ns;
        let Some((side, infers)) = self.heard_of(record, cell) else {
            return;
        };
        let number = side.number;
        if record.index < side.next_index {
            return;
        }
        let record = &side.joined(record);
        side.open = Some(Open {
            index: record.index,
            t_request_ns: record.t_request_ns,
        });
        let expected_bytes = side.expected_bytes(record);
        let shared = side.shared_progress(record);
        let place = match side.viewer {
            Some(place) => Some(place),
            None if infers => self.nameless(record, cells),
            None => None,
        };
        if let Some(entry) = place.and_then(|place| self.viewers.get_mut(place)) {
            entry.under_way = Spent::of(record, clocks.tick_hz, now_ns);
        }
        let (over, under_way) = shared.unwrap_or_else(|| {
            let whole = told::under_way(record, number, expected_bytes);
            (Vec::new(), [Some(whole), None])
        });
        if !over.is_empty() {
            self.finished(record, number, cell, &over, clocks, now_ns, cells);
        }
        let Some(place) = place else {
            return;
        };
        for told in under_way.into_iter().flatten() {
            self.tell(place, now_ns, cells, |model, with, out| {
                model.under_way(&told, now_ns, with, out);
            });
        }
    }

    fn over(&mut self, record: &record::Delivery, cell: u32, clocks: Clocks, cells: &mut Cells) {
        let now_ns = record.header.t_ns;
        let Some((side, infers)) = self.heard_of(record, cell) else {
            return;
        };
        let number = side.number;
        let joined = side.joined(record);
        side.next_index = side.next_index.max(record.index.saturating_add(1));
        side.t_latest_ns = now_ns;
        if side.open.is_some_and(|open| open.index <= record.index) {
            side.open = None;
        }
        if let Some(place) = side.viewer
            && let Some(told) = told::next_under_way(record, number)
        {
            self.tell(place, now_ns, cells, |model, with, out| {
                model.under_way(&told, now_ns, with, out);
            });
        }
        let record = &joined;
        let Some(side) = self.sides.get_mut(&record.cookie) else {
            return;
        };
        let (mut heard, stale) = side.take_labels(record);
        let (was_named, nameless) = side.shared_end(record, &mut heard);
        let owner = side.viewer;
        cells.get_mut(cell).counters.labels_unmatched += stale.len() as u64;
        if was_named && heard.is_empty() {
            // All its answers were over before it was.
            cells.get_mut(cell).counters.deliveries_labelled += 1;
        } else if !heard.is_empty() || infers {
            self.finished(record, number, cell, &heard, clocks, now_ns, cells);
        } else if self.named.contains_key(&record.endpoints.local_port) {
            self.await_label(record, cell, clocks, cells);
        }
        if let (Some(place), Some(id)) = (owner, nameless) {
            let told = Finished {
                id,
                acked_bytes: 0,
                ..told::finished(record, number)
            };
            self.tell(place, now_ns, cells, |model, with, out| {
                model.finished(&told, now_ns, with, out);
            });
        }
    }

    /// Keeps a delivery that is over until it has a name.
    fn await_label(
        &mut self,
        record: &record::Delivery,
        cell: u32,
        clocks: Clocks,
        cells: &mut Cells,
    ) {
        let now_ns = record.header.t_ns;
        let Some(side) = self.sides.get_mut(&record.cookie) else {
            return;
        };
        let number = side.number;
        let was_queued = std::mem::replace(&mut side.is_queued, true);
        let viewer = side.viewer;
        let over = side.keep_delivery(record);
        if !was_queued {
            self.waiting.push_back(record.cookie);
        }
        if let Some(place) = viewer {
            // Its label comes when the server has written all of it, so it is not known to be.
            let told = told::under_way(record, number, 0);
            self.tell(place, now_ns, cells, |model, with, out| {
                model.under_way(&told, now_ns, with, out);
            });
        }
        if let Some(over) = over {
            self.finished(&over, number, cell, &[], clocks, now_ns, cells);
        }
    }

    /// A session is over.
    pub fn session_end(&mut self, record: &record::SessionEnd, clocks: Clocks, cells: &mut Cells) {
        let by_client = matches!(
            record.ended,
            record::ended::CLIENT_FIN | record::ended::CLIENT_RST
        );
        let side = self.sides.get(&record.cookie);
        let nobodys = side.filter(|side| side.viewer.is_none()).map(|s| s.cell);
        self.part_with(record.cookie, by_client, record.header.t_ns, clocks, cells);
        if let Some(cell) = nobodys
            && unreached::died_in_handshake(record)
        {
            let client = address(record.endpoints.remote_addr);
            self.half_open_give_up(client, record.endpoints.local_port, cell);
        }
    }

    /// Sessions of which nothing was heard for long are not followed any further: their ends may
    /// have been lost. One that speaks again is met anew.
    pub(super) fn part_with_silent(&mut self, now_ns: u64, clocks: Clocks, cells: &mut Cells) {
        let limit_ns = now_ns.saturating_sub(SILENT_NS);
        let mut silent: Vec<_> = self
            .sides
            .iter()
            .filter(|(_, side)| side.t_updated_ns < limit_ns)
            .map(|(cookie, _)| *cookie)
            .collect();
        // In an order that is the same in a replay.
        silent.sort_unstable();
        for cookie in silent {
            self.part_with(cookie, false, now_ns, clocks, cells);
        }
    }

    fn part_with(
        &mut self,
        cookie: u64,
        by_client: bool,
        now_ns: u64,
        clocks: Clocks,
        cells: &mut Cells,
    ) {
        let Some(mut side) = self.sides.remove(&cookie) else {
            return;
        };
        let ends = ends_of(&side.ends);
        if self.by_ends.get(&ends) == Some(&cookie) {
            self.by_ends.remove(&ends);
        }
        let (labels, deliveries) = side.take_all();
        cells.get_mut(side.cell).counters.labels_unmatched += labels.len() as u64;
        let (number, cell, viewer) = (side.number, side.cell, side.viewer);
        let missing = side.numbered.as_ref().map_or(0, |known| known.missing());
        let counters = &mut cells.get_mut(self.cell_of(viewer, cell)).counters;
        counters.lines_lost += u64::from(missing);
        counters.requests_nameless += deliveries.len() as u64;
        for record in deliveries {
            self.finished(&record, number, cell, &[], clocks, now_ns, cells);
        }
        if let Some(place) = viewer {
            self.session_gone(place, number, now_ns, by_client, cells);
        }
    }
}

/// When the client sent its first SYN: half of the handshake's round trip before the SYN-ACK. Where
/// SYN-ACKs were repeated the round trip is not known, and it is when that was first sent. 0: not
/// known.
fn opened_ns(record: &record::SessionStart) -> u64 {
    if record.flags & flag::ADOPTED != 0 || record.handshake_us == 0 {
        return 0;
    }
    let handshake_ns = u64::from(record.handshake_us) * 1000;
    let on_its_way_ns = match record.synack_retransmits {
        0 => handshake_ns / 2,
        _ => 0,
    };
    record
        .t_established_ns
        .saturating_sub(handshake_ns + on_its_way_ns)
}
