//! One viewer: what it plays, with what, over which link, what goes wrong, and what should be said
//! of it.

use serde::{Deserialize, Serialize};

use super::ladder::Container;
use super::origin::Fault;
use super::trace::Step;

/// Ends the name of a session's second player.
pub const COMPANION: &str = "-two";

/// Which links a threshold may be tuned on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Set {
    /// These.
    Training,
    /// Not these.
    HeldOut,
}

/// What weir is given to know of a viewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// The kernel's records alone: the server's log of it goes elsewhere.
    T0,
    /// The access log with it.
    T1,
    /// And CMCD on the requests.
    T2,
}

/// Which player.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Player {
    /// hls.js, on HLS.
    #[serde(rename = "hls.js")]
    Hls,
    /// dash.js, on DASH.
    #[serde(rename = "dash.js")]
    Dash,
}

/// How the client's declarations travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cmcd {
    /// Not at all.
    None,
    /// In the query.
    Query,
    /// In headers.
    Header,
}

/// A stored programme or a live one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Stored.
    Vod,
    /// Live, with a sliding window.
    Live,
}

/// What carries HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// HTTP/1.1 in clear.
    Clear,
    /// HTTP/1.1 over TLS.
    Tls,
    /// HTTP/2 over TLS.
    H2,
}

/// How connections fare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Door {
    /// They are accepted.
    Open,
    /// Nobody listens.
    Refused,
    /// Nothing comes back from the server.
    BlackHole,
}

/// Why a start failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The server answered 4xx or 5xx.
    Http,
    /// The origin was slow.
    Origin,
    /// The network did not carry it.
    Network,
    /// The client left although it was served well.
    Client,
}

/// Where a delivery's time went; the words of weir's shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// The origin or the cache thought.
    Think,
    /// The server did not write: disk, processor.
    ApplicationWrite,
    /// Data waited behind the congestion window.
    SenderWindow,
    /// Lost data was sent again.
    LossRecovery,
    /// Data waited in the network's queue.
    PathQueue,
    /// The client had no room.
    ReceiverWindow,
    /// The server held back on purpose.
    Pacing,
    /// The next live segment was not there yet.
    LateAtOrigin,
}

/// The network, by whichever of its symptoms.
pub const PATH: &[Blame] = &[Blame::SenderWindow, Blame::LossRecovery, Blame::PathQueue];

/// What should be said of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Expected {
    /// Its start fails, for this cause.
    pub failure: Option<Failure>,
    /// Whoever of these is blamed for its stalls is blamed rightly; empty: not judged.
    pub blame: &'static [Blame],
    /// The host cannot know of it: no packet of it is accepted.
    pub unseeable: bool,
}

/// Media time is jumped to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Seek {
    /// Since the start.
    pub at_ms: u32,
    /// Where to.
    pub to_s: f64,
}

/// The viewer holds on, or looks at another page.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Pause {
    /// Since the start.
    pub at_ms: u32,
    /// For so long.
    pub for_ms: u32,
}

/// Who else watches from the viewer's address, from some seconds later on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Company {
    /// Another page of the same browser; over HTTP/2 both share a session.
    SameBrowser,
    /// Another browser of the same kind, as behind one address of a household.
    OtherBrowser,
}

/// A viewer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the types say it")]
pub struct Session {
    pub name: String,
    /// What happens in it, whoever plays.
    pub scenario: String,
    pub set: Set,
    pub tier: Tier,
    pub player: Player,
    pub container: Container,
    pub stream: Stream,
    pub transport: Transport,
    pub cmcd: Cmcd,
    pub cmcd_version: u8,
    pub congestion: &'static str,
    /// The client's kernel has little room for what it receives.
    pub narrow: bool,
    #[serde(skip)]
    pub link: Vec<Step>,
    /// Since the start, in order.
    pub faults: Vec<(u32, Fault)>,
    pub door: Door,
    /// How long the viewer stays.
    pub stay_ms: u32,
    pub seeks: Vec<Seek>,
    pub pauses: Vec<Pause>,
    /// When the page throws its player away and begins anew, since the start.
    pub restarts_ms: Vec<u32>,
    /// While another page stands before the player's, and the browser throttles it.
    pub backgrounds: Vec<Pause>,
    pub company: Option<Company>,
    /// Whether URLs say whose they are.
    pub is_named: bool,
    pub expected: Expected,
    pub seed: u64,
}

impl Session {
    /// Whether the origin must be asked rather than the disk.
    pub fn by_origin(&self) -> bool {
        self.stream == Stream::Live || !self.faults.is_empty()
    }

    /// How the second player in it is called, if there is one.
    pub fn companion(&self) -> String {
        format!("{}{COMPANION}", self.name)
    }
}
