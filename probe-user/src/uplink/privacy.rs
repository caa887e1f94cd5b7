//! What leaves the host names no client.

use std::net::IpAddr;
use std::time::Instant;

use weir_proto::v1::{self, hot_event};

use crate::labels::pseudonym::Pseudonyms;

/// Puts clients' names in the place of their addresses. Their ports go too: with the time, they
/// would tell a carrier's NAT who it was.
pub(super) fn hide_clients(event: &mut v1::HotEvent, pseudonyms: &mut Pseudonyms, now: Instant) {
    match &mut event.event {
        Some(hot_event::Event::Late(delivery) | hot_event::Event::Aborted(delivery)) => {
            if let Some(endpoints) = &mut delivery.endpoints {
                hide(&mut endpoints.remote_address, pseudonyms, now);
                endpoints.remote_port = 0;
            }
        }
        Some(hot_event::Event::Viewer(event)) => {
            if let Some(viewer) = &mut event.viewer {
                hide(&mut viewer.client_address, pseudonyms, now);
                // The player's own name for its playback may be known elsewhere.
                viewer.sid.clear();
            }
        }
        Some(hot_event::Event::Alarm(_)) | None => {}
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
