//! Real players that ask where to fetch from.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use weir_tests::qoe::ladder::Container;
use weir_tests::qoe::players::{Event, Players, Report, Reports};
use weir_tests::qoe::scenario::{
    Cmcd, Door, Expected, Player, Session, Set, Stream, Tier, Transport,
};

use super::edges::Edges;

/// As long as the programme lasts, nearly.
const STAY_MS: u32 = 115_000;
/// In the URLs at which players ask.
const STEERING: [&str; 3] = ["/weir-steering", "/steer", "/failing/"];
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Viewers {
    players: Players,
    reports: Reports,
    seen: HashMap<String, Vec<Report>>,
}

impl Viewers {
    pub(crate) fn start(edges: &Edges) -> Result<Self> {
        let dir = edges.dir();
        let mut reports = Reports::new(&dir.join("reports.jsonl"))?;
        let log = dir.join("players.log");
        let players = Players::start(None, &edges.page(), &log, &mut reports)?;
        Ok(Self {
            players,
            reports,
            seen: HashMap::new(),
        })
    }

    /// Lets one begin, whose player is told of these pathways and asks at `steering`.
    pub(crate) fn play(
        &mut self,
        edges: &Edges,
        programme: &Path,
        viewer: &str,
        player: Player,
        pathways: &[&str],
        steering: &str,
    ) -> Result<()> {
        let url = edges.playlist(programme, viewer, player, pathways, steering)?;
        self.players
            .play(&session(viewer, player), &[url.clone(), url])
    }

    /// Waits until `holds`, while the players report.
    pub(crate) fn until(
        &mut self,
        what: &str,
        patience: Duration,
        mut holds: impl FnMut() -> Result<bool>,
    ) -> Result<Duration> {
        let begin = Instant::now();
        while !holds()? {
            if begin.elapsed() > patience {
                bail!("waited {patience:?} in vain: {what}; {:?}", self.faults());
            }
            let next = Instant::now() + LOOK_EVERY;
            while let Some(report) = self
                .reports
                .next(next.saturating_duration_since(Instant::now()))?
            {
                self.seen.entry(report.id.clone()).or_default().push(report);
            }
        }
        Ok(begin.elapsed())
    }

    /// What each player complained of, and how often it stalled.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut told = Vec::new();
        for (viewer, reports) in &self.seen {
            for report in reports {
                match &report.event {
                    Event::Stall { ahead } => told.push(format!("{viewer} stalls, {ahead} ahead")),
                    Event::Error { .. } | Event::Closed => {
                        told.push(format!("{viewer}: {:?}", report.event));
                    }
                    _ => {}
                }
            }
        }
        told
    }

    /// Those who could not go on. That nobody told it where to go is no such fault, though dash.js
    /// says it as one.
    pub(crate) fn broken(&self) -> Vec<&str> {
        let is_broken = |report: &Report| match &report.event {
            Event::Error { fatal, details, .. } => {
                *fatal && !STEERING.iter().any(|path| details.contains(path))
            }
            _ => false,
        };
        let broken = self
            .seen
            .iter()
            .filter(|(_, all)| all.iter().any(is_broken));
        broken.map(|(viewer, _)| viewer.as_str()).collect()
    }
}

fn session(viewer: &str, player: Player) -> Session {
    Session {
        name: viewer.to_owned(),
        scenario: "steered".to_owned(),
        set: Set::Training,
        tier: Tier::T0,
        player,
        container: Container::Muxed,
        stream: Stream::Vod,
        transport: Transport::Clear,
        cmcd: Cmcd::None,
        cmcd_version: 1,
        congestion: "cubic",
        narrow: false,
        link: Vec::new(),
        faults: Vec::new(),
        door: Door::Open,
        stay_ms: STAY_MS,
        seeks: Vec::new(),
        pauses: Vec::new(),
        restarts_ms: Vec::new(),
        backgrounds: Vec::new(),
        company: None,
        is_named: true,
        expected: Expected::default(),
        seed: 1,
    }
}
