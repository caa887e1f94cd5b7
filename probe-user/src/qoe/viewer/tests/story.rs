//! A story told to a viewer, as a daemon would, and what the viewer made of it.

use super::super::super::startup::FailureClass;
use super::super::*;
use super::network::ns;

const SEGMENT_MS: u32 = 2000;

/// A viewer and what it has said. Times in milliseconds of the story.
pub(super) struct Told {
    pub viewer: Viewer,
    pub with: Thresholds,
    pub now_ms: u32,
    number: u32,
    pub changes: Vec<Change>,
    live: bool,
}

impl Told {
    pub(super) fn new() -> Self {
        Self {
            viewer: Viewer::new(ns(0)),
            with: Thresholds {
                begin_us: 0,
                ..Thresholds::default()
            },
            now_ms: 0,
            number: 0,
            changes: Vec::new(),
            live: false,
        }
    }

    pub(super) fn live() -> Self {
        Self {
            live: true,
            ..Self::new()
        }
    }

    /// Lets time pass as a daemon does: whenever the viewer wants to be looked at.
    pub(super) fn until(&mut self, t_ms: u32) {
        while self.now_ms < t_ms {
            self.now_ms = (self.now_ms + 250).min(t_ms);
            if self.viewer.wake_ns() <= ns(self.now_ms) {
                let now_ns = ns(self.now_ms);
                self.viewer.advance(now_ns, &self.with, &mut self.changes);
            }
        }
    }

    pub(super) fn object(&self, number: u64) -> Object {
        Object {
            duration_us: SEGMENT_MS * 1000,
            number: Some(number),
            is_live: self.live,
            ..Object::default()
        }
    }

    /// A request came at `t_ms`; returns which.
    pub(super) fn asked(&mut self, t_ms: u32) -> RequestId {
        self.until(t_ms);
        let id = RequestId {
            session: 1,
            number: self.number,
        };
        self.number += 1;
        let told = UnderWay {
            id,
            t_request_ns: ns(t_ms),
            is_sole: true,
            ..UnderWay::default()
        };
        let now_ns = ns(self.now_ms);
        self.viewer
            .under_way(&told, now_ns, &self.with, &mut self.changes);
        id
    }

    pub(super) fn finish(&mut self, told: &Finished) {
        let now_ns = ns(self.now_ms);
        self.viewer
            .finished(told, now_ns, &self.with, &mut self.changes);
    }

    /// An object was asked for and delivered, and this is heard at once.
    pub(super) fn fetched(&mut self, from_ms: u32, to_ms: u32, object: Object) {
        let id = self.asked(from_ms);
        self.answered(from_ms, to_ms, (id, object));
    }

    /// What was asked for was delivered by `to_ms`, and this is heard at once.
    pub(super) fn answered(&mut self, from_ms: u32, to_ms: u32, (id, object): (RequestId, Object)) {
        self.until(to_ms);
        self.finish(&Finished {
            id,
            t_request_ns: ns(from_ms),
            t_first_write_ns: ns(from_ms),
            t_last_acked_ns: ns(to_ms),
            t_ns: ns(to_ms),
            acked_bytes: 100_000,
            status: 200,
            object: Some(object),
            ..Finished::default()
        });
    }

    /// Segments from `first` on, each in 100 ms from `from_ms` on, back to back.
    pub(super) fn filled(&mut self, from_ms: u32, first: u64, segments: u32) {
        for n in 0..segments {
            let t_ms = from_ms + n * 100;
            self.fetched(t_ms, t_ms + 100, self.object(first + u64::from(n)));
        }
    }

    /// A playlist or manifest was fetched.
    pub(super) fn polled(&mut self, t_ms: u32) {
        let id = self.asked(t_ms);
        let object = Object {
            class: Class::Manifest,
            is_live: self.live,
            ..Object::default()
        };
        let told = Labelled {
            id,
            t_request_ns: ns(t_ms),
            object,
            status: 200,
            is_written: true,
            ..Labelled::default()
        };
        let now_ns = ns(self.now_ms);
        self.viewer
            .labelled(&told, now_ns, &self.with, &mut self.changes);
    }

    pub(super) fn ahead_ms(&self) -> u64 {
        self.view().ahead_us.point / 1000
    }

    pub(super) fn view(&self) -> View {
        self.viewer.view(ns(self.now_ms), &self.with)
    }

    pub(super) fn stalls(&self) -> Vec<(u64, Cause)> {
        let stall = |change: &Change| match change {
            Change::StallBegan { t_ns, cause } => Some(((t_ns - ns(0)) / 1_000_000, *cause)),
            _ => None,
        };
        self.changes.iter().filter_map(stall).collect()
    }

    pub(super) fn has(&self, fits: impl Fn(&Change) -> bool) -> bool {
        self.changes.iter().any(fits)
    }

    pub(super) fn ending(&self) -> Option<Ending> {
        self.changes.iter().find_map(|change| match change {
            Change::Ended { how, .. } => Some(*how),
            _ => None,
        })
    }

    pub(super) fn failure(&self) -> Option<FailureClass> {
        self.changes.iter().find_map(|change| match change {
            Change::Failed { class, .. } => Some(*class),
            _ => None,
        })
    }
}
