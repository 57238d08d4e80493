//! `run`: what it gives back, in the foreground and detached.

use tests::{code, left_nothing, require_root, runtimes, stage, stage_of};

#[test]
fn run_gives_back_the_exit_code() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        for code in [0, 1, 7, 255] {
            let (mut bundle, host) = stage_of(runtime.clone());
            let done = bundle.args(&["sh", "-c", &format!("echo out; echo err >&2; exit {code}")]).run();
            assert_eq!(done.code(), Some(code), "{done}");
            assert_eq!((&done.out[..], &done.err[..]), ("out\n", "err\n"));
            left_nothing(&bundle, &host);
        }
    }
}

#[test]
fn run_gives_back_128_and_the_signal() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        // Process 1 of a pid name space is not ended by its own signals.
        let (mut bundle, host) = stage_of(runtime);
        bundle.remove("/linux/namespaces/0");
        let done = bundle.args(&["sh", "-c", "kill -TERM $$"]).run();
        assert_eq!(done.code(), Some(128 + libc::SIGTERM), "{done}");
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_jail_on_the_default_root_gives_back_its_exit_code() {
    if !require_root() {
        return;
    }
    let (bundle, host) = stage();
    let done = bundle.friendly(&["sh", "-c", "hostname; exit 5"]);
    assert_eq!((done.code(), done.out.trim()), (Some(5), &bundle.id[..]), "{done}");
    left_nothing(&bundle, &host);
}

#[test]
fn a_jail_that_is_killed_ends_its_run_with_137() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.args(&["sleep", "1000"]);
        let mut run = bundle.run_in_background();
        bundle.becomes("running");
        bundle.kill("KILL").ok();
        assert_eq!(code(&mut run), Some(137));
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_detached_run_comes_back_at_once() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.args(&["sleep", "1000"]).run_with(&["--detach"]).ok();
        assert_eq!(bundle.status().as_deref(), Some("running"));
        bundle.delete_force().ok();
        left_nothing(&bundle, &host);
    }
}

/// A peer loses the SIGCHLD of a program that ends at once, and waits for ever in 3 % of its runs.
#[test]
fn a_run_of_a_short_program_never_hangs() {
    if !require_root() {
        return;
    }
    let (bundle, host) = stage();
    for _ in 0..60 {
        bundle.run().ok();
    }
    left_nothing(&bundle, &host);
}
