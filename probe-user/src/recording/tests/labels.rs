//! Labels are read as they were written.

use std::net::{IpAddr, SocketAddr};

use proptest::option::of;

use super::*;
use crate::labels::cmcd::{Cmcd, Format, ObjectType, PlayState, StreamType};
use crate::labels::family::{Agent, Family};
use crate::labels::network::database_name;
use crate::labels::request::{
    ByteRange, Cache, Class, KeyBy, Media, Object, RequestLabel, SessionRef, ShortText, Source,
    Stream, ViewerKey,
};

fn one_of<T: Copy + std::fmt::Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = T> {
    proptest::sample::select(all)
}

fn session() -> impl Strategy<Value = SessionRef> {
    let v4 = any::<[u8; 4]>().prop_map(IpAddr::from);
    let v6 = any::<[u8; 16]>().prop_map(|ip| IpAddr::from(ip).to_canonical());
    let ends = (prop_oneof![v4, v6], any::<u16>(), any::<u16>());
    prop_oneof![
        any::<u64>().prop_map(SessionRef::Cookie),
        ends.prop_map(|(ip, port, local_port)| SessionRef::Ends {
            remote: SocketAddr::new(ip, port),
            local_port
        }),
    ]
}

fn object() -> impl Strategy<Value = Object> {
    let classes = one_of(&[
        Class::Unknown,
        Class::Manifest,
        Class::Init,
        Class::Segment,
        Class::Part,
        Class::Key,
        Class::Other,
    ]);
    let media = one_of(&[Media::Unknown, Media::Muxed, Media::Audio, Media::Video]);
    let streams = one_of(&[Stream::Unknown, Stream::Vod, Stream::Live]);
    let numbers = any::<(u32, u64, u32, Option<u64>, u64)>();
    (classes, media, streams, numbers).prop_map(
        |(class, media, stream, (duration_us, bitrate_bps, rung, number, content))| Object {
            class,
            media,
            duration_us,
            bitrate_bps,
            rung,
            stream,
            number,
            content,
        },
    )
}

fn viewer() -> impl Strategy<Value = Option<ViewerKey>> {
    let by = one_of(&[KeyBy::Sid, KeyBy::Token, KeyBy::Heuristic]);
    let name = of("[!-~é]{1,50}");
    of(
        (any::<u64>(), by, name).prop_map(|(hash, by, name)| ViewerKey {
            hash,
            by,
            name: name.as_deref().map(ShortText::of),
        }),
    )
}

fn cmcd() -> impl Strategy<Value = Option<Cmcd>> {
    let ot = one_of(&[
        ObjectType::Manifest,
        ObjectType::Audio,
        ObjectType::Video,
        ObjectType::Muxed,
        ObjectType::Init,
        ObjectType::Text,
        ObjectType::Key,
        ObjectType::Other,
    ]);
    let sf = one_of(&[Format::Hls, Format::Dash, Format::Smooth, Format::Other]);
    let st = one_of(&[StreamType::Vod, StreamType::Live, StreamType::LowLatency]);
    let sta = one_of(&[
        PlayState::Starting,
        PlayState::Playing,
        PlayState::Seeking,
        PlayState::Rebuffering,
        PlayState::Paused,
        PlayState::Waiting,
        PlayState::Ended,
        PlayState::Fatal,
        PlayState::Quit,
        PlayState::Preloading,
    ]);
    let words = proptest::array::uniform16(any::<Option<u32>>());
    let rest = any::<(u8, [bool; 4], Option<u16>, [Option<u64>; 3])>();

    let cmcd = (of(ot), of(sf), of(st), of(sta), words, rest).prop_map(
        |(ot, sf, st, sta, n, (version, yes, pr_x100, wide))| Cmcd {
            version,
            bl_ms: n[0],
            bl_audio_ms: n[1],
            bl_video_ms: n[2],
            bs: yes[0],
            bsa: n[3],
            bsd_ms: n[4],
            bsda_ms: n[5],
            su: yes[1],
            bg: yes[2],
            dl_ms: n[6],
            mtp_kbps: n[7],
            br_kbps: n[8],
            tb_kbps: n[9],
            d_ms: n[10],
            ot,
            sf,
            st,
            pr_x100,
            rtp_kbps: n[11],
            sta,
            sn: wide[0],
            msd_ms: n[12],
            ltc_ms: n[13],
            tbl_ms: n[14],
            pt_ms: wide[1],
            dfa: n[15],
            ts_unix_ms: wide[2],
            ec: yes[3],
        },
    );
    of(cmcd)
}

fn family() -> impl Strategy<Value = Family> {
    let agents = one_of(&[
        Agent::Unknown,
        Agent::Chrome,
        Agent::AvPlayer,
        Agent::ExoPlayer,
        Agent::WebOs,
        Agent::Tool,
    ]);
    let formats = one_of(&[Format::Unknown, Format::Hls, Format::Dash]);
    (agents, formats).prop_map(|(agent, format)| Family { agent, format })
}

/// Anything that a label can say.
pub(super) fn label() -> impl Strategy<Value = RequestLabel> {
    let caches = one_of(&[
        Cache::Unknown,
        Cache::Hit,
        Cache::Stale,
        Cache::Miss,
        Cache::Bypass,
    ]);
    let sources = one_of(&[Source::AccessLog, Source::Tag]);
    let range = of(any::<(u64, u64)>().prop_map(|(first, last)| ByteRange { first, last }));
    let numbers = any::<([u64; 4], u32, u16, u32, [bool; 3])>();
    (
        (sources, session(), caches, range, numbers),
        (object(), viewer(), family(), cmcd()),
    )
        .prop_map(
            |((source, session, cache, range, numbers), (object, viewer, family, cmcd))| {
                let (
                    [heard, begin, end, sent],
                    request_number,
                    status,
                    upstream_us,
                    [h2, h3, complete],
                ) = numbers;
                RequestLabel {
                    source,
                    session,
                    t_heard_ns: heard,
                    begin_unix_ns: begin,
                    end_unix_ns: end,
                    request_number,
                    is_http2: h2,
                    is_http3: h3,
                    status,
                    sent_bytes: sent,
                    is_complete: complete,
                    upstream_us,
                    cache,
                    range,
                    object,
                    viewer,
                    family,
                    cmcd,
                }
            },
        )
}

/// What a database can say of a client's network.
pub(super) fn client_network() -> impl Strategy<Value = Said<'static>> {
    (any::<[u8; 4]>(), 0_u8..=32, "[a-z ]{0,70}").prop_map(|(ip, len, name)| Said::ClientNetwork {
        prefix: ipnet::Ipv4Net::new(ip.into(), len).unwrap().into(),
        name: database_name(&name).unwrap_or_else(|| "x".into()),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_label_is_read_as_it_was_written(label in label()) {
        let mut bytes = Vec::new();
        entry::append(&mut bytes, &Said::Label(&label));
        let mut read = Vec::new();
        entry::read(&bytes, |said| {
            let Said::Label(label) = said else { panic!("{said:?}") };
            read.push(*label);
        }).unwrap();
        prop_assert_eq!(read, [label]);
    }

    #[test]
    fn bytes_that_are_no_label_are_an_error_or_a_label(
        body in proptest::collection::vec(any::<u8>(), 0..80),
        label in label(),
        cut in any::<u16>(),
    ) {
        let mut whole = Vec::new();
        entry::append(&mut whole, &Said::Label(&label));
        let written = &whole[8..];
        let mut mixed = written[..usize::from(cut) % (written.len() + 1)].to_vec();
        mixed.extend_from_slice(&body);
        for body in [&body, &mixed] {
            let mut entry = vec![12, 0, 0, 0];
            entry.extend_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes());
            entry.extend_from_slice(body);
            let mut n = 0;
            let read = entry::read(&entry, |_| n += 1);
            prop_assert_eq!(read.is_ok(), n == 1);
        }
    }
}
