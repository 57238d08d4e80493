//! The life of a jail from `create` to `delete`, in the words and with the exit codes that callers of runc know.

use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::{Bundle, Done, Host, LIMIT, Runtime, installed, processes, require_root};

/// A bundle for the binary under test, and what the host was before anything was done with it.
pub(crate) fn stage() -> (Bundle, Host) {
    stage_of(Runtime::jail())
}

/// The same for another runtime.
pub(crate) fn stage_of(runtime: Runtime) -> (Bundle, Host) {
    let bundle = Bundle::of(runtime);
    let host = Host::snapshot(&bundle.id, &[]);
    (bundle, host)
}

/// The binary under test, and runc as the control: a test that runc fails too is a wrong test.
pub(crate) fn runtimes() -> Vec<Runtime> {
    let mut all = vec![Runtime::jail()];
    all.extend(installed("runc").then(|| Runtime::of("runc")));
    all
}

/// The names of jails in a store; what starts with a dot is the store's own.
pub(crate) fn entries(store: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(store) else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
}

/// Asserts that no jail is in the store and that the host is as before.
#[track_caller]
pub(crate) fn left_nothing(bundle: &Bundle, host: &Host) {
    assert_eq!(entries(&bundle.root), [""; 0], "the store is not empty");
    host.assert_unchanged();
}

/// Waits until a condition holds, or gives up after the usual limit.
#[track_caller]
pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < end, "never seen: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// `run` in the background, its output thrown away.
pub(crate) fn run_in_background(bundle: &Bundle) -> Child {
    bundle.write();
    let mut run = bundle.command(&["run", "--bundle", &bundle.dir.to_string_lossy(), &bundle.id]);
    run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// The exit code of a child that must end by itself.
#[track_caller]
pub(crate) fn code(child: &mut Child) -> Option<i32> {
    let mut status = None;
    wait_for("the end of the command", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.and_then(|status| status.code())
}

/// A process that runs or at least can be waited for.
pub(crate) fn lives(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists() && !processes::is_zombie(pid)
}

fn command_line(pid: i32) -> String {
    processes::name(pid)
}

#[test]
fn a_jail_is_created_and_started_and_stops_and_is_deleted() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.args(&["sleep", "1000"]).create().ok();
        assert_eq!(bundle.status().as_deref(), Some("created"));
        let pid = bundle.pid().expect("process 1");
        assert!(!command_line(pid).contains("sleep 1000"), "the program runs before its start");
        bundle.start().ok();
        assert_eq!(bundle.status().as_deref(), Some("running"));
        assert_eq!(bundle.pid(), Some(pid), "process 1 became the program");
        wait_for("the program", || command_line(pid).contains("sleep 1000"));
        bundle.kill("KILL").ok();
        bundle.becomes("stopped");
        assert_eq!(bundle.pid(), None);
        bundle.delete().ok();
        assert!(bundle.state().fails().contains("does not exist"));
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_program_that_ends_by_itself_leaves_a_stopped_jail() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.args(&["sh", "-c", "exit 3"]).create().ok();
        bundle.start().ok();
        bundle.becomes("stopped");
        bundle.delete().ok();
        left_nothing(&bundle, &host);
    }
}

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
fn a_jail_that_is_killed_ends_its_run_with_137() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.args(&["sleep", "1000"]);
        let mut run = run_in_background(&bundle);
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
        bundle.args(&["sleep", "1000"]).write();
        bundle.call(&["run", "--detach", "--bundle", &bundle.dir.to_string_lossy(), &bundle.id]).ok();
        assert_eq!(bundle.status().as_deref(), Some("running"));
        bundle.delete_force().ok();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn what_does_not_exist_is_refused_in_the_words_that_callers_match() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (bundle, host) = stage_of(runtime);
        let id = &bundle.id[..];
        for verb in [&["start", id][..], &["state", id], &["kill", id, "KILL"], &["delete", id], &["exec", id, "true"]]
        {
            let line = bundle.call(verb).fails();
            assert!(line.contains("does not exist"), "{verb:?}: {line}");
        }
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_name_is_given_once() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.args(&["sleep", "1000"]).create().ok();
        let pid = bundle.pid();
        assert!(bundle.create().fails().contains("already exists"));
        assert!(bundle.run().fails().contains("already exists"));
        assert_eq!((bundle.status().as_deref(), bundle.pid()), (Some("created"), pid), "the first one is untouched");
        bundle.delete_force().ok();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_jail_starts_once() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.args(&["sleep", "1000"]).create().ok();
        bundle.start().ok();
        bundle.start().fails();
        assert_eq!(bundle.status().as_deref(), Some("running"));
        bundle.kill("KILL").ok();
        bundle.becomes("stopped");
        assert!(bundle.start().fails().contains("stopped"));
        bundle.delete().ok();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_stopped_jail_takes_no_signal_and_no_exec() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (bundle, host) = stage_of(runtime.clone());
        bundle.create().ok();
        bundle.start().ok();
        bundle.becomes("stopped");
        assert!(bundle.kill("TERM").fails().contains("container not running"));
        let refused = bundle.exec(&["true"]).fails();
        assert!(refused.contains("not running") || runtime.name() == "runc", "{refused}");
        bundle.delete().ok();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_running_jail_is_not_deleted_without_force() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.args(&["sleep", "1000"]).create().ok();
        bundle.start().ok();
        assert!(bundle.delete().fails().contains("not stopped"));
        assert_eq!(bundle.status().as_deref(), Some("running"));
        bundle.delete_force().ok();
        left_nothing(&bundle, &host);
    }
}

/// containerd deletes a task that was never started with a plain `delete`; runc and crun end it then.
#[test]
fn a_created_jail_is_deleted_without_force() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.args(&["sleep", "1000"]).create().ok();
        bundle.delete().ok();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn delete_by_force_can_be_repeated() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.delete_force().ok();
        bundle.args(&["sleep", "1000"]).create().ok();
        bundle.delete_force().ok();
        bundle.delete_force().ok();
        bundle.create().ok();
        bundle.start().ok();
        bundle.delete_force().ok();
        bundle.delete_force().ok();
        left_nothing(&bundle, &host);
    }
}

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
            wait_for(word, || std::fs::read_to_string(bundle.rootfs().join("got")).is_ok_and(|text| text == expected));
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
        let mut run = run_in_background(&bundle);
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
        let pid: i32 = std::fs::read_to_string(bundle.rootfs().join("pid")).unwrap().trim().parse().unwrap();
        assert!(lives(pid), "the orphan is what this test is about");
        bundle.delete().ok();
        wait_for("the end of the orphan", || !lives(pid));
        left_nothing(&bundle, &host);
    }
}

fn parsed(done: Done) -> Value {
    serde_json::from_str(&done.ok()).expect("JSON")
}

#[test]
fn state_and_list_print_what_runc_prints() {
    if !require_root() || !installed("runc") {
        return;
    }
    let mut answers = Vec::new();
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.set("/annotations/org.test", "yes");
        bundle.args(&["sleep", "1000"]).create().ok();
        let (state, list) = (parsed(bundle.state()), parsed(bundle.call(&["list", "--format", "json"])));
        let pid = i64::from(bundle.pid().unwrap());
        for document in [&state, &list[0]] {
            assert_eq!(document["id"], bundle.id[..]);
            assert_eq!(document["pid"], pid);
            assert_eq!(document["bundle"], bundle.dir.to_string_lossy()[..]);
            assert_eq!(document["rootfs"], bundle.rootfs().to_string_lossy()[..]);
            assert_eq!(document["status"], "created");
            assert_eq!(document["annotations"]["org.test"], "yes");
        }
        let table = bundle.list().ok();
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines.len(), 2, "{table}");
        assert_eq!(lines[0], ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
        assert_eq!(lines[1][..3], [&bundle.id[..], &pid.to_string(), "created"]);
        assert_eq!(lines[1][5], "root");
        assert_eq!(bundle.call(&["list", "--quiet"]).ok(), format!("{}\n", bundle.id));
        bundle.start().ok();
        bundle.kill("KILL").ok();
        bundle.becomes("stopped");
        assert_eq!(parsed(bundle.state())["pid"], 0);
        assert_eq!(bundle.list().ok().lines().nth(1).map(|line| line.contains(" stopped ")), Some(true));
        bundle.delete().ok();
        left_nothing(&bundle, &host);
        let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        answers.push((keys(&state), keys(&list[0])));
    }
    assert_eq!(answers[0], answers[1], "the same keys");
}

#[test]
fn an_empty_store_and_none_at_all_list_nothing() {
    let (bundle, host) = stage();
    assert_eq!(bundle.list().ok().lines().count(), 1);
    assert_eq!(bundle.call(&["list", "--quiet"]).ok(), "");
    std::fs::remove_dir(&bundle.root).unwrap();
    assert_eq!(bundle.list().ok().lines().count(), 1);
    assert_eq!(bundle.call(&["list", "--format", "json"]).ok().trim(), "[]");
    assert!(!bundle.root.exists(), "list makes nothing");
    host.assert_unchanged();
}

#[test]
fn the_pid_file_names_process_1() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let file = bundle.dir.join("pid");
        bundle.args(&["sleep", "1000"]).write();
        let (dir, file_name) = (bundle.dir.to_string_lossy(), file.to_string_lossy());
        bundle.call(&["create", "--bundle", &dir, "--pid-file", &file_name, &bundle.id]).ok();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), bundle.pid().unwrap().to_string());
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
        bundle.args(&["sleep", "1000"]).write();
        let (dir, file) = (bundle.dir.to_string_lossy(), bundle.dir.join("nowhere/pid"));
        bundle.call(&["create", "--bundle", &dir, "--pid-file", &file.to_string_lossy(), &bundle.id]).fails();
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
        bundle.write();
        bundle.call(&["run", "-no-subreaper", "--bundle", &bundle.dir.to_string_lossy(), &bundle.id]).ok();
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
    std::os::unix::fs::symlink(tests::jail(), &link).unwrap();
    for program in [Path::new("runc"), &link] {
        let mut run = std::process::Command::new(program);
        run.arg("--root").arg(&bundle.root).args(["run", &bundle.id]).current_dir(&bundle.dir).stdin(Stdio::null());
        tests::finish(&mut run, LIMIT).ok();
    }
    std::fs::remove_file(link).unwrap();
    left_nothing(&bundle, &host);
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
            let mut run = run_in_background(&bundle);
            wait_for("the trap", || bundle.rootfs().join("ready").exists());
            kill(Pid::from_raw(i32::try_from(run.id()).unwrap()), signal).unwrap();
            assert_eq!(code(&mut run), Some(number));
            left_nothing(&bundle, &host);
        }
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

#[test]
fn a_program_that_is_missing_is_named_and_leaves_nothing() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        for program in ["nosuchprogram", "/bin/nosuchprogram"] {
            let (mut bundle, host) = stage_of(runtime.clone());
            let line = bundle.args(&[program]).run().fails();
            assert!(line.contains(program), "{line}");
            left_nothing(&bundle, &host);
        }
        // Docker makes exit code 127 of these words.
        let (mut bundle, host) = stage_of(runtime);
        assert!(bundle.args(&["nosuchprogram"]).create().fails().contains("executable file not found in $PATH"));
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_program_that_goes_after_the_create_is_named_by_the_start() {
    if !require_root() {
        return;
    }
    // runc's start succeeds here, and nobody is ever told.
    let (mut bundle, host) = stage();
    let program = bundle.rootfs().join("bin/mine");
    std::fs::copy("/bin/busybox", &program).unwrap();
    bundle.args(&["/bin/mine", "sleep", "1000"]).create().ok();
    std::fs::remove_file(&program).unwrap();
    assert!(bundle.start().fails().contains("/bin/mine"));
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

#[test]
fn a_hundred_jails_live_at_once() {
    if !require_root() {
        return;
    }
    let (first, host) = stage();
    let bundles: Vec<(Bundle, Host)> = (0..100)
        .map(|_| {
            let (mut bundle, host) = stage();
            // One store for all of them.
            bundle.root.clone_from(&first.root);
            bundle.args(&["sleep", "1000"]);
            (bundle, host)
        })
        .collect();
    let (start, created) = (Barrier::new(bundles.len()), Barrier::new(bundles.len()));
    let live = || {
        let table = first.list().ok();
        table.lines().filter(|line| line.contains(" running ")).count()
    };
    std::thread::scope(|scope| {
        for (bundle, _) in &bundles {
            scope.spawn(|| {
                start.wait();
                let made = bundle.create();
                let begun = made.is_ok().then(|| bundle.start());
                // Whoever fails must still let the others on.
                if created.wait().is_leader() {
                    assert_eq!(live(), bundles.len());
                }
                created.wait();
                let deleted = bundle.delete_force();
                made.ok();
                begun.expect("it was made").ok();
                deleted.ok();
            });
        }
    });
    for (bundle, host) in &bundles {
        left_nothing(bundle, host);
    }
    left_nothing(&first, &host);
}

#[test]
fn a_racing_create_has_one_winner() {
    if !require_root() {
        return;
    }
    const RACERS: usize = 30;
    for _ in 0..5 {
        let (mut bundle, host) = stage();
        bundle.args(&["sleep", "1000"]).write();
        let start = Barrier::new(RACERS);
        let done: Vec<Done> = std::thread::scope(|scope| {
            let create = || {
                start.wait();
                bundle.call(&["create", "--bundle", &bundle.dir.to_string_lossy(), &bundle.id])
            };
            let racers: Vec<_> = (0..RACERS).map(|_| scope.spawn(create)).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        let (winners, losers): (Vec<Done>, Vec<Done>) = done.into_iter().partition(Done::is_ok);
        for loser in losers {
            assert!(loser.fails().contains("already exists"));
        }
        assert_eq!(winners.len(), 1, "{winners:?}");
        assert_eq!(bundle.status().as_deref(), Some("created"));
        assert_eq!(processes::with_word(&bundle.id), [bundle.pid().unwrap()], "one process 1");
        bundle.start().ok();
        bundle.delete_force().ok();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn racing_deletes_all_succeed_by_force() {
    if !require_root() {
        return;
    }
    for _ in 0..5 {
        let (mut bundle, host) = stage();
        bundle.args(&["sleep", "1000"]).create().ok();
        bundle.start().ok();
        let start = Barrier::new(10);
        std::thread::scope(|scope| {
            for _ in 0..10 {
                scope.spawn(|| {
                    start.wait();
                    bundle.delete_force().ok();
                });
            }
        });
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_delete_that_races_with_a_start_leaves_nothing() {
    if !require_root() {
        return;
    }
    for _ in 0..20 {
        let (mut bundle, host) = stage();
        bundle.args(&["sleep", "1000"]).create().ok();
        let start = Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                let begun = bundle.start();
                assert!(begun.is_ok() || begun.err.lines().count() == 1, "{begun}");
            });
            start.wait();
            bundle.delete_force().ok();
        });
        left_nothing(&bundle, &host);
    }
}

/// What one jail leaves or changes another one must not see.
#[test]
fn a_name_can_be_used_again_at_once() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.args(&["sleep", "1000"]);
    for _ in 0..20 {
        bundle.create().ok();
        bundle.start().ok();
        bundle.delete_force().ok();
    }
    left_nothing(&bundle, &host);
}

#[test]
fn a_jail_on_the_default_root_gives_back_its_exit_code() {
    if !require_root() {
        return;
    }
    let (bundle, host) = stage();
    let done = bundle.call(&["run", &bundle.id, "--", "sh", "-c", "hostname; exit 5"]);
    assert_eq!((done.code(), done.out.trim()), (Some(5), &bundle.id[..]), "{done}");
    left_nothing(&bundle, &host);
}

#[test]
fn a_dry_run_touches_nothing() {
    if !require_root() {
        return;
    }
    let (bundle, host) = stage();
    bundle.write();
    let plan = bundle.call(&["create", "--dry-run", "--bundle", &bundle.dir.to_string_lossy(), &bundle.id]).ok();
    assert!(plan.lines().any(|line| line == "host  clone process 1"), "{plan}");
    assert!(std::fs::read_dir(&bundle.root).unwrap().next().is_none(), "not even a cache");
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
    bundle.spec = serde_json::from_slice(&std::fs::read(bundle.dir.join("config.json")).unwrap()).unwrap();
    let cgroup = format!("/jail-test-{}", bundle.id);
    bundle.set("/process/terminal", false).set("/linux/cgroupsPath", cgroup).args(&["hostname"]);
    assert_eq!(bundle.run().ok(), "jail\n");
    left_nothing(&bundle, &host);
}
