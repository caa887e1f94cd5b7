//! Looks at every viewer's estimated buffer again and again, for the plot: events alone come only when
//! something happens to a viewer.

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// As often as a progress record comes.
const EVERY: Duration = Duration::from_millis(500);

/// By the viewers' keys: Unix nanoseconds, and microseconds of media ahead.
pub type Buffers = HashMap<String, Vec<(u64, u64)>>;

/// The looking.
#[derive(Debug)]
pub struct Sampler {
    /// Dropping it ends the thread.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<Buffers>>,
}

#[derive(Deserialize)]
struct Viewer {
    key: String,
    updated_unix_ns: u64,
    buffer_us: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    point: u64,
}

/// A viewer's line, plain or under the name of its kind.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Named { viewer: Viewer },
    Plain(Viewer),
    Other {},
}

impl Sampler {
    /// Runs the listing that `ask` makes from now on.
    pub fn start(ask: impl Fn() -> Command + Send + 'static) -> Self {
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let mut buffers = Buffers::new();
            while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                // One look that fails is one sample less.
                if let Ok(text) = listing(&mut ask()) {
                    take(&text, &mut buffers);
                }
            }
            buffers
        });
        Self {
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Ends it; returns what it has seen.
    pub fn finish(mut self) -> Buffers {
        self.stop.take();
        let thread = self.thread.take();
        thread
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default()
    }
}

/// What a listing prints.
///
/// # Errors
/// It cannot be run.
pub fn listing(command: &mut Command) -> Result<String> {
    let out = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .context("cannot run weir")?;
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn take(text: &str, buffers: &mut Buffers) {
    for line in text.lines() {
        let Ok(Line::Named { viewer } | Line::Plain(viewer)) = serde_json::from_str(line) else {
            continue;
        };
        let samples = buffers.entry(viewer.key).or_default();
        let known = samples
            .last()
            .is_some_and(|(t, _)| *t >= viewer.updated_unix_ns);
        if !known {
            samples.push((viewer.updated_unix_ns, viewer.buffer_us.point));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_viewer_that_has_not_moved_on_gives_no_sample() {
        let line = |t| format!(r#"{{"key":"a","updated_unix_ns":{t},"buffer_us":{{"point":7}}}}"#);
        let mut buffers = Buffers::new();
        for text in [line(1), line(1), format!("{}\nnonsense\n{{}}", line(2))] {
            take(&text, &mut buffers);
        }
        assert_eq!(buffers["a"], [(1, 7), (2, 7)]);
    }
}
