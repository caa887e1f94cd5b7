//! Numbers as people read them. Listings print plain numbers in a fixed unit, which the column's
//! name says; the live view prints the shortest form with its unit.

use std::time::{Duration, SystemTime};

use weir_proto::v1::{Backend, CellKey, Endpoints, EvidenceTier};

/// "Did not happen" or "unknown".
pub const ABSENT: &str = "-";

/// Microseconds as milliseconds, `-` for 0.
pub fn ms(us: u64) -> String {
    if us == 0 {
        return ABSENT.to_owned();
    }
    format!("{:.3}", us as f64 / 1e3)
}

/// Bits per second as megabits per second, `-` for 0.
pub fn mbps(bps: u64) -> String {
    if bps == 0 {
        return ABSENT.to_owned();
    }
    format!("{:.3}", bps as f64 / 1e6)
}

/// `part` in percent of `whole`; `-` if there is no whole.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return ABSENT.to_owned();
    }
    format!("{:.2}", part as f64 * 100.0 / whole as f64)
}

/// `part` in percent of `whole`, with how many that rests on and its Wilson interval at 95 %
/// (Wilson, 1927): `2.50 [1.90,3.28] n=2000`; `-` if there is no whole.
pub fn share(part: u64, whole: u64) -> String {
    const Z: f64 = 1.96;
    if whole == 0 {
        return ABSENT.to_owned();
    }
    let n = whole as f64;
    let p = (part as f64 / n).min(1.0);
    let middle = p + Z * Z / (2.0 * n);
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 100.0 / (1.0 + Z * Z / n);
    format!(
        "{:.2} [{:.2},{:.2}] n={whole}",
        p * 100.0,
        ((middle - half) * scale).max(0.0),
        ((middle + half) * scale).min(100.0)
    )
}

/// A Unix time as RFC 3339 in UTC with milliseconds, `-` for 0.
pub fn timestamp(unix_ns: u64) -> String {
    if unix_ns == 0 {
        return ABSENT.to_owned();
    }
    let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(unix_ns);
    humantime::format_rfc3339_millis(time).to_string()
}

/// The time of day of a Unix time, UTC: `20:14:07`.
pub fn clock(unix_ns: u64) -> String {
    let seconds = unix_ns / 1_000_000_000 % 86_400;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}", seconds % 60)
}

/// The time now, as Unix nanoseconds.
pub fn now_unix_ns() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .and_then(|since| u64::try_from(since.as_nanos()).ok())
        .unwrap_or(0)
}

/// A duration in three digits or so: `850us`, `3.2ms`, `1.25s`, `4m10s`, `2h05m`, `3d04h`.
pub fn short_us(us: u64) -> String {
    let seconds = us / 1_000_000;
    match us {
        0 => ABSENT.to_owned(),
        1..=999 => format!("{us}us"),
        1_000..=9_999 => format!("{:.1}ms", us as f64 / 1e3),
        10_000..=999_999 => format!("{}ms", us / 1_000),
        1_000_000..=9_999_999 => format!("{:.2}s", us as f64 / 1e6),
        10_000_000..=99_999_999 => format!("{:.1}s", us as f64 / 1e6),
        _ if seconds < 3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ if seconds < 86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// A count in decimal multiples: `999`, `12.3k`, `4.56M`.
pub fn short_count(count: u64) -> String {
    short(count as f64, count < 1000)
}

/// A number of bytes in decimal multiples: `1.20MB`.
pub fn short_bytes(bytes: u64) -> String {
    short(bytes as f64, bytes < 1000) + "B"
}

/// A rate per second of anything: two significant decimals while small.
pub fn short_rate(rate: f64) -> String {
    if rate >= 1000.0 {
        return short(rate, false);
    }
    match rate {
        r if r >= 100.0 => format!("{r:.0}"),
        r if r > 0.0 => format!("{r:.1}"),
        _ => "0".to_owned(),
    }
}

fn short(value: f64, whole: bool) -> String {
    if whole {
        return format!("{value:.0}");
    }
    let mut scaled = value;
    let mut unit = "";
    for next in ["k", "M", "G", "T", "P", "E"] {
        if scaled < 999.5 {
            break;
        }
        scaled /= 1000.0;
        unit = next;
    }
    let decimals = match scaled {
        s if s < 9.995 => 2,
        s if s < 99.95 => 1,
        _ => 0,
    };
    format!("{scaled:.decimals$}{unit}")
}

/// The client's end: `192.0.2.1:40000`, `[2001:db8::1]:40000`.
pub fn client(endpoints: Option<&Endpoints>) -> String {
    endpoints.map_or_else(
        || ABSENT.to_owned(),
        |ends| address(&ends.remote_address, ends.remote_port),
    )
}

/// The server's end, in the same form.
pub fn server(endpoints: Option<&Endpoints>) -> String {
    endpoints.map_or_else(
        || ABSENT.to_owned(),
        |ends| address(&ends.local_address, ends.local_port),
    )
}

fn address(ip: &str, port: u32) -> String {
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

/// `service/content_class/network/transport`, and how it was measured if not exactly: the text that
/// a cell filter searches.
pub fn cell_path(key: Option<&CellKey>) -> String {
    key.map_or_else(
        || ABSENT.to_owned(),
        |key| {
            let backend = match key.backend() {
                // One that does not say is older than the other ways of measuring.
                Backend::Unspecified | Backend::Exact => String::new(),
                other => format!("/{}", other.word()),
            };
            let tier = match key.tier() {
                // One that does not say is older than the other tiers.
                EvidenceTier::Unspecified | EvidenceTier::Kernel => String::new(),
                other => format!("/{}", other.word()),
            };
            format!(
                "{}/{}/{}/{}{tier}{backend}",
                key.service, key.content_class, key.network, key.transport
            )
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_print_plain_numbers_and_a_dash_for_what_did_not_happen() {
        assert_eq!(ms(1_234), "1.234");
        assert_eq!(ms(0), "-");
        assert_eq!(mbps(12_500_000), "12.500");
        assert_eq!(percent(1, 8), "12.50");
        assert_eq!(percent(0, 0), "-");
        // By the formula, and what stays of it at the ends.
        assert_eq!(share(50, 2000), "2.50 [1.90,3.28] n=2000");
        assert_eq!(share(0, 10), "0.00 [0.00,27.75] n=10");
        assert_eq!(share(10, 10), "100.00 [72.25,100.00] n=10");
        assert_eq!(share(0, 0), "-");
        assert_eq!(timestamp(1_500_000_000), "1970-01-01T00:00:01.500Z");
        assert_eq!(timestamp(0), "-");
    }

    #[test]
    fn short_forms_keep_about_three_digits() {
        let us = [
            (850, "850us"),
            (3_210, "3.2ms"),
            (999_999, "999ms"),
            (1_250_000, "1.25s"),
        ];
        for (value, text) in us {
            assert_eq!(short_us(value), text);
        }
        assert_eq!(short_us(250_000_000), "4m10s");
        assert_eq!(short_us(7_500_000_000), "2h05m");
        assert_eq!(short_us(273_600_000_000), "3d04h");
        for (value, text) in [
            (999, "999"),
            (1_000, "1.00k"),
            (12_340, "12.3k"),
            (999_999, "1.00M"),
        ] {
            assert_eq!(short_count(value), text);
        }
        assert_eq!(short_bytes(1_200_000), "1.20MB");
        assert_eq!(short_rate(12.34), "12.3");
        assert_eq!(short_rate(0.0), "0");
    }

    #[test]
    fn an_ipv6_address_is_bracketed() {
        let ends = Endpoints {
            remote_address: "2001:db8::1".into(),
            remote_port: 5,
            local_address: "192.0.2.1".into(),
            local_port: 443,
            netns: 0,
        };
        assert_eq!(client(Some(&ends)), "[2001:db8::1]:5");
        assert_eq!(server(Some(&ends)), "192.0.2.1:443");
    }
}
