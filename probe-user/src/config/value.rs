//! What a key's value can be: each type's words, and how it is read.

use std::path::PathBuf;

use ipnet::IpNet;
use toml::de::DeValue;

use super::{LogLevel, MmdbField, Principal};
use crate::kernel::Choice;
use crate::labels::request::{Class, Media, Stream};
use crate::steer::actuators::settings::GateKind;
use crate::steer::overrides::Verb;
use crate::steer::overrides::roles::Reach;
use crate::steer::policy::rules::{Metric, Moves, OwnFault};

/// What is said of a value that is something else.
pub(super) fn wrong(expected: &str, value: &DeValue<'_>) -> String {
    format!("expected {expected}, found {}", shown(value))
}

fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string {text:?}"),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(value) => value.to_string(),
        other => format!("a value of type {}", other.type_str()),
    }
}

/// What a key's value can be.
pub(super) trait Value: Sized {
    /// In words.
    const EXPECTED: &'static str;

    fn parse(value: &DeValue<'_>) -> Option<Self>;

    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        Self::parse(value).ok_or_else(|| wrong(Self::EXPECTED, value))
    }
}

fn integer<T: TryFrom<i64>>(value: &DeValue<'_>) -> Option<T> {
    let number = value.as_integer()?;
    let number = i64::from_str_radix(number.as_str(), number.radix()).ok()?;
    T::try_from(number).ok()
}

impl Value for u32 {
    const EXPECTED: &'static str = "a whole number from 0 to 4294967295";
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        integer(value)
    }
}

impl Value for u64 {
    const EXPECTED: &'static str = "a whole number";
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        integer(value)
    }
}

impl Value for u16 {
    const EXPECTED: &'static str = "a port, 1 to 65535";
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        integer(value).filter(|port| *port > 0)
    }
}

impl Value for bool {
    const EXPECTED: &'static str = "true or false";
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        value.as_bool()
    }
}

impl Value for String {
    const EXPECTED: &'static str = "a string in quotes";
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }
}

/// A key that is absent by default.
impl<T: Value> Value for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        T::parse(value).map(Some)
    }
}

impl Value for PathBuf {
    const EXPECTED: &'static str = "a path in quotes";
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        value
            .as_str()
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
    }
}

impl Value for IpNet {
    const EXPECTED: &'static str = "a prefix such as \"192.0.2.0/24\" or \"2001:db8::/32\"";
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        super::parse_prefix(value.as_str()?)
    }
}

impl Value for Principal {
    const EXPECTED: &'static str = "a name in quotes or a number";
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        match value.as_str() {
            Some(name) if !name.is_empty() => Some(Self::Name(name.to_owned())),
            Some(_) => None,
            None => integer(value).map(Self::Id),
        }
    }
}

impl Value for Class {
    const EXPECTED: &'static str =
        "\"manifest\", \"init\", \"segment\", \"part\", \"key\" or \"other\"";
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        Some(match value.as_str()? {
            "manifest" => Self::Manifest,
            "init" => Self::Init,
            "segment" => Self::Segment,
            "part" => Self::Part,
            "key" => Self::Key,
            "other" => Self::Other,
            _ => return None,
        })
    }
}

impl Value for Media {
    const EXPECTED: &'static str = "\"muxed\", \"audio\" or \"video\"";
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        Some(match value.as_str()? {
            "muxed" => Self::Muxed,
            "audio" => Self::Audio,
            "video" => Self::Video,
            _ => return None,
        })
    }
}

impl Value for Stream {
    const EXPECTED: &'static str = "\"vod\" or \"live\"";
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        Some(match value.as_str()? {
            "vod" => Self::Vod,
            "live" => Self::Live,
            _ => return None,
        })
    }
}

impl Value for MmdbField {
    const EXPECTED: &'static str = "\"as_number\", \"as_organization\", \"country\" or \"city\"";
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        Some(match value.as_str()? {
            "as_number" => Self::AsNumber,
            "as_organization" => Self::AsOrganization,
            "country" => Self::Country,
            "city" => Self::City,
            _ => return None,
        })
    }
}

impl Value for LogLevel {
    const EXPECTED: &'static str = "\"off\", \"error\", \"warn\", \"info\", \"debug\" or \"trace\"";
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        let name = value.as_str()?;
        Self::ALL
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, level)| *level)
    }
}

/// One of several, by the name that the type itself gives it.
fn named<T: Copy>(value: &DeValue<'_>, all: &[T], as_str: fn(T) -> &'static str) -> Option<T> {
    let name = value.as_str()?;
    all.iter().copied().find(|one| as_str(*one) == name)
}

impl Value for Metric {
    const EXPECTED: &'static str = "\"late_delivery_share\", \"rebuffer_ratio\", \
                                    \"start_failure_share\", \"sessions_at_risk_share\" or \
                                    \"retransmit_ratio\"";
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        named(value, &Self::ALL, Self::as_str)
    }
}

impl Value for Moves {
    const EXPECTED: &'static str = "\"host\", \"service\" or \"cell\"";
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        named(value, &Self::ALL, Self::as_str)
    }
}

impl Value for OwnFault {
    const EXPECTED: &'static str = "\"think\", \"application write\" or \"pacing\"";
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        named(value, &Self::ALL, Self::as_str)
    }
}

impl Value for Verb {
    const EXPECTED: &'static str = "\"hold\", \"weight\", \"drain\", \"undrain\", \"pin\", \"cap\", \
                                    \"shed\", \"release\" or \"panic\"";
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        named(value, &Self::ALL, Self::as_str)
    }
}

impl Value for Reach {
    const EXPECTED: &'static str =
        "\"prefix\", \"cell\", \"service\", \"host\", \"region\" or \"fleet\"";
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        named(value, &Self::ALL, Self::as_str)
    }
}

impl Value for GateKind {
    const EXPECTED: &'static str = "\"haproxy-agent\", \"haproxy-socket\", \"hook\", \"webhook\", \"file\", \
                                    \"content-steering\" or \"kernel\"";
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        named(value, &Self::ALL, Self::as_str)
    }
}

impl Value for Choice {
    const EXPECTED: &'static str = "\"auto\", \"exact\", \"portable\" or \"polled\"";
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        value.as_str()?.parse().ok()
    }
}

impl<T: Value> Value for Vec<T> {
    const EXPECTED: &'static str = "a list in brackets";
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        Self::from_toml(value).ok()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let array = value
            .as_array()
            .ok_or_else(|| wrong(&format!("a list in brackets, each {}", T::EXPECTED), value))?;
        array
            .iter()
            .enumerate()
            .map(|(n, value)| {
                T::from_toml(value.get_ref()).map_err(|err| format!("element {}: {err}", n + 1))
            })
            .collect()
    }
}
