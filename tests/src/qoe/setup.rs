//! weir's daemon as it is set up for the lab.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::path::CLIENTS;
use super::servers;
use crate::weir::Settings;

/// Silence after which a delivery is over: the lab's paths have round trips of 200 ms at most.
const QUIET_GAP_MS: u32 = 300;

/// Whether this weir knows viewers at all.
pub fn knows_viewers(binary: &Path) -> bool {
    Command::new(binary)
        .args(["viewers", "--help"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Where weir is sent the access log.
pub fn log_socket(dir: &Path) -> PathBuf {
    dir.join("log.sock")
}

/// What the daemon is started with; the log's socket is in `dir`, and `recording` gets all that it is
/// told, so that what it says can be looked into afterwards (`weir replay`).
pub fn settings(dir: &Path, recording: &Path, viewers: bool) -> Settings {
    let mut more = String::new();
    if viewers {
        let _ = write!(
            more,
            "[labels]\naccess_log_socket = {:?}\n{RULES}\n[viewers]\nfrom_kernel = true\n\n[recording]\nfile = {:?}\nmax_files = 2\n",
            log_socket(dir).display().to_string(),
            recording.display().to_string()
        );
    }
    Settings {
        quiet_gap_ms: QUIET_GAP_MS,
        first: "progress_ms = 250".to_owned(),
        ports: servers::ports(),
        prefixes: vec![CLIENTS.to_owned()],
        more,
        ..Settings::default()
    }
}

/// What an operator of this service would write: whose URL it is, and how long segments play. URLs below
/// `/n/` name nobody: of them weir knows the address, the directory and the user agent.
const RULES: &str = r"
[[rule]]
match = '/[os]/(?P<viewer>[^/]+)/vod/ranges/rung-(?P<rung>3)\.mp4'
class = 'segment'
media = 'audio'
duration_ms = 2000
stream = 'vod'

[[rule]]
match = '/[os]/(?P<viewer>[^/]+)/vod/ranges/rung-(?P<rung>\d+)\.mp4'
class = 'segment'
media = 'video'
duration_ms = 2000
stream = 'vod'

[[rule]]
match = '/[os]/(?P<viewer>[^/]+)/live/(?P<content>\d+)/parts/seg-(?P<rung>3)-(?P<number>\d+)\.part\d'
class = 'part'
media = 'audio'
duration_ms = 500
stream = 'live'

[[rule]]
match = '/[os]/(?P<viewer>[^/]+)/live/(?P<content>\d+)/parts/seg-(?P<rung>\d+)-(?P<number>\d+)\.part\d'
class = 'part'
media = 'video'
duration_ms = 500
stream = 'live'

[[rule]]
match = '/[os]/(?P<viewer>[^/]+)/vod/cmaf/seg-(?P<rung>3)-(?P<number>\d+)\.m4s'
class = 'segment'
media = 'audio'
duration_ms = 2000
stream = 'vod'

[[rule]]
match = '/[os]/(?P<viewer>[^/]+)/vod/cmaf/seg-(?P<rung>\d+)-(?P<number>\d+)\.m4s'
class = 'segment'
media = 'video'
duration_ms = 2000
stream = 'vod'

[[rule]]
match = '/[os]/(?P<viewer>[^/]+)/vod/.*/seg-(?P<rung>\d+)-(?P<number>\d+)\.m4s'
class = 'segment'
media = 'muxed'
duration_ms = 2000
stream = 'vod'

[[rule]]
match = '/[os]/(?P<viewer>[^/]+)/live/(?P<content>\d+)/(cmaf|parts)/seg-(?P<rung>3)-(?P<number>\d+)\.m4s'
class = 'segment'
media = 'audio'
duration_ms = 2000
stream = 'live'

[[rule]]
match = '/[os]/(?P<viewer>[^/]+)/live/(?P<content>\d+)/(cmaf|parts)/seg-(?P<rung>\d+)-(?P<number>\d+)\.m4s'
class = 'segment'
media = 'video'
duration_ms = 2000
stream = 'live'

[[rule]]
match = '/[os]/(?P<viewer>[^/]+)/live/(?P<content>\d+)/.*/seg-(?P<rung>\d+)-(?P<number>\d+)\.m4s'
class = 'segment'
media = 'muxed'
duration_ms = 2000
stream = 'live'

[[rule]]
match = '/[os]/(?P<viewer>[^/]+)/live/'
stream = 'live'

[[rule]]
match = '/[os]/(?P<viewer>[^/]+)/'
stream = 'vod'

[[rule]]
match = '^/n/vod/cmaf/seg-(?P<rung>3)-(?P<number>\d+)\.m4s'
class = 'segment'
media = 'audio'
duration_ms = 2000
stream = 'vod'

[[rule]]
match = '^/n/vod/cmaf/seg-(?P<rung>\d+)-(?P<number>\d+)\.m4s'
class = 'segment'
media = 'video'
duration_ms = 2000
stream = 'vod'

[[rule]]
match = '^/n/live/\d+/cmaf/seg-(?P<rung>3)-(?P<number>\d+)\.m4s'
class = 'segment'
media = 'audio'
duration_ms = 2000
stream = 'live'

[[rule]]
match = '^/n/live/\d+/cmaf/seg-(?P<rung>\d+)-(?P<number>\d+)\.m4s'
class = 'segment'
media = 'video'
duration_ms = 2000
stream = 'live'

[[rule]]
match = '^/n/live/'
stream = 'live'
";
