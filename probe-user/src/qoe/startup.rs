//! Attempts to start: what counts as one, when it has failed, and whose fault that looks like.
//! The viewer's model collects the signs; this says what they mean.

/// An attempt with too little media so long after its first request is failing.
pub const START_NS: u64 = 10_000_000_000;
/// Nothing was heard for so long: whoever it was is gone.
pub const GAP_NS: u64 = 15_000_000_000;
/// An origin that thinks longer than this is what the viewer waits for.
pub const THINK_NS: u64 = 1_000_000_000;

/// Whose fault a failed start looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FailureClass {
    /// An error status on the manifest, the initialisation or the first segment.
    Http,
    /// Gateway timeout, or more than a second of thinking.
    Origin,
    /// Connected and no data, timeouts, handshakes given up.
    Network,
    /// The client went while its delivery was healthy.
    Client,
}

impl FailureClass {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Http, Self::Origin, Self::Network, Self::Client];

    /// As the wire writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Origin => "origin",
            Self::Network => "network",
            Self::Client => "client",
        }
    }
}

/// Signs that were seen during an attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signs(u8);

impl Signs {
    /// An error status other than 504.
    pub const HTTP_ERROR: Self = Self(1);
    /// 504, or thinking beyond [`THINK_NS`].
    pub const ORIGIN_SLOW: Self = Self(1 << 1);
    /// Retransmission timeouts, or bytes written and not acknowledged for long.
    pub const PATH_DEAD: Self = Self(1 << 2);
    /// The client cut a delivery off.
    pub const CLIENT_ABORT: Self = Self(1 << 3);
    /// The player said that it failed (`sta=f`).
    pub const DECLARED: Self = Self(1 << 4);

    /// Adds signs.
    pub fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Whether any of `other`'s was seen.
    pub fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// The signs that an answer's status gives.
pub fn signs_of_status(status: u16) -> Signs {
    match status {
        504 => Signs::ORIGIN_SLOW,
        // 499 is nginx's word for a client that left.
        499 => Signs::CLIENT_ABORT,
        400..=599 => Signs::HTTP_ERROR,
        _ => Signs::default(),
    }
}

/// Whose fault a failed attempt looks like: what an answer said outright goes before what was
/// timed, and the client is blamed only where nothing else was seen.
pub fn class_of(signs: Signs) -> FailureClass {
    if signs.any(Signs::HTTP_ERROR) {
        FailureClass::Http
    } else if signs.any(Signs::ORIGIN_SLOW) {
        FailureClass::Origin
    } else if signs.any(Signs::PATH_DEAD) {
        FailureClass::Network
    } else {
        FailureClass::Client
    }
}
