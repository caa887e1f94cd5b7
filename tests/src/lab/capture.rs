//! The capture: tcpdump on the server's side of the link. A capture that lost a packet is no
//! witness, so that is an error.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use super::link::Lab;
use super::process::{Process, wait_for};
use super::relay::DEVICE;

/// tcpdump hands the kernel's ring over block by block; a block that is not full waits so long.
const BLOCK_TIMEOUT: Duration = Duration::from_millis(1200);

/// How much of each packet is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Headers: enough for sequence numbers.
    Headers,
    /// All of it: a dissector that deciphers TLS needs whole records.
    Everything,
}

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    path: PathBuf,
}

impl Capture {
    /// Captures TCP on the server's side of the lab's link from now on.
    ///
    /// # Errors
    /// tcpdump does not start.
    pub fn start(lab: &Lab, keep: Keep) -> Result<Self> {
        let path = lab.dir().join("server.pcap");
        let snaplen = match keep {
            Keep::Headers => "128",
            Keep::Everything => "0",
        };
        let mut command = Command::new("tcpdump");
        command
            .args(["-i", DEVICE, "-n", "-Z", "root", "-s", snaplen])
            // 64 MiB of ring.
            .args(["-B", "65536", "--time-stamp-precision=nano", "-w"])
            .arg(&path)
            .arg("tcp");
        let mut process =
            Process::spawn(command, Some(&lab.server), &lab.dir().join("tcpdump.log"))?;
        wait_for("tcpdump to listen", Duration::from_secs(10), || {
            if process.try_wait()?.is_some() {
                bail!("tcpdump ended at once:\n{}", process.log_tail());
            }
            Ok(process.log().contains("listening on"))
        })?;
        Ok(Self { process, path })
    }

    /// Ends the capture; returns its file.
    ///
    /// # Errors
    /// The kernel dropped packets, or tcpdump did not end well.
    pub fn finish(mut self) -> Result<PathBuf> {
        std::thread::sleep(BLOCK_TIMEOUT);
        self.process.stop(Signal::SIGINT)?;
        let log = self.process.log();
        let dropped = count(&log, "packets dropped by kernel")
            .with_context(|| format!("tcpdump did not say what it dropped:\n{log}"))?;
        if dropped > 0 {
            bail!("tcpdump dropped {dropped} packets: the capture is no witness");
        }
        Ok(self.path)
    }

    /// The file that is being written.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The number before `what` in tcpdump's closing words.
fn count(log: &str, what: &str) -> Option<u64> {
    log.lines()
        .find_map(|line| line.strip_suffix(what)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcpdumps_closing_words_are_understood() {
        let log =
            "10 packets captured\n12 packets received by filter\n3 packets dropped by kernel\n";
        assert_eq!(count(log, "packets dropped by kernel"), Some(3));
        assert_eq!(count("", "packets dropped by kernel"), None);
    }
}
