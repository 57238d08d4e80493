//! The network stack of a jail.
#![forbid(unsafe_code)]

pub mod device;
pub mod link;
mod socket;

pub use link::Step;
