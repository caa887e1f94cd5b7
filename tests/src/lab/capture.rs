//! The capture: tcpdump on the server's side of the link. A capture that lost a packet, or was ended
//! before all that the kernel had for it was written, is no witness, so both are errors.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use super::link::Lab;
use super::process::{Process, wait_for};
use super::relay::DEVICE;

/// How long tcpdump may take to write what the kernel's ring holds. A block that is not full waits a
/// second there, and on a busy machine tcpdump then waits for its turn.
const PATIENCE: Duration = Duration::from_secs(30);

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
    /// Packets that the kernel counted and tcpdump did not take: they came before its filter.
    before: u64,
}

/// What tcpdump says it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    captured: u64,
    received: u64,
    dropped: u64,
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
        let mut capture = Self {
            process,
            path,
            before: 0,
        };
        let counts = capture.counts()?;
        capture.before = counts.received.saturating_sub(counts.captured);
        Ok(capture)
    }

    /// Ends the capture; returns its file.
    ///
    /// # Errors
    /// The kernel dropped packets, or tcpdump did not end well.
    pub fn finish(mut self) -> Result<PathBuf> {
        wait_for("tcpdump to write what the ring holds", PATIENCE, || {
            let counts = self.counts()?;
            Ok(counts.captured + self.before >= counts.received)
        })?;
        self.process.stop(Signal::SIGINT)?;
        let log = self.process.log();
        let counts = closing(&log)
            .with_context(|| format!("tcpdump did not say what it captured:\n{log}"))?;
        if counts.dropped > 0 {
            bail!(
                "tcpdump dropped {} packets: the capture is no witness",
                counts.dropped
            );
        }
        Ok(self.path)
    }

    /// Asks tcpdump for its counts as they stand.
    fn counts(&mut self) -> Result<Counts> {
        let told = running(&self.process.log()).count();
        self.process.signal(Signal::SIGUSR1)?;
        let mut counts = None;
        wait_for("tcpdump to tell its counts", PATIENCE, || {
            if self.process.try_wait()?.is_some() {
                bail!("tcpdump ended:\n{}", self.process.log_tail());
            }
            counts = running(&self.process.log()).nth(told);
            Ok(counts.is_some())
        })?;
        counts.context("tcpdump told no counts")
    }

    /// The file that is being written.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The counts in what tcpdump says when asked: a line with all three.
fn running(log: &str) -> impl Iterator<Item = Counts> + '_ {
    log.lines().filter_map(|line| {
        let (_, counts) = line.split_once("tcpdump: ")?;
        let mut parts = counts.split(", ");
        Some(Counts {
            captured: number(parts.next()?, "captured")?,
            received: number(parts.next()?, "received by filter")?,
            dropped: number(parts.next()?, "dropped by kernel")?,
        })
    })
}

/// The counts in tcpdump's closing words: a line each.
fn closing(log: &str) -> Option<Counts> {
    let count = |what| log.lines().find_map(|line| number(line, what));
    Some(Counts {
        captured: count("captured")?,
        received: count("received by filter")?,
        dropped: count("dropped by kernel")?,
    })
}

/// The number in `3 packets captured` or `1 packet captured`.
fn number(text: &str, what: &str) -> Option<u64> {
    let text = text.strip_suffix(what)?.trim_end();
    let number = text
        .strip_suffix(" packets")
        .or(text.strip_suffix(" packet"))?;
    number.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcpdumps_words_are_understood() {
        let log = "tcpdump: listening on lab, link-type RAW (Raw IP), snapshot length 128 bytes\n\
                   tcpdump: 0 packets captured, 1 packet received by filter, 0 packets dropped by kernel\n\
                   tcpdump: 9 packets captured, 12 packets received by filter, 0 packets dropped by kernel\n\
                   10 packets captured\n12 packets received by filter\n3 packets dropped by kernel\n";
        let counts = |captured, received, dropped| Counts {
            captured,
            received,
            dropped,
        };
        assert_eq!(
            running(log).collect::<Vec<_>>(),
            [counts(0, 1, 0), counts(9, 12, 0)]
        );
        assert_eq!(closing(log), Some(counts(10, 12, 3)));
        assert_eq!(closing(""), None);
    }
}
