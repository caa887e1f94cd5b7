//! What is known of viewers, and of the alarms on their cells, as it is told.

use weir_proto::v1;

use super::Intake;
use crate::qoe::alarms::Raised;
use crate::qoe::audience::{Audience, Entry, Happening, Learned};
use crate::qoe::learn::Families;
use crate::wire;

impl Intake {
    /// Goes on from what was learned of players before; to be called before anything is said.
    pub fn learn_from(&mut self, families: Families) {
        self.audience.learn_from(Learned::from(families));
    }

    /// What was learned of players, as it is told.
    pub fn learned(&self) -> Vec<v1::LearnedFamily> {
        let families = self.audience.learned().families();
        families
            .iter()
            .map(|(name, family)| wire::learned(name, family))
            .collect()
    }

    /// Those who watch.
    pub fn audience(&self) -> &Audience {
        &self.audience
    }

    /// A viewer, as it is told.
    pub fn viewer(&self, entry: &Entry, now_ns: u64) -> v1::Viewer {
        let cell = self.fold.cells().key(entry.cell);
        let with = self.audience.thresholds(entry);
        wire::viewer(entry, cell, &with, &self.context, now_ns)
    }

    /// What happened to a viewer, as it is told; none: it is forgotten already.
    pub fn viewer_event(&self, happening: &Happening) -> Option<v1::ViewerEvent> {
        let entry = self.audience.get(happening.viewer)?;
        let viewer = self.viewer(entry, happening.now_ns);
        Some(wire::viewer_event(happening, viewer, &self.context))
    }

    /// The alarms that are on.
    pub fn alarms(&self) -> impl Iterator<Item = v1::Alarm> {
        self.alarms.on().map(|raised| self.alarm(raised))
    }

    /// An alarm, as it is told.
    pub fn alarm(&self, raised: &Raised) -> v1::Alarm {
        let cells = self.fold.cells();
        let (key, cell) = (cells.key(raised.cell), cells.get(raised.cell));
        wire::alarm(raised, key, &cell.counters, &self.context)
    }

    /// The alarm that was raised or cleared next and was not fetched yet.
    pub fn next_alarm(&mut self) -> Option<Raised> {
        self.raised.pop_front()
    }

    /// What happened to a viewer next and was not fetched yet.
    pub fn next_happening(&mut self) -> Option<Happening> {
        self.audience.next_happening()
    }
}
