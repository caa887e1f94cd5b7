//! The counts that every cell keeps, cumulative since the daemon's start.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Cumulative counts; a window is the difference of two.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// How many there are.
            pub const COUNT: usize = [$(stringify!($name)),*].len();

            /// Each count with its name.
            pub fn named(&self) -> [(&'static str, u64); Self::COUNT] {
                [$((stringify!($name), self.$name)),*]
            }

            /// Adds another cell's counts; at the end of their range they stay there.
            pub fn merge(&mut self, other: &Self) {
                $(self.$name = self.$name.saturating_add(other.$name);)*
            }

            /// What was counted since `older`.
            #[must_use]
            pub fn since(&self, older: &Self) -> Self {
                Self { $($name: self.$name.saturating_sub(older.$name),)* }
            }
        }

        // The wire has the same fields under the same names.
        impl From<&Counters> for weir_proto::v1::Counters {
            fn from(counters: &Counters) -> Self {
                Self { $($name: counters.$name,)* }
            }
        }

        impl From<&weir_proto::v1::Counters> for Counters {
            fn from(counters: &weir_proto::v1::Counters) -> Self {
                Self { $($name: counters.$name,)* }
            }
        }
    };
}

counters! {
    /// Sessions that were established while weir ran.
    sessions_started,
    /// Sessions that were there before.
    sessions_adopted,
    /// Sessions of both kinds that are over.
    sessions_ended,
    /// Of those, left out for a time to keep within the budget: the deliveries are a sample then.
    sessions_left_out,
    /// Closed first by the client.
    ended_client_fin,
    /// Closed first by the server.
    ended_server_fin,
    /// Reset by the client.
    ended_client_rst,
    /// Reset by the server.
    ended_server_rst,
    /// Given up by the kernel.
    ended_timeout,
    /// Ended otherwise, or left out by a changed filter.
    ended_other,
    /// SYN-ACKs sent again, for sessions that were established and for those given up.
    synack_retransmits,
    /// Handshakes never finished although the SYN-ACK was repeated.
    half_open_give_ups,
    /// Exchanges and busy periods that completed.
    deliveries,
    /// Deliveries of all kinds that were reported late.
    late_deliveries,
    /// Deliveries of all kinds that were cut off.
    aborted_deliveries,
    /// Requests that were never answered.
    unanswered_requests,
    /// Busy periods that are over.
    busy_periods,
    /// Unasked answers that are over.
    unsolicited,
    /// Rests of answers already reported that are over.
    resumed,
    /// Exchanges of TLS handshakes.
    tls_handshakes,
    /// Bytes acknowledged.
    acked_bytes,
    /// Data segments sent, retransmissions included.
    segments,
    /// Segments retransmitted in fast recovery.
    retrans_fast,
    /// Segments retransmitted after a timeout.
    retrans_rto,
    /// Segments retransmitted as tail-loss probes.
    retrans_tlp,
    /// Time with data outstanding.
    busy_us,
    /// Of that, limited by the client's receive window.
    rwnd_limited_us,
    /// Of that, limited by the send buffer.
    sndbuf_limited_us,
}

impl Counters {
    /// Whether anything went wrong: late, aborted, unanswered or retransmitted.
    pub fn troubled(&self) -> bool {
        self.late_deliveries
            + self.aborted_deliveries
            + self.unanswered_requests
            + self.retrans_fast
            + self.retrans_rto
            + self.retrans_tlp
            > 0
    }
}
