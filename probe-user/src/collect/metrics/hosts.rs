//! Families about hosts and about the collector itself.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, HashSet};

use weir_proto::v1;

use super::family::{Family, Kind, Labels, Unit};
use crate::collect::fleet::{FRESH_MS, rank};
use crate::collect::refusals::Refusals;
use crate::config::collect as config;
use crate::ui::losses;

/// A host is in trouble where five viewers stand still or are about to, all the time: before anybody
/// is to be woken.
const TROUBLE_MS: u64 = 5 * 60_000;

/// Which hosts are told by name if there are more than may be. One that is told stays, so that series
/// go on; it makes room only for one that fell silent or is in trouble, which somebody must hear of.
#[derive(Debug, Default)]
pub(super) struct Told(HashSet<String>);

impl Told {
    fn choose<'a>(&mut self, list: &List<'a>, max: usize) -> Vec<&'a v1::Host> {
        let is_silent = |host: &&v1::Host| list.is_silent(host);
        let hosts = list.hosts.iter().copied();
        let (mut silent, mut rest): (Vec<_>, Vec<_>) = hosts.partition(is_silent);
        // Those that fell silent last; of those long gone, no more than leaves room for others.
        silent.sort_by(|a, b| {
            let heard = b.last_heard_unix_ns.cmp(&a.last_heard_unix_ns);
            heard.then_with(|| a.host.cmp(&b.host))
        });
        silent.truncate(max.div_ceil(2).max(max.saturating_sub(rest.len())));
        rest.sort_by_cached_key(|host: &&'a v1::Host| {
            let is_troubled = host.at_risk_minute_ms >= TROUBLE_MS;
            let was_told = self.0.contains(&host.host);
            (Reverse(is_troubled), Reverse(was_told), Ranked(host))
        });
        rest.truncate(max - silent.len());
        silent.append(&mut rest);
        self.0 = silent.iter().map(|host| host.host.clone()).collect();
        silent
    }
}

/// Ordered by rank.
struct Ranked<'a>(&'a v1::Host);

impl Ord for Ranked<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        rank(self.0, other.0)
    }
}

impl PartialOrd for Ranked<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ranked<'_> {}

/// Hosts that anybody waits for: those that have not been silent for too long.
struct List<'a> {
    hosts: Vec<&'a v1::Host>,
    /// How many have been.
    gone: usize,
    unix_ns: u64,
}

impl<'a> List<'a> {
    fn new(list: &'a v1::ListHostsResponse, gone_after_s: u32) -> Self {
        let gone_after_ns = u64::from(gone_after_s) * 1_000_000_000;
        let is_there = |host: &&v1::Host| silent_ns(host, list.unix_ns) <= gone_after_ns;
        let hosts: Vec<_> = list.hosts.iter().filter(is_there).collect();
        Self {
            gone: list.hosts.len() - hosts.len(),
            hosts,
            unix_ns: list.unix_ns,
        }
    }

    fn is_silent(&self, host: &v1::Host) -> bool {
        silent_ns(host, self.unix_ns) / 1_000_000 > FRESH_MS
    }
}

fn silent_ns(host: &v1::Host, now_unix_ns: u64) -> u64 {
    now_unix_ns.saturating_sub(host.last_heard_unix_ns)
}

/// Of hosts, so many by name as `limits` allow.
pub(super) fn families(
    list: &v1::ListHostsResponse,
    limits: &config::Metrics,
    told: &mut Told,
) -> Vec<Family> {
    let list = List::new(list, limits.gone_after_s);
    let mut families = of_all(&list);
    let max_hosts = usize::try_from(limits.max_hosts).unwrap_or(usize::MAX);
    let hosts = told.choose(&list, max_hosts);
    let left_out = list.hosts.len() - hosts.len();
    families.extend(of_each(&hosts));
    families.push(
        Family::new(
            "weir_hosts_not_told",
            Unit::None,
            Kind::Gauge,
            "Hosts beyond metrics.max_hosts, which are in no metric of single hosts here.",
        )
        .with(Labels::new(), left_out as f64),
    );
    families
}

fn of_all(list: &List<'_>) -> Vec<Family> {
    let mut states = Family::new(
        "weir_hosts",
        Unit::None,
        Kind::Gauge,
        "Hosts by whether they report now, without those that are gone.",
    );
    let gone = Family::new(
        "weir_hosts_gone",
        Unit::None,
        Kind::Gauge,
        "Hosts that have been silent for longer than metrics.gone_after_s; they are in no other metric.",
    )
    .with(Labels::new(), list.gone as f64);
    let silent = list.hosts.iter().filter(|host| list.is_silent(host));
    let silent = silent.count();
    for (state, count) in [("reporting", list.hosts.len() - silent), ("silent", silent)] {
        states.add(vec![("state", state.to_owned())], count as f64);
    }
    let mut by_version: BTreeMap<&str, usize> = BTreeMap::new();
    for host in &list.hosts {
        *by_version.entry(&host.weir_version).or_default() += 1;
    }
    let mut versions = Family::new(
        "weir_hosts_by_version",
        Unit::None,
        Kind::Gauge,
        "Hosts by their weir; beyond 32 versions the rest are under \"other\".",
    );
    let mut other = 0;
    for (n, (version, count)) in by_version.into_iter().enumerate() {
        if n < 32 {
            versions.add(vec![("version", version.to_owned())], count as f64);
        } else {
            other += count;
        }
    }
    if other > 0 {
        versions.add(vec![("version", "other".to_owned())], other as f64);
    }
    vec![states, gone, versions]
}

fn of_each(hosts: &[&v1::Host]) -> Vec<Family> {
    type Column = (Family, fn(&v1::Host) -> f64);
    let gauge = |stem, unit, help| Family::new(stem, unit, Kind::Gauge, help);
    let counter = |stem, help| Family::new(stem, Unit::None, Kind::Counter, help);
    let mut columns: [Column; 9] = [
        (
            gauge(
                "weir_host_last_heard_timestamp",
                Unit::Seconds,
                "When a collector last heard of the host, as Unix time.",
            ),
            |host| host.last_heard_unix_ns as f64 / 1e9,
        ),
        (
            gauge(
                "weir_host_clock_offset",
                Unit::Seconds,
                "The host's clock less the collector's, network delay included.",
            ),
            |host| host.clock_offset_ms as f64 / 1e3,
        ),
        (
            gauge(
                "weir_host_minute_at_risk",
                Unit::Seconds,
                "In the last minute: viewer time stood still or about to, summed over viewers.",
            ),
            |host| host.at_risk_minute_ms as f64 / 1e3,
        ),
        (
            gauge("weir_host_sessions_open", Unit::None, "Sessions."),
            |host| host.sessions_open as f64,
        ),
        (
            gauge(
                "weir_host_measures",
                Unit::None,
                "1: it measures; 0: its kill switch is on.",
            ),
            |host| f64::from(u8::from(host.off.is_empty())),
        ),
        (
            counter("weir_host_frames", "Frames that came, each once."),
            |host| host.frames as f64,
        ),
        (
            gauge(
                "weir_host_frames_missing",
                Unit::None,
                "Frames that did not come, as yet; cumulative counts are not concerned.",
            ),
            |host| host.frames_lost as f64,
        ),
        (
            counter(
                "weir_host_frames_refused",
                "Frames that could not be used; each ended its connection.",
            ),
            |host| host.frames_refused as f64,
        ),
        (
            counter(
                "weir_host_lost",
                "What the host could not measure or pass on, of every cause.",
            ),
            |host| host.losses.as_ref().map_or(0, losses::total) as f64,
        ),
    ];
    for host in hosts {
        for (family, value) in &mut columns {
            family.add(vec![("host", host.host.clone())], value(host));
        }
    }
    columns.map(|(family, _)| family).into()
}

/// About the collector itself.
pub(super) fn of_collector(list: &v1::ListHostsResponse) -> Vec<Family> {
    let status = list.collector.clone().unwrap_or_default();
    let one = |stem, unit, kind, help, value: f64| {
        Family::new(stem, unit, kind, help).with(Labels::new(), value)
    };
    let count = |stem, help, value: u64| one(stem, Unit::None, Kind::Counter, help, value as f64);
    let gauge = |stem, unit, help, value: u64| one(stem, unit, Kind::Gauge, help, value as f64);
    let mut families = vec![
        one(
            "weir_collector_start_timestamp",
            Unit::Seconds,
            Kind::Gauge,
            "When the collector began, as Unix time.",
            status.started_unix_ns as f64 / 1e9,
        ),
        count(
            "weir_collector_frames_merged",
            "Frames merged, each once.",
            status.frames_merged,
        ),
        count(
            "weir_collector_cells_merged",
            "Cells in the frames merged.",
            status.cells_merged,
        ),
        gauge(
            "weir_collector_cells_held",
            Unit::None,
            "Cells held of all boots of all hosts.",
            status.cells_held,
        ),
        count(
            "weir_collector_cells_overflowed",
            "Times that a cell found no place of its own in the fleet's sum.",
            status.cells_overflowed,
        ),
        gauge(
            "weir_collector_window",
            Unit::Seconds,
            "How far back the last minutes reach.",
            status.minutes_s,
        ),
        gauge(
            "weir_collector_window",
            Unit::Bytes,
            "What the last minutes take.",
            status.minutes_bytes,
        ),
        refusals(list),
    ];
    families.push(gauge(
        "weir_collector_partitions",
        Unit::None,
        "Partitions whose hosts are merged here.",
        status.partitions.len() as u64,
    ));
    families.push(gauge(
        "weir_collectors",
        Unit::None,
        "Collectors that live, this one included.",
        status.collectors.len() as u64,
    ));
    if let Some(engine) = &status.engine {
        families.extend(of_engine(engine));
    }
    families
}

/// Each reason from the beginning, so that the first refusal is a rise.
fn refusals(list: &v1::ListHostsResponse) -> Family {
    let mut family = Family::new(
        "weir_collector_connections_refused",
        Unit::None,
        Kind::Counter,
        "Who was turned away, by why.",
    );
    for reason in Refusals::reasons() {
        let mut told = list.refusals.iter();
        let of = told.find(|refusals| refusals.reason == reason);
        let count = of.map_or(0, |refusals| refusals.count);
        family.add(vec![("reason", reason.to_owned())], count as f64);
    }
    family
}

fn of_engine(engine: &v1::EngineStatus) -> Vec<Family> {
    let one = |stem, unit, kind, help, value: u64| {
        Family::new(stem, unit, kind, help).with(Labels::new(), value as f64)
    };
    let mut frames = Family::new(
        "weir_engine_frames",
        Unit::None,
        Kind::Counter,
        "Frames on their way through the engine, by what became of them.",
    );
    for (outcome, count) in [
        ("acknowledged", engine.frames_acknowledged),
        ("repeated", engine.frames_repeated),
        ("retried", engine.frames_retried),
        ("unbuffered", engine.frames_unbuffered),
        ("too_large", engine.frames_too_large),
        ("followed", engine.frames_followed),
        ("unusable", engine.frames_unusable),
    ] {
        frames.add(vec![("outcome", outcome.to_owned())], count as f64);
    }
    vec![
        frames,
        one(
            "weir_engine_connected",
            Unit::None,
            Kind::Gauge,
            "Whether the engine can be reached.",
            engine.connected.into(),
        ),
        one(
            "weir_engine_rebuilt",
            Unit::None,
            Kind::Gauge,
            "Whether all that was there at the start has been taken in.",
            engine.rebuilt.into(),
        ),
        one(
            "weir_engine_waiting",
            Unit::Bytes,
            Kind::Gauge,
            "Frames that wait for the engine.",
            engine.waiting_bytes,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::family::Value;
    use super::*;
    use crate::config::collect::Config;

    const NOW_MS: u64 = 1_700_000_000_000;

    fn host(name: &str, silent_ms: u64, at_risk_minute_ms: u64) -> v1::Host {
        v1::Host {
            host: name.into(),
            last_heard_unix_ns: (NOW_MS - silent_ms) * 1_000_000,
            at_risk_minute_ms,
            ..v1::Host::default()
        }
    }

    fn list(hosts: &[v1::Host]) -> v1::ListHostsResponse {
        v1::ListHostsResponse {
            hosts: hosts.to_vec(),
            unix_ns: NOW_MS * 1_000_000,
            ..v1::ListHostsResponse::default()
        }
    }

    /// A family's values by label.
    fn values(families: &[Family], stem: &str) -> Vec<(String, f64)> {
        let family = families.iter().find(|family| family.stem == stem).unwrap();
        let samples = family.samples.iter();
        samples
            .map(|sample| {
                let Value::Number(number) = sample.value else {
                    panic!("{stem} is a distribution");
                };
                let label = sample.labels.first();
                (
                    label.map_or_else(String::new, |(_, value)| value.clone()),
                    number,
                )
            })
            .collect()
    }

    #[test]
    fn who_is_taken_out_of_service_is_not_silent_for_ever() {
        let limits = config::Metrics {
            gone_after_s: 3_600,
            ..Config::default().metrics
        };
        let hosts = [
            host("up", 1_000, 0),
            host("down", 3_600_000, 0),
            host("out", 3_600_001, 0),
        ];
        let families = families(&list(&hosts), &limits, &mut Told::default());
        let number = |label: &str, number: f64| (label.to_owned(), number);
        assert_eq!(
            values(&families, "weir_hosts"),
            [number("reporting", 1.0), number("silent", 1.0)]
        );
        assert_eq!(values(&families, "weir_hosts_gone"), [number("", 1.0)]);
        assert_eq!(values(&families, "weir_hosts_not_told"), [number("", 0.0)]);
        let heard = values(&families, "weir_host_last_heard_timestamp");
        let named: Vec<_> = heard.iter().map(|(host, _)| host.as_str()).collect();
        assert_eq!(named, ["down", "up"]);
        assert_eq!(
            values(&families, "weir_hosts_by_version"),
            [number("", 2.0)]
        );
    }

    fn chosen(told: &mut Told, hosts: &[v1::Host]) -> Vec<String> {
        let list = list(hosts);
        let chosen = told.choose(&List::new(&list, 86_400), 4);
        let mut names: Vec<_> = chosen.iter().map(|host| host.host.clone()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_host_that_falls_silent_is_told_however_many_there_are() {
        let mut told = Told::default();
        let mut hosts: Vec<_> = (0..9).map(|n| host(&format!("h{n}"), 0, 0)).collect();
        assert_eq!(chosen(&mut told, &hosts), ["h0", "h1", "h2", "h3"]);
        hosts[8] = host("h8", 20_000, 0);
        assert_eq!(chosen(&mut told, &hosts), ["h0", "h1", "h2", "h8"]);
        // One of those told, too; then one that went later than both.
        hosts[2] = host("h2", 17_000, 0);
        assert_eq!(chosen(&mut told, &hosts), ["h0", "h1", "h2", "h8"]);
        hosts[7] = host("h7", 16_000, 0);
        assert_eq!(chosen(&mut told, &hosts), ["h0", "h1", "h2", "h7"]);
        // Many that are long gone leave room.
        for (n, gone) in hosts.iter_mut().enumerate().skip(2) {
            *gone = host(&format!("h{n}"), 900_000 + n as u64, 0);
        }
        assert_eq!(chosen(&mut told, &hosts), ["h0", "h1", "h2", "h3"]);
    }

    #[test]
    fn who_is_told_stays_but_for_one_in_trouble() {
        let mut told = Told::default();
        let mut hosts: Vec<_> = (0..9).map(|n| host(&format!("h{n}"), 0, 0)).collect();
        let before = chosen(&mut told, &hosts);
        for n in 0..100 {
            // What is at risk here and there reorders the rank, and nothing else.
            hosts[n % 9].at_risk_minute_ms = (n as u64 * 7_919) % TROUBLE_MS;
            assert_eq!(chosen(&mut told, &hosts), before);
        }
        hosts[6].at_risk_minute_ms = TROUBLE_MS;
        let then = chosen(&mut told, &hosts);
        assert!(then.contains(&"h6".to_owned()), "{then:?}");
        hosts[6].at_risk_minute_ms = 0;
        assert_eq!(chosen(&mut told, &hosts), then);
    }
}
