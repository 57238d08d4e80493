//! The life of a jail from `create` to `delete`, in the words and with the exit codes that callers of runc know.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use tests::trace::{self, Act, Follow};
use tests::{
    Bundle, Host, LIMIT, finish, jail, left_nothing, processes, require_root, runtimes, stage, stage_of, view, wait_for,
};

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
        assert!(!processes::name(pid).contains("sleep 1000"), "the program runs before its start");
        bundle.start().ok();
        assert_eq!(bundle.status().as_deref(), Some("running"));
        assert_eq!(bundle.pid(), Some(pid), "process 1 became the program");
        wait_for("the program", || processes::name(pid).contains("sleep 1000"));
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
fn a_jail_starts_once() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.start_sleeper();
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
        bundle.start_sleeper();
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
fn a_jail_that_stops_freezes_or_multiplies_is_deleted_all_the_same() {
    if !require_root() {
        return;
    }
    let bomb = "f() { f | f & }; f 2>/dev/null; sleep 1000";
    for (name, program, shared) in [
        ("stop", "kill -STOP 1; for p in /proc/[0-9]*; do kill -STOP ${p#/proc/} 2>/dev/null; done; sleep 1000", false),
        ("bomb", bomb, false),
        ("bomb in the host's pids", bomb, true),
        ("freeze", "sleep 1000", false),
    ] {
        let mut bundle = Bundle::new();
        let host = Host::snapshot(&bundle.id, &[]);
        if shared {
            bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|space| space["type"] != "pid");
        }
        bundle.set("/linux/resources", json!({"pids": {"limit": 100}})).args(&["sh", "-c", program]).write();
        let dir = bundle.dir.to_string_lossy().into_owned();
        let quiet = "exec \"$@\" 2>/dev/null";
        let create = [
            quiet,
            "sh",
            &jail().to_string_lossy(),
            "--root",
            &bundle.root.to_string_lossy(),
            "create",
            "--bundle",
            &dir,
            &bundle.id,
        ]
        .map(str::to_string);
        finish(Command::new("sh").arg("-c").args(create), LIMIT).ok();
        bundle.start().ok();
        std::thread::sleep(Duration::from_millis(200));
        if name == "stop" {
            bundle.kill("STOP").ok();
        }
        if name == "freeze" {
            for folder in view::cgroups(&bundle.id) {
                let _ = fs::write(folder.join("freezer.state"), "FROZEN");
                let _ = fs::write(folder.join("cgroup.freeze"), "1");
            }
        }
        let begin = Instant::now();
        let done = bundle.delete_force();
        for folder in view::cgroups(&bundle.id) {
            let _ = fs::write(folder.join("freezer.state"), "THAWED");
        }
        assert!(done.is_ok() && begin.elapsed() < Duration::from_secs(5), "{name}: {done}");
        let left = host.leaked().into_iter().filter(|what| !what.contains("/.cache")).collect::<Vec<_>>();
        assert!(left.is_empty(), "{name}: {left:?}");
    }
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
    fs::copy("/bin/busybox", &program).unwrap();
    bundle.args(&["/bin/mine", "sleep", "1000"]).create().ok();
    fs::remove_file(&program).unwrap();
    assert!(bundle.start().fails().contains("/bin/mine"));
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

/// A table of files that is full for a moment, in the place where a verb asks whether process 1 lives.
#[test]
fn a_jail_that_cannot_be_looked_at_has_not_ended() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.start_sleeper();
    let pid = bundle.pid().unwrap();
    let mut blind = |call: &trace::Call| match trace::describe(call) {
        text if text.starts_with("open") && text.contains(&format!("/proc/{pid}/stat\"")) => Act::Fail(libc::ENFILE),
        _ => Act::Go,
    };
    let id = bundle.id.clone();
    for words in
        [&["delete", &id][..], &["kill", &id, "TERM"], &["exec", &id, "true"], &["pause", &id], &["state", &id]]
    {
        let traced = trace::run(&mut bundle.command(words), Follow::Main, None, LIMIT, &mut blind);
        let text = traced.done.fails();
        assert!(text.contains(&format!("/proc/{pid}/stat: file table overflow")), "{words:?}: {text}");
        assert_eq!((bundle.status().as_deref(), bundle.pid()), (Some("running"), Some(pid)), "{words:?}");
    }
    bundle.delete_force().ok();
    host.assert_unchanged();
}
