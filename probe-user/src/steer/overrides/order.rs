//! An order: who wants what of which gates, why, and for how long. Automation writes the same
//! record as a human.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::steer::Scope;
use crate::steer::policy::rules::Metric;

/// How long an order holds unless it says otherwise: half an hour.
pub const DEFAULT_TTL_S: u32 = 30 * 60;
/// At most so long; who wants more says it again.
pub const MAX_TTL_S: u32 = 4 * 3600;
/// An order that breaks an invariant holds at most so long.
pub const MAX_BREAK_GLASS_S: u32 = 10 * 60;
/// The longest way to where an order wants a gate.
pub const MAX_RAMP_S: u32 = 3600;
/// Of a reason, an id or a name.
pub const MAX_TEXT_BYTES: usize = 512;

/// Whose order it is; the first outranks the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    OnHostHuman,
    CentralHuman,
    CentralAutomation,
    LocalAutomation,
}

impl Level {
    pub fn is_human(self) -> bool {
        matches!(self, Self::OnHostHuman | Self::CentralHuman)
    }

    pub fn is_central(self) -> bool {
        matches!(self, Self::CentralHuman | Self::CentralAutomation)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::OnHostHuman => "on-host human",
            Self::CentralHuman => "central human",
            Self::CentralAutomation => "central automation",
            Self::LocalAutomation => "local automation",
        }
    }
}

/// How it is known who speaks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Auth {
    /// The kernel's word on the peer of the Unix socket.
    Uid { uid: u32, tty: Option<String> },
    /// A name in a certificate that the authority signed.
    Certificate { name: String },
    /// A policy of this host or of the centre.
    Policy { name: String, version: u32 },
}

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Automation stays where it is. Humans may still move it.
    Hold,
    /// This share of the traffic that would come by itself.
    Weight { permille: u16 },
    /// No new traffic.
    Drain,
    /// All of it, whatever automation thinks.
    Undrain,
    /// Fixed there, or where it is; also against humans of a lower level.
    Pin { permille: Option<u16> },
    /// No session above this.
    CapBitrate { bps: u64 },
    /// On top of what automation turns away, so much of the rest.
    Shed { permille: u16 },
    /// Takes back one order, or all of that scope up to the own level.
    Release { order: Option<String> },
    /// Automation off, all neutral.
    Panic,
}

/// An action without what it says, for roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    Hold,
    Weight,
    Drain,
    Undrain,
    Pin,
    CapBitrate,
    Shed,
    Release,
    Panic,
}

impl Verb {
    pub const ALL: [Self; 9] = [
        Self::Hold,
        Self::Weight,
        Self::Drain,
        Self::Undrain,
        Self::Pin,
        Self::CapBitrate,
        Self::Shed,
        Self::Release,
        Self::Panic,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Weight => "weight",
            Self::Drain => "drain",
            Self::Undrain => "undrain",
            Self::Pin => "pin",
            Self::CapBitrate => "cap",
            Self::Shed => "shed",
            Self::Release => "release",
            Self::Panic => "panic",
        }
    }
}

impl Action {
    pub fn verb(&self) -> Verb {
        match self {
            Self::Hold => Verb::Hold,
            Self::Weight { .. } => Verb::Weight,
            Self::Drain => Verb::Drain,
            Self::Undrain => Verb::Undrain,
            Self::Pin { .. } => Verb::Pin,
            Self::CapBitrate { .. } => Verb::CapBitrate,
            Self::Shed { .. } => Verb::Shed,
            Self::Release { .. } => Verb::Release,
            Self::Panic => Verb::Panic,
        }
    }

    /// The most of a scope that it turns away.
    pub fn turned_permille(&self) -> u16 {
        match self {
            Self::Weight { permille }
            | Self::Pin {
                permille: Some(permille),
            } => 1000_u16.saturating_sub(*permille),
            Self::Drain => 1000,
            Self::Shed { permille } => (*permille).min(1000),
            _ => 0,
        }
    }

    /// The weight that it sets; none: it sets none.
    pub fn weight_permille(&self) -> Option<u16> {
        match self {
            Self::Weight { permille }
            | Self::Pin {
                permille: Some(permille),
            } => Some(*permille),
            Self::Drain => Some(0),
            Self::Undrain => Some(1000),
            _ => None,
        }
    }
}

/// What the order should bring about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expect {
    pub metric: Metric,
    pub direction: Direction,
    /// 60 to 300.
    pub window_s: u32,
    /// Less is no effect.
    pub min_effect_permille: u32,
    /// Fewer trials on either side say nothing.
    pub min_n: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    Falls,
    Rises,
}

/// What is done if it hurts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFail {
    #[default]
    Revert,
    Hold,
    Page,
}

/// The record, as it is sent, kept and journaled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Unique; an order that is heard twice is refused.
    pub id: String,
    /// Grows with each order of one level: what is older is refused. 0: the host gives it one.
    pub generation: u64,
    pub scope: Scope,
    pub action: Action,
    pub level: Level,
    /// Who, in words.
    pub actor: String,
    pub auth: Auth,
    /// Somebody else who agreed, where two are needed.
    pub second: Option<Auth>,
    pub reason: String,
    /// When it was given, by the issuer's wall clock.
    pub created_unix_ns: u64,
    /// It ends so long after it was taken.
    pub ttl_s: u32,
    /// From where the gate is to where it shall be, and back when it ends. 0: at once.
    pub ramp_s: u32,
    pub expect: Option<Expect>,
    pub on_fail: OnFail,
    /// Also beyond minimum capacity and maximum drain.
    pub is_break_glass: bool,
    /// Of the issuer's order before, in hexadecimal, if it keeps a chain.
    pub prev_hash: Option<String>,
}

impl Order {
    /// Names this order as it was given, in hexadecimal; the next one's `prev_hash`.
    pub fn hash(&self) -> String {
        // Maps have no place in it, so that the text is the same each time.
        let text = serde_json::to_vec(self).unwrap_or_default();
        hex(&Sha256::digest(text))
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
