//! A filter as it comes over the wire, checked and bounded, and what it lets through.

use std::net::IpAddr;

use ipnet::IpNet;
use probe_ebpf::record::{Delivery, Endpoints};
use weir_proto::v1;

use super::FollowedViewer;
use crate::config::parse_prefix;
use crate::labels::{Labels, address};
use crate::qoe::session::State;
use crate::qoe::{CellKey, Counters, Session, delivery};

const MAX_PORTS: usize = 64;
const MAX_PREFIXES: usize = 256;
const MAX_CELL_BYTES: usize = 256;
const MAX_STATES: usize = 8;

/// Why a filter cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a port.
    #[error("filter.ports: {0} is no port; ports are 1 to 65535")]
    Port(u32),
    /// Not a prefix.
    #[error("filter.prefixes: {0:?} is no prefix; e.g. \"192.0.2.0/24\" or \"2001:db8::/32\"")]
    Prefix(String),
    /// Not a state.
    #[error("filter.states: {0} is no state of a session")]
    State(i32),
    /// More than is let in.
    #[error("filter.{field} has {len} {unit}; at most {max} are possible")]
    TooLong {
        /// Which field.
        field: &'static str,
        /// Of what.
        unit: &'static str,
        /// How many.
        len: usize,
        /// How many may be.
        max: usize,
    },
    /// The listing does not have what the field is about.
    #[error("filter.{field} does not apply to {listing}: {instead}")]
    NotHere {
        /// Which field.
        field: &'static str,
        /// What is listed.
        listing: &'static str,
        /// What to do.
        instead: &'static str,
    },
}

/// What is asked for; empty lists let everything through, all that are given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    ports: Vec<u16>,
    prefixes: Vec<IpNet>,
    cell: String,
    states: Vec<State>,
    only_troubled: bool,
}

fn bounded(field: &'static str, unit: &'static str, len: usize, max: usize) -> Result<(), Error> {
    if len <= max {
        Ok(())
    } else {
        Err(Error::TooLong {
            field,
            unit,
            len,
            max,
        })
    }
}

impl TryFrom<Option<v1::Filter>> for Filter {
    type Error = Error;

    fn try_from(filter: Option<v1::Filter>) -> Result<Self, Error> {
        let filter = filter.unwrap_or_default();
        bounded("ports", "ports", filter.ports.len(), MAX_PORTS)?;
        bounded("prefixes", "prefixes", filter.prefixes.len(), MAX_PREFIXES)?;
        bounded("cell", "bytes", filter.cell.len(), MAX_CELL_BYTES)?;
        bounded("states", "states", filter.states.len(), MAX_STATES)?;
        let ports = filter.ports.into_iter().map(|port| {
            u16::try_from(port)
                .ok()
                .filter(|port| *port > 0)
                .ok_or(Error::Port(port))
        });
        let prefixes = filter
            .prefixes
            .into_iter()
            .map(|prefix| parse_prefix(&prefix).ok_or(Error::Prefix(prefix)));
        let states =
            filter
                .states
                .into_iter()
                .map(|state| match v1::SessionState::try_from(state) {
                    Ok(v1::SessionState::Idle) => Ok(State::Idle),
                    Ok(v1::SessionState::Delivering) => Ok(State::Delivering),
                    Ok(v1::SessionState::Late) => Ok(State::Late),
                    Ok(v1::SessionState::Ended) => Ok(State::Ended),
                    Ok(v1::SessionState::Unspecified) | Err(_) => Err(Error::State(state)),
                });
        Ok(Self {
            ports: ports.collect::<Result<_, _>>()?,
            prefixes: prefixes.collect::<Result<_, _>>()?,
            cell: filter.cell,
            states: states.collect::<Result<_, _>>()?,
            only_troubled: filter.only_troubled,
        })
    }
}

impl Filter {
    /// Refuses fields that deliveries do not have.
    pub fn for_deliveries(self) -> Result<Self, Error> {
        if self.states.is_empty() {
            Ok(self)
        } else {
            Err(Error::NotHere {
                field: "states",
                listing: "deliveries",
                instead: "states are of sessions; filter.only_troubled finds late and cut ones",
            })
        }
    }

    /// Refuses fields that cells do not have.
    pub fn for_cells(self) -> Result<Self, Error> {
        let not_here = |field| {
            Err(Error::NotHere {
                field,
                listing: "cells",
                instead: "a cell holds many sessions; use filter.cell, or list sessions",
            })
        };
        if !self.states.is_empty() {
            not_here("states")
        } else if !self.prefixes.is_empty() {
            not_here("prefixes")
        } else {
            Ok(self)
        }
    }

    /// Refuses fields that a collector's cells do not have.
    pub fn for_fleet(self) -> Result<Self, Error> {
        if self.ports.is_empty() {
            self.for_cells()
        } else {
            Err(Error::NotHere {
                field: "ports",
                listing: "a collector's cells",
                instead: "each host names its own ports; use filter.cell with the service's name",
            })
        }
    }

    /// Whether a cell's name matches.
    pub fn matches_key(&self, key: &CellKey) -> bool {
        self.cell.is_empty() || key.to_string().contains(&self.cell)
    }

    /// Whether a cell matches; `labels` tell which service a port is.
    pub fn matches_cell(&self, key: &CellKey, counters: &Counters, labels: &Labels) -> bool {
        let service = |port: &u16| labels.service(*port) == key.service;
        self.matches_fleet_cell(key, counters)
            && (self.ports.is_empty() || self.ports.iter().any(service))
    }

    /// Whether a collector's cell matches.
    pub fn matches_fleet_cell(&self, key: &CellKey, counters: &Counters) -> bool {
        self.matches_key(key) && (!self.only_troubled || counters.troubled())
    }

    /// Whether a session matches, its cell aside.
    pub fn matches_session(&self, session: &Session) -> bool {
        (self.states.is_empty() || self.states.contains(&session.state()))
            && (!self.only_troubled || session.troubled())
            && self.matches_endpoints(&session.endpoints)
    }

    /// Whether nothing matches but what went wrong.
    pub fn only_troubled(&self) -> bool {
        self.only_troubled
    }

    /// Whether a delivery matches, its cell aside.
    pub fn matches_delivery(&self, record: &Delivery) -> bool {
        (!self.only_troubled || delivery::troubled(record))
            && self.matches_endpoints(&record.endpoints)
    }

    /// Refuses fields that viewers do not have.
    pub fn for_viewers(self) -> Result<Self, Error> {
        if self.states.is_empty() {
            Ok(self)
        } else {
            Err(Error::NotHere {
                field: "states",
                listing: "viewers",
                instead: "states are of sessions; filter.only_troubled finds those that fare badly",
            })
        }
    }

    /// Whether a viewer matches, its cell aside: whose client it is, and at which port.
    pub fn matches_viewer(&self, client: IpAddr, port: u16, troubled: bool) -> bool {
        (!self.only_troubled || troubled)
            && (self.ports.is_empty() || self.ports.contains(&port))
            && (self.prefixes.is_empty()
                || self.prefixes.iter().any(|prefix| prefix.contains(&client)))
    }

    /// Whether something that happened matches.
    pub fn matches_followed(&self, followed: &FollowedViewer) -> bool {
        self.matches_key(&followed.cell)
            && match followed.viewer {
                Some((client, port)) => self.matches_viewer(client, port, followed.troubled),
                None => self.ports.is_empty() && self.prefixes.is_empty(),
            }
    }

    fn matches_endpoints(&self, endpoints: &Endpoints) -> bool {
        (self.ports.is_empty() || self.ports.contains(&endpoints.local_port))
            && (self.prefixes.is_empty() || {
                let remote = address(endpoints.remote_addr);
                self.prefixes.iter().any(|prefix| prefix.contains(&remote))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(filter: v1::Filter) -> Result<Filter, Error> {
        Filter::try_from(Some(filter))
    }

    #[test]
    fn what_is_wrong_with_a_filter_is_said() {
        let ports = |ports| v1::Filter {
            ports,
            ..v1::Filter::default()
        };
        assert_eq!(parse(ports(vec![80, 70_000])), Err(Error::Port(70_000)));
        assert_eq!(parse(ports(vec![0])), Err(Error::Port(0)));
        assert!(matches!(
            parse(ports(vec![80; 65])),
            Err(Error::TooLong { field: "ports", .. })
        ));
        let prefix = v1::Filter {
            prefixes: vec!["10.0.0.0/99".into()],
            ..v1::Filter::default()
        };
        assert_eq!(parse(prefix), Err(Error::Prefix("10.0.0.0/99".into())));
        let state = v1::Filter {
            states: vec![77],
            ..v1::Filter::default()
        };
        assert_eq!(parse(state), Err(Error::State(77)));
        assert_eq!(Filter::try_from(None), Ok(Filter::default()));
    }

    #[test]
    fn every_field_that_is_set_must_match() {
        let filter = parse(v1::Filter {
            ports: vec![443],
            prefixes: vec!["192.0.2.0/24".into()],
            ..v1::Filter::default()
        })
        .unwrap();
        let record = |port, last| {
            let mut record = Delivery::default();
            record.endpoints.local_port = port;
            record.endpoints.remote_addr = std::net::Ipv4Addr::new(192, 0, last, 1)
                .to_ipv6_mapped()
                .octets();
            record
        };
        assert!(filter.matches_delivery(&record(443, 2)));
        assert!(!filter.matches_delivery(&record(80, 2)));
        assert!(!filter.matches_delivery(&record(443, 3)));
    }

    #[test]
    fn a_listing_refuses_what_it_does_not_have() {
        let states = v1::Filter {
            states: vec![v1::SessionState::Late.into()],
            ..v1::Filter::default()
        };
        assert!(parse(states.clone()).unwrap().for_deliveries().is_err());
        assert!(parse(states).unwrap().for_cells().is_err());
        let ports = parse(v1::Filter {
            ports: vec![80],
            ..v1::Filter::default()
        })
        .unwrap();
        assert!(ports.clone().for_cells().is_ok());
        assert!(ports.for_fleet().is_err());
    }
}
