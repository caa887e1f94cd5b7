//! What weir says of viewers: `weir viewers --follow` read, and an account of each viewer put together
//! from the events.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use anyhow::Result;
use serde::Deserialize;

use super::said::{Estimate, Stall, ViewerSaid, Warning};
use super::sampler::Sampler;
use super::scenario::{Blame, Failure, Tier};
use crate::weir::{Daemon, Follower};

/// `weir viewers --follow`, being read.
#[derive(Debug)]
pub struct Viewers {
    lines: Follower<Line>,
    sampler: Sampler,
}

impl Viewers {
    /// From now on.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn follow(daemon: &Daemon) -> Result<Self> {
        let lines = daemon.follow_lines(&["viewers", "--follow"])?;
        let ask = daemon.asker(&["viewers"]);
        Ok(Self {
            lines,
            sampler: Sampler::start(ask),
        })
    }

    /// Ends the following; returns what has been said of each viewer.
    ///
    /// # Errors
    /// A line could not be read.
    pub fn finish(self) -> Result<Vec<ViewerSaid>> {
        let lines = self.lines.seen(|_| true);
        self.lines.finish()?;
        let mut said = account(lines);
        let mut buffers = self.sampler.finish();
        for one in &mut said {
            one.buffer
                .extend(buffers.remove(&one.key).unwrap_or_default());
            one.buffer.sort_unstable();
        }
        Ok(said)
    }
}

/// What lines say of each viewer.
pub(super) fn account(lines: impl IntoIterator<Item = Line>) -> Vec<ViewerSaid> {
    let mut accounts = Accounts::default();
    for line in lines {
        accounts.take(line);
    }
    accounts.finish()
}

/// How many of the viewers that a listing shows are not over.
pub fn not_over(text: &str) -> usize {
    let viewers = text
        .lines()
        .filter_map(|line| match serde_json::from_str(line) {
            Ok(Line::NamedViewer { viewer } | Line::Viewer(viewer)) => Some(viewer),
            _ => None,
        });
    viewers.filter(|viewer| !viewer.is_over()).count()
}

/// A line: a viewer as it is, or what happened to one; plain, or under the name of its kind.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Line {
    Event(Happened),
    NamedEvent {
        event: Happened,
    },
    NamedViewer {
        viewer: Box<Viewer>,
    },
    Viewer(Box<Viewer>),
    /// An alarm, or a count of what was missed.
    Other {},
}

/// `ViewerEvent`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Happened {
    change: String,
    unix_ns: u64,
    told_unix_ns: u64,
    viewer: Box<Viewer>,
}

/// `Viewer`, as far as it is judged.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Viewer {
    key: String,
    #[serde(default)]
    sid: String,
    client_address: String,
    #[serde(default)]
    tier: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    ended: String,
    #[serde(default)]
    cell: Option<Cell>,
    #[serde(default)]
    start_failure: String,
    attempt_unix_ns: u64,
    started_unix_ns: u64,
    updated_unix_ns: u64,
    startup_us: u64,
    watched_us: u64,
    stalled_us: WireEstimate,
    buffer_us: WireEstimate,
    #[serde(default)]
    blame: Option<WireBlame>,
    #[serde(default)]
    verdict: String,
    #[serde(default)]
    latest_stalls: Vec<WireStall>,
}

impl Viewer {
    fn is_over(&self) -> bool {
        self.state == "ended" || self.is_excluded()
    }

    fn is_excluded(&self) -> bool {
        self.ended == "excluded"
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Cell {
    #[serde(default)]
    tier: String,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct WireEstimate {
    low: u64,
    point: u64,
    high: u64,
}

#[derive(Clone, Debug, Deserialize)]
struct WireStall {
    begin_unix_ns: u64,
    end_unix_ns: u64,
    told_unix_ns: u64,
    #[serde(default)]
    origin_late: bool,
    #[serde(default)]
    blame: Option<WireBlame>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[expect(clippy::struct_field_names, reason = "as on the wire")]
struct WireBlame {
    think_ppm: u32,
    write_ppm: u32,
    sender_window_ppm: u32,
    loss_ppm: u32,
    queue_ppm: u32,
    receiver_ppm: u32,
    pacing_ppm: u32,
}

impl WireBlame {
    /// The largest share's.
    fn largest(self) -> Option<Blame> {
        [
            (self.think_ppm, Blame::Think),
            (self.write_ppm, Blame::ApplicationWrite),
            (self.sender_window_ppm, Blame::SenderWindow),
            (self.loss_ppm, Blame::LossRecovery),
            (self.queue_ppm, Blame::PathQueue),
            (self.receiver_ppm, Blame::ReceiverWindow),
            (self.pacing_ppm, Blame::Pacing),
        ]
        .into_iter()
        .max_by_key(|(share, _)| *share)
        .filter(|(share, _)| *share > 0)
        .map(|(_, blame)| blame)
    }
}

impl WireStall {
    fn cause(&self) -> Option<Blame> {
        if self.origin_late {
            return Some(Blame::LateAtOrigin);
        }
        self.blame.and_then(WireBlame::largest)
    }
}

/// Accounts being put together, by the viewers' keys.
#[derive(Debug, Default)]
struct Accounts {
    viewers: HashMap<String, ViewerSaid>,
}

impl Accounts {
    fn take(&mut self, line: Line) {
        match line {
            Line::Viewer(viewer) | Line::NamedViewer { viewer } => {
                self.update(&viewer);
            }
            Line::Event(event) | Line::NamedEvent { event } => {
                let said = self.update(&event.viewer);
                happened(said, &event.change, event.unix_ns, event.told_unix_ns);
                settle(said, &event.viewer);
            }
            Line::Other {} => {}
        }
    }

    fn update(&mut self, viewer: &Viewer) -> &mut ViewerSaid {
        let said = self.viewers.entry(viewer.key.clone()).or_default();
        viewer.key.clone_into(&mut said.key);
        viewer.sid.clone_into(&mut said.sid);
        said.client = viewer.client_address.parse::<Ipv4Addr>().ok();
        let of_cell = viewer.cell.as_ref().map(|cell| cell.tier.as_str());
        said.tier = match of_cell.unwrap_or(&viewer.tier) {
            "kernel" => Some(Tier::T0),
            "server" => Some(Tier::T1),
            "cmcd" => Some(Tier::T2),
            _ => said.tier,
        };
        (said.is_over, said.is_excluded) = (viewer.is_over(), viewer.is_excluded());
        said.attempt_unix_ns = viewer.attempt_unix_ns;
        said.started_unix_ns = viewer.started_unix_ns;
        said.startup_us = viewer.startup_us;
        said.watched_us = viewer.watched_us;
        let WireEstimate { low, point, high } = viewer.stalled_us;
        said.stalled_us = Estimate { low, point, high };
        said.failed = match viewer.start_failure.as_str() {
            "http" => Some(Failure::Http),
            "origin" => Some(Failure::Origin),
            "network" => Some(Failure::Network),
            "client" => Some(Failure::Client),
            _ => None,
        };
        said.blame = viewer.blame.and_then(WireBlame::largest);
        viewer.verdict.clone_into(&mut said.verdict);
        said.buffer
            .push((viewer.updated_unix_ns, viewer.buffer_us.point));
        said
    }

    fn finish(self) -> Vec<ViewerSaid> {
        let mut said: Vec<_> = self.viewers.into_values().collect();
        said.sort_by(|a, b| (a.attempt_unix_ns, &a.key).cmp(&(b.attempt_unix_ns, &b.key)));
        said
    }
}

fn happened(said: &mut ViewerSaid, change: &str, unix_ns: u64, told_unix_ns: u64) {
    match change {
        "stall_began" => said.stalls.push(Stall {
            begin_unix_ns: unix_ns,
            first_begin_unix_ns: unix_ns,
            end_unix_ns: 0,
            told_unix_ns,
            cause: None,
        }),
        "stall_ended" => {
            if let Some(stall) = said
                .stalls
                .last_mut()
                .filter(|stall| stall.end_unix_ns == 0)
            {
                stall.end_unix_ns = unix_ns;
            }
        }
        "stall_retracted" => {
            // The latest, or the one before it that was over already.
            let told = said.stalls.iter().enumerate();
            let nearest = told.min_by_key(|(_, stall)| stall.begin_unix_ns.abs_diff(unix_ns));
            if let Some((at, _)) = nearest {
                let told = said.stalls.remove(at);
                said.retracted.push(told);
            }
        }
        "at_risk" => said.warnings.push(Warning {
            told_unix_ns,
            until_unix_ns: 0,
        }),
        "no_longer_at_risk" => {
            if let Some(warning) = said.warnings.last_mut() {
                warning.until_unix_ns = told_unix_ns;
            }
        }
        _ => {}
    }
}

/// How far a stall that is known by its onset alone may have been moved.
const MOVED_NS: u64 = 2_000_000_000;

/// Later knowledge of a stall moves its ends and names its cause; when it was told stays.
fn settle(said: &mut ViewerSaid, viewer: &Viewer) {
    for known in &viewer.latest_stalls {
        let told = said.stalls.iter_mut().min_by_key(|stall| {
            let same = stall.told_unix_ns == known.told_unix_ns;
            (!same, stall.begin_unix_ns.abs_diff(known.begin_unix_ns))
        });
        let Some(stall) = told else { continue };
        let moved = stall.begin_unix_ns.abs_diff(known.begin_unix_ns);
        if stall.told_unix_ns == known.told_unix_ns || moved <= MOVED_NS {
            stall.begin_unix_ns = known.begin_unix_ns;
            stall.end_unix_ns = known.end_unix_ns;
            stall.cause = known.cause().or(stall.cause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn viewer(unix_ns: u64, stalls: &str) -> String {
        format!(
            r#"{{"key":"a","sid":"s","client_address":"10.78.1.1","cell":{{"tier":"cmcd"}},
            "start_failure":"unspecified","attempt_unix_ns":1,"started_unix_ns":2,
            "updated_unix_ns":{unix_ns},"startup_us":3,"watched_us":100,
            "stalled_us":{{"low":1,"point":25,"high":40}},"buffer_us":{{"low":0,"point":0,"high":0}},
            "latest_stalls":[{stalls}]}}"#
        )
    }

    fn event(change: &str, unix_ns: u64, stalls: &str) -> String {
        format!(
            r#"{{"change":"{change}","unix_ns":{unix_ns},"told_unix_ns":{},"viewer":{}}}"#,
            unix_ns + 5,
            viewer(unix_ns, stalls)
        )
    }

    fn line(change: &str, unix_ns: u64, stalls: &str) -> Line {
        serde_json::from_str(&event(change, unix_ns, stalls)).expect("a line")
    }

    #[test]
    fn a_stall_that_is_taken_back_is_none_and_one_that_ends_has_its_latest_ends() {
        let known = r#"{"begin_unix_ns":90,"end_unix_ns":120,"told_unix_ns":105,
            "blame":{"think_ppm":100000,"write_ppm":900000,"sender_window_ppm":0,"loss_ppm":0,
            "queue_ppm":0,"receiver_ppm":0,"pacing_ppm":0}}"#;
        let mut accounts = Accounts::default();
        for line in [
            line("stall_began", 50, ""),
            line("stall_retracted", 50, ""),
            line("at_risk", 80, ""),
            line("stall_began", 100, ""),
            line("stall_ended", 121, known),
        ] {
            accounts.take(line);
        }
        let said = accounts.finish();
        let [said] = &said[..] else {
            panic!("one viewer")
        };
        assert_eq!(said.retracted.len(), 1);
        assert_eq!(
            said.stalls,
            [Stall {
                begin_unix_ns: 90,
                first_begin_unix_ns: 100,
                end_unix_ns: 120,
                told_unix_ns: 105,
                cause: Some(Blame::ApplicationWrite)
            }]
        );
        assert_eq!(
            (said.tier, said.rebuffer_ratio()),
            (Some(Tier::T2), Some(0.25))
        );
        assert_eq!(said.warnings.len(), 1);
    }

    #[test]
    fn a_line_may_stand_under_the_name_of_its_kind() {
        let named = format!(r#"{{"event":{}}}"#, event("stall_began", 50, ""));
        let named: Line = serde_json::from_str(&named).expect("a line");
        assert!(matches!(named, Line::NamedEvent { .. }));
        let named = format!(r#"{{"viewer":{}}}"#, viewer(50, ""));
        let named: Line = serde_json::from_str(&named).expect("a line");
        assert!(matches!(named, Line::NamedViewer { .. }));
        let plain: Line = serde_json::from_str(&viewer(50, "")).expect("a line");
        assert!(matches!(plain, Line::Viewer(_)));
    }

    #[test]
    fn what_is_no_viewer_is_passed_over() {
        let alarm: Line =
            serde_json::from_str(r#"{"rate":"start_failures","on":true}"#).expect("JSON");
        let mut accounts = Accounts::default();
        accounts.take(alarm);
        assert!(accounts.finish().is_empty());
    }
}
