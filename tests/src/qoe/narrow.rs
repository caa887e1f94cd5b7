//! A second place for viewers: a namespace behind the client's, whose kernel has little room for what
//! it receives, as a cheap television set. Room is given for a whole namespace and not for a path.

use anyhow::Result;

use crate::lab::link::{Lab, SERVER_V4};
use crate::lab::netns::Netns;
use crate::lab::process::output;
use crate::lab::relay::DEVICE;

/// Room of a socket there; the kernel offers about half of it as window.
const ROOM_BYTES: u32 = 12_000;
/// The device towards the client's namespace, and the one back.
pub const NARROW_DEVICE: &str = "narrow0";
/// The client's end of that link.
pub const GATEWAY: &str = "10.79.0.1";
/// Its own address on that link.
pub const NARROW: &str = "10.79.0.2";

/// Makes the namespace and joins it to the lab.
///
/// # Errors
/// `ip` fails.
pub fn join(lab: &Lab) -> Result<Netns> {
    let narrow = Netns::new(&format!("{}-narrow", lab.client.name()))?;
    let pair = [
        "link",
        "add",
        NARROW_DEVICE,
        "netns",
        lab.client.name(),
        "type",
        "veth",
        "peer",
        "name",
        NARROW_DEVICE,
        "netns",
        narrow.name(),
    ];
    output("ip", &pair)?;
    for (netns, address) in [(&lab.client, GATEWAY), (&narrow, NARROW)] {
        netns.ip(&format!("addr add {address}/24 dev {NARROW_DEVICE}"))?;
        netns.ip(&format!("link set {NARROW_DEVICE} up"))?;
    }
    narrow.ip(&format!("route add default via {GATEWAY}"))?;
    lab.client.sysctl("net/ipv4/ip_forward", "1")?;
    lab.server.ip(&format!(
        "route add 10.79.0.0/24 dev {DEVICE} src {SERVER_V4}"
    ))?;
    narrow.sysctl("net/ipv4/tcp_moderate_rcvbuf", "0")?;
    narrow.sysctl(
        "net/ipv4/tcp_rmem",
        &format!("4096 {ROOM_BYTES} {ROOM_BYTES}"),
    )?;
    Ok(narrow)
}
