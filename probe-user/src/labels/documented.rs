//! The rules that the handbook and the default configuration show, word by word, on whole playbacks.

use std::collections::HashSet;

use super::access_log;
use super::naming::{HashKey, Naming};
use super::request::{Class, RequestLabel, Stream};
use super::rules::Rules;
use crate::config::Config;

const HANDBOOK: &str = include_str!("../../../docs/labels.md");
const DEFAULTS: &str = include_str!("../../../deploy/weir.toml");

/// The indented lines of the section on rules.
fn of_handbook() -> String {
    let section = HANDBOOK
        .split("## Rules")
        .nth(1)
        .expect("a section on rules");
    let section = section.split("\n## ").next().unwrap_or_default();
    let lines = section.lines().filter_map(|line| line.strip_prefix("    "));
    lines.collect::<Vec<_>>().join("\n")
}

/// The example rule, with the keys that an operator of a live stream fills in.
fn of_defaults() -> String {
    let keys = ["[[rule]]", "match = ", "duration_ms = ", "stream = "];
    let lines = DEFAULTS.lines().filter_map(|line| line.strip_prefix("#: "));
    let lines = lines.filter(|line| keys.iter().any(|key| line.starts_with(key)));
    lines.collect::<Vec<_>>().join("\n")
}

fn naming(rules: &str) -> Naming {
    let config = Config::parse(rules, "example").unwrap();
    assert!(!config.rules.is_empty(), "{rules}");
    Naming {
        rules: Rules::new(&config.rules).unwrap(),
        key: HashKey::random().unwrap(),
        keep_session_ids: false,
    }
}

fn line(naming: &Naming, client: &str, uri: &str) -> RequestLabel {
    let line = format!(
        "<190>Jan  1 00:00:00 weir: {{\"remote_addr\":\"{client}\",\"remote_port\":\"5000\",\
         \"server_port\":\"443\",\"request_uri\":\"{uri}\",\"http_user_agent\":\"Chrome/1\"}}"
    );
    access_log::read(line.as_bytes(), 1, naming).unwrap()
}

/// What three viewers ask for is of three viewers, and only segments play.
fn whole_sessions(rules: &str, uris: &[&str], duration_us: u32, stream: Stream) {
    let naming = naming(rules);
    let mut viewers = HashSet::new();
    for client in ["192.0.2.1", "192.0.2.2", "198.51.100.1"] {
        for uri in uris {
            let label = line(&naming, client, uri);
            let object = label.object;
            assert_eq!(object.stream, stream, "{uri}");
            let plays = object.class == Class::Segment;
            assert_eq!(
                object.duration_us,
                if plays { duration_us } else { 0 },
                "{uri}"
            );
            assert_eq!(object.number.is_some(), plays, "{uri}");
            viewers.insert(label.viewer.unwrap().hash);
        }
    }
    assert_eq!(viewers.len(), 3, "{uris:?}");
}

const LIVE: [&str; 6] = [
    "/live/ch7/index.m3u8",
    "/live/ch7/720p/index.m3u8",
    "/live/ch7/720p/init.mp4",
    "/live/ch7/720p/seg7.m4s",
    "/live/ch7/360p/seg8.m4s?x=1",
    "/live/ch7/seg9.ts",
];

#[test]
fn the_examples_take_a_live_playback_for_one_viewer() {
    for rules in [of_handbook(), of_defaults()] {
        whole_sessions(&rules, &LIVE, 2_000_000, Stream::Live);
    }
}

#[test]
fn a_token_tells_viewers_apart_wherever_it_stands_in_the_query() {
    let naming = naming(&of_handbook());
    let viewer = |uri: &str| line(&naming, "192.0.2.1", uri).viewer.unwrap();
    let (a, b) = ("0123456789abcdef".repeat(2), "f".repeat(32));
    let first = viewer(&format!("/vod/film/index.m3u8?token={a}"));
    let segment = viewer(&format!("/vod/film/720p/seg3.m4s?x=1&token={a}&y=2"));
    assert_eq!(first.by, super::request::KeyBy::Token);
    assert_eq!(first, segment);
    assert_ne!(first, viewer(&format!("/vod/film/index.m3u8?token={b}")));
    let uris = [
        "/vod/film/index.m3u8",
        "/vod/film/v0/init.mp4",
        "/vod/film/v0/seg1.m4s",
    ];
    whole_sessions(&of_handbook(), &uris, 4_000_000, Stream::Vod);
}

#[test]
fn what_is_asked_for_by_head_is_no_media() {
    let naming = naming(&of_handbook());
    for (method, class) in [
        ("GET", Class::Segment),
        ("HEAD", Class::Other),
        ("OPTIONS", Class::Other),
    ] {
        let line = format!(
            "{{\"remote_addr\":\"192.0.2.1\",\"remote_port\":\"5000\",\"server_port\":\"443\",\
             \"request_method\":\"{method}\",\"request_uri\":\"/live/ch7/720p/seg7.m4s\"}}"
        );
        let object = access_log::read(line.as_bytes(), 1, &naming)
            .unwrap()
            .object;
        assert_eq!(object.class, class, "{method}");
        assert_eq!(object.duration_us > 0, class == Class::Segment);
    }
}
