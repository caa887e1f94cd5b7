//! What clients are called outside this host: hashes of their addresses, with a random key that is
//! forgotten after a while.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::naming::HashKey;

/// Clients' names, as long as a key lives.
#[derive(Debug)]
pub struct Pseudonyms {
    key: HashKey,
    since: Instant,
    life: Duration,
}

impl Pseudonyms {
    /// With a new key; each lives for `life`.
    ///
    /// # Errors
    /// If the kernel has no random bytes.
    pub fn new(life: Duration, now: Instant) -> std::io::Result<Self> {
        Ok(Self {
            key: HashKey::random()?,
            since: now,
            life,
        })
    }

    /// What the client at `address` is called now: the same for one address and key, and of no use
    /// to whoever does not have the key. Neither port nor network is in it.
    pub fn name(&mut self, address: IpAddr, now: Instant) -> String {
        if now.saturating_duration_since(self.since) >= self.life {
            match HashKey::random() {
                Ok(key) => {
                    self.key = key;
                    self.since = now;
                }
                // It worked before; the old key is better than none.
                Err(err) => tracing::error!("the key for clients' addresses stays: {err}"),
            }
        }
        let octets = match address.to_canonical() {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        };
        format!("client-{:016x}", self.key.hash(&[b"client", &octets]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn a_client_has_one_name_until_the_key_is_forgotten() {
        let begin = Instant::now();
        let mut names = Pseudonyms::new(DAY, begin).unwrap();
        let client = "192.0.2.1".parse().unwrap();
        let name = names.name(client, begin);
        assert_eq!(name.len(), "client-".len() + 16);
        assert!(!name.contains("192"));
        let late = begin + (DAY * 9 / 10);
        assert_eq!(names.name(client, late), name);
        assert_eq!(names.name("::ffff:192.0.2.1".parse().unwrap(), late), name);
        assert_ne!(names.name("192.0.2.2".parse().unwrap(), late), name);
        assert_ne!(names.name(client, begin + DAY), name);
    }

    #[test]
    fn no_two_hosts_have_the_same_names() {
        let now = Instant::now();
        let client = "2001:db8::1".parse().unwrap();
        let mut one = Pseudonyms::new(DAY, now).unwrap();
        let mut other = Pseudonyms::new(DAY, now).unwrap();
        assert_ne!(one.name(client, now), other.name(client, now));
    }
}
