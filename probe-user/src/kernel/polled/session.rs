//! One session as it is followed from look to look: its tracker's state, and what the look before
//! found.

use probe_ebpf::{
    drive::{self, Host as _, state},
    record::{Endpoints, ended, flag},
    session::{Gauges, Session},
    settings::Settings,
};

use super::{
    glance::{Found, Glance, is_closed_by_client, is_closed_by_server, low_word},
    info::TcpInfo,
    queue::Queue,
    sockdiag::Seen,
};

/// One session.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) session: Session,
    found: Found,
    t_look_ns: u64,
    /// The round of looks that found it last.
    pub(super) round: u32,
    /// The latest round did not find it.
    pub(super) is_missing: bool,
}

/// Where records go, and by which settings they are made.
#[derive(Debug)]
pub(super) struct Out<'a> {
    pub(super) hot: &'a mut Queue,
    pub(super) bulk: &'a mut Queue,
    pub(super) settings: Settings,
}

/// What names a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name {
    pub(super) cookie: u64,
    pub(super) endpoints: Endpoints,
}

impl Followed {
    /// A session that was there before the daemon, or before the filter let it through.
    pub(super) fn adopted(
        name: Name,
        info: TcpInfo,
        seen: &Seen,
        now_ns: u64,
        out: &mut Out<'_>,
    ) -> Self {
        let found = Found::new(info, seen.state, seen.write_queue_bytes, false, false);
        let mut s = born(name, now_ns, flag::ADOPTED, &out.settings);
        s.rcv_nxt = low_word(found.received_bytes);
        s.acked_seq = low_word(found.written_bytes);
        s.written_seq = s.acked_seq;
        s.retrans_seen = info.total_retrans;
        s.retrans_before = info.total_retrans;
        let mut followed = Self {
            session: s,
            found,
            t_look_ns: now_ns,
            round: 0,
            is_missing: false,
        };
        let s = &mut followed.session;
        let mut glance = glance(found, out);
        note_fins(&mut glance, s, seen.state, now_ns);
        if found.acked_bytes != found.written_bytes {
            let mut gauges = Gauges::default();
            glance.gauges(&mut gauges);
            s.open_adopted(now_ns, low_word(found.acked_bytes), &gauges);
        }
        glance.session_start(s, 0, now_ns);
        followed
    }

    /// A session that has begun since the round before, which was at `t_round_ns`; what happened on
    /// it is still to be looked at. `synack_retransmits`: as far as they were seen.
    pub(super) fn begun(
        name: Name,
        info: TcpInfo,
        synack_retransmits: u32,
        t_round_ns: u64,
        now_ns: u64,
        out: &mut Out<'_>,
    ) -> Self {
        let found = Found {
            info,
            ..Found::default()
        };
        let age_ns = u64::from(found.oldest_event_ms()) * 1_000_000;
        let t_established_ns = now_ns
            .saturating_sub(age_ns)
            .clamp(t_round_ns.min(now_ns), now_ns);
        let mut s = born(name, t_established_ns, 0, &out.settings);
        // The kernel's count begins with the SYN-ACKs sent again, which carry no bytes.
        let synacks = if info.bytes_retrans == 0 {
            info.total_retrans
        } else {
            synack_retransmits.min(info.total_retrans)
        };
        s.retrans_seen = synacks;
        s.retrans_before = synacks;
        let nothing = Found::default();
        glance(nothing, out).session_start(&s, synacks, now_ns);
        Self {
            session: s,
            found: nothing,
            t_look_ns: t_established_ns,
            round: 0,
            is_missing: false,
        }
    }

    /// Looks at it once more.
    pub(super) fn look(&mut self, info: TcpInfo, seen: &Seen, now_ns: u64, out: &mut Out<'_>) {
        let s = &self.session;
        let found = Found::new(
            info,
            seen.state,
            seen.write_queue_bytes,
            s.fin_queued != 0,
            s.fin_received != 0,
        );
        self.catch_up(found, now_ns, out);
        let settings = out.settings;
        let s = &mut self.session;
        let mut glance = glance(found, out);
        note_fins(&mut glance, s, seen.state, now_ns);
        let epoch = s.epoch;
        drive::swept(&mut glance, s, &settings, now_ns, epoch);
    }

    /// The kernel has destroyed its socket; `last` is what it said of it then.
    pub(super) fn end(mut self, last: Option<(TcpInfo, &Seen)>, now_ns: u64, out: &mut Out<'_>) {
        let mut found = self.found;
        if let Some((info, seen)) = last {
            let s = &self.session;
            // The state tells of no FIN any more. An acknowledged one counts as a byte that was
            // never sent; one byte more from the client is its FIN.
            let fin_acked = info.bytes_acked > info.bytes_sent_once();
            let grown = info
                .bytes_received
                .saturating_sub(self.found.info.bytes_received);
            let fin_received = s.fin_received == 0 && grown == 1;
            found = Found::new(
                info,
                seen.state,
                seen.write_queue_bytes,
                s.fin_queued != 0 || fin_acked,
                s.fin_received != 0 || fin_received,
            );
            let is_first = s.ended == ended::OPEN;
            self.catch_up(found, now_ns, out);
            let s = &mut self.session;
            if is_first && fin_acked && grown == 0 {
                s.fin_queued(low_word(found.written_bytes));
            } else if is_first && fin_received && !fin_acked {
                s.fin_received();
            }
        }
        // Not the state in which a session that ends was reset by the server.
        found.state = state::CLOSE;
        let mut glance = glance(found, out);
        drive::state_changed(&mut glance, &mut self.session, now_ns, state::CLOSE);
    }

    /// The filter leaves it out from now on.
    pub(super) fn untrack(mut self, now_ns: u64, out: &mut Out<'_>) {
        drive::untracked(&mut glance(self.found, out), &mut self.session, now_ns);
    }

    fn catch_up(&mut self, found: Found, now_ns: u64, out: &mut Out<'_>) {
        let settings = out.settings;
        let s = &mut self.session;
        let is_reported = s.is_claimed(s.epoch);
        let is_through = s.is_complete(s.written_seq);
        let is_idle = !s.is_open() || is_reported;
        let mut glance = Glance {
            rest: (is_idle || is_through).then_some(self.found),
            through: (is_through && !is_reported).then_some(s.index),
            ..glance(found, out)
        };
        if !is_idle && !is_through {
            // What was sent again was most likely sent for the delivery that was under way.
            drive::retransmitted(&glance, s);
        }
        let look = found.look(self.t_look_ns, now_ns);
        drive::looked(&mut glance, s, &settings, &look);
        let again = found.info.total_retrans.wrapping_sub(s.retrans_seen);
        if again != 0 {
            s.retrans_seen = found.info.total_retrans;
            s.session_retrans.add(again, found.info.ca_state);
            if s.is_open() {
                s.delivery_retrans.add(again, found.info.ca_state);
            }
        }
        self.found = found;
        self.t_look_ns = now_ns;
    }
}

fn glance<'a>(found: Found, out: &'a mut Out<'_>) -> Glance<'a> {
    Glance {
        found,
        rest: None,
        through: None,
        hot: out.hot,
        bulk: out.bulk,
    }
}

fn born(name: Name, t_established_ns: u64, flags: u32, settings: &Settings) -> Session {
    let is_mapped = name.endpoints.remote_addr[..10] == [0; 10]
        && name.endpoints.remote_addr[10..12] == [0xff; 2];
    Session {
        cookie: name.cookie,
        endpoints: name.endpoints,
        t_established_ns,
        flags: flags | if is_mapped { 0 } else { flag::IPV6 },
        filter_generation: settings.filter_generation,
        ..Session::default()
    }
}

/// Tells the tracker of the FINs that a state speaks of, in the order in which they came.
fn note_fins(glance: &mut Glance<'_>, s: &mut Session, tcp_state: u8, now_ns: u64) {
    let by_client = is_closed_by_client(tcp_state) && s.fin_received == 0;
    let by_server = is_closed_by_server(tcp_state) && s.fin_queued == 0;
    if by_client && tcp_state != state::CLOSING {
        drive::state_changed(glance, s, now_ns, state::CLOSE_WAIT);
    }
    if by_server {
        drive::state_changed(glance, s, now_ns, state::FIN_WAIT1);
    }
    if by_client && tcp_state == state::CLOSING {
        drive::state_changed(glance, s, now_ns, state::CLOSING);
    }
}

#[cfg(test)]
mod tests;
