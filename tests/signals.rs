//! Signals: which process of a jail they reach, by `kill` and through a `run` in the foreground.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::processes::lives;
use tests::{code, left_nothing, require_root, runtimes, stage_of, wait_for};

#[test]
fn a_signal_has_a_name_and_a_number() {
    if !require_root() {
        return;
    }
    let script = "trap 'echo usr1 >> /got' USR1; trap 'echo hup >> /got' HUP; : > /ready; while :; do sleep 0.01; done";
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.args(&["sh", "-c", script]).create().ok();
        bundle.start().ok();
        wait_for("the traps", || bundle.rootfs().join("ready").exists());
        let mut expected = String::new();
        for (word, got) in
            [("USR1", "usr1\n"), ("SIGUSR1", "usr1\n"), ("10", "usr1\n"), ("sighup", "hup\n"), ("1", "hup\n")]
        {
            bundle.kill(word).ok();
            expected += got;
            wait_for(word, || fs::read_to_string(bundle.rootfs().join("got")).is_ok_and(|text| text == expected));
        }
        for word in ["NOPE", "SIG", "-3", "4711"] {
            bundle.call(&["kill", &bundle.id, "--", word]).fails();
        }
        assert_eq!(bundle.status().as_deref(), Some("running"));
        bundle.delete_force().ok();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn kill_sends_sigterm_unless_told_otherwise() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.args(&["sh", "-c", "trap 'exit 9' TERM; : > /ready; while :; do sleep 0.01; done"]);
        let mut run = bundle.run_in_background();
        wait_for("the trap", || bundle.rootfs().join("ready").exists());
        bundle.call(&["kill", &bundle.id]).ok();
        assert_eq!(code(&mut run), Some(9));
        left_nothing(&bundle, &host);
    }
}

#[test]
fn kill_all_reaches_every_process() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        // Process 1 of a pid name space ignores what it does not handle, so that only the others end.
        bundle
            .args(&["sh", "-c", "sleep 1000 & sleep 1000 & : > /ready; wait; : > /alone; exec sleep 1000"])
            .create()
            .ok();
        bundle.start().ok();
        wait_for("the children", || bundle.rootfs().join("ready").exists());
        bundle.call(&["kill", "--all", &bundle.id, "TERM"]).ok();
        wait_for("the end of the children", || bundle.rootfs().join("alone").exists());
        assert_eq!(bundle.status().as_deref(), Some("running"));
        bundle.call(&["kill", "--all", &bundle.id, "9"]).ok();
        bundle.becomes("stopped");
        // containerd sends it after the end too.
        bundle.call(&["kill", "--all", &bundle.id, "9"]).ok();
        bundle.delete().ok();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_run_in_the_foreground_passes_signals_on() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        for (signal, number) in [(Signal::SIGTERM, 42), (Signal::SIGHUP, 43), (Signal::SIGUSR2, 44)] {
            let (mut bundle, host) = stage_of(runtime.clone());
            let name = signal.as_str().trim_start_matches("SIG");
            let script = format!("trap 'exit {number}' {name}; : > /ready; while :; do sleep 0.01; done");
            bundle.args(&["sh", "-c", &script]);
            let mut run = bundle.run_in_background();
            wait_for("the trap", || bundle.rootfs().join("ready").exists());
            kill(Pid::from_raw(i32::try_from(run.id()).unwrap()), signal).unwrap();
            assert_eq!(code(&mut run), Some(number));
            left_nothing(&bundle, &host);
        }
    }
}

/// Without a pid name space no kernel ends what process 1 leaves behind.
#[test]
fn a_jail_that_shares_the_hosts_process_numbers_leaves_no_process() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.remove("/linux/namespaces/0");
        bundle.args(&["sh", "-c", "sleep 1000 & echo $! > /pid; exit 0"]).create().ok();
        bundle.start().ok();
        bundle.becomes("stopped");
        let pid: i32 = fs::read_to_string(bundle.rootfs().join("pid")).unwrap().trim().parse().unwrap();
        assert!(lives(pid), "the orphan is what this test is about");
        bundle.delete().ok();
        wait_for("the end of the orphan", || !lives(pid));
        left_nothing(&bundle, &host);
    }
}
