//! Two hosts that serve the same programme, as players on this machine see them: an nginx each. The
//! first is weir's own; it has the playlists, which name both, and the locations that weir ships.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use weir_tests::lab::nginx::preamble;
use weir_tests::lab::process::{Process, wait_for};
use weir_tests::qoe::players;
use weir_tests::qoe::scenario::Player;

use super::PATIENCE;

const SHIPPED: &str = include_str!("../../../deploy/weir-steering-nginx.conf");
/// The pathways, as the shipped file has them.
pub(crate) const HERE: &str = "edge-a";
pub(crate) const THERE: &str = "edge-b";
/// The second host, by an address at which it has the first one's port.
pub(crate) const COPY: &str = "127.0.0.2";
/// Renditions that players may choose from, of those that the programme has: several decode at once.
const RENDITIONS: usize = 2;
/// Ways for a server to answer that players take differently, while [`Edges::fail`] says so.
pub(crate) const FAILURES: [&str; 5] = ["503", "404", "410", "429", "version"];

/// A line of an access log.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) at_unix_s: f64,
    pub(crate) status: u16,
    pub(crate) uri: String,
}

#[derive(Debug)]
pub(crate) struct Edges {
    dir: tempfile::TempDir,
    here: u16,
    there: u16,
    page: u16,
    /// Where weir's gate is expected.
    pub(crate) gate: u16,
    _nginx: [Process; 2],
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

impl Edges {
    /// Starts both; players are told to ask again after `ttl_s` when weir does not answer.
    pub(crate) fn start(programme: &Path, ttl_s: u32) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let [here, there, page, gate] = [free_port()?, free_port()?, free_port()?, free_port()?];
        let shipped = SHIPPED
            .replace("127.0.0.1:9780", &format!("127.0.0.1:{gate}"))
            .replace("\"TTL\":10", &format!("\"TTL\":{ttl_s}"));
        ensure!(
            shipped.contains(&format!("127.0.0.1:{gate}")),
            "another port is shipped"
        );
        ensure!(
            shipped.contains(&format!("\"TTL\":{ttl_s},")),
            "another TTL is shipped"
        );
        let players = players::directory();
        let page_server = format!(
            "server {{ listen 127.0.0.1:{page}; access_log off; root {players}; \
             location /modules/ {{ alias {players}/node_modules/; }} }}",
            players = players.display()
        );
        let path = dir.path();
        let failing = failing(path, gate);
        let nginx = [
            nginx(
                path,
                "here",
                here,
                programme,
                &format!("{shipped}\n{failing}"),
                &page_server,
            )?,
            // A copy of a pathway has another host, and its port.
            nginx(
                path,
                "there",
                there,
                programme,
                &format!("listen {COPY}:{here};"),
                "",
            )?,
        ];
        Ok(Self {
            dir,
            here,
            there,
            page,
            gate,
            _nginx: nginx,
        })
    }

    /// A directory of theirs.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The players' page.
    pub(crate) fn page(&self) -> String {
        format!("http://127.0.0.1:{}/player.html", self.page)
    }

    /// Where players ask through the locations that weir ships.
    pub(crate) fn steering(&self) -> String {
        format!("http://127.0.0.1:{}/weir-steering", self.here)
    }

    /// Where they ask a server that fails as [`FAILURES`] has it, while it does.
    pub(crate) fn failing(&self, how: &str) -> String {
        format!("http://127.0.0.1:{}/failing/{how}", self.here)
    }

    /// Whether those fail.
    pub(crate) fn fail(&self, fails: bool) -> Result<()> {
        let flag = self.dir().join("fails");
        if fails {
            std::fs::write(flag, "")?;
        } else {
            std::fs::remove_file(flag)?;
        }
        Ok(())
    }

    /// Makes the playlist of a viewer, whose player asks at `steering` and is told of these pathways;
    /// returns its URL.
    pub(crate) fn playlist(
        &self,
        programme: &Path,
        viewer: &str,
        player: Player,
        pathways: &[&str],
        steering: &str,
    ) -> Result<String> {
        // So that the log says who asked.
        let steering = format!("{steering}?viewer={viewer}");
        let base =
            |port: u16, container: &str| format!("http://127.0.0.1:{port}/s/{viewer}/{container}/");
        let bases = |container| {
            let all = [(HERE, self.here), (THERE, self.there)].into_iter();
            let told = all.filter(|(pathway, _)| pathways.contains(pathway));
            told.map(|(pathway, port)| (pathway, base(port, container)))
                .collect::<Vec<_>>()
        };
        let (name, text) = match player {
            Player::Hls => {
                let master = std::fs::read_to_string(programme.join("muxed/master.m3u8"))?;
                ("master.m3u8", hls(&master, &bases("muxed"), &steering)?)
            }
            Player::Dash => {
                let mpd = std::fs::read_to_string(programme.join("cmaf/manifest.mpd"))?;
                ("manifest.mpd", dash(&mpd, &bases("cmaf"), &steering)?)
            }
        };
        let dir = self.dir().join("playlists").join(viewer);
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join(name), text)?;
        Ok(format!("http://127.0.0.1:{}/p/{viewer}/{name}", self.here))
    }

    fn served(&self, log: &str) -> Result<Vec<Served>> {
        let text = std::fs::read_to_string(self.dir().join(log))?;
        text.lines().map(line).collect()
    }

    /// The media segments that a viewer has fetched, [here, there].
    pub(crate) fn segments(&self, viewer: &str) -> Result<[Vec<Served>; 2]> {
        let of = |log| -> Result<Vec<Served>> {
            let mut served = self.served(log)?;
            let directory = format!("/s/{viewer}/");
            let is_segment = |uri: &str| Path::new(uri).extension().is_some_and(|own| own == "m4s");
            served.retain(|one| {
                one.status == 200 && one.uri.starts_with(&directory) && is_segment(&one.uri)
            });
            Ok(served)
        };
        Ok([of("here.log")?, of("there.log")?])
    }

    /// When and how a viewer was answered who asked where to fetch from.
    pub(crate) fn asked(&self, viewer: &str) -> Result<Vec<Served>> {
        let mut served = self.served("here.log")?;
        let param = format!("viewer={viewer}");
        let is_his = |one: &Served| {
            let (path, query) = one.uri.split_once('?').unwrap_or_default();
            !path.starts_with("/p/") && query.split('&').any(|own| own == param)
        };
        served.retain(is_his);
        Ok(served)
    }
}

fn line(line: &str) -> Result<Served> {
    let mut words = line.splitn(3, ' ');
    let mut word = || {
        words
            .next()
            .with_context(|| format!("no line of the log: {line}"))
    };
    Ok(Served {
        at_unix_s: word()?.parse()?,
        status: word()?.parse()?,
        uri: word()?.to_owned(),
    })
}

fn nginx(
    dir: &Path,
    name: &str,
    port: u16,
    programme: &Path,
    locations: &str,
    servers: &str,
) -> Result<Process> {
    let home = dir.join(name);
    std::fs::create_dir_all(&home)?;
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {}/{what};\n", home.display()))
        .concat();
    let config = format!(
        "{preamble}http {{\n{temporary}\
         log_format served '$msec $status $request_uri';\n\
         access_log {dir}/{name}.log served;\n\
         types {{ text/html html; text/javascript js mjs; application/vnd.apple.mpegurl m3u8; \
         application/dash+xml mpd; video/mp4 m4s mp4; }}\n\
         server {{\n listen 127.0.0.1:{port};\n {locations}\n\
         location /p/ {{ add_header Access-Control-Allow-Origin *; alias {dir}/playlists/; }}\n\
         location ~ ^/s/[^/]+/(.*)$ {{ add_header Access-Control-Allow-Origin *; \
         alias {programme}/$1; }}\n}}\n{servers}\n}}\n",
        preamble = preamble(&home),
        dir = dir.display(),
        programme = programme.display(),
    );
    let path = home.join("nginx.conf");
    std::fs::write(&path, config)?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(&home).arg("-c").arg(&path);
    command.arg("-e").arg(home.join("error.log"));
    let mut process = Process::spawn(command, None, &home.join("nginx.log"))?;
    wait_for("nginx to listen", PATIENCE, || {
        if let Some(status) = process.try_wait()? {
            bail!("nginx ended at once ({status}): {}", process.log_tail());
        }
        Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok())
    })?;
    Ok(process)
}

/// Locations that pass on to weir, but for as long as there is a file.
fn failing(dir: &Path, gate: u16) -> String {
    let mut locations = String::new();
    for how in FAILURES {
        let answer = match how {
            "version" => r#"200 '{"VERSION":2,"TTL":5,"PATHWAY-PRIORITY":["edge-b"]}'"#,
            status => status,
        };
        let _ = writeln!(
            locations,
            "location /failing/{how} {{ default_type application/json; \
             if (-f {}/fails) {{ add_header Access-Control-Allow-Origin * always; return {answer}; }} \
             proxy_pass http://127.0.0.1:{gate}; }}",
            dir.display()
        );
    }
    locations
}

/// The playlist with each variant once for each pathway.
fn hls(master: &str, bases: &[(&str, String)], steering: &str) -> Result<String> {
    let mut text = format!(
        "#EXTM3U\n#EXT-X-VERSION:7\n\
         #EXT-X-CONTENT-STEERING:SERVER-URI=\"{steering}\",PATHWAY-ID=\"{HERE}\"\n"
    );
    let mut lines = master.lines();
    let mut variants = Vec::new();
    while let Some(line) = lines.next() {
        if line.starts_with("#EXT-X-STREAM-INF:") {
            variants.push((line, lines.next().context("a variant without a URI")?));
        }
    }
    // ffmpeg has the highest first.
    let lowest = variants.len().saturating_sub(RENDITIONS);
    ensure!(variants.len() >= RENDITIONS, "{} variants", variants.len());
    for (pathway, base) in bases {
        for (information, uri) in &variants[lowest..] {
            let _ = writeln!(text, "{information},PATHWAY-ID=\"{pathway}\"\n{base}{uri}");
        }
    }
    Ok(text)
}

/// The description with a base for each pathway.
fn dash(mpd: &str, bases: &[(&str, String)], steering: &str) -> Result<String> {
    let mut head = String::new();
    for (pathway, base) in bases {
        let _ = writeln!(
            head,
            "<BaseURL serviceLocation=\"{pathway}\">{base}</BaseURL>"
        );
    }
    let _ = writeln!(
        head,
        "<ContentSteering defaultServiceLocation=\"{HERE}\" queryBeforeStart=\"true\">{steering}\
         </ContentSteering>"
    );
    let period = mpd
        .find("<Period")
        .context("a description without a period")?;
    let (before, after) = mpd.split_at(period);
    Ok(format!("{before}{head}{after}"))
}

/// The programme, made once.
pub(crate) fn programme() -> Result<PathBuf> {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(kept)?;
    weir_tests::qoe::ladder::make(kept)
}
