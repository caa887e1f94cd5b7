//! Asks all collectors, this one included, and puts together what they say: whoever is asked, the
//! answer is the whole fleet's, and says what is missing in it.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use weir_proto::v1;
use weir_proto::v1::ask::What;
use weir_proto::v1::collector_message::Message as Down;

use super::known::unix_ns;
use super::local::Local;
use super::partial;
use super::peers::{Error, Member, Peers, Plan};
use crate::query::filter::Filter;

/// A partition that nobody has at this moment is taken up by somebody within this.
const PAUSE: Duration = Duration::from_millis(200);
/// Hosts that are named one by one where they are not connected.
const MAX_SEEN: usize = 64;

/// This collector, and those that work together with it.
#[derive(Debug)]
pub(super) struct Gather {
    local: Arc<Local>,
    /// None: it is alone.
    peers: Option<Arc<Peers>>,
}

/// What all said, and what is missing in it.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) answers: Vec<v1::Answer>,
    pub(super) missing: Vec<v1::Missing>,
}

impl Gathered {
    /// When the oldest daemon began, as Unix time; 0: nobody knows.
    pub(super) fn began_unix_ns(&self) -> u64 {
        let began = self.answers.iter().map(|answer| answer.began_unix_ns);
        began.filter(|began| *began > 0).min().unwrap_or(0)
    }
}

/// Whom a wish has reached.
#[derive(Debug, Default)]
pub(super) struct Reach {
    pub(super) hosts: Vec<String>,
    /// Those that were named and are connected nowhere.
    pub(super) not_connected: Vec<v1::NotConnected>,
    /// Collectors that did not answer, and why.
    pub(super) silent: Vec<(String, Error)>,
}

impl Gather {
    /// Whether hosts may be connected to other collectors.
    pub(super) fn is_divided(&self) -> bool {
        self.peers.is_some()
    }

    pub(super) fn new(local: Arc<Local>, peers: Option<Arc<Peers>>) -> Self {
        Self { local, peers }
    }

    /// The names of all collectors.
    pub(super) fn names(&self) -> Vec<String> {
        match &self.peers {
            Some(peers) => peers.names(),
            None => vec![self.local.name.clone()],
        }
    }

    fn plan(&self) -> Plan {
        if let Some(peers) = &self.peers {
            return peers.plan();
        }
        let own = Member {
            id: String::new(),
            name: self.local.name.clone(),
        };
        vec![(own, (0..self.local.holding.partitions()).collect())]
    }

    async fn ask(
        &self,
        of: &Member,
        partitions: Vec<u32>,
        what: What,
    ) -> Result<v1::Answer, Error> {
        match &self.peers {
            Some(peers) if !peers.is_own(&of.id) => peers.ask(&of.id, partitions, what).await,
            _ => {
                let ask = v1::Ask {
                    id: 0,
                    partitions,
                    what: Some(what),
                };
                Ok(self.local.answer(&of.id, ask).await)
            }
        }
    }

    /// Asks each of what it holds. `of_all`: also those that hold nothing.
    async fn scatter(&self, what: What, of_all: bool) -> Gathered {
        let mut gathered = Gathered::default();
        let plan = self.plan().into_iter();
        let plan = plan.filter(|(_, partitions)| of_all || !partitions.is_empty());
        let left = self.round(plan.collect(), &what, true, &mut gathered).await;
        if left.is_empty() {
            return gathered;
        }
        // Whose they were is gone, or has let them go.
        tokio::time::sleep(PAUSE).await;
        let again = self
            .plan()
            .into_iter()
            .filter_map(|(member, mut partitions)| {
                partitions.retain(|partition| left.contains(partition));
                (!partitions.is_empty()).then_some((member, partitions))
            });
        let left = self
            .round(again.collect(), &what, false, &mut gathered)
            .await;
        if !left.is_empty() {
            gathered.missing.push(v1::Missing {
                collector: String::new(),
                partitions: left,
                why: "no collector has them at the moment".to_owned(),
                is_less: true,
            });
        }
        gathered
    }

    /// Asks once. Gives the partitions that somebody else has by now.
    async fn round(
        &self,
        plan: Plan,
        what: &What,
        is_first: bool,
        gathered: &mut Gathered,
    ) -> Vec<u32> {
        let asked = plan.into_iter().map(|(member, partitions)| async move {
            let answer = self.ask(&member, partitions.clone(), what.clone()).await;
            (member, partitions, answer)
        });
        let mut left = Vec::new();
        for (member, partitions, answer) in join_all(asked).await {
            let mut miss = |partitions: Vec<u32>, why: &str, is_less| {
                gathered.missing.push(v1::Missing {
                    collector: member.name.clone(),
                    partitions,
                    why: why.to_owned(),
                    is_less,
                });
            };
            match answer {
                Ok(mut answer) => {
                    left.append(&mut answer.absent);
                    if !answer.growing.is_empty() {
                        let why = "it is still taking in what the engine has of them";
                        miss(std::mem::take(&mut answer.growing), why, true);
                    }
                    if !answer.alone.is_empty() {
                        let why = "the engine is away: what other collectors take is missing";
                        miss(std::mem::take(&mut answer.alone), why, false);
                    }
                    if !is_first {
                        // They were told, all of them.
                        answer.guests.clear();
                    }
                    gathered.answers.push(answer);
                }
                Err(Error::Gone) => left.extend(partitions),
                Err(err) => {
                    let is_less = !partitions.is_empty();
                    miss(partitions, &err.to_string(), is_less);
                }
            }
        }
        left
    }

    /// The sum of all hosts' cells, and when the oldest daemon in it began.
    pub(super) async fn cells(
        &self,
        filter: &Filter,
        histograms: bool,
    ) -> (v1::ListCellsResponse, u64) {
        let what = What::Cells(v1::AskCells { histograms });
        let mut gathered = self.scatter(what, false).await;
        let began_unix_ns = gathered.began_unix_ns();
        let mut cells = partial::Cells::default();
        let mut hosts = 0;
        for answer in &gathered.answers {
            let part = answer.cells.as_ref();
            hosts += part.map_or(0, |part| part.hosts);
            if let Err(err) = cells.add(part.map_or(&[][..], |part| part.cells.as_slice())) {
                gathered.missing.push(unreadable(&err));
            }
        }
        let cells = v1::ListCellsResponse {
            cells: cells.into_messages(filter, histograms),
            unix_ns: unix_ns(),
            hosts,
            missing: gathered.missing,
        };
        (cells, began_unix_ns)
    }

    /// Every host, by name.
    pub(super) async fn hosts(&self) -> (Vec<v1::Host>, Vec<v1::Missing>) {
        let gathered = self.scatter(What::Hosts(v1::AskHosts {}), true).await;
        let (mut merged, mut guests) = (Vec::new(), Vec::new());
        for mut answer in gathered.answers {
            merged.append(&mut answer.hosts);
            guests.append(&mut answer.guests);
        }
        (partial::hosts(merged, guests), gathered.missing)
    }

    /// The last seconds, up to one that this collector has closed.
    pub(super) async fn window(
        &self,
        filter: &Filter,
        histograms: bool,
        seconds: u32,
    ) -> v1::Window {
        let closed = *self.local.holding.seconds().borrow();
        let what = v1::AskWindow {
            histograms,
            seconds,
            until_unix_s: closed,
        };
        let mut gathered = self.scatter(What::Window(what), false).await;
        let parts = gathered.answers.into_iter();
        let parts: Vec<_> = parts.filter_map(|answer| answer.window).collect();
        let mut window = match partial::window(&parts, filter, histograms) {
            Ok(window) => window,
            Err(err) => {
                gathered.missing.push(unreadable(&err));
                v1::Window::default()
            }
        };
        window.missing = gathered.missing;
        window
    }

    /// The newest frame of a lane of a boot that whoever merges it has; 0: nobody says.
    pub(super) async fn newest(&self, hello: &v1::Hello) -> u64 {
        let Some(peers) = &self.peers else {
            return 0;
        };
        let partition = self.local.holding.partition(&hello.host);
        let Some(owner) = peers.owner(partition) else {
            return 0;
        };
        let what = What::Newest(v1::AskNewest {
            hello: Some(hello.clone()),
        });
        let answer = self.ask(&owner, vec![partition], what).await;
        answer.map_or(0, |answer| answer.newest)
    }

    /// Tells hosts something, wherever they are connected; `hosts` empty: all.
    pub(super) async fn wish(&self, id: &str, hosts: &[String], message: &Down) -> Reach {
        let wish = v1::Wish {
            id: id.to_owned(),
            hosts: hosts.to_vec(),
            message: Some(v1::CollectorMessage {
                message: Some(message.clone()),
            }),
        };
        let asked = self.plan().into_iter().map(|(member, _)| {
            let wish = wish.clone();
            async move {
                let is_own = self
                    .peers
                    .as_ref()
                    .is_none_or(|peers| peers.is_own(&member.id));
                let answer = if is_own {
                    Ok(self.local.wish(None, &wish))
                } else {
                    self.ask(&member, Vec::new(), What::Wish(wish)).await
                };
                (member, answer)
            }
        });
        let mut reach = Reach::default();
        let mut seen: Vec<v1::NotConnected> = Vec::new();
        for (member, answer) in join_all(asked).await {
            match answer {
                Ok(answer) => {
                    let mut reached = answer.reached.unwrap_or_default();
                    reach.hosts.append(&mut reached.hosts);
                    seen.append(&mut reached.seen);
                }
                // Its hosts are connecting to others.
                Err(Error::Gone) => {}
                Err(err) => reach.silent.push((member.name, err)),
            }
        }
        if let Some(peers) = &self.peers
            && !peers.is_connected()
        {
            let others = "other collectors".to_owned();
            reach.silent = vec![(others, Error::Unreachable)];
        }
        let missed = hosts.iter().filter(|host| !reach.hosts.contains(host));
        let last_seen = |host: &String| {
            let of_host = seen.iter().filter(|seen| seen.host == *host);
            let last = of_host.max_by_key(|seen| seen.last_heard_unix_ns).cloned();
            last.unwrap_or_else(|| v1::NotConnected {
                host: host.clone(),
                ..v1::NotConnected::default()
            })
        };
        reach.not_connected = missed.take(MAX_SEEN).map(last_seen).collect();
        reach
    }
}

fn unreadable(err: &super::decode::Error) -> v1::Missing {
    v1::Missing {
        collector: String::new(),
        partitions: Vec::new(),
        why: format!("an answer cannot be used, are all collectors of one version? {err}"),
        is_less: true,
    }
}
