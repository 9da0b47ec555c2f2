//! Board-free firmware logic around the Whit runtime: what a device does before, between and
//! around inferences, generic over embedded-hal traits.
//!
//! - [`SelfTest`] proves at start-up that this device computes what the laptop computed.
//! - [`WindowBuffer`] turns a stream of sensor samples into overlapping windows.
//! - [`Runner`] times each inference and raises a status pin when a deadline is missed.
//!
//! Nothing here allocates: capacities are in the types, and a session's memory is the caller's.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod runner;
mod self_test;
#[cfg(test)]
mod testing;
mod window;

pub use runner::{Clock, Runner, Timing};
pub use self_test::{SelfTest, SelfTestError};
pub use window::WindowBuffer;
