//! The gate in the kernel: programs that send a share of the new connections to another local
//! listener, and cap new sessions. Loaded apart from everything that measures, so that neither can
//! fail by the other.
//!
//! It holds a position for a time that the programs themselves look at, on a clock that nobody sets.
//! Every program, map and link is held by a descriptor alone: whatever ends the process, also
//! SIGKILL, opens the gate.

mod control;
pub mod listener;
mod places;
mod trial;

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use aya::maps::{LpmTrie, Map, MapData, PerCpuArray, SockMap, lpm_trie::Key};
use aya::programs::{SkLookup, SockOps};
use aya::{Ebpf, EbpfLoader};
use ipnet::IpNet;
use nix::time::{ClockId, clock_gettime};
use probe_ebpf::gate::{self, CONGESTION_CONTROL_BYTES, KEY_BYTES, MAX_RULES, PORT_BITS, key_data};

use super::{cgroup, maps::take, namespaces, pod::Pod, probes::gist, sys};
use control::Control;
use places::{Name, Places};

pub use probe_ebpf::gate::Counts;
pub(super) use trial::try_programs;

/// The programs, compiled for the kernel by this crate's build script.
static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weir-ebpf-gate"));
/// The program that chooses listeners.
const LOOKUP: &str = "gate_lookup";
/// The one that caps sessions.
const SESSIONS: &str = "gate_sessions";
/// Most rules of a position: half of the places, so that two positions can count beside each other.
pub const MOST_RULES: usize = MAX_RULES as usize / 2;

/// What holds as long as the gate is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Each connection is dealt out by itself; else all of a client go one way.
    pub by_connection: bool,
    /// With what clients are dealt out: the same key, the same clients.
    pub hash_key: [u64; 2],
    /// What capped sessions have, by the kernel's name for it; none: what they would have.
    pub congestion_control: Option<String>,
}

/// What becomes of the new connections to a port, of all clients or those of a network. The
/// longest prefix that holds a client decides, whatever the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    pub port: u16,
    /// None: every client.
    pub prefix: Option<IpNet>,
    /// Thousandths that are turned to the other listener.
    pub turned_permille: u16,
    /// New sessions are sent no faster.
    pub pace_bytes_per_s: Option<u32>,
}

/// What came of a rule, since it was first in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    pub port: u16,
    /// None: every client.
    pub prefix: Option<IpNet>,
    pub counts: Counts,
}

/// What a program has cost, as long as the kernel kept statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    pub runs: u64,
    pub run_time: Duration,
}

/// To which clients a listener is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// Of an address.
    pub fn of(address: std::net::SocketAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }

    fn index(self) -> u32 {
        match self {
            Self::V4 => 0,
            Self::V6 => 1,
        }
    }
}

/// `CLOCK_BOOTTIME`, by which the programs tell when a position is over.
pub fn now_boot_ns() -> u64 {
    // It does not fail on Linux. If it did, every position would be over: neutral.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(u64::MAX, |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        seconds * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0)
    })
}

/// Programs at work, and neutral until they are told otherwise.
pub struct Gate {
    control: Control,
    rules: LpmTrie<MapData, [u8; KEY_BYTES], Pod<gate::Rule>>,
    counts: PerCpuArray<MapData, Pod<Counts>>,
    others: SockMap<MapData>,
    /// Keys in the map of rules, by slot.
    installed: [Vec<Name>; 2],
    places: Places,
    /// Of rules that have lost their place.
    retired: Counts,
    congestion_control: [u8; CONGESTION_CONTROL_BYTES],
    /// Why sessions cannot be capped.
    uncapped: Option<String>,
    // Holds the attached programs.
    ebpf: Ebpf,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate")
            .field("control", &self.control)
            .field("uncapped", &self.uncapped)
            .finish_non_exhaustive()
    }
}

impl Gate {
    /// Loads the programs and attaches them in the calling thread's network namespace.
    ///
    /// # Errors
    /// Connections cannot be turned here: the kernel is older than 5.9, or a privilege is missing.
    pub fn load(options: &Options) -> Result<Self> {
        sys::lift_memory_lock_limit();
        let netns = listener::netns_cookie().filter(|_| {
            // A program can ask for it since 5.15.
            sys::kernel_version().is_some_and(|version| version >= (5, 15))
        });
        let netns = netns.unwrap_or(0);
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .override_global("NETNS_COOKIE", &netns, true)
            .load(PROGRAMS)
            .context("making the gate's maps; needs CAP_BPF and CAP_NET_ADMIN, or root")?;
        let Map::Array(map) = take(&mut ebpf, "CONTROL")? else {
            bail!("the object's control is no array");
        };
        let control = Control::map(map.fd()).context("mapping the gate's control")?;
        control.deal(options.hash_key, options.by_connection);
        let mut gate = Self {
            control,
            rules: take(&mut ebpf, "RULES")?.try_into()?,
            counts: take(&mut ebpf, "COUNTS")?.try_into()?,
            others: take(&mut ebpf, "OTHER")?.try_into()?,
            installed: [Vec::new(), Vec::new()],
            places: Places::default(),
            retired: Counts::default(),
            congestion_control: padded(options.congestion_control.as_deref().unwrap_or_default())?,
            uncapped: None,
            ebpf,
        };
        gate.attach_lookup()?;
        gate.uncapped = gate.attach_sessions().err().map(|err| format!("{err:#}"));
        Ok(gate)
    }

    fn attach_lookup(&mut self) -> Result<()> {
        let program: &mut SkLookup = self
            .ebpf
            .program_mut(LOOKUP)
            .context("the object holds no program that chooses listeners")?
            .try_into()?;
        program.load().map_err(short)?;
        program
            .attach(namespaces::own_file()?)
            .context("attaching to the network namespace; needs CAP_NET_ADMIN")?;
        Ok(())
    }

    fn attach_sessions(&mut self) -> Result<()> {
        let program: &mut SockOps = self
            .ebpf
            .program_mut(SESSIONS)
            .context("the object holds no program that caps sessions")?
            .try_into()?;
        program.load().map_err(short)?;
        cgroup::attach(program, &cgroup::mount_point()?)?;
        Ok(())
    }

    /// Why sessions cannot be capped here; none: they can.
    pub fn uncapped(&self) -> Option<&str> {
        self.uncapped.as_deref()
    }

    /// Where clients of a family are turned to from now on. None: nowhere, and they pass. The
    /// listener is not kept open.
    ///
    /// # Errors
    /// The kernel does not take the socket: it is no TCP listener.
    pub fn set_other(&mut self, family: Family, listener: Option<&OwnedFd>) -> Result<()> {
        match listener {
            Some(listener) => self
                .others
                .set(family.index(), listener, 0)
                .context("giving the other listener to the programs")?,
            // Gone already is as good.
            None => drop(self.others.clear_index(&family.index())),
        }
        Ok(())
    }

    /// Puts a position in force, whole and at once, until then: every connection sees the old one or
    /// this one.
    ///
    /// # Errors
    /// Nothing has changed.
    pub fn turn(&mut self, rules: &[Rule], until_boot_ns: u64) -> Result<()> {
        if rules.len() > MOST_RULES {
            bail!(
                "the kernel gate takes {MOST_RULES} rules (one for each port and network), not {}",
                rules.len()
            );
        }
        if let (Some(why), true) = (
            &self.uncapped,
            rules.iter().any(|rule| rule.pace_bytes_per_s.is_some()),
        ) {
            bail!("sessions cannot be capped here: {why}");
        }
        let slot = self.control.idle_slot();
        // What the slot held before was out of force since the flip before.
        for name in std::mem::take(&mut self.installed[usize::from(slot)]) {
            let _ = self.rules.remove(&key_of(name, slot));
        }
        let put = rules.iter().try_for_each(|rule| self.put(rule, slot));
        put.context("writing the gate's rules")?;
        self.control.flip(until_boot_ns);
        Ok(())
    }

    fn put(&mut self, rule: &Rule, slot: u8) -> Result<()> {
        let name = name_of(rule.port, rule.prefix);
        let place = if let Some(place) = self.places.of(name) {
            place
        } else {
            self.retire()?;
            self.places.of(name).context("no place is left to count")?
        };
        let value = gate::Rule {
            counts: place,
            turned_permille: u32::from(rule.turned_permille.min(1000)),
            pace_bytes_per_s: rule.pace_bytes_per_s.unwrap_or(0),
            reserved: 0,
            congestion_control: if rule.pace_bytes_per_s.is_some() {
                self.congestion_control
            } else {
                [0; CONGESTION_CONTROL_BYTES]
            },
        };
        self.rules.insert(&key_of(name, slot), Pod(value), 0)?;
        self.installed[usize::from(slot)].push(name);
        Ok(())
    }

    /// Takes the places of rules that are in neither slot away; what they counted is kept in sum.
    fn retire(&mut self) -> Result<()> {
        let installed: std::collections::HashSet<Name> =
            self.installed.iter().flatten().copied().collect();
        for place in self.places.keep(|name| installed.contains(name)) {
            let values = self.counts.get(&place, 0)?;
            self.retired = sum(std::iter::once(self.retired).chain(values.iter().map(|one| one.0)));
            let zeros: Vec<_> = values.iter().map(|_| Pod(Counts::default())).collect();
            let zeros = aya::maps::PerCpuValues::try_from(zeros)?;
            self.counts.set(place, zeros, 0)?;
        }
        Ok(())
    }

    /// Until when the position holds that is in force; none: it is neutral, or over.
    pub fn held_until_boot_ns(&self) -> Option<u64> {
        let until = self.control.held_until_boot_ns();
        (until > now_boot_ns()).then_some(until)
    }

    /// Holds the position in force until then.
    ///
    /// # Errors
    /// None is, or it is over: what has become neutral stays so, until a position is put in force
    /// anew.
    pub fn hold(&mut self, until_boot_ns: u64) -> Result<()> {
        if self.held_until_boot_ns().is_none() {
            bail!("nothing is held, or its lease is over; the position has to be acquired anew");
        }
        self.control.hold(until_boot_ns);
        Ok(())
    }

    /// Neutral, at once.
    pub fn open(&mut self) {
        self.control.release();
    }

    /// What every rule has counted, in the order of ports and prefixes; and what rules counted that
    /// are not told apart any more.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn counts(&self) -> Result<(Vec<Counted>, Counts)> {
        let mut names: Vec<_> = self.places.iter().collect();
        names.sort_unstable();
        let mut all = Vec::with_capacity(names.len());
        for (name, place) in names {
            let values = self.counts.get(&place, 0).context("reading the counts")?;
            let (port, prefix) = rule_of(*name);
            all.push(Counted {
                port,
                prefix,
                counts: sum(values.iter().map(|one| one.0)),
            });
        }
        Ok((all, self.retired))
    }

    /// What the two programs have cost: that which chooses listeners, and that which caps sessions.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn costs(&self) -> Result<[Cost; 2]> {
        let cost = |name| {
            let program = self.ebpf.program(name).context("no such program")?;
            let counts = sys::program_counts(program.fd()?.as_fd())?;
            anyhow::Ok(Cost {
                runs: counts.runs,
                run_time: Duration::from_nanos(counts.run_time_ns),
            })
        };
        Ok([cost(LOOKUP)?, cost(SESSIONS)?])
    }
}

/// Makes the kernel keep statistics of what programs cost, for as long as what is returned is open.
///
/// # Errors
/// It needs `CAP_SYS_ADMIN`.
pub fn keep_statistics() -> Result<OwnedFd> {
    sys::keep_statistics().context("asking the kernel for statistics")
}

/// An error without the verifier's whole log.
fn short(error: aya::programs::ProgramError) -> anyhow::Error {
    anyhow!(gist(&format!("{:#}", anyhow::Error::from(error))))
}

fn padded(name: &str) -> Result<[u8; CONGESTION_CONTROL_BYTES]> {
    let mut padded = [0; CONGESTION_CONTROL_BYTES];
    if name.len() >= CONGESTION_CONTROL_BYTES {
        bail!("no congestion control has a name as long as {name:?}");
    }
    padded[..name.len()].copy_from_slice(name.as_bytes());
    Ok(padded)
}

fn name_of(port: u16, prefix: Option<IpNet>) -> Name {
    let (bits, client) = match prefix {
        None => (0, [0; 16]),
        Some(IpNet::V4(net)) => (
            96 + u32::from(net.prefix_len()),
            net.network().to_ipv6_mapped().octets(),
        ),
        Some(IpNet::V6(net)) => (u32::from(net.prefix_len()), net.network().octets()),
    };
    (PORT_BITS + bits, key_data(0, port, &client))
}

fn key_of((bits, mut data): Name, slot: u8) -> Key<[u8; KEY_BYTES]> {
    data[0] = slot;
    Key::new(bits, data)
}

fn rule_of((bits, data): Name) -> (u16, Option<IpNet>) {
    let port = u16::from_be_bytes([data[2], data[3]]);
    let mut octets = [0; 16];
    octets.copy_from_slice(&data[4..]);
    let address = std::net::Ipv6Addr::from(octets);
    let bits = u8::try_from(bits.saturating_sub(PORT_BITS)).unwrap_or(128);
    let prefix = match address.to_ipv4_mapped() {
        _ if bits == 0 => None,
        Some(v4) if bits >= 96 => IpNet::new(v4.into(), bits - 96).ok(),
        _ => IpNet::new(address.into(), bits).ok(),
    };
    (port, prefix)
}

fn sum(all: impl Iterator<Item = Counts>) -> Counts {
    all.fold(Counts::default(), |a, b| Counts {
        seen: a.seen + b.seen,
        turned: a.turned + b.turned,
        could_not: a.could_not + b.could_not,
        left_to_others: a.left_to_others + b.left_to_others,
        expired: a.expired + b.expired,
        capped: a.capped + b.capped,
        could_not_cap: a.could_not_cap + b.could_not_cap,
    })
}

#[cfg(test)]
mod tests {
    use std::hash::Hasher as _;

    use super::*;

    #[test]
    fn a_rule_is_named_by_its_port_and_prefix_and_is_told_by_them() {
        for prefix in [
            None,
            Some("10.1.0.0/16"),
            Some("0.0.0.0/0"),
            Some("192.0.2.1/32"),
            Some("2001:db8::/32"),
            Some("fd00::1/128"),
        ] {
            let prefix: Option<IpNet> = prefix.map(|text| text.parse().unwrap());
            assert_eq!(rule_of(name_of(8080, prefix)), (8080, prefix));
        }
        let named = |text: &str| name_of(1, Some(text.parse().unwrap()));
        assert_eq!(named("10.1.2.3/16"), named("10.1.0.0/16"));
        assert_eq!(named("::ffff:10.1.0.0/112"), named("10.1.0.0/16"));
        assert_ne!(name_of(1, None), name_of(2, None));
    }

    #[test]
    fn clients_are_dealt_out_by_the_hash_that_others_call_siphash_1_3() {
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        for n in 0..1000_u32 {
            let mut client = [0xff; 16];
            client[12..].copy_from_slice(&n.to_be_bytes());
            let port = u16::try_from(n * 37 % 65_536).unwrap();
            let mut theirs = siphasher::sip::SipHasher13::new_with_keys(key[0], key[1]);
            theirs.write(&client);
            theirs.write(&port.to_le_bytes());
            theirs.write(&[0; 6]);
            assert_eq!(gate::hash(key, &client, port), theirs.finish());
        }
    }

    #[test]
    fn a_congestion_control_has_a_name_that_the_kernel_can_have() {
        assert_eq!(&padded("cubic").unwrap()[..6], b"cubic\0");
        assert!(padded("").unwrap().iter().all(|byte| *byte == 0));
        assert!(padded("sixteen_letters_").is_err());
    }
}
