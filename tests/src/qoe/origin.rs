//! The lab's origin: it makes live playlists of a programme that exists, and fails as it is told
//! to, for one viewer at a time. nginx asks it on the viewers' behalf.
//!
//! `GET /VIEWER/vod/FILE` and `GET /VIEWER/live/BEGAN/FILE`, where BEGAN is when the stream began,
//! in Unix milliseconds.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::ladder::{Container, PARTS};
use super::live::{self, Playlist};
use super::parts;
use crate::lab::netns::Netns;

/// How the origin treats a viewer from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Well.
    #[default]
    None,
    /// It thinks before each answer.
    Think {
        /// For so long.
        ms: u32,
    },
    /// It stops in the middle of each segment, as a stalled disk does.
    Pause {
        /// For so long.
        ms: u32,
    },
    /// It answers all requests with this status.
    Status {
        /// 4xx or 5xx.
        code: u16,
    },
    /// Live segments appear late, as from a slow encoder.
    Late {
        /// By so much.
        ms: u32,
    },
}

/// The longest that a reload waits for a part.
const LONGEST_WAIT: Duration = Duration::from_secs(6);
/// Written before a [`Fault::Pause`]: more than the client needs to begin parsing, less than any
/// video segment.
const BEFORE_PAUSE_BYTES: usize = 20_000;

type Faults = Arc<Mutex<HashMap<String, Fault>>>;
type Open = Arc<Mutex<Vec<TcpStream>>>;

/// A running origin; dropping it ends its connections.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    faults: Faults,
    stopping: Arc<AtomicBool>,
    open: Open,
    accept: Option<JoinHandle<Result<()>>>,
    netns: Netns,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Origin {
    /// Listens on the namespace's loopback at `port` and serves the programme in `root`.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(netns: &Netns, port: u16, root: &Path) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let faults = Faults::default();
        let stopping = Arc::new(AtomicBool::new(false));
        let open = Open::default();
        let listener = netns.run(move || {
            TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))
        })?;
        let accept = {
            let (faults, stopping, open) = (
                Arc::clone(&faults),
                Arc::clone(&stopping),
                Arc::clone(&open),
            );
            let root = root.to_owned();
            netns.spawn("lab-origin", move || {
                for stream in listener.incoming() {
                    if stopping.load(Ordering::SeqCst) {
                        break;
                    }
                    let stream = stream.context("cannot accept")?;
                    lock(&open).push(stream.try_clone()?);
                    let (faults, root) = (Arc::clone(&faults), root.clone());
                    // It ends with its connection, which the drop shuts.
                    std::thread::spawn(move || {
                        let _ = serve(stream, &root, &faults);
                    });
                }
                Ok(())
            })?
        };
        Ok(Self {
            address,
            faults,
            stopping,
            open,
            accept: Some(accept),
            netns: netns.try_clone()?,
        })
    }

    /// Treats `viewer` so from its next request on.
    pub fn set(&self, viewer: &str, fault: Fault) {
        lock(&self.faults).insert(viewer.to_owned(), fault);
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        for stream in lock(&self.open).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let address = self.address;
        // Wakes the accepting thread.
        let _ = self.netns.run(move || Ok(TcpStream::connect(address)?));
        if let Some(accept) = self.accept.take() {
            let _ = accept.join();
        }
    }
}

fn serve(mut stream: TcpStream, root: &Path, faults: &Faults) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
                break;
            }
        }
        let target = request.split_whitespace().nth(1).unwrap_or_default();
        answer(&mut stream, target, root, faults)?;
    }
}

fn answer(stream: &mut TcpStream, target: &str, root: &Path, faults: &Faults) -> Result<()> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let viewer = path.split('/').nth(1).unwrap_or_default();
    let fault = lock(faults).get(viewer).copied().unwrap_or_default();
    let (mut status, mut late) = (200, Duration::ZERO);
    match fault {
        Fault::Think { ms } => std::thread::sleep(Duration::from_millis(ms.into())),
        Fault::Status { code } => status = code,
        Fault::Late { ms } => late = Duration::from_millis(ms.into()),
        Fault::None | Fault::Pause { .. } => {}
    }
    let body = if status == 200 {
        find(path, query, root, late).unwrap_or_default()
    } else {
        Vec::new()
    };
    if status == 200 && body.is_empty() {
        status = 404;
    }
    let head = format!(
        "HTTP/1.1 {status} Lab\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-cache\r\n\r\n",
        content_type(path),
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    let mut rest = body.as_slice();
    if let Fault::Pause { ms } = fault
        && extension(path) == "m4s"
        && rest.len() > BEFORE_PAUSE_BYTES
    {
        let (before, after) = rest.split_at(BEFORE_PAUSE_BYTES);
        stream.write_all(before)?;
        std::thread::sleep(Duration::from_millis(ms.into()));
        rest = after;
    }
    stream.write_all(rest)?;
    Ok(())
}

fn extension(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or_default()
}

fn content_type(path: &str) -> &'static str {
    match extension(path) {
        "m3u8" => "application/vnd.apple.mpegurl",
        "mpd" => "application/dash+xml",
        _ => "video/mp4",
    }
}

/// What stands at `path` now, or once it has what `query` wants to wait for; `None` if nothing does,
/// or not yet.
fn find(path: &str, query: &str, root: &Path, late: Duration) -> Option<Vec<u8>> {
    let mut parts = path.split('/').skip(2);
    let began = match parts.next()? {
        "vod" => None,
        "live" => Some(UNIX_EPOCH + Duration::from_millis(parts.next()?.parse().ok()?)),
        _ => return None,
    };
    let (container, file) = (parts.next()?, parts.next()?);
    if container.starts_with('.') || file.starts_with('.') || parts.next().is_some() {
        return None;
    }
    let on_disk: PathBuf = root.join(container).join(file);
    let Some(began) = began else {
        return std::fs::read(on_disk).ok();
    };
    let now = SystemTime::now();
    let mut age = now.duration_since(began).ok()?.saturating_sub(late);
    if file.starts_with("media_") {
        let whole = std::fs::read_to_string(on_disk).ok()?;
        let playlist = Playlist::parse(&whole).ok()?;
        if container != Container::Parts.directory() {
            return Some(playlist.window(began, age).into_bytes());
        }
        if let Some(wanted) = parts::age_wanted(query) {
            let wait = wanted.saturating_sub(age).min(LONGEST_WAIT);
            std::thread::sleep(wait);
            age += wait;
        }
        return Some(playlist.window_of_parts(began, age).into_bytes());
    }
    if extension(file) == "mpd" {
        let whole = std::fs::read_to_string(on_disk).ok()?;
        return Some(live::manifest(&whole, began, now).ok()?.into_bytes());
    }
    // ffmpeg counts from 1 in what it packs as DASH.
    let first = usize::from(container != Container::Muxed.directory());
    if let Some((segment, part)) = parts::segment_of(file) {
        let before = live::number(&segment, first)?.checked_sub(1)?;
        if before * PARTS as usize + part >= parts::parts_at(age) {
            return None;
        }
        let whole = std::fs::read(on_disk.with_file_name(segment)).ok()?;
        return parts::cut(&whole, part).map(<[u8]>::to_vec);
    }
    if live::number(file, first).is_some_and(|number| number > live::segments_at(age)) {
        return None;
    }
    std::fs::read(on_disk).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_segment_is_there_when_it_is_complete_and_not_before() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("cmaf")).expect("a directory");
        for name in ["seg-0-0001.m4s", "seg-0-0002.m4s"] {
            std::fs::write(dir.path().join("cmaf").join(name), b"media").expect("a file");
        }
        let began = SystemTime::now() - Duration::from_millis(2_500);
        let began = began
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_millis();
        let path = |n| format!("/viewer/live/{began}/cmaf/seg-0-000{n}.m4s");
        assert!(find(&path(1), "", dir.path(), Duration::ZERO).is_some());
        assert!(find(&path(2), "", dir.path(), Duration::ZERO).is_none());
        assert!(find(&path(1), "", dir.path(), Duration::from_secs(1)).is_none());
        assert!(
            find(
                "/viewer/vod/cmaf/seg-0-0002.m4s",
                "",
                dir.path(),
                Duration::ZERO
            )
            .is_some()
        );
    }

    #[test]
    fn no_path_leads_out_of_the_programme() {
        let root = Path::new("/proc/self");
        for path in [
            "/v/vod/../status",
            "/v/vod/fd/../status",
            "/v/vod",
            "/",
            "",
            "/v/live/x/a/b",
        ] {
            assert!(find(path, "", root, Duration::ZERO).is_none(), "{path}");
        }
    }
}
