//! Tests over the built binary: one file per subject.

mod containerd;
mod harness;
mod input;
mod lifecycle;
mod mounts;
mod process;
