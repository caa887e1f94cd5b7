//! Families about hosts and about the collector itself.

use std::collections::BTreeMap;

use weir_proto::v1;

use super::family::{Family, Kind, Labels, Unit};
use crate::collect::fleet::{FRESH_MS, rank};
use crate::ui::losses;

/// Of hosts, so many at most: those first by rank.
pub(super) fn families(list: &v1::ListHostsResponse, max_hosts: u32) -> Vec<Family> {
    let mut families = of_all(list);
    let mut hosts: Vec<_> = list.hosts.iter().collect();
    hosts.sort_by(|a, b| rank(a, b));
    hosts.truncate(usize::try_from(max_hosts).unwrap_or(usize::MAX));
    families.extend(of_each(&hosts));
    families.extend(of_collector(list));
    families
}

fn is_silent(host: &v1::Host, now_unix_ns: u64) -> bool {
    now_unix_ns.saturating_sub(host.last_heard_unix_ns) / 1_000_000 > FRESH_MS
}

fn of_all(list: &v1::ListHostsResponse) -> Vec<Family> {
    let mut states = Family::new(
        "weir_hosts",
        Unit::None,
        Kind::Gauge,
        "Hosts that ever reported, by whether they do now.",
    );
    let silent = list
        .hosts
        .iter()
        .filter(|host| is_silent(host, list.unix_ns));
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
    vec![states, versions]
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

fn of_collector(list: &v1::ListHostsResponse) -> Vec<Family> {
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
        count(
            "weir_collector_connections_refused",
            "Connections that ended before their host was known.",
            list.connections_refused,
        ),
    ];
    if let Some(engine) = &status.engine {
        families.extend(of_engine(engine));
    }
    families
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
