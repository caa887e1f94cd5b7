//! The sweep's two ways past the sessions: those in which something is open, and all of them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{IterLink, namespaces};

/// The walks, each a link of the same program to another map; or one past all sockets.
pub(super) struct Walks {
    /// Past the sessions with a mark; none: this kernel lets no program walk a map.
    open: Option<Walk>,
    /// Past every session that is tracked.
    all: Walk,
    /// All are to be looked at, as soon as it can be done.
    wants_all: bool,
    /// Marks that could not be made, as of the last sweep.
    marks_refused: u64,
}

impl Walks {
    /// The walk past open sessions may take a tenth of a core: it finds what is late. That past all
    /// is for those that are left out to keep within a budget, and may not cost much itself.
    pub(super) fn new(open: IterLink, all: IterLink) -> Self {
        Self {
            open: Some(Walk::new(Way::Map(open), PART_FOR_OPEN)),
            all: Walk::new(Way::Map(all), 50),
            wants_all: false,
            marks_refused: 0,
        }
    }

    /// One walk for both: past every TCP socket of every network namespace.
    pub(super) fn past_sockets(sockets: IterLink) -> Self {
        let sockets = Way::Sockets(sockets, Namespaces::default());
        Self {
            open: None,
            all: Walk::new(sockets, PART_FOR_OPEN),
            wants_all: false,
            marks_refused: 0,
        }
    }

    /// The filter has changed: every session is to be judged again by the next sweep.
    pub(super) fn judge_all(&mut self) {
        self.wants_all = true;
    }

    /// The walk that costs least.
    pub(super) fn shortest(&self) -> &IterLink {
        match &self.open.as_ref().unwrap_or(&self.all).way {
            Way::Map(link) | Way::Sockets(link, _) => link,
        }
    }

    /// Walks. `is_thinned`: only a share of the sessions is followed, and the others are to be
    /// looked at. `marks_refused`: those that could not be made until now.
    pub(super) fn sweep(&mut self, is_thinned: bool, marks_refused: u64) -> Result<()> {
        let now = Instant::now();
        // Something is open on a session without a mark.
        self.wants_all |= marks_refused != self.marks_refused;
        self.marks_refused = marks_refused;
        let needs_all = is_thinned || self.open.is_none();
        if self.wants_all || (needs_all && self.all.pace.is_due(now)) {
            self.all.run(now).context("walking all sessions")?;
            self.wants_all = false;
        } else if let Some(open) = self.open.as_mut().filter(|open| open.pace.is_due(now)) {
            open.run(now).context("walking the open sessions")?;
        }
        Ok(())
    }
}

/// The walk that finds what is late may take a tenth of a core.
const PART_FOR_OPEN: u32 = 10;

/// What a walk goes past.
enum Way {
    /// The sockets that have something in a map.
    Map(IterLink),
    /// All sockets of each network namespace.
    Sockets(IterLink, Namespaces),
}

impl Way {
    fn run(&mut self) -> Result<()> {
        match self {
            Self::Map(link) => Ok(link.run()?),
            Self::Sockets(link, others) => {
                link.run()?;
                // One that cannot be entered was told of when its sockets were first looked for.
                let failed =
                    |other: &namespaces::Other, error| tracing::debug!("{other}: {error:#}");
                namespaces::enter_all(others.known(), || Ok(link.run()?), failed);
                Ok(())
            }
        }
    }
}

/// The other network namespaces, looked up again when some time has passed.
#[derive(Default)]
struct Namespaces {
    known: Vec<namespaces::Other>,
    looked: Option<Instant>,
}

impl Namespaces {
    /// A new one is found that much later. Looking takes a call for each process of the host.
    const KEPT: Duration = Duration::from_secs(2);

    fn known(&mut self) -> &[namespaces::Other] {
        if self
            .looked
            .is_none_or(|looked| looked.elapsed() >= Self::KEPT)
        {
            self.known = namespaces::others(namespaces::own().unwrap_or(0));
            self.looked = Some(Instant::now());
        }
        &self.known
    }
}

struct Walk {
    way: Way,
    pace: Pace,
}

impl Walk {
    fn new(way: Way, part_of_core: u32) -> Self {
        Self {
            way,
            pace: Pace {
                part_of_core,
                due: None,
            },
        }
    }

    fn run(&mut self, begin: Instant) -> Result<()> {
        self.way.run()?;
        self.pace.took(begin, begin.elapsed());
        Ok(())
    }
}

/// Keeps what is done again and again to a part of a processor's time.
struct Pace {
    /// A tenth: 10.
    part_of_core: u32,
    due: Option<Instant>,
}

impl Pace {
    fn is_due(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| now >= due)
    }

    fn took(&mut self, begin: Instant, took: Duration) {
        self.due = begin.checked_add(took.saturating_mul(self.part_of_core));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_done_again_the_later_for_it() {
        let begin = Instant::now();
        let mut pace = Pace {
            part_of_core: 10,
            due: None,
        };
        assert!(pace.is_due(begin), "nothing is known of its cost");
        pace.took(begin, Duration::from_millis(1));
        assert!(pace.is_due(begin + Duration::from_millis(250)));
        pace.took(begin, Duration::from_millis(100));
        assert!(!pace.is_due(begin + Duration::from_millis(999)));
        assert!(pace.is_due(begin + Duration::from_secs(1)));
    }
}
