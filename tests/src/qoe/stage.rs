//! The lab of a run, and the sessions in it: as many at once as the machine carries, each on its
//! own path, whose link and origin change as the session's plan says.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::{Path as FilePath, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;

use super::narrow;
use super::origin::{Fault, Origin};
use super::path::{self, Path};
use super::players::{Event, Players, Report, Reports, directory};
use super::scenario::{COMPANION, Session};
use super::servers::{self, Edge, ORIGIN_PORT};
use super::trace::Step;
use super::truth::Truth;
use crate::lab::link::Lab;
use crate::lab::netns::Netns;
use crate::lab::shaper::Shape;

/// Players at once: what two processors decode without dropping frames.
pub(super) const AT_ONCE: usize = 7;
/// Between two starts, so that pages do not load all at once.
const BETWEEN_STARTS: Duration = Duration::from_millis(700);
/// How old a live stream is when its viewer comes: the window is full.
const LIVE_AGE: Duration = Duration::from_secs(20);
/// Beyond its stay, a session that is not over has failed.
const OVERDUE: Duration = Duration::from_secs(45);

/// A session that was played.
#[derive(Clone, Debug)]
pub struct Played {
    /// As it was planned.
    pub session: Session,
    /// From where.
    pub client: Ipv4Addr,
    /// What its player says happened.
    pub truth: Truth,
    /// What its second player says, if it has one.
    pub company: Option<Truth>,
}

/// Everything that a run needs and that is not weir.
#[derive(Debug)]
pub struct Stage {
    // Dropped in this order: the viewers before what they call.
    players: Players,
    /// Those in a place of little room, if any session wants it.
    narrow: Option<(Players, Netns)>,
    reports: Reports,
    edge: Edge,
    origin: Origin,
    lab: Lab,
    /// With their paths, in the order in which they are to be played.
    sessions: Vec<(Session, Path)>,
}

/// Something that a session's plan has for a moment.
#[derive(Clone, Copy, Debug)]
enum Change {
    Link(Step),
    Origin(Fault),
}

/// A session that is being played.
struct Running {
    session: Session,
    path: Path,
    asked: Instant,
    /// When the player said that it had its URL.
    loaded: Option<Instant>,
    /// Latest first.
    changes: Vec<(Duration, Change)>,
    reports: Vec<Report>,
    /// Of the second player.
    of_company: Vec<Report>,
}

impl Stage {
    /// Sets it up for these sessions. The access log's lines also go to the Unix datagram socket
    /// `log_socket`; all that the players report is kept in the file `reports`.
    ///
    /// # Errors
    /// A part does not start.
    pub fn set(
        programme: &FilePath,
        log_socket: Option<&FilePath>,
        sessions: Vec<Session>,
        reports: &FilePath,
    ) -> Result<Self> {
        let lab = Lab::with_relay(Shape::default(), 1)?;
        // Otherwise the kernel would raise a window beyond what a path allows; the room is what it
        // would come to.
        lab.client.sysctl("net/ipv4/tcp_moderate_rcvbuf", "0")?;
        lab.client
            .sysctl("net/ipv4/tcp_rmem", "4096 4194304 6291456")?;
        // A handshake is given up after eight seconds, not after a minute.
        lab.server.sysctl("net/ipv4/tcp_synack_retries", "2")?;
        let narrow = sessions.iter().any(|session| session.narrow);
        let narrow = narrow.then(|| narrow::join(&lab)).transpose()?;
        let paths = path::make(&lab, narrow.as_ref(), &sessions)?;
        let origin = Origin::start(&lab.server, ORIGIN_PORT, programme)?;
        let edge = Edge::start(&lab, programme, &directory(), log_socket)?;
        let mut reports = Reports::new(reports)?;
        let mut browser = |netns: &Netns, log| {
            let log = lab.dir().join(log);
            Players::start(Some(netns), &servers::page(), &log, &mut reports)
        };
        let players = browser(&lab.client, "players.log")?;
        let narrow = match narrow {
            Some(netns) => Some((browser(&netns, "players-narrow.log")?, netns)),
            None => None,
        };
        Ok(Self {
            players,
            narrow,
            reports,
            edge,
            origin,
            lab,
            sessions: sessions.into_iter().zip(paths).collect(),
        })
    }

    /// The browser, as it names itself.
    pub fn browser(&self) -> &str {
        &self.players.version
    }

    /// Where the access log of all sessions is.
    pub fn access_log(&self) -> PathBuf {
        self.edge.log().to_owned()
    }

    /// Plays all sessions; `over` is told of each as it ends.
    ///
    /// # Errors
    /// The lab breaks; a session that fails is in its truth.
    pub fn play(&mut self, mut over: impl FnMut(&Played)) -> Result<Vec<Played>> {
        let mut waiting = std::mem::take(&mut self.sessions).into_iter();
        let mut running: HashMap<String, Running> = HashMap::new();
        let mut played = Vec::new();
        let mut next_start = Instant::now();
        let mut more = true;
        while more || !running.is_empty() {
            if more && running.len() < AT_ONCE && next_start <= Instant::now() {
                next_start = Instant::now() + BETWEEN_STARTS;
                match waiting.next() {
                    Some((session, path)) => {
                        let started = self.start(session, path)?;
                        running.insert(started.session.name.clone(), started);
                    }
                    None => more = false,
                }
            }
            let mut soonest = Duration::from_millis(50);
            for one in running.values_mut() {
                soonest = soonest.min(one.act(&self.lab, &self.origin));
            }
            let overdue = |_: &String, one: &mut Running| one.is_overdue();
            for (_, one) in running.extract_if(overdue) {
                // Without its last report it is void, and the run fails for it.
                played.push(one.end(&self.lab));
            }
            let Some(report) = self.reports.next(soonest)? else {
                continue;
            };
            if let Some(name) = report.id.strip_suffix(COMPANION) {
                if let Some(one) = running.get_mut(name) {
                    one.of_company.push(report);
                }
                continue;
            }
            let Some(one) = running.get_mut(&report.id) else {
                continue;
            };
            let closed = report.event == Event::Closed;
            if report.event == Event::Load && one.loaded.is_none() {
                one.loaded = Some(Instant::now());
            }
            let name = report.id.clone();
            one.reports.push(report);
            if closed && let Some(one) = running.remove(&name) {
                let done = one.end(&self.lab);
                over(&done);
                played.push(done);
            }
        }
        Ok(played)
    }

    fn start(&mut self, session: Session, path: Path) -> Result<Running> {
        if let Some((0, fault)) = session.faults.first() {
            self.origin.set(&session.name, *fault);
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let began = u64::try_from(now.saturating_sub(LIVE_AGE).as_millis())?;
        let urls = servers::urls(&session, path.server, began);
        let players = match &mut self.narrow {
            Some((players, _)) if session.narrow => players,
            _ => &mut self.players,
        };
        players.play(&session, &urls)?;
        let at = |ms: u32| Duration::from_millis(ms.into());
        let mut changes: Vec<(Duration, Change)> = session
            .link
            .iter()
            .map(|step| (at(step.at_ms), Change::Link(*step)))
            .chain(
                session
                    .faults
                    .iter()
                    .map(|(ms, fault)| (at(*ms), Change::Origin(*fault))),
            )
            .collect();
        changes.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        Ok(Running {
            session,
            path,
            asked: Instant::now(),
            loaded: None,
            changes,
            reports: Vec::new(),
            of_company: Vec::new(),
        })
    }

    /// Lets the browsers end.
    ///
    /// # Errors
    /// One does not.
    pub fn finish(self) -> Result<()> {
        if let Some((players, _netns)) = self.narrow {
            players.finish()?;
        }
        self.players.finish()
    }
}

impl Running {
    fn is_overdue(&self) -> bool {
        self.asked.elapsed() > Duration::from_millis(self.session.stay_ms.into()) + OVERDUE
    }

    fn end(self, lab: &Lab) -> Played {
        self.path.leave(lab);
        Played {
            truth: Truth::of(&self.reports),
            company: self.session.company.map(|_| Truth::of(&self.of_company)),
            session: self.session,
            client: self.path.client,
        }
    }

    /// Makes the changes that are due; returns how long until the next.
    fn act(&mut self, lab: &Lab, origin: &Origin) -> Duration {
        let Some(loaded) = self.loaded else {
            return Duration::MAX;
        };
        while let Some((at, change)) = self.changes.last().copied() {
            let left = at.saturating_sub(loaded.elapsed());
            if !left.is_zero() {
                return left;
            }
            self.changes.pop();
            match change {
                Change::Link(step) => self.path.shape(lab, step),
                Change::Origin(fault) => origin.set(&self.session.name, fault),
            }
        }
        Duration::MAX
    }
}
