//! The collector's own journal: what is ordered is on the disk before it is sent.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::at::At;
use crate::config::collect::Steer;
use crate::steer::central::{Central, Kept};
use crate::steer::journal::{Body, Entry, Journal, read};
use crate::steer::overrides::Order;
use crate::steer::overrides::order::MAX_TTL_S;

const SECOND_NS: u64 = 1_000_000_000;

/// What a collector that was here before has ordered.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// That may still be in force, the oldest first.
    pub(super) orders: Vec<(At, Order)>,
    /// That are not over.
    pub(super) rebalances: Vec<Kept>,
}

#[derive(Debug)]
struct Open {
    journal: Option<Journal>,
    error: String,
}

/// Writes on threads that may wait for the disk.
#[derive(Clone, Debug)]
pub(super) struct Keeper {
    file: PathBuf,
    open: Arc<Mutex<Open>>,
}

impl Keeper {
    /// Opens it and reads what is there. One that cannot be written keeps anything from being ordered,
    /// and nothing else.
    pub(super) fn open(config: &Steer, file: &Path, now: Now) -> (Self, Found) {
        let opened = Journal::open(file, config.journal_bound(), now.unix_ns, now.boot_ns);
        let (journal, error) = match opened {
            Ok(journal) => (Some(journal), String::new()),
            Err(err) => {
                let err = anyhow::Error::from(err);
                tracing::error!("nothing is ordered here: {err:#}");
                (None, format!("{err:#}"))
            }
        };
        let found = if journal.is_some() {
            found(file, now.unix_ns)
        } else {
            Found::default()
        };
        let open = Arc::new(Mutex::new(Open { journal, error }));
        let file = file.to_owned();
        (Self { file, open }, found)
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Why nothing can be written; empty: it can. And where it stands.
    pub(super) fn status(&self) -> (String, u64, String) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let journal = open.journal.as_ref();
        (
            open.error.clone(),
            journal.map_or(0, Journal::last_seq),
            journal.map_or_else(String::new, |journal| journal.last_hash().to_owned()),
        )
    }

    /// When it returns, all of it is on the disk.
    ///
    /// # Errors
    /// It is not, and why.
    pub(super) async fn write(&self, bodies: Vec<Body>) -> Result<(), String> {
        if bodies.is_empty() {
            return Ok(());
        }
        let open = Arc::clone(&self.open);
        let written = tokio::task::spawn_blocking(move || {
            let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
            let Open { journal, error } = &mut *open;
            let Some(journal) = journal else {
                return Err(error.clone());
            };
            let now = Now::read();
            for body in bodies {
                if let Err(err) = journal.append(body, now.unix_ns, now.boot_ns) {
                    *error = format!("{:#}", anyhow::Error::from(err));
                    return Err(error.clone());
                }
            }
            error.clear();
            Ok(())
        });
        match written.await {
            Ok(written) => written,
            Err(err) => Err(format!("writing the journal failed: {err}")),
        }
    }

    /// The same for what happens also when it cannot be written.
    pub(super) async fn note(&self, bodies: Vec<Body>) {
        if let Err(err) = self.write(bodies).await {
            tracing::error!("what happened is not written down: {err}");
        }
    }
}

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// `CLOCK_BOOTTIME`: never steps.
    pub(super) boot_ns: u64,
    pub(super) unix_ns: u64,
}

impl Now {
    pub(super) fn read() -> Self {
        use nix::time::{ClockId, clock_gettime};
        let boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map(std::time::Duration::from);
        let boot_ns = boot.map_or(0, |boot| u64::try_from(boot.as_nanos()).unwrap_or(u64::MAX));
        Self {
            boot_ns,
            unix_ns: crate::collect::known::unix_ns(),
        }
    }
}

fn found(file: &Path, now_unix_ns: u64) -> Found {
    let mut found = Found::default();
    let read = read(file, |entry| found.take(entry, now_unix_ns));
    if let Err(err) = read {
        tracing::error!("what was ordered before is not known: {err}");
    }
    found.rebalances.retain(|kept| !kept.phase.is_over());
    found
}

impl Found {
    fn take(&mut self, entry: &Entry, now_unix_ns: u64) {
        let Body::Central(central) = &entry.body else {
            return;
        };
        match &**central {
            Central::Ordered { at, order, .. } => {
                let most_ns = u64::from(MAX_TTL_S) * SECOND_NS;
                let is_of_now = order.created_unix_ns.saturating_add(most_ns) > now_unix_ns;
                if let (true, Ok(at)) = (is_of_now, at.parse()) {
                    self.orders.push((at, order.clone()));
                }
            }
            Central::Rebalance(kept) => {
                self.rebalances.retain(|own| own.plan.id != kept.plan.id);
                self.rebalances.push(kept.clone());
            }
            Central::Answered { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::outbox::tests::order;
    use super::*;
    use crate::steer::central::{Phase, Plan};
    use crate::steer::overrides::{Action, Auth};

    fn kept(id: &str, phase: Phase) -> Body {
        let plan = Plan {
            id: id.to_owned(),
            from: "a".to_owned(),
            to: "b".to_owned(),
            permille: 100,
            actor: "noc".to_owned(),
            auth: Auth::Certificate {
                name: "noc".to_owned(),
            },
            second: None,
            reason: "because".to_owned(),
            created_unix_ns: 1,
            ttl_s: 60,
            dead_time_s: 5,
            is_break_glass: false,
        };
        let canary = "h".to_owned();
        Body::Central(Box::new(Central::Rebalance(Kept {
            plan,
            phase,
            canary,
        })))
    }

    #[tokio::test]
    async fn what_was_ordered_is_found_again_and_what_is_over_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("steer.journal");
        let now = Now::read();
        let config = Steer::default();
        let (keeper, _) = Keeper::open(&config, &file, now);
        let ordered = |id: &str, created_unix_ns| {
            let mut order = order(id, Action::Drain, 0);
            order.created_unix_ns = created_unix_ns;
            Body::Central(Box::new(Central::Ordered {
                at: "fleet".to_owned(),
                hosts: 3,
                order,
            }))
        };
        let four_hours_ns = 4 * 3600 * SECOND_NS;
        let bodies = vec![
            ordered("old", now.unix_ns - four_hours_ns),
            ordered("new", now.unix_ns),
            kept("r1", Phase::Moving { stage: 0 }),
            kept("r2", Phase::Moved),
            kept("r1", Phase::Moving { stage: 1 }),
            kept("r2", Phase::Undone { why: String::new() }),
        ];
        keeper.write(bodies).await.unwrap();
        assert_eq!(keeper.status().1, 7);
        drop(keeper);
        let (_, found) = Keeper::open(&config, &file, now);
        let ids: Vec<_> = found.orders.iter().map(|(_, order)| &*order.id).collect();
        assert_eq!(ids, ["new"]);
        let [only] = &found.rebalances[..] else {
            panic!("{found:?}");
        };
        assert_eq!(
            (&*only.plan.id, &only.phase),
            ("r1", &Phase::Moving { stage: 1 })
        );
    }

    #[tokio::test]
    async fn a_journal_that_cannot_be_had_is_told_of_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("no").join("steer.journal");
        let (keeper, _) = Keeper::open(&Steer::default(), &file, Now::read());
        let why = keeper
            .write(vec![Body::Note(String::new())])
            .await
            .unwrap_err();
        assert!(why.contains("steer.journal"), "{why}");
        assert_eq!(keeper.status().0, why);
    }
}
