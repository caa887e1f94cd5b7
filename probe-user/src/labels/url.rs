//! What a URL alone lets one guess of HLS and DASH: by extensions and the usual names, where no rule
//! and no client says more.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

use super::cmcd::Format;
use super::request::{Class, Media};

/// What a path looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Guess {
    pub(super) class: Class,
    pub(super) media: Media,
    pub(super) format: Format,
    pub(super) number: Option<u64>,
    pub(super) rung: u32,
    pub(super) content: u64,
}

/// The longest number of a segment; longer ones are times or random.
const MOST_DIGITS: usize = 12;
/// Words before a segment's number, where a name has several numbers.
const SEGMENT_WORDS: [&str; 7] = [
    "seg", "segment", "chunk", "frag", "fragment", "sequence", "part",
];

/// A hash that is the same on every host and in every version.
pub(super) fn stable_hash(parts: &[&[u8]]) -> u64 {
    let mut hasher = SipHasher13::new();
    for part in parts {
        hasher.write(part);
        hasher.write_u8(0xff);
    }
    hasher.finish()
}

/// A rendition's mark: never 0, which is "not known".
pub(super) fn rung_of(parts: &[&[u8]]) -> u32 {
    let hash = stable_hash(parts);
    // Both halves, so that nothing of it is wasted.
    let folded = (hash ^ (hash >> 32)) & u64::from(u32::MAX);
    u32::try_from(folded).unwrap_or(0).max(1)
}

/// What is watched, by its name; never 0.
pub(super) fn content_of(name: &[u8]) -> u64 {
    stable_hash(&[name]).max(1)
}

/// The path of a request's URI, without its query.
pub(super) fn path_of(uri: &str) -> &str {
    uri.split(['?', '#']).next().unwrap_or(uri)
}

/// What is at this path.
pub(super) fn guess(path: &str) -> Guess {
    let (directory, file) = path.rsplit_once('/').unwrap_or(("", path));
    let (stem, extension) = file.rsplit_once('.').unwrap_or((file, ""));
    let (class, format) = class_of(stem, extension);
    let (number, rest) = number_of(stem, class);
    let plays = matches!(class, Class::Segment | Class::Part);
    let rung = if plays {
        let [before, after] = rest;
        let parts = [directory, before, after, extension];
        rung_of(&parts.map(str::as_bytes))
    } else {
        0
    };
    Guess {
        class,
        media: if plays || class == Class::Init {
            media_of(path, extension)
        } else {
            Media::Unknown
        },
        format,
        number: number.filter(|_| plays),
        rung,
        content: content_of(content_directory(directory).as_bytes()),
    }
}

fn is(text: &str, known: &[&str]) -> bool {
    known.iter().any(|known| text.eq_ignore_ascii_case(known))
}

fn class_of(stem: &str, extension: &str) -> (Class, Format) {
    if is(extension, &["m3u8", "m3u"]) {
        (Class::Manifest, Format::Hls)
    } else if is(extension, &["mpd"]) {
        (Class::Manifest, Format::Dash)
    } else if is(extension, &["key"]) {
        (Class::Key, Format::Unknown)
    } else if is(
        extension,
        &[
            "ts", "m4s", "m4v", "m4a", "m4f", "mp4", "cmfv", "cmfa", "aac", "ac3", "ec3", "mp3",
            "webm",
        ],
    ) {
        let class = if is_init(stem) {
            Class::Init
        } else if is_part(stem) {
            Class::Part
        } else {
            Class::Segment
        };
        // Which of both it belongs to shows at its manifest, or in what the client says.
        (class, Format::Unknown)
    } else if is(
        extension,
        &[
            "vtt", "webvtt", "srt", "ttml", "jpg", "jpeg", "png", "webp", "gif", "json", "html",
            "js", "css",
        ],
    ) {
        (Class::Other, Format::Unknown)
    } else {
        (Class::Unknown, Format::Unknown)
    }
}

/// `init`, `init-1`, `video_init`, `1-header`: not what merely has these letters in it.
fn is_init(stem: &str) -> bool {
    words(stem).any(|word| is(word, &["init", "header", "initialization"]))
}

/// `seg7.part2`, `filePart271.1`: a segment's number and a part's.
fn is_part(stem: &str) -> bool {
    let numbers = numbers(stem).count();
    numbers >= 2 && words(stem).any(|word| word.to_ascii_lowercase().ends_with("part"))
}

/// Runs of letters.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphabetic())
        .filter(|word| !word.is_empty())
}

/// Where runs of digits begin and end.
fn numbers(text: &str) -> impl Iterator<Item = (usize, usize)> {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        let begin = at + bytes.get(at..)?.iter().position(u8::is_ascii_digit)?;
        let len = bytes[begin..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit());
        at = begin + len.count();
        Some((begin, at))
    })
}

/// A segment's number in its name, and the name around it.
fn number_of(stem: &str, class: Class) -> (Option<u64>, [&str; 2]) {
    let all = numbers(stem).filter(|(begin, end)| end - begin <= MOST_DIGITS);
    let mut chosen = None;
    let mut named = None;
    let mut before_last = None;
    for run in all {
        let word = words(&stem[..run.0]).last().unwrap_or_default();
        let follows = stem[..run.0]
            .trim_end_matches(['-', '_', '.'])
            .ends_with(word);
        if named.is_none() && follows && is(word, &SEGMENT_WORDS) {
            named = Some(run);
        }
        before_last = chosen;
        chosen = Some(run);
    }
    // Of a part's name the last number is the part's own.
    let chosen = match class {
        Class::Part => before_last,
        _ => named.or(chosen),
    };
    match chosen {
        Some((begin, end)) => {
            // Of a part, what follows its segment's number names no rendition.
            let after = if class == Class::Part {
                ""
            } else {
                &stem[end..]
            };
            (stem[begin..end].parse().ok(), [&stem[..begin], after])
        }
        None => (None, [stem, ""]),
    }
}

fn media_of(path: &str, extension: &str) -> Media {
    if is(extension, &["m4a", "cmfa", "aac", "ac3", "ec3", "mp3"]) {
        return Media::Audio;
    }
    if is(extension, &["m4v", "cmfv"]) {
        return Media::Video;
    }
    words(path)
        .find_map(|word| {
            if is(word, &["audio"]) {
                Some(Media::Audio)
            } else if is(word, &["video"]) {
                Some(Media::Video)
            } else {
                None
            }
        })
        .unwrap_or_default()
}

/// The directory of all renditions: without the last parts that look like one's own.
fn content_directory(directory: &str) -> &str {
    let mut directory = directory;
    while let Some((above, last)) = directory.rsplit_once('/') {
        if above.is_empty() || !is_rendition(last) {
            break;
        }
        directory = above;
    }
    directory
}

/// `720p`, `3000k`, `v2`, `video`, `stream_1`, `audio-en`, `0`.
fn is_rendition(name: &str) -> bool {
    let word = words(name).next().unwrap_or_default();
    let begins_with_digit = name.starts_with(|c: char| c.is_ascii_digit());
    if begins_with_digit {
        return is(word, &["", "p", "k", "kbps", "bps", "x"]);
    }
    let has_number = name.ends_with(|c: char| c.is_ascii_digit());
    is(word, &["audio", "video"])
        || (has_number
            && is(
                word,
                &[
                    "v", "a", "stream", "rep", "track", "var", "variant", "level", "rung", "q",
                ],
            ))
}

#[cfg(test)]
mod tests {
    use super::super::fuzz_cases;
    use super::*;

    #[test]
    fn usual_names_are_known() {
        use Class::{Init, Key, Manifest, Other, Part, Segment, Unknown};
        for (path, class, number) in [
            ("/vod/film/master.m3u8", Manifest, None),
            ("/vod/film/v2/index.m3u8", Manifest, None),
            ("/dash/film.mpd", Manifest, None),
            ("/vod/film/v0/init.mp4", Init, None),
            ("/vod/film/init_0.mp4", Init, None),
            ("/dash/init-stream0.m4s", Init, None),
            ("/dash/chunk-stream0-00017.m4s", Segment, Some(17)),
            ("/vod/film/v0/seg007.m4s", Segment, Some(7)),
            ("/hls/seg-12-v1-a1.ts", Segment, Some(12)),
            ("/hls/720p_0042.ts", Segment, Some(42)),
            ("/hls/live_1764111111123456.ts", Segment, None),
            ("/ll/seg12.part3.m4s", Part, Some(12)),
            ("/ll/filePart271.1.mp4", Part, Some(271)),
            ("/ll/fileSequence270.mp4", Segment, Some(270)),
            ("/film.mp4", Segment, None),
            ("/initiative/seg1.ts", Segment, Some(1)),
            ("/vod/film/k.key", Key, None),
            ("/vod/film/en/1.vtt", Other, None),
            ("/", Unknown, None),
            ("", Unknown, None),
            ("/api/session", Unknown, None),
        ] {
            let guess = guess(path);
            assert_eq!((guess.class, guess.number), (class, number), "{path}");
        }
    }

    #[test]
    fn renditions_differ_and_their_segments_do_not() {
        let rung = |path: &str| guess(path).rung;
        assert_eq!(rung("/f/v0/seg001.m4s"), rung("/f/v0/seg144.m4s"));
        assert_ne!(rung("/f/v0/seg001.m4s"), rung("/f/v1/seg001.m4s"));
        assert_eq!(rung("/h/seg-1-v1-a1.ts"), rung("/h/seg-2-v1-a1.ts"));
        assert_ne!(rung("/h/seg-1-v1-a1.ts"), rung("/h/seg-1-v2-a1.ts"));
        assert_eq!(rung("/l/seg1.part1.m4s"), rung("/l/seg2.part3.m4s"));
        assert_eq!(rung("/f/v0/index.m3u8"), 0);
    }

    #[test]
    fn all_renditions_are_of_one_content() {
        let content = |path: &str| guess(path).content;
        let film = content("/vod/film/master.m3u8");
        for path in [
            "/vod/film/v0/seg1.m4s",
            "/vod/film/720p/seg1.m4s",
            "/vod/film/1280x720/1.ts",
            "/vod/film/audio-en/init.mp4",
            "/vod/film/stream_1/0/seg1.m4s",
        ] {
            assert_eq!(content(path), film, "{path}");
        }
        assert_ne!(content("/vod/other/v0/seg1.m4s"), film);
        assert_ne!(content("/live/seg1.m4s"), content("/vod/seg1.m4s"));
    }

    #[test]
    fn sound_and_picture_are_told_apart_where_names_do() {
        assert_eq!(guess("/f/a/seg1.m4a").media, Media::Audio);
        assert_eq!(guess("/f/audio_en/seg1.m4s").media, Media::Audio);
        assert_eq!(guess("/f/video/seg1.m4s").media, Media::Video);
        assert_eq!(guess("/f/v0/seg1.m4s").media, Media::Unknown);
        assert_eq!(guess("/f/audio/index.m3u8").media, Media::Unknown);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(fuzz_cases()))]

        #[test]
        fn any_path_is_guessed(path in "[/a-z0-9._é-]{0,60}") {
            let guess = guess(&path);
            proptest::prop_assert!(guess.content != 0);
        }
    }
}
