//! `weir record`: takes what a daemon passes on and keeps it in a file.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::time::{ClockId, clock_gettime};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use weir_proto::v1::record_message::Message;
use weir_proto::v1::{RecordMessage, RecordRequest, RecordingEnd, RecordingEndCause};

use super::Record;
use crate::query::client::{self, Peer};
use crate::recording::write::{Kept, Writer};
use crate::ui::units;

/// A daemon passes on what it has each second; one that does not is not waited for at the end.
const LAST_BLOCK: Duration = Duration::from_secs(3);

/// `weir record`, until SIGINT or SIGTERM.
pub async fn record(args: &Record, to: impl Write) -> Result<()> {
    let stop = CancellationToken::new();
    let mut int = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut term = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = int.recv() => {}
            _ = term.recv() => {}
        }
        told.cancel();
    });
    record_until(args, stop, to).await
}

/// The same, until `stop`.
pub async fn record_until(
    args: &Record,
    stop: CancellationToken,
    mut to: impl Write,
) -> Result<()> {
    let peer = Peer::Daemon(args.socket.socket.clone());
    let mut daemon = client::local(&args.socket.socket).await?;
    let answer = daemon.record(RecordRequest {}).await;
    let mut messages = answer.map_err(|status| peer.error(&status))?.into_inner();
    let first = messages.message().await;
    let first = first.map_err(|status| peer.error(&status))?;
    let Some(Message::Header(header)) = first.and_then(|first| first.message) else {
        bail!("{peer} does not speak of recordings as this weir does: are they of one version?");
    };
    let name = args.file.display();
    let file = create(&args.file, args.force)?;
    let mut writer = Writer::begin(file, &header, args.max_bytes).map_err(|err| {
        // Nothing is in it, and its being there would stand in the way of the next try.
        let left = match std::fs::remove_file(&args.file) {
            Ok(()) => "",
            Err(_) => "; it is left there, empty",
        };
        anyhow::Error::from(err).context(format!("cannot write {name}{left}"))
    })?;
    writeln!(to, "recording {} to {name}", header.host)?;
    to.flush()?;
    let bounds = Bounds {
        begin_ns: header.begin_monotonic_ns,
        max_duration: args.max_duration,
    };
    let kept = keep(&mut messages, &mut writer, &bounds, &stop).await;
    let bytes = writer.bytes();
    let (cause, failure) = match kept {
        Ok(cause) => (cause, None),
        Err(err) => (RecordingEndCause::WriteFailed, Some(err)),
    };
    let summary = writer.summary(cause);
    let ended = writer.end(cause);
    let said = said(&summary, bytes);
    if let Some(err) = failure {
        // A disk that is full has no room for the end either; readers do without it.
        return Err(err).with_context(|| {
            format!("cannot write {name} any further; what is in it is whole: {said}")
        });
    }
    ended.with_context(|| format!("cannot end {name} in order; it can be read: {said}"))?;
    writeln!(to, "{name}: {said}")?;
    Ok(to.flush()?)
}

fn said(end: &RecordingEnd, bytes: u64) -> String {
    format!(
        "{} records in {} blocks, {}; ended: {}{}",
        end.records,
        end.blocks,
        units::short_bytes(bytes),
        end.cause().word(),
        match end.records_unwritten {
            0 => String::new(),
            unwritten => format!("; {unwritten} records came and were not written"),
        }
    )
}

#[derive(Debug)]
struct Bounds {
    begin_ns: u64,
    max_duration: Option<Duration>,
}

/// Writes blocks until something ends it; an error is the file's.
async fn keep(
    messages: &mut Streaming<RecordMessage>,
    writer: &mut Writer<File>,
    bounds: &Bounds,
    stop: &CancellationToken,
) -> io::Result<RecordingEndCause> {
    let mut last_wanted_ns = None;
    loop {
        let message = if last_wanted_ns.is_some() {
            match tokio::time::timeout(LAST_BLOCK, messages.message()).await {
                Ok(message) => message,
                Err(_) => return Ok(RecordingEndCause::Stopped),
            }
        } else {
            tokio::select! {
                message = messages.message() => message,
                () = stop.cancelled() => {
                    // What was said until now is still on its way.
                    last_wanted_ns = Some(monotonic_ns()?);
                    continue;
                }
            }
        };
        let block = match message {
            Ok(Some(RecordMessage {
                message: Some(Message::Block(block)),
            })) => block,
            Ok(Some(_)) => continue,
            Ok(None) => return Ok(RecordingEndCause::DaemonEnded),
            Err(_) => return Ok(RecordingEndCause::DaemonLost),
        };
        if writer.block(&block)? == Kept::Full {
            return Ok(RecordingEndCause::MaxBytes);
        }
        if last_wanted_ns.is_some_and(|wanted_ns| block.last_monotonic_ns >= wanted_ns) {
            return Ok(RecordingEndCause::Stopped);
        }
        let since = block.last_monotonic_ns.saturating_sub(bounds.begin_ns);
        if bounds
            .max_duration
            .is_some_and(|max| Duration::from_nanos(since) >= max)
        {
            return Ok(RecordingEndCause::MaxDuration);
        }
    }
}

fn monotonic_ns() -> io::Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(u64::try_from(Duration::from(now).as_nanos()).unwrap_or(u64::MAX))
}

/// Readable by its owner alone: clients' addresses are personal data.
fn create(path: &Path, force: bool) -> Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    if force {
        // Not before it is certain that nobody else is writing it.
        options.create(true);
    } else {
        options.create_new(true);
    }
    let file = options.open(path).map_err(|err| match err.kind() {
        io::ErrorKind::AlreadyExists => anyhow::anyhow!(
            "{} is there already; name another file, or write over it with --force",
            path.display()
        ),
        _ => anyhow::Error::from(err).context(format!("cannot create {}", path.display())),
    })?;
    file.try_lock().map_err(|err| match err {
        TryLockError::WouldBlock => anyhow::anyhow!(
            "{} is being written by another recorder; name another file",
            path.display()
        ),
        TryLockError::Error(err) => {
            anyhow::Error::from(err).context(format!("cannot lock {}", path.display()))
        }
    })?;
    file.set_len(0)
        .with_context(|| format!("cannot write over {}", path.display()))?;
    Ok(file)
}

/// Bytes, with K, M or G for 1024, 1024² or 1024³ of them.
pub(super) fn parse_bytes(text: &str) -> Result<u64, String> {
    let (number, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 20),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "give a number of bytes, e.g. 500000, 64M or 2G".to_owned())
}

/// Some time, e.g. `10m`; not none.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("nothing would be recorded".to_owned()),
        Ok(duration) => Ok(duration),
        Err(bad) => Err(bad.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_lasts_some_time() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        for bad in ["0s", "", "90", "ten"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_bytes_or_powers_of_1024() {
        assert_eq!(parse_bytes("500"), Ok(500));
        assert_eq!(parse_bytes("64M"), Ok(64 << 20));
        assert_eq!(parse_bytes("2g"), Ok(2 << 30));
        for bad in ["", "M", "0", "-1", "1.5G", "99999999999G", "5T"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_that_is_there_is_kept_unless_told_otherwise() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.weir");
        std::fs::write(&path, "precious").unwrap();
        let text = create(&path, false).unwrap_err().to_string();
        assert!(text.contains("--force"), "{text}");
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        create(&path, true).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }
}
