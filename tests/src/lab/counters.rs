//! What the kernel itself counts: a namespace's `TcpRetransSegs`, and each socket's
//! `total_retrans` at its close, read by bpftrace.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use super::netns::Netns;
use super::process::{Process, wait_for};

/// A namespace's own counts since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpCounts {
    /// Segments sent again, SYN and SYN-ACK included.
    pub retrans_segs: u64,
    /// Of these, SYN and SYN-ACK.
    pub syn_retrans: u64,
}

/// Reads a namespace's counts.
///
/// # Errors
/// The kernel's tables cannot be read or lack a counter.
pub fn tcp_counts(netns: &Netns) -> Result<TcpCounts> {
    Ok(TcpCounts {
        retrans_segs: field(
            &netns.read("/proc/thread-self/net/snmp")?,
            "Tcp:",
            "RetransSegs",
        )?,
        syn_retrans: field(
            &netns.read("/proc/thread-self/net/netstat")?,
            "TcpExt:",
            "TCPSynRetrans",
        )?,
    })
}

/// The tables come in pairs of lines, names above values.
fn field(table: &str, prefix: &str, name: &str) -> Result<u64> {
    let mut lines = table.lines().filter(|line| line.starts_with(prefix));
    let names = lines.next().unwrap_or_default();
    let values = lines.next().unwrap_or_default();
    names
        .split_whitespace()
        .zip(values.split_whitespace())
        .find_map(|(n, value)| (n == name).then(|| value.parse().ok())?)
        .with_context(|| format!("the kernel has no counter {prefix}{name}"))
}

/// Names a socket: its namespace's inode, the server's port, the client's port.
pub type SocketKey = (u32, u16, u16);

/// bpftrace, noting every socket that closes.
#[derive(Debug)]
pub struct SocketWitness {
    process: Process,
}

const PROGRAM: &str = r#"
BEGIN { printf("watching\n"); }
tracepoint:sock:inet_sock_set_state /args->newstate == 7 && args->protocol == 6 && args->oldstate != 10/ {
  $sk = (struct sock *)args->skaddr;
  $tp = (struct tcp_sock *)args->skaddr;
  printf("%u %u %u %u\n", $sk->__sk_common.skc_net.net->ns.inum, args->sport, args->dport, $tp->total_retrans);
}
"#;

/// Starts bpftrace with a program that prints `watching` when it begins; its log is in `dir`.
///
/// # Errors
/// bpftrace is missing or does not attach.
pub fn bpftrace(program: &str, dir: &Path) -> Result<Process> {
    // bpftrace finds tracepoints through tracefs, which a host need not have mounted; a mount
    // namespace of its own leaves the host as it is.
    let script = "test -d /sys/kernel/tracing/events || mount -t tracefs none /sys/kernel/tracing; \
                  exec bpftrace -B line -e \"$0\"";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script, program])
        .env("BPFTRACE_PERF_RB_PAGES", "1024");
    let mut process = Process::spawn(command, None, &dir.join("bpftrace.log"))?;
    wait_for("bpftrace to attach", Duration::from_secs(30), || {
        if process.try_wait()?.is_some() {
            bail!("bpftrace ended at once:\n{}", process.log_tail());
        }
        Ok(process.log().lines().any(|line| line == "watching"))
    })?;
    Ok(process)
}

impl SocketWitness {
    /// Starts watching the whole host.
    ///
    /// # Errors
    /// bpftrace is missing or does not attach.
    pub fn start(dir: &Path) -> Result<Self> {
        let process = bpftrace(PROGRAM, dir)?;
        Ok(Self { process })
    }

    /// Every socket that has closed so far: segments it sent again, SYN-ACKs included.
    ///
    /// # Errors
    /// bpftrace lost events and is no witness any more.
    pub fn closed(&self) -> Result<HashMap<SocketKey, u64>> {
        let log = self.process.log();
        if let Some(line) = log.lines().find(|line| line.starts_with("Lost")) {
            bail!("bpftrace is no witness any more: {line}");
        }
        Ok(log.lines().filter_map(socket).collect())
    }

    /// Ends it.
    ///
    /// # Errors
    /// It does not end.
    pub fn finish(mut self) -> Result<()> {
        self.process.stop(Signal::SIGINT).map(drop)
    }
}

fn socket(line: &str) -> Option<(SocketKey, u64)> {
    let fields: Vec<u64> = line
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    let [netns, local, remote, retransmitted] = fields[..] else {
        return None;
    };
    Some((
        (
            netns.try_into().ok()?,
            local.try_into().ok()?,
            remote.try_into().ok()?,
        ),
        retransmitted,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_paired_lines_are_read_by_name() {
        let table = "Ip: A\nIp: 1\nTcp: RtoMin RetransSegs\nTcp: 200 17\n";
        assert_eq!(field(table, "Tcp:", "RetransSegs").unwrap(), 17);
        assert!(field(table, "Tcp:", "Nothing").is_err());
    }

    #[test]
    fn lines_of_bpftrace_name_sockets() {
        assert_eq!(
            socket("4026532210 8080 45678 3"),
            Some(((4_026_532_210, 8080, 45678), 3))
        );
        assert_eq!(socket("watching"), None);
    }
}
