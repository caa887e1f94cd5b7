//! What the desk says of viewers, and of the alarms on their cells.

use std::sync::Arc;

use weir_proto::v1::{self, viewer_message};

use super::desk::Desk;
use crate::labels::request::ShortText;
use crate::qoe::alarms::Raised;
use crate::qoe::audience::{Entry, Happening};
use crate::query::filter::Filter;
use crate::query::{FollowedViewer, VIEWERS_PER_PAGE, ViewerPage};
use crate::uplink::HotEvent;

impl Desk {
    /// Lets those know who follow viewers; costs next to nothing if nobody does.
    pub(super) fn tell_happening(&self, happening: &Happening) {
        let followers = self.followers.viewers.to_followers();
        if followers.is_none() && self.events.is_none() {
            return;
        }
        let Some(entry) = self.intake.audience().get(happening.viewer) else {
            return;
        };
        let Some(event) = self.intake.viewer_event(happening) else {
            return;
        };
        if let Some(events) = self.events.as_ref().filter(|_| happening.is_hot()) {
            events.push(HotEvent::Viewer(Arc::new(event.clone())));
        }
        if let Some(followers) = followers {
            let message = Some(viewer_message::Message::Event(event));
            let _ = followers.send(FollowedViewer {
                cell: self.intake.fold().cells().key(entry.cell).clone(),
                viewer: Some((entry.client, entry.port)),
                troubled: entry.troubled(),
                message: Arc::new(v1::ViewerMessage { message }),
            });
        }
    }

    /// Lets those know who follow, and the log.
    pub(super) fn tell_alarm(&self, raised: &Raised) {
        let alarm = self.intake.alarm(raised);
        let cell = self.intake.fold().cells().key(raised.cell);
        if raised.is_on {
            tracing::warn!(
                %cell,
                rate = alarm.rate().word(),
                found = alarm.rate_found,
                base = alarm.base,
                n = alarm.n,
                "alarm: {}",
                alarm.verdict
            );
        } else {
            tracing::info!(%cell, rate = alarm.rate().word(), "the alarm has cleared");
        }
        self.alarmed.notify_one();
        if let Some(events) = &self.events {
            events.push(HotEvent::Alarm(Arc::new(alarm.clone())));
        }
        if let Some(followers) = self.followers.viewers.to_followers() {
            let message = Some(viewer_message::Message::Alarm(alarm));
            let _ = followers.send(FollowedViewer {
                cell: cell.clone(),
                viewer: None,
                troubled: true,
                message: Arc::new(v1::ViewerMessage { message }),
            });
        }
    }

    /// A page of the viewers that match.
    pub(super) fn viewers(&self, filter: &Filter, from: usize, now_ns: u64) -> ViewerPage {
        let cells = self.matching_keys(filter);
        let audience = self.intake.audience();
        let until = from.saturating_add(VIEWERS_PER_PAGE);
        let viewers = audience
            .iter_from(from)
            .take_while(|(place, _)| (*place as usize) < until)
            .map(|(_, entry)| entry)
            .filter(|entry| {
                cells[entry.cell as usize]
                    && filter.matches_viewer(entry.client, entry.port, entry.troubled())
            })
            .map(|entry| self.intake.viewer(entry, now_ns))
            .collect();
        ViewerPage {
            viewers,
            next: (until < audience.places()).then_some(until),
            follow: self.followers.viewers.subscribe(),
        }
    }

    /// Those with a session id.
    pub(super) fn viewers_called(
        &self,
        sid: ShortText,
        filter: &Filter,
        cells: &[bool],
        most: usize,
        now_ns: u64,
    ) -> Vec<v1::Viewer> {
        let entries = self.intake.audience().iter_from(0).map(|(_, entry)| entry);
        entries
            .filter(|entry| {
                entry.name == Some(sid)
                    && cells[entry.cell as usize]
                    && filter.matches_viewer(entry.client, entry.port, entry.troubled())
            })
            .take(most)
            .map(|entry| self.intake.viewer(entry, now_ns))
            .collect()
    }

    /// Those that fare worst.
    pub(super) fn worst_viewers(
        &self,
        filter: &Filter,
        cells: &[bool],
        most: usize,
        now_ns: u64,
    ) -> Vec<v1::Viewer> {
        let mut worst: Vec<&Entry> = self
            .intake
            .audience()
            .iter_from(0)
            .map(|(_, entry)| entry)
            .filter(|entry| {
                cells[entry.cell as usize]
                    && filter.matches_viewer(entry.client, entry.port, entry.troubled())
            })
            .collect();
        let by_badness = |a: &&Entry, b: &&Entry| b.badness().cmp(&a.badness());
        if worst.len() > most && most > 0 {
            worst.select_nth_unstable_by(most - 1, by_badness);
            worst.truncate(most);
        }
        worst.sort_by(by_badness);
        worst
            .into_iter()
            .map(|entry| self.intake.viewer(entry, now_ns))
            .collect()
    }

    /// Keeps what was learned of players; at the end for good.
    pub(super) fn keep_learned(&mut self, is_end: bool) {
        let families = self.intake.audience().learned().families();
        if let Some(keeper) = &mut self.learned {
            keeper.keep(families);
        }
        if is_end && let Some(keeper) = self.learned.take() {
            keeper.close(families);
        }
    }
}
