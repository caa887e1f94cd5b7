//! Another eBPF agent on the host, as others write them: a `sock_ops` program of a few
//! hand-assembled instructions that asks for callbacks on the sessions of one port and counts them,
//! and a value of its own at a socket. Only system calls, so that nothing of weir's is in it.

mod program;
mod sys;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use program::instructions;
use sys::{
    CGROUP_SOCK_OPS, Element, F_ALLOW_MULTI, F_NO_PREALLOC, MAP_ARRAY, MAP_SK_STORAGE,
    MAP_UPDATE_ELEM, MapCreate, PROG_ATTACH, PROG_DETACH, ProgAttach, bpf, load_btf, load_program,
    look_up, make_map, raw,
};

/// `BPF_SOCK_OPS_STATE_CB_FLAG` (include/uapi/linux/bpf.h).
pub const STATE_FLAG: u32 = 1 << 2;
/// `BPF_SOCK_OPS_RTT_CB_FLAG`
pub const RTT_FLAG: u32 = 1 << 3;
/// The callback at a change of state.
pub const STATE_CB: u32 = 10;
/// The callback at a sample of the round-trip time.
pub const RTT_CB: u32 = 12;

/// How an agent asks for its callbacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It adds its own to those that are there.
    Adds,
    /// It asks for its own alone, and so takes away those of others.
    Replaces,
}

/// How an agent attaches to a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Beside others: `BPF_F_ALLOW_MULTI`, as a link does.
    Beside,
    /// Alone: no flags, the kernel's default for `BPF_PROG_ATTACH`.
    Alone,
}

/// An agent's program at a cgroup; detached when dropped.
#[derive(Debug)]
pub struct Agent {
    cgroup: File,
    program: OwnedFd,
    counts: OwnedFd,
}

/// How many callbacks are told apart, and the slot for those that found an own flag gone.
const SLOTS: u32 = 32;
const FLAGS_GONE: u32 = SLOTS - 1;

impl Agent {
    /// Attaches to `cgroup` a program that asks for the callbacks `flags` on each session that is
    /// accepted at `port`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn attach(
        cgroup: &Path,
        port: u16,
        flags: u32,
        manner: Manner,
        hold: Hold,
    ) -> io::Result<Self> {
        let counts = make_map(&mut MapCreate {
            map_type: MAP_ARRAY,
            key_size: 4,
            value_size: 8,
            max_entries: SLOTS,
            ..MapCreate::default()
        })?;
        let program = load_program(&instructions(counts.as_raw_fd(), port, flags, manner))?;
        let cgroup = File::open(cgroup)?;
        let mut attr = ProgAttach {
            target_fd: raw(&cgroup),
            attach_bpf_fd: raw(&program),
            attach_type: CGROUP_SOCK_OPS,
            attach_flags: match hold {
                Hold::Beside => F_ALLOW_MULTI,
                Hold::Alone => 0,
            },
        };
        bpf(PROG_ATTACH, &mut attr)?;
        Ok(Self {
            cgroup,
            program,
            counts,
        })
    }

    /// The program's id.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn id(&self) -> Result<u32> {
        let info = format!("/proc/self/fdinfo/{}", self.program.as_raw_fd());
        let info = std::fs::read_to_string(&info).with_context(|| format!("reading {info}"))?;
        let id = info.lines().find_map(|line| line.strip_prefix("prog_id:"));
        id.context("no id")?.trim().parse().context("no number")
    }

    /// How often the callback `op` has come.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn callbacks(&self, op: u32) -> io::Result<u64> {
        let mut value = 0u64;
        look_up(&self.counts, op, &mut value)?;
        Ok(value)
    }

    /// How often a change of state found one of the agent's own flags gone.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn flags_gone(&self) -> io::Result<u64> {
        self.callbacks(FLAGS_GONE)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let mut attr = ProgAttach {
            target_fd: raw(&self.cgroup),
            attach_bpf_fd: raw(&self.program),
            attach_type: CGROUP_SOCK_OPS,
            attach_flags: 0,
        };
        let _ = bpf(PROG_DETACH, &mut attr);
    }
}

/// A map of values at sockets that weir has no part in.
#[derive(Debug)]
pub struct Notes {
    map: OwnedFd,
}

impl Notes {
    /// Makes the map.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new() -> io::Result<Self> {
        let btf = load_btf()?;
        let map = make_map(&mut MapCreate {
            map_type: MAP_SK_STORAGE,
            key_size: 4,
            value_size: 4,
            map_flags: F_NO_PREALLOC,
            btf_fd: raw(&btf),
            btf_key_type_id: 1,
            btf_value_type_id: 1,
            ..MapCreate::default()
        })?;
        Ok(Self { map })
    }

    /// Notes a value at a socket.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn put(&self, socket: &impl AsFd, value: u32) -> io::Result<()> {
        let key = socket.as_fd().as_raw_fd();
        let mut attr = Element {
            map_fd: raw(&self.map),
            key: std::ptr::from_ref(&key) as u64,
            value: std::ptr::from_ref(&value) as u64,
            flags: 0,
        };
        bpf(MAP_UPDATE_ELEM, &mut attr).map(drop)
    }

    /// The value at a socket.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, socket: &impl AsFd) -> io::Result<u32> {
        let mut value = 0;
        look_up(&self.map, raw(socket), &mut value)?;
        Ok(value)
    }
}

/// What the kernel calls a socket.
///
/// # Errors
/// It is no socket.
pub fn cookie(socket: &impl AsFd) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut len: libc::socklen_t = 8;
    // SAFETY: the kernel writes at most `len` bytes, which is the size of `cookie`.
    let got = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(cookie)
}

/// Where cgroup v2 is mounted.
///
/// # Errors
/// Nowhere.
pub fn cgroup_root() -> Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").context("reading the mounts")?;
    let root = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (at, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(at))
    });
    let Some(root) = root else {
        bail!("no cgroup v2 hierarchy is mounted");
    };
    Ok(root)
}
