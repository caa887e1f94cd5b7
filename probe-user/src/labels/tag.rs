//! A tag: what a server says of a request before it answers (crate `weir-tag`).

use std::net::IpAddr;

use weir_tag::{Session, Tag, Wrong};

use super::naming::{Asking, Named, Naming};
use super::request::{Class, Media, Object, RequestLabel, SessionRef, Source, Stream};
use super::rules::Said;
use super::url;

/// Reads a datagram.
///
/// # Errors
/// If it is no tag.
pub fn read(datagram: &[u8], t_heard_ns: u64, naming: &Naming) -> Result<RequestLabel, Wrong> {
    let tag = Tag::decode(datagram)?;
    let user_agent = String::from_utf8_lossy(tag.user_agent.unwrap_or_default());
    let (session, client) = session(&tag.session);
    let asking = Asking {
        sid: tag.sid,
        client,
        user_agent: &user_agent,
    };
    let said = Said {
        object: object(&tag),
        ..Said::default()
    };
    let Named {
        object,
        viewer,
        family,
        cmcd,
    } = naming.name(&said, &asking, None);
    Ok(RequestLabel {
        t_heard_ns,
        request_number: tag.request_number,
        object,
        // Without an id of its own nor a name for what is watched, it would be one for all.
        viewer: viewer.filter(|_| tag.sid.is_some() || tag.content.is_some()),
        family,
        cmcd,
        ..RequestLabel::of(Source::Tag, session)
    })
}

fn session(session: &Session) -> (SessionRef, Option<IpAddr>) {
    match *session {
        Session::Cookie(cookie) => (SessionRef::Cookie(cookie), None),
        Session::Ends { remote, local_port } => {
            (SessionRef::Ends { remote, local_port }, Some(remote.ip()))
        }
    }
}

fn object(tag: &Tag<'_>) -> Object {
    let class = match tag.class {
        weir_tag::Class::Unknown => Class::Unknown,
        weir_tag::Class::Manifest => Class::Manifest,
        weir_tag::Class::Init => Class::Init,
        weir_tag::Class::Segment => Class::Segment,
        weir_tag::Class::Part => Class::Part,
        weir_tag::Class::Key => Class::Key,
        weir_tag::Class::Other => Class::Other,
    };
    let plays = matches!(class, Class::Segment | Class::Part | Class::Unknown);
    Object {
        class,
        media: match tag.media {
            weir_tag::Media::Unknown => Media::Unknown,
            weir_tag::Media::Muxed => Media::Muxed,
            weir_tag::Media::Audio => Media::Audio,
            weir_tag::Media::Video => Media::Video,
        },
        duration_us: if plays { tag.duration_us } else { 0 },
        bitrate_bps: if plays { tag.bitrate_bps } else { 0 },
        rung: tag.rung,
        stream: match tag.stream {
            weir_tag::Stream::Unknown => Stream::Unknown,
            weir_tag::Stream::Vod => Stream::Vod,
            weir_tag::Stream::Live => Stream::Live,
        },
        number: tag.number,
        content: tag.content.map_or(0, url::content_of),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::naming::HashKey;
    use super::super::request::KeyBy;
    use super::super::rules::Rules;
    use super::super::{cmcd, fuzz_cases};
    use super::*;

    fn naming() -> Naming {
        Naming {
            rules: Rules::new(&[]).unwrap(),
            key: HashKey::random().unwrap(),
            keep_session_ids: false,
        }
    }

    fn datagram(tag: &Tag<'_>) -> Vec<u8> {
        let mut buffer = [0; weir_tag::MOST_BYTES];
        let len = tag.encode(&mut buffer).unwrap();
        buffer[..len].to_vec()
    }

    fn tag() -> Tag<'static> {
        Tag {
            sid: Some(b"viewer"),
            content: Some(b"film"),
            user_agent: Some(b"Firefox/127"),
            class: weir_tag::Class::Segment,
            media: weir_tag::Media::Video,
            duration_us: 2_000_000,
            bitrate_bps: 3_000_000,
            rung: 2,
            number: Some(41),
            stream: weir_tag::Stream::Live,
            ..Tag::new(Session::Cookie(77))
        }
    }

    #[test]
    fn a_tag_is_a_label() {
        let naming = naming();
        let label = read(&datagram(&tag()), 9, &naming).unwrap();
        assert_eq!(label.session, SessionRef::Cookie(77));
        assert_eq!((label.source, label.t_heard_ns), (Source::Tag, 9));
        let want = Object {
            class: Class::Segment,
            media: Media::Video,
            duration_us: 2_000_000,
            bitrate_bps: 3_000_000,
            rung: 2,
            stream: Stream::Live,
            number: Some(41),
            content: url::content_of(b"film"),
        };
        assert_eq!(label.object, want);
        assert_eq!(label.family.to_string(), "firefox/-");
    }

    #[test]
    fn a_viewer_is_the_same_to_a_tag_and_to_cmcd() {
        let naming = naming();
        let tagged = read(&datagram(&tag()), 9, &naming).unwrap().viewer;
        let declared = cmcd::read([&b"sid=\"viewer\""[..]]);
        let logged = naming.name(&Said::default(), &Asking::default(), declared.as_ref());
        assert_eq!(tagged, logged.viewer);
    }

    #[test]
    fn without_an_id_it_is_a_guess_or_nobody() {
        let naming = naming();
        let ends = Session::Ends {
            remote: "192.0.2.1:5".parse().unwrap(),
            local_port: 80,
        };
        let viewer = |tag: &Tag<'_>| read(&datagram(tag), 0, &naming).unwrap().viewer;
        let guess = Tag {
            content: Some(b"film"),
            ..Tag::new(ends)
        };
        assert_eq!(viewer(&guess).unwrap().by, KeyBy::Heuristic);
        assert_eq!(viewer(&Tag::new(ends)), None);
        assert_eq!(viewer(&Tag::new(Session::Cookie(1))), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(fuzz_cases()))]

        #[test]
        fn any_bytes_are_a_label_or_refused(
            head in proptest::sample::select(vec![vec![], vec![1, 1], vec![1, 2], vec![1, 3]]),
            rest in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let _ = read(&[head, rest].concat(), 0, &naming());
        }

        #[test]
        fn a_changed_tag_is_a_label_or_refused(at in any::<u16>(), byte in any::<u8>(), cut in any::<u16>()) {
            let mut bytes = datagram(&tag());
            let at = usize::from(at) % bytes.len();
            bytes[at] = byte;
            bytes.truncate(usize::from(cut) % (bytes.len() * 2));
            let _ = read(&bytes, 0, &naming());
        }
    }
}
