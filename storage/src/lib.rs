//! The root and the mounts of a jail.
//!
//! `plan` and `mounts` turn the specification into steps, `step` does them, and `beneath` is the only way to a path of the image.
//! `clone` fills the default root from the host by an allow list.
#![forbid(unsafe_code)]

mod allow;
pub mod beneath;
pub mod bind;
pub mod clone;
mod copy;
pub mod filesystem;
pub mod idmap;
mod mounts;
pub mod option;
pub mod plan;
pub mod step;

pub use plan::{Hierarchy, Request, plan};
pub use step::Step;
