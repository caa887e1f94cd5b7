//! A gate of the kind "content-steering": where players ask, and which pathways they can be sent to.

use std::collections::HashSet;

use super::check::Problems;
use super::table::{self, Table};

/// More would not fit into an answer that every player fetches every few seconds.
const MOST_PATHWAYS: usize = 16;
const MOST_PARAMS: usize = 8;
const MOST_PARAM_BYTES: usize = 256;
const MOST_WEIGHT: u32 = 1_000_000;
const MOST_NAME_BYTES: usize = 64;
const MOST_HOST_BYTES: usize = 253;

pub use crate::steer::actuators::content::settings::{ContentGate, Pathway};

impl ContentGate {
    /// Takes this kind's keys from a gate's table. None: one that it needs is missing or wrong, and
    /// said.
    pub(super) fn read(
        table: &mut Table<'_, '_>,
        problems: &mut table::Problems,
    ) -> Option<ContentGate> {
        let mut gate = Self::default();
        let home = table.need("home", problems);
        table.set("listen", &mut gate.listen, problems);
        table.set(
            "home_share_permille",
            &mut gate.home_share_permille,
            problems,
        );
        table.set("ttl_s", &mut gate.ttl_s, problems);
        table.set("max_connections", &mut gate.max_connections, problems);
        table.set("proxies", &mut gate.proxies, problems);
        let pathways = &mut gate.pathways;
        table.tables("pathway", problems, |table, problems| {
            pathways.extend(Pathway::read(table, problems));
        });
        Some(Self {
            home: home?,
            ..gate
        })
    }

    /// What cannot be. `at` is the gate's place in the file: `steer.gate[0]`.
    pub(super) fn problems(&self, at: &str, problems: &mut Problems) {
        let place = |key: &str| format!("{at}.{key}");
        for (key, value, least, most) in [
            ("home_share_permille", self.home_share_permille, 1, 1000),
            // A fifth of less is not even a second.
            ("ttl_s", self.ttl_s, 5, 3600),
            ("max_connections", self.max_connections, 1, 65_536),
        ] {
            if !(least..=most).contains(&value) {
                let message =
                    format!("steer.gate.{key} = {value} is out of range: {least} to {most}");
                problems.add(place(key), message);
            }
        }
        pathway_name("steer.gate.home", &place("home"), &self.home, problems);
        if !self.pathways.iter().any(|pathway| pathway.weight > 0) {
            let message = format!(
                "steer.gate.home: nobody can be sent away from {:?}; name another in a \
                 [[steer.gate.pathway]] with a weight",
                self.home
            );
            problems.add(place("home"), message);
        }
        if self.pathways.len() > MOST_PATHWAYS {
            let message = format!(
                "{} [[steer.gate.pathway]] tables; at most {MOST_PATHWAYS} are possible",
                self.pathways.len()
            );
            problems.add(place("pathway"), message);
        }
        let mut seen = HashSet::from([self.home.as_str()]);
        for (n, pathway) in self.pathways.iter().enumerate() {
            let at = format!("{at}.pathway[{n}]");
            if !seen.insert(&pathway.name) {
                let message = format!(
                    "steer.gate.pathway.name: two pathways of this gate are called {:?}",
                    pathway.name
                );
                problems.add(format!("{at}.name"), message);
            }
            pathway.problems(&at, problems);
        }
    }
}

impl Pathway {
    fn read(table: &mut Table<'_, '_>, problems: &mut table::Problems) -> Option<Self> {
        let mut pathway = Self {
            weight: 1,
            ..Self::default()
        };
        let name = table.need("name", problems);
        table.set("weight", &mut pathway.weight, problems);
        table.set("clone_of", &mut pathway.clone_of, problems);
        table.set("host", &mut pathway.host, problems);
        table.set("params", &mut pathway.params, problems);
        Some(Self {
            name: name?,
            ..pathway
        })
    }

    fn problems(&self, at: &str, problems: &mut Problems) {
        let place = |key: &str| format!("{at}.{key}");
        let name = &self.name;
        pathway_name("steer.gate.pathway.name", &place("name"), name, problems);
        if self.weight > MOST_WEIGHT {
            let message = format!(
                "steer.gate.pathway.weight = {} is out of range: 0 to {MOST_WEIGHT}",
                self.weight
            );
            problems.add(place("weight"), message);
        }
        match (&self.clone_of, &self.host) {
            (Some(of), Some(host)) => {
                let (key, place_of) = ("steer.gate.pathway.clone_of", place("clone_of"));
                pathway_name(key, &place_of, of, problems);
                // hls.js leaves a name with a port out, and DASH has no port to take over.
                if !is_hostname(host) {
                    let message = format!(
                        "steer.gate.pathway.host: {host:?} is no host name; players want one \
                         without a port (e.g. edge-b.example.net)"
                    );
                    problems.add(place("host"), message);
                }
            }
            (Some(_), None) => {
                let message = format!(
                    "steer.gate.pathway.host is missing: {name:?} is a copy, and players that \
                     speak DASH take none without a host of its own"
                );
                problems.add(place("clone_of"), message);
            }
            (None, Some(_)) => {
                let message = format!(
                    "steer.gate.pathway.clone_of is missing: only a copy has another host, and \
                     {name:?} is in the playlists"
                );
                problems.add(place("host"), message);
            }
            (None, None) if !self.params.is_empty() => {
                let message = format!(
                    "steer.gate.pathway.params: only a copy (clone_of) has parameters, and \
                     {name:?} is in the playlists"
                );
                problems.add(place("params"), message);
            }
            (None, None) => {}
        }
        self.param_problems(&place("params"), problems);
    }

    fn param_problems(&self, place: &str, problems: &mut Problems) {
        if self.params.len() > MOST_PARAMS {
            let message = format!(
                "steer.gate.pathway.params: {} of them; at most {MOST_PARAMS} are possible",
                self.params.len()
            );
            problems.add(place, message);
        }
        for param in &self.params {
            let is_pair = param
                .split_once('=')
                .is_some_and(|(name, _)| !name.is_empty());
            if !is_pair || param.len() > MOST_PARAM_BYTES {
                let message = format!(
                    "steer.gate.pathway.params: {param:?} is not NAME=VALUE of at most \
                     {MOST_PARAM_BYTES} bytes"
                );
                problems.add(place, message);
            }
        }
    }
}

/// The names that HLS allows for pathways; DASH allows more.
fn pathway_name(key: &str, place: &str, name: &str, problems: &mut Problems) {
    let is_fit = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    if name.is_empty() || name.len() > MOST_NAME_BYTES || !name.chars().all(is_fit) {
        let message = format!(
            "{key}: {name:?} must be 1 to {MOST_NAME_BYTES} letters, digits, dots, hyphens and \
             underscores"
        );
        problems.add(place, message);
    }
}

/// A name in the DNS, or an IPv4 address.
fn is_hostname(host: &str) -> bool {
    let is_label = |label: &str| {
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(is_fit)
    };
    host.len() <= MOST_HOST_BYTES && host.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::super::table::Source;
    use super::*;

    /// A gate of these lines, or all that is wrong with them.
    fn gate(lines: &str) -> Result<ContentGate, Vec<String>> {
        let source = Source::new(lines, "weir.toml");
        let mut gate = None;
        let told = source.read(|root, problems| gate = ContentGate::read(root, problems));
        if let Err(super::super::Error::Invalid(told)) = told {
            return Err(told);
        }
        let gate = gate.expect("what is not there is said");
        let mut problems = Problems::default();
        gate.problems("", &mut problems);
        let told = problems.into_vec();
        if told.is_empty() {
            return Ok(gate);
        }
        Err(told.into_iter().map(|problem| problem.message).collect())
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let read = gate("home = \"a\"\n[[pathway]]\nname = \"b\"\n").unwrap();
        let expected = ContentGate {
            home: "a".to_owned(),
            pathways: vec![Pathway {
                name: "b".to_owned(),
                weight: 1,
                ..Pathway::default()
            }],
            ..ContentGate::default()
        };
        assert_eq!(read, expected);
        assert!(read.listen.ip().is_loopback());
        assert_eq!(read.proxies.len(), 2);
    }

    #[test]
    fn every_key_is_read() {
        let read = gate(
            "listen = \"[::1]:7\"\nhome = \"a\"\nhome_share_permille = 500\nttl_s = 30\n\
             max_connections = 9\nproxies = [\"10.0.0.0/8\"]\n[[pathway]]\nname = \"b\"\n\
             weight = 3\nclone_of = \"a\"\nhost = \"b.example.net\"\nparams = [\"x=1\"]\n",
        );
        let expected = ContentGate {
            listen: "[::1]:7".parse().unwrap(),
            home: "a".to_owned(),
            home_share_permille: 500,
            ttl_s: 30,
            max_connections: 9,
            proxies: vec!["10.0.0.0/8".parse().unwrap()],
            pathways: vec![Pathway {
                name: "b".to_owned(),
                weight: 3,
                clone_of: Some("a".to_owned()),
                host: Some("b.example.net".to_owned()),
                params: vec!["x=1".to_owned()],
            }],
        };
        assert_eq!(read, Ok(expected));
    }

    #[test]
    fn what_no_player_could_follow_is_refused() {
        for (lines, told) in [
            ("[[pathway]]\nname = \"b\"\n", "home: is missing"),
            ("home = \"a\"\n", "nobody can be sent away from"),
            (
                "home = \"a\"\n[[pathway]]\nname = \"b\"\nweight = 0\n",
                "nobody can be sent away from",
            ),
            (
                "home = \"a\"\n[[pathway]]\nname = \"a\"\n",
                "two pathways of this gate are called",
            ),
            (
                "home = \"a b\"\n[[pathway]]\nname = \"b\"\n",
                "must be 1 to 64 letters",
            ),
            (
                "home = \"a\"\nttl_s = 4\n[[pathway]]\nname = \"b\"\n",
                "ttl_s = 4 is out of range: 5 to 3600",
            ),
            (
                "home = \"a\"\n[[pathway]]\nname = \"b\"\nclone_of = \"a\"\n",
                "host is missing",
            ),
            (
                "home = \"a\"\n[[pathway]]\nname = \"b\"\nhost = \"b.net\"\n",
                "clone_of is missing",
            ),
            (
                "home = \"a\"\n[[pathway]]\nname = \"b\"\nclone_of = \"a\"\nhost = \"b.net:80\"\n",
                "is no host name",
            ),
            (
                "home = \"a\"\n[[pathway]]\nname = \"b\"\nparams = [\"x=1\"]\n",
                "only a copy (clone_of) has parameters",
            ),
            (
                "home = \"a\"\n[[pathway]]\nname = \"b\"\nclone_of = \"a\"\nhost = \"b.net\"\n\
                 params = [\"=1\"]\n",
                "is not NAME=VALUE",
            ),
            ("home = \"a\"\nttl = 9\n", "did you mean `ttl_s`?"),
        ] {
            let found = gate(lines).expect_err(lines);
            let is_told = found.iter().any(|problem| problem.contains(told));
            assert!(is_told, "{lines}: {found:?}");
        }
    }
}
