//! Which sessions are measured, judged in user space by the same rules as in the kernel.

use std::{
    collections::HashSet,
    fs,
    net::{IpAddr, Ipv6Addr},
    os::unix::fs::{DirEntryExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixSet;
use probe_ebpf::record::Endpoints;

use crate::kernel::{Filter, cgroup};

/// Most cgroups below those that the filter names; beyond, what is made in them is left out.
const MAX_CGROUPS_BELOW: usize = 65_536;

/// A filter in force.
#[derive(Debug)]
pub(super) struct Judge {
    ports: HashSet<u16>,
    prefixes: Option<Prefixes>,
    cgroups: Option<Cgroups>,
}

#[derive(Debug)]
struct Prefixes {
    v4: PrefixSet<Ipv4Net>,
    v6: PrefixSet<Ipv6Net>,
}

/// The cgroups named and all below them, by id: the kernel tells only the one that a socket was
/// made in.
#[derive(Debug)]
struct Cgroups {
    named: Vec<PathBuf>,
    within: HashSet<u64>,
    /// Looked for since the last refresh, and not found.
    without: HashSet<u64>,
}

impl Judge {
    /// Puts a filter in force. `tells_cgroups`: this kernel says which cgroup a socket is of.
    pub(super) fn new(filter: &Filter, tells_cgroups: bool) -> Result<Self> {
        let prefixes = (!filter.prefixes.is_empty()).then(|| {
            let mut prefixes = Prefixes {
                v4: PrefixSet::new(),
                v6: PrefixSet::new(),
            };
            for prefix in &filter.prefixes {
                match prefix {
                    IpNet::V4(prefix) => prefixes.v4.insert(prefix.trunc()),
                    IpNet::V6(prefix) => prefixes.v6.insert(prefix.trunc()),
                };
            }
            prefixes
        });
        let cgroups = if filter.cgroups.is_empty() {
            None
        } else if !tells_cgroups {
            bail!(
                "filter.cgroups: before Linux 5.7 the kernel does not say which cgroup a socket is \
                 of, so that looking at the sockets cannot tell: name filter.ports instead, or run \
                 a newer kernel"
            );
        } else {
            for path in &filter.cgroups {
                cgroup::id(path)?;
            }
            let mut cgroups = Cgroups {
                named: filter.cgroups.clone(),
                within: HashSet::new(),
                without: HashSet::new(),
            };
            cgroups.refresh();
            Some(cgroups)
        };
        Ok(Self {
            ports: filter.ports.iter().copied().collect(),
            prefixes,
            cgroups,
        })
    }

    /// Whether it lets a session through; `cgroup`: of its socket, if it is known.
    pub(super) fn admits(&mut self, endpoints: &Endpoints, cgroup: Option<u64>) -> bool {
        self.admits_ends(endpoints)
            && self
                .cgroups
                .as_mut()
                .is_none_or(|cgroups| cgroup.is_some_and(|id| cgroups.admit(id)))
    }

    /// The same for a handshake, whose cgroup is never known.
    pub(super) fn admits_handshake(&self, endpoints: &Endpoints) -> bool {
        self.cgroups.is_none() && self.admits_ends(endpoints)
    }

    fn admits_ends(&self, endpoints: &Endpoints) -> bool {
        (self.ports.is_empty() || self.ports.contains(&endpoints.local_port))
            && self
                .prefixes
                .as_ref()
                .is_none_or(|prefixes| prefixes.admit(endpoints.remote_addr))
    }

    /// Lets ids that were not found be looked for again: cgroups come and go. To be called now and
    /// then.
    pub(super) fn forget_strangers(&mut self) {
        if let Some(cgroups) = &mut self.cgroups {
            cgroups.without.clear();
        }
    }
}

impl Prefixes {
    fn admit(&self, address: [u8; 16]) -> bool {
        match IpAddr::from(Ipv6Addr::from(address)).to_canonical() {
            IpAddr::V4(address) => self.v4.get_lpm(&address.into()).is_some(),
            IpAddr::V6(address) => self.v6.get_lpm(&address.into()).is_some(),
        }
    }
}

impl Cgroups {
    fn admit(&mut self, id: u64) -> bool {
        if !self.within.contains(&id) && !self.without.contains(&id) {
            self.refresh();
            if !self.within.contains(&id) && self.without.len() < MAX_CGROUPS_BELOW {
                self.without.insert(id);
            }
        }
        self.within.contains(&id)
    }

    fn refresh(&mut self) {
        self.within.clear();
        let mut left = Vec::new();
        for path in &self.named {
            // One that has gone has nothing in it.
            if let Ok(meta) = fs::metadata(path) {
                self.within.insert(meta.ino());
                left.push(path.clone());
            }
        }
        while let Some(path) = left.pop() {
            for (id, path) in below(&path) {
                if self.within.len() < MAX_CGROUPS_BELOW && self.within.insert(id) {
                    left.push(path);
                }
            }
        }
    }
}

fn below(path: &Path) -> Vec<(u64, PathBuf)> {
    let Ok(entries) = fs::read_dir(path) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| (entry.ino(), entry.path()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(local_port: u16, remote: &str) -> Endpoints {
        let remote: IpAddr = remote.parse().unwrap();
        let remote_addr = match remote {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        };
        Endpoints {
            local_port,
            remote_addr,
            ..Endpoints::default()
        }
    }

    #[test]
    fn every_condition_that_is_set_must_hold() {
        let filter = Filter {
            ports: vec![443],
            prefixes: vec![
                "192.0.2.0/24".parse().unwrap(),
                "2001:db8::/32".parse().unwrap(),
            ],
            ..Filter::default()
        };
        let mut judge = Judge::new(&filter, false).unwrap();
        assert!(judge.admits(&ends(443, "192.0.2.9"), None));
        assert!(judge.admits(&ends(443, "2001:db8::1"), None));
        assert!(!judge.admits(&ends(80, "192.0.2.9"), None));
        assert!(!judge.admits(&ends(443, "192.0.3.9"), None));
        let mut open = Judge::new(&Filter::default(), false).unwrap();
        assert!(open.admits(&ends(1, "10.0.0.1"), None));
    }

    #[test]
    fn cgroups_that_the_kernel_does_not_tell_are_refused_with_what_to_do() {
        let filter = Filter {
            cgroups: vec!["/sys/fs/cgroup/x".into()],
            ..Filter::default()
        };
        let err = Judge::new(&filter, false).unwrap_err().to_string();
        assert!(err.contains("5.7") && err.contains("filter.ports"), "{err}");
    }

    #[test]
    fn a_cgroup_counts_with_all_below_it_also_those_made_later() {
        let named = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let id = |path: &Path| fs::metadata(path).unwrap().ino();
        let mut cgroups = Cgroups {
            named: vec![named.path().to_owned()],
            within: HashSet::new(),
            without: HashSet::new(),
        };
        assert!(cgroups.admit(id(named.path())));
        assert!(!cgroups.admit(id(other.path())));
        let deep = named.path().join("a/b");
        fs::create_dir_all(&deep).unwrap();
        assert!(cgroups.admit(id(&deep)));
        assert!(!cgroups.admit(id(other.path())));
    }
}
