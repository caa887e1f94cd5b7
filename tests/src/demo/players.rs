//! The audience: ffmpeg players, each at an address of its own, in one of two networks.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::lab::link::Lab;
use crate::lab::process::Process;

/// Where the stream is served.
pub const PORT: u16 = 8080;
/// The networks: name and first three octets.
pub const NETWORKS: [(&str, [u8; 3]); 2] = [("fibre", [10, 78, 1]), ("mobile", [10, 78, 2])];
/// What each player plays: network and variant (0 is the best).
const PLAYERS: [(usize, u8); 6] = [(0, 0), (0, 0), (0, 1), (1, 0), (1, 1), (1, 2)];

/// Running players; they end with the value.
#[derive(Debug)]
pub struct Players {
    running: Vec<Process>,
}

impl Players {
    /// Starts them all.
    ///
    /// # Errors
    /// An address cannot be given or ffmpeg not started.
    pub fn start(lab: &Lab) -> Result<Self> {
        // A player takes a segment as fast as the network gives it. ffmpeg reads at the pace of
        // the picture, so the kernel must be willing to hold a segment for it.
        lab.client
            .sysctl("net/ipv4/tcp_rmem", "4096 4194304 6291456")?;
        let mut running = Vec::new();
        for (n, (network, variant)) in (1..).zip(PLAYERS) {
            let [a, b, c] = NETWORKS[network].1;
            let server = lab.add_path(n, Ipv4Addr::new(a, b, c, n))?;
            let mut command = Command::new("ffmpeg");
            command
                .args([
                    "-nostdin",
                    "-hide_banner",
                    "-loglevel",
                    "warning",
                    "-re",
                    "-i",
                ])
                .arg(format!("http://{server}:{PORT}/master.m3u8"))
                .args([
                    "-map",
                    &format!("0:p:{variant}"),
                    "-c",
                    "copy",
                    "-f",
                    "null",
                    "-",
                ]);
            let log = lab.dir().join(format!("player-{n}.log"));
            running.push(Process::spawn(command, Some(&lab.client), &log)?);
            // One after the other: all at once they would fill the link on a good day, too.
            std::thread::sleep(Duration::from_millis(700));
        }
        Ok(Self { running })
    }

    /// How many are still playing.
    ///
    /// # Errors
    /// A player was lost from sight.
    pub fn playing(&mut self) -> Result<usize> {
        let mut playing = 0;
        for player in &mut self.running {
            playing += usize::from(player.try_wait()?.is_none());
        }
        Ok(playing)
    }

    /// The end of the first log that says anything, for a player that ended early.
    pub fn complaint(&self) -> String {
        self.running
            .iter()
            .map(Process::log_tail)
            .find(|log| !log.is_empty())
            .unwrap_or_default()
    }
}
