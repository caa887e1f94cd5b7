//! Which partition a host belongs to: what collectors that work together divide among themselves.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

/// The same at all collectors and in all versions.
pub(super) fn partition(host: &str, partitions: u32) -> u32 {
    let mut hasher = SipHasher13::new();
    hasher.write(host.as_bytes());
    u32::try_from(hasher.finish() % u64::from(partitions.max(1))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_spread_over_all_partitions_and_stay_where_they_are() {
        // A later version that puts hosts elsewhere would not be interchangeable with this one.
        assert_eq!(partition("edge-1", 16), 13);
        let mut hosts = [0; 16];
        for n in 0..1600 {
            hosts[partition(&format!("edge-{n}"), 16) as usize] += 1;
        }
        assert!(
            hosts.iter().all(|hosts| (50..200).contains(hosts)),
            "{hosts:?}"
        );
    }
}
