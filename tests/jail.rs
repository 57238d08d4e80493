//! Tests over the built binary: one file per subject.
#![allow(clippy::unwrap_used, reason = "in a test a panic with the line is the message")]

mod containerd;
mod default_root;
mod exec;
mod fault;
mod harness;
mod hooks;
mod input;
mod lifecycle;
mod mounts;
mod process;
mod pure_v2;
mod security;
mod survive;
