//! Confinement: what a program in a jail may do. Everything is compiled outside; the jail's side only hands it over.
#![forbid(unsafe_code)]

pub mod cache;
pub mod caps;
pub mod confinement;
#[cfg(test)]
#[path = "../tests/kernel/mod.rs"]
mod kernel;
mod newcall;
pub mod profile;
mod prologue;
pub mod seccomp;
pub mod support;

pub use self::caps::{Caps, Reach};
pub use confinement::{Confinement, Step, plan};
pub use seccomp::Filter;
