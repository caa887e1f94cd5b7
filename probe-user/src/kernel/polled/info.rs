//! `struct tcp_info` (`include/uapi/linux/tcp.h`) as the running kernel sends it: it has grown with
//! nearly every release, so each field is there or not by the length that was sent.

/// The least that measuring takes: up to `tcpi_bytes_retrans` (Linux 4.19).
pub(super) const LEAST_BYTES: usize = 216;

/// What is read of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TcpInfo {
    /// `tcpi_ca_state`.
    pub(super) ca_state: u8,
    /// The latest delivery-rate sample was limited by the application.
    pub(super) rate_app_limited: bool,
    /// Maximum segment size towards the client.
    pub(super) mss: u32,
    /// Time since a data segment was last sent, to the kernel's tick; so are the next two.
    pub(super) last_data_sent_ms: u32,
    /// Since data last arrived in order.
    pub(super) last_data_recv_ms: u32,
    /// Since an acknowledgement last arrived.
    pub(super) last_ack_recv_ms: u32,
    /// Smoothed round-trip time.
    pub(super) rtt_us: u32,
    /// Least round-trip time; 0: no sample.
    pub(super) min_rtt_us: u32,
    /// Congestion window, in segments.
    pub(super) cwnd: u32,
    /// Segments sent again, SYN-ACKs among them.
    pub(super) total_retrans: u32,
    /// Acknowledged by the client, its acknowledgement of a FIN included.
    pub(super) bytes_acked: u64,
    /// Received of the client, its FIN included.
    pub(super) bytes_received: u64,
    /// Written and not sent.
    pub(super) notsent_bytes: u32,
    /// Data segments sent.
    pub(super) data_segs_out: u32,
    /// Latest delivery-rate sample, bytes a second.
    pub(super) delivery_rate_bytes_per_s: u64,
    /// Time with data outstanding; the next two are parts of it.
    pub(super) busy_us: u64,
    /// Limited by the client's receive window.
    pub(super) rwnd_limited_us: u64,
    /// Limited by the send buffer.
    pub(super) sndbuf_limited_us: u64,
    /// Data bytes sent, those sent again included; a FIN is none.
    pub(super) bytes_sent: u64,
    /// Data bytes sent again.
    pub(super) bytes_retrans: u64,
    /// The client's receive window; 0 before Linux 5.4.
    pub(super) peer_window_bytes: u32,
}

impl TcpInfo {
    /// Reads what a kernel sent; `None` if it is less than measuring takes.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < LEAST_BYTES {
            return None;
        }
        let u32_at = |at: usize| -> u32 {
            let field = bytes
                .get(at..at + 4)
                .and_then(|field| field.try_into().ok());
            field.map_or(0, u32::from_ne_bytes)
        };
        let u64_at = |at: usize| -> u64 {
            let field = bytes
                .get(at..at + 8)
                .and_then(|field| field.try_into().ok());
            field.map_or(0, u64::from_ne_bytes)
        };
        // The lowest bit of a byte of bit fields, on little-endian machines.
        let app_limited_bit = if cfg!(target_endian = "little") {
            0x01
        } else {
            0x80
        };
        let min_rtt_us = u32_at(148);
        Some(Self {
            ca_state: bytes[1],
            rate_app_limited: bytes[7] & app_limited_bit != 0,
            mss: u32_at(16),
            last_data_sent_ms: u32_at(44),
            last_data_recv_ms: u32_at(52),
            last_ack_recv_ms: u32_at(56),
            rtt_us: u32_at(68),
            min_rtt_us: if min_rtt_us == u32::MAX {
                0
            } else {
                min_rtt_us
            },
            cwnd: u32_at(80),
            total_retrans: u32_at(100),
            bytes_acked: u64_at(120),
            bytes_received: u64_at(128),
            notsent_bytes: u32_at(144),
            data_segs_out: u32_at(156),
            delivery_rate_bytes_per_s: u64_at(160),
            busy_us: u64_at(168),
            rwnd_limited_us: u64_at(176),
            sndbuf_limited_us: u64_at(184),
            bytes_sent: u64_at(200),
            bytes_retrans: u64_at(208),
            peer_window_bytes: u32_at(228),
        })
    }

    /// Data bytes sent, each once.
    pub(super) fn bytes_sent_once(&self) -> u64 {
        self.bytes_sent.saturating_sub(self.bytes_retrans)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `tcp_info` as long as that of Linux 6.18, with every byte telling its place.
    fn sent() -> Vec<u8> {
        (0..=255).map(|at: u8| at ^ 0x5a).collect()
    }

    #[test]
    fn every_field_is_read_at_its_place() {
        let bytes = sent();
        let info = TcpInfo::parse(&bytes).unwrap();
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        // The places, by the offsets that libc knows of the part it knows.
        assert_eq!(
            info.rtt_us,
            word(std::mem::offset_of!(libc::tcp_info, tcpi_rtt))
        );
        assert_eq!(
            info.total_retrans,
            word(std::mem::offset_of!(libc::tcp_info, tcpi_total_retrans))
        );
        assert_eq!(
            info.last_ack_recv_ms,
            word(std::mem::offset_of!(libc::tcp_info, tcpi_last_ack_recv))
        );
        assert_eq!(info.bytes_acked, long(120));
        assert_eq!(info.bytes_retrans, long(208));
        assert_eq!(info.peer_window_bytes, word(228));
    }

    #[test]
    fn an_older_kernels_is_read_as_far_as_it_goes_and_a_newer_ones_tail_is_left() {
        let bytes = sent();
        let whole = TcpInfo::parse(&bytes).unwrap();
        let older = TcpInfo::parse(&bytes[..LEAST_BYTES]).unwrap();
        assert_eq!(older.peer_window_bytes, 0);
        assert_eq!(
            TcpInfo {
                peer_window_bytes: whole.peer_window_bytes,
                ..older
            },
            whole
        );
        let mut newer = bytes.clone();
        newer.extend([7; 64]);
        assert_eq!(TcpInfo::parse(&newer), Some(whole));
        assert_eq!(TcpInfo::parse(&bytes[..LEAST_BYTES - 1]), None);
        assert_eq!(TcpInfo::parse(&[]), None);
    }
}
