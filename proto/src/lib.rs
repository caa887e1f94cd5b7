//! The wire: messages and services generated from `weir/v1/*.proto`.
//!
//! Every message also serialises (serde) under the proto's own field names, with numbers as
//! numbers and enums as the words of [`words`]: what `-o json` prints.

pub mod words;

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

/// What others defined: Prometheus' remote write.
pub mod prometheus {
    #![allow(
        clippy::all,
        clippy::pedantic,
        missing_debug_implementations,
        unreachable_pub
    )]
    tonic::include_proto!("prometheus");
}
