//! A packet of a session: which segment it is.

use core::mem::MaybeUninit;

use aya_ebpf::{helpers::generated::bpf_skb_load_bytes, programs::SkBuffContext};
use probe_ebpf::drive::Segment;

/// Where a packet's TCP header is, if it begins with its IP header; `None` if it is no TCP, or a
/// fragment, or behind extension headers.
#[inline(always)]
fn tcp_offset(ctx: &SkBuffContext) -> Option<u32> {
    const TCP: u8 = 6;
    const V6_HEADER_LEN: u32 = 40;
    let version: [u8; 1] = load(ctx, 0)?;
    match version[0] >> 4 {
        4 => {
            let header: [u8; 12] = load(ctx, 0)?;
            // Fragments have an offset, or more of them follow (RFC 791, 3.1).
            let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
            (header[9] == TCP && fragment == 0).then_some(u32::from(header[0] & 0x0f) * 4)
        }
        6 => {
            let next: [u8; 1] = load(ctx, 6)?;
            (next[0] == TCP).then_some(V6_HEADER_LEN)
        }
        _ => None,
    }
}

/// The segment in a packet.
#[inline(always)]
pub fn segment(ctx: &SkBuffContext) -> Option<Segment> {
    let offset = tcp_offset(ctx)?;
    let header: [u8; 20] = load(ctx, offset)?;
    Some(Segment::parse(&header, ctx.len().checked_sub(offset)?))
}

/// The first three bytes of the payload of the segment that begins at `seq`; `None` if this is
/// another.
#[inline(always)]
pub fn first_bytes(ctx: &SkBuffContext, seq: u32) -> Option<[u8; 3]> {
    let offset = tcp_offset(ctx)?;
    let header: [u8; 20] = load(ctx, offset)?;
    if u32::from_be_bytes([header[4], header[5], header[6], header[7]]) != seq {
        return None;
    }
    load(ctx, offset + u32::from(header[12] >> 4) * 4)
}

#[inline(always)]
fn load<const LEN: usize>(ctx: &SkBuffContext, offset: u32) -> Option<[u8; LEN]> {
    // Not zeroed first: that would be a call that moves a pointer in a loop.
    let mut bytes = MaybeUninit::<[u8; LEN]>::uninit();
    // SAFETY: the helper checks the packet's length and writes as many bytes as there is room for:
    // the packet's, or zeros if it is shorter.
    let result = unsafe {
        bpf_skb_load_bytes(
            ctx.skb.skb.cast_const().cast(),
            offset,
            bytes.as_mut_ptr().cast(),
            LEN as u32,
        )
    };
    if result != 0 {
        return None;
    }
    // SAFETY: written just now.
    Some(unsafe { bytes.assume_init() })
}
