//! What this collector alone can say: of the partitions that it holds, and of the hosts that are
//! connected to it. Others that ask hear it by way of the engine.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use weir_proto::v1;
use weir_proto::v1::ask::What;

use super::drills::Drills;
use super::holding::{Held, Holding};
use super::known::unix_ns;
use super::partial;
use crate::query::filter::Filter;

/// Clocks of collectors differ: one that is behind is waited for, for so long.
const CLOCK_PATIENCE: Duration = Duration::from_millis(1_500);
/// Of so many hosts at most it is said when they were last heard of.
const MAX_SEEN: usize = 64;

/// This one.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) name: String,
    pub(super) holding: Arc<Holding>,
    pub(super) drills: Arc<Drills>,
}

impl Local {
    /// Answers a collector that asks.
    pub(super) async fn answer(&self, from: &str, ask: v1::Ask) -> v1::Answer {
        let partitions = &ask.partitions;
        match ask.what {
            Some(What::Cells(what)) => self.cells(partitions, what.histograms),
            Some(What::Hosts(_)) => self.hosts(partitions),
            Some(What::Window(what)) => self.window(partitions, &what).await,
            Some(What::Newest(what)) => self.newest(&what.hello.unwrap_or_default()),
            Some(What::Wish(wish)) => self.wish(Some(from), &wish),
            None => v1::Answer::default(),
        }
    }

    /// A host has said something elsewhere to who asked here.
    pub(super) fn hear(&self, said: v1::Said) {
        self.drills.heard(said);
    }

    /// Those that are held of `partitions`, and an answer that says what is wrong with them.
    fn held(&self, partitions: &[u32]) -> (Vec<Arc<Held>>, v1::Answer) {
        let mut answer = v1::Answer::default();
        let mut all = Vec::new();
        for partition in partitions {
            let Some(held) = self.holding.at(*partition) else {
                answer.absent.push(*partition);
                continue;
            };
            if !held.is_whole() {
                answer.growing.push(*partition);
            } else if !held.is_followed() {
                answer.alone.push(*partition);
            }
            let began = held.known.lock().fleet.began_unix_ns();
            if began > 0 && (answer.began_unix_ns == 0 || began < answer.began_unix_ns) {
                answer.began_unix_ns = began;
            }
            all.push(held);
        }
        (all, answer)
    }

    /// The sum of some partitions.
    pub(super) fn cells(&self, partitions: &[u32], histograms: bool) -> v1::Answer {
        let (all, mut answer) = self.held(partitions);
        let now_unix_ns = unix_ns();
        let filter = Filter::default();
        let mut cells = partial::Cells::default();
        let mut hosts = 0;
        for held in all {
            let part = held
                .known
                .lock()
                .fleet
                .cells(&filter, histograms, now_unix_ns);
            hosts += part.hosts;
            // What was checked when it came is known here.
            if let Err(err) = cells.add(&part.cells) {
                tracing::warn!(held.partition, "cannot be summed: {err}");
                answer.absent.push(held.partition);
            }
        }
        answer.cells = Some(v1::ListCellsResponse {
            cells: cells.into_messages(&filter, histograms),
            unix_ns: now_unix_ns,
            hosts,
            missing: Vec::new(),
        });
        answer
    }

    /// Hosts of some partitions, and all that are connected here.
    pub(super) fn hosts(&self, partitions: &[u32]) -> v1::Answer {
        let (all, mut answer) = self.held(partitions);
        let now_unix_ns = unix_ns();
        for held in all {
            let hosts = held.known.lock().fleet.hosts(now_unix_ns).hosts;
            answer.hosts.extend(hosts);
        }
        for host in answer.hosts.iter_mut().filter(|host| host.connected) {
            host.collector.clone_from(&self.name);
        }
        answer.guests = self.holding.guests(|guests| {
            guests.messages(&self.name, |host| {
                !partitions.contains(&self.holding.partition(host))
            })
        });
        answer
    }

    /// The last seconds of some partitions.
    pub(super) async fn window(&self, partitions: &[u32], what: &v1::AskWindow) -> v1::Answer {
        let mut seconds = self.holding.seconds();
        let is_over = |second: &u64| *second >= what.until_unix_s;
        // If it does not come, the window ends earlier here.
        let _ = timeout(CLOCK_PATIENCE, seconds.wait_for(is_over)).await;
        let (all, mut answer) = self.held(partitions);
        let now_unix_ns = unix_ns();
        let filter = Filter::default();
        let parts: Vec<_> = all
            .iter()
            .map(|held| {
                let (known, stretch) = (&held.known, (what.seconds, what.until_unix_s));
                known.window(&filter, what.histograms, stretch, now_unix_ns)
            })
            .collect();
        if !parts.is_empty() {
            match partial::window(&parts, &filter, what.histograms) {
                Ok(window) => answer.window = Some(window),
                Err(err) => {
                    tracing::warn!("a window cannot be summed: {err}");
                    answer.absent = partitions.to_vec();
                }
            }
        }
        answer
    }

    fn newest(&self, hello: &v1::Hello) -> v1::Answer {
        let partition = self.holding.partition(&hello.host);
        let (all, mut answer) = self.held(&[partition]);
        let newest = all.first();
        answer.newest = newest.map_or(0, |held| held.known.lock().fleet.newest(hello));
        answer
    }

    /// Tells hosts that are connected here; `from`: who waits for their answers, if not this one.
    pub(super) fn wish(&self, from: Option<&str>, wish: &v1::Wish) -> v1::Answer {
        let mut reached = v1::Reached::default();
        if let Some(message) = wish.message.as_ref().and_then(|wish| wish.message.as_ref()) {
            let is_routed = from.is_none_or(|from| self.drills.route(&wish.id, from));
            if is_routed {
                reached.hosts = self.drills.ask(&wish.hosts, message);
            }
        }
        let missed = wish
            .hosts
            .iter()
            .filter(|host| !reached.hosts.contains(host));
        reached.seen = missed
            .take(MAX_SEEN)
            .map(|host| v1::NotConnected {
                host: host.clone(),
                last_heard_unix_ns: self.holding.last_heard_unix_ns(host).unwrap_or(0),
                collector: self.name.clone(),
            })
            .filter(|seen| seen.last_heard_unix_ns > 0)
            .collect();
        v1::Answer {
            reached: Some(reached),
            ..v1::Answer::default()
        }
    }
}
