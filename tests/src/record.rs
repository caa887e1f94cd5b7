//! What `weir ... -o json` prints, as far as the lab reads it. Written from the wire's field
//! names alone, so that a renamed field fails here.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// `Endpoints`
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Endpoints {
    /// The server's address.
    pub local_address: IpAddr,
    /// The server's port.
    pub local_port: u16,
    /// The client's address.
    pub remote_address: IpAddr,
    /// The client's port.
    pub remote_port: u16,
    /// Inode of the network namespace.
    pub netns: u32,
}

impl Endpoints {
    /// Whether the session is in a network namespace; one measured by socket callbacks alone does
    /// not tell, and may be in any.
    pub fn is_in(&self, netns: u32) -> bool {
        self.netns == netns || self.netns == 0
    }

    /// The server's end.
    pub fn local(&self) -> SocketAddr {
        SocketAddr::new(self.local_address, self.local_port)
    }

    /// The client's end.
    pub fn remote(&self) -> SocketAddr {
        SocketAddr::new(self.remote_address, self.remote_port)
    }
}

/// `Delivery`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[expect(missing_docs, reason = "the wire documents its fields")]
#[expect(clippy::struct_excessive_bools, reason = "as on the wire")]
pub struct Delivery {
    pub session: u64,
    pub index: u32,
    pub endpoints: Endpoints,
    pub kind: String,
    pub phase: String,
    pub ended: String,
    pub request_unix_ns: u64,
    pub first_write_unix_ns: u64,
    pub first_acked_unix_ns: u64,
    pub last_acked_unix_ns: u64,
    pub latency_us: u64,
    pub request_bytes: u64,
    pub acked_bytes: u64,
    pub written_bytes: u64,
    pub requests: u32,
    pub retrans_fast: u32,
    pub retrans_rto: u32,
    pub retrans_tlp: u32,
    pub adopted: bool,
    pub tls: bool,
    pub late: bool,
    pub settled: bool,
    pub end_bounded: bool,
    pub first_write_bounded: bool,
    pub request_bounded: bool,
    pub first_acked_bounded: bool,
    pub last_write_bounded: bool,
}

/// `Session`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[expect(missing_docs, reason = "the wire documents its fields")]
pub struct Session {
    pub session: u64,
    pub endpoints: Endpoints,
    pub state: String,
    pub ended: String,
    pub backend: String,
    pub established_unix_ns: u64,
    pub handshake_us: u32,
    pub synack_retransmits: u32,
    pub deliveries: u64,
    pub acked_bytes: u64,
    pub segments: u64,
    pub retrans_fast: u64,
    pub retrans_rto: u64,
    pub retrans_tlp: u64,
    pub adopted: bool,
}

impl Session {
    /// Segments sent again, SYN-ACKs not included.
    pub fn retransmitted(&self) -> u64 {
        self.retrans_fast + self.retrans_rto + self.retrans_tlp
    }
}

/// `CellKey`
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the wire documents its fields")]
pub struct CellKey {
    pub service: String,
    pub network: String,
    pub transport: String,
    pub backend: String,
}

/// `Counters`
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[expect(missing_docs, reason = "the wire documents its fields")]
pub struct Counters {
    pub sessions_started: u64,
    pub sessions_adopted: u64,
    pub sessions_ended: u64,
    pub ended_client_fin: u64,
    pub ended_server_fin: u64,
    pub ended_client_rst: u64,
    pub ended_server_rst: u64,
    pub synack_retransmits: u64,
    pub half_open_give_ups: u64,
    pub deliveries: u64,
    pub late_deliveries: u64,
    pub aborted_deliveries: u64,
    pub unanswered_requests: u64,
    pub busy_periods: u64,
    pub acked_bytes: u64,
    pub segments: u64,
    pub retrans_fast: u64,
    pub retrans_rto: u64,
    pub retrans_tlp: u64,
}

/// `Cell`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[expect(missing_docs, reason = "the wire documents its fields")]
pub struct Cell {
    pub key: CellKey,
    pub counters: Counters,
    pub sessions_open: u64,
    pub deliveries_open: u64,
    pub deliveries_open_late: u64,
}

/// `RingLoss`
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[expect(missing_docs, reason = "the wire documents its fields")]
pub struct RingLoss {
    pub seen: u64,
    pub exported: u64,
    pub ring_full: u64,
    pub drained: u64,
}

/// `Losses`
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[expect(missing_docs, reason = "the wire documents its fields")]
pub struct Losses {
    pub hot: RingLoss,
    pub bulk: RingLoss,
    pub sessions_seen: u64,
    pub sessions_tracked: u64,
    pub sessions_filtered: u64,
    pub sessions_storage_refused: u64,
    pub half_open_refused: u64,
    pub sessions_left_out: u64,
    pub ends_unseen: u64,
    pub end_overflows: u64,
    pub sessions_evicted: u64,
    pub records_malformed: u64,
    pub followers_dropped: u64,
    pub programs_skipped: u64,
    pub looks_left_out: u64,
}

impl Losses {
    /// Whether everything that was seen is accounted for, by cause.
    pub fn reconcile(&self) -> bool {
        let rings = [self.hot, self.bulk].iter().all(|ring| {
            ring.seen == ring.exported + ring.ring_full && ring.drained <= ring.exported
        });
        rings
            && self.sessions_seen
                == self.sessions_tracked + self.sessions_filtered + self.sessions_storage_refused
    }
}

/// `BudgetStatus`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[expect(missing_docs, reason = "the wire documents its fields")]
pub struct Budget {
    pub limit_core_permille: u32,
    pub cost_core_permille: f64,
    pub followed_permille: f64,
    pub error: String,
}

/// `Status`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[expect(missing_docs, reason = "the wire documents its fields")]
pub struct Status {
    pub boot_id: String,
    pub backend: String,
    pub off: String,
    pub losses: Losses,
    pub sessions_open: u64,
    pub config_generation: u64,
    #[serde(default)]
    pub budget: Option<Budget>,
}

/// `Host`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[expect(missing_docs, reason = "weir documents its fields")]
pub struct Host {
    pub host: String,
    pub off: String,
    #[serde(default)]
    pub budget: Option<Budget>,
}

/// What `weir doctor` prints.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[expect(missing_docs, reason = "weir documents its fields")]
pub struct Diagnosis {
    pub kernel_release: String,
    pub backend: Option<String>,
    pub rungs: Vec<Rung>,
    pub gate: Vec<Probe>,
}

/// One of the ways of measuring that it tried.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[expect(missing_docs, reason = "weir documents its fields")]
pub struct Rung {
    pub backend: String,
    pub works: bool,
    pub reason: String,
    pub probes: Vec<Probe>,
}

/// One of its probes.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[expect(missing_docs, reason = "weir documents its fields")]
pub struct Probe {
    pub name: String,
    pub verdict: String,
    pub reason: String,
    pub lost: String,
}
