//! Tells the TLS handshake from deliveries by two things that travel in clear: the record type
//! that a server's write begins with, and the length of the client's Finished flight.
//!
//! RFC 8446, 5.1 (record layer) and 4.4.4 (Finished); RFC 5246, 6.2 and 7.4.9.

/// How far a session's handshake has come, as far as the server's writes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// The server has not written yet.
    Unknown = 0,
    /// Its first write was no TLS record.
    Clear = 1,
    /// It has sent handshake records; the client's Finished may still come.
    Handshake = 2,
    /// Application data flows.
    Data = 3,
}

/// Content type of a TLS record.
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

/// Largest client message over TLS that can be no HTTP/1 request: the shortest request
/// (`GET / HTTP/1.0`, two line ends) is 18 bytes and the record adds at least 22. Alerts and
/// HTTP/2's SETTINGS, PING and WINDOW_UPDATE frames fall below.
pub const MAX_CONTROL_BYTES: u64 = 39;

/// What a server's write begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// A handshake record, a ChangeCipherSpec or an alert.
    Handshake,
    /// Application data (in TLS 1.3 also the encrypted rest of the handshake).
    Data,
    /// No TLS.
    Other,
}

/// Reads the first three bytes of a server's write: content type and `0x03 0x0n` version.
#[inline(always)]
pub fn classify(first: [u8; 3]) -> Write {
    if first[1] != 3 || first[2] > 4 {
        return Write::Other;
    }
    match first[0] {
        CHANGE_CIPHER_SPEC | ALERT | HANDSHAKE => Write::Handshake,
        APPLICATION_DATA => Write::Data,
        _ => Write::Other,
    }
}

/// Whether so many bytes are a client's Finished flight and nothing more.
///
/// TLS 1.3: record header 5 + message 4 + hash 32 or 48 + type 1 + tag 16, with or without the
/// 6 bytes of ChangeCipherSpec before it. TLS 1.2, resumed: 6 + 5 + 16 + tag 16, and 8 of
/// explicit nonce with GCM.
#[inline(always)]
pub fn is_finished_flight(bytes: u64) -> bool {
    matches!(bytes, 58 | 74 | 64 | 80 | 43 | 51)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_writes_are_told_apart() {
        assert_eq!(classify([0x16, 3, 3]), Write::Handshake);
        assert_eq!(classify([0x14, 3, 3]), Write::Handshake);
        assert_eq!(classify([0x17, 3, 3]), Write::Data);
        assert_eq!(classify(*b"HTT"), Write::Other);
        assert_eq!(classify([0x16, 9, 9]), Write::Other);
    }

    #[test]
    fn a_request_is_never_as_short_as_control() {
        let shortest = b"GET / HTTP/1.0\r\n\r\n".len() as u64 + 22;
        assert!(shortest > MAX_CONTROL_BYTES);
    }
}
