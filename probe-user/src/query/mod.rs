//! The query room: what an operator on the host may ask, and who may ask it.
//!
//! Questions go to the daemon's core as messages, each with the place for its answer, so that the
//! core never waits for one who asks.

pub mod access;
pub mod client;
mod connection;
pub mod filter;
mod order;
pub mod selector;
pub mod server;
pub mod steering;
mod viewers;

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::{broadcast, oneshot};
use weir_proto::v1;

use crate::intake::{AlreadyRecorded, Recording};
use crate::qoe::{CellKey, Counters, Finished, Gauges, Session};
use crate::wire::{Context, Heard};
use filter::Filter;
use selector::Selector;

/// Most viewers, likewise.
pub const VIEWERS_PER_PAGE: usize = 512;
/// Most sessions that one answer of the core holds, so that no question stops it for long.
pub const SESSIONS_PER_PAGE: usize = 2048;

/// A delivery that ended, for those who follow.
#[derive(Clone, Debug)]
pub struct Followed {
    /// As the kernel wrote it.
    pub record: probe_ebpf::record::Delivery,
    /// Where it was counted.
    pub cell: CellKey,
    /// What its numbers are relative to.
    pub context: Context,
}

/// What the core can be asked.
#[derive(Debug)]
pub enum Query {
    /// How the daemon is.
    Status(oneshot::Sender<v1::Status>),
    /// The sessions from place `from` on.
    Sessions {
        /// Which.
        filter: Filter,
        /// Where to go on; 0 at first.
        from: usize,
        /// Gets one page.
        reply: oneshot::Sender<SessionPage>,
    },
    /// The latest deliveries.
    Deliveries {
        /// Which.
        filter: Filter,
        /// At most so many.
        limit: usize,
        /// Whether parts of TLS handshakes count.
        handshakes: bool,
        /// Gets them, with a receiver of all that end afterwards.
        reply: oneshot::Sender<DeliveryPage>,
    },
    /// The cells.
    Cells {
        /// Which.
        filter: Filter,
        /// Whether with their histograms.
        histograms: bool,
        /// Gets them.
        reply: oneshot::Sender<v1::ListCellsResponse>,
    },
    /// All that the live view draws.
    Snapshot {
        /// Of which sessions and cells.
        filter: Filter,
        /// Most sessions, worst first.
        sessions: usize,
        /// Gets it.
        reply: oneshot::Sender<v1::Snapshot>,
    },
    /// The viewers from place `from` on.
    Viewers {
        /// Which.
        filter: Filter,
        /// Where to go on; 0 at first.
        from: usize,
        /// Gets one page.
        reply: oneshot::Sender<ViewerPage>,
    },
    /// What a collector's operator looks at more closely.
    Drill {
        /// Which.
        selector: Arc<Selector>,
        /// Most of each kind, worst first.
        most: usize,
        /// Gets it.
        reply: oneshot::Sender<Drilled>,
    },
    /// What the gate decides by.
    Numbers(oneshot::Sender<Numbers>),
    /// All that is said from now on.
    Record(oneshot::Sender<Result<Recording, AlreadyRecorded>>),
}

/// What every cell has counted, and what is open in it.
#[derive(Debug, Default)]
pub struct Numbers {
    pub cells: Vec<CellNumbers>,
    /// How much of what the kernel had to say was heard.
    pub heard: Heard,
    /// Whether anything is measured now.
    pub is_measured: bool,
}

/// One cell's.
#[derive(Clone, Debug)]
pub struct CellNumbers {
    pub key: CellKey,
    pub counters: Counters,
    pub gauges: Gauges,
    /// Of its deliveries, those that had been late.
    pub late_ended: u64,
}

/// A closer look.
#[derive(Debug, Default)]
pub struct Drilled {
    /// Worst first.
    pub viewers: Vec<v1::Viewer>,
    /// Worst first.
    pub sessions: Vec<v1::Session>,
    /// Without histograms.
    pub cells: Vec<v1::Cell>,
    /// When that was.
    pub unix_ns: u64,
}

/// A piece of the list of sessions.
#[derive(Debug)]
pub struct SessionPage {
    /// Each with its cell.
    pub sessions: Vec<(Session, CellKey)>,
    /// Where to go on; none: that was all.
    pub next: Option<usize>,
    /// What their numbers are relative to.
    pub context: Context,
}

/// A piece of the list of viewers.
#[derive(Debug)]
pub struct ViewerPage {
    /// As they are now.
    pub viewers: Vec<v1::Viewer>,
    /// Where to go on; none: that was all.
    pub next: Option<usize>,
    /// All that happens from then on.
    pub follow: broadcast::Receiver<FollowedViewer>,
}

/// Something that happened to a viewer or a cell, for those who follow.
#[derive(Clone, Debug)]
pub struct FollowedViewer {
    /// Where it is counted.
    pub cell: CellKey,
    /// Where the viewer is; none: it is no viewer's.
    pub viewer: Option<(IpAddr, u16)>,
    /// Whether anything went wrong.
    pub troubled: bool,
    /// As it is sent.
    pub message: Arc<v1::ViewerMessage>,
}

/// The latest deliveries.
#[derive(Debug)]
pub struct DeliveryPage {
    /// Oldest first, each with its cell.
    pub deliveries: Vec<(Finished, CellKey)>,
    /// What their numbers are relative to.
    pub context: Context,
    /// All that end from then on, or all that are troubled if the filter lets no others through:
    /// none is missed between, none comes twice.
    pub follow: broadcast::Receiver<Followed>,
}
