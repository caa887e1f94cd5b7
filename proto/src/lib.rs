//! The wire: messages and services generated from `weir/v1/*.proto`.

/// Version 1 of the wire.
pub mod v1 {
    #![allow(
        clippy::all,
        clippy::pedantic,
        missing_debug_implementations,
        unreachable_pub
    )]
    tonic::include_proto!("weir.v1");
}
