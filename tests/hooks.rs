//! Hooks: the order, what they are told, and what a failing one leaves.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tests::{Bundle, LIMIT, finish, left_nothing, require_root, runtimes, stage, stage_of, wait_for};

const MOMENTS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// A hook that runs a script of the shell; the words are `$1` and so on to it.
fn shell(script: &str, words: &[&str]) -> Value {
    let args = [&["sh", "-c", script, "hook"], words].concat();
    json!({"path": "/bin/sh", "args": args})
}

/// A folder for what hooks write, which the jail sees under the same path.
fn notes(bundle: &mut Bundle) -> String {
    let folder = bundle.dir.join("notes");
    fs::create_dir(&folder).unwrap();
    let folder = folder.to_string_lossy().into_owned();
    bundle.set("/mounts/-", json!({"destination": folder, "type": "bind", "source": folder, "options": ["bind"]}));
    folder
}

fn note(folder: &str, name: &str) -> String {
    fs::read_to_string(Path::new(folder).join(name)).unwrap_or_default()
}

#[test]
fn all_six_hooks_run_in_their_order() {
    if !require_root() {
        return;
    }
    // No control: Debian's runc runs the hooks of poststart with its create, its crun before those of the start.
    let (mut bundle, host) = stage();
    let folder = notes(&mut bundle);
    for moment in MOMENTS {
        for number in ["1", "2"] {
            let hook = shell("echo $2$3 >> $1/order", &[&folder, moment, number]);
            match bundle.spec["hooks"][moment].is_array() {
                true => bundle.set(&format!("/hooks/{moment}/-"), hook),
                false => bundle.set(&format!("/hooks/{moment}"), json!([hook])),
            };
        }
    }
    let order = || note(&folder, "order").split_whitespace().map(str::to_string).collect::<Vec<_>>();
    bundle.args(&["sh", "-c", &format!("echo program >> {folder}/order; exec sleep 1000")]).create().ok();
    let created =
        ["prestart1", "prestart2", "createRuntime1", "createRuntime2", "createContainer1", "createContainer2"];
    assert_eq!(order(), created);
    bundle.start().ok();
    wait_for("the program", || order().contains(&"program".to_string()));
    let mut started = order().split_off(created.len());
    assert_eq!(started[..2], ["startContainer1", "startContainer2"]);
    // The program and what follows its start run side by side.
    started.sort();
    assert_eq!(started, ["poststart1", "poststart2", "program", "startContainer1", "startContainer2"]);
    bundle.kill("KILL").ok();
    bundle.becomes("stopped");
    let before = order().len();
    bundle.delete().ok();
    assert_eq!(order().split_off(before), ["poststop1", "poststop2"]);
    left_nothing(&bundle, &host);
}

/// What createRuntime has set up outside, such as a network, only poststop can take down. Source: runtime.md, lifecycle.
#[test]
fn a_jail_whose_creation_or_start_fails_gets_its_poststop_hooks() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        for verb in ["create", "run"] {
            for (moment, script) in [("prestart", "exit 3"), ("createContainer", "exit 3"), ("poststart", "exit 0")] {
                let (mut bundle, host) = stage_of(runtime.clone());
                let folder = notes(&mut bundle);
                bundle.set("/hooks", json!({moment: [shell(script, &[])]}));
                bundle.set("/hooks/poststop", json!([shell("cat > $1/poststop", &[&folder])]));
                // Where the hook is well, the program is not there.
                bundle.args(&[if moment == "poststart" { "nosuch" } else { "true" }]).write();
                bundle.call(&[verb, "--bundle", &bundle.dir.to_string_lossy(), &bundle.id]).fails();
                let told: Value = serde_json::from_str(&note(&folder, "poststop")).unwrap_or_default();
                assert_eq!(told["status"], "stopped", "{verb}, {moment} of {}", runtime.name());
                left_nothing(&bundle, &host);
            }
        }
    }
}

#[test]
fn a_hook_sees_the_name_spaces_that_the_specification_says() {
    if !require_root() {
        return;
    }
    let own = fs::read_link("/proc/self/ns/mnt").unwrap();
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let folder = notes(&mut bundle);
        for moment in MOMENTS {
            let script = "readlink /proc/self/ns/mnt > $1/$2; test -e /etc/debian_version && echo host >> $1/$2; true";
            bundle.set(&format!("/hooks/{moment}"), json!([shell(script, &[&folder, moment])]));
        }
        bundle.run().ok();
        for moment in MOMENTS {
            let text = note(&folder, moment);
            let (space, root) = text.split_once('\n').unwrap_or((&text, ""));
            let inside = moment == "createContainer" || moment == "startContainer";
            assert_eq!(Path::new(space) == own, !inside, "name space of {moment}: {text}");
            // Before the change of root, the hook's own files are still the host's.
            assert_eq!(root == "host\n", moment != "startContainer", "root of {moment}: {text}");
        }
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_hook_has_the_environment_that_it_is_given_and_no_other() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let folder = notes(&mut bundle);
        for moment in MOMENTS {
            let mut hook = json!({"path": "/bin/busybox", "args": ["sh", "-c", format!("/bin/busybox tr '\\0' '\\n' < /proc/self/environ > {folder}/{moment}; pwd > {folder}/{moment}-cwd")]});
            hook["env"] = json!(["A=1", "B=two words", "C="]);
            bundle.set(&format!("/hooks/{moment}"), json!([hook]));
        }
        // What the image says must never reach a hook (CVE-2025-23266).
        bundle.set("/process/env/-", "LD_PRELOAD=/evil.so");
        let mut run = bundle.making("run", &[]);
        run.env("SECRET", "of the caller");
        let done = finish(&mut run, LIMIT);
        assert!(done.is_ok(), "{done}");
        for moment in MOMENTS {
            // A shell adds PWD and its kin only to what it starts.
            let text = note(&folder, moment);
            let lines: Vec<&str> = text
                .lines()
                .filter(|line| !["PWD=", "SHLVL=", "OLDPWD="].iter().any(|own| line.starts_with(own)))
                .collect();
            assert_eq!(lines, ["A=1", "B=two words", "C="], "{moment}");
        }
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_hook_reads_the_state_on_its_standard_input() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime.clone());
        let folder = notes(&mut bundle);
        bundle.set("/annotations/org.test", "yes");
        for moment in MOMENTS {
            bundle.set(&format!("/hooks/{moment}"), json!([shell("cat > $1/$2", &[&folder, moment])]));
        }
        bundle.args(&["sleep", "1000"]).create().ok();
        let pid = bundle.pid().unwrap();
        bundle.start().ok();
        bundle.kill("KILL").ok();
        bundle.becomes("stopped");
        bundle.delete().ok();
        for moment in MOMENTS {
            let state: Value =
                serde_json::from_str(&note(&folder, moment)).unwrap_or_else(|error| panic!("{moment}: {error}"));
            assert_eq!(state["id"], bundle.id[..], "{moment}");
            assert_eq!(state["bundle"], bundle.dir.to_string_lossy()[..], "{moment}");
            assert_eq!(state["annotations"]["org.test"], "yes", "{moment}");
            assert!(state["ociVersion"].is_string(), "{moment}");
            let status = state["status"].as_str().unwrap();
            let expected = match moment {
                "poststart" => &["running"][..],
                "poststop" => &["stopped"],
                "startContainer" => &["created"],
                _ => &["creating", "created"],
            };
            assert!(expected.contains(&status) || runtime.name() == "runc", "{moment}: {status}");
            if !["startContainer", "createContainer", "poststop"].contains(&moment) {
                assert_eq!(state["pid"], pid, "{moment}");
            }
        }
        left_nothing(&bundle, &host);
    }
}

/// What network hooks do: they find the jail's network by the pid.
#[test]
fn a_hook_can_reach_the_name_spaces_by_the_pid_it_is_told() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let folder = notes(&mut bundle);
        let script = "pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/'); readlink /proc/$pid/ns/net > $1/$2";
        for moment in ["prestart", "createRuntime", "poststart"] {
            bundle.set(&format!("/hooks/{moment}"), json!([shell(script, &[&folder, moment])]));
        }
        bundle.start_sleeper();
        let space = fs::read_link(format!("/proc/{}/ns/net", bundle.pid().unwrap())).unwrap();
        for moment in ["prestart", "createRuntime", "poststart"] {
            assert_eq!(note(&folder, moment).trim(), space.to_string_lossy(), "{moment}");
        }
        bundle.delete_force().ok();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_hook_that_fails_is_named_and_the_create_leaves_nothing() {
    if !require_root() {
        return;
    }
    for moment in ["prestart", "createRuntime", "createContainer"] {
        for (hook, word) in [
            (json!({"path": "/bin/sh", "args": ["sh", "-c", "exit 7"]}), "7"),
            (json!({"path": "/bin/sh", "args": ["sh", "-c", "kill -9 $$"]}), "9"),
            (json!({"path": "/no/such/hook"}), "/no/such/hook"),
        ] {
            let (mut bundle, host) = stage();
            let line = bundle.set(&format!("/hooks/{moment}"), json!([{"path": "/bin/true"}, hook])).create().fails();
            let place = format!("/hooks/{moment}/1");
            assert!(line.contains(&place) && line.contains(word), "{line}");
            left_nothing(&bundle, &host);
            assert!(bundle.run().fails().contains(&place));
            left_nothing(&bundle, &host);
        }
    }
}

#[test]
fn a_hook_that_fails_fails_the_create_of_runc_too() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        for moment in ["prestart", "createRuntime", "createContainer"] {
            let (mut bundle, host) = stage_of(runtime.clone());
            bundle.set(&format!("/hooks/{moment}"), json!([{"path": "/bin/false"}]));
            assert!(!bundle.create().is_ok());
            left_nothing(&bundle, &host);
        }
    }
}

#[test]
fn a_failing_hook_of_the_start_is_named_by_the_start() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.set("/hooks/startContainer", json!([{"path": "/bin/false"}])).create().ok();
    let line = bundle.start().fails();
    assert!(line.contains("/hooks/startContainer/0"), "{line}");
    bundle.becomes("stopped");
    bundle.delete().ok();
    left_nothing(&bundle, &host);
    assert!(bundle.run().fails().contains("/hooks/startContainer/0"));
    left_nothing(&bundle, &host);
}

/// The program runs, or is gone, already: the specification wants a warning.
#[test]
fn a_failing_hook_after_the_start_or_the_end_is_a_warning() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let fails = json!([{"path": "/bin/false"}, {"path": "/no/such/hook"}]);
    bundle.set("/hooks", json!({"poststart": fails, "poststop": fails})).args(&["sh", "-c", "exit 3"]);
    let done = bundle.run();
    assert_eq!(done.code(), Some(3), "{done}");
    for place in ["/hooks/poststart/0", "/hooks/poststart/1", "/hooks/poststop/0", "/hooks/poststop/1"] {
        let lines: Vec<&str> = done.err.lines().filter(|line| line.contains(place)).collect();
        assert!(matches!(lines[..], [line] if line.starts_with("jail: warning: ")), "{place}: {done}");
    }
    left_nothing(&bundle, &host);
}

#[test]
fn a_hook_that_takes_too_long_is_ended() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        for moment in ["prestart", "createRuntime", "createContainer"] {
            let (mut bundle, host) = stage_of(runtime.clone());
            let mut hook = shell("while :; do sleep 0.1; done", &[&bundle.id]);
            hook["timeout"] = json!(1);
            bundle.set(&format!("/hooks/{moment}"), json!([hook]));
            let done = bundle.create();
            assert!(done.code().is_some_and(|code| code != 0), "{done}");
            assert!(done.err.contains("time") || runtime.name() == "runc", "{done}");
            // The hook has the jail's name on its command line, and would be found.
            left_nothing(&bundle, &host);
        }
    }
}

/// The timeout is whole seconds, and many of them do not fit into the milliseconds of a sixteen-bit number.
#[test]
fn a_long_timeout_is_no_error() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    for timeout in [60_i64, 66, 100_000, i64::MAX] {
        bundle.set("/hooks/createRuntime", json!([{"path": "/bin/true", "timeout": timeout}])).run().ok();
    }
    left_nothing(&bundle, &host);
}

#[test]
fn a_hook_need_not_read_its_state_nor_close_its_output() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        // Larger than a pipe, so that whoever writes it has to notice that nobody reads.
        bundle.set("/annotations/big", "x".repeat(200_000));
        bundle.set("/hooks", json!({"createRuntime": [shell("exec <&-; exit 0", &[])]}));
        bundle.run().ok();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn the_arguments_of_a_hook_begin_with_its_name() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let folder = notes(&mut bundle);
        fs::write(bundle.dir.join("hook"), format!("#!/bin/sh\necho \"$#:$*\" > {folder}/args\n")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(bundle.dir.join("hook"), mode).unwrap();
        let path = bundle.dir.join("hook").to_string_lossy().into_owned();
        bundle.set("/hooks/createRuntime", json!([{"path": path, "args": ["zero", "one", "two words"]}])).run().ok();
        assert_eq!(note(&folder, "args"), "2:one two words\n");
        bundle.set("/hooks/createRuntime", json!([{"path": path}])).run().ok();
        assert_eq!(note(&folder, "args"), "0:\n");
        left_nothing(&bundle, &host);
    }
}

/// What users of the peers miss most: the reason is in what the hook itself says.
#[test]
fn a_hook_that_fails_is_quoted_in_the_one_line_of_the_error() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let script = "echo first >&2; echo 'no route: 10.0.0.1' >&2; printf 'give up\\033[31m\\n' >&2; exit 3";
    let say = |script: &str| json!([{"path": "/bin/true"}, {"path": "/bin/sh", "args": ["sh", "-c", script]}]);
    for moment in ["prestart", "createRuntime", "createContainer"] {
        let line = bundle.set(&format!("/hooks/{moment}"), say(script)).create().fails();
        let place = format!("run hook /hooks/{moment}/1 /bin/sh: exit status: 3: first; no route: 10.0.0.1; give up");
        assert!(line.contains(&place) && !line.contains('\x1b'), "{line}");
        bundle.remove("/hooks");
    }
    // In its last moments too, and what is long is cut at its begin.
    let long = "yes a line of many | head -n 100000 >&2; echo the end >&2; exit 1";
    let line = bundle.set("/hooks/createRuntime", say(long)).create().fails();
    assert!(line.trim_end().ends_with("a line of many; the end") && line.len() < 2000, "{line}");
    left_nothing(&bundle, &host);
}

#[test]
fn a_hook_that_never_stops_talking_or_leaves_somebody_talking_keeps_nobody_waiting() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let hook = |script: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 1}]);
    bundle.set("/hooks/createRuntime", hook("exec yes >&2"));
    let line = bundle.create().fails();
    assert!(line.contains("longer than its timeout: y; y"), "{line}");
    // More than a pipe holds, which nobody reads.
    let words = "x".repeat(300_000);
    bundle.set("/annotations", json!({ "long": words }));
    bundle.set("/hooks/createRuntime", hook("exec sleep 1000"));
    assert!(bundle.create().fails().contains("longer than its timeout"));
    bundle.set("/hooks/createRuntime", hook("(sleep 3; echo late >&2) & echo said >&2"));
    let begin = std::time::Instant::now();
    let done = bundle.run();
    assert!(begin.elapsed() < std::time::Duration::from_secs(3) && done.is_ok(), "{done}");
    assert_eq!(done.err, "said\n");
    tests::wait_for("the end of whom the hook left", || host.leaked().is_empty());
    left_nothing(&bundle, &host);
}
