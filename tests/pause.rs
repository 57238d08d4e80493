//! Pausing and resuming a jail, and what the other verbs do with a paused one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tests::{Bundle, Done, left_nothing, require_root, running, running_of, runtimes, stage, stage_of, view, wait_for};

/// A program that counts in /count for as long as it runs.
const COUNT: &str = "n=0; while :; do n=$((n + 1)); echo $n > /count; sleep 0.01; done";

/// Whether the counter goes on.
fn counts(bundle: &Bundle) -> bool {
    let count = || fs::read_to_string(bundle.rootfs().join("count")).unwrap_or_default();
    let before = count();
    std::thread::sleep(Duration::from_millis(200));
    count() != before
}

fn pause(bundle: &Bundle) -> Done {
    bundle.call(&["pause", &bundle.id])
}

fn resume(bundle: &Bundle) -> Done {
    bundle.call(&["resume", &bundle.id])
}

/// The jail's directory that has this file of a freezer.
fn freezer(bundle: &Bundle, file: &str) -> Option<PathBuf> {
    view::cgroups(&bundle.id).into_iter().find(|folder| folder.join(file).exists())
}

#[test]
fn a_paused_jail_stands_still_until_it_is_resumed() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.args(&["sh", "-c", COUNT]).create().ok();
        bundle.start().ok();
        wait_for("the counter", || bundle.rootfs().join("count").exists());
        let pid = bundle.pid();
        for _ in 0..3 {
            pause(&bundle).ok();
            assert_eq!((bundle.status().as_deref(), bundle.pid()), (Some("paused"), pid));
            assert!(bundle.list().ok().contains("paused"));
            assert!(!counts(&bundle), "it runs while it is paused");
            resume(&bundle).ok();
            assert_eq!((bundle.status().as_deref(), bundle.pid()), (Some("running"), pid));
            assert!(counts(&bundle), "it does not go on");
        }
        bundle.delete_force().ok();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn every_process_of_a_jail_is_paused() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        // Many short ones: what is born while the jail is being frozen stands still too.
        bundle.args(&["sh", "-c", "for n in 1 2 3 4; do while :; do : > /lives; true; sh -c :; done & done; wait"]);
        bundle.create().ok();
        bundle.start().ok();
        let lives = bundle.rootfs().join("lives");
        wait_for("the loops", || lives.exists());
        for _ in 0..5 {
            pause(&bundle).ok();
            fs::remove_file(&lives).unwrap();
            std::thread::sleep(Duration::from_millis(100));
            assert!(!lives.exists(), "one of them runs");
            resume(&bundle).ok();
            wait_for("the loops again", || lives.exists());
        }
        bundle.delete_force().ok();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn only_what_runs_is_paused_and_only_what_is_paused_is_resumed() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (bundle, host) = running_of(runtime);
        assert!(resume(&bundle).fails().contains("container not paused"));
        pause(&bundle).ok();
        assert!(pause(&bundle).fails().contains("container not running"));
        assert_eq!(bundle.status().as_deref(), Some("paused"), "the refusal has changed nothing");
        resume(&bundle).ok();
        bundle.kill("KILL").ok();
        bundle.becomes("stopped");
        assert!(pause(&bundle).fails().contains("container not running"));
        assert!(resume(&bundle).fails().contains("container not paused"));
        bundle.delete().ok();
        for verb in [pause(&bundle), resume(&bundle)] {
            assert!(verb.fails().contains("does not exist"));
        }
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_created_jail_can_be_paused_and_starts_only_when_it_is_resumed() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.args(&["sleep", "1000"]).create().ok();
        pause(&bundle).ok();
        assert_eq!(bundle.status().as_deref(), Some("paused"));
        assert!(bundle.start().fails().contains("paused"));
        resume(&bundle).ok();
        assert_eq!(bundle.status().as_deref(), Some("created"));
        bundle.start().ok();
        assert_eq!(bundle.status().as_deref(), Some("running"));
        bundle.delete_force().ok();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn an_exec_in_a_paused_jail_is_refused_at_once() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (bundle, host) = running_of(runtime);
        pause(&bundle).ok();
        let begin = Instant::now();
        assert!(bundle.exec(&["true"]).fails().contains("paused"));
        assert!(begin.elapsed() < Duration::from_secs(5));
        resume(&bundle).ok();
        bundle.exec(&["true"]).ok();
        bundle.delete_force().ok();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_paused_jail_dies_of_sigkill_and_gets_other_signals_when_it_is_resumed() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        for all in [false, true] {
            let (mut bundle, host) = stage_of(runtime.clone());
            bundle.args(&["sh", "-c", "trap ': > /usr1' USR1; : > /ready; while :; do sleep 0.01; done"]).create().ok();
            bundle.start().ok();
            wait_for("the trap", || bundle.rootfs().join("ready").exists());
            pause(&bundle).ok();
            bundle.kill("USR1").ok();
            assert_eq!(bundle.status().as_deref(), Some("paused"));
            std::thread::sleep(Duration::from_millis(50));
            assert!(!bundle.rootfs().join("usr1").exists());
            resume(&bundle).ok();
            wait_for("the signal", || bundle.rootfs().join("usr1").exists());
            pause(&bundle).ok();
            let options: &[&str] = if all { &["--all"] } else { &[] };
            bundle.call(&[&["kill"], options, &[&bundle.id, "KILL"]].concat()).ok();
            bundle.becomes("stopped");
            bundle.delete().ok();
            left_nothing(&bundle, &host);
        }
    }
}

#[test]
fn a_pause_at_the_same_time_does_not_keep_sigkill_back() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    // Many processes make the pause last.
    bundle.args(&["sh", "-c", "for n in $(seq 40); do sleep 1000 & done; exec sleep 1000"]);
    for delay in 0..15 {
        bundle.create().ok();
        bundle.start().ok();
        let mut pausing = bundle.command(&["pause", &bundle.id]).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        bundle.kill("KILL").ok();
        pausing.wait().unwrap();
        bundle.becomes("stopped");
        bundle.delete().ok();
    }
    left_nothing(&bundle, &host);
}

#[test]
fn a_paused_jail_is_deleted_by_force_only() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (bundle, host) = running_of(runtime);
        pause(&bundle).ok();
        assert!(bundle.delete().fails().contains("not stopped"));
        assert_eq!(bundle.status().as_deref(), Some("paused"));
        bundle.delete_force().ok();
        left_nothing(&bundle, &host);
    }
}

/// The status is the kernel's, whoever has frozen the jail, and with whichever of its freezers.
#[test]
fn a_jail_that_somebody_else_has_frozen_is_paused_and_can_be_resumed() {
    if !require_root() {
        return;
    }
    let (bundle, host) = running();
    for (file, text) in [("freezer.state", "FROZEN"), ("cgroup.freeze", "1")] {
        let Some(folder) = freezer(&bundle, file) else { continue };
        fs::write(folder.join(file), text).unwrap();
        bundle.becomes("paused");
        resume(&bundle).ok();
        assert_eq!(bundle.status().as_deref(), Some("running"));
        bundle.exec(&["true"]).ok();
    }
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

/// Another cgroup of the same place, made after the jail's own was removed behind our back, is not ours to stop.
#[test]
fn a_cgroup_without_the_mark_is_not_frozen() {
    if !require_root() {
        return;
    }
    let (bundle, host) = running();
    for (file, thawed) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
        let Some(folder) = freezer(&bundle, file) else { continue };
        let enter = |folder: &Path| fs::write(folder.join("cgroup.procs"), bundle.pid().unwrap().to_string()).unwrap();
        enter(folder.parent().unwrap());
        wait_for("the end of the cgroup", || fs::remove_dir(&folder).is_ok());
        fs::create_dir(&folder).unwrap();
        // On a host with another freezer that one is used, and with none the verb is refused.
        if pause(&bundle).is_ok() {
            resume(&bundle).ok();
        }
        assert_eq!(fs::read_to_string(folder.join(file)).unwrap().trim(), thawed);
        fs::remove_dir(&folder).unwrap();
    }
    assert!(pause(&bundle).fails().starts_with("jail: cannot "));
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

/// A fault in a page that nobody is going to fill, userfaultfd(2), taken in the middle of mlock(2), cannot be frozen.
const STUCK: &str = r#"my $u = syscall(323, 0); die "userfaultfd: $!" if $u < 0;
my $api = pack("QQQ", 0xAA, 0, 0); syscall(16, $u, 0xc018aa3f, $api);
my $page = syscall(9, 0, 4096, 3, 0x22, -1, 0);
my $register = pack("QQQQ", $page, 4096, 1, 0); syscall(16, $u, 0xc020aa00, $register);
open(my $ready, ">", "/ready"); syscall(149, $page, 4096);"#;

#[test]
fn a_jail_that_does_not_stand_still_runs_on_and_the_process_is_named() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.capabilities(&["CAP_SYS_PTRACE", "CAP_IPC_LOCK"]).perl(STUCK).create().ok();
    bundle.start().ok();
    wait_for("the system call", || bundle.rootfs().join("ready").exists());
    let pid = bundle.pid().unwrap();
    wait_for("state D", || fs::read_to_string(format!("/proc/{pid}/status")).unwrap().contains("State:\tD"));
    let line = pause(&bundle).fails();
    assert!(line.contains(&format!("{pid} (perl)")) && line.contains("state D"), "{line}");
    assert_eq!(bundle.status().as_deref(), Some("running"));
    for (file, thawed) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
        let Some(folder) = freezer(&bundle, file) else { continue };
        assert_eq!(fs::read_to_string(folder.join(file)).unwrap().trim(), thawed);
    }
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}
