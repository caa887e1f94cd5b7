//! Databases of a few networks, written here; others' tests take them too.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use super::*;

/// A value in an MMDB.
pub(crate) enum Value<'a> {
    Text(&'a str),
    Number(u32),
    Short(u16),
    Long(u64),
    NoTexts,
    Map(BTreeMap<&'a str, Value<'a>>),
}

pub(crate) fn map<'a>(pairs: impl IntoIterator<Item = (&'a str, Value<'a>)>) -> Value<'a> {
    Value::Map(pairs.into_iter().collect())
}

/// The format's own (<https://maxmind.github.io/MaxMind-DB/>): a type, a size, a value.
fn put(value: &Value<'_>, to: &mut Vec<u8>) {
    let head = |kind: u8, size: usize, to: &mut Vec<u8>| {
        let size = u8::try_from(size).unwrap();
        match size {
            0..=28 => to.push(kind << 5 | size),
            _ => to.extend_from_slice(&[kind << 5 | 0x1d, size - 29]),
        }
    };
    match value {
        Value::Text(text) => {
            head(2, text.len(), to);
            to.extend_from_slice(text.as_bytes());
        }
        Value::Number(number) => {
            head(6, 4, to);
            to.extend_from_slice(&number.to_be_bytes());
        }
        Value::Short(number) => {
            head(5, 2, to);
            to.extend_from_slice(&number.to_be_bytes());
        }
        // Beyond 7 the type stands in a byte of its own, less 7.
        Value::Long(number) => {
            to.extend_from_slice(&[8, 9 - 7]);
            to.extend_from_slice(&number.to_be_bytes());
        }
        Value::NoTexts => to.extend_from_slice(&[0, 11 - 7]),
        Value::Map(pairs) => {
            head(7, pairs.len(), to);
            for (key, value) in pairs {
                put(&Value::Text(key), to);
                put(value, to);
            }
        }
    }
}

const EMPTY: usize = usize::MAX;
/// A node's end: a node, or data behind this.
const DATA: usize = 1 << 40;

/// A database of these networks. IPv4's stand below `::/96`, as the format wants it.
pub(crate) fn database(networks: &[(&str, Value<'_>)]) -> Vec<u8> {
    let mut data = Vec::new();
    let mut nodes = vec![[EMPTY; 2]];
    for (prefix, value) in networks {
        let (bits, len) = match prefix.parse::<IpNet>().unwrap() {
            IpNet::V4(prefix) => (
                u128::from(u32::from(prefix.network())),
                96 + prefix.prefix_len(),
            ),
            IpNet::V6(prefix) => (u128::from(prefix.network()), prefix.prefix_len()),
        };
        let at = data.len();
        put(value, &mut data);
        let mut node = 0;
        for depth in 0..len {
            let side = usize::from(bits >> (127 - depth) & 1 == 1);
            if depth + 1 == len {
                nodes[node][side] = DATA + at;
            } else {
                if nodes[node][side] == EMPTY {
                    nodes.push([EMPTY; 2]);
                    nodes[node][side] = nodes.len() - 1;
                }
                node = nodes[node][side];
            }
        }
    }
    let count = nodes.len();
    let mut bytes = Vec::new();
    for end in nodes.iter().flatten() {
        let record = match *end {
            EMPTY => count,
            data if data >= DATA => data - DATA + count + 16,
            node => node,
        };
        bytes.extend_from_slice(&u32::try_from(record).unwrap().to_be_bytes()[1..]);
    }
    bytes.extend_from_slice(&[0; 16]);
    bytes.extend_from_slice(&data);
    bytes.extend_from_slice(b"\xab\xcd\xefMaxMind.com");
    let metadata = map([
        ("binary_format_major_version", Value::Short(2)),
        ("binary_format_minor_version", Value::Short(0)),
        ("build_epoch", Value::Long(1)),
        ("database_type", Value::Text("weir-test")),
        ("description", map([])),
        ("languages", Value::NoTexts),
        ("ip_version", Value::Short(6)),
        ("node_count", Value::Number(u32::try_from(count).unwrap())),
        ("record_size", Value::Short(24)),
    ]);
    put(&metadata, &mut bytes);
    bytes
}

pub(crate) fn open(bytes: &[u8], field: MmdbField) -> anyhow::Result<Geo> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.mmdb");
    std::fs::write(&path, bytes).unwrap();
    Geo::open(&path, field)
}

fn of(geo: &Geo, address: &str) -> Option<(String, String)> {
    let (prefix, name) = geo.network(address.parse().unwrap())?;
    Some((prefix.to_string(), name.to_string()))
}

#[allow(clippy::unnecessary_wraps, reason = "it is what `of` gives")]
fn found(prefix: &str, name: &str) -> Option<(String, String)> {
    Some((prefix.to_owned(), name.to_owned()))
}

pub(crate) fn asn(number: u32, name: &str) -> Value<'_> {
    map([
        ("autonomous_system_number", Value::Number(number)),
        ("autonomous_system_organization", Value::Text(name)),
    ])
}

#[test]
fn a_network_is_named_by_its_field_with_its_prefix() {
    let bytes = database(&[
        ("192.0.2.0/24", asn(64_500, "Example ISP")),
        ("198.51.100.0/25", asn(64_501, "Other")),
        ("2001:db8::/32", asn(64_502, "Six")),
    ]);
    let geo = open(&bytes, MmdbField::AsNumber).unwrap();
    assert_eq!(of(&geo, "192.0.2.77"), found("192.0.2.0/24", "AS64500"));
    assert_eq!(
        of(&geo, "::ffff:192.0.2.77"),
        found("192.0.2.0/24", "AS64500")
    );
    assert_eq!(
        of(&geo, "198.51.100.5"),
        found("198.51.100.0/25", "AS64501")
    );
    assert_eq!(of(&geo, "198.51.100.200"), None);
    assert_eq!(of(&geo, "2001:db8:5::1"), found("2001:db8::/32", "AS64502"));
    assert_eq!(of(&geo, "2001:db9::1"), None);
    let geo = open(&bytes, MmdbField::AsOrganization).unwrap();
    assert_eq!(of(&geo, "192.0.2.77"), found("192.0.2.0/24", "Example_ISP"));
    // It has none of these.
    let geo = open(&bytes, MmdbField::Country).unwrap();
    assert_eq!(of(&geo, "192.0.2.77"), None);
}

#[test]
fn a_country_is_where_it_is_or_where_it_is_registered() {
    let country = |key, code| map([(key, map([("iso_code", Value::Text(code))]))]);
    let city = map([("city", map([("names", map([("en", Value::Text("Bonn"))]))]))]);
    let bytes = database(&[
        ("192.0.2.0/24", country("country", "DE")),
        ("198.51.100.0/24", country("registered_country", "FR")),
        ("203.0.113.0/24", city),
    ]);
    let geo = open(&bytes, MmdbField::Country).unwrap();
    assert_eq!(of(&geo, "192.0.2.1"), found("192.0.2.0/24", "DE"));
    assert_eq!(of(&geo, "198.51.100.1"), found("198.51.100.0/24", "FR"));
    let geo = open(&bytes, MmdbField::City).unwrap();
    assert_eq!(of(&geo, "203.0.113.9"), found("203.0.113.0/24", "Bonn"));
    assert_eq!(of(&geo, "192.0.2.1"), None);
}

#[test]
fn what_is_no_database_is_refused_and_what_is_broken_names_nothing() {
    let err = format!(
        "{:#}",
        open(b"not a database", MmdbField::City).unwrap_err()
    );
    assert!(
        err.contains("labels.mmdb") && err.contains("test.mmdb"),
        "{err}"
    );
    let whole = database(&[("192.0.2.0/24", asn(64_500, "Example ISP"))]);
    let address = IpAddr::from(Ipv6Addr::LOCALHOST);
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        if let Ok(geo) = open(&bytes, MmdbField::AsNumber) {
            let _ = geo.network(address);
            let _ = geo.network("192.0.2.1".parse().unwrap());
        }
    }
}
