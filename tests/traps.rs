//! The traps of real callers: what containerd, docker, podman and the kubelet were recorded to send.
//!
//! Where runc takes the words too, it runs beside.

use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};
use tests::{Bundle, LIMIT, finish, left_nothing, require_root, runtimes, stage, stage_of, within_limit};

/// What containerd, docker and podman send for an image of processes.
const CHECKPOINT: &[&[&str]] = &[
    &["--image-path", "D", "--work-path", "W", "--file-locks", "--leave-running"],
    &["--image-path", "D", "--work-path", "W", "--pre-dump", "--parent-path", "../pre", "--leave-running"],
    &["--image-path=D", "--work-path=W", "--tcp-established", "--leave-running", "--leave-running"],
    &["--ext-unix-sk", "--shell-job", "--manage-cgroups-mode", "soft", "--empty-ns", "network", "--auto-dedup"],
    &["--lazy-pages", "--status-fd", "3", "--page-server", "1.2.3.4:5"],
    &["--help"],
    &["-h"],
    &[],
];

/// The same for the way back.
const RESTORE: &[&[&str]] = &[
    &["--image-path", "D", "--work-path", "W", "--detach", "--pid-file", "P", "-no-subreaper", "--bundle", "B"],
    &["--bundle", "U", "--pid-file", "P", "--detach", "--image-path", "D", "--work-path", "U", "--tcp-established"],
    &[
        "--console-socket",
        "S",
        "--no-pivot",
        "--lsm-profile",
        "apparmor:x",
        "--lsm-mount-context",
        "y",
        "-d",
        "-b",
        "B",
    ],
    // podman asks so whether the flag is known.
    &["--lsm-mount-context"],
    &["--help"],
];

#[test]
fn checkpoint_and_restore_are_unsupported_in_one_line_whatever_comes_with_them() {
    let bundle = Bundle::new();
    for (verb, all) in [("checkpoint", CHECKPOINT), ("restore", RESTORE)] {
        for flags in all {
            let done = bundle.call(&[&[verb][..], flags, &[&bundle.id]].concat());
            assert!(done.out.is_empty(), "{done}");
            let line = done.fails();
            assert!(line.contains("unsupported"), "{line}");
            assert!(!line.contains("requires an argument") && !line.contains("needs an argument"), "{line}");
        }
    }
    let help = bundle.call(&["--help"]).ok();
    assert!(!help.contains("checkpoint") && !help.contains("restore"), "{help}");
    // Neither was a folder made nor a file.
    assert!(!bundle.dir.join("W").exists() && std::fs::read_dir(&bundle.root).unwrap().next().is_none());
}

#[test]
fn any_flag_may_be_given_twice() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.args(&["sleep", "1000"]).write();
    let dir = bundle.dir.to_string_lossy().into_owned();
    let twice = ["--debug", "--debug", "create", "--bundle", &dir, "-b", &dir, "--no-new-keyring", "--no-new-keyring"];
    bundle.call(&[&twice[..], &["--no-subreaper", "-no-subreaper", &bundle.id]].concat()).ok();
    bundle.start().ok();
    bundle.call(&["exec", "--cwd", "/tmp", "--cwd=/", "--no-new-privs", "--no-new-privs", &bundle.id, "true"]).ok();
    bundle.call(&["kill", "--all", "-a", &bundle.id, "9"]).ok();
    bundle.call(&["delete", "--force", "-f", "--force", &bundle.id]).ok();
    bundle.call(&["list", "-q", "--quiet", "--format", "json", "--format=table"]).ok();
    left_nothing(&bundle, &host);
}

#[test]
fn the_words_of_a_program_are_passed_on_as_they_are() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.start_sleeper();
        let words = ["echo", "-no-subreaper", "--debug", "-t", "--", "--help"];
        assert_eq!(bundle.exec(&words).ok(), "-no-subreaper --debug -t -- --help\n");
        bundle.delete_force().ok();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn delete_and_delete_by_force_may_follow_each_other() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.start_sleeper();
        bundle.call(&["kill", "--all", &bundle.id, "9"]).ok();
        bundle.becomes("stopped");
        bundle.delete().ok();
        let again = bundle.delete();
        assert!(!again.is_ok() && again.err.contains("does not exist"), "{again}");
        for _ in 0..2 {
            bundle.delete_force().ok();
        }
        left_nothing(&bundle, &host);
    }
}

#[test]
fn resources_come_on_the_standard_input_in_either_spelling() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.start_sleeper();
    for words in [&["--resources", "-"][..], &["--resources=-"], &["-r", "-"]] {
        let mut update = bundle.command(&[&["update"], words, &[&bundle.id]].concat());
        let update = update.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = update.spawn().unwrap();
        write!(child.stdin.take().unwrap(), "{{}}").unwrap();
        let done = within_limit(move || child.wait_with_output().unwrap());
        assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

#[test]
fn every_version_of_the_specification_that_starts_with_1_is_accepted() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    for version in ["1.0.0", "1.0.2-dev", "1.1.0+dev", "1.2.0", "1.2.1", "1.3.0", "1.99.0-rc.1"] {
        bundle.set("/ociVersion", version).run().ok();
    }
    for version in ["0.9.0", "2.0.0", "1", "1.x"] {
        assert!(bundle.set("/ociVersion", version).run().fails().contains("/ociVersion"), "{version}");
    }
    left_nothing(&bundle, &host);
}

/// Every object in the log, as containerd decodes it.
fn log(bundle: &Bundle) -> Vec<Value> {
    let text = std::fs::read_to_string(bundle.dir.join("log")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_reason_is_the_last_error_in_the_log() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let path = bundle.dir.join("log").to_string_lossy().into_owned();
        // docker's, containerd's and podman's order of the words.
        let global = ["--log", &path, "--log-format", "json"];
        bundle.args(&["/bin/nothing"]).write();
        let dir = bundle.dir.to_string_lossy().into_owned();
        bundle.call(&[&global[..], &["run", "--bundle", &dir, &bundle.id]].concat());
        bundle.call(&[&["--log-format=json", &format!("--log={path}")], &["state", "nobody"][..]].concat());
        let lines = log(&bundle);
        let last = |word: &str| {
            let found =
                lines.iter().rfind(|line| line["level"] == "error" && line["msg"].as_str().unwrap().contains(word));
            found.unwrap_or_else(|| panic!("no {word} in {lines:?}")).clone()
        };
        for line in [last("no such file or directory"), last("does not exist")] {
            let time = line["time"].as_str().unwrap();
            // time.Time of Go takes RFC 3339 and nothing else.
            assert!(time.len() >= 20 && time.as_bytes()[10] == b'T', "{line}");
            assert!(!line["msg"].as_str().unwrap().contains('\n'), "{line}");
        }
        assert_eq!(lines.last().unwrap()["level"], "error");
        bundle.delete_force();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn words_that_are_not_known_are_told_of_in_the_log_too() {
    let bundle = Bundle::new();
    let path = bundle.dir.join("log").to_string_lossy().into_owned();
    let done = bundle.call(&["--log", &path, "--log-format", "json", "create", "--of-a-later-version", &bundle.id]);
    assert_eq!(done.code(), Some(2), "{done}");
    let lines = log(&bundle);
    assert!(lines.len() == 1 && lines[0]["msg"].as_str().unwrap().contains("--of-a-later-version"), "{lines:?}");
}

#[test]
fn flags_that_cannot_be_carried_out_are_refused_by_name_with_the_reason() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    for (flags, reason) in [(&["--no-pivot"][..], "pivot_root"), (&["--preserve-fds", "9"], "not open")] {
        let line = bundle.create_with(flags).fails();
        assert!(line.contains(flags[0]) && line.contains(reason), "{line}");
    }
    bundle.start_sleeper();
    for (flags, name, reason) in
        [(&["--cgroup", "sub"][..], "--cgroup", "the jail itself"), (&["--ignore-paused"], "--ignore-paused", "frozen")]
    {
        let line = bundle.call(&[&["exec"], flags, &[&bundle.id, "true"]].concat()).fails();
        assert!(line.contains(name) && line.contains(reason), "{line}");
    }
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

/// go-runc parses three lines, docker looks for `commit:`, podman shows all of it.
#[test]
fn the_version_is_said_in_the_three_lines_that_callers_parse() {
    for runtime in runtimes() {
        let bundle = Bundle::of(runtime);
        for flag in ["--version", "-v"] {
            let out = bundle.call(&[flag]).ok();
            let lines: Vec<&str> = out.lines().take(3).collect();
            let [name, commit, spec] = lines[..] else { panic!("{out}") };
            assert!(name.split_once(" version ").is_some_and(|(_, version)| !version.is_empty()), "{out}");
            assert!(commit.starts_with("commit: ") && spec.starts_with("spec: 1."), "{out}");
        }
    }
}

#[test]
fn the_global_flags_of_callers_are_accepted() {
    let bundle = Bundle::new();
    for flags in [
        &["--rootless", "auto"][..],
        &["--rootless=true"],
        &["--rootless=false"],
        &["--criu", "/usr/sbin/criu"],
        &["--debug", "--log-format", "text"],
    ] {
        bundle.call(&[flags, &["list"]].concat()).ok();
    }
    assert_eq!(bundle.call(&["--rootless=perhaps", "list"]).code(), Some(2));
}

#[test]
fn spec_for_the_rootless_runs_in_a_user_name_space() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        finish(bundle.command(&["spec", "--rootless"]).current_dir(&bundle.dir), LIMIT).ok();
        let text = std::fs::read(bundle.dir.join("config.json")).unwrap();
        bundle.spec = serde_json::from_slice(&text).unwrap();
        let kinds = bundle.spec["linux"]["namespaces"].as_array().unwrap().clone();
        assert!(kinds.contains(&json!({"type": "user"})) && !kinds.contains(&json!({"type": "network"})), "{kinds:?}");
        let cgroup = format!("/jail-test-{}", bundle.id);
        bundle.set("/process/terminal", false).set("/linux/cgroupsPath", cgroup);
        let seen = bundle.script("id -u; cat /proc/self/uid_map; ls -d /sys/class");
        let words: Vec<&str> = seen.split_whitespace().collect();
        assert_eq!(words, ["0", "0", "0", "1", "/sys/class"]);
        left_nothing(&bundle, &host);
    }
}
