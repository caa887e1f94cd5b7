//! The stream: three renditions of a test picture, cut into HLS segments by ffmpeg, made once
//! and kept.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::lab::process::Process;

/// Length of the stream.
pub const SECONDS: u32 = 100;
/// Media time of a segment.
pub const SEGMENT_SECONDS: u32 = 2;
/// Video bit rates, highest first, as ffmpeg writes them; a variant each.
const RENDITIONS: [(&str, &str); 3] = [
    ("1280x720", "3000k"),
    ("854x480", "1200k"),
    ("426x240", "400k"),
];

/// Makes the ladder below `dir`, unless it is there; returns the directory of its playlist.
///
/// # Errors
/// ffmpeg is missing or fails.
pub fn make(dir: &Path) -> Result<PathBuf> {
    let ladder = dir.join(format!("ladder-{SECONDS}s"));
    if ladder.join("master.m3u8").is_file() {
        return Ok(ladder);
    }
    println!(
        "making {SECONDS} s of video in {} renditions (once; kept in {})",
        RENDITIONS.len(),
        ladder.display()
    );
    // Made beside its place and moved there whole, so that an interrupted run leaves no half.
    let making = dir.join("ladder-making");
    let _ = std::fs::remove_dir_all(&making);
    std::fs::create_dir_all(&making)
        .with_context(|| format!("cannot make {}", making.display()))?;
    let mut process = Process::spawn(ffmpeg(&making), None, &dir.join("ffmpeg.log"))?;
    process.success(Duration::from_secs(300))?;
    std::fs::rename(&making, &ladder)
        .with_context(|| format!("cannot move the ladder to {}", ladder.display()))?;
    Ok(ladder)
}

fn ffmpeg(dir: &Path) -> Command {
    let mut command = Command::new("ffmpeg");
    command
        .current_dir(dir)
        .args(["-nostdin", "-hide_banner", "-loglevel", "error"]);
    command.args([
        "-f",
        "lavfi",
        "-i",
        &format!("testsrc2=s=1280x720:r=25:d={SECONDS}"),
    ]);
    command.args([
        "-f",
        "lavfi",
        "-i",
        &format!("sine=frequency=440:r=48000:d={SECONDS}"),
    ]);
    for (n, (size, rate)) in RENDITIONS.iter().enumerate() {
        command.args(["-map", "0:v", "-map", "1:a"]);
        command.args([
            format!("-s:v:{n}"),
            (*size).into(),
            format!("-b:v:{n}"),
            (*rate).into(),
        ]);
        command.args([format!("-maxrate:v:{n}"), (*rate).into()]);
        command.args([format!("-bufsize:v:{n}"), (*rate).into()]);
    }
    let gop = (25 * SEGMENT_SECONDS).to_string();
    command.args([
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-tune",
        "zerolatency",
        "-nal-hrd",
        "cbr",
    ]);
    command.args([
        "-g",
        &gop,
        "-keyint_min",
        &gop,
        "-sc_threshold",
        "0",
        "-c:a",
        "aac",
        "-b:a",
        "96k",
    ]);
    command.args([
        "-f",
        "hls",
        "-hls_time",
        &SEGMENT_SECONDS.to_string(),
        "-hls_playlist_type",
        "vod",
    ]);
    command.args([
        "-hls_segment_type",
        "fmp4",
        "-hls_flags",
        "independent_segments",
    ]);
    command.args([
        "-master_pl_name",
        "master.m3u8",
        "-hls_segment_filename",
        "v%v/seg%03d.m4s",
    ]);
    command.args([
        "-var_stream_map",
        "v:0,a:0 v:1,a:1 v:2,a:2",
        "v%v/index.m3u8",
    ]);
    command
}
