//! From CMCD's text to [`Cmcd`]: which key is what, and what is plausible.

use std::borrow::Cow;

use super::list::{Bare, Item, scan};
use super::{Cmcd, Format, ObjectType, PlayState, StreamType};

/// Bytes that are read of one header or query argument.
pub const MOST_BYTES: usize = 4096;

const HOUR_MS: u32 = 3_600_000;
const DAY_MS: u32 = 24 * HOUR_MS;
/// No link, and no player, is faster: 100 Gbit/s.
const MOST_KBPS: u32 = 100_000_000;

/// What a player declares, and whose playback it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declared<'a> {
    /// About its playback.
    pub cmcd: Cmcd,
    /// Session id, as it stands in the quotes.
    pub sid: Option<&'a [u8]>,
    /// Content id, likewise.
    pub cid: Option<&'a [u8]>,
}

/// Reads what stands in one query argument (after [`percent_decoded`]), or in some of the four
/// headers. None: there is no key of CMCD in it.
pub fn read<'a>(lists: impl IntoIterator<Item = &'a [u8]>) -> Option<Declared<'a>> {
    let mut reading = Reading::default();
    for list in lists {
        let list = list.get(..MOST_BYTES).unwrap_or(list);
        scan(list, |key, item| reading.take(key, item));
    }
    reading.finish()
}

/// A query argument without its percent signs; what only looks like an escape stays as it is.
pub fn percent_decoded(text: &str) -> Cow<'_, [u8]> {
    let text = text.as_bytes();
    let text = text.get(..3 * MOST_BYTES).unwrap_or(text);
    if !text.contains(&b'%') {
        return Cow::Borrowed(text);
    }
    let digit = |at: usize| char::from(*text.get(at)?).to_digit(16);
    let mut decoded = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        if let (b'%', Some(high), Some(low)) = (byte, digit(at + 1), digit(at + 2)) {
            // Two hexadecimal digits are a byte.
            decoded.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
            at += 3;
        } else {
            decoded.push(*byte);
            at += 1;
        }
    }
    Cow::Owned(decoded)
}

/// Values that can be said for sound and picture apart.
#[derive(Clone, Copy, Debug, Default)]
struct Apart {
    any: Option<u32>,
    audio: Option<u32>,
    video: Option<u32>,
    muxed: Option<u32>,
}

impl Apart {
    fn take(&mut self, of: Option<&[u8]>, value: Option<u32>) {
        let place = match of {
            None => &mut self.any,
            Some(b"a") => &mut self.audio,
            Some(b"v") => &mut self.video,
            Some(b"av") => &mut self.muxed,
            Some(_) => return,
        };
        *place = value.or(*place);
    }

    /// The one for an object of this type; else what `choose` makes of those that are there.
    fn for_type(
        &self,
        ot: Option<ObjectType>,
        choose: impl FnOnce([Option<u32>; 4]) -> Option<u32>,
    ) -> Option<u32> {
        let own = match ot {
            Some(ObjectType::Audio) => self.audio,
            Some(ObjectType::Video) => self.video,
            Some(ObjectType::Muxed) => self.muxed,
            _ => None,
        };
        own.or_else(|| choose([self.any, self.audio, self.video, self.muxed]))
    }

    fn least(&self, ot: Option<ObjectType>) -> Option<u32> {
        self.for_type(ot, |all| all.into_iter().flatten().min())
    }

    fn most(&self, ot: Option<ObjectType>) -> Option<u32> {
        self.for_type(ot, |all| all.into_iter().flatten().max())
    }
}

/// What was read so far.
#[derive(Debug, Default)]
struct Reading<'a> {
    declared: Declared<'a>,
    is_cmcd: bool,
    bl: Apart,
    br: Apart,
    bsa: Apart,
    bsd: Apart,
    bsda: Apart,
    mtp: Apart,
    tb: Apart,
    tbl: Apart,
}

impl<'a> Reading<'a> {
    fn take(&mut self, key: &[u8], item: Item<'a>) {
        let cmcd = &mut self.declared.cmcd;
        let ms = |most| number(item, most);
        let kbps = || number(item, MOST_KBPS);
        let count = || number(item, u32::MAX);
        let yes = || match item.bare {
            Bare::True => true,
            Bare::False => false,
            Bare::Text(_) | Bare::Word(_) => word(item) == b"1",
        };
        match key {
            b"bg" => cmcd.bg = yes(),
            b"bl" => self.bl.take(item.of, ms(DAY_MS)),
            b"br" => self.br.take(item.of, kbps()),
            b"bs" => cmcd.bs = yes(),
            b"bsa" => self.bsa.take(item.of, count()),
            b"bsd" => self.bsd.take(item.of, ms(DAY_MS)),
            b"bsda" => self.bsda.take(item.of, ms(DAY_MS)),
            b"cid" => self.declared.cid = text(item),
            b"d" => cmcd.d_ms = ms(HOUR_MS).filter(|ms| *ms > 0),
            b"dfa" => cmcd.dfa = count(),
            b"dl" => cmcd.dl_ms = ms(DAY_MS),
            b"ec" => cmcd.ec = true,
            b"ltc" => cmcd.ltc_ms = ms(7 * DAY_MS),
            b"msd" => cmcd.msd_ms = ms(HOUR_MS),
            b"mtp" => self.mtp.take(item.of, kbps()),
            b"ot" => cmcd.ot = object_type(word(item)),
            b"pr" => cmcd.pr_x100 = hundredths(word(item)),
            b"pt" => cmcd.pt_ms = wide(item),
            b"rtp" => cmcd.rtp_kbps = kbps(),
            b"sf" => cmcd.sf = format(word(item)),
            b"sid" => self.declared.sid = text(item),
            b"sn" => cmcd.sn = wide(item),
            b"st" => cmcd.st = stream_type(word(item)),
            b"sta" => cmcd.sta = play_state(word(item)),
            b"su" => cmcd.su = yes(),
            b"tb" => self.tb.take(item.of, kbps()),
            b"tbl" => self.tbl.take(item.of, ms(DAY_MS)),
            b"ts" => cmcd.ts_unix_ms = wide(item),
            b"v" => {
                let version = number(item, u8::MAX.into());
                cmcd.version = version.and_then(|v| v.try_into().ok()).unwrap_or(0);
            }
            // Keys that say nothing here, and are CMCD all the same.
            b"nor" | b"nrr" | b"cdn" | b"cs" | b"e" | b"nr" | b"pb" | b"tpb" | b"ab" | b"lb"
            | b"tab" | b"lab" => {}
            _ => return,
        }
        self.is_cmcd = true;
    }

    fn finish(mut self) -> Option<Declared<'a>> {
        if !self.is_cmcd {
            return None;
        }
        let cmcd = &mut self.declared.cmcd;
        let ot = cmcd.ot;
        cmcd.version = cmcd.version.max(1);
        cmcd.bl_ms = self.bl.least(ot);
        cmcd.bl_audio_ms = self.bl.audio;
        cmcd.bl_video_ms = self.bl.video;
        cmcd.br_kbps = self.br.most(ot);
        cmcd.bsa = self.bsa.most(ot);
        cmcd.bsd_ms = self.bsd.most(ot);
        cmcd.bsda_ms = self.bsda.most(ot);
        cmcd.mtp_kbps = self.mtp.most(ot);
        cmcd.tb_kbps = self.tb.most(ot);
        cmcd.tbl_ms = self.tbl.least(ot);
        Some(self.declared)
    }
}

fn word(item: Item<'_>) -> &[u8] {
    match item.bare {
        // Version 1 has its tokens bare, and some players quote them.
        Bare::Word(word) | Bare::Text(word) => word,
        Bare::True | Bare::False => b"",
    }
}

fn text(item: Item<'_>) -> Option<&[u8]> {
    Some(word(item)).filter(|text| !text.is_empty())
}

/// A whole number; of one with a fraction, its whole part. None: it is none, or above `most`.
fn number(item: Item<'_>, most: u32) -> Option<u32> {
    u32::try_from(wide(item)?).ok().filter(|n| *n <= most)
}

fn wide(item: Item<'_>) -> Option<u64> {
    let (whole, _) = parts(word(item))?;
    Some(whole)
}

/// A number before its point, and the two digits behind it.
fn parts(word: &[u8]) -> Option<(u64, u8)> {
    let word = std::str::from_utf8(word).ok()?;
    let (whole, fraction) = word.split_once('.').unwrap_or((word, ""));
    let only_digits = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !only_digits(whole) || !only_digits(fraction) {
        return None;
    }
    let mut digits = fraction.bytes().map(|byte| byte - b'0');
    let hundredths = digits.next().unwrap_or(0) * 10 + digits.next().unwrap_or(0);
    Some((whole.parse().ok()?, hundredths))
}

/// Playback rates beyond 16 are a fast-forward that fetches other objects.
fn hundredths(word: &[u8]) -> Option<u16> {
    let (whole, hundredths) = parts(word)?;
    let rate = whole.checked_mul(100)?.checked_add(hundredths.into())?;
    u16::try_from(rate).ok().filter(|rate| *rate <= 1600)
}

fn object_type(token: &[u8]) -> Option<ObjectType> {
    Some(match token {
        b"m" => ObjectType::Manifest,
        b"a" => ObjectType::Audio,
        b"v" => ObjectType::Video,
        b"av" => ObjectType::Muxed,
        b"i" => ObjectType::Init,
        b"c" | b"tt" => ObjectType::Text,
        b"k" => ObjectType::Key,
        b"o" => ObjectType::Other,
        _ => return None,
    })
}

fn format(token: &[u8]) -> Option<Format> {
    Some(match token {
        b"h" => Format::Hls,
        b"d" => Format::Dash,
        b"s" => Format::Smooth,
        b"e" | b"o" => Format::Other,
        _ => return None,
    })
}

fn stream_type(token: &[u8]) -> Option<StreamType> {
    Some(match token {
        b"v" => StreamType::Vod,
        b"l" => StreamType::Live,
        b"ll" => StreamType::LowLatency,
        _ => return None,
    })
}

fn play_state(token: &[u8]) -> Option<PlayState> {
    Some(match token {
        b"s" => PlayState::Starting,
        b"p" => PlayState::Playing,
        b"k" => PlayState::Seeking,
        b"r" => PlayState::Rebuffering,
        b"a" => PlayState::Paused,
        b"w" => PlayState::Waiting,
        b"e" => PlayState::Ended,
        b"f" => PlayState::Fatal,
        b"q" => PlayState::Quit,
        b"d" => PlayState::Preloading,
        _ => return None,
    })
}
