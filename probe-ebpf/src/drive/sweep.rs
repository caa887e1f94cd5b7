//! The sweep's steps: it looks at a session beside whatever else happens to it, without the lock.

use super::{Host, after, catch_up, show};
use crate::{
    record::{ended, flag},
    session::{Session, phase},
    settings::Settings,
    tracker::{UNMARKED, Watched},
};

/// The filter has changed and leaves the session out: it is not measured any more.
#[inline(always)]
pub fn untracked<H: Host>(host: &mut H, s: &mut Session, now_ns: u64) {
    s.phase = phase::IGNORED;
    host.session_end(s, now_ns, ended::UNTRACKED, false);
}

/// The sweep looks at a session that is left out, beside whatever else happens to it. Returns
/// whether it was followed until now, ever since it began.
#[inline(always)]
pub fn watched<H: Host>(
    host: &mut H,
    s: &mut Session,
    settings: &Settings,
    now_ns: u64,
    epoch: u64,
) -> bool {
    if Session::is_changing(epoch) {
        return false;
    }
    if s.is_open() {
        // Ended without a record, unless something has happened to it just now.
        let new = s.settled_epoch(epoch);
        if !s.is_claimed(epoch) && !host.swap_epoch(s, epoch, new) {
            return false;
        }
        s.drop_delivery(host.write_seq());
    }
    let first = s.leave_out();
    watch(host, s, now_ns, settings.deadline_ns);
    first
}

/// Takes notice of what a look at a session that is left out finds.
#[inline(always)]
pub(super) fn watch<H: Host>(host: &mut H, s: &mut Session, now_ns: u64, deadline_ns: u64) {
    let write_seq = host.write_seq();
    match s.watch(
        now_ns,
        host.snd_una(),
        write_seq,
        host.rcv_nxt(),
        deadline_ns,
    ) {
        Watched::Well => {}
        Watched::Late => host.delivery_late(s, now_ns),
        Watched::Over => {
            host.delivery_end(s, write_seq, now_ns);
            s.index += 1;
        }
    }
}

/// The sweep looks at a session, beside whatever else happens to it.
#[inline(always)]
pub fn swept<H: Host>(host: &mut H, s: &mut Session, settings: &Settings, now_ns: u64, epoch: u64) {
    if Session::is_changing(epoch) || s.is_claimed(epoch) {
        return;
    }
    let write_seq = host.write_seq();
    if s.is_silent(now_ns, settings.quiet_gap_ns) && after(host.snd_una(), s.acked_seq) {
        // An acknowledgement went unseen, as above, and nothing has followed. Whatever comes in
        // this very moment raises the epoch, or takes the same step.
        unseen_ack(host, s, now_ns);
        return;
    }
    if s.is_settled(now_ns, write_seq, settings.quiet_gap_ns) {
        let new = s.settled_epoch(epoch);
        host.delivery_settled(s, now_ns, epoch, new);
    } else if s.is_late(now_ns, write_seq, settings.deadline_ns) {
        s.mark_late();
        host.delivery_late(s, now_ns);
    } else if s.is_progress_due(now_ns, write_seq, settings.progress_ns) {
        s.t_progress_ns = now_ns;
        host.delivery_progress(s, now_ns);
    }
}

/// Takes notice of an acknowledgement that nobody saw. The kernel tells when the latest came.
#[inline(always)]
fn unseen_ack<H: Host>(host: &H, s: &mut Session, now_ns: u64) {
    let (t_acked_ns, una) = (host.delivered_ns(), host.snd_una());
    let write_seq = host.write_seq();
    if t_acked_ns == 0 {
        catch_up(host, s, now_ns);
        return;
    }
    if s.t_first_acked_ns == 0 {
        s.delivery_flags |= flag::FIRST_ACKED_BOUNDED;
    }
    s.acked(t_acked_ns, una, write_seq, host.srtt_us());
}

/// The sweep turns away from a session in which nothing has been open for a while, so that its
/// rounds cost by what is open, and not by what is there.
#[inline(always)]
pub fn rested<H: Host>(host: &mut H, s: &mut Session, now_ns: u64, epoch: u64) {
    if Session::is_changing(epoch) {
        return;
    }
    if epoch & UNMARKED != 0 {
        // One that could not be marked when it opened may be met on a round past all.
        if !s.is_claimed(epoch) {
            show(host, s, epoch);
        }
        return;
    }
    if s.is_at_rest(now_ns, epoch) {
        host.unmark();
        // Whoever has opened a delivery since the epoch was read took the session for marked.
        if !host.swap_epoch(s, epoch, epoch | UNMARKED) && !host.mark() {
            host.add_epoch(s, UNMARKED);
        }
    }
}
