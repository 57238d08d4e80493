//! The short sweep of the fault injector; `make fault` does a longer one.

use std::process::Command;
use std::time::Duration;

use tests::machine::{Cgroups, Machine};
use tests::{finish, require_root};

fn sweep(words: &[&str]) {
    if !require_root() {
        return;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_fault"));
    command.arg("sweep").args(words);
    println!("{}", finish(&mut command, Duration::from_secs(400)).ok());
}

#[test]
fn a_runtime_that_is_killed_leaves_nothing_behind_one_delete() {
    sweep(&["--verb", "create,start,exec,delete", "--mode", "main,tree", "--every", "17"]);
}

#[test]
fn a_system_call_that_fails_leaves_nothing_and_one_line() {
    sweep(&["--verb", "create,start,exec,delete", "--mode", "EIO", "--every", "13"]);
}

#[test]
fn a_system_call_of_process_1_that_fails_leaves_nothing_and_one_line() {
    sweep(&["--verb", "create,exec", "--mode", "EIO", "--side", "child", "--every", "17"]);
    sweep(&["--verb", "start", "--mode", "EIO", "--side", "child", "--every", "7"]);
}

#[test]
fn a_fault_with_a_scope_of_systemd_leaves_neither_scope_nor_cgroup() {
    if Machine::start(Cgroups::V2).is_some() {
        sweep(&["--systemd", "v2", "--verb", "create,delete", "--mode", "main,EIO", "--every", "23"]);
    }
}
