//! A real nginx with the configuration that weir ships, and what weir hears of it. Needs nginx, curl
//! and openssl (`cargo xtask setup`), and no privileges.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use nix::sys::socket::{setsockopt, sockopt};
use weir::config::{Labels, Rule};
use weir::labels::cmcd::{Format, ObjectType};
use weir::labels::inlet::{Heard, Inlet};
use weir::labels::request::{
    ByteRange, Cache, Class, KeyBy, NO_UPSTREAM, RequestLabel, SessionRef,
};
use weir_tests::lab::nginx::{make_certificate, preamble};
use weir_tests::lab::process::{Process, wait_for};

const SHIPPED: &str = include_str!("../../deploy/weir-nginx.conf");
const PATIENCE: Duration = Duration::from_secs(30);
const SEGMENT_BYTES: usize = 100_000;
/// More than the buffers of both ends hold.
const LARGE_BYTES: usize = 40_000_000;

struct Served {
    directory: tempfile::TempDir,
    inlet: Option<Inlet>,
    _nginx: Process,
    clear: SocketAddr,
    h2: SocketAddr,
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

fn labels(directory: &Path) -> Labels {
    Labels {
        access_log_socket: Some(directory.join("log.sock")),
        keep_session_ids: true,
        ..Labels::default()
    }
}

fn inlet(directory: &Path) -> Inlet {
    let rule = Rule {
        matches: "^/vod/.*/seg".to_owned(),
        duration_ms: Some(4000),
        ..Rule::default()
    };
    Inlet::start(&labels(directory), &[rule]).unwrap().unwrap()
}

fn config(directory: &Path, clear: u16, h2: u16) -> String {
    let dir = directory.display();
    let shipped = SHIPPED.replace("/run/weir/log.sock", &format!("{dir}/log.sock"));
    assert_ne!(shipped, SHIPPED, "the shipped file names another socket");
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {dir}/{what};\n"))
        .concat();
    format!(
        "{}http {{\n{temporary}{shipped}
          root {dir}/root;
          ssl_certificate {dir}/cert.pem; ssl_certificate_key {dir}/key.pem;
          ssl_protocols TLSv1.2 TLSv1.3;
          proxy_cache_path {dir}/cache keys_zone=cache:1m;
          server {{
            listen 127.0.0.1:{clear};
            listen 127.0.0.1:{h2} ssl http2;
            location /cached/ {{
              proxy_pass http://127.0.0.1:{clear}/vod/;
              proxy_cache cache; proxy_cache_valid 200 1m;
            }}
          }}
        }}\n",
        preamble(directory)
    )
}

fn serve() -> Served {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root/vod/film/v0");
    std::fs::create_dir_all(&root).unwrap();
    std::fs::write(root.join("seg007.m4s"), vec![7; SEGMENT_BYTES]).unwrap();
    std::fs::write(root.join("large.bin"), vec![7; LARGE_BYTES]).unwrap();
    std::fs::write(root.join("../master.m3u8"), "#EXTM3U\n").unwrap();
    make_certificate(directory.path()).unwrap();
    let (clear, h2) = (free_port(), free_port());
    let path = directory.path().join("nginx.conf");
    std::fs::write(&path, config(directory.path(), clear, h2)).unwrap();
    // Before nginx, which does not look for it again at once.
    let inlet = inlet(directory.path());
    let mut command = Command::new("nginx");
    command.arg("-p").arg(directory.path()).arg("-c").arg(&path);
    command.arg("-e").arg(directory.path().join("error.log"));
    let log = directory.path().join("nginx.log");
    let nginx = Process::spawn(command, None, &log).expect("nginx: `cargo xtask setup`");
    let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let served = Served {
        directory,
        inlet: Some(inlet),
        _nginx: nginx,
        clear: loopback(clear),
        h2: loopback(h2),
    };
    // A connection without a request is not logged.
    wait_for("nginx", PATIENCE, || {
        Ok(TcpStream::connect(served.clear).is_ok())
    })
    .unwrap();
    served
}

fn heard(heard: &Heard, n: usize) -> Vec<RequestLabel> {
    let mut labels = Vec::new();
    wait_for("labels", PATIENCE, || {
        heard.take(n, &mut labels);
        Ok(labels.len() >= n)
    })
    .unwrap();
    labels
}

impl Served {
    fn heard(&self, n: usize) -> Vec<RequestLabel> {
        let inlet = self.inlet.as_ref().unwrap();
        let labels = heard(&inlet.heard(), n);
        assert_eq!(inlet.heard().counts().malformed, 0);
        labels
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

fn ask(stream: &mut TcpStream, uri: &str, headers: &str) {
    let request = format!("GET {uri} HTTP/1.1\r\nHost: film.example\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
}

/// Reads one answer; returns its length, head included.
fn answer(stream: &mut TcpStream) -> usize {
    let mut bytes = Vec::new();
    let mut chunk = [0; 16 * 1024];
    loop {
        let n = stream.read(&mut chunk).unwrap();
        assert!(n > 0, "the server closed");
        bytes.extend_from_slice(&chunk[..n]);
        let head = bytes.windows(4).position(|end| end == b"\r\n\r\n");
        let Some(head) = head else { continue };
        let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
        let body = text.split("content-length: ").nth(1).unwrap();
        let body: usize = body.lines().next().unwrap().trim().parse().unwrap();
        if bytes.len() >= head + 4 + body {
            return bytes.len();
        }
    }
}

fn ends(stream: &TcpStream) -> SessionRef {
    SessionRef::Ends {
        remote: stream.local_addr().unwrap(),
        local_port: stream.peer_addr().unwrap().port(),
    }
}

fn unix_ns() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    u64::try_from(since.as_nanos()).unwrap()
}

#[test]
fn requests_of_one_session_are_labelled_one_by_one() {
    let served = serve();
    let mut stream = TcpStream::connect(served.clear).unwrap();
    let session = ends(&stream);
    // nginx's clock is that of its event loop, and has milliseconds.
    let begin_unix_ns = unix_ns() - 1_000_000_000;
    ask(
        &mut stream,
        "/vod/film/master.m3u8",
        "User-Agent: VLC/3.0.20\r\n",
    );
    answer(&mut stream);
    ask(
        &mut stream,
        "/vod/film/v0/seg007.m4s?x=1",
        "User-Agent: x Chrome/126 \u{ff}\"\r\nCMCD-Object: br=3128,d=2002,ot=av\r\n\
         CMCD-Session: sid=\"a \\\"b\",sf=h,st=v\r\nCMCD-Request: bl=8200,su\r\nCMCD-Status: bs\r\n",
    );
    let len = answer(&mut stream);
    ask(
        &mut stream,
        "/vod/film/v0/seg007.m4s?CMCD=bl%3D(1200%3Bv%20900%3Ba)%2Csid%3D%22x%22%2Cv%3D2",
        "Range: bytes=0-999\r\n",
    );
    answer(&mut stream);
    ask(&mut stream, "/vod/film/v0/seg008.m4s", "");
    answer(&mut stream);
    let labels = served.heard(4);
    assert!(
        labels.iter().all(|label| label.session == session),
        "{labels:?}"
    );
    let numbers: Vec<_> = labels.iter().map(|label| label.request_number).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    let statuses: Vec<_> = labels.iter().map(|label| label.status).collect();
    assert_eq!(statuses, [200, 200, 206, 404]);
    for label in &labels {
        assert!(label.is_complete && !label.is_http2 && !label.is_http3);
        assert_eq!(label.upstream_us, NO_UPSTREAM);
        assert!(label.begin_unix_ns >= begin_unix_ns, "{label:?}");
        assert!(label.begin_unix_ns <= label.end_unix_ns && label.end_unix_ns <= unix_ns());
    }

    let [manifest, segment, part, missing] = labels[..] else {
        panic!()
    };
    assert_eq!(manifest.object.class, Class::Manifest);
    assert_eq!(manifest.family.to_string(), "vlc/hls");
    assert_eq!(manifest.viewer.unwrap().by, KeyBy::Heuristic);

    assert_eq!(segment.sent_bytes, len as u64);
    assert_eq!(segment.object.class, Class::Segment);
    assert_eq!(segment.object.duration_us, 2_002_000);
    assert_eq!(segment.object.number, Some(7));
    assert_eq!(segment.object.content, manifest.object.content);
    assert_eq!(segment.family.to_string(), "chrome/hls");
    let viewer = segment.viewer.unwrap();
    assert_eq!(viewer.by, KeyBy::Sid);
    assert_eq!(viewer.name.unwrap().as_str(), "a?\\\"b");
    let cmcd = segment.cmcd.unwrap();
    assert_eq!((cmcd.bl_ms, cmcd.su, cmcd.bs), (Some(8200), true, true));
    assert_eq!(
        (cmcd.ot, cmcd.sf),
        (Some(ObjectType::Muxed), Some(Format::Hls))
    );

    assert_eq!(
        part.range,
        Some(ByteRange {
            first: 0,
            last: 999
        })
    );
    assert_eq!(part.object.duration_us, 4_000_000, "by the rule");
    let cmcd = part.cmcd.unwrap();
    assert_eq!(
        (cmcd.version, cmcd.bl_ms, cmcd.bl_audio_ms),
        (2, Some(900), Some(900))
    );
    assert_eq!(missing.cmcd, None);
}

#[test]
fn streams_of_http2_are_labels_of_one_session() {
    let served = serve();
    let url = |rest: &str| format!("https://{}{rest}", served.h2);
    let out = Command::new("curl")
        .args(["--silent", "--show-error", "--insecure", "--http2"])
        .args(["--output", "/dev/null", "--output", "/dev/null"])
        .args(["--write-out", "%{local_port} %{http_version}\\n"])
        .args([url("/vod/film/v0/seg007.m4s"), url("/nothing.ts")])
        .output()
        .expect("curl: `cargo xtask setup`");
    let said = String::from_utf8(out.stdout).unwrap();
    let ports: Vec<u16> = said
        .lines()
        .map(|line| line.strip_suffix(" 2").expect(&said).parse().unwrap())
        .collect();
    let labels = served.heard(2);
    for (label, port) in labels.iter().zip(&ports) {
        assert!(label.is_http2);
        let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
        let local_port = served.h2.port();
        assert_eq!(label.session, SessionRef::Ends { remote, local_port });
    }
    let numbers: Vec<_> = labels.iter().map(|label| label.request_number).collect();
    assert_eq!((numbers, ports[0]), (vec![1, 2], ports[1]));
    assert_eq!(labels[1].status, 404);
}

#[test]
fn an_answer_that_was_cut_off_is_not_complete() {
    let served = serve();
    let mut stream = TcpStream::connect(served.clear).unwrap();
    setsockopt(&stream, sockopt::RcvBuf, &4096).unwrap();
    let session = ends(&stream);
    ask(&mut stream, "/vod/film/v0/large.bin", "");
    stream.read_exact(&mut [0; 100]).unwrap();
    // Closed with bytes unread: a reset.
    drop(stream);
    let label = served.heard(1)[0];
    assert_eq!((label.session, label.status), (session, 200));
    assert!(!label.is_complete, "{label:?}");
    assert!(label.sent_bytes < LARGE_BYTES as u64);
    assert_eq!(label.object.class, Class::Unknown);
}

#[test]
fn a_cache_and_the_server_behind_it_are_told() {
    let served = serve();
    let mut stream = TcpStream::connect(served.clear).unwrap();
    let session = ends(&stream);
    for _ in 0..2 {
        ask(&mut stream, "/cached/film/v0/seg007.m4s", "");
        answer(&mut stream);
    }
    // One of them is the cache's own request.
    let labels = served.heard(3);
    let ours: Vec<_> = labels
        .iter()
        .filter(|label| label.session == session)
        .collect();
    let caches: Vec<_> = ours.iter().map(|label| label.cache).collect();
    assert_eq!(caches, [Cache::Miss, Cache::Hit]);
    assert_ne!(ours[0].upstream_us, NO_UPSTREAM);
    assert_eq!(ours[1].upstream_us, NO_UPSTREAM);
}

#[test]
fn after_a_restart_of_weir_nginx_is_heard_again() {
    let mut served = serve();
    let mut stream = TcpStream::connect(served.clear).unwrap();
    ask(&mut stream, "/vod/film/master.m3u8", "");
    answer(&mut stream);
    served.heard(1);
    served.inlet = None;
    assert!(!served.path("log.sock").exists());
    ask(&mut stream, "/vod/film/master.m3u8", "");
    answer(&mut stream);
    served.inlet = Some(inlet(served.directory.path()));
    let heard = served.inlet.as_ref().unwrap().heard();
    let mut labels = Vec::new();
    wait_for("a label after the restart", PATIENCE, || {
        ask(&mut stream, "/vod/film/master.m3u8", "");
        answer(&mut stream);
        heard.take(1, &mut labels);
        Ok(!labels.is_empty())
    })
    .unwrap();
    assert!(labels[0].request_number > 2, "{labels:?}");
}

#[test]
fn the_longest_request_that_nginx_takes_is_a_label() {
    let served = serve();
    let mut stream = TcpStream::connect(served.clear).unwrap();
    // Three buffers of 8 KiB; each quote is two bytes in the log.
    let long = "\"".repeat(7_500);
    let uri = format!("/vod/film/v0/seg007.m4s?{}", "x".repeat(7_500));
    let headers = format!("User-Agent: {long}\r\nCMCD-Object: d=2000,ot=v,x={long}\r\n");
    ask(&mut stream, &uri, &headers);
    answer(&mut stream);
    let label = served.heard(1)[0];
    assert_eq!(label.status, 200);
    assert_eq!(label.object.duration_us, 2_000_000);
}
