//! The counts that every cell keeps, cumulative since the daemon's start.

use super::blame::{Part, Spent};
use super::verdict::{Evidence, Verdict, verdict};

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

            /// Puts `newer` in the place of `older` in this sum; between the two it may leave its
            /// range.
            pub fn exchange(&mut self, older: &Self, newer: &Self) {
                $(self.$name = self.$name.wrapping_sub(older.$name).wrapping_add(newer.$name);)*
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
    /// Playbacks that were begun, once it is known what became of them.
    start_attempts,
    /// Of those, that played.
    starts,
    /// That met an HTTP error.
    start_failures_http,
    /// That waited for the origin.
    start_failures_origin,
    /// That the network failed.
    start_failures_network,
    /// That the client gave up while delivery was healthy.
    start_failures_client,
    /// Attempts that failed soon after one of the same viewer that is counted: they are no others.
    failed_retries,
    /// Visits that only looked at manifests, and had them: health checks, mostly.
    manifest_visits,
    /// Viewers that played already when they were first heard of: no start of theirs is counted.
    viewers_joined,
    /// Viewers that are over.
    viewers_ended,
    /// Viewers that were several in one.
    viewers_excluded,
    /// Viewers that ended while an object was under way that would have come too late.
    exits_under_stress,
    /// Times that a viewer's model was wrong, and was corrected.
    viewer_corrections,
    /// Watched: start-up, playing and stalled.
    watched_us,
    /// Times that playback stood still for want of media.
    stalls,
    /// For how long.
    stalled_us,
    /// At least.
    stalled_low_us,
    /// At most.
    stalled_high_us,
    /// Times that an object under way was about to miss its buffer.
    at_risk,
    /// Changes to a higher rendition.
    up_switches,
    /// Changes to a lower one.
    down_switches,
    /// Media time delivered.
    media_us,
    /// Live requests for what the origin did not have at its time.
    late_at_origin,
    /// Objects of known duration.
    chunks,
    /// Of those, that took longer than they play.
    slow_chunks,
    /// Deliveries that a label named.
    deliveries_labelled,
    /// Labels that met no delivery.
    labels_unmatched,
    /// Requests that the server's log or a tag named, of viewers or of sessions that have none.
    requests_named,
    /// Deliveries that nothing named, where requests are named.
    requests_nameless,
    /// Lines of the server's log that are missing, by their numbers.
    lines_lost,
    /// Deliveries that were late or cut off; blame is of their time.
    slow_deliveries,
    /// Of that, before the server wrote.
    blame_think_us,
    /// Of that, as the server's log has it, other servers took.
    upstream_us,
    /// Between its writes.
    blame_write_us,
    /// Waiting for the congestion window.
    blame_sender_window_us,
    /// Making good what was lost.
    blame_loss_us,
    /// In queues on the path.
    blame_queue_us,
    /// Waiting for the client's window.
    blame_receiver_us,
    /// Held back by pacing.
    blame_pacing_us,
    /// Deliveries too small to test a rate.
    untestable_small,
    /// Limited by the application.
    untestable_application,
    /// By the client's window.
    untestable_receiver,
    /// By pacing.
    untestable_pacing,
    /// Live, and not yet made.
    untestable_live,
}

impl Counters {
    /// Where the time of slow deliveries went.
    pub fn blame(&self) -> Spent {
        let mut spent = Spent::default();
        for (part, us) in [
            (Part::Think, self.blame_think_us),
            (Part::ApplicationWrite, self.blame_write_us),
            (Part::SenderWindow, self.blame_sender_window_us),
            (Part::LossRecovery, self.blame_loss_us),
            (Part::PathQueue, self.blame_queue_us),
            (Part::ReceiverWindow, self.blame_receiver_us),
            (Part::Pacing, self.blame_pacing_us),
        ] {
            spent.set_us(part, us);
        }
        spent
    }

    /// Who is answerable for slow deliveries; none: none were slow.
    pub fn verdict(&self) -> Option<Verdict> {
        (self.slow_deliveries > 0).then(|| {
            verdict(&Evidence {
                spent: self.blame(),
                deliveries: self.slow_deliveries,
                upstream_us: self.upstream_us,
                ..Evidence::default()
            })
        })
    }

    /// Starts that failed, for whatever reason.
    pub fn start_failures(&self) -> u64 {
        self.start_failures_http
            + self.start_failures_origin
            + self.start_failures_network
            + self.start_failures_client
    }

    /// Whether anything went wrong: late, aborted, unanswered or retransmitted.
    pub fn troubled(&self) -> bool {
        self.late_deliveries
            + self.aborted_deliveries
            + self.unanswered_requests
            + self.retrans_fast
            + self.retrans_rto
            + self.retrans_tlp
            + self.stalls
            + self.start_failures()
            + self.exits_under_stress
            > 0
    }
}
