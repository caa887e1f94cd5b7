//! `[steer]`, its policies and its roles: what automation may do, and who may order what.

use std::collections::HashSet;
use std::path::PathBuf;

use nix::unistd::geteuid;

use super::check::{Problems, name};
use super::table::{self, Table};
use super::{Config, Principal, gates};
use crate::steer::actuators::settings::GateSettings;
use crate::steer::journal::Bound;
use crate::steer::overrides::Verb;
use crate::steer::overrides::roles::{Reach, Role, Roles};
use crate::steer::policy::invariants::MOST_STEP_PPM;
use crate::steer::policy::rules::{Metric, Policy, Rules, fastest_ppm_per_s};

const MAX_POLICIES: usize = 32;
const MAX_ROLES: usize = 64;

/// `[steer]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steer {
    pub rules: Rules,
    /// Where decisions and orders are kept; none: nowhere, and nothing moves.
    pub journal_file: Option<PathBuf>,
    pub journal_max_file_bytes: u64,
    pub journal_max_files: u32,
    pub roles: Vec<SteerRole>,
    /// What traffic is turned by.
    pub gates: Vec<GateSettings>,
    /// More than this turned away of a host or farther needs two people. 1000: never.
    pub two_person_above_permille: u32,
}

/// One `[[steer.role]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SteerRole {
    pub name: String,
    pub users: Vec<Principal>,
    /// Names in certificates.
    pub certificates: Vec<String>,
    pub verbs: Vec<Verb>,
    pub reach: Reach,
    pub services: Vec<String>,
    pub max_turned_permille: u32,
    pub may_break_glass: bool,
}

impl Default for Steer {
    fn default() -> Self {
        let bound = Bound::default();
        Self {
            rules: Rules::default(),
            journal_file: None,
            journal_max_file_bytes: bound.max_file_bytes,
            journal_max_files: bound.max_files,
            roles: Vec::new(),
            gates: Vec::new(),
            two_person_above_permille: 1000,
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

    /// Looks up whom the roles name. Root and the daemon's own user may do all on this host.
    ///
    /// # Errors
    /// This host does not have a user of that name.
    pub fn roles(&self) -> anyhow::Result<Roles> {
        let permille = |value: u32| u16::try_from(value).unwrap_or(1000);
        let roles = self.roles.iter().map(|role| {
            let uids = role.users.iter().map(|user| user.uid("steer.role.users"));
            let uids = uids.map(|uid| uid.map(nix::unistd::Uid::as_raw));
            Ok(Role {
                name: role.name.clone(),
                uids: uids.collect::<anyhow::Result<_>>()?,
                certificates: role.certificates.clone(),
                verbs: role.verbs.clone(),
                reach: role.reach,
                services: role.services.clone(),
                max_turned_permille: permille(role.max_turned_permille),
                may_break_glass: role.may_break_glass,
            })
        });
        Ok(Roles {
            roles: roles.collect::<anyhow::Result<_>>()?,
            two_person_above_permille: permille(self.two_person_above_permille),
            always: vec![0, geteuid().as_raw()],
        })
    }

    /// `services`: the names that cells can have.
    pub(super) fn problems(&self, services: &[&str], problems: &mut Problems) {
        let bounds = &self.rules.bounds;
        for (key, value, least, most) in [
            (
                "steer.min_healthy_permille",
                bounds.min_healthy_permille,
                500,
                1000,
            ),
            (
                "steer.max_drain_permille",
                bounds.max_drain_permille,
                0,
                1000,
            ),
            ("steer.control_permille", bounds.control_permille, 20, 50),
            (
                "steer.two_person_above_permille",
                self.two_person_above_permille,
                0,
                1000,
            ),
            // One alone would lose all that is known each time that it is full.
            ("steer.journal_max_files", self.journal_max_files, 2, 1000),
        ] {
            problems.within(key, value, least, most);
        }
        let (key, bytes) = ("steer.journal_max_file_bytes", self.journal_max_file_bytes);
        problems.within(key, bytes, 64 << 10, 1 << 32);
        if let Some(file) = &self.journal_file {
            problems.absolute("steer.journal_file", file, "/var/lib/weir/steer.journal");
        } else if self.rules.is_armed {
            let message = "steer.armed = true needs steer.journal_file: what moves traffic is \
                           written down first";
            problems.add("steer.armed", message.to_owned());
        }
        for (key, count, most) in [
            ("steer.policy", self.rules.policies.len(), MAX_POLICIES),
            ("steer.role", self.roles.len(), MAX_ROLES),
        ] {
            if count > most {
                let message = format!("{count} [[{key}]] tables; at most {most} are possible");
                problems.add(key, message);
            }
        }
        self.policy_problems(services, problems);
        role_problems(&self.roles, problems);
        gates::problems(&self.gates, services, problems);
    }

    fn policy_problems(&self, services: &[&str], problems: &mut Problems) {
        let mut seen = HashSet::new();
        for (n, policy) in self.rules.policies.iter().enumerate() {
            let place = |key: &str| format!("steer.policy[{n}].{key}");
            name("steer.policy", &place("name"), &policy.name, problems);
            if !seen.insert(&policy.name) {
                let message = format!(
                    "steer.policy.name: two [[steer.policy]] tables are called {:?}",
                    policy.name
                );
                problems.add(place("name"), message);
            }
            for (key, value, least, most) in [
                ("enter_permille", policy.enter_permille, 1, 1000),
                ("exit_permille", policy.exit_permille, 0, 999),
                ("dwell_s", policy.dwell_s, 10, 3600),
                ("dead_time_s", policy.dead_time_s, 1, 3600),
                (
                    "step_permille",
                    policy.step_permille,
                    50,
                    MOST_STEP_PPM / 1000,
                ),
                ("floor_permille", policy.floor_permille, 0, 1000),
                ("headroom_permille", policy.headroom_permille, 0, 900),
                ("cap_kbps", policy.cap_kbps.unwrap_or(1), 1, 100_000_000),
            ] {
                if !(least..=most).contains(&value) {
                    let message =
                        format!("steer.policy.{key} = {value} is out of range: {least} to {most}");
                    problems.add(place(key), message);
                }
            }
            if !(1..=1_000_000_000).contains(&policy.min_n) {
                let message = format!(
                    "steer.policy.min_n = {} is out of range: 1 to 1000000000",
                    policy.min_n
                );
                problems.add(place("min_n"), message);
            }
            between_keys(policy, place, problems);
            if let Some(service) = &policy.selector.service
                && !services.contains(&service.as_str())
                && service.parse::<u16>().is_err()
            {
                let message = format!(
                    "steer.policy.service: no [[service]] is called {service:?}, so the policy would \
                     never see anything"
                );
                problems.add(place("service"), message);
            }
        }
    }
}

pub(super) fn role_problems(roles: &[SteerRole], problems: &mut Problems) {
    let mut seen = HashSet::new();
    for (n, role) in roles.iter().enumerate() {
        let place = |key: &str| format!("steer.role[{n}].{key}");
        name("steer.role", &place("name"), &role.name, problems);
        if !seen.insert(&role.name) {
            let message = format!(
                "steer.role.name: two [[steer.role]] tables are called {:?}",
                role.name
            );
            problems.add(place("name"), message);
        }
        if role.users.is_empty() && role.certificates.is_empty() {
            let message = format!(
                "steer.role.users: nobody has the role {:?}; name users or certificates",
                role.name
            );
            problems.add(place("users"), message);
        }
        if role.verbs.is_empty() {
            let message = format!("steer.role.verbs: the role {:?} allows nothing", role.name);
            problems.add(place("verbs"), message);
        }
        if role.max_turned_permille > 1000 {
            let message = format!(
                "steer.role.max_turned_permille = {} is out of range: 0 to 1000",
                role.max_turned_permille
            );
            problems.add(place("max_turned_permille"), message);
        }
    }
}

/// What must hold between the keys of one policy.
fn between_keys(policy: &Policy, place: impl Fn(&str) -> String, problems: &mut Problems) {
    if policy.exit_permille >= policy.enter_permille {
        let message = format!(
            "steer.policy.exit_permille = {} must be below enter_permille = {}: between the two \
             nothing moves, and without that it would swing",
            policy.exit_permille, policy.enter_permille
        );
        problems.add(place("exit_permille"), message);
    }
    let fastest = fastest_ppm_per_s(policy.dead_time_s);
    if let Some(ramp) = policy.ramp_ppm_per_s
        && !(1..=fastest).contains(&ramp)
    {
        let message = format!(
            "steer.policy.ramp_ppm_per_s = {ramp} is out of range: 1 to {fastest}, which is \
             1/(e x {} s): faster overshoots",
            policy.dead_time_s
        );
        problems.add(place("ramp_ppm_per_s"), message);
    }
    if policy.floor_permille > 950 && policy.cap_kbps.is_none() {
        let message = format!(
            "steer.policy.floor_permille = {} leaves nothing to turn away; give cap_kbps, or a \
             lower floor",
            policy.floor_permille
        );
        problems.add(place("floor_permille"), message);
    }
}

pub(super) fn read(root: &mut Table<'_, '_>, config: &mut Config, problems: &mut table::Problems) {
    root.table("steer", problems, |table, problems| {
        let steer = &mut config.steer;
        table.set("armed", &mut steer.rules.is_armed, problems);
        let bounds = &mut steer.rules.bounds;
        table.set(
            "min_healthy_permille",
            &mut bounds.min_healthy_permille,
            problems,
        );
        table.set(
            "max_drain_permille",
            &mut bounds.max_drain_permille,
            problems,
        );
        table.set("control_permille", &mut bounds.control_permille, problems);
        let two = &mut steer.two_person_above_permille;
        table.set("two_person_above_permille", two, problems);
        table.set("journal_file", &mut steer.journal_file, problems);
        table.set(
            "journal_max_file_bytes",
            &mut steer.journal_max_file_bytes,
            problems,
        );
        table.set("journal_max_files", &mut steer.journal_max_files, problems);
        let policies = &mut steer.rules.policies;
        table.tables("policy", problems, |table, problems| {
            policies.extend(read_policy(table, problems));
        });
        let gates = &mut steer.gates;
        table.tables("gate", problems, |table, problems| {
            gates.extend(gates::read(table, problems));
        });
        let roles = &mut steer.roles;
        table.tables("role", problems, |table, problems| {
            roles.extend(read_role(table, problems));
        });
    });
}

fn read_policy(table: &mut Table<'_, '_>, problems: &mut table::Problems) -> Option<Policy> {
    let name: Option<String> = table.need("name", problems);
    let metric: Option<Metric> = table.need("metric", problems);
    let enter = table.need("enter_permille", problems);
    let exit = table.need("exit_permille", problems);
    let mut policy = Policy::new(
        name.as_deref().unwrap_or_default(),
        metric.unwrap_or(Metric::LateDeliveryShare),
        enter.unwrap_or_default(),
        exit.unwrap_or_default(),
    );
    table.set("armed", &mut policy.is_armed, problems);
    table.set("service", &mut policy.selector.service, problems);
    table.set("class", &mut policy.selector.class, problems);
    table.set("network", &mut policy.selector.network, problems);
    table.set("moves", &mut policy.moves, problems);
    table.set("min_n", &mut policy.min_n, problems);
    table.set("dwell_s", &mut policy.dwell_s, problems);
    table.set("dead_time_s", &mut policy.dead_time_s, problems);
    table.set("ramp_ppm_per_s", &mut policy.ramp_ppm_per_s, problems);
    table.set("step_permille", &mut policy.step_permille, problems);
    table.set("floor_permille", &mut policy.floor_permille, problems);
    table.set("cap_kbps", &mut policy.cap_kbps, problems);
    table.set("blame", &mut policy.blame, problems);
    table.set("headroom_permille", &mut policy.headroom_permille, problems);
    name.and(metric).and(enter).and(exit)?;
    Some(policy)
}

pub(super) fn read_role(
    table: &mut Table<'_, '_>,
    problems: &mut table::Problems,
) -> Option<SteerRole> {
    let name = table.need("name", problems);
    let verbs = table.need("verbs", problems);
    let mut role = SteerRole {
        name: String::new(),
        users: Vec::new(),
        certificates: Vec::new(),
        verbs: Vec::new(),
        reach: Reach::Host,
        services: Vec::new(),
        max_turned_permille: 1000,
        may_break_glass: false,
    };
    table.set("users", &mut role.users, problems);
    table.set("certificates", &mut role.certificates, problems);
    table.set("reach", &mut role.reach, problems);
    table.set("services", &mut role.services, problems);
    table.set(
        "max_turned_permille",
        &mut role.max_turned_permille,
        problems,
    );
    table.set("may_break_glass", &mut role.may_break_glass, problems);
    Some(SteerRole {
        name: name?,
        verbs: verbs?,
        ..role
    })
}
