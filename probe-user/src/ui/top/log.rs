//! Keeps what is logged while the live view has the terminal: the latest lines, bounded.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

/// Lines kept; the oldest give way.
const KEPT_LINES: usize = 1_000;
/// Characters kept of one line.
const KEPT_LINE_CHARS: usize = 1_000;

/// The lines, shared between whoever logs and the view.
#[derive(Clone, Debug, Default)]
pub struct LogLines {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<String>,
    dropped: u64,
}

impl LogLines {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last `most` lines, latest last.
    pub fn latest(&self, most: usize) -> Vec<String> {
        let kept = self.lock();
        let skip = kept.lines.len().saturating_sub(most);
        kept.lines.iter().skip(skip).cloned().collect()
    }

    /// Hands all lines over, and says how many older ones were not kept.
    pub fn write_out(&self, to: &mut dyn Write) -> io::Result<()> {
        let Kept { lines, dropped } = std::mem::take(&mut *self.lock());
        if dropped > 0 {
            writeln!(to, "({dropped} earlier log lines were not kept)")?;
        }
        for line in lines {
            writeln!(to, "{line}")?;
        }
        to.flush()
    }
}

impl Write for LogLines {
    /// Takes one event, which the subscriber writes whole.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut kept = self.lock();
        for line in String::from_utf8_lossy(bytes).lines() {
            if kept.lines.len() == KEPT_LINES {
                kept.lines.pop_front();
                kept.dropped += 1;
            }
            let line = line.chars().take(KEPT_LINE_CHARS).collect();
            kept.lines.push_back(line);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogLines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_lines_are_kept_and_the_rest_is_counted() {
        let mut log = LogLines::default();
        for line in 0..KEPT_LINES + 5 {
            log.write_all(format!("line {line}\n").as_bytes()).unwrap();
        }
        assert_eq!(log.latest(1), [format!("line {}", KEPT_LINES + 4)]);
        let mut out = Vec::new();
        log.write_out(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.starts_with("(5 earlier log lines were not kept)\nline 5\n"),
            "{text:.80}"
        );
        assert!(log.latest(1).is_empty());
    }
}
