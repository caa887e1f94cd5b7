//! The central side of a schedule: one collector alone, or two with a NATS server behind them. They are
//! processes, and are lost as processes are.

use tempfile::TempDir;
use weir_tests::lab::nats::Nats;

use crate::common::centre::{Child, Collector};
use crate::faults::edge::Story;
use crate::faults::mischief::Mischief;

/// It ends with this value.
#[derive(Debug)]
pub(crate) struct Centre {
    collectors: Vec<Child>,
    /// The one that the edge is sent to.
    at: usize,
    nats: Option<Nats>,
    started: u32,
    directory: TempDir,
}

impl Centre {
    pub(crate) async fn start(has_engine: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        let nats = has_engine.then(|| blocking(|| Nats::start(&path, "").unwrap()));
        let mut centre = Self {
            collectors: Vec::new(),
            at: 0,
            nats,
            started: 0,
            directory,
        };
        for _ in 0..if has_engine { 2 } else { 1 } {
            let another = centre.another().await;
            centre.collectors.push(another);
        }
        centre
    }

    async fn another(&mut self) -> Child {
        self.started += 1;
        let name = format!("centre-{}", self.started);
        Child::start(self.directory.path(), &name, self.nats.as_ref()).await
    }

    pub(crate) fn has_engine(&self) -> bool {
        self.nats.is_some()
    }

    pub(crate) fn url(&self) -> String {
        self.collectors[self.at].seen.url()
    }

    /// All of them; each must say the same.
    pub(crate) fn collectors(&self) -> impl Iterator<Item = &Collector> {
        self.collectors.iter().map(|child| &child.seen)
    }

    /// One gets SIGKILL, mostly the one that the edge is connected to. Another comes.
    pub(crate) async fn lose_one(
        &mut self,
        random: &mut fastrand::Rng,
        mischief: &Mischief,
        story: &mut Story,
    ) {
        let place = if random.u32(0..3) > 0 {
            self.at
        } else {
            random.usize(0..self.collectors.len())
        };
        self.collectors.remove(place).kill();
        if self.has_engine() {
            // What was acknowledged is in the engine; the edge goes where somebody is.
            self.at = 0;
            mischief.redirect(self.url());
            mischief.cut();
        } else {
            story.has_lost_collector = true;
            mischief.cut();
        }
        let another = self.another().await;
        self.collectors.push(another);
        if !self.has_engine() {
            mischief.redirect(self.url());
        }
    }

    /// The edge is sent to another.
    pub(crate) fn move_edge(&mut self, mischief: &Mischief) {
        self.at = (self.at + 1) % self.collectors.len();
        mischief.redirect(self.url());
        mischief.cut();
    }

    /// The engine gets SIGKILL.
    pub(crate) fn lose_engine(&mut self) {
        if let Some(nats) = &mut self.nats {
            blocking(|| nats.kill().unwrap());
        }
    }

    pub(crate) fn resume_engine(&mut self) {
        if let Some(nats) = &mut self.nats {
            blocking(|| nats.resume().unwrap());
        }
    }
}

fn blocking<T>(what: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(what)
}
