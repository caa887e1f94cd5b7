//! From TOML to a [`Config`]. Checks between keys are not made here.

use super::table::{Places, Problems, Source, Table};
use super::{Config, Error, Network, Rule, Service, steer};

/// Reads `text`, in which absent keys keep their default.
pub(super) fn read(text: &str, name: &str) -> Result<(Config, Places), Error> {
    let source = Source::new(text, name);
    let config = read_from(&source)?;
    Ok((config, source.into_places()))
}

/// Every key that the reader looked for in `text`, in full.
#[cfg(test)]
pub(super) fn known_keys(text: &str) -> Result<Vec<String>, Error> {
    let source = Source::new(text, "");
    read_from(&source)?;
    Ok(source.into_known())
}

fn read_from(source: &Source<'_>) -> Result<Config, Error> {
    let mut config = Config::default();
    source.read(|root, problems| read_root(root, &mut config, problems))?;
    Ok(config)
}

fn read_root(root: &mut Table<'_, '_>, config: &mut Config, problems: &mut Problems) {
    root.set("backend", &mut config.backend, problems);
    root.set("kill_switch", &mut config.kill_switch, problems);
    root.set(
        "budget_core_permille",
        &mut config.budget_core_permille,
        problems,
    );
    root.set("deadline_ms", &mut config.deadline_ms, problems);
    root.set("quiet_gap_ms", &mut config.quiet_gap_ms, problems);
    root.set("progress_ms", &mut config.progress_ms, problems);
    root.table("filter", problems, |table, problems| {
        table.set("ports", &mut config.filter.ports, problems);
        table.set("prefixes", &mut config.filter.prefixes, problems);
        table.set("cgroups", &mut config.filter.cgroups, problems);
    });
    root.tables("service", problems, |table, problems| {
        let name = table.need("name", problems);
        let ports = table.need("ports", problems);
        if let (Some(name), Some(ports)) = (name, ports) {
            config.services.push(Service { name, ports });
        }
    });
    root.tables("network", problems, |table, problems| {
        let name = table.need("name", problems);
        let prefixes = table.need("prefixes", problems);
        if let (Some(name), Some(prefixes)) = (name, prefixes) {
            config.networks.push(Network { name, prefixes });
        }
    });
    read_labels(root, config, problems);
    read_viewers(root, config, problems);
    root.table("limits", problems, |table, problems| {
        let limits = &mut config.limits;
        table.set("max_sessions", &mut limits.max_sessions, problems);
        table.set("max_viewers", &mut limits.max_viewers, problems);
        table.set("max_cells", &mut limits.max_cells, problems);
        table.set(
            "max_deliveries_kept",
            &mut limits.max_deliveries_kept,
            problems,
        );
        table.set("hot_ring_bytes", &mut limits.hot_ring_bytes, problems);
        table.set("bulk_ring_bytes", &mut limits.bulk_ring_bytes, problems);
        table.set("followers", &mut limits.followers, problems);
        table.set("follower_lag", &mut limits.follower_lag, problems);
    });
    root.table("query", problems, |table, problems| {
        table.set("socket", &mut config.query.socket, problems);
        table.set("allow_users", &mut config.query.allow_users, problems);
        table.set("allow_groups", &mut config.query.allow_groups, problems);
    });
    read_collector(root, config, problems);
    root.table("recording", problems, |table, problems| {
        let recording = &mut config.recording;
        table.set("file", &mut recording.file, problems);
        table.set("max_bytes", &mut recording.max_bytes, problems);
        table.set("max_files", &mut recording.max_files, problems);
        table.set("min_free_bytes", &mut recording.min_free_bytes, problems);
    });
    steer::read(root, config, problems);
    root.table("log", problems, |table, problems| {
        table.set("level", &mut config.log.level, problems);
        table.set("programs", &mut config.log.programs, problems);
    });
}

fn read_labels(root: &mut Table<'_, '_>, config: &mut Config, problems: &mut Problems) {
    root.table("labels", problems, |table, problems| {
        let labels = &mut config.labels;
        table.set("access_log_socket", &mut labels.access_log_socket, problems);
        table.set("tag_socket", &mut labels.tag_socket, problems);
        table.set("socket_group", &mut labels.socket_group, problems);
        table.set("max_per_s", &mut labels.max_per_s, problems);
        table.set("queue", &mut labels.queue, problems);
        table.set("keep_session_ids", &mut labels.keep_session_ids, problems);
        table.set("mmdb", &mut labels.mmdb, problems);
        table.set("mmdb_field", &mut labels.mmdb_field, problems);
        table.set("hash_clients", &mut labels.hash_clients, problems);
        table.set("hash_key_hours", &mut labels.hash_key_hours, problems);
    });
    root.tables("rule", problems, |table, problems| {
        let mut rule = Rule::default();
        let matches = table.need("match", problems);
        table.set("class", &mut rule.class, problems);
        table.set("media", &mut rule.media, problems);
        table.set("duration_ms", &mut rule.duration_ms, problems);
        table.set("bitrate_kbps", &mut rule.bitrate_kbps, problems);
        table.set("rung", &mut rule.rung, problems);
        table.set("stream", &mut rule.stream, problems);
        if let Some(matches) = matches {
            config.rules.push(Rule { matches, ..rule });
        }
    });
}

fn read_collector(root: &mut Table<'_, '_>, config: &mut Config, problems: &mut Problems) {
    root.table("collector", problems, |table, problems| {
        let collector = &mut config.collector;
        table.set("url", &mut collector.url, problems);
        table.set("interval_ms", &mut collector.interval_ms, problems);
        table.set("host", &mut collector.host, problems);
        table.set("ca_file", &mut collector.ca_file, problems);
        table.set("cert_file", &mut collector.cert_file, problems);
        table.set("key_file", &mut collector.key_file, problems);
        table.set("plain_text", &mut collector.plain_text, problems);
        table.set("ring_directory", &mut collector.ring_directory, problems);
        table.set("ring_max_bytes", &mut collector.ring_max_bytes, problems);
        table.set("hot_bytes_per_s", &mut collector.hot_bytes_per_s, problems);
        table.set(
            "warm_bytes_per_s",
            &mut collector.warm_bytes_per_s,
            problems,
        );
        table.set(
            "cold_bytes_per_s",
            &mut collector.cold_bytes_per_s,
            problems,
        );
    });
}

fn read_viewers(root: &mut Table<'_, '_>, config: &mut Config, problems: &mut Problems) {
    root.table("viewers", problems, |table, problems| {
        let viewers = &mut config.viewers;
        table.set("from_kernel", &mut viewers.from_kernel, problems);
        table.set("learned_file", &mut viewers.learned_file, problems);
        table.set("sustain_kbps", &mut viewers.sustain_kbps, problems);
    });
    root.table("alarms", problems, |table, problems| {
        let alarms = &mut config.alarms;
        table.set(
            "start_failures_permille",
            &mut alarms.start_failures_permille,
            problems,
        );
        table.set(
            "stalled_viewers_permille",
            &mut alarms.stalled_viewers_permille,
            problems,
        );
        table.set(
            "late_deliveries_permille",
            &mut alarms.late_deliveries_permille,
            problems,
        );
        table.set("false_alarms_ppm", &mut alarms.false_alarms_ppm, problems);
    });
}
