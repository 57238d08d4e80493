//! The words that all other crates share. Nothing here has an effect.
#![forbid(unsafe_code)]

pub mod id;
pub mod object;
pub mod step;

pub use id::JailId;
pub use object::Object;
pub use step::{Ctx, Rank, Side};
