//! The lab and what is shown in it.
//!
//! [`lab`] makes networks, servers, clients and captures out of real parts and takes them away
//! again; [`weir`] drives the `weir` binary as an operator would, [`truth`] compares what it says
//! with independent witnesses and [`qoe`] with real players, [`guest`] tries it on other kernels,
//! and [`demo`] shows it at work. Nothing here shares code with weir: a witness that did would
//! repeat its mistakes.

pub mod demo;
pub mod gate;
pub mod guest;
pub mod lab;
pub mod qoe;
pub mod record;
pub mod truth;
pub mod watched;
pub mod weir;
