//! The filters that commands share, from the command line to the wire.

use clap::builder::RangedI64ValueParser;
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use weir_proto::v1::{Delivery, DeliveryPhase, Filter, SessionState};

/// A port that a server can listen on.
pub(super) fn port() -> RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..)
}

/// A client prefix; a lone address is a prefix of its whole length.
fn prefix(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
        .map(|prefix| prefix.trunc())
        .map_err(|_| "no address and no prefix in CIDR form, e.g. 192.0.2.0/24".to_owned())
}

/// Filters by the two ends of a session.
#[derive(Args, Clone, Debug, Default)]
pub struct Client {
    /// Only sessions to these ports of the server.
    #[arg(long, value_name = "PORT", value_delimiter = ',', value_parser = port())]
    pub port: Vec<u16>,
    /// Only clients in these prefixes (CIDR, or an address).
    #[arg(long, value_name = "PREFIX", value_delimiter = ',', value_parser = prefix)]
    pub prefix: Vec<IpNet>,
}

/// A filter by cell.
#[derive(Args, Clone, Debug, Default)]
pub struct Cell {
    /// A part of `service/content_class/network/transport`.
    #[arg(
        long,
        value_name = "TEXT",
        help = "Only cells whose service/content_class/network/transport contains this text"
    )]
    pub cell: Option<String>,
}

/// States of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SessionStateArg {
    /// Open, nothing outstanding.
    Idle,
    /// A request is being answered.
    Delivering,
    /// That answer is past its deadline.
    Late,
    /// Over.
    Ended,
}

impl From<SessionStateArg> for SessionState {
    fn from(state: SessionStateArg) -> Self {
        match state {
            SessionStateArg::Idle => Self::Idle,
            SessionStateArg::Delivering => Self::Delivering,
            SessionStateArg::Late => Self::Late,
            SessionStateArg::Ended => Self::Ended,
        }
    }
}

/// States of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeliveryState {
    /// Every byte of the answer was acknowledged.
    Complete,
    /// Cut off before that.
    Aborted,
    /// Never answered.
    Unanswered,
    /// Reported late.
    Late,
}

impl DeliveryState {
    /// Whether the delivery is in this state.
    pub fn holds(self, delivery: &Delivery) -> bool {
        let phase = delivery.phase();
        match self {
            Self::Complete => phase == DeliveryPhase::Complete,
            Self::Aborted => phase == DeliveryPhase::Aborted,
            Self::Unanswered => phase == DeliveryPhase::Unanswered,
            Self::Late => phase == DeliveryPhase::Late || delivery.late,
        }
    }
}

/// The wire's filter.
pub(super) fn on_the_wire(
    client: &Client,
    cell: &Cell,
    states: &[SessionStateArg],
    only_troubled: bool,
) -> Filter {
    Filter {
        ports: client.port.iter().copied().map(u32::from).collect(),
        prefixes: client.prefix.iter().map(ToString::to_string).collect(),
        cell: cell.cell.clone().unwrap_or_default(),
        states: states
            .iter()
            .map(|state| SessionState::from(*state) as i32)
            .collect(),
        only_troubled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_may_be_an_address_and_loses_its_host_bits() {
        assert_eq!(prefix("192.0.2.7").unwrap().to_string(), "192.0.2.7/32");
        assert_eq!(prefix("192.0.2.7/24").unwrap().to_string(), "192.0.2.0/24");
        assert_eq!(
            prefix("2001:db8::1").unwrap().to_string(),
            "2001:db8::1/128"
        );
        assert!(prefix("192.0.2/24").is_err());
    }

    #[test]
    fn a_late_delivery_is_late_whether_finished_or_not() {
        let mut delivery = Delivery::default();
        delivery.set_phase(DeliveryPhase::Late);
        assert!(DeliveryState::Late.holds(&delivery));
        delivery.set_phase(DeliveryPhase::Complete);
        assert!(!DeliveryState::Late.holds(&delivery));
        delivery.late = true;
        assert!(DeliveryState::Late.holds(&delivery));
        assert!(DeliveryState::Complete.holds(&delivery));
    }
}
