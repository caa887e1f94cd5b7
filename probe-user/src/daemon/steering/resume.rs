//! What holds after a start, from the journal: orders that are not over, and numbers that go on.
//! Weights are neutral.

use std::path::Path;

use crate::steer::journal::{Body, Checkpoint, read};
use crate::steer::overrides::{Book, Moment};
use crate::steer::policy::State;

/// Each start begins at a number that is that much rounder: what was moved towards neutral while
/// nothing could be written has no number twice.
const START: u64 = 1000;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Resumed {
    pub(super) state: State,
    /// Orders that hold again.
    pub(super) orders: usize,
}

/// Reads the journal; without one, or one that is damaged, nothing holds.
pub(super) fn resume(file: Option<&Path>, now: &Moment) -> Resumed {
    let Some(file) = file.filter(|file| file.exists()) else {
        return Resumed::default();
    };
    let mut checkpoint: Option<Checkpoint> = None;
    let (mut generation, mut decisions) = (0, 0);
    let found = read(file, |entry| match &entry.body {
        Body::Checkpoint(own) => {
            generation = generation.max(own.generation);
            decisions = decisions.max(own.decisions);
            checkpoint = Some(own.clone());
        }
        Body::Position(own) => generation = generation.max(own.generation),
        Body::Decision(own) => {
            let number = own.id.strip_prefix('d').and_then(|id| id.parse().ok());
            decisions = decisions.max(number.unwrap_or(0));
        }
        _ => {}
    });
    let is_sound = match found {
        Ok(verified) => verified.is_sound(),
        Err(err) => {
            tracing::error!(file = %file.display(), "the journal cannot be read: {err}");
            false
        }
    };
    let book = match checkpoint {
        Some(own) if is_sound => own.book.restored(&own.kept, now),
        Some(own) if !own.book.orders().is_empty() => {
            tracing::error!(
                file = %file.display(),
                "the journal is not as it was written (`weir journal verify`): its orders do not \
                 hold any longer; give them again"
            );
            Book::default()
        }
        _ => Book::default(),
    };
    let generation = (generation / START).saturating_add(1).saturating_mul(START);
    Resumed {
        orders: book.orders().len(),
        state: State::resumed(book, generation, decisions),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steer::Position;
    use crate::steer::journal::{Bound, Journal};
    use crate::steer::overrides::Action;
    use crate::steer::overrides::tests::{moment, order};

    fn written(file: &Path) {
        let mut book = Book::default();
        book.admit(order("kept", Action::Drain), &moment(100))
            .unwrap();
        let mut short = order("short", Action::Hold);
        short.ttl_s = 5;
        book.admit(short, &moment(100)).unwrap();
        let mut journal = Journal::open(file, Bound::default(), 1, 1).unwrap();
        let checkpoint = Checkpoint {
            book,
            generation: 7,
            decisions: 3,
            kept: moment(100),
        };
        journal.append(Body::Checkpoint(checkpoint), 1, 1).unwrap();
        let position = Position {
            generation: 1012,
            ..Position::default()
        };
        journal.append(Body::Position(position), 1, 1).unwrap();
    }

    #[test]
    fn orders_that_are_not_over_hold_again_and_weights_and_old_numbers_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("j");
        written(&file);
        let resumed = resume(Some(&file), &moment(200));
        assert_eq!(resumed.orders, 1);
        assert_eq!(resumed.state.book.orders()[0].order.id, "kept");
        assert!(resumed.state.position.is_neutral());
        assert_eq!(resumed.state.position.generation, 2000);
        assert_eq!(resumed.state.decisions, 3);
    }

    #[test]
    fn a_journal_that_was_changed_gives_no_orders_and_still_newer_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("j");
        written(&file);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("1012", "1013")).unwrap();
        let resumed = resume(Some(&file), &moment(200));
        assert_eq!(resumed.orders, 0);
        assert!(resumed.state.position.generation >= 1000);
        let none = resume(Some(&dir.path().join("none")), &moment(1));
        assert_eq!((none.orders, none.state.position.generation), (0, 0));
    }
}
