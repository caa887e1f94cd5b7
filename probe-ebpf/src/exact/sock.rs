//! Reading the kernel's sockets and packets, at the offsets that user space has put into
//! [`OFFSETS`]. The verifier knows each offset as a constant and checks every load.

use core::ptr::read_volatile;

use aya_ebpf::helpers::{
    bpf_probe_read_kernel_buf,
    generated::{bpf_jiffies64, bpf_skc_to_tcp_sock},
};
use probe_ebpf::{
    drive::Segment,
    field::{ABSENT, COUNT, Field},
    record::Endpoints,
    session::{Clocks, Gauges, sampled_rtt_us},
};

/// Set by user space before the programs are loaded, frozen after.
#[unsafe(no_mangle)]
static OFFSETS: [u32; COUNT] = [ABSENT; COUNT];

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Offset of a field; [`ABSENT`] if this kernel lacks it.
#[inline(always)]
pub fn offset(field: Field) -> u32 {
    // SAFETY: the index is a variant of `Field`, of which there are `COUNT`. Volatile, because
    // the value is not the one that the compiler sees.
    unsafe { read_volatile((&raw const OFFSETS).cast::<u32>().add(field as usize)) }
}

/// Whether this kernel has a field.
#[inline(always)]
pub fn has(field: Field) -> bool {
    offset(field) != ABSENT
}

/// Reads a field of the kernel object at `base`; the default if this kernel lacks it.
///
/// # Safety
/// `base` must be a pointer that the verifier knows the kernel type of (it then checks the
/// load), or one that is followed from such a pointer.
#[inline(always)]
unsafe fn read<T: Copy + Default>(base: *const u8, field: Field) -> T {
    let offset = offset(field);
    if offset == ABSENT {
        return T::default();
    }
    // SAFETY: the caller's; volatile keeps the load as wide as it is written.
    unsafe { read_volatile(base.add(offset as usize).cast::<T>()) }
}

/// A pointer to a `struct sock` (or `sock_common`) that the verifier trusts.
#[derive(Clone, Copy)]
pub struct Sock(*const u8);

impl Sock {
    /// Takes a program's argument; `None` if it is null.
    #[inline(always)]
    pub fn new(sk: *const u8) -> Option<Self> {
        if sk.is_null() { None } else { Some(Self(sk)) }
    }

    /// The pointer, for helpers.
    #[inline(always)]
    pub fn as_ptr(self) -> *const u8 {
        self.0
    }

    /// The socket as a `tcp_sock`; `None` if it is none (another protocol, a mini socket).
    #[inline(always)]
    pub fn tcp(self) -> Option<TcpSock> {
        // SAFETY: the verifier has checked that the argument is a socket.
        let tp = unsafe { bpf_skc_to_tcp_sock(self.0.cast_mut().cast()) }.cast::<u8>();
        if tp.is_null() {
            None
        } else {
            Some(TcpSock(tp.cast_const()))
        }
    }

    /// Its cookie, as it was made by a socket callback or for the daemon's asking; 0 before.
    #[cfg(feature = "keyed")]
    #[inline(always)]
    pub fn cookie(self) -> u64 {
        self.get(Field::Cookie)
    }

    /// Its cookie; made when first asked for.
    #[cfg(not(feature = "keyed"))]
    #[inline(always)]
    pub fn cookie(self) -> u64 {
        // SAFETY: the verifier has checked that the argument is a socket.
        unsafe { aya_ebpf::helpers::generated::bpf_get_socket_cookie(self.0.cast_mut().cast()) }
    }

    #[inline(always)]
    fn get<T: Copy + Default>(self, field: Field) -> T {
        // SAFETY: a trusted `struct sock`.
        unsafe { read(self.0, field) }
    }

    /// TCP state.
    #[inline(always)]
    pub fn state(self) -> u8 {
        self.get(Field::State)
    }

    /// Local port.
    #[inline(always)]
    pub fn local_port(self) -> u16 {
        self.get(Field::LocalPort)
    }

    /// Inode number of its network namespace; 0 if unknown.
    #[inline(always)]
    pub fn netns(self) -> u32 {
        let net: u64 = self.get(Field::Net);
        if !has(Field::Net) || net == 0 {
            return 0;
        }
        // SAFETY: followed from a trusted socket, so the verifier knows it as `struct net`.
        unsafe { read(net as *const u8, Field::NetInum) }
    }

    /// Both ends; `None` if it is neither IPv4 nor IPv6.
    #[inline(always)]
    pub fn endpoints(self, out: &mut Endpoints) -> Option<()> {
        let family: u16 = self.get(Field::Family);
        match family {
            AF_INET => {
                out.local_addr = Endpoints::v4_mapped(self.get(Field::LocalV4));
                out.remote_addr = Endpoints::v4_mapped(self.get(Field::RemoteV4));
            }
            AF_INET6 => {
                out.local_addr = self.address(Field::LocalV6);
                out.remote_addr = self.address(Field::RemoteV6);
            }
            _ => return None,
        }
        out.local_port = self.local_port();
        out.remote_port = u16::from_be(self.get(Field::RemotePort));
        out.netns = self.netns();
        Some(())
    }

    #[inline(always)]
    fn address(self, field: Field) -> [u8; 16] {
        if !has(field) {
            return [0; 16];
        }
        let base = offset(field) as usize;
        let mut words = [0u32; 4];
        let mut i = 0;
        while i < 4 {
            // SAFETY: a trusted `struct sock`, and the field is 16 bytes.
            words[i] = unsafe { read_volatile(self.0.add(base + i * 4).cast::<u32>()) };
            i += 1;
        }
        Endpoints::address(words)
    }

    /// Id of the ancestor, at depth `level`, of the cgroup that the socket was made in; 0 if
    /// there is none or it cannot be told.
    #[inline(always)]
    pub fn cgroup_ancestor(self, level: u32) -> u64 {
        if !has(Field::CgroupAncestors) || !has(Field::SkCgroup) || !has(Field::KernfsId) {
            return 0;
        }
        let cgroup: u64 = self.get(Field::SkCgroup);
        if cgroup == 0 {
            return 0;
        }
        // SAFETY: followed from a trusted socket. The ancestor's slot is read with a checked
        // read, because its index is not a constant.
        unsafe {
            let depth: u32 = read(cgroup as *const u8, Field::CgroupLevel);
            if level > depth {
                return 0;
            }
            let slot = cgroup + u64::from(offset(Field::CgroupAncestors)) + u64::from(level) * 8;
            let ancestor = read_kernel_u64(slot);
            let kn = read_kernel_u64(ancestor + u64::from(offset(Field::CgroupKn)));
            read_kernel_u64(kn + u64::from(offset(Field::KernfsId)))
        }
    }
}

/// Eight bytes of kernel memory at an address, 0 if it cannot be read.
#[inline(always)]
pub fn read_kernel_u64(address: u64) -> u64 {
    let mut bytes = [0u8; 8];
    // SAFETY: the helper checks the address.
    let read = unsafe { bpf_probe_read_kernel_buf(address as *const u8, &mut bytes) };
    if read.is_ok() {
        u64::from_ne_bytes(bytes)
    } else {
        0
    }
}

/// A pointer to a `struct tcp_sock` that the verifier trusts.
#[derive(Clone, Copy)]
pub struct TcpSock(*const u8);

impl TcpSock {
    /// The pointer, for helpers.
    #[inline(always)]
    pub fn as_ptr(self) -> *const u8 {
        self.0
    }

    /// A field; the default if this kernel lacks it.
    #[inline(always)]
    pub fn get<T: Copy + Default>(self, field: Field) -> T {
        // SAFETY: a trusted `struct tcp_sock`.
        unsafe { read(self.0, field) }
    }

    /// The bits of a field that shares its byte with others.
    #[inline(always)]
    pub fn bits(self, byte: Field, mask: Field) -> u8 {
        if !has(byte) {
            return 0;
        }
        self.get::<u8>(byte) & offset(mask) as u8
    }

    /// Least round-trip time; 0 if there was no sample.
    #[inline(always)]
    pub fn min_rtt_us(self) -> u32 {
        sampled_rtt_us(self.get(Field::MinRttUs))
    }

    #[inline(always)]
    fn clocks(self) -> Clocks {
        let mut clocks = Clocks::default();
        if !has(Field::ChronoStat) || !has(Field::ChronoStart) {
            return clocks;
        }
        let base = offset(Field::ChronoStat) as usize;
        // SAFETY: `chrono_stat` is three u32 within a trusted `tcp_sock`.
        unsafe {
            clocks.busy = read_volatile(self.0.add(base).cast::<u32>());
            clocks.rwnd_limited = read_volatile(self.0.add(base + 4).cast::<u32>());
            clocks.sndbuf_limited = read_volatile(self.0.add(base + 8).cast::<u32>());
        }
        // SAFETY: takes no argument.
        let now = unsafe { bpf_jiffies64() } as u32;
        let running = now.wrapping_sub(self.get(Field::ChronoStart));
        let mut kind = self.bits(Field::ChronoType, Field::ChronoTypeMask);
        let mask = offset(Field::ChronoTypeMask) as u8;
        if mask != u8::MAX && mask != 0 {
            kind >>= mask.trailing_zeros();
        }
        match kind {
            1 => clocks.busy = clocks.busy.wrapping_add(running),
            2 => clocks.rwnd_limited = clocks.rwnd_limited.wrapping_add(running),
            3 => clocks.sndbuf_limited = clocks.sndbuf_limited.wrapping_add(running),
            _ => {}
        }
        // As TCP_INFO tells it: busy is all the time with data outstanding.
        clocks.busy = clocks
            .busy
            .wrapping_add(clocks.rwnd_limited)
            .wrapping_add(clocks.sndbuf_limited);
        clocks
    }

    /// Everything that a delivery's two ends are described by.
    #[inline(always)]
    pub fn read_gauges(self, out: &mut Gauges) {
        out.segments = self.get(Field::DataSegsOut);
        out.clocks = self.clocks();
        out.srtt_us = self.get::<u32>(Field::Srtt8Us) >> 3;
        out.min_rtt_us = self.min_rtt_us();
        out.cwnd = self.get(Field::Cwnd);
        out.mss = self.get(Field::Mss);
        out.peer_window_bytes = self.get(Field::SndWnd);
        out.set_delivery_rate(
            self.get(Field::RateDelivered),
            self.get(Field::RateIntervalUs),
        );
        out.rate_app_limited = self.bits(Field::RateAppLimited, Field::RateAppLimitedMask) != 0;
    }
}

/// What TCP has noted of a packet's header when `tcp_probe` runs (`tcp_v4_fill_cb`,
/// `tcp_v6_fill_cb`): read in place, where the packet itself would take a checked copy.
#[inline(always)]
pub fn segment_of(skb: *const u8) -> Segment {
    const FIN: u8 = 0x01;
    // SAFETY: `skb` is the tracepoint's trusted `struct sk_buff`, and the scratch space is a part
    // of it.
    unsafe {
        let cb = skb.add(offset(Field::SkbCb) as usize);
        let seq: u32 = read(cb, Field::CbSeq);
        let end_seq: u32 = read(cb, Field::CbEndSeq);
        let flags: u8 = read(cb, Field::CbFlags);
        let payload = end_seq
            .wrapping_sub(seq)
            .wrapping_sub(u32::from(flags & FIN));
        Segment::new(seq, read(cb, Field::CbAckSeq), flags, payload)
    }
}
