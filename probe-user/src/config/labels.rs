//! `[labels]` and `[[rule]]`: who tells weir what a request is, and what of it is kept.

use std::path::PathBuf;

use super::Principal;
use super::check::Problems;
use crate::labels::request::{Class, Media, Stream};
use crate::labels::rules;

/// `[labels]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    /// Where the server's access log is heard; none: nowhere.
    pub access_log_socket: Option<PathBuf>,
    /// Where tags are heard; none: nowhere.
    pub tag_socket: Option<PathBuf>,
    /// Whose members may write to both; none: the daemon's own group.
    pub socket_group: Option<Principal>,
    /// Datagrams that are read in each second; the others are counted.
    pub max_per_s: u32,
    /// Labels that wait to be taken in; beyond, the oldest go.
    pub queue: u32,
    /// Whether viewers' session ids are kept as they are, and not only as hashes.
    pub keep_session_ids: bool,
    /// A database of networks; none: prefixes alone name them.
    pub mmdb: Option<PathBuf>,
    /// What of it names a network.
    pub mmdb_field: MmdbField,
    /// Whether clients' addresses leave the host only as hashes.
    pub hash_clients: bool,
    /// How long the key of these hashes lives.
    pub hash_key_hours: u32,
}

/// What of a database of networks names one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MmdbField {
    /// `AS64500`.
    AsNumber,
    /// The name of who runs it.
    AsOrganization,
    /// `DE`.
    Country,
    /// The English name.
    City,
}

/// One `[[rule]]`: what a URL says. What is absent is guessed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// `match`: a regular expression, looked for in path and query.
    pub matches: String,
    /// The object's part in playing.
    pub class: Option<Class>,
    /// What is in it.
    pub media: Option<Media>,
    /// How long it plays.
    pub duration_ms: Option<u32>,
    /// Its encoded bitrate.
    pub bitrate_kbps: Option<u32>,
    /// Its rendition.
    pub rung: Option<String>,
    /// Live or not.
    pub stream: Option<Stream>,
}

impl Default for Labels {
    fn default() -> Self {
        Self {
            access_log_socket: None,
            tag_socket: None,
            socket_group: None,
            max_per_s: 50_000,
            queue: 8192,
            keep_session_ids: false,
            mmdb: None,
            mmdb_field: MmdbField::AsNumber,
            hash_clients: true,
            hash_key_hours: 24,
        }
    }
}

impl Labels {
    pub(super) fn problems(&self, problems: &mut Problems) {
        for (key, path, example) in [
            (
                "labels.access_log_socket",
                &self.access_log_socket,
                "/run/weir/log.sock",
            ),
            ("labels.tag_socket", &self.tag_socket, "/run/weir/tag.sock"),
            (
                "labels.mmdb",
                &self.mmdb,
                "/var/lib/GeoIP/GeoLite2-ASN.mmdb",
            ),
        ] {
            if let Some(path) = path {
                problems.absolute(key, path, example);
            }
        }
        if self.access_log_socket.is_some() && self.access_log_socket == self.tag_socket {
            problems.add(
                "labels.tag_socket",
                "labels.tag_socket and labels.access_log_socket are the same; each needs a socket \
                 of its own"
                    .to_owned(),
            );
        }
        problems.within("labels.max_per_s", self.max_per_s, 100, 10_000_000);
        problems.within("labels.queue", self.queue, 64, 1_048_576);
        problems.within("labels.hash_key_hours", self.hash_key_hours, 1, 24 * 366);
    }
}

pub(super) fn rule_problems(all: &[Rule], problems: &mut Problems) {
    if all.len() > rules::MOST_RULES {
        let message = format!(
            "{} [[rule]] tables; at most {} are possible",
            all.len(),
            rules::MOST_RULES
        );
        problems.add("rule", message);
        return;
    }
    for (n, rule) in all.iter().enumerate() {
        let place = |key| format!("rule[{n}].{key}");
        if let Err(why) = rules::expression(&rule.matches) {
            problems.add(
                place("match"),
                format!("rule.match {:?} {why}", rule.matches),
            );
        }
        for (key, value, most) in [
            ("duration_ms", rule.duration_ms, 3_600_000),
            ("bitrate_kbps", rule.bitrate_kbps, 100_000_000),
        ] {
            if let Some(value) = value.filter(|value| !(1..=most).contains(value)) {
                problems.add(
                    place(key),
                    format!("rule.{key} = {value} is out of range: 1 to {most}"),
                );
            }
        }
        if let Some(rung) = &rule.rung
            && (rung.is_empty() || rung.len() > 64)
        {
            problems.add(
                place("rung"),
                format!("rule.rung {rung:?} must have 1 to 64 bytes"),
            );
        }
    }
    // Each by itself is fine: together they may be too large.
    if problems.is_empty()
        && let Err(why) = rules::Rules::new(all)
    {
        problems.add("rule", format!("all rule.match together: {why}"));
    }
}
