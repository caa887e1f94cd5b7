//! To whom an order is given.

use std::str::FromStr;

use super::places::Places;
use crate::steer::overrides::roles::Reach;

const MAX_NAME_BYTES: usize = 253;

/// A host, a region or all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    Host(String),
    Region(String),
    Fleet,
}

impl At {
    /// How far that is.
    pub fn reach(&self) -> Reach {
        match self {
            Self::Host(_) => Reach::Host,
            Self::Region(_) => Reach::Region,
            Self::Fleet => Reach::Fleet,
        }
    }

    /// Whether a host is among them.
    pub fn holds(&self, host: &str, places: &Places) -> bool {
        match self {
            Self::Host(name) => name.eq_ignore_ascii_case(host),
            Self::Region(region) => places.of(host).is_some_and(|place| place.region == *region),
            Self::Fleet => true,
        }
    }
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Host(name) => f.write_str(name),
            Self::Region(name) => write!(f, "region={name}"),
            Self::Fleet => f.write_str("fleet"),
        }
    }
}

impl FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_name = |name: &str| {
            (1..=MAX_NAME_BYTES).contains(&name.len())
                && !name.contains(|c: char| c.is_control() || c.is_whitespace() || c == '=')
        };
        match text.split_once('=') {
            None if text == "fleet" => Ok(Self::Fleet),
            None if is_name(text) => Ok(Self::Host(text.to_owned())),
            Some(("region", name)) if is_name(name) => Ok(Self::Region(name.to_owned())),
            _ => Err(format!(
                "{text:?} is nowhere; write fleet, region=NAME or the name of a host"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::places::tests::two_regions;
    use super::*;

    #[test]
    fn it_is_read_as_it_is_written_and_holds_whom_it_says() {
        let places = two_regions();
        for (text, held, not_held) in [
            ("fleet", "x", None),
            ("region=fra", "fra-1", Some("ams-1")),
            ("fra-1", "FRA-1", Some("fra-2")),
        ] {
            let at: At = text.parse().unwrap();
            assert_eq!(at.to_string(), text);
            assert!(at.holds(held, &places));
            assert!(not_held.is_none_or(|host| !at.holds(host, &places)));
        }
        for text in ["", "region=", "pool=x", "a b", "a=b"] {
            assert!(text.parse::<At>().is_err(), "{text}");
        }
    }
}
