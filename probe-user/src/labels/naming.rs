//! What a request is, of all that is said about it: what the client declares comes before what a
//! rule says, and that before what the URL looks like.

use std::hash::Hasher as _;
use std::net::IpAddr;

use siphasher::sip::SipHasher13;

use super::cmcd::{Cmcd, Declared, Format, ObjectType, StreamType};
use super::family::Family;
use super::request::{Class, KeyBy, Media, Object, ShortText, Stream, ViewerKey};
use super::rules::{Rules, Said};
use super::url;

/// A key that nobody has, for hashes that nobody else can make.
#[derive(Clone, Copy)]
pub struct HashKey([u8; 16]);

impl HashKey {
    /// A new one.
    ///
    /// # Errors
    /// If the kernel has no random bytes.
    pub fn random() -> std::io::Result<Self> {
        let mut key = [0; 16];
        getrandom::fill(&mut key).map_err(|err| std::io::Error::other(err.to_string()))?;
        Ok(Self(key))
    }

    /// The hash of `parts`; where one ends matters.
    pub fn hash(&self, parts: &[&[u8]]) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        for part in parts {
            hasher.write_usize(part.len());
            hasher.write(part);
        }
        hasher.finish()
    }
}

/// Never shows the key.
impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey")
    }
}

/// What requests are named by.
#[derive(Debug)]
pub struct Naming {
    /// What URLs say.
    pub rules: Rules,
    /// Viewers are told apart by hashes with this key.
    pub key: HashKey,
    /// Whether session ids are kept beside them.
    pub keep_session_ids: bool,
}

/// Who asks, as far as the server sees it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asking<'a> {
    /// The client's session id, if somebody other than itself says so.
    pub sid: Option<&'a [u8]>,
    /// Its address.
    pub client: Option<IpAddr>,
    /// What it calls itself.
    pub user_agent: &'a str,
}

/// What a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// What was asked for.
    pub object: Object,
    /// By whom.
    pub viewer: Option<ViewerKey>,
    /// The kind of player.
    pub family: Family,
    /// What it declares.
    pub cmcd: Option<Cmcd>,
}

impl Naming {
    /// Puts together what is `said` of the object, who is `asking`, and what is `declared`.
    pub fn name(
        &self,
        said: &Said<'_>,
        asking: &Asking<'_>,
        declared: Option<&Declared<'_>>,
    ) -> Named {
        let mut object = said.object;
        if let Some(declared) = declared {
            believe(&mut object, declared);
        }
        let cmcd = declared.map(|declared| declared.cmcd);
        let format = cmcd
            .and_then(|cmcd| cmcd.sf)
            .or_else(|| Some(said.format).filter(|format| *format != Format::Unknown))
            .unwrap_or_default();
        let own_id = asking.sid.or_else(|| declared?.sid);
        Named {
            object,
            viewer: self.viewer(own_id, said.viewer, asking, object.content),
            family: Family::of(asking.user_agent, format),
            cmcd,
        }
    }

    fn viewer(
        &self,
        sid: Option<&[u8]>,
        token: Option<&str>,
        asking: &Asking<'_>,
        content: u64,
    ) -> Option<ViewerKey> {
        if let Some(sid) = sid.filter(|sid| !sid.is_empty()) {
            let text = || ShortText::of(&String::from_utf8_lossy(sid));
            return Some(ViewerKey {
                hash: self.key.hash(&[b"sid", sid]),
                by: KeyBy::Sid,
                name: self.keep_session_ids.then(text),
            });
        }
        if let Some(token) = token {
            return Some(ViewerKey {
                hash: self.key.hash(&[b"token", token.as_bytes()]),
                by: KeyBy::Token,
                name: None,
            });
        }
        let client = household(asking.client?);
        let parts: [&[u8]; 4] = [
            b"heuristic",
            &client,
            &content.to_le_bytes(),
            asking.user_agent.as_bytes(),
        ];
        Some(ViewerKey {
            hash: self.key.hash(&parts),
            by: KeyBy::Heuristic,
            name: None,
        })
    }
}

/// What stays of an address while its user moves about at home: all of IPv4's; of IPv6's the /56
/// that a household is given, within which a device changes its own at will (RFC 8981).
fn household(address: IpAddr) -> [u8; 16] {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => {
            let mut octets = address.octets();
            octets[7..].fill(0);
            octets
        }
    }
}

/// What the client declares is so.
fn believe(object: &mut Object, declared: &Declared<'_>) {
    let cmcd = &declared.cmcd;
    match cmcd.ot {
        Some(ObjectType::Manifest) => object.class = Class::Manifest,
        Some(ObjectType::Init) => object.class = Class::Init,
        Some(ObjectType::Key) => object.class = Class::Key,
        Some(ObjectType::Text | ObjectType::Other) => object.class = Class::Other,
        // Of what plays, CMCD does not tell a part from a segment.
        Some(ObjectType::Audio | ObjectType::Video | ObjectType::Muxed)
            if object.class != Class::Part =>
        {
            object.class = Class::Segment;
        }
        Some(_) | None => {}
    }
    if let Some(media) = cmcd.ot.and_then(ObjectType::media) {
        object.media = media;
    }
    let plays = matches!(object.class, Class::Segment | Class::Part | Class::Unknown);
    if plays {
        if let Some(ms) = cmcd.d_ms {
            object.duration_us = ms.saturating_mul(1000);
        }
        if let Some(kbps) = cmcd.br_kbps.filter(|kbps| *kbps > 0) {
            object.bitrate_bps = u64::from(kbps) * 1000;
            if object.rung == 0 {
                object.rung = kbps;
            }
        }
    } else {
        object.duration_us = 0;
        object.bitrate_bps = 0;
        object.rung = 0;
        object.number = None;
    }
    if matches!(object.class, Class::Manifest | Class::Key | Class::Other) {
        object.media = Media::Unknown;
    }
    object.stream = match cmcd.st {
        Some(StreamType::Vod) => Stream::Vod,
        Some(StreamType::Live | StreamType::LowLatency) => Stream::Live,
        None => object.stream,
    };
    if let Some(cid) = declared.cid {
        object.content = url::content_of(cid);
    }
}

#[cfg(test)]
mod tests {
    use super::super::cmcd;
    use super::*;
    use crate::config::Rule;

    fn naming(rules: &[Rule]) -> Naming {
        Naming {
            rules: Rules::new(rules).unwrap(),
            key: HashKey([7; 16]),
            keep_session_ids: false,
        }
    }

    fn name(naming: &Naming, uri: &str, client: &str, cmcd: &str) -> Named {
        let declared = cmcd::read([cmcd.as_bytes()]);
        let asking = Asking {
            client: Some(client.parse().unwrap()),
            user_agent: "Chrome/1",
            ..Asking::default()
        };
        naming.name(&naming.rules.read(uri), &asking, declared.as_ref())
    }

    #[test]
    fn what_the_client_declares_comes_before_the_rule() {
        let naming = naming(&[Rule {
            matches: "/live/".to_owned(),
            duration_ms: Some(4000),
            bitrate_kbps: Some(900),
            media: Some(Media::Muxed),
            stream: Some(Stream::Live),
            ..Rule::default()
        }]);
        let uri = "/live/v0/seg7.m4s";
        let ruled = name(&naming, uri, "192.0.2.1", "").object;
        assert_eq!(ruled.duration_us, 4_000_000);
        assert_eq!(ruled.bitrate_bps, 900_000);
        let declared = "br=510,d=2002,ot=a,sf=h,st=v,cid=\"film\"";
        let Named { object, family, .. } = name(&naming, uri, "192.0.2.1", declared);
        assert_eq!(object.duration_us, 2_002_000);
        assert_eq!(object.bitrate_bps, 510_000);
        assert_eq!(object.media, Media::Audio);
        assert_eq!(object.stream, Stream::Vod);
        assert_eq!((object.number, object.rung), (Some(7), ruled.rung));
        assert_ne!(object.content, ruled.content);
        assert_eq!(family.to_string(), "chrome/hls");
    }

    #[test]
    fn an_object_that_does_not_play_has_no_duration() {
        let naming = naming(&[]);
        let uri = "/vod/v0/seg7.m4s";
        for (ot, class) in [
            ("i", Class::Init),
            ("m", Class::Manifest),
            ("k", Class::Key),
            ("tt", Class::Other),
        ] {
            let declared = format!("d=2000,br=500,ot={ot}");
            let object = name(&naming, uri, "192.0.2.1", &declared).object;
            assert_eq!((object.class, object.duration_us), (class, 0));
            assert_eq!((object.number, object.rung), (None, 0));
        }
        let part = name(&naming, "/ll/seg7.part2.m4s", "192.0.2.1", "d=500,ot=v").object;
        assert_eq!((part.class, part.duration_us), (Class::Part, 500_000));
    }

    #[test]
    fn viewers_are_told_apart_by_the_best_there_is() {
        let naming = naming(&[Rule {
            matches: r"sig=(?P<viewer>\w+)".to_owned(),
            ..Rule::default()
        }]);
        let viewer = |uri, client, cmcd| name(&naming, uri, client, cmcd).viewer.unwrap();
        let sid = viewer("/f/seg1.ts?sig=a", "192.0.2.1", "sid=\"x\"");
        assert_eq!(sid.by, KeyBy::Sid);
        assert_eq!(sid, viewer("/g/seg9.ts", "192.0.2.9", "sid=\"x\""));
        assert_ne!(sid, viewer("/f/seg1.ts", "192.0.2.1", "sid=\"y\""));
        let token = viewer("/f/seg1.ts?sig=x", "192.0.2.1", "");
        assert_eq!(token.by, KeyBy::Token);
        assert_ne!(token.hash, sid.hash);
        let guess = viewer("/f/seg1.ts", "192.0.2.1", "bl=100");
        assert_eq!(guess.by, KeyBy::Heuristic);
        assert_eq!(guess, viewer("/f/v1/seg2.ts", "192.0.2.1", ""));
        assert_ne!(guess, viewer("/g/seg1.ts", "192.0.2.1", ""));
        assert_ne!(guess, viewer("/f/seg1.ts", "192.0.2.2", ""));
    }

    #[test]
    fn a_household_of_ipv6_is_one_and_ipv4_is_itself() {
        let naming = naming(&[]);
        let viewer = |client| name(&naming, "/f/seg1.ts", client, "").viewer.unwrap();
        assert_eq!(viewer("2001:db8:0:aa01::1"), viewer("2001:db8:0:aaff::2"));
        assert_ne!(viewer("2001:db8:0:aa01::1"), viewer("2001:db8:0:ab01::1"));
        assert_eq!(viewer("::ffff:192.0.2.1"), viewer("192.0.2.1"));
    }

    #[test]
    fn a_session_id_is_kept_only_where_that_is_wanted() {
        let mut naming = naming(&[]);
        let viewer =
            |naming: &Naming| name(naming, "/f/seg1.ts", "192.0.2.1", "sid=\"abc\"").viewer;
        assert_eq!(viewer(&naming).unwrap().name, None);
        naming.keep_session_ids = true;
        assert_eq!(viewer(&naming).unwrap().name.unwrap().as_str(), "abc");
    }

    #[test]
    fn where_a_part_ends_is_part_of_its_hash() {
        let key = HashKey([0; 16]);
        assert_ne!(key.hash(&[b"ab", b"c"]), key.hash(&[b"a", b"bc"]));
        assert_ne!(HashKey([1; 16]).hash(&[b"a"]), key.hash(&[b"a"]));
    }
}
