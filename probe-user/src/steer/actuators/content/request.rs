//! What a player's request says: who it is, and for whom a proxy asks. All of it is a stranger's
//! word, so it is bounded, and of no use for anything but the asker's own answer.

use std::net::IpAddr;

use hyper::HeaderMap;
use ipnet::IpNet;

/// Carries a player's token in the URL of its next request.
const TOKEN: &str = "_weir_s";
const TOKEN_DIGITS: usize = 16;
/// What players add by themselves, each time anew.
const PLAYERS_OWN: [&str; 3] = ["_HLS_", "_DASH_", "CMCD"];
/// A longer query is not carried on.
const MOST_KEPT_BYTES: usize = 1024;
/// Proxies between the player and weir.
const MOST_HOPS: usize = 16;
const FORWARDED_FOR: &str = "x-forwarded-for";

/// A request's query, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// Who asks, if it was told before.
    pub(super) token: Option<u64>,
    /// What else the URL had, to be had by the next one too: an operator's own parameters.
    kept: String,
}

impl Asked {
    pub(super) fn read(query: &str) -> Self {
        let mut asked = Self::default();
        for param in query.split('&').filter(|param| !param.is_empty()) {
            let (name, value) = param.split_once('=').unwrap_or((param, ""));
            if name == TOKEN {
                asked.token = token(value);
            } else if !PLAYERS_OWN.iter().any(|own| name.starts_with(own)) {
                asked.kept.push_str(param);
                asked.kept.push('&');
            }
        }
        if asked.kept.len() > MOST_KEPT_BYTES {
            asked.kept.clear();
        }
        asked
    }

    /// Where the player of `token` shall ask the next time, relative to where it asked.
    pub(super) fn reload_uri(&self, token: u64) -> String {
        format!("?{}{TOKEN}={token:0TOKEN_DIGITS$x}", self.kept)
    }
}

/// As [`Asked::reload_uri`] writes it, and no other way.
fn token(digits: &str) -> Option<u64> {
    let is_lower_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (digits.len() == TOKEN_DIGITS && digits.bytes().all(is_lower_hex))
        .then(|| u64::from_str_radix(digits, 16).ok())?
}

/// Whose request it is: the peer's, or that of the last one in `X-Forwarded-For` who is no proxy of
/// the operator's.
pub(super) fn client(peer: IpAddr, headers: &HeaderMap, proxies: &[IpNet]) -> IpAddr {
    let is_proxy = |address: &IpAddr| proxies.iter().any(|prefix| prefix.contains(address));
    let mut client = peer.to_canonical();
    if !is_proxy(&client) {
        return client;
    }
    // Each proxy appends whom it heard; a header that comes twice goes on in the second.
    let lines = headers.get_all(FORWARDED_FOR).iter().rev();
    let words = lines.flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
    for word in words.take(MOST_HOPS) {
        let Ok(address) = word.trim().parse::<IpAddr>() else {
            break;
        };
        client = address.to_canonical();
        if !is_proxy(&client) {
            break;
        }
    }
    client
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_comes_back_as_it_was_given() {
        let uri = Asked::default().reload_uri(0xab);
        assert_eq!(uri, "?_weir_s=00000000000000ab");
        assert_eq!(Asked::read(&uri[1..]).token, Some(0xab));
    }

    #[test]
    fn an_operators_own_parameters_are_carried_on_and_a_players_are_not() {
        let asked = Asked::read(
            "event=7&_HLS_pathway=a&_HLS_throughput=5&_weir_s=0000000000000001&sig=x%3D~&\
             _DASH_pathway=%22a%22&CMCD=bs",
        );
        assert_eq!(asked.token, Some(1));
        assert_eq!(
            asked.reload_uri(2),
            "?event=7&sig=x%3D~&_weir_s=0000000000000002"
        );
    }

    #[test]
    fn a_token_that_weir_did_not_write_is_none() {
        for wrong in ["", "1", "00000000000000AB", "+000000000000001", "zz", "%30"] {
            assert_eq!(Asked::read(&format!("_weir_s={wrong}")).token, None);
        }
        assert_eq!(Asked::read("_weir_s").token, None);
    }

    #[test]
    fn a_query_that_is_too_long_is_not_carried_on() {
        let long = format!("x={}&_weir_s=0000000000000001", "y".repeat(2000));
        let asked = Asked::read(&long);
        assert_eq!(asked.token, Some(1));
        assert_eq!(asked.reload_uri(1), "?_weir_s=0000000000000001");
    }

    proptest! {
        #[test]
        fn any_query_is_answered_with_one_that_names_the_token(query in ".*", token: u64) {
            let uri = Asked::read(&query).reload_uri(token);
            prop_assert!(uri.len() <= MOST_KEPT_BYTES + 32);
            prop_assert_eq!(Asked::read(&uri[1..]).token, Some(token));
        }
    }

    fn forwarded(lines: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, line.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_proxy_is_believed_and_nobody_else() {
        let proxies = ["127.0.0.0/8", "10.0.0.0/8"].map(|prefix| prefix.parse().unwrap());
        let told = |peer: &str, lines: &[&'static str]| {
            client(peer.parse().unwrap(), &forwarded(lines), &proxies).to_string()
        };
        assert_eq!(told("192.0.2.1", &["198.51.100.1"]), "192.0.2.1");
        assert_eq!(told("127.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        // What the client itself had written stands before what the proxies wrote.
        assert_eq!(
            told("127.0.0.1", &["203.0.113.9, 198.51.100.1, 10.0.0.7"]),
            "198.51.100.1"
        );
        assert_eq!(
            told("127.0.0.1", &["203.0.113.9", "198.51.100.1"]),
            "198.51.100.1"
        );
        assert_eq!(told("::ffff:127.0.0.1", &["2001:db8::1"]), "2001:db8::1");
        assert_eq!(told("127.0.0.1", &["::ffff:192.0.2.3"]), "192.0.2.3");
        assert_eq!(told("127.0.0.1", &[]), "127.0.0.1");
        assert_eq!(told("127.0.0.1", &["unknown"]), "127.0.0.1");
    }
}
