//! Control groups of v1, v2 and both at once, through their file systems, and by systemd where that is asked for.
//!
//! [`plan`] says what to do, [`Step`] does it, [`object`] undoes it; [`process`] is about who is inside, and
//! [`freezer`] stops and wakes them. [`scope`] is all about systemd.
//! Sources: cgroups(7), the kernel's admin-guide/cgroup-v1 and admin-guide/cgroup-v2, the OCI runtime specification's
//! config-linux.
#![forbid(unsafe_code)]

mod bpf;
mod bus;
pub mod change;
mod device;
pub mod freezer;
pub mod holder;
pub mod layout;
mod limit;
mod machine;
mod name;
pub mod object;
pub mod oom;
mod owner;
pub mod plan;
pub mod process;
mod property;
mod realtime;
pub mod scope;
mod seat;
pub mod statistics;
pub mod step;

pub use layout::{Hierarchy, Layout};
pub use machine::look;
pub use plan::{join, plan};
pub use process::{contain, kill_all, processes, unreachable};
pub use step::Step;
