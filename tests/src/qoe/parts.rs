//! Low latency: segments cut into parts, and the playlist that names each as soon as it is there. Pure;
//! time is an argument.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use super::ladder::{PARTS, SEGMENT_SECONDS};
use super::live::{Playlist, WINDOW, segments_at};

/// Media time of a part.
const PART: Duration = Duration::from_millis(1000 * SEGMENT_SECONDS as u64 / PARTS as u64);
/// Parts a segment.
const EACH: usize = PARTS as usize;
/// So many of the latest whole segments are listed with their parts.
const WITH_PARTS: usize = 2;

/// How many parts are complete `age` after the stream began.
pub fn parts_at(age: Duration) -> usize {
    usize::try_from(age.as_millis() / PART.as_millis()).unwrap_or(usize::MAX)
}

/// How old the stream is when the playlist has what a reload that blocks asks for by `_HLS_msn` and
/// `_HLS_part`; `None`: it does not block.
pub fn age_wanted(query: &str) -> Option<Duration> {
    let find = |name| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name)?.1.parse::<u32>().ok()
    };
    let segments = find("_HLS_msn")?;
    // Without a part the whole segment is meant.
    let parts = find("_HLS_part").map_or(PARTS, |part| part.saturating_add(1));
    Some(PART.saturating_mul(segments.saturating_mul(PARTS).saturating_add(parts)))
}

/// The segment's file and the number in it, from 0, of the part that has this name; `None`: it is no
/// part's.
pub fn segment_of(file: &str) -> Option<(String, usize)> {
    let (stem, part) = file.strip_suffix(".m4s")?.split_once(".part")?;
    Some((format!("{stem}.m4s"), part.parse().ok()?))
}

fn name(segment: &str, part: usize) -> String {
    let stem = segment.strip_suffix(".m4s").unwrap_or(segment);
    format!("{stem}.part{part}.m4s")
}

/// The part of a segment: each ends with the media of a fragment (ISO/IEC 14496-12, `mdat`).
pub fn cut(segment: &[u8], part: usize) -> Option<&[u8]> {
    let mut begin = 0;
    let mut at = 0;
    let mut nth = 0;
    while let Some(head) = segment.get(at..at + 8) {
        let (size, kind) = head.split_at(4);
        let size = u32::from_be_bytes(size.try_into().ok()?);
        at = at.checked_add(usize::try_from(size).ok().filter(|size| *size >= 8)?)?;
        if kind == b"mdat" {
            if nth == part {
                return segment.get(begin..at);
            }
            nth += 1;
            begin = at;
        }
    }
    None
}

impl Playlist {
    /// The sliding window with parts, `age` after the stream began.
    pub fn window_of_parts(&self, began: SystemTime, age: Duration) -> String {
        let there = self.segments.len().min(segments_at(age));
        if there == self.segments.len() {
            return self.window(began, age);
        }
        let first = there.saturating_sub(WINDOW);
        let seconds = PART.as_secs_f64();
        let mut text = self.head_of(first);
        let _ = writeln!(
            text,
            "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK={}\n\
             #EXT-X-PART-INF:PART-TARGET={seconds}",
            3.0 * seconds
        );
        let begun = parts_at(age).saturating_sub(there * EACH);
        for (n, segment) in self.segments[..=there].iter().enumerate().skip(first) {
            let made = Duration::from_secs(SEGMENT_SECONDS.into())
                .saturating_mul(u32::try_from(n).unwrap_or(u32::MAX));
            let made = humantime::format_rfc3339_millis(began + made);
            let _ = writeln!(text, "#EXT-X-PROGRAM-DATE-TIME:{made}");
            let parts = if n == there { begun } else { EACH };
            for part in (0..parts).filter(|_| n + WITH_PARTS >= there) {
                // A part that begins with a key frame can be begun with.
                let independent = if part == 0 { ",INDEPENDENT=YES" } else { "" };
                let uri = name(&segment.uri, part);
                let _ = writeln!(
                    text,
                    "#EXT-X-PART:DURATION={seconds},URI=\"{uri}\"{independent}"
                );
            }
            if n == there {
                let uri = name(&segment.uri, begun);
                let _ = writeln!(text, "#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"{uri}\"");
            } else {
                let _ = writeln!(text, "{}\n{}", segment.extinf, segment.uri);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn playlist() -> Playlist {
        let mut text = String::from("#EXTM3U\n#EXT-X-VERSION:7\n");
        for n in 1..=20 {
            let _ = write!(text, "#EXTINF:2.000000,\nseg-0-{n:04}.m4s\n");
        }
        Playlist::parse(&text).expect("well-formed")
    }

    #[test]
    fn a_part_is_listed_when_it_is_complete_and_the_next_is_hinted_at() {
        let text =
            playlist().window_of_parts(SystemTime::UNIX_EPOCH, Duration::from_millis(21_100));
        assert!(text.contains("#EXT-X-MEDIA-SEQUENCE:4\n"), "{text}");
        // Ten whole segments, of which the last two have parts, and two parts of the eleventh.
        assert_eq!(text.matches("#EXTINF").count(), WINDOW);
        assert_eq!(text.matches("#EXT-X-PART:").count(), 2 * EACH + 2);
        assert!(text.contains("URI=\"seg-0-0011.part1.m4s\"\n"), "{text}");
        assert!(text.ends_with("#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"seg-0-0011.part2.m4s\"\n"));
        let over = playlist().window_of_parts(SystemTime::UNIX_EPOCH, Duration::from_secs(60));
        assert!(over.contains("ENDLIST"));
    }

    #[test]
    fn a_reload_that_blocks_waits_for_what_it_names() {
        let ms = |query| age_wanted(query).map(|age| age.as_millis());
        assert_eq!(ms("_HLS_msn=10&_HLS_part=1"), Some(21_000));
        assert_eq!(ms("CMCD=x&_HLS_msn=10"), Some(22_000));
        assert_eq!(ms("CMCD=x"), None);
        assert!(age_wanted("_HLS_msn=4294967295&_HLS_part=4294967295").is_some());
    }

    #[test]
    fn a_segment_is_cut_behind_each_piece_of_media() {
        let atom = |kind: &[u8; 4], body: &[u8]| {
            let size = u32::try_from(8 + body.len()).expect("small");
            [&size.to_be_bytes(), kind.as_slice(), body].concat()
        };
        let first = [
            atom(b"styp", b"x"),
            atom(b"moof", b"1"),
            atom(b"mdat", b"2"),
        ]
        .concat();
        let second = [atom(b"moof", b"3"), atom(b"mdat", b"4")].concat();
        let segment = [first.clone(), second.clone()].concat();
        assert_eq!(cut(&segment, 0), Some(first.as_slice()));
        assert_eq!(cut(&segment, 1), Some(second.as_slice()));
        assert_eq!(cut(&segment, 2), None);
        assert_eq!(cut(&[0; 16], 0), None);
    }

    #[test]
    fn a_parts_name_says_of_which_segment_it_is() {
        let named = segment_of(&name("seg-0-0007.m4s", 2));
        assert_eq!(named, Some(("seg-0-0007.m4s".into(), 2)));
        assert_eq!(segment_of("seg-0-0007.m4s"), None);
    }
}
