//! Datagrams become labels, whatever else comes; and who floods the sockets harms nobody else.

use std::os::unix::net::UnixDatagram;
use std::path::Path;

use weir_tag::{Session, Tag};

use super::super::request::SessionRef;
use super::*;
use crate::config::{Labels, Rule};

fn labels(directory: &Path) -> Labels {
    Labels {
        access_log_socket: Some(directory.join("log.sock")),
        tag_socket: Some(directory.join("tag.sock")),
        ..Labels::default()
    }
}

fn line(port: u16, uri: &str) -> Vec<u8> {
    let json = format!(
        r#"<190>Nov 22 22:01:33 weir: {{"remote_addr":"192.0.2.1","remote_port":"{port}","server_port":"80","request_uri":"{uri}"}}"#
    );
    json.into_bytes()
}

fn writer(path: &Path) -> UnixDatagram {
    let socket = UnixDatagram::unbound().unwrap();
    socket.connect(path).unwrap();
    socket
}

/// Waits until all that was heard is accounted for.
async fn until(heard: &Heard, total: u64) -> LabelCounts {
    loop {
        let counts = heard.counts();
        if counts.heard_log + counts.heard_tag >= total {
            return counts;
        }
        tokio::task::yield_now().await;
    }
}

async fn take(heard: &Heard, n: usize) -> Vec<RequestLabel> {
    let mut taken = Vec::new();
    while taken.len() < n {
        heard.ready().await;
        heard.take(3, &mut taken);
    }
    taken
}

#[tokio::test]
async fn both_sockets_are_heard_and_a_reload_changes_the_rules() {
    let directory = tempfile::tempdir().unwrap();
    let config = labels(directory.path());
    let inlet = Inlet::start(&config, &[]).unwrap().unwrap();
    let heard = inlet.heard();
    let log = writer(config.access_log_socket.as_deref().unwrap());
    for port in 1..=5 {
        log.send(&line(port, "/a/seg7.ts")).unwrap();
    }
    let client = weir_tag::Client::connect(config.tag_socket.as_deref().unwrap()).unwrap();
    client.send(&Tag::new(Session::Cookie(77))).unwrap();
    let taken = take(&heard, 6).await;
    let tags = taken.iter().filter(|label| label.source == Source::Tag);
    assert_eq!(
        tags.map(|label| label.session).collect::<Vec<_>>(),
        [SessionRef::Cookie(77)]
    );
    assert!(taken.iter().all(|label| label.t_heard_ns > 0));

    let rule = Rule {
        matches: "seg".to_owned(),
        duration_ms: Some(2000),
        ..Rule::default()
    };
    inlet.reload(&config, &[rule]).unwrap();
    log.send(&line(9, "/a/seg7.ts")).unwrap();
    assert_eq!(take(&heard, 1).await[0].object.duration_us, 2_000_000);

    log.send(b"not json").unwrap();
    log.send(&vec![b'x'; MOST_BYTES + 7]).unwrap();
    log.send(b"").unwrap();
    let counts = until(&heard, 10).await;
    let want = LabelCounts {
        heard_log: 9,
        heard_tag: 1,
        ..counts
    };
    assert_eq!(counts, want);
    drop(inlet);
    assert_eq!(heard.counts().malformed, 3);
    assert!(!directory.path().join("log.sock").exists());
    assert!(!directory.path().join("tag.sock").exists());
}

#[tokio::test]
async fn without_sockets_there_is_nothing_to_start() {
    assert!(Inlet::start(&Labels::default(), &[]).unwrap().is_none());
}

#[tokio::test]
async fn a_flood_leaves_the_newest_and_a_count_of_the_rest() {
    const SENT: u64 = 1000;
    let directory = tempfile::tempdir().unwrap();
    let config = Labels {
        queue: 64,
        max_per_s: 400,
        ..labels(directory.path())
    };
    let inlet = Inlet::start(&config, &[]).unwrap().unwrap();
    let heard = inlet.heard();
    let path = config.access_log_socket.clone().unwrap();
    // A socket that is full makes its writer wait.
    let flood = std::thread::spawn(move || {
        let log = writer(&path);
        for n in 0..SENT {
            let port = u16::try_from(n + 1).unwrap();
            log.send(&line(port, "/a/seg7.ts")).unwrap();
        }
    });
    let counts = until(&heard, SENT).await;
    flood.join().unwrap();
    drop(inlet);
    let mut taken = Vec::new();
    heard.take(usize::MAX, &mut taken);
    assert!(taken.len() <= 64);
    let counts = LabelCounts {
        dropped: heard.counts().dropped,
        ..counts
    };
    assert_eq!(counts.malformed, 0);
    assert_eq!(counts.heard_log, counts.dropped + taken.len() as u64);
    assert!(counts.dropped >= SENT - 64);
}
