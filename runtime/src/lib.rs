//! The hub: order, plan, process 1, store, life cycle.
#![forbid(unsafe_code)]

mod birth;
pub mod bundle;
mod channel;
mod check;
mod console;
pub mod create;
mod document;
pub mod events;
pub mod exec;
pub mod features;
pub mod foreground;
pub mod friendly;
mod hooks;
mod init;
pub mod jail;
mod journal;
mod label;
mod listener;
pub mod log;
mod namespace;
pub mod pause;
mod pid_file;
pub mod plan;
pub mod planner;
pub mod process;
pub mod program;
pub mod protect;
mod resctrl;
mod scheduling;
mod setting;
pub mod start;
pub mod store;
mod strict;
mod unfinished;
pub mod update;
