//! The configuration's rules: from a request's URI to what it is for. The first that matches holds;
//! what it does not say is [guessed](super::url).

use regex::{Captures, Regex, RegexBuilder, RegexSet, RegexSetBuilder};

use super::request::{Class, Media, Object, Stream};
use super::url;
use crate::config::Rule;

/// Rules that one configuration can have.
pub const MOST_RULES: usize = 256;
/// Bytes of a URI that are looked at.
const MOST_URI_BYTES: usize = 4096;
/// What one compiled expression may take; all together may take so much for each.
const MOST_EXPRESSION_BYTES: usize = 1 << 20;

/// The groups that a rule's expression can name.
pub const GROUPS: [&str; 4] = ["rung", "number", "content", "viewer"];

/// An expression, if it can be used; why it cannot, if not.
pub fn expression(text: &str) -> Result<Regex, String> {
    let regex = RegexBuilder::new(text)
        .size_limit(MOST_EXPRESSION_BYTES)
        .dfa_size_limit(MOST_EXPRESSION_BYTES)
        .build()
        .map_err(|err| {
            let err = err.to_string();
            let last = err.lines().last().unwrap_or_default();
            format!(
                "is no regular expression: {}",
                last.trim_start_matches("error: ")
            )
        })?;
    match regex
        .capture_names()
        .flatten()
        .find(|name| !GROUPS.contains(name))
    {
        None => Ok(regex),
        Some(name) => Err(format!(
            "names a group {name:?}; a group can be called {}",
            GROUPS.join(", ")
        )),
    }
}

/// The rules in force.
#[derive(Debug)]
pub struct Rules {
    set: RegexSet,
    rules: Vec<(Regex, Rule)>,
}

/// What a URI says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said<'u> {
    /// What was asked for.
    pub object: Object,
    /// The streaming format, if the URI shows it.
    pub format: super::cmcd::Format,
    /// What the rule calls the viewer.
    pub viewer: Option<&'u str>,
}

impl Rules {
    /// The rules that a configuration has.
    pub fn new(rules: &[Rule]) -> Result<Self, String> {
        let compiled = rules
            .iter()
            .map(|rule| Ok((expression(&rule.matches)?, rule.clone())))
            .collect::<Result<_, String>>()?;
        let all = MOST_EXPRESSION_BYTES * rules.len().max(1);
        let set = RegexSetBuilder::new(rules.iter().map(|rule| &rule.matches))
            .size_limit(all)
            .dfa_size_limit(all)
            .build()
            .map_err(|err| err.to_string())?;
        Ok(Self {
            set,
            rules: compiled,
        })
    }

    /// What a request's URI says: its path and query, as the client sent them.
    pub fn read<'u>(&self, uri: &'u str) -> Said<'u> {
        let uri = cut(uri);
        let guess = url::guess(url::path_of(uri));
        let mut said = Said {
            object: Object {
                class: guess.class,
                media: guess.media,
                number: guess.number,
                rung: guess.rung,
                content: guess.content,
                ..Object::default()
            },
            format: guess.format,
            viewer: None,
        };
        let first = self.set.matches(uri).iter().next();
        if let Some((regex, rule)) = first.and_then(|at| self.rules.get(at)) {
            said.follow(rule, regex.captures(uri).as_ref());
        }
        said
    }
}

impl<'u> Said<'u> {
    fn follow(&mut self, rule: &Rule, captures: Option<&Captures<'u>>) {
        let group = |name| {
            let text = captures?.name(name)?.as_str();
            (!text.is_empty()).then_some(text)
        };
        let object = &mut self.object;
        object.class = rule.class.unwrap_or(object.class);
        object.media = rule.media.unwrap_or(object.media);
        object.stream = rule.stream.unwrap_or(Stream::Unknown);
        object.number = group("number")
            .and_then(|text| text.parse().ok())
            .or(object.number);
        let plays = matches!(object.class, Class::Segment | Class::Part);
        if plays {
            object.duration_us = rule.duration_ms.unwrap_or(0).saturating_mul(1000);
            object.bitrate_bps = u64::from(rule.bitrate_kbps.unwrap_or(0)) * 1000;
        } else {
            object.number = None;
            object.rung = 0;
        }
        if plays && let Some(rung) = rule.rung.as_deref().or_else(|| group("rung")) {
            object.rung = match rung.parse::<u32>() {
                // 0 stands for an unknown one.
                Ok(n) => n.saturating_add(1),
                Err(_) => url::rung_of(&[rung.as_bytes()]),
            };
        }
        if let Some(content) = group("content") {
            object.content = url::content_of(content.as_bytes());
        }
        if object.class == Class::Manifest {
            object.media = Media::Unknown;
        }
        self.viewer = group("viewer");
    }
}

/// As much of a URI as is looked at.
fn cut(uri: &str) -> &str {
    let end = (0..=MOST_URI_BYTES.min(uri.len()))
        .rev()
        .find(|end| uri.is_char_boundary(*end));
    &uri[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::cmcd::Format;

    fn rule(matches: &str) -> Rule {
        Rule {
            matches: matches.to_owned(),
            ..Rule::default()
        }
    }

    #[test]
    fn the_first_rule_that_matches_holds_and_the_rest_is_guessed() {
        let rules = Rules::new(&[
            Rule {
                duration_ms: Some(500),
                class: Some(Class::Part),
                ..rule(r"^/live/.*\.part\d")
            },
            Rule {
                duration_ms: Some(2000),
                stream: Some(Stream::Live),
                ..rule(r"^/live/(?P<content>[^/]+)/(?P<rung>\w+)/s(?P<number>\d+)")
            },
            Rule {
                duration_ms: Some(9000),
                ..rule("/live/")
            },
        ])
        .unwrap();
        let segment = rules.read("/live/ch7/hi/s00012.m4s?token=x");
        assert_eq!(segment.object.class, Class::Segment);
        assert_eq!(segment.object.duration_us, 2_000_000);
        assert_eq!(segment.object.stream, Stream::Live);
        assert_eq!(segment.object.number, Some(12));
        let lower = rules.read("/live/ch7/lo/s00012.m4s").object;
        assert_ne!(lower.rung, segment.object.rung);
        assert_eq!(lower.content, segment.object.content);
        let part = rules.read("/live/ch7/hi/s12.part3.m4s").object;
        assert_eq!((part.class, part.duration_us), (Class::Part, 500_000));
        let manifest = rules.read("/live/ch7/index.m3u8");
        assert_eq!(manifest.object.class, Class::Manifest);
        assert_eq!(manifest.object.duration_us, 0, "a manifest does not play");
        assert_eq!(manifest.format, Format::Hls);
        let elsewhere = rules.read("/vod/film/v0/seg7.m4s").object;
        assert_eq!(
            (elsewhere.class, elsewhere.duration_us),
            (Class::Segment, 0)
        );
    }

    #[test]
    fn a_viewer_can_be_found_in_a_signature() {
        let rules = Rules::new(&[rule(r"[?&]sig=(?P<viewer>\w+)")]).unwrap();
        assert_eq!(rules.read("/a/seg1.ts?x=1&sig=abc&y").viewer, Some("abc"));
        assert_eq!(rules.read("/a/seg1.ts?sig=").viewer, None);
    }

    #[test]
    fn a_rendition_that_is_a_number_keeps_its_order() {
        let rules = Rules::new(&[rule(r"/q(?P<rung>\d+)/")]).unwrap();
        let rung = |uri| rules.read(uri).object.rung;
        assert_eq!(rung("/q0/seg1.ts"), 1);
        assert!(rung("/q2/seg1.ts") > rung("/q1/seg1.ts"));
        assert_eq!(rung("/q4294967295/seg1.ts"), u32::MAX);
    }

    #[test]
    fn an_expression_that_cannot_be_used_says_why() {
        for (text, why) in [
            ("(", "unclosed group"),
            ("(?P<name>x)", "can be called rung, number, content, viewer"),
            (r"\w{500}{500}", "size limit"),
        ] {
            let err = expression(text).unwrap_err();
            assert!(err.contains(why), "{err}");
        }
    }

    #[test]
    fn a_long_uri_costs_no_more_than_its_beginning() {
        let rules = Rules::new(&[rule("end$")]).unwrap();
        let long = "/é".repeat(MOST_URI_BYTES) + "end";
        assert_eq!(rules.read(&long).viewer, None);
    }
}
