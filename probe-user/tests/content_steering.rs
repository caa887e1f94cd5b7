//! hls.js and dash.js in a browser, asking weir's gate where to fetch from, and two hosts whose
//! access logs say where they did. Needs nginx, Chromium and the players (`cargo xtask setup`), and
//! no privileges.

mod steered {
    pub(crate) mod edges;
    pub(crate) mod holder;
    pub(crate) mod viewers;

    use std::time::Duration;

    /// The test that holds a gate, by name.
    pub(crate) const HOLDS: &str = "holds_the_gate_for_the_others";
    /// As short as can be configured.
    pub(crate) const TTL_S: u32 = 5;
    /// Several times until players ask again, and what they have buffered.
    pub(crate) const PATIENCE: Duration = Duration::from_secs(40);
}

use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use steered::edges::{Edges, FAILURES, HERE, Served, THERE, programme};
use steered::holder::{Holder, hold};
use steered::viewers::Viewers;
use steered::{PATIENCE, TTL_S};
use weir_tests::qoe::scenario::Player;

/// Longer than any test.
const FOR_LONG: Duration = Duration::from_secs(600);
/// Media segments after which a viewer has moved; DASH has those of sound besides.
const MOVED: usize = 3;
/// After the first failure: until a player has given up repeating one request.
const REPEATED: f64 = 7.0;

/// Players decode on this machine: one test at a time, whether they are threads of one process or
/// processes of their own.
fn alone() -> Result<Flock<File>> {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(kept)?;
    let file = File::create(kept.join("players.lock"))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
}

fn now_unix_s() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs_f64()
}

fn since(served: &[Served], unix_s: f64) -> usize {
    served.iter().filter(|one| one.at_unix_s > unix_s).count()
}

/// A pathway by the log that its segments are in.
fn index(pathway: &str) -> usize {
    usize::from(pathway == THERE)
}

#[tokio::test]
#[ignore = "the others run it as a process of its own"]
async fn holds_the_gate_for_the_others() -> Result<()> {
    hold().await
}

/// Two hosts, a gate held by a process, and viewers of both kinds.
struct Event {
    edges: Edges,
    holder: Holder,
    viewers: Viewers,
    names: Vec<String>,
}

impl Event {
    /// Begins; players ask at `steering`.
    fn begin(programme: &Path, steering: impl Fn(&Edges) -> String) -> Result<Self> {
        let edges = Edges::start(programme, TTL_S)?;
        let holder = Holder::start(edges.gate)?;
        let steering = steering(&edges);
        let mut event = Self::of(edges, holder)?;
        for player in [Player::Hls, Player::Hls, Player::Dash, Player::Dash] {
            event.play(programme, player, &[HERE, THERE], &steering)?;
        }
        event.started()?;
        Ok(event)
    }

    /// Without viewers.
    fn of(edges: Edges, holder: Holder) -> Result<Self> {
        Ok(Self {
            viewers: Viewers::start(&edges)?,
            edges,
            holder,
            names: Vec::new(),
        })
    }

    fn play(
        &mut self,
        programme: &Path,
        player: Player,
        pathways: &[&str],
        steering: &str,
    ) -> Result<()> {
        let name = format!("{player:?}-{}", self.names.len() + 1).to_lowercase();
        let Self { edges, viewers, .. } = self;
        viewers.play(edges, programme, &name, player, pathways, steering)?;
        self.names.push(name);
        Ok(())
    }

    /// Waits until all fetch from here, and from nowhere else.
    fn started(&mut self) -> Result<()> {
        self.all_at(HERE, 0.0, "the start")?;
        for name in &self.names {
            let [_, there] = self.edges.segments(name)?;
            ensure!(there.is_empty(), "{name} began elsewhere: {there:?}");
        }
        Ok(())
    }

    /// Waits until every viewer fetches from `pathway` after that moment, then sees that none fetches
    /// elsewhere any more.
    fn all_at(&mut self, pathway: &str, unix_s: f64, why: &str) -> Result<()> {
        let side = index(pathway);
        let Self {
            edges,
            viewers,
            names,
            ..
        } = self;
        let moved = |edges: &Edges, unix_s: f64| -> Result<bool> {
            for name in names.iter() {
                if since(&edges.segments(name)?[side], unix_s) < MOVED {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        let what = format!("all to fetch from {pathway} after {why}");
        viewers.until(&what, PATIENCE, || moved(edges, unix_s))?;
        let then_unix_s = now_unix_s();
        let what = format!("all to go on there after {why}");
        viewers.until(&what, PATIENCE, || moved(edges, then_unix_s))?;
        for name in names.iter() {
            let segments = edges.segments(name)?;
            let strays = since(&segments[1 - side], then_unix_s);
            ensure!(
                strays == 0,
                "after {why} {name} still fetched {strays} elsewhere"
            );
            let first = segments[side].iter().find(|one| one.at_unix_s > unix_s);
            let took = first.map_or(0.0, |first| first.at_unix_s - unix_s.max(1.0));
            if unix_s > 0.0 {
                println!("{why}: {name} fetched from {pathway} after {took:.1} s");
            }
        }
        let broken = viewers.broken();
        ensure!(broken.is_empty(), "{broken:?}: {:?}", viewers.faults());
        Ok(())
    }

    fn drain(&mut self, lease: Duration, why: &str) -> Result<()> {
        let begin = now_unix_s();
        self.holder.acquire(0, lease)?;
        self.all_at(THERE, begin, why)
    }

    fn end(self) {
        for viewer in &self.names {
            let segments = self.edges.segments(viewer).unwrap_or_default();
            let asked = self.edges.asked(viewer).unwrap_or_default();
            println!(
                "{viewer}: {} segments here, {} there, asked {} times",
                segments[0].len(),
                segments[1].len(),
                asked.len()
            );
        }
        println!("{:?}", self.viewers.faults());
    }
}

#[test]
fn players_follow_the_gate_and_come_back() -> Result<()> {
    let _alone = alone()?;
    let mut event = Event::begin(&programme()?, Edges::steering)?;
    event.drain(FOR_LONG, "a weight of 0")?;
    let begin = now_unix_s();
    event.holder.release()?;
    event.all_at(HERE, begin, "the release")?;
    // Nobody renews this one.
    let lease = Duration::from_secs(25);
    event.drain(lease, "a weight of 0 for 25 s")?;
    let begin = now_unix_s();
    event.all_at(HERE, begin, "the lease's end")?;
    event.end();
    Ok(())
}

#[test]
fn when_weir_hangs_or_is_killed_the_proxy_brings_players_home_and_they_go_on_asking() -> Result<()>
{
    let _alone = alone()?;
    let mut event = Event::begin(&programme()?, Edges::steering)?;
    event.drain(FOR_LONG, "a weight of 0")?;
    let begin = now_unix_s();
    event.holder.signal(Signal::SIGSTOP)?;
    event.all_at(HERE, begin, "the hang")?;
    let begin = now_unix_s();
    event.holder.signal(Signal::SIGCONT)?;
    event.all_at(THERE, begin, "the end of the hang")?;
    let begin = now_unix_s();
    event.holder.signal(Signal::SIGKILL)?;
    event.all_at(HERE, begin, "the kill")?;
    event.holder = Holder::start(event.edges.gate)?;
    event.drain(FOR_LONG, "the restart, and a weight of 0")?;
    event.end();
    Ok(())
}

#[test]
fn players_follow_to_a_pathway_that_their_playlist_does_not_have() -> Result<()> {
    let _alone = alone()?;
    let programme = programme()?;
    let edges = Edges::start(&programme, TTL_S)?;
    let holder = Holder::of_copies(edges.gate)?;
    let steering = edges.steering();
    let mut event = Event::of(edges, holder)?;
    event.play(&programme, Player::Hls, &[HERE], &steering)?;
    event.started()?;
    event.drain(FOR_LONG, "a weight of 0")?;
    let begin = now_unix_s();
    event.holder.release()?;
    event.all_at(HERE, begin, "the release")?;
    event.end();
    Ok(())
}

/// Why there must be a proxy that answers.
#[test]
fn without_a_proxy_players_keep_to_what_a_dead_weir_said_until_another_answers() -> Result<()> {
    let _alone = alone()?;
    let gate = |edges: &Edges| format!("http://127.0.0.1:{}/steer", edges.gate);
    let mut event = Event::begin(&programme()?, gate)?;
    event.drain(FOR_LONG, "a weight of 0")?;
    event.holder.signal(Signal::SIGKILL)?;
    let killed = now_unix_s();
    let Event {
        edges,
        viewers,
        names,
        ..
    } = &mut event;
    // Long enough that each has asked in vain, twice.
    let in_vain = 3 * TTL_S as usize / 2;
    viewers.until("all to play on for a while", PATIENCE, || {
        let mut least = usize::MAX;
        for name in names.iter() {
            least = least.min(since(&edges.segments(name)?[index(THERE)], killed));
        }
        Ok(least >= in_vain)
    })?;
    for name in names.iter() {
        let [here, _] = edges.segments(name)?;
        ensure!(since(&here, killed) == 0, "{name} came back by itself");
    }
    let begin = now_unix_s();
    event.holder = Holder::start(event.edges.gate)?;
    event.all_at(HERE, begin, "the restart")?;
    event.end();
    Ok(())
}

/// Why weir answers 200 or 503 and nothing else.
#[test]
fn answers_that_end_steering_in_players_are_those_that_weir_never_gives() -> Result<()> {
    let _alone = alone()?;
    let programme = programme()?;
    for (player, go_on) in [
        (Player::Hls, ["503", "404"].as_slice()),
        (Player::Dash, ["503"].as_slice()),
    ] {
        let edges = Edges::start(&programme, TTL_S)?;
        let _holder = Holder::start(edges.gate)?;
        let mut viewers = Viewers::start(&edges)?;
        for how in FAILURES {
            let (pathways, steering) = ([HERE, THERE], edges.failing(how));
            viewers.play(&edges, &programme, how, player, &pathways, &steering)?;
        }
        // A time at which each viewer has asked so often.
        let asked = |edges: &Edges, whom: &[&str], from: f64, times: usize| -> Result<bool> {
            for how in whom {
                if since(&edges.asked(how)?, from) < times {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        viewers.until("all to be steered", PATIENCE, || {
            asked(&edges, &FAILURES, 0.0, 1)
        })?;
        let failing = now_unix_s();
        edges.fail(true)?;
        viewers.until(
            "all to be failed, and to have repeated it",
            PATIENCE,
            || {
                let long_ago = now_unix_s() - REPEATED;
                for how in FAILURES {
                    let asked = edges.asked(how)?;
                    let mut failed = asked.iter().filter(|one| one.at_unix_s > failing);
                    if failed.next().is_none_or(|first| first.at_unix_s > long_ago) {
                        return Ok(false);
                    }
                }
                Ok(true)
            },
        )?;
        let well = now_unix_s();
        edges.fail(false)?;
        viewers.until("those to ask again who do", PATIENCE, || {
            asked(&edges, go_on, well, 3)
        })?;
        for how in FAILURES {
            let again = since(&edges.asked(how)?, well);
            println!("{player:?}: asked {again} times again after {how}");
            ensure!(
                go_on.contains(&how) == (again > 0),
                "{player:?} asked {again} times again after {how}"
            );
        }
        ensure!(viewers.broken().is_empty(), "{:?}", viewers.faults());
    }
    Ok(())
}
