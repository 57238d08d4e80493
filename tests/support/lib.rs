//! What every test over the built binary, the fault injector and the benchmark share.
//!
//! A test makes a [`Bundle`], takes a [`Host`] snapshot, calls the runtime, and asserts that the host is as before.

mod bundle;
pub mod callers;
mod command;
mod dice;
mod host;
pub mod image;
pub mod machine;
pub mod mountinfo;
mod mutation;
pub mod processes;
mod room;
pub mod spec;
mod stage;
mod store;
pub mod terminal;
pub mod trace;
mod tree;
pub mod view;
mod wait;

pub use bundle::{Bundle, rootfs};
pub use command::{Done, LIMIT, Runtime, finish, jail};
pub use dice::Dice;
pub use host::Host;
pub use mutation::mutations;
pub use room::{Named, Room};
pub use stage::{left_nothing, running, running_of, runtimes, stage, stage_of};
pub use store::{entries, is_listed_as, listed};
pub use tree::{tree, walk};
pub use wait::{code, wait_for, within_limit};

/// Whether this test may go on: it runs as root. Otherwise it says that it was skipped, or fails where `CI=true`,
/// since in CI a skipped test is a test that nobody runs.
///
/// Use: `if !require_root() { return }`.
pub fn require_root() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "needs root, and in CI nothing is skipped");
    println!("skipped: needs root");
    false
}

/// Whether the program NAME is installed; a control test against a peer says so when it is not.
pub fn installed(name: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".to_string());
    let found = path.split(':').any(|folder| std::path::Path::new(folder).join(name).is_file());
    if !found {
        println!("skipped: {name} is not installed");
    }
    found
}

/// A word that no other test, process or run of the machine has: objects are told from foreign ones by it.
pub fn unique() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("jt{}x{}z", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
