//! Tests over the built binary: one file per subject.

mod harness;
mod input;
mod lifecycle;
