//! A runtime that is killed in the middle of its work: what it leaves is shown, and goes by force.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;
use tests::{
    Bundle, Dice, LIMIT, is_listed_as, left_nothing, listed, processes, require_root, running, stage, view, wait_for,
};

/// Starts a verb with a hook that never ends by itself, and kills the runtime when the hook runs.
fn interrupt(bundle: &mut Bundle, verb: &str, moment: &str) {
    let begun = bundle.dir.join("begun");
    let folder = bundle.dir.to_string_lossy().into_owned();
    bundle.set("/mounts/-", json!({"destination": folder, "type": "bind", "source": folder, "options": ["bind"]}));
    bundle.hook_that_waits(moment, &begun);
    let mut runtime = bundle.making(verb, &[]);
    let mut runtime = runtime.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the hook", || begun.exists());
    runtime.kill().unwrap();
    runtime.wait().unwrap();
}

/// Lets a hook that outlived its runtime go.
fn release(bundle: &Bundle) {
    fs::remove_file(bundle.dir.join("begun")).unwrap();
}

#[test]
fn a_create_that_is_killed_in_a_hook_is_broken_and_can_be_deleted() {
    if !require_root() {
        return;
    }
    for verb in ["create", "run"] {
        for moment in ["prestart", "createRuntime", "createContainer"] {
            let (mut bundle, host) = stage();
            interrupt(&mut bundle, verb, moment);
            wait_for("it is broken", || listed(&bundle).get(&bundle.id).is_some_and(|status| status == "broken"));
            assert!(bundle.delete().fails().contains("broken"));
            assert!(bundle.start().fails().contains("broken"));
            assert!(bundle.create().fails().contains("already exists"));
            bundle.delete_force().ok();
            release(&bundle);
            left_nothing(&bundle, &host);
        }
    }
}

#[test]
fn a_run_that_is_killed_in_a_hook_of_the_start_can_be_deleted() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    interrupt(&mut bundle, "run", "startContainer");
    listed(&bundle);
    bundle.delete_force().ok();
    release(&bundle);
    left_nothing(&bundle, &host);
}

/// Before a jail is created nothing may outlive the runtime that makes it.
#[test]
fn no_process_outlives_a_create_that_is_killed() {
    if !require_root() {
        return;
    }
    for moment in ["prestart", "createRuntime", "createContainer"] {
        let (mut bundle, _) = stage();
        interrupt(&mut bundle, "create", moment);
        let left = || processes::with_word(&bundle.id).into_iter().map(processes::name).collect::<Vec<_>>();
        let end = Instant::now() + LIMIT / 4;
        while !left().is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(left(), [""; 0], "after a kill in {moment}");
    }
}

#[test]
fn a_runtime_that_is_killed_during_create_leaves_no_process() {
    if !require_root() {
        return;
    }
    let mut dice = Dice(99);
    for _ in 0..60 {
        let mut bundle = Bundle::new();
        let mut create = bundle.args(&["sleep", "1000"]).making("create", &[]);
        let mut child = create.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(dice.roll(25_000)));
        let _ = child.kill();
        let status = child.wait().unwrap();
        let cgroup = bundle.spec["linux"]["cgroupsPath"].as_str().unwrap().to_string();
        let end = Instant::now() + Duration::from_secs(2);
        let mut created = false;
        while !processes::with_word(&cgroup).is_empty() && !created {
            created = status.success() || bundle.status().as_deref() == Some("created");
            assert!(created || Instant::now() < end, "{status}: {}", bundle.state());
        }
        bundle.delete_force().ok();
        assert!(processes::with_word(&cgroup).is_empty() && view::cgroups(&bundle.id).is_empty());
    }
}

#[test]
fn a_jail_outlives_the_run_that_is_killed() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.args(&["sleep", "1000"]);
    let mut run = bundle.run_in_background();
    bundle.becomes("running");
    run.kill().unwrap();
    run.wait().unwrap();
    is_listed_as(&bundle, "running");
    assert_eq!(bundle.exec(&["hostname"]).ok(), "jail\n");
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

/// A name can be taken again as soon as it is free, whatever was there.
#[test]
fn a_name_is_free_after_a_delete_by_force() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = running();
    fs::write(bundle.entry("state.json"), "garbage").unwrap();
    bundle.delete_force().ok();
    bundle.args(&["true"]).run().ok();
    interrupt(&mut bundle, "create", "createContainer");
    bundle.delete_force().ok();
    release(&bundle);
    bundle.remove("/hooks").run().ok();
    left_nothing(&bundle, &host);
}
