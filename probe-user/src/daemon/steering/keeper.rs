//! The journal's keeper: a thread that may wait for the disk, and what is done while it does.
//!
//! What cannot be written within two seconds is owed: it is kept, within a bound, and written later, and
//! until then nothing moves but towards neutral.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::oneshot;

use crate::steer::journal::{Body, Bound, Draft, Error, Journal, MAX_LINE_BYTES, Permit, Written};

/// The disk has so long to take entries before the gate goes on without it.
const PATIENCE: Duration = Duration::from_secs(2);
/// After a failure, the disk is left alone for so long.
const RETRY: Duration = Duration::from_secs(1);
/// Entries that are owed to the journal; beyond, the oldest are lost and counted.
const OWED: usize = 512;

type Done = Result<Vec<Written>, String>;

enum Job {
    Write(Vec<Draft>, oneshot::Sender<Done>),
    Bound(Bound),
}

/// The way to the journal.
#[derive(Debug)]
pub(super) struct Keeper {
    /// None: there is no journal.
    to: Option<mpsc::Sender<Job>>,
    file: PathBuf,
    owed: VecDeque<Draft>,
    /// What the thread is at, since it did not answer in time.
    under_way: Option<(Vec<Draft>, oneshot::Receiver<Done>)>,
    failed: Option<(Instant, String)>,
    pub(super) unwritten: u64,
    pub(super) latest: Option<Written>,
    /// What was written and not yet fetched.
    written: Vec<(Draft, Written)>,
}

impl Keeper {
    /// Without a file nothing is kept, and nothing moves.
    pub(super) fn start(file: Option<&Path>, bound: Bound) -> anyhow::Result<Self> {
        let to = match file {
            None => None,
            Some(file) => {
                let (to, jobs) = mpsc::channel();
                let file = file.to_owned();
                std::thread::Builder::new()
                    .name("weir-journal".to_owned())
                    .spawn(move || keep(&file, bound, &jobs))
                    .context("cannot start the journal's thread")?;
                Some(to)
            }
        };
        Ok(Self {
            to,
            file: file.map(Path::to_owned).unwrap_or_default(),
            owed: VecDeque::new(),
            under_way: None,
            failed: None,
            unwritten: 0,
            latest: None,
            written: Vec::new(),
        })
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    pub(super) fn has_journal(&self) -> bool {
        self.to.is_some()
    }

    /// Why nothing can be written now; none: it can.
    pub(super) fn error(&self) -> Option<String> {
        if self.to.is_none() {
            return Some(
                "steer.journal_file is not set: what moves traffic is written down first, so \
                 nothing moves"
                    .to_owned(),
            );
        }
        self.failed.as_ref().map(|(_, why)| why.clone())
    }

    /// Whether something is owed that may be tried again.
    pub(super) fn owes(&self) -> bool {
        self.to.is_some() && (self.under_way.is_some() || !self.owed.is_empty())
    }

    pub(super) fn set_bound(&self, bound: Bound) {
        if let Some(to) = &self.to {
            // Fails only if the thread is gone, which the next entry tells.
            let _ = to.send(Job::Bound(bound));
        }
    }

    /// What was written since this was asked last.
    pub(super) fn fetch(&mut self) -> Vec<(Draft, Written)> {
        std::mem::take(&mut self.written)
    }

    /// Writes `drafts` after all that is owed. With [`Permit::Any`] they are on the disk; otherwise
    /// they are owed, but for positions: those will not be held.
    pub(super) async fn write(&mut self, drafts: Vec<Draft>) -> Permit {
        if self.to.is_none() {
            let unkept = |draft| {
                let nowhere = Written {
                    seq: 0,
                    hash: String::new(),
                };
                (draft, nowhere)
            };
            self.written.extend(drafts.into_iter().map(unkept));
            return Permit::TowardsNeutral;
        }
        self.look_after_what_is_under_way();
        let is_resting = matches!(&self.failed, Some((since, _)) if since.elapsed() < RETRY);
        if self.under_way.is_some() || is_resting {
            self.owe(drafts);
            return Permit::TowardsNeutral;
        }
        let mut all: Vec<_> = self.owed.drain(..).collect();
        all.extend(drafts);
        if all.is_empty() {
            return Permit::Any;
        }
        let (reply, mut done) = oneshot::channel();
        let job = Job::Write(all.clone(), reply);
        if self.to.as_ref().is_none_or(|to| to.send(job).is_err()) {
            self.fail(all, "its thread has ended".to_owned());
            return Permit::TowardsNeutral;
        }
        if let Ok(done) = tokio::time::timeout(PATIENCE, &mut done).await {
            return self.done(all, done.unwrap_or_else(|_| Err(gone())));
        }
        let why = format!(
            "cannot write the journal {}: its disk did not answer within {} s",
            self.file.display(),
            PATIENCE.as_secs()
        );
        tracing::error!("{why}; gates only go back to neutral until it does");
        self.failed = Some((Instant::now(), why));
        self.under_way = Some((all, done));
        Permit::TowardsNeutral
    }

    /// Keeps for later what cannot be written now.
    pub(super) fn owe(&mut self, drafts: Vec<Draft>) {
        if self.to.is_none() {
            return;
        }
        for draft in drafts {
            if matches!(draft.body, Body::Position(_)) {
                continue;
            }
            // Of checkpoints only the latest says anything.
            if matches!(draft.body, Body::Checkpoint(_)) {
                self.owed
                    .retain(|own| !matches!(own.body, Body::Checkpoint(_)));
            }
            self.owe_one(draft);
        }
    }

    /// What was owed of an order is not, as it was not taken.
    pub(super) fn disown(&mut self, order: &str) {
        let is_its = |own: &Draft| matches!(&own.body, Body::Order(own) if own.id == order);
        self.owed.retain(|own| !is_its(own));
    }

    /// The same for a position that is held: it goes towards neutral.
    pub(super) fn owe_one(&mut self, draft: Draft) {
        if self.to.is_none() {
            return;
        }
        if self.owed.len() >= OWED {
            self.owed.pop_front();
            self.unwritten += 1;
        }
        self.owed.push_back(draft);
    }

    fn look_after_what_is_under_way(&mut self) {
        let Some((drafts, mut done)) = self.under_way.take() else {
            return;
        };
        match done.try_recv() {
            Ok(done) => {
                self.done(drafts, done);
            }
            Err(oneshot::error::TryRecvError::Empty) => self.under_way = Some((drafts, done)),
            Err(oneshot::error::TryRecvError::Closed) => {
                self.done(drafts, Err(gone()));
            }
        }
    }

    fn done(&mut self, drafts: Vec<Draft>, done: Done) -> Permit {
        match done {
            Ok(written) => {
                if self.failed.take().is_some() {
                    tracing::info!(file = %self.file.display(), "the journal can be written again");
                }
                if let Some(latest) = written.last() {
                    self.latest = Some(latest.clone());
                }
                self.written.extend(drafts.into_iter().zip(written));
                Permit::Any
            }
            Err(why) => {
                self.fail(drafts, why);
                Permit::TowardsNeutral
            }
        }
    }

    fn fail(&mut self, drafts: Vec<Draft>, why: String) {
        if self.failed.is_none() {
            tracing::error!(
                "{why}; gates only go back to neutral until it can be written: free space or \
                 repair the disk, or name another steer.journal_file and restart"
            );
        }
        self.failed = Some((Instant::now(), why));
        // What was owed before goes back to where it was.
        let newer: Vec<_> = self.owed.drain(..).collect();
        self.owe(drafts);
        self.owe(newer);
    }
}

fn gone() -> String {
    "the journal's thread has ended".to_owned()
}

/// Writes until nobody wants anything written any more.
fn keep(file: &Path, mut bound: Bound, jobs: &mpsc::Receiver<Job>) {
    let mut journal = None;
    while let Ok(job) = jobs.recv() {
        match job {
            Job::Bound(new) => {
                bound = new;
                if let Some(journal) = &mut journal {
                    Journal::set_bound(journal, bound);
                }
            }
            Job::Write(drafts, reply) => {
                let done = write(file, bound, &mut journal, drafts);
                // Whoever asked may have ended.
                let _ = reply.send(done.map_err(|err| said(&err)));
            }
        }
    }
}

fn write(
    file: &Path,
    bound: Bound,
    journal: &mut Option<Journal>,
    mut drafts: Vec<Draft>,
) -> Result<Vec<Written>, Error> {
    let Some(first) = drafts.first() else {
        return Ok(Vec::new());
    };
    let open = match journal {
        Some(open) => open,
        None => journal.insert(Journal::open(file, bound, first.unix_ns, first.boot_ns)?),
    };
    match open.append_all(&drafts) {
        Err(Error::TooLong { .. }) => {
            drafts.iter_mut().for_each(shorten);
            open.append_all(&drafts)
        }
        done => done,
    }
}

/// What does not fit into a line is told of, at least.
fn shorten(draft: &mut Draft) {
    let bytes = serde_json::to_string(&draft.body).map_or(usize::MAX, |text| text.len());
    if bytes > MAX_LINE_BYTES - 1024 {
        draft.body = Body::Note(format!("an entry of {bytes} bytes is too long to be kept"));
    }
}

/// With what is behind it.
fn said(err: &Error) -> String {
    let mut text = err.to_string();
    let mut cause = std::error::Error::source(err);
    while let Some(why) = cause {
        text.push_str(": ");
        text.push_str(&why.to_string());
        cause = why.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(text: &str) -> Draft {
        Draft {
            body: Body::Note(text.to_owned()),
            unix_ns: 1,
            boot_ns: 1,
        }
    }

    #[tokio::test]
    async fn what_the_disk_does_not_take_is_owed_and_written_in_order_when_it_does() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("there/steer.journal");
        let mut keeper = Keeper::start(Some(&file), Bound::default()).unwrap();
        let permit = keeper.write(vec![note("one")]).await;
        assert_eq!(permit, Permit::TowardsNeutral);
        let why = keeper.error().unwrap();
        assert!(why.contains("there/steer.journal"), "{why}");
        keeper.owe(vec![note("two")]);
        std::fs::create_dir(dir.path().join("there")).unwrap();
        // It is not asked at once again.
        let permit = keeper.write(vec![note("three")]).await;
        assert_eq!(permit, Permit::TowardsNeutral);
        tokio::time::sleep(RETRY).await;
        assert_eq!(keeper.write(Vec::new()).await, Permit::Any);
        assert_eq!((keeper.error(), keeper.owes()), (None, false));
        let mut notes = Vec::new();
        let verified = crate::steer::journal::read(&file, |entry| {
            if let Body::Note(text) = &entry.body {
                notes.push(text.clone());
            }
        });
        assert!(verified.unwrap().is_sound());
        assert_eq!(notes, ["one", "two", "three"]);
        assert_eq!(keeper.fetch().len(), 3);
    }

    #[tokio::test]
    async fn what_is_owed_is_bounded_and_what_is_lost_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("nowhere/j");
        let mut keeper = Keeper::start(Some(&file), Bound::default()).unwrap();
        keeper.write(vec![note("first")]).await;
        for n in 0..OWED + 9 {
            keeper.owe(vec![note(&n.to_string())]);
        }
        assert_eq!((keeper.owed.len(), keeper.unwritten), (OWED, 10));
    }

    #[tokio::test]
    async fn without_a_journal_nothing_may_move_and_it_says_why() {
        let mut keeper = Keeper::start(None, Bound::default()).unwrap();
        let permit = keeper.write(vec![note("x")]).await;
        assert_eq!(permit, Permit::TowardsNeutral);
        assert!(keeper.error().unwrap().contains("steer.journal_file"));
        assert!(!keeper.owes());
    }
}
