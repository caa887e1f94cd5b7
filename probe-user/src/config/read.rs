//! From TOML to a [`Config`]: every wrong or unknown key is named with its file and line.
//!
//! All problems of a file are reported at once. Checks between keys are not made here.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::value::{Value, wrong};
use super::{Config, Error, Network, Rule, Service};

/// Suggestions must be at least so alike (Jaro-Winkler).
const ALIKE: f64 = 0.8;

/// Where each key of a file stands.
#[derive(Debug, Default)]
pub(super) struct Places(HashMap<String, usize>);

impl Places {
    /// The line, from 1, of a key in full; `service[1].ports` is in the second `[[service]]`. None:
    /// the file does not have it.
    pub(super) fn line_of(&self, place: &str) -> Option<usize> {
        self.0.get(place).copied()
    }
}

/// Reads `text`, in which absent keys keep their default.
pub(super) fn read(text: &str, name: &str) -> Result<(Config, Places), Error> {
    let source = Source {
        text,
        name,
        known: RefCell::default(),
        places: RefCell::default(),
    };
    let config = read_from(&source)?;
    Ok((config, source.places.into_inner()))
}

/// Every key that the reader looked for in `text`, in full.
#[cfg(test)]
pub(super) fn known_keys(text: &str) -> Result<Vec<String>, Error> {
    let source = Source {
        text,
        name: "",
        known: RefCell::default(),
        places: RefCell::default(),
    };
    read_from(&source)?;
    Ok(source.known.into_inner())
}

fn read_from(source: &Source<'_>) -> Result<Config, Error> {
    let Source { text, .. } = source;
    let document = DeTable::parse(text).map_err(|err| {
        let message = err.message().lines().collect::<Vec<_>>().join(", ");
        Error::Invalid(vec![source.at(err.span(), "", &message)])
    })?;
    let mut problems = Vec::new();
    let mut config = Config::default();
    let mut root = Table::new(source, String::new(), String::new(), document.get_ref());

    root.set("backend", &mut config.backend, &mut problems);
    root.set("kill_switch", &mut config.kill_switch, &mut problems);
    root.set(
        "budget_core_permille",
        &mut config.budget_core_permille,
        &mut problems,
    );
    root.set("deadline_ms", &mut config.deadline_ms, &mut problems);
    root.set("quiet_gap_ms", &mut config.quiet_gap_ms, &mut problems);
    root.set("progress_ms", &mut config.progress_ms, &mut problems);
    root.table("filter", &mut problems, |table, problems| {
        table.set("ports", &mut config.filter.ports, problems);
        table.set("prefixes", &mut config.filter.prefixes, problems);
        table.set("cgroups", &mut config.filter.cgroups, problems);
    });
    root.tables("service", &mut problems, |table, problems| {
        let name = table.need("name", problems);
        let ports = table.need("ports", problems);
        if let (Some(name), Some(ports)) = (name, ports) {
            config.services.push(Service { name, ports });
        }
    });
    root.tables("network", &mut problems, |table, problems| {
        let name = table.need("name", problems);
        let prefixes = table.need("prefixes", problems);
        if let (Some(name), Some(prefixes)) = (name, prefixes) {
            config.networks.push(Network { name, prefixes });
        }
    });
    read_labels(&mut root, &mut config, &mut problems);
    read_viewers(&mut root, &mut config, &mut problems);
    root.table("limits", &mut problems, |table, problems| {
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
    root.table("query", &mut problems, |table, problems| {
        table.set("socket", &mut config.query.socket, problems);
        table.set("allow_users", &mut config.query.allow_users, problems);
        table.set("allow_groups", &mut config.query.allow_groups, problems);
    });
    read_collector(&mut root, &mut config, &mut problems);
    root.table("recording", &mut problems, |table, problems| {
        let recording = &mut config.recording;
        table.set("file", &mut recording.file, problems);
        table.set("max_bytes", &mut recording.max_bytes, problems);
        table.set("max_files", &mut recording.max_files, problems);
        table.set("min_free_bytes", &mut recording.min_free_bytes, problems);
    });
    root.table("log", &mut problems, |table, problems| {
        table.set("level", &mut config.log.level, problems);
        table.set("programs", &mut config.log.programs, problems);
    });
    root.finish(&mut problems);

    if problems.is_empty() {
        Ok(config)
    } else {
        problems.sort_by_key(|(offset, _)| *offset);
        Err(Error::Invalid(
            problems.into_iter().map(|(_, problem)| problem).collect(),
        ))
    }
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

/// Problems with their place in the file, so that they can be told in its order.
type Problems = Vec<(usize, String)>;

struct Source<'t> {
    text: &'t str,
    name: &'t str,
    /// Every key that was looked for.
    known: RefCell<Vec<String>>,
    places: RefCell<Places>,
}

impl Source<'_> {
    fn line(&self, at: usize) -> usize {
        let before = self.text.get(..at).unwrap_or(self.text);
        before.bytes().filter(|byte| *byte == b'\n').count() + 1
    }

    fn at(&self, span: Option<Range<usize>>, key: &str, message: &str) -> String {
        let separator = if key.is_empty() { "" } else { ": " };
        let Some(span) = span else {
            return format!("{}: {key}{separator}{message}", self.name);
        };
        let line = self.line(span.start);
        format!("{}:{line}: {key}{separator}{message}", self.name)
    }
}

/// One table of the file, from which known keys are taken; what is left is unknown.
struct Table<'a, 't> {
    source: &'a Source<'t>,
    path: String,
    /// The path, with the number of a table that comes several times.
    place: String,
    left: BTreeMap<&'a str, (Range<usize>, &'a Spanned<DeValue<'t>>)>,
    known: Vec<&'static str>,
}

impl<'a, 't> Table<'a, 't> {
    fn new(source: &'a Source<'t>, path: String, place: String, table: &'a DeTable<'t>) -> Self {
        let left = table
            .iter()
            .map(|(key, value)| (key.get_ref().as_ref(), (key.span(), value)))
            .collect();
        Self {
            source,
            path,
            place,
            left,
            known: Vec::new(),
        }
    }

    fn key(&self, key: &str) -> String {
        within(&self.path, key)
    }

    fn note(&self, place: &str, line: usize) {
        let mut places = self.source.places.borrow_mut();
        places.0.insert(place.to_owned(), line);
    }

    fn take(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'t>>> {
        self.known.push(key);
        self.source.known.borrow_mut().push(self.key(key));
        let (span, value) = self.left.remove(key)?;
        let line = self.source.line(span.start);
        self.note(&within(&self.place, key), line);
        Some(value)
    }

    fn problem(&self, span: Range<usize>, key: &str, message: &str, problems: &mut Problems) {
        let start = span.start;
        problems.push((start, self.source.at(Some(span), &self.key(key), message)));
    }

    /// Sets `place` if the key is there; otherwise it keeps what it has.
    fn set<T: Value>(&mut self, key: &'static str, place: &mut T, problems: &mut Problems) {
        let Some(value) = self.take(key) else { return };
        match T::from_toml(value.get_ref()) {
            Ok(read) => *place = read,
            Err(message) => self.problem(value.span(), key, &message, problems),
        }
    }

    /// A key that its table must have.
    fn need<T: Value>(&mut self, key: &'static str, problems: &mut Problems) -> Option<T> {
        let Some(value) = self.take(key) else {
            let message = format!("is missing; expected {}", T::EXPECTED);
            let start = self.left.values().map(|(span, _)| span.start).next();
            let span = start.map(|start| start..start);
            problems.push((
                start.unwrap_or(0),
                self.source.at(span, &self.key(key), &message),
            ));
            return None;
        };
        match T::from_toml(value.get_ref()) {
            Ok(read) => Some(read),
            Err(message) => {
                self.problem(value.span(), key, &message, problems);
                None
            }
        }
    }

    fn table(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
        read: impl FnOnce(&mut Table<'a, 't>, &mut Problems),
    ) {
        let Some(value) = self.take(key) else { return };
        let DeValue::Table(table) = value.get_ref() else {
            let message = wrong(&format!("a table, [{key}]"), value.get_ref());
            return self.problem(value.span(), key, &message, problems);
        };
        let mut table = Table::new(self.source, self.key(key), within(&self.place, key), table);
        read(&mut table, problems);
        table.finish(problems);
    }

    fn tables(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
        mut read: impl FnMut(&mut Table<'a, 't>, &mut Problems),
    ) {
        let Some(value) = self.take(key) else { return };
        let DeValue::Array(array) = value.get_ref() else {
            let message = wrong(&format!("tables, each begun by [[{key}]]"), value.get_ref());
            return self.problem(value.span(), key, &message, problems);
        };
        for (n, value) in array.iter().enumerate() {
            let place = within(&self.place, &format!("{key}[{n}]"));
            let DeValue::Table(table) = value.get_ref() else {
                let message = wrong(&format!("a table, [[{key}]]"), value.get_ref());
                self.problem(value.span(), key, &message, problems);
                continue;
            };
            let mut table = Table::new(self.source, self.key(key), place, table);
            read(&mut table, problems);
            table.finish(problems);
        }
    }

    /// Whatever was not taken is unknown.
    fn finish(self, problems: &mut Problems) {
        for (key, (span, _)) in &self.left {
            let best = self
                .known
                .iter()
                .map(|known| (strsim::jaro_winkler(key, known), known))
                .max_by(|a, b| a.0.total_cmp(&b.0))
                .filter(|(alike, _)| *alike >= ALIKE);
            let message = match best {
                Some((_, known)) => format!("unknown key; did you mean `{known}`?"),
                None => format!("unknown key; known here: {}", self.known.join(", ")),
            };
            self.problem(span.clone(), key, &message, problems);
        }
    }
}

fn within(table: &str, key: &str) -> String {
    if table.is_empty() {
        key.to_owned()
    } else {
        format!("{table}.{key}")
    }
}
