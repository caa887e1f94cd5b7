//! What a collector's operator wants to see more closely.

use std::net::IpAddr;

use weir_proto::v1::{self, HotEventKind, hot_event};

use super::filter::{Error, Filter};
use crate::config::parse_prefix;
use crate::labels::request::ShortText;

/// Longest session id that is compared.
const MAX_SID_BYTES: usize = 256;

/// Every part that is set must match.
#[derive(Clone, Debug)]
pub struct Selector {
    /// A player's session id.
    pub sid: Option<ShortText>,
    /// Prefix and cell.
    pub filter: Filter,
    prefix: Option<ipnet::IpNet>,
    cell: String,
    /// Empty: of every kind.
    events: Vec<HotEventKind>,
}

impl Selector {
    /// Checks what was asked for.
    ///
    /// # Errors
    /// Why it cannot be, in words for the operator.
    pub fn new(selector: v1::Selector) -> Result<Self, String> {
        let v1::Selector {
            sid,
            client_prefix,
            cell,
            events,
        } = selector;
        if sid.is_empty() && client_prefix.is_empty() && cell.is_empty() && events.is_empty() {
            return Err("say what is to be watched: a sid, a prefix, a cell or events".to_owned());
        }
        if sid.len() > MAX_SID_BYTES {
            return Err(format!("a sid of more than {MAX_SID_BYTES} bytes"));
        }
        let known = |kind: &i32| match HotEventKind::try_from(*kind) {
            Ok(HotEventKind::Unspecified) | Err(_) => Err(format!("events: {kind} is no kind")),
            Ok(kind) => Ok(kind),
        };
        if events.len() > 8 {
            return Err("more kinds of events than there are".to_owned());
        }
        let events = events.iter().map(known).collect::<Result<_, _>>()?;
        let prefix = match client_prefix.as_str() {
            "" => None,
            text => Some(parse_prefix(text).ok_or_else(|| format!("{text:?} is no prefix"))?),
        };
        let filter = Filter::try_from(Some(v1::Filter {
            prefixes: prefix.iter().map(ToString::to_string).collect(),
            cell: cell.clone(),
            ..v1::Filter::default()
        }));
        Ok(Self {
            sid: (!sid.is_empty()).then(|| ShortText::of(&sid)),
            filter: filter.map_err(|err: Error| err.to_string())?,
            prefix,
            cell,
            events,
        })
    }

    /// Whether clients themselves are looked at, and not their cells or events alone.
    pub fn wants_clients(&self) -> bool {
        self.sid.is_some() || self.prefix.is_some() || !self.cell.is_empty()
    }

    /// Whether cells are.
    pub fn wants_cells(&self) -> bool {
        self.sid.is_none() && self.prefix.is_none() && !self.cell.is_empty()
    }

    /// Whether an event is wanted; its client's address is still in it.
    pub fn matches(&self, event: &v1::HotEvent) -> bool {
        let Some(event) = &event.event else {
            return false;
        };
        let (kind, client, sid, cell) = match event {
            hot_event::Event::Late(delivery) => (
                HotEventKind::Late,
                remote(delivery),
                "",
                delivery.cell.as_ref(),
            ),
            hot_event::Event::Aborted(delivery) => (
                HotEventKind::Aborted,
                remote(delivery),
                "",
                delivery.cell.as_ref(),
            ),
            hot_event::Event::Viewer(event) => {
                let viewer = event.viewer.as_ref();
                (
                    HotEventKind::Viewer,
                    viewer.map_or("", |viewer| &viewer.client_address),
                    viewer.map_or("", |viewer| viewer.sid.as_str()),
                    viewer.and_then(|viewer| viewer.cell.as_ref()),
                )
            }
            hot_event::Event::Alarm(alarm) => (HotEventKind::Alarm, "", "", alarm.cell.as_ref()),
            hot_event::Event::Steer(_) => (HotEventKind::Steer, "", "", None),
        };
        (self.events.is_empty() || self.events.contains(&kind))
            && self.sid.is_none_or(|wanted| wanted == ShortText::of(sid))
            && self.prefix.is_none_or(|prefix| {
                client
                    .parse()
                    .is_ok_and(|client: IpAddr| prefix.contains(&client))
            })
            && (self.cell.is_empty() || cell.is_some_and(|cell| name(cell).contains(&self.cell)))
    }
}

fn remote(delivery: &v1::Delivery) -> &str {
    delivery
        .endpoints
        .as_ref()
        .map_or("", |endpoints| &endpoints.remote_address)
}

/// As `CellKey` writes it.
fn name(key: &v1::CellKey) -> String {
    let v1::CellKey {
        service,
        content_class,
        network,
        transport,
        ..
    } = key;
    let evidence = match key.tier() {
        v1::EvidenceTier::Server => "/server",
        v1::EvidenceTier::Cmcd => "/cmcd",
        v1::EvidenceTier::Kernel | v1::EvidenceTier::Unspecified => "",
    };
    let measured = match key.backend() {
        v1::Backend::Portable => "/portable",
        v1::Backend::Polled => "/polled",
        v1::Backend::Exact | v1::Backend::Unspecified => "",
    };
    format!("{service}/{content_class}/{network}/{transport}{evidence}{measured}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_must_match_and_one_must_be_there() {
        assert!(Selector::new(v1::Selector::default()).is_err());
        let of = |sid: &str, prefix: &str, events: &[HotEventKind]| {
            Selector::new(v1::Selector {
                sid: sid.into(),
                client_prefix: prefix.into(),
                events: events.iter().map(|kind| (*kind).into()).collect(),
                ..v1::Selector::default()
            })
        };
        assert!(of("", "10.0.0.0/33", &[]).is_err());
        let event = v1::HotEvent {
            unix_ns: 1,
            event: Some(hot_event::Event::Viewer(v1::ViewerEvent {
                viewer: Some(v1::Viewer {
                    sid: "s-1".into(),
                    client_address: "10.1.2.3".into(),
                    ..v1::Viewer::default()
                }),
                ..v1::ViewerEvent::default()
            })),
        };
        for (selector, expected) in [
            (of("s-1", "", &[]), true),
            (of("s-2", "", &[]), false),
            (of("s-1", "10.0.0.0/8", &[HotEventKind::Viewer]), true),
            (of("s-1", "11.0.0.0/8", &[]), false),
            (of("", "", &[HotEventKind::Late]), false),
        ] {
            assert_eq!(selector.unwrap().matches(&event), expected);
        }
    }
}
