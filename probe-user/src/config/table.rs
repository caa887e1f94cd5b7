//! Tables of a configuration file, whosever it is: every wrong or unknown key is named with its
//! file and line, and all problems of a file are reported at once.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Error;
use super::check::Problem;
use super::value::{Value, wrong};

/// Suggestions must be at least so alike (Jaro-Winkler).
const ALIKE: f64 = 0.8;

/// Where each key of a file stands.
#[derive(Debug, Default)]
pub(super) struct Places(HashMap<String, usize>);

impl Places {
    /// The line, from 1, of a key in full; `service[1].ports` is in the second `[[service]]`. None:
    /// the file does not have it.
    fn line_of(&self, place: &str) -> Option<usize> {
        self.0.get(place).copied()
    }

    /// Says where in the file `name` what cannot be used stands, unless there is nothing.
    pub(super) fn refuse(&self, problems: Vec<Problem>, name: &str) -> Result<(), Error> {
        let mut problems: Vec<_> = problems
            .into_iter()
            .map(|problem| (self.line_of(&problem.place), problem.message))
            .collect();
        if problems.is_empty() {
            return Ok(());
        }
        problems.sort_by_key(|(line, _)| *line);
        let told = |(line, message)| match line {
            Some(line) => format!("{name}:{line}: {message}"),
            None => format!("{name}: {message}"),
        };
        Err(Error::Invalid(problems.into_iter().map(told).collect()))
    }
}

/// Problems with their place in the file, so that they can be told in its order.
pub(super) type Problems = Vec<(usize, String)>;

#[derive(Debug)]
pub(super) struct Source<'t> {
    text: &'t str,
    name: &'t str,
    /// Every key that was looked for.
    known: RefCell<Vec<String>>,
    places: RefCell<Places>,
}

impl<'t> Source<'t> {
    /// `name` stands for the file in what is said about it.
    pub(super) fn new(text: &'t str, name: &'t str) -> Self {
        Self {
            text,
            name,
            known: RefCell::default(),
            places: RefCell::default(),
        }
    }

    pub(super) fn into_places(self) -> Places {
        self.places.into_inner()
    }

    /// Every key that was looked for, in full.
    #[cfg(test)]
    pub(super) fn into_known(self) -> Vec<String> {
        self.known.into_inner()
    }

    /// Reads the whole file; keys that `read` does not take are unknown.
    pub(super) fn read(
        &self,
        read: impl FnOnce(&mut Table<'_, '_>, &mut Problems),
    ) -> Result<(), Error> {
        let document = DeTable::parse(self.text).map_err(|err| {
            let message = err.message().lines().collect::<Vec<_>>().join(", ");
            Error::Invalid(vec![self.at(err.span(), "", &message)])
        })?;
        let mut problems = Problems::new();
        let mut root = Table::new(self, String::new(), String::new(), document.get_ref());
        read(&mut root, &mut problems);
        root.finish(&mut problems);
        if problems.is_empty() {
            return Ok(());
        }
        problems.sort_by_key(|(offset, _)| *offset);
        Err(Error::Invalid(
            problems.into_iter().map(|(_, problem)| problem).collect(),
        ))
    }

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
#[derive(Debug)]
pub(super) struct Table<'a, 't> {
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
    pub(super) fn set<T: Value>(
        &mut self,
        key: &'static str,
        place: &mut T,
        problems: &mut Problems,
    ) {
        let Some(value) = self.take(key) else { return };
        match T::from_toml(value.get_ref()) {
            Ok(read) => *place = read,
            Err(message) => self.problem(value.span(), key, &message, problems),
        }
    }

    /// A key that its table must have.
    pub(super) fn need<T: Value>(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
    ) -> Option<T> {
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

    pub(super) fn table(
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

    pub(super) fn tables(
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
