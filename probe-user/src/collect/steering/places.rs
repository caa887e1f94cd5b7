//! Where hosts stand: which pool and region each belongs to, by its name.

use crate::config::collect::SteerPool;

/// Of hosts with one capacity. Several with one name are one pool, of one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    pub name: String,
    pub region: String,
    /// Names of hosts, as in their certificates; `*` stands for anything.
    pub hosts: Vec<String>,
    /// What each of them can send. None: nobody knows, and each counts the same.
    pub capacity_bps: Option<u64>,
}

/// One host's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    pub pool: &'a str,
    pub region: &'a str,
    pub capacity_bps: Option<u64>,
}

impl Place<'_> {
    /// What it counts among the hosts of its pool.
    pub fn share(&self) -> u64 {
        self.capacity_bps.unwrap_or(1).max(1)
    }
}

/// All pools, in the order in which they are tried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    pools: Vec<Pool>,
}

impl From<&[SteerPool]> for Places {
    fn from(pools: &[SteerPool]) -> Self {
        let pools = pools.iter().map(|pool| Pool {
            name: pool.name.clone(),
            region: pool.region.clone(),
            hosts: pool.hosts.clone(),
            capacity_bps: pool.capacity_mbps.map(|mbps| u64::from(mbps) * 1_000_000),
        });
        Self::new(pools.collect())
    }
}

impl Places {
    pub fn new(pools: Vec<Pool>) -> Self {
        Self { pools }
    }

    /// The first pool whose names the host's is among; none: it belongs to no pool.
    pub fn of(&self, host: &str) -> Option<Place<'_>> {
        let is_its = |pool: &&Pool| pool.hosts.iter().any(|pattern| matches(pattern, host));
        let pool = self.pools.iter().find(is_its)?;
        Some(Place {
            pool: &pool.name,
            region: &pool.region,
            capacity_bps: pool.capacity_bps,
        })
    }

    /// Every region that a pool is in, each once, in order.
    pub fn regions(&self) -> Vec<&str> {
        let mut regions: Vec<_> = self.pools.iter().map(|pool| &*pool.region).collect();
        regions.sort_unstable();
        regions.dedup();
        regions
    }

    pub fn has_region(&self, region: &str) -> bool {
        self.pools.iter().any(|pool| pool.region == region)
    }
}

/// Whether a name is one of a pattern's; case is none in names of hosts.
fn matches(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (pattern.as_bytes(), name.as_bytes());
    // Where the latest star was, and from where of the name it is tried next.
    let mut star: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern, name) {
            ([b'*', rest @ ..], _) => {
                star = Some((rest, name));
                pattern = rest;
            }
            ([p, pattern_rest @ ..], [n, name_rest @ ..]) if p.eq_ignore_ascii_case(n) => {
                (pattern, name) = (pattern_rest, name_rest);
            }
            ([], []) => return true,
            _ => match star {
                Some((after, [_, later @ ..])) => {
                    star = Some((after, later));
                    (pattern, name) = (after, later);
                }
                _ => return false,
            },
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Hosts `fra-N` and `ams-N`, of 10 Gbit/s each, a pool and region each.
    pub(crate) fn two_regions() -> Places {
        let pool = |region: &str| Pool {
            name: format!("{region}-live"),
            region: region.to_owned(),
            hosts: vec![format!("{region}-*")],
            capacity_bps: Some(10_000_000_000),
        };
        Places::new(vec![pool("fra"), pool("ams")])
    }

    #[test]
    fn a_star_stands_for_anything_and_case_for_nothing() {
        for (pattern, name, is_it) in [
            ("edge-1", "edge-1", true),
            ("edge-1", "edge-11", false),
            ("edge-*", "edge-", true),
            ("*.fra.example.net", "a.b.fra.example.net", true),
            ("*.fra.example.net", "fra.example.net", false),
            ("e*-*.net", "edge-a-b.net", true),
            ("e*-*.net", "edge.net", false),
            ("*ab", "aab", true),
            ("Edge-*", "eDGE-1", true),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, name), is_it, "{pattern} {name}");
        }
    }

    #[test]
    fn the_first_pool_that_fits_has_the_host() {
        let mut places = two_regions();
        places.pools.push(Pool {
            name: "rest".to_owned(),
            region: "fra".to_owned(),
            hosts: vec!["*".to_owned()],
            capacity_bps: None,
        });
        let pool = |host: &str| places.of(host).map(|place| place.pool);
        assert_eq!(pool("fra-1"), Some("fra-live"));
        assert_eq!(pool("ams-1"), Some("ams-live"));
        assert_eq!(pool("x"), Some("rest"));
        assert_eq!(places.regions(), ["ams", "fra"]);
        assert_eq!(two_regions().of("x"), None);
    }

    #[test]
    fn hosts_of_several_capacities_are_one_pool() {
        let text = "[[steer.pool]]\nname = 'a'\nregion = 'r'\nhosts = ['x*']\ncapacity_mbps = \
                    10000\n[[steer.pool]]\nname = 'a'\nregion = 'r'\nhosts = ['y*']\ncapacity_mbps = \
                    25000";
        let config = crate::config::collect::Config::parse(text, "c.toml").unwrap();
        let places = Places::from(&config.steer.pools[..]);
        let of = |host: &str| {
            let place = places.of(host).unwrap();
            (place.pool.to_owned(), place.capacity_bps.unwrap())
        };
        assert_eq!(of("x1"), ("a".to_owned(), 10_000_000_000));
        assert_eq!(of("y1"), ("a".to_owned(), 25_000_000_000));
    }
}
