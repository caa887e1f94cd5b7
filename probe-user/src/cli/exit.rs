//! What a command's end means to the shell that started it.

use std::io;
use std::process::ExitCode;

use crate::kernel::diagnosis::Health;

/// How a command ended, if it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it should.
    Done,
    /// The doctor's verdict.
    Examined(Health),
    /// It was done as far as it goes: of a recording something is missing, of hosts not all obey.
    Incomplete,
    /// An order waits for a second person.
    Waits,
}

/// The exit status, as `weir --help` documents it; an error goes to standard error, but for a
/// reader that has seen enough.
pub fn conclude(result: anyhow::Result<Outcome>) -> ExitCode {
    match result {
        Ok(outcome) => ExitCode::from(status(outcome)),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn status(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Done | Outcome::Examined(Health::Exact) => 0,
        Outcome::Examined(Health::Degraded) => 3,
        Outcome::Examined(Health::Unable) => 4,
        Outcome::Incomplete => 5,
        Outcome::Waits => 6,
    }
}

/// Whether the reader of standard output went away. Errors of connections are never of this kind:
/// they carry text only (`QueryError`).
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_output_that_broke_ends_silently() {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(is_broken_pipe(&anyhow::Error::from(broken())));
        assert!(!is_broken_pipe(&anyhow::anyhow!("{}", broken())));
        assert!(!is_broken_pipe(
            &io::Error::from(io::ErrorKind::NotFound).into()
        ));
    }

    #[test]
    fn the_doctor_tells_degraded_from_unable() {
        let of = |health| status(Outcome::Examined(health));
        assert_eq!(of(Health::Exact), 0);
        assert_eq!(of(Health::Degraded), 3);
        assert_eq!(of(Health::Unable), 4);
    }

    #[test]
    fn a_recording_with_something_missing_is_told_from_a_whole_one() {
        assert_eq!(status(Outcome::Done), 0);
        assert_eq!(status(Outcome::Incomplete), 5);
        assert_eq!(status(Outcome::Waits), 6);
    }
}
