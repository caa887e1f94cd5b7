//! Producers: records as weir's programs write them, of sessions that do not exist, made one by
//! each run (`BPF_PROG_TEST_RUN`, which repeats it as often as it is told).

use aya_ebpf::{
    helpers::generated::bpf_ktime_get_ns,
    macros::{classifier, map},
    maps::{Array, RingBuf},
    programs::TcContext,
};
use probe_ebpf::record::{
    ABI_VERSION, Delivery, Endpoints, Header, SessionEnd, SessionStart, backend, ended, flag, kind,
};

use crate::plan::{HOT_PORT, MAX_SLOTS, Made, Plan, Wish};

/// As weir's own, and in its place when it is given weir's.
#[map]
pub static HOT: RingBuf = RingBuf::with_byte_size(1 << 20, 0);
/// Likewise.
#[map]
pub static BULK: RingBuf = RingBuf::with_byte_size(1 << 23, 0);
/// One element; see [`Plan`].
#[map]
static PLAN: Array<Plan> = Array::with_max_entries(1, 0);
/// One element; see [`Made`].
#[map]
static MADE: Array<Made> = Array::with_max_entries(1, 0);
/// One element; see [`Wish`].
#[map]
static WISH: Array<Wish> = Array::with_max_entries(1, 0);
/// How far each session is.
#[map]
static SLOTS: Array<Slot> = Array::with_max_entries(MAX_SLOTS, 0);

/// One of the sessions that are open at the same time; when it ends, another takes its place.
#[derive(Clone, Copy)]
#[repr(C)]
struct Slot {
    /// Which session of this place.
    generation: u32,
    /// Records written of it.
    stage: u32,
}

const NO_WAKEUP: u64 = 1; // BPF_RB_NO_WAKEUP
const MS: u64 = 1_000_000;

/// Writes the plan's next record into the bulk ring; 1 if there was no room. Wakes nobody.
#[classifier]
pub fn produce(_ctx: TcContext) -> i32 {
    let (Some(plan), Some(made)) = (PLAN.get(0), MADE.get_ptr_mut(0)) else {
        return 1;
    };
    // SAFETY: the map's one element; one thread at a time runs this.
    let made = unsafe { &mut *made };
    if plan.sessions == 0 {
        return 1;
    }
    let random = next_random(made.random);
    let place = if plan.random == 0 {
        made.records
    } else {
        random
    } % plan.sessions;
    #[expect(clippy::cast_possible_truncation, reason = "less than MAX_SLOTS")]
    let Some(slot) = SLOTS.get_ptr_mut(place as u32) else {
        return 1;
    };
    // SAFETY: an element of the map; as above.
    let slot = unsafe { &mut *slot };
    let session = Subject {
        cookie: 1 + place + u64::from(slot.generation) * u64::from(MAX_SLOTS),
        t_ns: plan.begin_ns + made.records * plan.step_ns,
        stage: slot.stage,
        random,
    };
    let over = plan.deliveries != 0 && u64::from(slot.stage) > plan.deliveries;
    let written = if slot.stage == 0 {
        session.start()
    } else if over {
        session.end()
    } else {
        session.delivery(plan.troubled)
    };
    if written.is_none() {
        made.refused += 1;
        return 1;
    }
    made.random = random;
    made.records += 1;
    if over {
        slot.generation += 1;
        slot.stage = 0;
    } else {
        slot.stage += 1;
    }
    0
}

/// Writes a delivery that was cut off this moment into the hot ring, and wakes who waits for it.
/// Its session's cookie is the time.
#[classifier]
pub fn hot_event(_ctx: TcContext) -> i32 {
    let written = write_hot(flag::ABORTED, |out| out.endpoints.local_port = HOT_PORT);
    i32::from(written.is_none())
}

/// Writes the delivery that is wished for into the hot ring, of a session of its own, and wakes who
/// waits for it; 1 if there was no room.
#[classifier]
pub fn wished_event(_ctx: TcContext) -> i32 {
    let Some(wish) = WISH.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: the map's one element; one thread at a time runs this.
    let wish = unsafe { &mut *wish };
    let written = write_hot(0, |out| {
        #[expect(clippy::cast_possible_truncation, reason = "a port")]
        let port = wish.port as u16;
        out.endpoints.local_port = port;
        let [.., a, b, c] = wish.client.to_be_bytes();
        out.endpoints.remote_addr[13] = a;
        out.endpoints.remote_addr[14] = b;
        out.endpoints.remote_addr[15] = c;
        if wish.late != 0 {
            out.header.kind = kind::DELIVERY_LATE;
            out.flags = flag::LATE;
        }
    });
    let Some(written_ns) = written else {
        return 1;
    };
    wish.written_ns = written_ns;
    0
}

/// Writes a delivery of this moment with these [`flag`] bits into the hot ring, as `change` will have it,
/// and wakes who waits for it. Its session's cookie is the time, which is returned; none: there was no room.
#[inline(always)]
fn write_hot(flags: u32, change: impl FnOnce(&mut Delivery)) -> Option<u64> {
    let mut entry = HOT.reserve::<Delivery>(0)?;
    // SAFETY: takes no argument.
    let now = unsafe { bpf_ktime_get_ns() };
    let session = Subject {
        cookie: now,
        t_ns: now,
        stage: 1,
        random: now,
    };
    // SAFETY: every field is written.
    let out = unsafe { &mut *entry.as_mut_ptr() };
    session.fill(out, flags, 0);
    change(out);
    entry.submit(0);
    Some(now)
}

/// What a record is made from.
struct Subject {
    cookie: u64,
    t_ns: u64,
    stage: u32,
    random: u64,
}

/// xorshift64*, without the star: good enough to be unpredictable to a cache.
#[inline(always)]
fn next_random(state: u64) -> u64 {
    let mut x = if state == 0 {
        0x9e37_79b9_7f4a_7c15
    } else {
        state
    };
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    x
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "records are short")]
fn header<T>(kind: u8, t_ns: u64) -> Header {
    Header {
        t_ns,
        kind,
        version: ABI_VERSION,
        len: size_of::<T>() as u16,
        backend: backend::EXACT,
        reserved: 0,
        reserved_too: 0,
    }
}

impl Subject {
    /// The client is 10.x.y.z, by the cookie; the server's port one of four.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "parts of the cookie")]
    fn endpoints(&self) -> Endpoints {
        let client = self.cookie as u32;
        let mut endpoints = Endpoints {
            local_addr: MAPPED,
            remote_addr: MAPPED,
            local_port: 8080 + (client & 3) as u16,
            remote_port: 1024 + (client >> 4) as u16 % 32_768,
            netns: 1,
        };
        endpoints.local_addr[15] = 1;
        endpoints.remote_addr[13] = (client >> 16) as u8;
        endpoints.remote_addr[14] = (client >> 8) as u8;
        endpoints.remote_addr[15] = client as u8;
        endpoints
    }

    #[inline(always)]
    fn start(&self) -> Option<()> {
        let mut entry = BULK.reserve::<SessionStart>(0)?;
        // SAFETY: as large as the record; every field is written.
        let out = unsafe { &mut *entry.as_mut_ptr() };
        out.header = header::<SessionStart>(kind::SESSION_START, self.t_ns);
        out.cookie = self.cookie;
        out.t_established_ns = self.t_ns;
        out.endpoints = self.endpoints();
        out.handshake_us = 20_000;
        out.synack_retransmits = 0;
        out.flags = 0;
        out.reserved = 0;
        entry.submit(NO_WAKEUP);
        Some(())
    }

    #[inline(always)]
    fn delivery(&self, troubled: u64) -> Option<()> {
        let one_in = |of: u64| of != 0 && (self.random >> 32).is_multiple_of(of);
        let flags = if one_in(troubled * 16) {
            flag::ABORTED
        } else {
            0
        };
        let retransmitted = if one_in(troubled) { 3 } else { 0 };
        let mut entry = BULK.reserve::<Delivery>(0)?;
        // SAFETY: every field is written.
        self.fill(unsafe { &mut *entry.as_mut_ptr() }, flags, retransmitted);
        entry.submit(NO_WAKEUP);
        Some(())
    }

    /// A segment of 850 kB in some hundred milliseconds.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "parts of a random number")]
    fn fill(&self, out: &mut Delivery, flags: u32, retransmitted: u32) {
        let vary = self.random >> 20 & 0xff;
        let bytes = 850_000 + vary * 100;
        let end = self.t_ns;
        out.header = header::<Delivery>(kind::DELIVERY_END, self.t_ns);
        out.cookie = self.cookie;
        out.t_request_ns = end - (100 + vary) * MS;
        out.t_request_last_ns = end - (100 + vary) * MS;
        out.t_first_write_ns = end - (99 + vary) * MS;
        out.t_last_write_ns = end - 30 * MS;
        out.t_first_acked_ns = end - 70 * MS;
        out.t_last_acked_ns = end - MS;
        out.request_bytes = 300;
        out.acked_bytes = bytes;
        out.written_bytes = bytes;
        out.endpoints = self.endpoints();
        out.index = self.stage - 1;
        out.flags = flags;
        out.segments = (bytes / 1448) as u32;
        out.retrans_fast = retransmitted;
        out.retrans_rto = 0;
        out.retrans_tlp = 0;
        out.srtt_us = 20_000 + (vary as u32) * 64;
        out.min_rtt_us = 20_000;
        out.cwnd = 40;
        out.mss = 1448;
        out.peer_window_bytes = 1 << 20;
        out.requests = 1;
        out.delivery_rate_bytes_per_s = 4_000_000 + vary * 10_000;
        out.busy_ticks = 25;
        out.rwnd_limited_ticks = 0;
        out.sndbuf_limited_ticks = 2;
        out.ended = if flags & flag::ABORTED == 0 {
            ended::OPEN
        } else {
            ended::CLIENT_RST
        };
        out.reserved = 0;
        out.reserved_too = 0;
    }

    #[inline(always)]
    fn end(&self) -> Option<()> {
        let mut entry = BULK.reserve::<SessionEnd>(0)?;
        // SAFETY: as large as the record; every field is written.
        let out = unsafe { &mut *entry.as_mut_ptr() };
        let deliveries = u64::from(self.stage) - 1;
        out.header = header::<SessionEnd>(kind::SESSION_END, self.t_ns);
        out.cookie = self.cookie;
        out.t_established_ns = self.t_ns - 1000 * MS;
        out.received_bytes = 300 * deliveries;
        out.acked_bytes = 876_000 * deliveries;
        out.endpoints = self.endpoints();
        out.deliveries = self.stage - 1;
        out.flags = 0;
        out.segments = (self.stage - 1) * 605;
        out.retrans_fast = 0;
        out.retrans_rto = 0;
        out.retrans_tlp = 0;
        out.retrans_before = 0;
        out.retrans_total = 0;
        out.srtt_us = 25_000;
        out.min_rtt_us = 20_000;
        out.ended = ended::CLIENT_FIN;
        out.reserved = 0;
        out.reserved_too = 0;
        out.reserved_as_well = 0;
        entry.submit(NO_WAKEUP);
        Some(())
    }
}

/// What a v4-mapped address begins with.
const MAPPED: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 0];
