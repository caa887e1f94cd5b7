//! A label as a message and back: what is kept of one in a recording.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use weir_proto::v1;

use crate::labels::cmcd::{Cmcd, Format, ObjectType, PlayState, StreamType};
use crate::labels::family::{Agent, Family};
use crate::labels::request::{
    ByteRange, Cache, Class, KeyBy, Media, NO_UPSTREAM, Object, RequestLabel, SessionRef,
    ShortText, Source, Stream, ViewerKey,
};

/// Enums of both sides. What ours has no `absent` value for is an option; a value that only a newer
/// weir knows is read as absent.
macro_rules! same {
    ($($to:ident, $of:ident: $ours:ident, $theirs:ident { $($name:ident = $message:ident),* $(,)? })*) => {$(
        fn $to(ours: $ours) -> i32 {
            match ours {
                $($ours::$name => v1::$theirs::$message.into(),)*
            }
        }

        fn $of(theirs: v1::$theirs) -> Option<$ours> {
            #[allow(unreachable_patterns, reason = "some of ours have a value for what is unspecified")]
            match theirs {
                $(v1::$theirs::$message => Some($ours::$name),)*
                v1::$theirs::Unspecified => None,
            }
        }
    )*};
}

same! {
    source_to, source_of: Source, LabelSource { AccessLog = AccessLog, Tag = Tag }
    cache_to, cache_of: Cache, CacheStatus {
        Unknown = Unspecified, Hit = Hit, Stale = Stale, Miss = Miss, Bypass = Bypass,
    }
    class_to, class_of: Class, ObjectClass {
        Unknown = Unspecified, Manifest = Manifest, Init = Init, Segment = Segment, Part = Part,
        Key = Key, Other = Other,
    }
    media_to, media_of: Media, MediaType {
        Unknown = Unspecified, Muxed = Muxed, Audio = Audio, Video = Video,
    }
    stream_to, stream_of: Stream, StreamType { Unknown = Unspecified, Vod = Vod, Live = Live }
    key_by_to, key_by_of: KeyBy, ViewerKeyBy { Sid = Sid, Token = Token, Heuristic = Heuristic }
    format_to, format_of: Format, StreamingFormat {
        Unknown = Unspecified, Hls = Hls, Dash = Dash, Smooth = Smooth, Other = Other,
    }
    agent_to, agent_of: Agent, PlayerAgent {
        Unknown = Unspecified, Chrome = Chrome, Edge = Edge, Firefox = Firefox, Safari = Safari,
        AvPlayer = Avplayer, ExoPlayer = Exoplayer, Roku = Roku, Tizen = Tizen, WebOs = Webos,
        Cast = Cast, FireTv = Firetv, Kodi = Kodi, Vlc = Vlc, Ffmpeg = Ffmpeg,
        Gstreamer = Gstreamer, Tool = Tool,
    }
    object_type_to, object_type_of: ObjectType, CmcdObjectType {
        Manifest = Manifest, Audio = Audio, Video = Video, Muxed = Muxed, Init = Init, Text = Text,
        Key = Key, Other = Other,
    }
    stream_type_to, stream_type_of: StreamType, CmcdStreamType {
        Vod = Vod, Live = Live, LowLatency = LowLatency,
    }
    play_state_to, play_state_of: PlayState, PlayState {
        Starting = Starting, Playing = Playing, Seeking = Seeking, Rebuffering = Rebuffering,
        Paused = Paused, Waiting = Waiting, Ended = Ended, Fatal = Fatal, Quit = Quit,
        Preloading = Preloading,
    }
}

/// A label, ready to be written.
pub fn message(label: &RequestLabel) -> v1::RecordedLabel {
    let Object {
        class,
        media,
        duration_us,
        bitrate_bps,
        rung,
        stream,
        number,
        content,
    } = label.object;
    let mut message = v1::RecordedLabel {
        source: source_to(label.source),
        heard_monotonic_ns: label.t_heard_ns,
        begin_unix_ns: label.begin_unix_ns,
        end_unix_ns: label.end_unix_ns,
        request_number: label.request_number,
        is_http2: label.is_http2,
        is_http3: label.is_http3,
        status: label.status.into(),
        sent_bytes: label.sent_bytes,
        is_complete: label.is_complete,
        upstream_us: Some(label.upstream_us).filter(|us| *us != NO_UPSTREAM),
        cache: cache_to(label.cache),
        range_first_byte: label.range.map(|range| range.first),
        range_last_byte: label
            .range
            .map(|range| range.last)
            .filter(|last| *last != u64::MAX),
        class: class_to(class),
        media: media_to(media),
        duration_us,
        bitrate_bps,
        rung,
        stream: stream_to(stream),
        number,
        content,
        agent: agent_to(label.family.agent),
        format: format_to(label.family.format),
        cmcd: label.cmcd.as_ref().map(cmcd_message),
        ..v1::RecordedLabel::default()
    };
    match label.session {
        SessionRef::Cookie(cookie) => message.session = cookie,
        SessionRef::Ends { remote, local_port } => {
            let address = match remote.ip() {
                IpAddr::V4(address) => address.to_ipv6_mapped(),
                IpAddr::V6(address) => address,
            };
            message.remote_address = address.octets().to_vec().into();
            message.remote_port = remote.port().into();
            message.local_port = local_port.into();
        }
    }
    if let Some(viewer) = &label.viewer {
        message.viewer_by = key_by_to(viewer.by);
        message.viewer = viewer.hash;
        message.viewer_name = viewer.name.map_or(String::new(), |name| name.to_string());
    }
    message
}

/// The label that was written; none: none was.
pub fn of_message(message: &v1::RecordedLabel) -> Option<RequestLabel> {
    let viewer = key_by_of(message.viewer_by()).map(|by| ViewerKey {
        hash: message.viewer,
        by,
        name: (!message.viewer_name.is_empty()).then(|| ShortText::of(&message.viewer_name)),
    });
    Some(RequestLabel {
        source: source_of(message.source())?,
        session: session_of(message)?,
        t_heard_ns: message.heard_monotonic_ns,
        begin_unix_ns: message.begin_unix_ns,
        end_unix_ns: message.end_unix_ns,
        request_number: message.request_number,
        is_http2: message.is_http2,
        is_http3: message.is_http3,
        status: message.status.try_into().ok()?,
        sent_bytes: message.sent_bytes,
        is_complete: message.is_complete,
        upstream_us: message.upstream_us.unwrap_or(NO_UPSTREAM),
        cache: cache_of(message.cache()).unwrap_or_default(),
        range: message.range_first_byte.map(|first| ByteRange {
            first,
            last: message.range_last_byte.unwrap_or(u64::MAX),
        }),
        object: Object {
            class: class_of(message.class()).unwrap_or_default(),
            media: media_of(message.media()).unwrap_or_default(),
            duration_us: message.duration_us,
            bitrate_bps: message.bitrate_bps,
            rung: message.rung,
            stream: stream_of(message.stream()).unwrap_or_default(),
            number: message.number,
            content: message.content,
        },
        viewer,
        family: Family {
            agent: agent_of(message.agent()).unwrap_or_default(),
            format: format_of(message.format()).unwrap_or_default(),
        },
        cmcd: match &message.cmcd {
            Some(cmcd) => Some(cmcd_of(cmcd)?),
            None => None,
        },
    })
}

fn session_of(message: &v1::RecordedLabel) -> Option<SessionRef> {
    if message.remote_address.is_empty() {
        return Some(SessionRef::Cookie(message.session));
    }
    let address: [u8; 16] = message.remote_address.as_ref().try_into().ok()?;
    let port = message.remote_port.try_into().ok()?;
    Some(SessionRef::Ends {
        remote: SocketAddr::new(Ipv6Addr::from(address).to_canonical(), port),
        local_port: message.local_port.try_into().ok()?,
    })
}

fn cmcd_message(cmcd: &Cmcd) -> v1::RecordedCmcd {
    v1::RecordedCmcd {
        version: cmcd.version.into(),
        bl_ms: cmcd.bl_ms,
        bl_audio_ms: cmcd.bl_audio_ms,
        bl_video_ms: cmcd.bl_video_ms,
        bs: cmcd.bs,
        bsa: cmcd.bsa,
        bsd_ms: cmcd.bsd_ms,
        bsda_ms: cmcd.bsda_ms,
        su: cmcd.su,
        bg: cmcd.bg,
        dl_ms: cmcd.dl_ms,
        mtp_kbps: cmcd.mtp_kbps,
        br_kbps: cmcd.br_kbps,
        tb_kbps: cmcd.tb_kbps,
        d_ms: cmcd.d_ms,
        ot: cmcd.ot.map_or(0, object_type_to),
        sf: cmcd.sf.map_or(0, format_to),
        st: cmcd.st.map_or(0, stream_type_to),
        pr_x100: cmcd.pr_x100.map(u32::from),
        rtp_kbps: cmcd.rtp_kbps,
        sta: cmcd.sta.map_or(0, play_state_to),
        sn: cmcd.sn,
        msd_ms: cmcd.msd_ms,
        ltc_ms: cmcd.ltc_ms,
        tbl_ms: cmcd.tbl_ms,
        pt_ms: cmcd.pt_ms,
        dfa: cmcd.dfa,
        ts_unix_ms: cmcd.ts_unix_ms,
        ec: cmcd.ec,
    }
}

fn cmcd_of(message: &v1::RecordedCmcd) -> Option<Cmcd> {
    Some(Cmcd {
        version: message.version.try_into().ok()?,
        bl_ms: message.bl_ms,
        bl_audio_ms: message.bl_audio_ms,
        bl_video_ms: message.bl_video_ms,
        bs: message.bs,
        bsa: message.bsa,
        bsd_ms: message.bsd_ms,
        bsda_ms: message.bsda_ms,
        su: message.su,
        bg: message.bg,
        dl_ms: message.dl_ms,
        mtp_kbps: message.mtp_kbps,
        br_kbps: message.br_kbps,
        tb_kbps: message.tb_kbps,
        d_ms: message.d_ms,
        ot: object_type_of(message.ot()),
        // It is not said that nothing is said.
        sf: format_of(message.sf()).filter(|format| *format != Format::Unknown),
        st: stream_type_of(message.st()),
        pr_x100: match message.pr_x100 {
            Some(rate) => Some(rate.try_into().ok()?),
            None => None,
        },
        rtp_kbps: message.rtp_kbps,
        sta: play_state_of(message.sta()),
        sn: message.sn,
        msd_ms: message.msd_ms,
        ltc_ms: message.ltc_ms,
        tbl_ms: message.tbl_ms,
        pt_ms: message.pt_ms,
        dfa: message.dfa,
        ts_unix_ms: message.ts_unix_ms,
        ec: message.ec,
    })
}
