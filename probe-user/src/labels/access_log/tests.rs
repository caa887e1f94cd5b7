use proptest::prelude::*;

use super::super::fuzz_cases;
use super::super::naming::HashKey;
use super::super::request::{Class, KeyBy};
use super::super::rules::Rules;
use super::*;

fn naming() -> Naming {
    Naming {
        rules: Rules::new(&[]).unwrap(),
        key: HashKey::random().unwrap(),
        keep_session_ids: true,
    }
}

/// As nginx 1.22 sends it.
const LINE: &str = concat!(
    r#"<190>Nov 22 22:01:33 weir: {"remote_addr":"10.77.0.2","remote_port":"40000","#,
    r#""server_port":"8443","connection":"17","connection_requests":"3","msec":"1764111693.412","#,
    r#""request_time":"0.324","upstream_response_time":"0.012, 0.003 : 0.100","#,
    r#""upstream_cache_status":"HIT","bytes_sent":"850123","status":"200","#,
    r#""request_completion":"OK","http2":"","server_protocol":"HTTP/1.1","#,
    r#""request_uri":"/vod/v2/seg007.m4s?CMCD=x","#,
    r#""http_user_agent":"Mozilla/5.0 Chrome/126.0.0.0 Safari/537.36","http_range":"","#,
    r#""http_cmcd_object":"br=3128,d=2002,ot=av","http_cmcd_request":"bl=8200","#,
    r#""http_cmcd_session":"sf=h,sid=\"abc\",st=v","http_cmcd_status":"bs","arg_CMCD":""}"#,
);

fn one(line: &str) -> RequestLabel {
    read(line.as_bytes(), 5, &naming()).unwrap()
}

#[test]
fn a_line_is_a_label() {
    let label = one(LINE);
    let remote = "10.77.0.2:40000".parse().unwrap();
    assert_eq!(
        label.session,
        SessionRef::Ends {
            remote,
            local_port: 8443
        }
    );
    assert_eq!(label.t_heard_ns, 5);
    assert_eq!(label.end_unix_ns, 1_764_111_693_412_000_000);
    assert_eq!(label.begin_unix_ns, 1_764_111_693_088_000_000);
    assert_eq!((label.request_number, label.status), (3, 200));
    assert_eq!(label.sent_bytes, 850_123);
    assert!(label.is_complete && !label.is_http2 && !label.is_http3);
    assert_eq!(label.upstream_us, 115_000);
    assert_eq!(label.cache, Cache::Hit);
    assert_eq!(label.range, None);
    assert_eq!(label.object.class, Class::Segment);
    assert_eq!(label.object.duration_us, 2_002_000);
    assert_eq!(label.object.number, Some(7));
    let viewer = label.viewer.unwrap();
    assert_eq!(
        (viewer.by, viewer.name.unwrap().as_str()),
        (KeyBy::Sid, "abc")
    );
    assert_eq!(label.family.to_string(), "chrome/hls");
    assert!(label.cmcd.unwrap().bs);
}

#[test]
fn only_the_session_must_be_named() {
    let label = one(r#"{"remote_addr":"::ffff:192.0.2.1","remote_port":1,"server_port":443}"#);
    let remote = "192.0.2.1:1".parse().unwrap();
    assert_eq!(
        label.session,
        SessionRef::Ends {
            remote,
            local_port: 443
        }
    );
    assert_eq!((label.begin_unix_ns, label.end_unix_ns), (0, 0));
    assert_eq!(label.upstream_us, NO_UPSTREAM);
    assert_eq!(label.object.class, Class::Unknown);
    assert!(!label.is_complete && label.cmcd.is_none());
    for line in [
        r#"{"remote_addr":"192.0.2.1","remote_port":"1"}"#,
        r#"{"remote_addr":"unix:","remote_port":"","server_port":"80"}"#,
        r#"{"remote_addr":"192.0.2.1","remote_port":"70000","server_port":"80"}"#,
        "{}",
    ] {
        assert_eq!(
            read(line.as_bytes(), 0, &naming()),
            Err(Malformed::NoSession),
            "{line}"
        );
    }
}

#[test]
fn what_is_no_line_is_refused() {
    let long_head = "x".repeat(MOST_HEAD_BYTES) + "{}";
    for line in [
        "",
        "<190>",
        "{",
        "{}{}",
        "[]",
        r#"{"status":[1]}"#,
        r#"{"status":-1}"#,
        &long_head,
    ] {
        assert_eq!(
            read(line.as_bytes(), 0, &naming()),
            Err(Malformed::NotJson),
            "{line}"
        );
    }
}

#[test]
fn numbers_may_stand_bare_and_unknown_names_are_skipped() {
    let label = one(
        r#"x: {"remote_addr":"192.0.2.1","remote_port":9,"server_port":80,"msec":1764111693.412,
            "request_time":0.1,"status":304,"more":{"a":[1,{"b":null}]},"http2":null}
"#,
    );
    assert_eq!(label.end_unix_ns, 1_764_111_693_412_000_000);
    assert_eq!(label.begin_unix_ns, 1_764_111_693_312_000_000);
    assert_eq!(label.status, 304);
}

#[test]
fn behind_a_proxy_the_session_is_the_proxys_and_the_client_is_the_viewer() {
    let with = |client: &str| {
        one(&format!(
            r#"{{"remote_addr":"{client}","remote_port":"5","realip_remote_addr":"10.0.0.1",
                "realip_remote_port":"777","server_port":"80","request_uri":"/a/seg1.ts"}}"#
        ))
    };
    let label = with("203.0.113.5");
    let remote = "10.0.0.1:777".parse().unwrap();
    assert_eq!(
        label.session,
        SessionRef::Ends {
            remote,
            local_port: 80
        }
    );
    assert_eq!(label.viewer.unwrap().by, KeyBy::Heuristic);
}

#[test]
fn each_protocol_is_known() {
    let with = |rest: &str| {
        one(&format!(
            r#"{{"remote_addr":"192.0.2.1","remote_port":"9","server_port":"80",{rest}}}"#
        ))
    };
    assert!(with(r#""http2":"h2""#).is_http2);
    assert!(with(r#""server_protocol":"HTTP/2.0""#).is_http2);
    assert!(with(r#""server_protocol":"HTTP/3.0""#).is_http3);
    let both = with(r#""server_protocol":"HTTP/1.1","http2":"-""#);
    assert!(!both.is_http2 && !both.is_http3);
}

#[test]
fn cmcd_is_read_from_the_query_too() {
    let label = one(
        r#"{"remote_addr":"192.0.2.1","remote_port":"9","server_port":"80",
            "request_uri":"/a/seg1.ts","arg_CMCD":"bl%3D1200%2Csid%3D%22x%20y%22%2Cd%3D4000"}"#,
    );
    assert_eq!(label.cmcd.unwrap().bl_ms, Some(1200));
    assert_eq!(label.object.duration_us, 4_000_000);
    assert_eq!(label.viewer.unwrap().name.unwrap().as_str(), "x?y");
}

#[test]
fn times_and_ranges_are_read_or_left() {
    assert_eq!(seconds_ns("0.000"), Some(0));
    assert_eq!(seconds_ns("12"), Some(12 * S));
    assert_eq!(seconds_ns("1.0000000019"), Some(S + 1));
    for bad in ["", ".5", "-1", "1e3", "1.x", "99999999999999999999"] {
        assert_eq!(seconds_ns(bad), None, "{bad}");
    }
    let range = |first, last| Some(ByteRange { first, last });
    assert_eq!(byte_range("bytes=0-1023"), range(0, 1023));
    assert_eq!(byte_range("bytes=7-"), range(7, u64::MAX));
    for bad in [
        "bytes=-500",
        "bytes=9-5",
        "bytes=0-1,5-6",
        "0-5",
        "bytes=a-b",
    ] {
        assert_eq!(byte_range(bad), None, "{bad}");
    }
}

#[test]
fn bytes_that_are_no_text_cost_only_themselves() {
    let mut line = br#"{"remote_addr":"192.0.2.1","remote_port":"9","server_port":"80","#.to_vec();
    line.extend_from_slice(b"\"http_user_agent\":\"Chrome/1 \xff\xfe\",\"status\":\"200\"}");
    let label = read(&line, 0, &naming()).unwrap();
    assert_eq!(label.status, 200);
    assert_eq!(label.family.to_string(), "chrome/-");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(fuzz_cases()))]

    #[test]
    fn any_bytes_are_a_label_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&bytes, 0, &naming());
    }

    #[test]
    fn a_changed_line_is_a_label_or_refused(
        changes in proptest::collection::vec((any::<u16>(), any::<u8>(), any::<bool>()), 1..10),
    ) {
        let mut line = LINE.as_bytes().to_vec();
        for (at, byte, insert) in changes {
            let at = usize::from(at) % line.len();
            if insert {
                line.insert(at, byte);
            } else {
                line[at] = byte;
            }
        }
        if let Ok(label) = read(&line, 0, &naming()) {
            prop_assert!(label.begin_unix_ns <= label.end_unix_ns || label.end_unix_ns == 0);
        }
    }

    #[test]
    fn any_values_are_read_within_bounds(values in proptest::collection::vec(".{0,40}", 8)) {
        let line = serde_json::json!({
            "remote_addr": "192.0.2.1", "remote_port": "1", "server_port": "80",
            "msec": values[0], "request_time": values[1], "upstream_response_time": values[2],
            "request_uri": values[3], "http_user_agent": values[4], "http_range": values[5],
            "arg_CMCD": values[6], "http_cmcd_object": values[7],
        });
        let label = one(&line.to_string());
        prop_assert!(label.begin_unix_ns <= label.end_unix_ns);
    }
}
