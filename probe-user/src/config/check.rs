//! What must hold between the keys of a configuration, and within each beyond its type.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;

use tonic::transport::Uri;

use super::{Alarms, Collector, Config, KILL_SWITCH, Limits, Recording, labels};
use crate::kernel::Filter;
use crate::qoe::cell::RATES;

/// Names that cells use themselves.
const RESERVED_NAMES: [&str; 2] = ["other", "-"];
const MAX_NAME_BYTES: usize = 64;
const MAX_NAMES: usize = 1024;
const PAGE_BYTES: u32 = 4096;
/// 100 Gbit/s.
const MOST_KBPS: u32 = 100_000_000;

/// A value that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// Its key in full; where a table comes several times, with its number: `service[0].name`.
    pub(super) place: String,
    /// Which key, what is wrong and what would be right.
    pub(super) message: String,
}

/// Problems as they are found.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn into_vec(self) -> Vec<Problem> {
        self.0
    }

    pub(super) fn add(&mut self, place: impl Into<String>, message: String) {
        let place = place.into();
        self.0.push(Problem { place, message });
    }

    pub(super) fn within(&mut self, key: &str, value: impl Into<u64>, least: u64, most: u64) {
        let value = value.into();
        if !(least..=most).contains(&value) {
            self.add(
                key,
                format!("{key} = {value} is out of range: {least} to {most}"),
            );
        }
    }

    pub(super) fn within_or_zero(
        &mut self,
        key: &str,
        value: u32,
        least: u32,
        most: u32,
        zero: &str,
    ) {
        if value != 0 && !(least..=most).contains(&value) {
            self.add(
                key,
                format!("{key} = {value} is out of range: {least} to {most}, or 0 {zero}"),
            );
        }
    }

    pub(super) fn absolute(&mut self, key: &str, path: &Path, example: &str) {
        if !path.is_absolute() {
            self.add(
                key,
                format!(
                    "{key}: {} is not an absolute path (e.g. {example})",
                    path.display()
                ),
            );
        }
    }
}

impl Config {
    /// Every problem found.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Problems::default();
        self.times(&mut problems);
        self.services(&mut problems);
        self.networks(&mut problems);
        self.filters(&mut problems);
        problems.absolute("kill_switch", &self.kill_switch, KILL_SWITCH);
        problems.absolute("query.socket", &self.query.socket, "/run/weir/weir.sock");
        if let Some(file) = &self.viewers.learned_file {
            problems.absolute("viewers.learned_file", file, "/var/lib/weir/players.json");
        }
        self.rates(&mut problems);
        self.alarms.problems(&mut problems);
        self.limits.problems(&mut problems);
        self.collector.problems(&mut problems);
        self.recording.problems(&mut problems);
        self.labels.problems(&mut problems);
        labels::rule_problems(&self.rules, &mut problems);
        let services: Vec<_> = self.services.iter().map(|own| own.name.as_str()).collect();
        self.steer.problems(&services, &mut problems);
        problems.0
    }

    fn rates(&self, problems: &mut Problems) {
        let rates = &self.viewers.sustain_kbps;
        let is_rising = rates.is_sorted_by(|a, b| a < b);
        let is_within = rates.iter().all(|kbps| (1..=MOST_KBPS).contains(kbps));
        if rates.is_empty() || rates.len() > RATES || !is_rising || !is_within {
            problems.add(
                "viewers.sustain_kbps",
                format!(
                    "viewers.sustain_kbps = {rates:?}: expected one to {RATES} rates, rising, each 1 to \
                     {MOST_KBPS}"
                ),
            );
        }
    }

    fn times(&self, problems: &mut Problems) {
        problems.within_or_zero(
            "deadline_ms",
            self.deadline_ms,
            100,
            3_600_000,
            "to report none late",
        );
        problems.within("quiet_gap_ms", self.quiet_gap_ms, 50, 60_000);
        problems.within_or_zero(
            "progress_ms",
            self.progress_ms,
            250,
            60_000,
            "to report none",
        );
    }

    fn filters(&self, problems: &mut Problems) {
        let filter = &self.filter;
        for (key, what, count, most) in [
            (
                "filter.cgroups",
                "cgroups",
                filter.cgroups.len(),
                Filter::MAX_CGROUPS,
            ),
            (
                "filter.prefixes",
                "prefixes",
                filter.prefixes.len(),
                Filter::MAX_PREFIXES,
            ),
        ] {
            if count > most {
                problems.add(
                    key,
                    format!("{key} names {count} {what}; at most {most} are possible: name fewer, wider ones"),
                );
            }
        }
        if filter.ports.contains(&0) {
            problems.add("filter.ports", "filter.ports: 0 is no port".to_owned());
        }
        for cgroup in &filter.cgroups {
            problems.absolute(
                "filter.cgroups",
                cgroup,
                "/sys/fs/cgroup/system.slice/nginx.service",
            );
        }
    }

    fn services(&self, problems: &mut Problems) {
        let mut ports = HashMap::new();
        let mut seen = HashSet::new();
        for (n, service) in self.services.iter().enumerate() {
            let (place, ports_place) =
                (format!("service[{n}].name"), format!("service[{n}].ports"));
            name("service", &place, &service.name, problems);
            if service.name.parse::<u64>().is_ok() {
                problems.add(
                    &place,
                    format!(
                        "service.name {:?} is a number; services without a name are called by their \
                         port, so a name must not look like one",
                        service.name
                    ),
                );
            }
            if !seen.insert(&service.name) {
                problems.add(
                    &place,
                    format!(
                        "service.name: two [[service]] tables are called {:?}; put their ports into \
                         one",
                        service.name
                    ),
                );
            }
            if service.ports.is_empty() || service.ports.contains(&0) {
                problems.add(
                    &ports_place,
                    format!(
                        "service.ports: service {:?} needs ports, each 1 to 65535",
                        service.name
                    ),
                );
            }
            for port in &service.ports {
                if let Some(other) = ports.insert(port, &service.name) {
                    problems.add(
                        &ports_place,
                        format!(
                            "service.ports: port {port} is in two services, {other:?} and {:?}",
                            service.name
                        ),
                    );
                }
            }
        }
        count("service", self.services.len(), problems);
    }

    fn networks(&self, problems: &mut Problems) {
        let mut prefixes = HashMap::new();
        let mut seen = HashSet::new();
        for (n, network) in self.networks.iter().enumerate() {
            let place = format!("network[{n}].name");
            let prefixes_place = format!("network[{n}].prefixes");
            name("network", &place, &network.name, problems);
            if !seen.insert(&network.name) {
                problems.add(
                    &place,
                    format!(
                        "network.name: two [[network]] tables are called {:?}; put their prefixes \
                         into one",
                        network.name
                    ),
                );
            }
            if network.prefixes.is_empty() {
                problems.add(
                    &prefixes_place,
                    format!(
                        "network.prefixes: network {:?} needs prefixes",
                        network.name
                    ),
                );
            }
            for prefix in &network.prefixes {
                if let Some(other) = prefixes.insert(prefix.trunc(), &network.name) {
                    problems.add(
                        &prefixes_place,
                        format!(
                            "network.prefixes: prefix {prefix} is in two networks, {other:?} and \
                             {:?}",
                            network.name
                        ),
                    );
                }
            }
        }
        count("network", self.networks.len(), problems);
    }
}

fn count(key: &str, count: usize, problems: &mut Problems) {
    if count > MAX_NAMES {
        problems.add(
            key,
            format!("{count} [[{key}]] tables; at most {MAX_NAMES} are possible"),
        );
    }
}

pub(super) fn name(kind: &str, place: &str, name: &str, problems: &mut Problems) {
    let printable = |c: char| c.is_ascii_graphic() && c != '/';
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.chars().all(printable) {
        problems.add(
            place,
            format!(
                "{kind}.name {name:?} must be 1 to {MAX_NAME_BYTES} printable ASCII characters \
                 without spaces and slashes"
            ),
        );
    } else if RESERVED_NAMES.contains(&name) {
        problems.add(
            place,
            format!(
                "{kind}.name {name:?} is taken: weir itself uses it for what has no name of its own"
            ),
        );
    }
}

impl Alarms {
    fn problems(&self, problems: &mut Problems) {
        for (key, value, most) in [
            (
                "alarms.start_failures_permille",
                self.start_failures_permille,
                500,
            ),
            (
                "alarms.stalled_viewers_permille",
                self.stalled_viewers_permille,
                500,
            ),
            (
                "alarms.late_deliveries_permille",
                self.late_deliveries_permille,
                500,
            ),
            ("alarms.false_alarms_ppm", self.false_alarms_ppm, 100_000),
        ] {
            problems.within(key, value, 1, most);
        }
    }
}

impl Limits {
    fn problems(&self, problems: &mut Problems) {
        for (key, value, least, most) in [
            ("limits.max_sessions", self.max_sessions, 16, 16_777_216),
            ("limits.max_viewers", self.max_viewers, 0, 4_194_304),
            ("limits.max_cells", self.max_cells, 2, 256),
            (
                "limits.max_deliveries_kept",
                self.max_deliveries_kept,
                1,
                1_000_000,
            ),
            ("limits.followers", self.followers, 1, 1024),
            ("limits.follower_lag", self.follower_lag, 16, 1_048_576),
        ] {
            problems.within(key, value, least, most);
        }
        for (key, value) in [
            ("limits.hot_ring_bytes", self.hot_ring_bytes),
            ("limits.bulk_ring_bytes", self.bulk_ring_bytes),
        ] {
            if !value.is_power_of_two() || !(PAGE_BYTES..=1 << 30).contains(&value) {
                problems.add(
                    key,
                    format!(
                        "{key} = {value} must be a power of two from {PAGE_BYTES} to {} (the kernel \
                         wants whole pages)",
                        1_u32 << 30
                    ),
                );
            }
        }
    }
}

impl Recording {
    fn problems(&self, problems: &mut Problems) {
        if let Some(file) = &self.file {
            problems.absolute("recording.file", file, "/var/lib/weir/edge.weir");
            if file.file_name().is_none() {
                let message = format!("recording.file: {} names no file", file.display());
                problems.add("recording.file", message);
            }
        }
        problems.within("recording.max_bytes", self.max_bytes, 1 << 20, 1 << 40);
        // One alone would lose all that is known each time that it is full.
        problems.within("recording.max_files", self.max_files, 2, 10_000);
    }
}

impl Collector {
    fn problems(&self, problems: &mut Problems) {
        problems.within("collector.interval_ms", self.interval_ms, 100, 60_000);
        for (key, value) in [
            ("collector.hot_bytes_per_s", self.hot_bytes_per_s),
            ("collector.warm_bytes_per_s", self.warm_bytes_per_s),
        ] {
            problems.within(key, value, 1024, 1 << 30);
        }
        let max_bytes = self.ring_max_bytes;
        problems.within("collector.ring_max_bytes", max_bytes, 1 << 20, 1 << 34);
        if let Some(directory) = &self.ring_directory {
            problems.absolute("collector.ring_directory", directory, "/var/lib/weir/ring");
        }
        let (cold, key) = (self.cold_bytes_per_s, "collector.cold_bytes_per_s");
        problems.within_or_zero(key, cold, 1024, 1 << 30, "to send no deliveries");
        if let Some(host) = &self.host
            && (host.is_empty() || host.len() > 255 || !host.chars().all(|c| c.is_ascii_graphic()))
        {
            problems.add(
                "collector.host",
                format!(
                    "collector.host {host:?} must be 1 to 255 printable ASCII characters without \
                     spaces"
                ),
            );
        }
        let files = [
            ("collector.ca_file", &self.ca_file),
            ("collector.cert_file", &self.cert_file),
            ("collector.key_file", &self.key_file),
        ];
        for (key, file) in files {
            if let Some(file) = file {
                problems.absolute(key, file, "/etc/weir/tls/edge.pem");
            }
        }
        let given = files.iter().filter(|(_, file)| file.is_some()).count();
        if let Some((absent, _)) = files.iter().find(|(_, file)| file.is_none())
            && given > 0
        {
            let message = format!(
                "{absent} is missing: collector.ca_file, cert_file and key_file go together"
            );
            problems.add("collector", message);
        }
        if let Some(url) = &self.url
            && let Err(problem) = collector_url(url, self.plain_text, given == files.len())
        {
            problems.add("collector.url", problem);
        }
    }
}

/// Parses a collector's URL. Plain text goes to this host only, and only if it is asked for.
pub(crate) fn collector_url(
    url: &str,
    is_plain_text: bool,
    has_files: bool,
) -> Result<Uri, String> {
    let said = format!("collector.url {url:?}");
    let uri: Uri = url
        .parse()
        .map_err(|err| format!("{said} is no URL ({err}); e.g. https://collector:7447"))?;
    let Some(host) = uri.host() else {
        return Err(format!("{said} names no host; e.g. https://collector:7447"));
    };
    match uri.scheme_str() {
        Some("https") if is_plain_text => Err(format!(
            "{said}: collector.plain_text = true asks for plain text and https:// for TLS; say one"
        )),
        Some("https") if !has_files => Err(format!(
            "{said} needs a certificate: collector.ca_file, cert_file and key_file"
        )),
        Some("http") if !is_loopback(host) => Err(format!(
            "{said} would send measurements unencrypted to another host; use https:// and give \
             collector.ca_file, cert_file and key_file"
        )),
        Some("http") if !is_plain_text => Err(format!(
            "{said} is plain text, which must be asked for: collector.plain_text = true"
        )),
        Some("http") if has_files => Err(format!(
            "{said} is plain text, to which collector.cert_file is of no use; use https://"
        )),
        Some("https" | "http") => Ok(uri),
        _ => Err(format!("{said} must begin with https:// or http://")),
    }
}

pub(crate) fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}
