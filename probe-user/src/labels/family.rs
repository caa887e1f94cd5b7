//! The kind of player, from its user agent and the streaming format: few, so that thresholds can be
//! learned for each.
//!
//! A browser does not name the player that runs in it; the format tells the usual ones apart.

use super::cmcd::Format;

/// A kind of player.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Family {
    /// What names itself.
    pub agent: Agent,
    /// What it plays.
    pub format: Format,
}

/// What names itself in `User-Agent`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Agent {
    /// Nothing, or nothing known.
    #[default]
    Unknown,
    /// Chrome and what is built like it.
    Chrome,
    /// Edge.
    Edge,
    /// Firefox.
    Firefox,
    /// Safari, with a player of its own in the page.
    Safari,
    /// Apple's player: Safari's own, apps, Apple TV.
    AvPlayer,
    /// `ExoPlayer` and Media3.
    ExoPlayer,
    /// Roku.
    Roku,
    /// Samsung's televisions.
    Tizen,
    /// LG's televisions.
    WebOs,
    /// Chromecast.
    Cast,
    /// Amazon's devices.
    FireTv,
    /// Kodi.
    Kodi,
    /// VLC.
    Vlc,
    /// `FFmpeg` and what is made of it (mpv, ffplay).
    Ffmpeg,
    /// `GStreamer`.
    Gstreamer,
    /// Programs that fetch and do not play.
    Tool,
}

impl Family {
    /// The family of this `User-Agent` that plays this format.
    pub fn of(user_agent: &str, format: Format) -> Self {
        Self {
            agent: Agent::of(user_agent),
            format,
        }
    }
}

/// What a user agent has in it, the most telling first: nearly all claim to be `Mozilla`, and most
/// of the others `Safari`.
const MARKS: [(&str, Agent); 29] = [
    ("AppleCoreMedia", Agent::AvPlayer),
    ("ExoPlayer", Agent::ExoPlayer),
    ("AndroidXMedia3", Agent::ExoPlayer),
    ("Roku", Agent::Roku),
    ("Tizen", Agent::Tizen),
    ("Web0S", Agent::WebOs),
    ("webOS", Agent::WebOs),
    ("CrKey", Agent::Cast),
    ("AFT", Agent::FireTv),
    ("Kodi", Agent::Kodi),
    ("XBMC", Agent::Kodi),
    ("VLC", Agent::Vlc),
    ("LibVLC", Agent::Vlc),
    ("GStreamer", Agent::Gstreamer),
    ("Lavf", Agent::Ffmpeg),
    ("mpv", Agent::Ffmpeg),
    ("curl/", Agent::Tool),
    ("Wget", Agent::Tool),
    ("python-requests", Agent::Tool),
    ("Go-http-client", Agent::Tool),
    ("okhttp", Agent::Tool),
    ("bot", Agent::Tool),
    ("Edg/", Agent::Edge),
    ("Firefox/", Agent::Firefox),
    ("FxiOS", Agent::Firefox),
    ("Chrome/", Agent::Chrome),
    ("Chromium/", Agent::Chrome),
    ("CriOS", Agent::Chrome),
    ("Safari/", Agent::Safari),
];

/// Bytes that are looked at.
const MOST_BYTES: usize = 512;

impl Agent {
    /// What this `User-Agent` names.
    pub fn of(user_agent: &str) -> Self {
        let bytes = user_agent.as_bytes();
        let bytes = bytes.get(..MOST_BYTES).unwrap_or(bytes);
        let has = |mark: &str| {
            let mark = mark.as_bytes();
            bytes.windows(mark.len()).any(|part| part == mark)
        };
        MARKS
            .iter()
            .find(|(mark, _)| has(mark))
            .map_or(Self::Unknown, |(_, agent)| *agent)
    }

    /// As it is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Chrome => "chrome",
            Self::Edge => "edge",
            Self::Firefox => "firefox",
            Self::Safari => "safari",
            Self::AvPlayer => "avplayer",
            Self::ExoPlayer => "exoplayer",
            Self::Roku => "roku",
            Self::Tizen => "tizen",
            Self::WebOs => "webos",
            Self::Cast => "cast",
            Self::FireTv => "firetv",
            Self::Kodi => "kodi",
            Self::Vlc => "vlc",
            Self::Ffmpeg => "ffmpeg",
            Self::Gstreamer => "gstreamer",
            Self::Tool => "tool",
        }
    }
}

impl Format {
    /// As it is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "-",
            Self::Hls => "hls",
            Self::Dash => "dash",
            Self::Smooth => "smooth",
            Self::Other => "other",
        }
    }
}

impl std::fmt::Display for Family {
    /// E.g. `chrome/hls`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.agent.as_str(), self.format.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_players_are_named() {
        for (user_agent, agent) in [
            (
                "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
                 HeadlessChrome/126.0.0.0 Safari/537.36",
                Agent::Chrome,
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) \
                 Chrome/126.0.0.0 Safari/537.36 Edg/126.0.0.0",
                Agent::Edge,
            ),
            (
                "Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0",
                Agent::Firefox,
            ),
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like \
                 Gecko) Version/17.4 Safari/605.1.15",
                Agent::Safari,
            ),
            (
                "AppleCoreMedia/1.0.0.21E236 (iPhone; U; CPU OS 17_4_1 like Mac OS X; en_us)",
                Agent::AvPlayer,
            ),
            (
                "MyApp/3.1 (Linux;Android 14) ExoPlayerLib/2.19.1",
                Agent::ExoPlayer,
            ),
            (
                "MyApp (Linux;Android 14) AndroidXMedia3/1.3.1",
                Agent::ExoPlayer,
            ),
            (
                "Mozilla/5.0 (Web0S; Linux/SmartTV) AppleWebKit/537.36 (KHTML, like Gecko) \
                 Chrome/87.0.4280.88 Safari/537.36 WebAppManager",
                Agent::WebOs,
            ),
            ("VLC/3.0.20 LibVLC/3.0.20", Agent::Vlc),
            ("Lavf/60.16.100", Agent::Ffmpeg),
            ("curl/8.5.0", Agent::Tool),
            ("", Agent::Unknown),
            ("something new", Agent::Unknown),
        ] {
            assert_eq!(Agent::of(user_agent), agent, "{user_agent}");
        }
    }

    #[test]
    fn the_format_is_part_of_the_family() {
        let hls = Family::of("Chrome/1", Format::Hls);
        assert_eq!(hls.to_string(), "chrome/hls");
        assert_ne!(hls, Family::of("Chrome/1", Format::Dash));
    }
}
