//! CMCD (CTA-5004 and CTA-5004-B): what a player declares with its requests.
//!
//! The client writes it, so nothing in it is believed beyond a plausible range, and all of it is
//! bounded; [`read`] is how it is read. Names are the standard's.

mod list;
mod read;

pub use read::{Declared, MOST_BYTES, percent_decoded, read};

use super::request::Media;

/// What a player declares. None: it does not say, or nothing plausible.
#[expect(clippy::struct_excessive_bools, reason = "the standard's own")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cmcd {
    /// The standard's version; 1 unless it says otherwise.
    pub version: u8,
    /// Buffer length when the request was made: of the media that is asked for; if that is not said,
    /// the shortest.
    pub bl_ms: Option<u32>,
    /// The same of sound alone, where the request tells sound and picture apart.
    pub bl_audio_ms: Option<u32>,
    /// The same of picture alone.
    pub bl_video_ms: Option<u32>,
    /// The buffer ran dry since the request before.
    pub bs: bool,
    /// How often it did in this playback (version 2).
    pub bsa: Option<u32>,
    /// For how long it did since the request before (version 2).
    pub bsd_ms: Option<u32>,
    /// For how long it did in this playback (version 2).
    pub bsda_ms: Option<u32>,
    /// The object is needed urgently: start, seek, or after a stall.
    pub su: bool,
    /// The player is out of its user's sight (version 2).
    pub bg: bool,
    /// From the request until the object must be there.
    pub dl_ms: Option<u32>,
    /// Throughput as the player measures it.
    pub mtp_kbps: Option<u32>,
    /// Encoded bitrate of the object.
    pub br_kbps: Option<u32>,
    /// Highest bitrate that there is.
    pub tb_kbps: Option<u32>,
    /// Duration of the object.
    pub d_ms: Option<u32>,
    /// Its type.
    pub ot: Option<ObjectType>,
    /// The streaming format.
    pub sf: Option<Format>,
    /// Live or not.
    pub st: Option<StreamType>,
    /// Playback rate in hundredths; absent: 100.
    pub pr_x100: Option<u16>,
    /// Throughput that the player would have the server send with.
    pub rtp_kbps: Option<u32>,
    /// What the player is doing (version 2).
    pub sta: Option<PlayState>,
    /// Counts the player's reports (version 2).
    pub sn: Option<u64>,
    /// From the wish to play to the first frame; said once (version 2).
    pub msd_ms: Option<u32>,
    /// From the origin to the screen (version 2).
    pub ltc_ms: Option<u32>,
    /// Buffer length that the player aims at (version 2).
    pub tbl_ms: Option<u32>,
    /// Place in the content that is shown (version 2).
    pub pt_ms: Option<u64>,
    /// Frames dropped in this playback (version 2).
    pub dfa: Option<u32>,
    /// When the report was made, by the client's clock (version 2).
    pub ts_unix_ms: Option<u64>,
    /// It names an error (`ec`, version 2).
    pub ec: bool,
}

/// `ot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObjectType {
    /// `m`: a manifest or playlist.
    Manifest,
    /// `a`: sound.
    Audio,
    /// `v`: picture.
    Video,
    /// `av`: both.
    Muxed,
    /// `i`: an init segment.
    Init,
    /// `c`, `tt`: captions.
    Text,
    /// `k`: a key, licence or certificate.
    Key,
    /// `o`: something else.
    Other,
}

impl ObjectType {
    /// What is in such an object, if it plays.
    pub fn media(self) -> Option<Media> {
        match self {
            Self::Audio => Some(Media::Audio),
            Self::Video => Some(Media::Video),
            Self::Muxed => Some(Media::Muxed),
            Self::Manifest | Self::Init | Self::Text | Self::Key | Self::Other => None,
        }
    }
}

/// `sf`, or what the URL looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// Nothing says.
    #[default]
    Unknown,
    /// `h`.
    Hls,
    /// `d`.
    Dash,
    /// `s`.
    Smooth,
    /// `e`, `o`.
    Other,
}

/// `st`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamType {
    /// `v`.
    Vod,
    /// `l`.
    Live,
    /// `ll`: low latency.
    LowLatency,
}

/// `sta`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PlayState {
    /// `s`: told to play, nothing shown yet.
    Starting,
    /// `p`.
    Playing,
    /// `k`.
    Seeking,
    /// `r`: stopped for want of data.
    Rebuffering,
    /// `a`.
    Paused,
    /// `w`: waiting, e.g. for another player's clock.
    Waiting,
    /// `e`: played to its end.
    Ended,
    /// `f`: ended by an error.
    Fatal,
    /// `q`: ended by its user.
    Quit,
    /// `d`: loading ahead of the wish to play.
    Preloading,
}

#[cfg(test)]
mod tests;
