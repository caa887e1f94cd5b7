//! A live stream made of a programme that exists: what a playlist lists, and which segments there
//! are, so long after the stream began. Pure; time is an argument.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};

use super::ladder::SEGMENT_SECONDS;

/// Segments in the sliding window.
pub const WINDOW: usize = 6;

/// A segment as its playlist names it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Segment {
    pub(super) extinf: String,
    pub(super) uri: String,
}

/// One rendition's playlist for the whole programme.
#[derive(Clone, Debug, PartialEq)]
pub struct Playlist {
    /// What stands before the first segment: the version, the map.
    head: Vec<String>,
    pub(super) segments: Vec<Segment>,
}

impl Playlist {
    /// Reads a media playlist.
    ///
    /// # Errors
    /// A segment has no duration.
    pub fn parse(text: &str) -> Result<Self> {
        let mut head = Vec::new();
        let mut segments = Vec::new();
        let mut extinf = None;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            if line.starts_with("#EXTINF:") {
                extinf = Some(line.to_owned());
            } else if !line.starts_with('#') {
                let extinf = extinf
                    .take()
                    .with_context(|| format!("a segment without a duration: {line}"))?;
                let uri = line.to_owned();
                segments.push(Segment { extinf, uri });
            } else if ["#EXT-X-VERSION:", "#EXT-X-MAP:", "#EXT-X-TARGETDURATION:"]
                .iter()
                .any(|tag| line.starts_with(tag))
            {
                head.push(line.to_owned());
            }
        }
        if segments.is_empty() {
            bail!("a playlist without segments");
        }
        Ok(Self { head, segments })
    }

    /// The sliding window `age` after the stream began. Each segment says when it was made: players
    /// find sound and picture that belong together by it when they have fallen behind.
    pub fn window(&self, began: SystemTime, age: Duration) -> String {
        let there = self.segments.len().min(segments_at(age));
        let first = there.saturating_sub(WINDOW);
        let mut text = self.head_of(first);
        let mut made = began;
        for (n, segment) in self.segments[..there].iter().enumerate() {
            if n >= first {
                let made = humantime::format_rfc3339_millis(made);
                let _ = writeln!(text, "#EXT-X-PROGRAM-DATE-TIME:{made}");
                let _ = writeln!(text, "{}\n{}", segment.extinf, segment.uri);
            }
            made += Duration::from_secs(SEGMENT_SECONDS.into());
        }
        if there == self.segments.len() {
            text.push_str("#EXT-X-ENDLIST\n");
        }
        text
    }

    /// What stands before a window whose first segment is this one.
    pub(super) fn head_of(&self, first: usize) -> String {
        let mut text = String::from("#EXTM3U\n");
        for line in &self.head {
            let _ = writeln!(text, "{line}");
        }
        let _ = writeln!(text, "#EXT-X-MEDIA-SEQUENCE:{first}");
        text
    }
}

/// How many segments are complete `age` after the stream began.
pub fn segments_at(age: Duration) -> usize {
    usize::try_from(age.as_secs() / u64::from(SEGMENT_SECONDS)).unwrap_or(usize::MAX)
}

/// When a segment appears, by its file's name: its number in the programme, counted from 1.
///
/// `None`: the name is no segment's. ffmpeg counts from 1 in DASH and from 0 in HLS.
pub fn number(file: &str, first: usize) -> Option<usize> {
    let stem = file.strip_suffix(".m4s")?;
    let (_, digits) = stem.rsplit_once('-')?;
    Some(digits.parse::<usize>().ok()? + 1 - first.min(1))
}

/// Turns ffmpeg's description of the whole programme into that of a stream that began at `began`.
///
/// # Errors
/// It is not as ffmpeg writes it.
pub fn manifest(whole: &str, began: SystemTime, now: SystemTime) -> Result<String> {
    let duration = whole
        .lines()
        .find(|line| line.trim_start().starts_with("mediaPresentationDuration="))
        .context("a manifest without a duration")?;
    let time = |time| humantime::format_rfc3339_millis(time);
    let live = format!(
        "availabilityStartTime=\"{}\" publishTime=\"{}\" minimumUpdatePeriod=\"PT{s}S\" \
         timeShiftBufferDepth=\"PT{depth}S\" suggestedPresentationDelay=\"PT{delay}S\"",
        time(began),
        time(now),
        s = SEGMENT_SECONDS,
        depth = SEGMENT_SECONDS as usize * WINDOW,
        delay = SEGMENT_SECONDS * 3,
    );
    let text = whole
        .replace("type=\"static\"", "type=\"dynamic\"")
        .replace(duration, &live);
    let clock = format!(
        "<UTCTiming schemeIdUri=\"urn:mpeg:dash:utc:direct:2014\" value=\"{}\"/></MPD>",
        time(now)
    );
    if !text.contains("type=\"dynamic\"") || !text.contains("</MPD>") {
        bail!("a manifest that is not as ffmpeg writes it");
    }
    Ok(text.replace("</MPD>", &clock))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn playlist(segments: usize) -> Playlist {
        let mut text = String::from(
            "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-MAP:URI=\"init.mp4\"\n",
        );
        for n in 0..segments {
            let _ = write!(text, "#EXTINF:2.000000,\nseg-0-{n:04}.m4s\n");
        }
        Playlist::parse(&(text + "#EXT-X-ENDLIST\n")).expect("well-formed")
    }

    #[test]
    fn the_window_slides_with_the_media_sequence_and_ends_with_the_programme() {
        let playlist = playlist(20);
        let began = SystemTime::UNIX_EPOCH;
        let early = playlist.window(began, Duration::from_millis(5_900));
        assert!(early.contains("#EXT-X-MEDIA-SEQUENCE:0\n"), "{early}");
        assert!(early.contains("seg-0-0001.m4s") && !early.contains("seg-0-0002.m4s"));
        assert!(early.contains("#EXT-X-MAP:") && !early.contains("ENDLIST"));
        let later = playlist.window(began, Duration::from_secs(20));
        assert!(later.contains("#EXT-X-MEDIA-SEQUENCE:4\n"), "{later}");
        assert_eq!(later.matches(".m4s").count(), WINDOW);
        assert!(later.contains("TIME:1970-01-01T00:00:08.000Z\n#EXTINF:2.000000,\nseg-0-0004.m4s"));
        assert!(
            playlist
                .window(began, Duration::from_secs(60))
                .contains("ENDLIST")
        );
    }

    #[test]
    fn a_segment_is_counted_from_one_in_both_ways_of_naming() {
        assert_eq!(number("seg-0-0001.m4s", 1), Some(1));
        assert_eq!(number("seg-2-0000.m4s", 0), Some(1));
        assert_eq!(number("init-0.mp4", 1), None);
    }

    #[test]
    fn a_manifest_of_a_live_stream_says_when_it_began() {
        let whole = "<MPD\n\ttype=\"static\"\n\tmediaPresentationDuration=\"PT2M0.0S\"\n></MPD>";
        let began = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let live = manifest(whole, began, began).expect("as ffmpeg writes it");
        assert!(
            live.contains("availabilityStartTime=\"2023-11-14T22:13:20.000Z\""),
            "{live}"
        );
        assert!(!live.contains("mediaPresentationDuration"));
        assert!(manifest("<MPD></MPD>", began, began).is_err());
    }
}
