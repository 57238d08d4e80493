//! The descriptors that a caller asks to pass on, and no others.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::json;
use tests::{Bundle, Done, LIMIT, Runtime, finish, left_nothing, require_root, runtimes, stage, stage_of};

/// Calls RUNTIME for a caller with a file of his at 3 and another at 4, the host's root at 8, and these variables.
/// `LISTEN_PID=$$` stands for the number of the runtime.
fn call(runtime: &Runtime, bundle: &Bundle, variables: &str, words: &[&str]) -> Done {
    let script = format!("exec 3<\"$0/three\" 4<\"$0/four\" 8</; export OF_THE_HOST=mark {variables}; exec \"$@\"");
    for name in ["three", "four"] {
        fs::write(bundle.dir.join(name), name).unwrap();
    }
    let runtime = runtime.command(&bundle.root);
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(&bundle.dir).arg(runtime.get_program()).args(runtime.get_args());
    finish(command.args(words).stdin(Stdio::null()), LIMIT)
}

/// A program that says what it finds at 3 and 4, which numbers are open, and what it is told of them.
const SHOW: [&str; 3] = [
    "sh",
    "-c",
    "for fd in 3 4; do cat <&$fd && echo; done 2>/dev/null; for fd in 3 4 5 6 7 8 9; do test -e /proc/$$/fd/$fd && \
     echo open $fd; done; env | grep -e LISTEN -e HOST | sort; echo me=$$",
];

fn show(bundle: &mut Bundle) -> String {
    bundle.args(&SHOW).write();
    bundle.dir.to_string_lossy().into_owned()
}

#[test]
fn the_descriptors_that_are_asked_for_come_in_and_no_others() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime.clone());
        let dir = show(&mut bundle);
        let run = |count: &str| {
            call(&runtime, &bundle, "", &["run", "--preserve-fds", count, "--bundle", &dir, &bundle.id]).ok()
        };
        assert_eq!(run("2"), "three\nfour\nopen 3\nopen 4\nme=1\n");
        assert_eq!(run("1"), "three\nopen 3\nme=1\n");
        assert!(!run("0").contains("open"));
        left_nothing(&bundle, &host);
    }
}

#[test]
fn they_wait_with_a_created_jail_and_follow_exec() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime.clone());
        let script = format!("({}) > /out; exec sleep 1000", SHOW[2]);
        bundle.args(&["sh", "-c", &script]).write();
        let dir = bundle.dir.to_string_lossy().into_owned();
        call(&runtime, &bundle, "", &["create", "--preserve-fds", "2", "--bundle", &dir, &bundle.id]).ok();
        bundle.start().ok();
        let out = bundle.rootfs().join("out");
        tests::wait_for("the program's words", || fs::read_to_string(&out).is_ok_and(|text| text.contains("me=")));
        assert_eq!(fs::read_to_string(&out).unwrap(), "three\nfour\nopen 3\nopen 4\nme=1\n");
        let words = [&["exec", "--preserve-fds", "2", &bundle.id], &SHOW[..]].concat();
        let seen = call(&runtime, &bundle, "", &words).ok();
        assert!(seen.starts_with("three\nfour\nopen 3\nopen 4\nme="), "{seen}");
        bundle.delete_force().ok();
        left_nothing(&bundle, &host);
    }
}

/// sd_listen_fds(3): the first of them are sockets that systemd has opened.
#[test]
fn the_sockets_of_systemd_come_first_and_are_told_of() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let dir = show(&mut bundle);
    let told = "LISTEN_FDS=1 LISTEN_FDNAMES=web LISTEN_PID=$$";
    let id = bundle.id.clone();
    let run = ["run", "--bundle", &dir, "--preserve-fds", "1", &id];
    let seen = call(&Runtime::jail(), &bundle, told, &run).ok();
    let expected = "three\nfour\nopen 3\nopen 4\nLISTEN_FDNAMES=web\nLISTEN_FDS=1\nLISTEN_PID=1\nme=1\n";
    assert_eq!(seen, expected);
    // What the specification says of them is about other ones.
    bundle.set("/process/env", json!(["PATH=/bin", "LISTEN_FDS=7", "LISTEN_PID=5", "LISTEN_FDNAMES=x"]));
    bundle.write();
    assert_eq!(call(&Runtime::jail(), &bundle, told, &run).ok(), expected);
    bundle.start_sleeper();
    let words = [&["exec", &bundle.id], &SHOW[..]].concat();
    let seen = call(&Runtime::jail(), &bundle, told, &words).ok();
    let own = seen.lines().find_map(|line| line.strip_prefix("me=")).unwrap();
    assert!(seen.contains(&format!("LISTEN_PID={own}\n")) && seen.contains("open 3\n"), "{seen}");
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

#[test]
fn sockets_for_another_process_are_not_passed_on() {
    if !require_root() {
        return;
    }
    for runtime in [Runtime::jail(), Runtime::of("runc")] {
        if runtime.command("/".as_ref()).get_program() == "runc" && !tests::installed("runc") {
            continue;
        }
        let (mut bundle, host) = stage_of(runtime.clone());
        let dir = show(&mut bundle);
        for told in ["LISTEN_FDS=2 LISTEN_PID=1", "LISTEN_FDS=2", "LISTEN_PID=$$"] {
            let seen = call(&runtime, &bundle, told, &["run", "--bundle", &dir, &bundle.id]).ok();
            assert_eq!(seen, "me=1\n", "{told}");
        }
        left_nothing(&bundle, &host);
    }
}

#[test]
fn one_that_is_closed_is_refused_and_the_log_does_not_take_its_place() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let dir = show(&mut bundle);
    let log = bundle.dir.join("log").to_string_lossy().into_owned();
    let words = ["--log", &log, "run", "--preserve-fds", "3", "--bundle", &dir, &bundle.id];
    let line = call(&Runtime::jail(), &bundle, "", &words).fails();
    assert!(line.contains("descriptor 5") && fs::read_to_string(&log).unwrap().contains("descriptor 5 on"), "{line}");
    if tests::installed("runc") {
        // The control: there a file of the runtime's own came in.
        assert!(call(&Runtime::of("runc"), &bundle, "", &words).ok().contains("open 5\n"));
    }
    for (told, flags, expected) in [
        ("", &["--preserve-fds", "3"][..], "descriptor 5 on: it is not open, and --preserve-fds is 3"),
        ("", &["--preserve-fds", "4294967295"], "descriptor 5 on"),
        ("LISTEN_FDS=3 LISTEN_PID=$$", &[], "descriptor 5 on: it is not open, and LISTEN_FDS is 3"),
        ("LISTEN_FDS=4294967295 LISTEN_PID=$$", &["--preserve-fds", "4294967295"], "descriptor 5 on"),
        ("LISTEN_FDS=many LISTEN_PID=$$", &[], "LISTEN_FDS \"many\""),
        ("LISTEN_FDS=-1 LISTEN_PID=$$", &[], "LISTEN_FDS \"-1\""),
    ] {
        let words = [&["run", "--bundle", &dir], flags, &[&bundle.id]].concat();
        let line = call(&Runtime::jail(), &bundle, told, &words).fails();
        assert!(line.contains(expected), "{line}");
    }
    left_nothing(&bundle, &host);
}

#[test]
fn no_hook_gets_them() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.set("/process/noNewPrivileges", true);
    let seen = bundle.dir.join("seen").to_string_lossy().into_owned();
    let look = |to: &str| format!("for fd in 3 4; do test -e /proc/$$/fd/$fd && echo $fd >> {to}; done; true");
    let hook = |to: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", look(to)]}]);
    for (moment, to) in [
        ("createRuntime", &seen[..]),
        ("createContainer", &seen),
        ("startContainer", "/seen"),
        ("poststart", &seen),
        ("poststop", &seen),
    ] {
        bundle.set(&format!("/hooks/{moment}"), hook(to));
    }
    let dir = show(&mut bundle);
    let run = ["run", "--preserve-fds", "2", "--bundle", &dir, &bundle.id];
    assert_eq!(call(&Runtime::jail(), &bundle, "", &run).ok(), "three\nfour\nopen 3\nopen 4\nme=1\n");
    assert!(!bundle.dir.join("seen").exists() && !bundle.rootfs().join("seen").exists());
    left_nothing(&bundle, &host);
}

/// What the caller passes on is his to choose; the working directory is the specification's, and stays inside.
#[test]
fn a_folder_that_is_passed_on_is_no_working_directory() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.set("/process/cwd", "/proc/self/fd/8");
    let dir = show(&mut bundle);
    let script = "exec 3</ 4</ 5</ 6</ 7</ 8</; exec \"$@\"";
    let mut command = Command::new("sh");
    let jail = Runtime::jail().command(&bundle.root);
    command.args(["-c", script, "sh"]).arg(jail.get_program()).args(jail.get_args());
    command.args(["run", "--preserve-fds", "6", "--bundle", &dir, &bundle.id]).stdin(Stdio::null());
    let line = finish(&mut command, LIMIT).fails();
    assert!(line.contains("working directory") && line.contains("outside"), "{line}");
    left_nothing(&bundle, &host);
}
