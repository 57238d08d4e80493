//! The processes of a jail, as `ps` shows them.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tests::{Bundle, left_nothing, require_root, runtimes, stage_of, view, wait_for};

/// The numbers that `ps --format json` shows.
#[track_caller]
fn numbers(bundle: &Bundle) -> Vec<i32> {
    let text = bundle.call(&["ps", "--format", "json", &bundle.id]).ok();
    let list: Value = serde_json::from_str(&text).unwrap();
    list.as_array().map(Vec::as_slice).unwrap_or_default().iter().map(|pid| pid.as_i64().unwrap() as i32).collect()
}

/// The numbers in column PID of a table.
fn column(table: &str) -> Vec<i32> {
    let column = table.lines().next().unwrap().split_whitespace().position(|word| word == "PID").unwrap();
    table.lines().skip(1).map(|line| line.split_whitespace().nth(column).unwrap().parse().unwrap()).collect()
}

/// A jail with three processes.
fn three(bundle: &mut Bundle) {
    bundle.args(&["sh", "-c", "sleep 1000 & sleep 1000 & : > /ready; wait"]).create().ok();
    bundle.start().ok();
    wait_for("the children", || bundle.rootfs().join("ready").exists());
}

#[test]
fn ps_shows_the_processes_of_the_jail_by_their_numbers_on_the_host() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        three(&mut bundle);
        let pids = numbers(&bundle);
        assert!(pids.len() == 3 && pids.contains(&bundle.pid().unwrap()), "{pids:?}");
        for pid in &pids {
            let word = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
            assert!(word.contains(&bundle.id), "{word}");
        }
        bundle.delete_force().ok();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn ps_shows_the_table_of_the_hosts_own_ps() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        three(&mut bundle);
        let pids = numbers(&bundle);
        let table = bundle.call(&["ps", &bundle.id]).ok();
        assert!(table.starts_with("UID") && table.contains("sleep 1000"), "{table}");
        assert_eq!(column(&table), pids);
        let table = bundle.call(&["ps", &bundle.id, "-o", "comm,pid"]).ok();
        assert!(table.lines().count() <= 4 && !table.contains("UID"), "{table}");
        bundle.call(&["ps", &bundle.id, "-eo", "comm"]).fails();
        bundle.call(&["ps", &bundle.id, "-o", "nosuch"]).fails();
        bundle.delete_force().ok();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn options_of_ps_can_stand_behind_two_dashes() {
    if !require_root() {
        return;
    }
    // runc 1.1 gives the dashes to ps.
    let (mut bundle, host) = tests::stage();
    three(&mut bundle);
    let table = bundle.call(&["ps", &bundle.id, "--", "aux"]).ok();
    assert!(table.starts_with("USER"), "{table}");
    assert_eq!(column(&table), numbers(&bundle));
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

#[test]
fn ps_finds_processes_in_cgroups_below() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        three(&mut bundle);
        let pids = numbers(&bundle);
        for folder in view::cgroups(&bundle.id) {
            fs::create_dir(folder.join("below")).unwrap();
            // A cpuset takes nobody before it has a CPU.
            let _ = fs::write(folder.join("below/cgroup.procs"), pids[2].to_string());
        }
        assert_eq!(numbers(&bundle), pids);
        bundle.delete_force().ok();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn ps_works_before_the_start_and_while_paused_and_shows_nothing_after_the_end() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.args(&["sleep", "1000"]).create().ok();
        assert_eq!(numbers(&bundle), [bundle.pid().unwrap()]);
        bundle.start().ok();
        bundle.call(&["pause", &bundle.id]).ok();
        assert_eq!(numbers(&bundle), [bundle.pid().unwrap()]);
        bundle.kill("KILL").ok();
        bundle.becomes("stopped");
        assert_eq!(numbers(&bundle), [0; 0]);
        assert_eq!(bundle.call(&["ps", &bundle.id]).ok().lines().count(), 1, "the header alone");
        bundle.delete().ok();
        assert!(bundle.call(&["ps", &bundle.id]).fails().contains("does not exist"));
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_host_without_ps_is_told_so_and_needs_none_for_the_numbers() {
    if !require_root() {
        return;
    }
    let (bundle, host) = tests::running();
    let call = |words: &[&str]| tests::finish(bundle.command(words).env("PATH", Path::new("/nowhere")), tests::LIMIT);
    assert_eq!(call(&["ps", &bundle.id]).fails(), "jail: cannot run ps: no such file or directory");
    call(&["ps", "--format", "json", &bundle.id]).ok();
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}
