//! The capture as rows: the dissecting, TLS and all, is tshark's.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// One TCP packet as it passed the server's side of the link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// When, Unix time.
    pub unix_ns: u64,
    /// tshark's number of the connection.
    pub stream: u32,
    /// Sender.
    pub source: SocketAddr,
    /// Receiver.
    pub destination: SocketAddr,
    /// Sequence number of the first payload byte, as on the wire.
    pub seq: u32,
    /// Acknowledgement number, as on the wire.
    pub ack: u32,
    /// Payload bytes.
    pub len: u32,
    /// TCP flags.
    pub flags: u16,
    /// Content types of the (deciphered) TLS records that end in this packet.
    pub tls: Vec<u8>,
    /// Types of the HTTP/2 frames that end in this packet (RFC 9113, 6).
    pub http2: Vec<u8>,
    /// The HTTP/2 connection preface ends in this packet.
    pub http2_preface: bool,
}

/// TCP flags.
pub mod flag {
    /// FIN
    pub const FIN: u16 = 0x01;
    /// SYN
    pub const SYN: u16 = 0x02;
    /// RST
    pub const RST: u16 = 0x04;
    /// ACK
    pub const ACK: u16 = 0x10;
}

const FIELDS: [&str; 15] = [
    "frame.time_epoch",
    "tcp.stream",
    "ip.src",
    "ipv6.src",
    "tcp.srcport",
    "ip.dst",
    "ipv6.dst",
    "tcp.dstport",
    "tcp.seq_raw",
    "tcp.ack_raw",
    "tcp.len",
    "tcp.flags",
    "tls.record.content_type",
    "http2.type",
    "http2.magic",
];

/// Reads a capture; `keylog` deciphers its TLS.
///
/// # Errors
/// tshark fails or prints what is no packet.
pub fn packets(capture: &Path, keylog: Option<&Path>) -> Result<Vec<Packet>> {
    let mut command = Command::new("tshark");
    command
        .arg("-r")
        .arg(capture)
        .args(["-n", "-Y", "tcp", "-T", "fields", "-E", "separator=|"]);
    command.args(["-o", "tcp.reassemble_out_of_order:TRUE"]);
    match keylog {
        Some(keylog) => {
            command
                .arg("-o")
                .arg(format!("tls.keylog_file:{}", keylog.display()));
        }
        // Nothing above TCP is asked for, and guessing at truncated payload only costs time.
        None => {
            command.args(["--disable-protocol", "http", "--disable-protocol", "tls"]);
        }
    }
    for field in FIELDS {
        command.args(["-e", field]);
    }
    let out = command
        .stdin(Stdio::null())
        .output()
        .context("cannot run tshark")?;
    if !out.status.success() {
        bail!(
            "tshark failed ({}): {}",
            out.status,
            String::from_utf8_lossy(&out.stderr)
                .lines()
                .take(3)
                .collect::<Vec<_>>()
                .join(" / ")
        );
    }
    let text = String::from_utf8(out.stdout).context("tshark printed what is no text")?;
    text.lines()
        .map(|line| row(line).with_context(|| format!("tshark printed: {line}")))
        .collect()
}

fn row(line: &str) -> Result<Packet> {
    let fields: Vec<&str> = line.split('|').collect();
    let [
        time,
        stream,
        src4,
        src6,
        src_port,
        dst4,
        dst6,
        dst_port,
        seq,
        ack,
        len,
        flags,
        tls,
        http2,
        preface,
    ] = fields[..]
    else {
        bail!("{} fields instead of {}", fields.len(), FIELDS.len());
    };
    let address = |v4: &str, v6: &str, port: &str| -> Result<SocketAddr> {
        let ip: IpAddr = if v4.is_empty() {
            v6.parse()?
        } else {
            v4.parse()?
        };
        Ok(SocketAddr::new(ip, port.parse()?))
    };
    Ok(Packet {
        unix_ns: nanoseconds(time)?,
        stream: stream.parse()?,
        source: address(src4, src6, src_port)?,
        destination: address(dst4, dst6, dst_port)?,
        seq: seq.parse()?,
        ack: ack.parse()?,
        len: len.parse()?,
        flags: u16::from_str_radix(flags.trim_start_matches("0x"), 16)?,
        tls: numbers(tls)?,
        http2: numbers(http2)?,
        http2_preface: !preface.is_empty(),
    })
}

fn numbers(list: &str) -> Result<Vec<u8>> {
    list.split(',')
        .filter(|number| !number.is_empty())
        .map(|number| {
            number
                .parse()
                .with_context(|| format!("no number: {number}"))
        })
        .collect()
}

/// Decimal seconds to nanoseconds, without the rounding of a float.
fn nanoseconds(seconds: &str) -> Result<u64> {
    let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
    let fraction = format!("{fraction:0<9}");
    Ok(whole.parse::<u64>()? * 1_000_000_000 + fraction[..9].parse::<u64>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_becomes_a_packet() {
        let line = "1763859562.123456789|3||fd77::2|40000||fd77::1|8443|10|20|86|0x0018|22,23|1,4|";
        let packet = row(line).unwrap();
        assert_eq!(packet.unix_ns, 1_763_859_562_123_456_789);
        assert_eq!(packet.source, "[fd77::2]:40000".parse().unwrap());
        assert_eq!(packet.tls, [22, 23]);
        assert_eq!((packet.flags, packet.http2_preface), (0x18, false));
        assert_eq!(packet.http2, [1, 4]);
        assert!(row("1|2").is_err());
    }

    #[test]
    fn short_fractions_are_read_as_decimals() {
        assert_eq!(nanoseconds("1.5").unwrap(), 1_500_000_000);
    }
}
