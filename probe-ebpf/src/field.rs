//! The kernel fields that the programs read, by name: user space finds each one's offset in the
//! running kernel's BTF and puts it into the frozen global `OFFSETS` before the programs are
//! loaded, so the verifier sees constants. A field that this kernel lacks is [`ABSENT`], and what
//! depends on it is left out, never read wrongly.

/// Offset of a field that the running kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// One field to find.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// The struct that the offset counts from.
    pub root: &'static str,
    /// Members from there, dots between, array elements as `name[n]`; may lead through embedded
    /// structs and unions, named or not, never through pointers.
    pub path: &'static str,
    /// What is not measured without it; empty if nothing is measured at all.
    pub lost: &'static str,
}

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident = $root:literal . $path:literal, $lost:literal;)*) => {
        /// Index of each field in `OFFSETS` and in [`SPECS`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Field { $($(#[$doc])* $name),* }

        /// Every field, in the order of [`Field`].
        pub const SPECS: &[Spec] = &[$(Spec { root: $root, path: $path, lost: $lost }),*];
    };
}

fields! {
    /// Next sequence number to be written by the server.
    WriteSeq = "tcp_sock"."write_seq", "";
    /// Oldest unacknowledged.
    SndUna = "tcp_sock"."snd_una", "";
    /// Next to be sent.
    SndNxt = "tcp_sock"."snd_nxt", "";
    /// Next expected from the client.
    RcvNxt = "tcp_sock"."rcv_nxt", "";
    /// Eight times the smoothed round-trip time.
    Srtt8Us = "tcp_sock"."srtt_us", "";
    /// Least round-trip time (`win_minmax`, Linux 4.9).
    MinRttUs = "tcp_sock"."rtt_min.s[0].v", "the minimum round-trip time";
    /// Congestion window.
    Cwnd = "tcp_sock"."snd_cwnd", "the congestion window";
    /// Maximum segment size.
    Mss = "tcp_sock"."mss_cache", "the segment size and the delivery rate";
    /// Send window.
    SndWnd = "tcp_sock"."snd_wnd", "the client's window";
    /// Segments of the latest rate sample (Linux 4.9).
    RateDelivered = "tcp_sock"."rate_delivered", "the delivery rate";
    /// Interval of that sample.
    RateIntervalUs = "tcp_sock"."rate_interval_us", "the delivery rate";
    /// A bit field; see [`Field::RateAppLimitedMask`].
    RateAppLimited = "tcp_sock"."rate_app_limited", "whether the delivery rate was application-limited";
    /// The mask of the bits within the byte at [`Field::RateAppLimited`].
    RateAppLimitedMask = "tcp_sock"."rate_app_limited:mask", "whether the delivery rate was application-limited";
    /// Data segments sent (Linux 4.6).
    DataSegsOut = "tcp_sock"."data_segs_out", "segments sent";
    /// Segments sent again.
    TotalRetrans = "tcp_sock"."total_retrans", "";
    /// Bytes acknowledged.
    BytesAcked = "tcp_sock"."bytes_acked", "";
    /// Bytes received.
    BytesReceived = "tcp_sock"."bytes_received", "";
    /// Which clock runs (Linux 4.10); two bits of a byte before 6.9.
    ChronoType = "tcp_sock"."chrono_type", "time limited by receiver window and send buffer";
    /// The mask of the bits within the byte at [`Field::ChronoType`].
    ChronoTypeMask = "tcp_sock"."chrono_type:mask", "time limited by receiver window and send buffer";
    /// Since when.
    ChronoStart = "tcp_sock"."chrono_start", "time limited by receiver window and send buffer";
    /// The three clocks.
    ChronoStat = "tcp_sock"."chrono_stat", "time limited by receiver window and send buffer";
    /// Congestion state, a bit field.
    CaState = "inet_connection_sock"."icsk_ca_state", "the kind of a retransmission";
    /// The mask of the bits within the byte at [`Field::CaState`].
    CaStateMask = "inet_connection_sock"."icsk_ca_state:mask", "the kind of a retransmission";
    /// When bytes were last acknowledged, microseconds of `CLOCK_MONOTONIC` (Linux 4.13).
    DeliveredMstamp = "tcp_sock"."delivered_mstamp", "the exact end of deliveries while only a share of the sessions is followed";
    /// Pending error.
    SkErr = "sock"."sk_err", "whether a session ended by timeout";
    /// Address family.
    Family = "sock"."__sk_common.skc_family", "";
    /// TCP state.
    State = "sock"."__sk_common.skc_state", "";
    /// Local port, host order.
    LocalPort = "sock"."__sk_common.skc_num", "";
    /// Remote port, network order.
    RemotePort = "sock"."__sk_common.skc_dport", "";
    /// Socket cookie (`atomic64_t`, Linux 4.12).
    Cookie = "sock"."__sk_common.skc_cookie.counter", "";
    /// Remote IPv4 address.
    RemoteV4 = "sock"."__sk_common.skc_daddr", "";
    /// Local IPv4 address.
    LocalV4 = "sock"."__sk_common.skc_rcv_saddr", "";
    /// Remote IPv6 address.
    RemoteV6 = "sock"."__sk_common.skc_v6_daddr", "IPv6 sessions";
    /// Local IPv6 address.
    LocalV6 = "sock"."__sk_common.skc_v6_rcv_saddr", "IPv6 sessions";
    /// Network namespace.
    Net = "sock"."__sk_common.skc_net.net", "network namespaces";
    /// Its inode number.
    NetInum = "net"."ns.inum", "network namespaces";
    /// The socket's cgroup.
    SkCgroup = "sock"."sk_cgrp_data.cgroup", "the cgroup filter";
    /// Depth of a cgroup.
    CgroupLevel = "cgroup"."level", "the cgroup filter";
    /// Its ancestors, itself included (Linux 6.1).
    CgroupAncestors = "cgroup"."ancestors", "the cgroup filter";
    /// A cgroup's directory.
    CgroupKn = "cgroup"."kn", "the cgroup filter";
    /// Inode number of a directory.
    KernfsId = "kernfs_node"."id", "the cgroup filter";
    /// A packet's scratch space, in which TCP keeps what it has read of the header.
    SkbCb = "sk_buff"."cb", "";
    /// Sequence number of the first byte.
    CbSeq = "tcp_skb_cb"."seq", "";
    /// After the last one, SYN and FIN counted.
    CbEndSeq = "tcp_skb_cb"."end_seq", "";
    /// Acknowledged up to here.
    CbAckSeq = "tcp_skb_cb"."ack_seq", "";
    /// The header's flags.
    CbFlags = "tcp_skb_cb"."tcp_flags", "";
    /// When the first SYN-ACK of a handshake was sent, microseconds of `CLOCK_MONOTONIC`.
    SntSynack = "tcp_request_sock"."snt_synack", "the handshake time after a repeated SYN-ACK";
    /// Kind of the memory a message is written from.
    IterType = "msghdr"."msg_iter.iter_type", "telling TLS handshakes from deliveries";
    /// How far it is consumed.
    IterOffset = "msghdr"."msg_iter.iov_offset", "telling TLS handshakes from deliveries";
    /// The memory itself, or the vector of it.
    IterBase = "msghdr"."msg_iter.__iov", "telling TLS handshakes from deliveries";
    /// One element of that vector.
    IovecBase = "iovec"."iov_base", "telling TLS handshakes from deliveries";
}

/// How many fields there are.
pub const COUNT: usize = SPECS.len();
