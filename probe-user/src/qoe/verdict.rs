//! Who is answerable for slow deliveries, in one line that someone can act on, from where their time
//! went and whose they were.

use std::fmt;

use super::blame::{Part, Spent, WHOLE_PPM, share};

/// Who is answerable, in words that someone can act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Live segments come late from the encoder or the origin.
    OriginLate,
    /// Answers wait for an upstream.
    Origin,
    /// Answers wait on this host before their first byte.
    HostThinks,
    /// Answers stop in the middle: this host's disk, or its CPU.
    HostWrites,
    /// Segments are lost.
    PathLoss {
        /// Whose path; none: everybody's.
        network: Option<String>,
    },
    /// The path carries too little, or queues.
    PathRate {
        /// Whose path; none: everybody's.
        network: Option<String>,
    },
    /// Clients do not take what they get.
    Receiver {
        /// Of which network; none: of all.
        network: Option<String>,
    },
    /// The server paces its answers.
    Pacing,
    /// No part stands out.
    Several,
}

/// How sure a verdict is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sureness {
    /// Few deliveries, or no part with most of the time.
    Unsure,
    /// More than half of the time.
    Likely,
    /// More than two thirds of the time, over many deliveries.
    Sure,
}

/// Who is answerable for the time that slow deliveries took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Who.
    pub who: Who,
    /// The share of the time that speaks for it.
    pub share_ppm: u32,
    /// How sure.
    pub sureness: Sureness,
    /// Deliveries it rests on.
    pub deliveries: u64,
}

/// What a verdict is found from: sums over the slow deliveries of a cell or of the host.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence<'a> {
    /// Their time by part.
    pub spent: Spent,
    /// How many they are.
    pub deliveries: u64,
    /// Of the thinking, what the server's log says its upstream took.
    pub upstream_us: u64,
    /// Stalls of live viewers that waited for a segment that was not there, and all stalls.
    pub origin_stalls: u64,
    /// All stalls.
    pub stalls: u64,
    /// The network that took most of the path's time: its name, its time, and its share of the
    /// deliveries in parts per million.
    pub worst_network: Option<(&'a str, Spent, u32)>,
}

/// The one line for a bridge call.
pub fn verdict(evidence: &Evidence) -> Verdict {
    if evidence.stalls > 0 && evidence.origin_stalls * 2 > evidence.stalls {
        let share_ppm = share(evidence.origin_stalls, WHOLE_PPM.into(), evidence.stalls);
        let share_ppm = u32::try_from(share_ppm).unwrap_or(WHOLE_PPM).min(WHOLE_PPM);
        return Verdict {
            who: Who::OriginLate,
            share_ppm,
            sureness: sureness(share_ppm, evidence.stalls),
            deliveries: evidence.stalls,
        };
    }
    let Some(shares) = evidence.spent.shares_ppm() else {
        return Verdict {
            who: Who::Several,
            share_ppm: 0,
            sureness: Sureness::Unsure,
            deliveries: evidence.deliveries,
        };
    };
    let ppm = |part: Part| shares[part as usize];
    // Window and queue are two views of one thing: what the path carries.
    let path_ppm = ppm(Part::SenderWindow) + ppm(Part::PathQueue);
    let candidates = [
        (ppm(Part::Think), Part::Think),
        (ppm(Part::ApplicationWrite), Part::ApplicationWrite),
        (ppm(Part::LossRecovery), Part::LossRecovery),
        (path_ppm, Part::PathQueue),
        (ppm(Part::ReceiverWindow), Part::ReceiverWindow),
        (ppm(Part::Pacing), Part::Pacing),
    ];
    let (share_ppm, part) = candidates.into_iter().max().unwrap_or((0, Part::Think));
    let who = match part {
        _ if share_ppm * 5 < WHOLE_PPM * 2 => Who::Several,
        Part::Think if evidence.upstream_us.saturating_mul(2) > evidence.spent.us(Part::Think) => {
            Who::Origin
        }
        Part::Think => Who::HostThinks,
        Part::ApplicationWrite => Who::HostWrites,
        Part::LossRecovery => Who::PathLoss {
            network: network(evidence, &[Part::LossRecovery]),
        },
        Part::ReceiverWindow => Who::Receiver {
            network: network(evidence, &[Part::ReceiverWindow]),
        },
        Part::Pacing => Who::Pacing,
        Part::PathQueue | Part::SenderWindow => Who::PathRate {
            network: network(evidence, &[Part::PathQueue, Part::SenderWindow]),
        },
    };
    Verdict {
        sureness: if who == Who::Several {
            Sureness::Unsure
        } else {
            sureness(share_ppm, evidence.deliveries)
        },
        who,
        share_ppm,
        deliveries: evidence.deliveries,
    }
}

fn sureness(share_ppm: u32, n: u64) -> Sureness {
    if share_ppm * 3 > WHOLE_PPM * 2 && n >= 20 {
        Sureness::Sure
    } else if share_ppm * 2 > WHOLE_PPM && n >= 3 {
        Sureness::Likely
    } else {
        Sureness::Unsure
    }
}

/// The network that the time is of, if it took most of it with far fewer of the deliveries.
fn network(evidence: &Evidence, parts: &[Part]) -> Option<String> {
    let (name, spent, deliveries_ppm) = evidence.worst_network.as_ref()?;
    let of = |spent: &Spent| {
        parts
            .iter()
            .fold(0_u64, |sum, part| sum.saturating_add(spent.us(*part)))
    };
    let time_ppm = share(of(spent), WHOLE_PPM.into(), of(&evidence.spent));
    let is_its =
        time_ppm * 10 > u64::from(WHOLE_PPM) * 7 && time_ppm * 2 > u64::from(*deliveries_ppm) * 3;
    is_its.then(|| (*name).to_owned())
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |network: &Option<String>| match network {
            Some(name) => format!("of {name}"),
            None => "of all networks".to_owned(),
        };
        match self {
            Self::OriginLate => f.write_str("origin late: live segments are not there when due"),
            Self::Origin => f.write_str("origin: answers wait for the upstream"),
            Self::HostThinks => f.write_str("this host: answers wait before their first byte"),
            Self::HostWrites => f.write_str("this host's disk or CPU: answers stop in the middle"),
            Self::PathLoss { network } => write!(f, "path: loss, clients {}", of(network)),
            Self::PathRate { network } => write!(f, "path: too slow, clients {}", of(network)),
            Self::Receiver { network } => write!(f, "receiver window, clients {}", of(network)),
            Self::Pacing => f.write_str("this host paces its answers"),
            Self::Several => f.write_str("no single cause"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sure = match self.sureness {
            Sureness::Unsure => "unsure",
            Sureness::Likely => "likely",
            Sureness::Sure => "sure",
        };
        let percent = self.share_ppm / 10_000;
        write!(
            f,
            "{} ({sure}, {percent} % of {})",
            self.who, self.deliveries
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use probe_ebpf::record::Delivery;

    /// So many deliveries that each thought for a while and were then read slowly.
    fn spent(think_ms: u64, receiver_ms: u32) -> Spent {
        let t_first_write_ns = 1 + think_ms * 1_000_000;
        let record = Delivery {
            t_request_ns: 1,
            t_first_write_ns,
            t_last_acked_ns: t_first_write_ns + u64::from(receiver_ms) * 1_000_000,
            acked_bytes: 1,
            written_bytes: 1,
            rwnd_limited_ticks: receiver_ms,
            ..Delivery::default()
        };
        Spent::of(&record, 1000, 0)
    }

    #[test]
    fn thinking_is_the_upstreams_where_the_log_says_so_and_else_the_hosts() {
        let mut evidence = Evidence {
            spent: spent(900, 100),
            deliveries: 50,
            ..Evidence::default()
        };
        assert_eq!(verdict(&evidence).who, Who::HostThinks);
        evidence.upstream_us = 800_000;
        let found = verdict(&evidence);
        assert_eq!(found.who, Who::Origin);
        assert_eq!(found.sureness, Sureness::Sure);
        assert_eq!(
            found.to_string(),
            "origin: answers wait for the upstream (sure, 90 % of 50)"
        );
    }

    #[test]
    fn a_network_is_named_only_if_the_fault_is_its_own() {
        let evidence = |time_ms, deliveries_ppm| Evidence {
            spent: spent(0, 1000),
            deliveries: 50,
            worst_network: Some(("203.0.113.0/24", spent(0, time_ms), deliveries_ppm)),
            ..Evidence::default()
        };
        let its = |network: Option<&str>| Who::Receiver {
            network: network.map(str::to_owned),
        };
        let of = |time_ms, ppm| verdict(&evidence(time_ms, ppm)).who;
        assert_eq!(of(900, 200_000), its(Some("203.0.113.0/24")));
        assert_eq!(of(400, 200_000), its(None));
        // Most of the time because most of the deliveries are its.
        assert_eq!(of(900, 900_000), its(None));
    }

    #[test]
    fn live_segments_that_were_not_there_outweigh_what_delivering_took() {
        let evidence = Evidence {
            spent: spent(0, 1000),
            deliveries: 50,
            origin_stalls: 9,
            stalls: 10,
            ..Evidence::default()
        };
        let found = verdict(&evidence);
        assert_eq!(
            (found.who, found.sureness),
            (Who::OriginLate, Sureness::Likely)
        );
    }

    #[test]
    fn little_or_divided_evidence_is_no_certainty() {
        assert_eq!(verdict(&Evidence::default()).sureness, Sureness::Unsure);
        let few = Evidence {
            spent: spent(1000, 0),
            deliveries: 2,
            ..Evidence::default()
        };
        assert_eq!(verdict(&few).sureness, Sureness::Unsure);
    }
}
