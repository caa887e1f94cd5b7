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

/// Whether a client message over TLS is as long as an alert (`close_notify`) and no longer.
///
/// TLS 1.3: record header 5 + alert 2 + type 1 + tag 16. TLS 1.2: 5 + 2 + 16, and 8 of explicit
/// nonce with GCM. Which version it is may not be known.
#[inline(always)]
pub fn is_alert(bytes: u64, is_13: bool) -> bool {
    bytes == 24 || (!is_13 && (bytes == 23 || bytes == 31))
}

/// Whether a client message over TLS is as long as one of HTTP/2's control frames (SETTINGS
/// acknowledgement 9 bytes, `WINDOW_UPDATE` and `RST_STREAM` 13, PING 17; RFC 9113, 6) and is neither
/// an alert nor an HTTP/1 request.
#[inline(always)]
pub fn is_http2_control(bytes: u64, is_13: bool) -> bool {
    if is_13 {
        bytes > 24 && bytes <= MAX_CONTROL_BYTES
    } else {
        bytes > 31 && bytes <= 46
    }
}

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

/// Whether a Finished flight is TLS 1.3's.
#[inline(always)]
pub fn is_finished_flight_13(bytes: u64) -> bool {
    is_finished_flight(bytes) && bytes >= 58
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

    #[test]
    fn http2_control_is_told_from_alerts_and_requests() {
        for frame in [9, 13, 17] {
            assert!(is_http2_control(frame + 22, true));
            assert!(is_http2_control(frame + 29, false));
        }
        assert!(is_alert(2 + 22, true) && !is_http2_control(2 + 22, true));
        assert!(is_alert(2 + 29, false) && !is_http2_control(2 + 29, false));
        assert!(!is_http2_control(18 + 22, true) && !is_http2_control(18 + 29, false));
    }
}
