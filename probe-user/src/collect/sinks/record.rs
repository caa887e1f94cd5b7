//! One record of what happened, flat enough for a table.

use serde::Serialize;
use weir_proto::v1::{self, hot_event};

use crate::ui::units;

/// Of which frame a record is, and who took it. Host, boot, lane, number and place name a record:
/// one that was sent again to another collector comes twice with the same name.
#[derive(Clone, Debug, Serialize)]
pub(in crate::collect) struct Origin {
    pub(in crate::collect) host: String,
    pub(in crate::collect) boot_id: String,
    pub(in crate::collect) lane: String,
    pub(in crate::collect) seq: u64,
    /// Its place in the frame.
    pub(in crate::collect) place: u64,
    /// By whom and when it was taken.
    pub(in crate::collect) collector: String,
    pub(in crate::collect) heard_unix_ns: u64,
}

/// What happened.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "what")]
pub(in crate::collect) enum What {
    /// Still open, past its deadline.
    Late(v1::Delivery),
    Aborted(v1::Delivery),
    /// Finished.
    Delivery(v1::Delivery),
    Viewer(v1::ViewerEvent),
    Alarm(v1::Alarm),
    Steer(v1::SteerEvent),
}

/// What happened, where and when.
#[derive(Clone, Debug, Serialize)]
pub(in crate::collect) struct Record {
    #[serde(flatten)]
    pub(in crate::collect) origin: Origin,
    /// When it happened.
    pub(in crate::collect) unix_ns: u64,
    #[serde(flatten)]
    pub(in crate::collect) what: What,
}

impl Record {
    /// What a frame brings.
    pub(super) fn all(origin: &Origin, frame: &v1::Frame) -> impl Iterator<Item = Self> {
        let events = frame.events.iter().filter_map(|event| {
            let what = match event.event.clone()? {
                hot_event::Event::Late(delivery) => What::Late(delivery),
                hot_event::Event::Aborted(delivery) => What::Aborted(delivery),
                hot_event::Event::Viewer(event) => What::Viewer(event),
                hot_event::Event::Alarm(alarm) => What::Alarm(alarm),
                hot_event::Event::Steer(event) => What::Steer(event),
            };
            Some((event.unix_ns, what))
        });
        let deliveries = frame.deliveries.iter().map(|delivery| {
            let ended = delivery.last_acked_unix_ns;
            let unix_ns = if ended > 0 { ended } else { frame.unix_ns };
            (unix_ns, What::Delivery(delivery.clone()))
        });
        let (origin, all) = (origin.clone(), events.chain(deliveries));
        let named = (0..).zip(all).map(move |(place, (unix_ns, what))| Self {
            origin: Origin {
                place,
                ..origin.clone()
            },
            unix_ns,
            what,
        });
        named.collect::<Vec<_>>().into_iter()
    }

    /// The same as in the JSON.
    pub(super) fn kind(&self) -> &'static str {
        match self.what {
            What::Late(_) => "late",
            What::Aborted(_) => "aborted",
            What::Delivery(_) => "delivery",
            What::Viewer(_) => "viewer",
            What::Alarm(_) => "alarm",
            What::Steer(_) => "steer",
        }
    }

    pub(super) fn delivery(&self) -> Option<&v1::Delivery> {
        match &self.what {
            What::Late(delivery) | What::Aborted(delivery) | What::Delivery(delivery) => {
                Some(delivery)
            }
            What::Viewer(_) | What::Alarm(_) | What::Steer(_) => None,
        }
    }

    pub(super) fn viewer(&self) -> Option<&v1::Viewer> {
        match &self.what {
            What::Viewer(event) => event.viewer.as_ref(),
            _ => None,
        }
    }

    /// The cell's name.
    pub(super) fn cell(&self) -> String {
        let cell = match &self.what {
            What::Alarm(alarm) => alarm.cell.as_ref(),
            What::Viewer(_) => self.viewer().and_then(|viewer| viewer.cell.as_ref()),
            _ => self.delivery().and_then(|delivery| delivery.cell.as_ref()),
        };
        units::cell_path(cell)
    }

    /// A viewer's change, an alarm's rate or the kind of a journal's entry.
    pub(super) fn change(&self) -> String {
        match &self.what {
            What::Viewer(event) => event.change().word(),
            What::Alarm(alarm) => alarm.rate().word(),
            What::Steer(event) => event.kind.clone(),
            _ => String::new(),
        }
    }

    pub(super) fn client_address(&self) -> &str {
        let endpoints = self
            .delivery()
            .and_then(|delivery| delivery.endpoints.as_ref());
        match (endpoints, self.viewer()) {
            (Some(endpoints), _) => &endpoints.remote_address,
            (None, Some(viewer)) => &viewer.client_address,
            (None, None) => "",
        }
    }

    /// Of a viewer, an alarm or the gate, in words.
    pub(super) fn verdict(&self) -> &str {
        match &self.what {
            What::Alarm(alarm) => &alarm.verdict,
            What::Steer(event) => &event.text,
            _ => self.viewer().map_or("", |viewer| &viewer.verdict),
        }
    }
}
