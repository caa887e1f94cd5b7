//! The few uses of the `bpf` system call that aya does not have: iterators over a map's elements
//! (a program run once for each when a descriptor is read, Linux 5.9), how often the kernel
//! skipped a program (Linux 5.12) and how long it ran, reading a map in batches (Linux 5.6), and who holds a cgroup.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
};

use aya_obj::generated::{bpf_attach_type, bpf_prog_info};

const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_ITER_CREATE: libc::c_long = 33;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_ENABLE_STATS: libc::c_long = 32;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_TRACE_ITER: u32 = 28;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_F_ALLOW_MULTI: u32 = 1 << 1;

const PROG_INFO_LEN: u32 = 232;
const _: () = assert!(size_of::<bpf_prog_info>() == PROG_INFO_LEN as usize);

/// `union bpf_attr`, the part for `BPF_LINK_CREATE` (include/uapi/linux/bpf.h, Linux 5.9).
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    iter_info: u64,
    iter_info_len: u32,
    reserved: u32,
}

/// `union bpf_attr`, the part for `BPF_ITER_CREATE` (Linux 5.8).
#[repr(C)]
struct IterCreate {
    link_fd: u32,
    flags: u32,
}

/// `union bpf_iter_link_info`, the part for maps (Linux 5.9).
#[repr(C)]
struct MapTarget {
    map_fd: u32,
}

const MAP_TARGET_LEN: u32 = 4;
const _: () = assert!(size_of::<MapTarget>() == MAP_TARGET_LEN as usize);

/// A linked iterator program; unlinked when dropped.
#[derive(Debug)]
pub(super) struct IterLink {
    link: OwnedFd,
}

impl IterLink {
    /// Links a loaded iterator program, to a map if it walks one.
    pub(super) fn new(program: BorrowedFd<'_>, map: Option<BorrowedFd<'_>>) -> io::Result<Self> {
        let target = map.map(|map| MapTarget {
            map_fd: raw(map.as_raw_fd()),
        });
        let mut attr = LinkCreate {
            prog_fd: raw(program.as_raw_fd()),
            target_fd: 0,
            attach_type: BPF_TRACE_ITER,
            flags: 0,
            iter_info: target
                .as_ref()
                .map_or(0, |target| std::ptr::from_ref(target) as u64),
            iter_info_len: target.as_ref().map_or(0, |_| MAP_TARGET_LEN),
            reserved: 0,
        };
        Ok(Self {
            link: bpf(BPF_LINK_CREATE, &mut attr)?,
        })
    }

    /// Runs the program once over everything; what it prints is thrown away.
    pub(super) fn run(&self) -> io::Result<()> {
        let mut attr = IterCreate {
            link_fd: raw(self.link.as_fd().as_raw_fd()),
            flags: 0,
        };
        let mut reader = File::from(bpf(BPF_ITER_CREATE, &mut attr)?);
        let mut buffer = [0u8; 4096];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                    ) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// A valid descriptor as the kernel's unsigned field.
fn raw(fd: RawFd) -> u32 {
    fd.unsigned_abs()
}

/// `union bpf_attr`, the part for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct GetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// What the kernel counts of a program.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProgramCounts {
    /// How often it was skipped because it would have interrupted itself.
    pub(super) recursion_misses: u64,
    /// How long it ran, as long as statistics were kept.
    pub(super) run_time_ns: u64,
    /// How often, as long as statistics were kept.
    pub(super) runs: u64,
}

/// What the kernel has counted of a program.
pub(super) fn program_counts(program: BorrowedFd<'_>) -> io::Result<ProgramCounts> {
    // SAFETY: plain integers, for which zero is a value.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    let mut attr = GetInfo {
        bpf_fd: raw(program.as_raw_fd()),
        info_len: PROG_INFO_LEN,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: `attr` and the structure it points to live through the call, and the kernel writes
    // at most `info_len` bytes, which is that structure's size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD,
            std::ptr::from_mut(&mut attr),
            size_of::<GetInfo>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ProgramCounts {
        recursion_misses: info.recursion_misses,
        run_time_ns: info.run_time_ns,
        runs: info.run_cnt,
    })
}

/// `union bpf_attr`, the part for `BPF_ENABLE_STATS`.
#[repr(C)]
struct EnableStats {
    kind: u32,
}

/// Makes the kernel keep statistics of every program's run time for as long as the descriptor is
/// open (Linux 5.8; needs `CAP_SYS_ADMIN`).
pub(super) fn keep_statistics() -> io::Result<OwnedFd> {
    const RUN_TIME: u32 = 0; // BPF_STATS_RUN_TIME
    bpf(BPF_ENABLE_STATS, &mut EnableStats { kind: RUN_TIME })
}

/// `union bpf_attr`, the part for `BPF_PROG_QUERY`, as long as the longest that a kernel writes to
/// (Linux 6.16).
#[repr(C)]
#[derive(Default)]
struct ProgQuery {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    reserved: u32,
    later: [u64; 4],
}

/// The program that holds a hook of a cgroup in a way that admits no other beside it.
pub(super) fn sole_program(
    cgroup: BorrowedFd<'_>,
    hook: bpf_attach_type,
) -> io::Result<Option<u32>> {
    let mut ids = [0u32; 1];
    let mut attr = ProgQuery {
        target_fd: raw(cgroup.as_raw_fd()),
        attach_type: hook as u32,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: 1,
        ..ProgQuery::default()
    };
    // SAFETY: `attr` and the array it points to live through the call; the kernel writes as many
    // ids as `prog_cnt` says there is room for, and within the size of `attr`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_QUERY,
            std::ptr::from_mut(&mut attr),
            size_of::<ProgQuery>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let alone = attr.prog_cnt == 1 && attr.attach_flags & BPF_F_ALLOW_MULTI == 0;
    Ok(alone.then_some(ids[0]))
}

/// `union bpf_attr`, the part for `BPF_MAP_LOOKUP_BATCH`.
#[repr(C)]
struct LookupBatch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Reads the next elements of a hash map, as many as there is room for in both slices, whose types
/// must be as long as the map's. `position` is where to go on, none for the start, and is moved on. Returns how
/// many were read, and whether there are more.
pub(super) fn lookup_batch<K: bytemuck::Pod, V: bytemuck::Pod>(
    map: BorrowedFd<'_>,
    position: &mut Option<u32>,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<(usize, bool)> {
    let from = *position;
    let mut next = 0u32;
    let room = keys.len().min(values.len());
    let mut attr = LookupBatch {
        in_batch: from
            .as_ref()
            .map_or(0, |from| std::ptr::from_ref(from) as u64),
        out_batch: std::ptr::from_mut(&mut next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: u32::try_from(room).unwrap_or(u32::MAX),
        map_fd: raw(map.as_raw_fd()),
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: `attr` and all that it points to live through the call; the kernel writes `count`
    // keys and values at the most, for which both slices have room, into plain integers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_LOOKUP_BATCH,
            std::ptr::from_mut(&mut attr),
            size_of::<LookupBatch>(),
        )
    };
    let is_end = result < 0;
    if is_end {
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ENOENT) {
            return Err(error);
        }
    }
    *position = Some(next);
    Ok((attr.count as usize, !is_end))
}

/// The `bpf` system call, for the commands that return a descriptor.
fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: `attr` is a plain C struct that lives through the call, its size is passed, and the
    // kernel writes nothing beyond it; pointers in it outlive the call too.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the call has just made this descriptor and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The running kernel's version, its first two numbers.
pub(super) fn kernel_version() -> Option<(u32, u32)> {
    let release = nix::sys::utsname::uname().ok()?;
    version_of(release.release().to_str()?)
}

/// The first two numbers of a release.
pub(super) fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|part| part.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

/// Before Linux 5.11, maps and programs count as locked memory, whose usual limit is too low for
/// them. Later kernels do not ask, and where the limit may not be lifted the loading says so.
pub(super) fn lift_memory_lock_limit() {
    use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
    if kernel_version().is_some_and(|version| version < (5, 11)) {
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    }
}

/// Hands freed memory back to the kernel. Reading the kernel's BTF takes tens of megabytes once,
/// which glibc would keep for the daemon's life.
pub(super) fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer, and may be called at any time (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}
