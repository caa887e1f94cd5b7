//! nginx as the edge of a streaming service: segments from the disk or from the origin, in clear
//! and over TLS, with the access log that weir reads by a socket and the baselines by a file.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::scenario::{Door, Player, Session, Stream, Tier, Transport};
use crate::lab::link::{Lab, SERVER_V4};
use crate::lab::nginx::{self, Nginx};

/// Where the players' page is.
const PAGE_PORT: u16 = 8070;
/// Where the origin listens, on the server's loopback.
pub const ORIGIN_PORT: u16 = 8071;
/// Nobody listens here.
const NOBODY_PORT: u16 = 8099;

/// The ports of sessions that weir is told of by the log, then of those that it is not.
const HEARD: [(Transport, u16); 3] = [
    (Transport::Clear, 8180),
    (Transport::Tls, 8543),
    (Transport::H2, 8544),
];
const UNHEARD: [(Transport, u16); 3] = [
    (Transport::Clear, 8190),
    (Transport::Tls, 8553),
    (Transport::H2, 8554),
];

/// What weir needs to see: the viewers' ports.
pub fn ports() -> Vec<u16> {
    let both = HEARD.iter().chain(&UNHEARD);
    both.map(|(_, port)| *port).collect()
}

/// One line of the access log; docs/labels.md has the same for operators.
const LOG_FORMAT: &str = r#"log_format weir escape=json '{'
    '"remote_addr":"$remote_addr","remote_port":"$remote_port","server_port":"$server_port",'
    '"connection":"$connection","connection_requests":"$connection_requests",'
    '"msec":"$msec","request_time":"$request_time",'
    '"upstream_response_time":"$upstream_response_time",'
    '"upstream_cache_status":"$upstream_cache_status",'
    '"bytes_sent":"$bytes_sent","status":"$status","request_completion":"$request_completion",'
    '"http2":"$http2","server_protocol":"$server_protocol","request_uri":"$request_uri",'
    '"http_user_agent":"$http_user_agent","http_range":"$http_range",'
    '"http_cmcd_object":"$http_cmcd_object","http_cmcd_request":"$http_cmcd_request",'
    '"http_cmcd_session":"$http_cmcd_session","http_cmcd_status":"$http_cmcd_status",'
    '"arg_CMCD":"$arg_CMCD"}';"#;

/// A running edge.
#[derive(Debug)]
pub struct Edge {
    _nginx: Nginx,
    log: PathBuf,
}

impl Edge {
    /// Starts nginx in the lab: the programme in `programme`, the page in `players`; log lines of
    /// sessions that may be heard go to the Unix datagram socket `socket`, if there is one.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(
        lab: &Lab,
        programme: &Path,
        players: &Path,
        socket: Option<&Path>,
    ) -> Result<Self> {
        let dir = lab.dir().join("edge");
        std::fs::create_dir_all(&dir)?;
        nginx::make_certificate(&dir)?;
        let log = dir.join("access.log");
        let config = config(&dir, &log, programme, players, socket);
        Ok(Self {
            _nginx: Nginx::with_config(lab, &dir, &config, PAGE_PORT)?,
            log,
        })
    }

    /// The access log of all sessions.
    pub fn log(&self) -> &Path {
        &self.log
    }
}

/// The players' page. It comes over no viewer's path.
pub fn page() -> String {
    format!("http://{SERVER_V4}:{PAGE_PORT}/player.html")
}

/// What the session's player is given, and what its second one. `began_unix_ms` is when its live
/// stream began.
pub fn urls(session: &Session, server: Ipv4Addr, began_unix_ms: u64) -> [String; 2] {
    [&session.name, &session.companion()].map(|viewer| url(session, viewer, server, began_unix_ms))
}

fn url(session: &Session, viewer: &str, server: Ipv4Addr, began_unix_ms: u64) -> String {
    let listeners = if session.tier == Tier::T0 {
        UNHEARD
    } else {
        HEARD
    };
    let open = listeners
        .iter()
        .find(|(transport, _)| *transport == session.transport)
        .map_or(NOBODY_PORT, |(_, port)| *port);
    let port = if session.door == Door::Refused {
        NOBODY_PORT
    } else {
        open
    };
    let scheme = if session.transport == Transport::Clear {
        "http"
    } else {
        "https"
    };
    let room = match (session.is_named, session.by_origin()) {
        (true, true) => format!("o/{viewer}"),
        (true, false) => format!("s/{viewer}"),
        // The origin fails for whom it knows by name.
        (false, _) => "n".to_owned(),
    };
    let stream = match session.stream {
        Stream::Vod => "vod".to_owned(),
        Stream::Live => format!("live/{began_unix_ms}"),
    };
    let manifest = match session.player {
        Player::Hls => "master.m3u8",
        Player::Dash => "manifest.mpd",
    };
    format!(
        "{scheme}://{server}:{port}/{room}/{stream}/{}/{manifest}",
        session.container.directory()
    )
}

fn config(
    dir: &Path,
    log: &Path,
    programme: &Path,
    players: &Path,
    socket: Option<&Path>,
) -> String {
    let mut config = nginx::preamble(dir);
    let (dir, programme, players) = (dir.display(), programme.display(), players.display());
    let _ = write!(
        config,
        "http {{\n  {LOG_FORMAT}\n  sendfile on;\n  keepalive_timeout 60;\n  \
         types {{ text/html html; text/javascript js mjs; application/vnd.apple.mpegurl m3u8; \
         application/dash+xml mpd; video/mp4 m4s mp4; }}\n  \
         ssl_certificate {dir}/cert.pem;\n  ssl_certificate_key {dir}/key.pem;\n  \
         ssl_protocols TLSv1.2 TLSv1.3;\n  \
         upstream origin {{ server 127.0.0.1:{ORIGIN_PORT}; keepalive 16; }}\n  \
         server {{ listen {PAGE_PORT}; access_log off; root {players}; \
         location /modules/ {{ alias {players}/node_modules/; }} }}\n"
    );
    // Players ask before they send CMCD headers to another origin.
    let headers = "add_header Access-Control-Allow-Origin * always;";
    let body = format!(
        "{headers}\n    add_header Access-Control-Allow-Headers 'CMCD-Object, CMCD-Request, CMCD-Session, CMCD-Status, Range' always;\n    \
         add_header Access-Control-Max-Age 600 always;\n    \
         if ($request_method = OPTIONS) {{ return 204; }}\n    \
         location ~ ^/s/[^/]+/vod/(.*)$ {{ alias {programme}/$1; }}\n    \
         location ~ ^/n/vod/(.*)$ {{ alias {programme}/$1; }}\n    \
         location /n/live/ {{ proxy_pass http://origin/n/live/; proxy_http_version 1.1; \
         proxy_set_header Connection ''; proxy_buffering off; }}\n    \
         location /o/ {{ proxy_pass http://origin/; proxy_http_version 1.1; \
         proxy_set_header Connection ''; proxy_buffering off; }}"
    );
    for (listeners, heard) in [(HEARD, true), (UNHEARD, false)] {
        for (transport, port) in listeners {
            let options = match transport {
                Transport::Clear => "",
                Transport::Tls => " ssl",
                Transport::H2 => " ssl http2",
            };
            let mut logs = format!("access_log {} weir;", log.display());
            if let (Some(socket), true) = (socket, heard) {
                let _ = write!(
                    logs,
                    " access_log syslog:server=unix:{},nohostname,tag=weir,facility=local7 weir;",
                    socket.display()
                );
            }
            let _ = writeln!(
                config,
                "  server {{\n    listen {port}{options};\n    {logs}\n    {body}\n  }}"
            );
        }
    }
    config + "}\n"
}
