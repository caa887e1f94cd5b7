//! The programme that the players watch: three renditions of a moving, noisy picture and one of
//! sound, made by ffmpeg once and kept. One set of fMP4 segments serves HLS and DASH; a second has
//! sound and picture in the same segments.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::lab::process::Process;

/// Length of the programme.
pub const SECONDS: u32 = 120;
/// Media time of a segment.
pub const SEGMENT_SECONDS: u32 = 2;
/// Parts of a segment.
pub const PARTS: u32 = 4;
/// Frames a second; few, because every player decodes on this machine.
const FRAMES: u32 = 24;
/// Pictures and their video bit rates, which x264 fills up to, highest first.
const RENDITIONS: [(&str, &str); 3] = [
    ("640x360", "2200k"),
    ("426x240", "900k"),
    ("320x180", "350k"),
];

/// How sound and picture are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Container {
    /// Apart: `cmaf/master.m3u8` and `cmaf/manifest.mpd`.
    Apart,
    /// Together: `muxed/master.m3u8`.
    Muxed,
    /// Apart, each in one file: segments are ranges of it.
    Ranges,
    /// Apart, in segments of [`PARTS`] parts.
    Parts,
}

/// All of them.
const CONTAINERS: [Container; 4] = [
    Container::Apart,
    Container::Muxed,
    Container::Ranges,
    Container::Parts,
];

impl Container {
    /// Its directory below the programme's.
    pub fn directory(self) -> &'static str {
        match self {
            Self::Apart => "cmaf",
            Self::Muxed => "muxed",
            Self::Ranges => "ranges",
            Self::Parts => "parts",
        }
    }
}

/// Makes the programme below `dir`, unless it is there; returns its directory.
///
/// # Errors
/// ffmpeg is missing or fails.
pub fn make(dir: &Path) -> Result<PathBuf> {
    let ladder = dir.join(format!("programme-{SECONDS}s"));
    let is_there = |container: &Container| {
        let master = ladder.join(container.directory()).join("master.m3u8");
        master.is_file()
    };
    if CONTAINERS.iter().all(is_there) {
        return Ok(ladder);
    }
    println!(
        "making {SECONDS} s of programme in {} renditions (once; kept in {})",
        RENDITIONS.len(),
        ladder.display()
    );
    // Made beside its place and moved there whole, so that an interrupted run leaves no half.
    let making = dir.join("programme-making");
    let _ = std::fs::remove_dir_all(&making);
    for container in CONTAINERS {
        let path = making.join(container.directory());
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
    }
    let files = [
        encode(),
        package_apart(
            Container::Apart,
            "-media_seg_name seg-$RepresentationID$-$Number%04d$.m4s",
        ),
        package_apart(
            Container::Ranges,
            "-single_file 1 -single_file_name rung-$RepresentationID$.mp4",
        ),
        package_apart(
            Container::Parts,
            &format!(
                "-media_seg_name seg-$RepresentationID$-$Number%04d$.m4s \
                 -frag_type duration -frag_duration {}",
                f64::from(SEGMENT_SECONDS) / f64::from(PARTS)
            ),
        ),
        package_muxed(),
    ];
    for arguments in files {
        let mut command = Command::new("ffmpeg");
        command
            .current_dir(&making)
            .args(["-nostdin", "-hide_banner", "-loglevel", "error"])
            .args(arguments);
        let mut process = Process::spawn(command, None, &dir.join("ffmpeg.log"))?;
        process.success(Duration::from_secs(300))?;
    }
    // One of a version that knew fewer ways of packing.
    let _ = std::fs::remove_dir_all(&ladder);
    std::fs::rename(&making, &ladder)
        .with_context(|| format!("cannot move the programme to {}", ladder.display()))?;
    Ok(ladder)
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split_whitespace().map(str::to_owned)
}

/// Each rendition into a file.
fn encode() -> Vec<String> {
    let (largest, _) = RENDITIONS[0];
    let mut filter = format!("[0:v]noise=alls=12:allf=t,split={}", RENDITIONS.len());
    for n in 0..RENDITIONS.len() {
        let _ = write!(filter, "[s{n}]");
    }
    for (n, (size, _)) in RENDITIONS.iter().enumerate() {
        let _ = write!(filter, ";[s{n}]scale={size}[v{n}]");
    }
    let mut arguments: Vec<String> = words(&format!(
        "-f lavfi -i testsrc2=s={largest}:r={FRAMES}:d={SECONDS} \
         -f lavfi -i sine=frequency=440:r=48000:d={SECONDS} -filter_complex {filter}"
    ))
    .collect();
    let gop = FRAMES * SEGMENT_SECONDS;
    for (n, (_, rate)) in RENDITIONS.iter().enumerate() {
        arguments.extend(words(&format!(
            "-map [v{n}] -c:v libx264 -preset ultrafast -tune zerolatency -profile:v baseline \
             -pix_fmt yuv420p -g {gop} -keyint_min {gop} -sc_threshold 0 -nal-hrd cbr \
             -b:v {rate} -maxrate {rate} -bufsize {rate} v{n}.mp4"
        )));
    }
    arguments.extend(words("-map 1:a -c:a aac -b:a 96k a.mp4"));
    arguments
}

fn inputs() -> String {
    let mut inputs = String::new();
    for n in 0..RENDITIONS.len() {
        let _ = write!(inputs, "-i v{n}.mp4 ");
    }
    inputs + "-i a.mp4"
}

/// Sound and picture apart; `how` they are cut into files.
fn package_apart(container: Container, how: &str) -> Vec<String> {
    let mut arguments: Vec<String> = words(&inputs()).collect();
    for n in 0..=RENDITIONS.len() {
        arguments.extend(words(&format!("-map {n}:0")));
    }
    arguments.extend(words(&format!(
        "-c copy -f dash -seg_duration {SEGMENT_SECONDS} -use_template 1 -use_timeline 0 \
         -hls_playlist 1 -init_seg_name init-$RepresentationID$.mp4 {how}"
    )));
    arguments.extend([
        "-adaptation_sets".into(),
        "id=0,streams=v id=1,streams=a".into(),
    ]);
    arguments.push(format!("{}/manifest.mpd", container.directory()));
    arguments
}

fn package_muxed() -> Vec<String> {
    let mut arguments: Vec<String> = words(&inputs()).collect();
    let mut map = Vec::new();
    for n in 0..RENDITIONS.len() {
        arguments.extend(words(&format!("-map {n}:v -map {}:a", RENDITIONS.len())));
        map.push(format!("v:{n},a:{n}"));
    }
    // `hls_time` cuts at the first key frame at or after it.
    arguments.extend(words(&format!(
        "-c copy -f hls -hls_time {SEGMENT_SECONDS} -hls_playlist_type vod -hls_segment_type fmp4 \
         -hls_flags independent_segments -master_pl_name master.m3u8 \
         -hls_fmp4_init_filename init-%v.mp4 -hls_segment_filename muxed/seg-%v-%04d.m4s"
    )));
    arguments.extend(["-var_stream_map".into(), map.join(" ")]);
    arguments.push("muxed/media_%v.m3u8".into());
    arguments
}
