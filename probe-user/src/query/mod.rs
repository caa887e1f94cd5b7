//! What an operator may ask, and the asking.

pub mod client;
