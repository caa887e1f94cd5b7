//! What must hold between the keys of a configuration, and within each beyond its type.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use tonic::transport::Uri;

use super::{Collector, Config, Limits};
use crate::kernel::Filter;

/// Names that cells use themselves.
const RESERVED_NAMES: [&str; 2] = ["other", "-"];
const MAX_NAME_BYTES: usize = 64;
const MAX_NAMES: usize = 1024;
const PAGE_BYTES: u32 = 4096;

impl Config {
    /// Every problem found, each naming its key, what is wrong and what would be right.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        self.times(&mut problems);
        self.names(&mut problems);
        if self.filter.cgroups.len() > Filter::MAX_CGROUPS {
            problems.push(format!(
                "filter.cgroups names {} cgroups; at most {} are possible: name a common parent",
                self.filter.cgroups.len(),
                Filter::MAX_CGROUPS
            ));
        }
        if self.filter.prefixes.len() > Filter::MAX_PREFIXES {
            problems.push(format!(
                "filter.prefixes names {} prefixes; at most {} are possible",
                self.filter.prefixes.len(),
                Filter::MAX_PREFIXES
            ));
        }
        if self.filter.ports.contains(&0) {
            problems.push("filter.ports: 0 is no port".to_owned());
        }
        for cgroup in &self.filter.cgroups {
            if !cgroup.is_absolute() {
                problems.push(format!(
                    "filter.cgroups: {} is not an absolute path (e.g. \
                     /sys/fs/cgroup/system.slice/nginx.service)",
                    cgroup.display()
                ));
            }
        }
        if !self.kill_switch.is_absolute() {
            problems.push(format!(
                "kill_switch: {} is not an absolute path",
                self.kill_switch.display()
            ));
        }
        if !self.query.socket.is_absolute() {
            problems.push(format!(
                "query.socket: {} is not an absolute path",
                self.query.socket.display()
            ));
        }
        self.limits.problems(&mut problems);
        self.collector.problems(&mut problems);
        problems
    }

    fn times(&self, problems: &mut Vec<String>) {
        let mut within = |key: &str, value: u32, least: u32, most: u32, zero: &str| {
            let off = value == 0 && !zero.is_empty();
            if !off && !(least..=most).contains(&value) {
                problems.push(format!(
                    "{key} = {value} is out of range: {least} to {most}{zero}"
                ));
            }
        };
        within(
            "deadline_ms",
            self.deadline_ms,
            100,
            3_600_000,
            ", or 0 to report none late",
        );
        within("quiet_gap_ms", self.quiet_gap_ms, 50, 60_000, "");
        within(
            "progress_ms",
            self.progress_ms,
            250,
            60_000,
            ", or 0 to report none",
        );
    }

    fn names(&self, problems: &mut Vec<String>) {
        let mut ports = HashMap::new();
        let mut seen = HashSet::new();
        for service in &self.services {
            name("service", &service.name, problems);
            if service.name.parse::<u64>().is_ok() {
                problems.push(format!(
                    "service.name {:?} is a number; services without a name are called by their \
                     port, so a name must not look like one",
                    service.name
                ));
            }
            if !seen.insert(&service.name) {
                problems.push(format!(
                    "two [[service]] tables are called {:?}; put their ports into one",
                    service.name
                ));
            }
            if service.ports.is_empty() || service.ports.contains(&0) {
                problems.push(format!(
                    "service {:?} needs ports, each 1 to 65535",
                    service.name
                ));
            }
            for port in &service.ports {
                if let Some(other) = ports.insert(port, &service.name) {
                    problems.push(format!(
                        "port {port} is in two services, {other:?} and {:?}",
                        service.name
                    ));
                }
            }
        }
        let mut prefixes = HashMap::new();
        let mut seen = HashSet::new();
        for network in &self.networks {
            name("network", &network.name, problems);
            if !seen.insert(&network.name) {
                problems.push(format!(
                    "two [[network]] tables are called {:?}; put their prefixes into one",
                    network.name
                ));
            }
            if network.prefixes.is_empty() {
                problems.push(format!("network {:?} needs prefixes", network.name));
            }
            for prefix in &network.prefixes {
                if let Some(other) = prefixes.insert(prefix.trunc(), &network.name) {
                    problems.push(format!(
                        "prefix {prefix} is in two networks, {other:?} and {:?}",
                        network.name
                    ));
                }
            }
        }
        for (key, count) in [
            ("service", self.services.len()),
            ("network", self.networks.len()),
        ] {
            if count > MAX_NAMES {
                problems.push(format!(
                    "{count} [[{key}]] tables; at most {MAX_NAMES} are possible"
                ));
            }
        }
    }
}

fn name(kind: &str, name: &str, problems: &mut Vec<String>) {
    let printable = |c: char| c.is_ascii_graphic() && c != '/';
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.chars().all(printable) {
        problems.push(format!(
            "{kind}.name {name:?} must be 1 to {MAX_NAME_BYTES} printable ASCII characters \
             without spaces and slashes"
        ));
    } else if RESERVED_NAMES.contains(&name) {
        problems.push(format!(
            "{kind}.name {name:?} is taken: weir itself uses it for what has no name of its own"
        ));
    }
}

impl Limits {
    fn problems(&self, problems: &mut Vec<String>) {
        for (key, value, least, most) in [
            ("max_sessions", self.max_sessions, 16, 16_777_216),
            ("max_cells", self.max_cells, 2, 256),
            (
                "max_deliveries_kept",
                self.max_deliveries_kept,
                1,
                1_000_000,
            ),
            ("followers", self.followers, 1, 1024),
            ("follower_lag", self.follower_lag, 16, 1_048_576),
        ] {
            if !(least..=most).contains(&value) {
                problems.push(format!(
                    "limits.{key} = {value} is out of range: {least} to {most}"
                ));
            }
        }
        for (key, value) in [
            ("hot_ring_bytes", self.hot_ring_bytes),
            ("bulk_ring_bytes", self.bulk_ring_bytes),
        ] {
            if !value.is_power_of_two() || !(PAGE_BYTES..=1 << 30).contains(&value) {
                problems.push(format!(
                    "limits.{key} = {value} must be a power of two from {PAGE_BYTES} to {} \
                     (the kernel wants whole pages)",
                    1_u32 << 30
                ));
            }
        }
    }
}

impl Collector {
    fn problems(&self, problems: &mut Vec<String>) {
        if !(100..=60_000).contains(&self.interval_ms) {
            problems.push(format!(
                "collector.interval_ms = {} is out of range: 100 to 60000",
                self.interval_ms
            ));
        }
        if let Some(host) = &self.host
            && (host.is_empty() || host.len() > 255 || !host.chars().all(|c| c.is_ascii_graphic()))
        {
            problems.push(format!(
                "collector.host {host:?} must be 1 to 255 printable ASCII characters without spaces"
            ));
        }
        if let Some(url) = &self.url
            && let Err(problem) = collector_url(url, self.insecure)
        {
            problems.push(problem);
        }
    }
}

/// Parses a collector's URL. Plain text to another host is refused unless `insecure`.
pub(crate) fn collector_url(url: &str, insecure: bool) -> Result<Uri, String> {
    let uri: Uri = url.parse().map_err(|err| {
        format!("collector.url {url:?} is no URL ({err}); e.g. http://127.0.0.1:7447")
    })?;
    let Some(host) = uri.host() else {
        return Err(format!(
            "collector.url {url:?} names no host; e.g. http://127.0.0.1:7447"
        ));
    };
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => {
            return Err(format!(
                "collector.url {url:?}: this version of weir does not speak TLS; use http:// over \
                 loopback (e.g. a tunnel on this host)"
            ));
        }
        _ => {
            return Err(format!("collector.url {url:?} must begin with http://"));
        }
    }
    if !insecure && !is_loopback(host) {
        return Err(format!(
            "collector.url {url:?} would send measurements unencrypted to another host; tunnel to \
             a loopback address, or set collector.insecure = true if the network in between is \
             yours"
        ));
    }
    Ok(uri)
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}
