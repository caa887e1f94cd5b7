//! Real parts on one machine: namespaces, a link that can be spoiled, servers, clients, captures.
//!
//! Everything a lab makes is named by its process, goes away when its handle is dropped, on a
//! panic and on SIGINT or SIGTERM, and is swept up by the next run after a SIGKILL.

pub mod agent;
pub mod capture;
pub mod cleanup;
pub mod client;
pub mod counters;
pub mod haproxy;
pub mod link;
pub mod nats;
pub mod netns;
pub mod nginx;
pub mod paths;
pub mod process;
pub mod prometheus;
pub mod relay;
pub mod server;
pub mod shaper;
