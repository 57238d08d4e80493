//! The system calls that `nix` lacks, each with its man page and the reason why it is safe, and the error type.
//!
//! This is the only crate with `unsafe` in it.

pub mod bpf;
pub mod entry;
pub mod error;
pub mod file;
pub mod mount;
pub mod process;
pub mod schedule;
pub mod user;

pub use error::{Doing, Error, Kind, Result};
pub use process::Child;
