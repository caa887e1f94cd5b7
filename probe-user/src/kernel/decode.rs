//! From the bytes of a ring to a record, in place.

use probe_ebpf::record::{ABI_VERSION, Delivery, Header, SessionEnd, SessionStart, kind};

use super::{BackendKind, Record};

/// Looks at bytes as a record; [`Record::Malformed`] if they are none of this version.
pub fn record(bytes: &[u8]) -> Record<'_> {
    let Some(header) = bytes
        .get(..size_of::<Header>())
        .and_then(|bytes| bytemuck::try_from_bytes::<Header>(bytes).ok())
    else {
        return Record::Malformed;
    };
    if header.version != ABI_VERSION
        || usize::from(header.len) != bytes.len()
        || BackendKind::of(header).is_none()
    {
        return Record::Malformed;
    }
    match header.kind {
        kind::SESSION_START => bytemuck::try_from_bytes::<SessionStart>(bytes)
            .map_or(Record::Malformed, Record::SessionStart),
        kind::SESSION_END => bytemuck::try_from_bytes::<SessionEnd>(bytes)
            .map_or(Record::Malformed, Record::SessionEnd),
        kind::DELIVERY_END | kind::DELIVERY_LATE | kind::DELIVERY_PROGRESS => {
            bytemuck::try_from_bytes::<Delivery>(bytes).map_or(Record::Malformed, Record::Delivery)
        }
        _ => Record::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> SessionStart {
        SessionStart {
            header: Header {
                kind: kind::SESSION_START,
                version: ABI_VERSION,
                len: u16::try_from(size_of::<SessionStart>()).unwrap(),
                ..Header::default()
            },
            cookie: 7,
            ..SessionStart::default()
        }
    }

    #[test]
    fn a_record_is_read_in_place() {
        let start = start();
        let Record::SessionStart(read) = record(bytemuck::bytes_of(&start)) else {
            panic!("not a session's start");
        };
        assert_eq!(*read, start);
    }

    #[test]
    fn what_is_no_record_is_malformed() {
        let good = start();
        let mut other_version = good;
        other_version.header.version += 1;
        let mut other_kind = good;
        other_kind.header.kind = kind::DELIVERY_END;
        let mut other_backend = good;
        other_backend.header.backend = 99;
        for bytes in [
            bytemuck::bytes_of(&other_version),
            bytemuck::bytes_of(&other_kind),
            bytemuck::bytes_of(&other_backend),
            &bytemuck::bytes_of(&good)[..80],
            &bytemuck::bytes_of(&good)[..8],
            &[],
        ] {
            assert!(matches!(record(bytes), Record::Malformed));
        }
    }
}
