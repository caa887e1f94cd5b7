//! The steering manifest: one for both protocols. HLS (draft-pantos-content-steering) and DASH (ETSI
//! TS 103 998) share all keys but that of the order, which older DASH players know by another name.

use std::collections::BTreeMap;

use serde::Serialize;

use super::choice::Choice;
use super::settings::{ContentGate, Pathway};

/// hls.js stops steering for good at any other.
const VERSION: u8 = 1;

#[derive(Debug, Serialize)]
#[serde(rename_all = "SCREAMING-KEBAB-CASE")]
struct Manifest<'a> {
    version: u8,
    ttl: u32,
    reload_uri: &'a str,
    pathway_priority: &'a [&'a str],
    service_location_priority: &'a [&'a str],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pathway_clones: Vec<Copied<'a>>,
}

/// A pathway that playlists do not have.
#[derive(Debug, Serialize)]
#[serde(rename_all = "SCREAMING-KEBAB-CASE")]
struct Copied<'a> {
    base_id: &'a str,
    #[serde(rename = "ID")]
    id: &'a str,
    uri_replacement: Replacement<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "SCREAMING-KEBAB-CASE")]
struct Replacement<'a> {
    host: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    params: BTreeMap<&'a str, &'a str>,
}

impl<'a> Copied<'a> {
    fn of(pathway: &'a Pathway) -> Option<Self> {
        Some(Self {
            base_id: pathway.clone_of.as_deref()?,
            id: &pathway.name,
            uri_replacement: Replacement {
                host: pathway.host.as_deref()?,
                params: pathway
                    .params
                    .iter()
                    .filter_map(|param| param.split_once('='))
                    .collect(),
            },
        })
    }
}

/// The manifest's JSON.
pub(super) fn write(
    gate: &ContentGate,
    choice: &Choice<'_>,
    reload_uri: &str,
    ttl_s: u32,
) -> Vec<u8> {
    let manifest = Manifest {
        version: VERSION,
        ttl: ttl_s,
        reload_uri,
        pathway_priority: &choice.order,
        service_location_priority: &choice.order,
        pathway_clones: gate.pathways.iter().filter_map(Copied::of).collect(),
    };
    // Fails only for maps whose keys are no strings.
    serde_json::to_vec(&manifest).unwrap_or_default()
}

/// A fifth more or less than `ttl_s`, so that players that began together do not ask together for
/// ever. Whole seconds, as both standards have it.
pub(super) fn jittered(ttl_s: u32) -> u32 {
    let fifth = ttl_s / 5;
    fastrand::u32(ttl_s - fifth..=ttl_s + fifth).max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_manifest_has_what_both_standards_ask_for() {
        let gate = ContentGate {
            home: "a".to_owned(),
            pathways: vec![
                Pathway {
                    name: "b".to_owned(),
                    weight: 1,
                    ..Pathway::default()
                },
                Pathway {
                    name: "c".to_owned(),
                    weight: 1,
                    clone_of: Some("a".to_owned()),
                    host: Some("c.example.net".to_owned()),
                    params: vec!["y=2=2".to_owned(), "x=".to_owned()],
                },
            ],
            ..ContentGate::default()
        };
        let choice = Choice {
            order: vec!["b", "c", "a"],
            stays: false,
        };
        let json = write(&gate, &choice, "?_weir_s=1", 9);
        assert_eq!(
            String::from_utf8(json).unwrap(),
            r#"{"VERSION":1,"TTL":9,"RELOAD-URI":"?_weir_s=1","PATHWAY-PRIORITY":["b","c","a"],"SERVICE-LOCATION-PRIORITY":["b","c","a"],"PATHWAY-CLONES":[{"BASE-ID":"a","ID":"c","URI-REPLACEMENT":{"HOST":"c.example.net","PARAMS":{"x":"","y":"2=2"}}}]}"#
        );
    }

    #[test]
    fn players_are_spread_a_fifth_to_either_side() {
        for (ttl_s, least, most) in [(5, 4, 6), (10, 8, 12), (300, 240, 360)] {
            let seen: HashSet<_> = (0..20_000).map(|_| jittered(ttl_s)).collect();
            let (low, high) = (seen.iter().min(), seen.iter().max());
            assert_eq!((low, high), (Some(&least), Some(&most)));
        }
    }
}
