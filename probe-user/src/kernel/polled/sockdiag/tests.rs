use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};

use super::*;
use probe_ebpf::drive::state;

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = Vec::new();
    bytes.extend(len.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn message(family: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut raw = Message::zeroed();
    raw.family = family;
    raw.state = state::ESTABLISHED;
    raw.id.sport_be = 443_u16.to_be();
    raw.id.dport_be = 5000_u16.to_be();
    raw.id.src[..4].copy_from_slice(&[192, 0, 2, 1]);
    raw.id.dst[..4].copy_from_slice(&[198, 51, 100, 7]);
    raw.id.cookie = [0x22, 0x11];
    raw.write_queue = 99;
    let mut bytes = bytemuck::bytes_of(&raw).to_vec();
    bytes.extend(attributes.concat());
    bytes
}

#[test]
fn a_sockets_description_is_read_with_its_attributes() {
    let payload = message(
        AF_INET,
        &[
            attribute(8, b"x"),
            attribute(ATTRIBUTE_INFO, &[1; 240]),
            attribute(ATTRIBUTE_CGROUP_ID, &77_u64.to_ne_bytes()),
        ],
    );
    let seen = parse(&payload).unwrap();
    assert_eq!(seen.cookie, 0x11_0000_0022);
    assert_eq!(seen.endpoints.local_port, 443);
    assert_eq!(seen.endpoints.remote_port, 5000);
    assert_eq!(
        Ipv6Addr::from(seen.endpoints.remote_addr),
        Ipv4Addr::new(198, 51, 100, 7).to_ipv6_mapped()
    );
    assert_eq!(seen.write_queue_bytes, 99);
    assert_eq!(seen.cgroup, Some(77));
    assert!(seen.info.is_some());
}

#[test]
fn what_is_cut_short_is_read_as_far_as_it_goes_or_not_at_all() {
    let whole = message(
        AF_INET6,
        &[attribute(ATTRIBUTE_INFO, &[1; 240]), attribute(8, b"x")],
    );
    for len in 0..whole.len() {
        if let Some(seen) = parse(&whole[..len]) {
            assert!(len >= size_of::<Message>());
            assert_eq!(seen.endpoints.local_port, 443);
        }
    }
    assert_eq!(parse(&message(1, &[])), None);
    assert!(messages(&[1, 2, 3]).next().unwrap().is_err());
    assert!(messages(&[]).next().is_none());
}

#[test]
fn the_running_kernel_lists_a_session_and_tells_of_its_end() {
    let farewells = Farewells::open().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, peer) = listener.accept().unwrap();
    let mut buffer = Buffer::new();
    let mut asker = Asker::open().unwrap();
    let mut found = Vec::new();
    asker
        .each(
            FAMILIES[0],
            states::OPEN | states::LISTEN,
            &mut buffer,
            |seen| {
                if seen.endpoints.local_port == port {
                    found.push(seen);
                }
            },
        )
        .unwrap();
    let is_listener = |seen: &Seen| seen.state == state::LISTEN;
    assert!(found.iter().any(is_listener), "{found:?}");
    found.retain(|seen| !is_listener(seen));
    assert_eq!(found.len(), 1, "{found:?}");
    let session = found[0];
    assert_eq!(session.state, state::ESTABLISHED);
    assert_eq!(session.endpoints.remote_port, peer.port());
    assert!(session.info.is_some());

    drop(client);
    drop(accepted);
    let mut last = None;
    let mut pollfd = [nix::poll::PollFd::new(
        farewells.as_fd(),
        nix::poll::PollFlags::POLLIN,
    )];
    while last.is_none() {
        assert_eq!(nix::poll::poll(&mut pollfd, 5000_u16), Ok(1), "no farewell");
        farewells
            .each(
                usize::MAX,
                &mut buffer,
                || panic!("overflowed"),
                |seen| {
                    if seen.cookie == session.cookie {
                        last = Some(seen);
                    }
                },
            )
            .unwrap();
    }
    let last = last.unwrap();
    assert_eq!(last.state, state::CLOSE);
    assert_eq!(last.endpoints, session.endpoints);
    // Nothing was sent but, by each side, its FIN.
    let info = last.info.unwrap();
    assert!(
        info.bytes_acked <= 1 && info.bytes_received <= 1,
        "{info:?}"
    );
    assert_eq!(info.bytes_sent_once(), 0);
}
