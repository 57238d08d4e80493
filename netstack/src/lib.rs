//! The network stack of a jail.
#![forbid(unsafe_code)]

pub mod link;

pub use link::Step;
