//! What leaves the host names no client.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use weir_proto::v1::{self, hot_event};

use super::HotEvent;
use crate::labels::pseudonym::Pseudonyms;
use crate::qoe::Event;
use crate::query::Followed;
use crate::wire;

/// Clients' names in the place of their addresses, or their addresses; clones use the same names.
#[derive(Clone, Debug, Default)]
pub struct Private {
    /// None: addresses are sent.
    pseudonyms: Option<Arc<Mutex<Pseudonyms>>>,
}

impl Private {
    /// None: addresses are sent.
    pub fn new(pseudonyms: Option<Pseudonyms>) -> Self {
        Self {
            pseudonyms: pseudonyms.map(|pseudonyms| Arc::new(Mutex::new(pseudonyms))),
        }
    }

    fn pseudonyms(&self) -> Option<MutexGuard<'_, Pseudonyms>> {
        let pseudonyms = self.pseudonyms.as_ref()?;
        Some(pseudonyms.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// An event as it is sent.
    pub fn event(&self, event: &HotEvent) -> v1::HotEvent {
        let mut message = match event {
            HotEvent::Delivery { event, delivery } => {
                let Followed {
                    record,
                    cell,
                    context,
                } = &**delivery;
                let delivery = wire::delivery(record, cell, context);
                v1::HotEvent {
                    unix_ns: context.unix_ns(record.header.t_ns),
                    event: Some(match event {
                        Event::Late => hot_event::Event::Late(delivery),
                        Event::Aborted => hot_event::Event::Aborted(delivery),
                    }),
                }
            }
            HotEvent::Viewer(event) => v1::HotEvent {
                unix_ns: event.told_unix_ns,
                event: Some(hot_event::Event::Viewer((**event).clone())),
            },
            HotEvent::Alarm(alarm) => v1::HotEvent {
                unix_ns: alarm.unix_ns,
                event: Some(hot_event::Event::Alarm((**alarm).clone())),
            },
            HotEvent::Steer(unix_ns, event) => v1::HotEvent {
                unix_ns: *unix_ns,
                event: Some(hot_event::Event::Steer((**event).clone())),
            },
        };
        if let Some(mut pseudonyms) = self.pseudonyms() {
            hide_clients(&mut message, &mut pseudonyms, Instant::now());
        }
        message
    }

    /// An event in full, as it is compared with what is looked for; not to be sent.
    pub(super) fn in_full(event: &HotEvent) -> v1::HotEvent {
        Self::default().event(event)
    }

    /// A closer look as it is sent.
    pub(super) fn drill(&self, drill: &mut v1::Drill) {
        let Some(mut pseudonyms) = self.pseudonyms() else {
            return;
        };
        let now = Instant::now();
        for event in &mut drill.events {
            hide_clients(event, &mut pseudonyms, now);
        }
        for viewer in &mut drill.viewers {
            hide_viewer(viewer, &mut pseudonyms, now);
        }
        for session in &mut drill.sessions {
            if let Some(endpoints) = &mut session.endpoints {
                hide(&mut endpoints.remote_address, &mut pseudonyms, now);
                endpoints.remote_port = 0;
            }
        }
    }

    /// A delivery as it is sent.
    pub fn delivery(&self, mut delivery: v1::Delivery) -> v1::Delivery {
        if let Some(mut pseudonyms) = self.pseudonyms() {
            hide_client(&mut delivery, &mut pseudonyms, Instant::now());
        }
        delivery
    }
}

/// Puts clients' names in the place of their addresses. Their ports go too: with the time, they
/// would tell a carrier's NAT who it was.
fn hide_clients(event: &mut v1::HotEvent, pseudonyms: &mut Pseudonyms, now: Instant) {
    match &mut event.event {
        Some(hot_event::Event::Late(delivery) | hot_event::Event::Aborted(delivery)) => {
            hide_client(delivery, pseudonyms, now);
        }
        Some(hot_event::Event::Viewer(event)) => {
            if let Some(viewer) = &mut event.viewer {
                hide_viewer(viewer, pseudonyms, now);
            }
        }
        // An order's scope may be a network of clients, which an operator named.
        Some(hot_event::Event::Alarm(_) | hot_event::Event::Steer(_)) | None => {}
    }
}

fn hide_viewer(viewer: &mut v1::Viewer, pseudonyms: &mut Pseudonyms, now: Instant) {
    hide(&mut viewer.client_address, pseudonyms, now);
    // The player's own name for its playback may be known elsewhere.
    viewer.sid.clear();
}

fn hide_client(delivery: &mut v1::Delivery, pseudonyms: &mut Pseudonyms, now: Instant) {
    if let Some(endpoints) = &mut delivery.endpoints {
        hide(&mut endpoints.remote_address, pseudonyms, now);
        endpoints.remote_port = 0;
    }
}

fn hide(address: &mut String, pseudonyms: &mut Pseudonyms, now: Instant) {
    // What is no address is nobody's.
    *address = match address.parse::<IpAddr>() {
        Ok(parsed) => pseudonyms.name(parsed, now),
        Err(_) => String::new(),
    };
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_event_tells_clients_apart_and_names_none() {
        let now = Instant::now();
        let mut pseudonyms = Pseudonyms::new(Duration::from_secs(60), now).unwrap();
        let mut sent = |address: &str, late: bool| {
            let delivery = v1::Delivery {
                session: 7,
                endpoints: Some(v1::Endpoints {
                    local_address: "10.0.0.1".into(),
                    local_port: 443,
                    remote_address: address.into(),
                    remote_port: 40_000,
                    ..v1::Endpoints::default()
                }),
                ..v1::Delivery::default()
            };
            let event = if late {
                hot_event::Event::Late(delivery)
            } else {
                hot_event::Event::Aborted(delivery)
            };
            let mut event = v1::HotEvent {
                unix_ns: 1,
                event: Some(event),
            };
            hide_clients(&mut event, &mut pseudonyms, now);
            let Some(hot_event::Event::Late(sent) | hot_event::Event::Aborted(sent)) = event.event
            else {
                panic!()
            };
            assert_eq!(sent.session, 7);
            sent.endpoints.unwrap()
        };
        let one = sent("192.0.2.1", true);
        assert_eq!(
            (one.local_address.as_str(), one.local_port),
            ("10.0.0.1", 443)
        );
        assert!(!one.remote_address.contains("192") && one.remote_port == 0);
        assert_eq!(sent("192.0.2.1", false), one);
        assert_ne!(sent("192.0.2.2", true), one);
        assert_eq!(sent("who?", true).remote_address, "");
    }
}
