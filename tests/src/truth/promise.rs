//! What each way of measuring promises, and what is held against it.

use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Between two looks at a socket (250 ms) on a busy machine.
pub const BETWEEN_LOOKS: Duration = Duration::from_millis(350);

/// A tick of the slowest clock that Linux can be built with: the kernel tells by its tick when data
/// last came, went and was acknowledged.
pub const TICK: Duration = Duration::from_millis(10);

/// A way of measuring, as `weir run --backend` names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// Every delivery, and every time to a millisecond, but for one in a hundred.
    #[default]
    Exact,
    /// The same, but for times that are marked as bounds: they are no earlier than it was.
    /// Where the client's last flight of a TLS handshake comes together with the first request, it
    /// and the server's session tickets may be counted with the request or with the handshake.
    Portable,
    /// Every session's bytes and retransmissions. Every time is marked as a bound, no earlier
    /// than it was but for a tick, and later by the time between two looks at the most. What is between two
    /// looks may be one delivery, and TLS handshakes are among them.
    Polled,
}

impl Backend {
    /// As the configuration names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Portable => "portable",
            Self::Polled => "polled",
        }
    }

    /// Whether deliveries are matched one by one.
    pub fn tells_deliveries(self) -> bool {
        self != Self::Polled
    }

    /// Whether a time that is marked as a bound need not be within a millisecond.
    pub fn allows_bounds(self) -> bool {
        self != Self::Exact
    }

    /// Whether a TLS handshake's last flight may be counted with the first request, or not.
    pub fn merges_handshake(self) -> bool {
        self == Self::Portable
    }
}
