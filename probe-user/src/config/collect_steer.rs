//! `[steer]` of a collector: where hosts stand, and who may order what of them.

use std::collections::HashMap;
use std::path::PathBuf;

use super::check::{Problems, name};
use super::steer::{SteerRole, read_role, role_problems};
use super::table::{self, Table};
use crate::steer::journal::Bound;
use crate::steer::overrides::roles::{Role, Roles};

const MAX_POOLS: usize = 1024;
const MAX_ROLES: usize = 64;
/// Of a pool.
const MAX_PATTERNS: usize = 4096;

/// `[steer]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steer {
    /// Where orders are kept; none: nothing is ordered here, and nothing lent.
    pub journal_file: Option<PathBuf>,
    pub journal_max_file_bytes: u64,
    pub journal_max_files: u32,
    /// More than this turned away of a host or farther needs two people. 1000: never.
    pub two_person_above_permille: u32,
    /// Between two stages of a rebalance, unless it says otherwise.
    pub dead_time_s: u32,
    /// So long after the start, nothing is said of pools.
    pub settle_s: u32,
    pub pools: Vec<SteerPool>,
    pub roles: Vec<SteerRole>,
}

/// One `[[steer.pool]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SteerPool {
    pub name: String,
    pub region: String,
    /// Names of hosts; `*` stands for anything.
    pub hosts: Vec<String>,
    /// What each of them can send.
    pub capacity_mbps: Option<u32>,
}

impl Default for Steer {
    fn default() -> Self {
        let bound = Bound::default();
        Self {
            journal_file: None,
            journal_max_file_bytes: bound.max_file_bytes,
            journal_max_files: bound.max_files,
            two_person_above_permille: 1000,
            dead_time_s: 60,
            settle_s: 20,
            pools: Vec::new(),
            roles: Vec::new(),
        }
    }
}

impl Steer {
    pub fn journal_bound(&self) -> Bound {
        Bound {
            max_file_bytes: self.journal_max_file_bytes,
            max_files: self.journal_max_files,
        }
    }

    /// Who may order what through this collector. Nobody may without a role.
    pub fn roles(&self) -> Roles {
        let permille = |value: u32| u16::try_from(value).unwrap_or(1000);
        let roles = self.roles.iter().map(|role| Role {
            name: role.name.clone(),
            uids: Vec::new(),
            certificates: role.certificates.clone(),
            verbs: role.verbs.clone(),
            reach: role.reach,
            services: role.services.clone(),
            max_turned_permille: permille(role.max_turned_permille),
            may_break_glass: role.may_break_glass,
        });
        Roles {
            roles: roles.collect(),
            two_person_above_permille: permille(self.two_person_above_permille),
            always: Vec::new(),
        }
    }

    pub(super) fn read(&mut self, root: &mut Table<'_, '_>, problems: &mut table::Problems) {
        root.table("steer", problems, |table, problems| {
            table.set("journal_file", &mut self.journal_file, problems);
            let bytes = &mut self.journal_max_file_bytes;
            table.set("journal_max_file_bytes", bytes, problems);
            table.set("journal_max_files", &mut self.journal_max_files, problems);
            let two = &mut self.two_person_above_permille;
            table.set("two_person_above_permille", two, problems);
            table.set("dead_time_s", &mut self.dead_time_s, problems);
            table.set("settle_s", &mut self.settle_s, problems);
            table.tables("pool", problems, |table, problems| {
                let name = table.need("name", problems);
                let region = table.need("region", problems);
                let hosts = table.need("hosts", problems);
                let mut capacity_mbps = None;
                table.set("capacity_mbps", &mut capacity_mbps, problems);
                if let (Some(name), Some(region), Some(hosts)) = (name, region, hosts) {
                    self.pools.push(SteerPool {
                        name,
                        region,
                        hosts,
                        capacity_mbps,
                    });
                }
            });
            table.tables("role", problems, |table, problems| {
                self.roles.extend(read_role(table, problems));
            });
        });
    }

    pub(super) fn problems(&self, is_plain_text: bool, problems: &mut Problems) {
        for (key, value, least, most) in [
            ("steer.journal_max_files", self.journal_max_files, 2, 1000),
            (
                "steer.two_person_above_permille",
                self.two_person_above_permille,
                0,
                1000,
            ),
            ("steer.dead_time_s", self.dead_time_s, 1, 3600),
            ("steer.settle_s", self.settle_s, 1, 600),
        ] {
            problems.within(key, value, least, most);
        }
        let (key, bytes) = ("steer.journal_max_file_bytes", self.journal_max_file_bytes);
        problems.within(key, bytes, 64 << 10, 1 << 32);
        if let Some(file) = &self.journal_file {
            problems.absolute(
                "steer.journal_file",
                file,
                "/var/lib/weir-collect/steer.journal",
            );
            if is_plain_text {
                let message = "steer.journal_file: nothing is ordered in plain text, in which nobody \
                               is known; give a certificate (ca_file, cert_file and key_file)";
                problems.add("steer.journal_file", message.to_owned());
            }
        }
        for (key, count, most) in [
            ("steer.pool", self.pools.len(), MAX_POOLS),
            ("steer.role", self.roles.len(), MAX_ROLES),
        ] {
            if count > most {
                let message = format!("{count} [[{key}]] tables; at most {most} are possible");
                problems.add(key, message);
            }
        }
        self.pool_problems(problems);
        role_problems(&self.roles, problems);
        for (n, role) in self.roles.iter().enumerate() {
            if !role.users.is_empty() {
                let message = format!(
                    "steer.role.users: the role {:?} names users of a host; a collector knows \
                     operators by their certificates alone",
                    role.name
                );
                problems.add(format!("steer.role[{n}].users"), message);
            }
        }
    }

    fn pool_problems(&self, problems: &mut Problems) {
        let mut first: HashMap<&str, &SteerPool> = HashMap::new();
        for (n, pool) in self.pools.iter().enumerate() {
            let place = |key: &str| format!("steer.pool[{n}].{key}");
            name("steer.pool", &place("name"), &pool.name, problems);
            name("steer.pool", &place("region"), &pool.region, problems);
            let is_pattern = |pattern: &String| (1..=253).contains(&pattern.len());
            if pool.hosts.is_empty()
                || pool.hosts.len() > MAX_PATTERNS
                || !pool.hosts.iter().all(is_pattern)
            {
                let message = format!(
                    "steer.pool.hosts: the pool {:?} needs 1 to {MAX_PATTERNS} names of hosts, of 1 to \
                     253 bytes each, e.g. [\"*.fra.example.net\"]",
                    pool.name
                );
                problems.add(place("hosts"), message);
            }
            if pool.capacity_mbps == Some(0) {
                let message = "steer.pool.capacity_mbps = 0: leave it out if it is not known";
                problems.add(place("capacity_mbps"), message.to_owned());
            }
            // Hosts of another capacity are another table of the same pool.
            let same = *first.entry(&pool.name).or_insert(pool);
            if same.region != pool.region {
                let message = format!(
                    "steer.pool.region: the pool {:?} is in {:?} here and in {:?} before",
                    pool.name, pool.region, same.region
                );
                problems.add(place("region"), message);
            }
            if same.capacity_mbps.is_some() != pool.capacity_mbps.is_some() {
                let message = format!(
                    "steer.pool.capacity_mbps: give it for all hosts of the pool {:?}, or for none",
                    pool.name
                );
                problems.add(place("capacity_mbps"), message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::collect::Config;

    #[test]
    fn what_cannot_be_is_named_with_its_line() {
        let told = |text: &str| Config::parse(text, "c.toml").unwrap_err().to_string();
        for (text, expected) in [
            (
                "[steer]\njournal_file = 'a'",
                "c.toml:2: steer.journal_file",
            ),
            ("[steer]\nsettle_s = 0", "c.toml:2: steer.settle_s"),
            (
                "plain_text = true\n[steer]\njournal_file = '/a'",
                "c.toml:3: steer.journal_file: nothing is ordered in plain text",
            ),
            (
                "[[steer.pool]]\nname = 'a'\nregion = 'r'\nhosts = []",
                "c.toml:4: steer.pool.hosts",
            ),
            (
                "[[steer.pool]]\nname = 'a'\nregion = 'r'\nhosts = ['x']\n[[steer.pool]]\nname = \
                 'a'\nregion = 's'\nhosts = ['y']",
                "c.toml:7: steer.pool.region",
            ),
            (
                "[[steer.pool]]\nname = 'a'\nregion = 'r'\nhosts = ['x']\n[[steer.pool]]\nname = \
                 'a'\nregion = 'r'\nhosts = ['y']\ncapacity_mbps = 7",
                "c.toml:9: steer.pool.capacity_mbps",
            ),
            (
                "[[steer.role]]\nname = 'a'\nusers = [1]\nverbs = ['hold']",
                "c.toml:3: steer.role.users",
            ),
        ] {
            let told = told(text);
            assert!(told.contains(expected), "{text:?}: {told}");
        }
    }
}
