//! The few uses of the `bpf` system call that an agent makes.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};

use super::program::Insn;

const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP_ELEM: libc::c_long = 1;
pub(super) const MAP_UPDATE_ELEM: libc::c_long = 2;
const PROG_LOAD: libc::c_long = 5;
pub(super) const PROG_ATTACH: libc::c_long = 8;
pub(super) const PROG_DETACH: libc::c_long = 9;
const BTF_LOAD: libc::c_long = 18;

pub(super) const MAP_ARRAY: u32 = 2;
pub(super) const MAP_SK_STORAGE: u32 = 24;
pub(super) const F_NO_PREALLOC: u32 = 1;
const PROG_SOCK_OPS: u32 = 13;
pub(super) const CGROUP_SOCK_OPS: u32 = 3;
pub(super) const F_ALLOW_MULTI: u32 = 1 << 1;

/// `union bpf_attr`, the part for `BPF_MAP_CREATE`.
#[derive(Default)]
#[repr(C)]
pub(super) struct MapCreate {
    pub(super) map_type: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) map_flags: u32,
    pub(super) inner_map_fd: u32,
    pub(super) numa_node: u32,
    pub(super) map_name: [u8; 16],
    pub(super) map_ifindex: u32,
    pub(super) btf_fd: u32,
    pub(super) btf_key_type_id: u32,
    pub(super) btf_value_type_id: u32,
}

/// The part for `BPF_MAP_*_ELEM`.
#[repr(C, align(8))]
pub(super) struct Element {
    pub(super) map_fd: u32,
    pub(super) key: u64,
    pub(super) value: u64,
    pub(super) flags: u64,
}

/// The part for `BPF_PROG_LOAD`.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
}

/// The part for `BPF_PROG_ATTACH` and `BPF_PROG_DETACH`.
#[repr(C)]
pub(super) struct ProgAttach {
    pub(super) target_fd: u32,
    pub(super) attach_bpf_fd: u32,
    pub(super) attach_type: u32,
    pub(super) attach_flags: u32,
}

/// The part for `BPF_BTF_LOAD`.
#[repr(C)]
struct BtfLoad {
    btf: u64,
    btf_log_buf: u64,
    btf_size: u32,
    btf_log_size: u32,
    btf_log_level: u32,
    reserved: u32,
}

pub(super) fn load_program(code: &[Insn]) -> io::Result<OwnedFd> {
    let mut attr = ProgLoad {
        prog_type: PROG_SOCK_OPS,
        insn_cnt: u32::try_from(code.len()).map_err(io::Error::other)?,
        insns: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
    };
    bpf(PROG_LOAD, &mut attr).map(made)
}

/// Type information with one type, a 32-bit integer: socket storage asks for it.
pub(super) fn load_btf() -> io::Result<OwnedFd> {
    const MAGIC_AND_VERSION: u32 = 0x0001_eb9f;
    const HEADER: u32 = 24;
    const INT: u32 = 1 << 24;
    const TYPES: u32 = 16;
    const NAMES: &[u8] = b"\0int\0\0\0\0";
    let names = u32::try_from(NAMES.len()).map_err(io::Error::other)?;
    let mut btf = Vec::new();
    // Flags, types' offset and length, names' offset and length; then the type.
    for word in [MAGIC_AND_VERSION, HEADER, 0, TYPES, TYPES, names]
        .into_iter()
        .chain([1, INT, 4, 32])
    {
        btf.extend(word.to_ne_bytes());
    }
    btf.extend(NAMES);
    let mut attr = BtfLoad {
        btf: btf.as_ptr() as u64,
        btf_log_buf: 0,
        btf_size: u32::try_from(btf.len()).map_err(io::Error::other)?,
        btf_log_size: 0,
        btf_log_level: 0,
        reserved: 0,
    };
    bpf(BTF_LOAD, &mut attr).map(made)
}

pub(super) fn make_map(attr: &mut MapCreate) -> io::Result<OwnedFd> {
    bpf(MAP_CREATE, attr).map(made)
}

pub(super) fn look_up<T>(map: &OwnedFd, key: u32, value: &mut T) -> io::Result<()> {
    let mut attr = Element {
        map_fd: raw(map),
        key: std::ptr::from_ref(&key) as u64,
        value: std::ptr::from_mut(value) as u64,
        flags: 0,
    };
    bpf(MAP_LOOKUP_ELEM, &mut attr).map(drop)
}

pub(super) fn raw(fd: &impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().unsigned_abs()
}

/// The descriptor that a system call has made.
fn made(result: i32) -> OwnedFd {
    // SAFETY: the call has just made this descriptor and nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(result) }
}

pub(super) fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: `attr` is a plain C struct that lives through the call, its size is passed, and what
    // it points to outlives the call and is as large as the kernel was told.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}
