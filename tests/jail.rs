//! Tests over the built binary: one file per subject, whose first line says what is in it.
//!
//! Where Debian's crun or runc has the bug that a test is about, a control shows that the test would see it.
#![allow(clippy::unwrap_used, reason = "in a test a panic with the line is the message")]

mod caller;
mod clocks;
mod command_line;
mod containerd;
mod damage;
mod default_root;
mod descriptors;
mod devices;
mod escape;
mod events;
mod exec;
mod fault;
mod features;
mod filter;
mod harness;
mod hooks;
mod idmap;
mod image;
mod input;
mod interruption;
mod kernel;
mod labels;
mod lifecycle;
mod listener;
mod many;
mod masks;
mod messages;
mod mount_options;
mod mounts;
mod mutation;
mod name_spaces;
mod net_devices;
mod notify;
mod ownership;
mod pause;
mod privilege;
mod process;
mod ps;
mod pure_v2;
mod races;
mod resources;
mod run;
mod scheduling;
mod signals;
mod store;
mod strangers;
mod stuck;
mod systemd;
mod terminal;
mod tmpcopyup;
mod traps;
mod update;
