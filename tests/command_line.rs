//! The command line: options that callers use, and verbs that make no jail.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use tests::{LIMIT, finish, installed, jail, left_nothing, require_root, runtimes, stage, stage_of};

#[test]
fn the_pid_file_names_process_1() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let file = bundle.dir.join("pid");
        bundle.args(&["sleep", "1000"]).create_with(&["--pid-file", &file.to_string_lossy()]).ok();
        assert_eq!(fs::read_to_string(&file).unwrap(), bundle.pid().unwrap().to_string());
        bundle.delete_force().ok();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_pid_file_that_cannot_be_written_undoes_the_create() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let file = bundle.dir.join("nowhere/pid");
        bundle.args(&["sleep", "1000"]).create_with(&["--pid-file", &file.to_string_lossy()]).fails();
        left_nothing(&bundle, &host);
    }
}

/// containerd still writes it so, and every parser of long options takes it for seven short ones.
#[test]
fn a_long_option_with_one_dash_is_accepted() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (bundle, host) = stage_of(runtime);
        bundle.run_with(&["-no-subreaper"]).ok();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn the_bundle_is_the_working_directory_where_none_is_named() {
    if !require_root() || !installed("runc") {
        return;
    }
    // The OCI door is open for a program of this name.
    let (bundle, host) = stage();
    bundle.write();
    let link = bundle.dir.join("runc");
    std::os::unix::fs::symlink(jail(), &link).unwrap();
    for program in [Path::new("runc"), &link] {
        let mut run = Command::new(program);
        run.arg("--root").arg(&bundle.root).args(["run", &bundle.id]).current_dir(&bundle.dir).stdin(Stdio::null());
        finish(&mut run, LIMIT).ok();
    }
    fs::remove_file(link).unwrap();
    left_nothing(&bundle, &host);
}

#[test]
fn a_dry_run_touches_nothing() {
    if !require_root() {
        return;
    }
    let (bundle, host) = stage();
    let plan = bundle.create_with(&["--dry-run"]).ok();
    assert!(plan.lines().any(|line| line == "host  clone process 1"), "{plan}");
    assert!(fs::read_dir(&bundle.root).unwrap().next().is_none(), "not even a cache");
    left_nothing(&bundle, &host);
}

#[test]
fn spec_writes_a_configuration_that_runs() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.call(&["spec", "--bundle", &bundle.dir.to_string_lossy()]).ok();
    let line = bundle.call(&["spec", "--bundle", &bundle.dir.to_string_lossy()]).fails();
    assert!(line.contains("exists"), "{line}");
    bundle.spec = serde_json::from_slice(&fs::read(bundle.dir.join("config.json")).unwrap()).unwrap();
    let cgroup = format!("/jail-test-{}", bundle.id);
    bundle.set("/process/terminal", false).set("/linux/cgroupsPath", cgroup).args(&["hostname"]);
    assert_eq!(bundle.run().ok(), "jail\n");
    left_nothing(&bundle, &host);
}
