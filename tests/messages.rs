//! Error texts are an interface: every match that a caller's source makes on the words of its runtime.
//!
//! The callers look at the standard error, or at the last line of level `error` in the log. Both must have the words; runc
//! runs beside as the control, since the matches were written for it.

use std::fs;
use std::process::Stdio;

use serde_json::{Value, json};
use tests::{Bundle, Done, LIMIT, finish, left_nothing, require_root, runtimes, stage, stage_of};

/// What was done, how it ended, and the words that somebody looks for in it, of which one must be there.
struct Match {
    /// Who looks.
    source: &'static str,
    /// What is done that fails.
    act: fn(&mut Bundle) -> Done,
    words: &'static [&'static str],
}

const MATCHES: &[Match] = &[
    // containerd: cmd/containerd-shim-runc-v2/process/utils.go, checkKillError: the process is taken for ended.
    Match {
        source: "containerd kill",
        act: kill_stopped,
        words: &["os: process already finished", "container not running", "no such process"],
    },
    // … and the container for gone.
    Match { source: "containerd kill", act: kill_nobody, words: &["does not exist"] },
    // containerd: cmd/containerd-shim-runc-v2/process/init.go, delete: no error then.
    Match { source: "containerd delete", act: delete_nobody, words: &["does not exist"] },
    // docker: libcontainerd/remote/client.go, wrapError: "no such container" for its own callers.
    Match {
        source: "docker",
        act: delete_nobody,
        words: &["container does not exist", "not found", "no such container"],
    },
    Match {
        source: "docker",
        act: state_nobody,
        words: &["container does not exist", "not found", "no such container"],
    },
    Match {
        source: "docker",
        act: start_nobody,
        words: &["container does not exist", "not found", "no such container"],
    },
    Match {
        source: "docker",
        act: exec_nobody,
        words: &["container does not exist", "not found", "no such container"],
    },
    // docker: daemon/errors.go, translateContainerdStartErr: exit code 127, where the name of the program is there too.
    Match {
        source: "docker run",
        act: run_unknown_word,
        words: &["executable file not found", "no such file or directory"],
    },
    Match { source: "docker run", act: run_unknown_word, words: &["no-such-program"] },
    Match {
        source: "docker run",
        act: run_unknown_path,
        words: &["executable file not found", "no such file or directory"],
    },
    Match { source: "docker run", act: run_unknown_path, words: &["/bin/no-such-program"] },
    Match {
        source: "docker exec",
        act: exec_unknown_word,
        words: &["executable file not found", "no such file or directory"],
    },
    Match { source: "docker exec", act: exec_unknown_word, words: &["no-such-program"] },
    Match {
        source: "docker exec",
        act: exec_unknown_path,
        words: &["executable file not found", "no such file or directory"],
    },
    // … exit code 126.
    Match { source: "docker run", act: run_plain_file, words: &["permission denied"] },
    Match { source: "docker exec", act: exec_plain_file, words: &["permission denied"] },
    Match { source: "docker run", act: run_folder, words: &["permission denied", "is a directory"] },
    Match { source: "docker exec", act: exec_folder, words: &["permission denied", "is a directory"] },
    // … the hint that a folder was mounted on a file, or the other way round.
    Match { source: "docker run -v", act: mount_folder_on_file, words: &["not a directory"] },
    Match { source: "docker run -v", act: mount_file_on_folder, words: &["not a directory"] },
    // podman: libpod/oci_util.go, getOCIRuntimeError: exit code 127.
    Match {
        source: "podman run",
        act: run_unknown_word,
        words: &["executable file not found in", "no such file or directory"],
    },
    Match {
        source: "podman exec",
        act: exec_unknown_word,
        words: &["executable file not found in", "no such file or directory"],
    },
    Match {
        source: "podman exec",
        act: exec_unknown_path,
        words: &["executable file not found in", "no such file or directory"],
    },
    // … exit code 126.
    Match { source: "podman run", act: run_plain_file, words: &["permission denied", "operation not permitted"] },
    Match { source: "podman exec", act: exec_plain_file, words: &["permission denied", "operation not permitted"] },
    Match { source: "podman run", act: run_folder, words: &["permission denied", "operation not permitted"] },
    // podman: libpod/oci_conmon_common.go, UpdateContainerStatus: the container is taken for exited.
    Match { source: "podman state", act: state_nobody, words: &["does not exist", "No such file"] },
    // CRI-O: internal/oci/runtime_oci.go, runtimeCmd: not found.
    Match {
        source: "cri-o kill",
        act: kill_stopped,
        words: &["no such process", "container not running", "invalid process"],
    },
    // What people and scripts know of an image for another processor.
    Match { source: "all", act: run_no_program, words: &["exec format error"] },
    Match {
        source: "all",
        act: create_twice,
        words: &["already exists", "container with id exists", "container with given ID already exists"],
    },
];

/// Calls the runtime as containerd does.
fn logged(bundle: &Bundle, words: &[&str]) -> Done {
    let log = bundle.dir.join("log").to_string_lossy().into_owned();
    let mut command = bundle.command(&[&["--log", &log, "--log-format", "json"], words].concat());
    finish(command.stdin(Stdio::null()), LIMIT)
}

fn making(bundle: &mut Bundle, verb: &str, words: &[&str]) -> Done {
    bundle.args(words).write();
    logged(bundle, &[verb, "--bundle", &bundle.dir.to_string_lossy(), &bundle.id])
}

/// Makes files that are no programs.
fn files(bundle: &Bundle) {
    fs::write(bundle.rootfs().join("etc/plain"), "no program").unwrap();
    let garbage = bundle.rootfs().join("bin/garbage");
    fs::write(&garbage, [0, 1, 2, 3]).unwrap();
    fs::set_permissions(&garbage, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

fn inside(bundle: &mut Bundle, words: &[&str]) -> Done {
    files(bundle);
    bundle.start_sleeper();
    let done = logged(bundle, &[&["exec", &bundle.id], words].concat());
    bundle.delete_force().ok();
    done
}

fn run(bundle: &mut Bundle, words: &[&str]) -> Done {
    files(bundle);
    making(bundle, "run", words)
}

fn kill_stopped(bundle: &mut Bundle) -> Done {
    bundle.start_sleeper();
    bundle.kill("KILL").ok();
    bundle.becomes("stopped");
    let done = logged(bundle, &["kill", &bundle.id, "15"]);
    bundle.delete().ok();
    done
}

fn kill_nobody(bundle: &mut Bundle) -> Done {
    logged(bundle, &["kill", "--all", "nobody", "9"])
}

fn delete_nobody(bundle: &mut Bundle) -> Done {
    logged(bundle, &["delete", "nobody"])
}

fn state_nobody(bundle: &mut Bundle) -> Done {
    logged(bundle, &["state", "nobody"])
}

fn start_nobody(bundle: &mut Bundle) -> Done {
    logged(bundle, &["start", "nobody"])
}

fn exec_nobody(bundle: &mut Bundle) -> Done {
    logged(bundle, &["exec", "nobody", "true"])
}

fn run_unknown_word(bundle: &mut Bundle) -> Done {
    run(bundle, &["no-such-program"])
}

fn run_unknown_path(bundle: &mut Bundle) -> Done {
    run(bundle, &["/bin/no-such-program"])
}

fn run_plain_file(bundle: &mut Bundle) -> Done {
    run(bundle, &["/etc/plain"])
}

fn run_folder(bundle: &mut Bundle) -> Done {
    run(bundle, &["/etc"])
}

fn run_no_program(bundle: &mut Bundle) -> Done {
    run(bundle, &["/bin/garbage"])
}

fn exec_unknown_word(bundle: &mut Bundle) -> Done {
    inside(bundle, &["no-such-program"])
}

fn exec_unknown_path(bundle: &mut Bundle) -> Done {
    inside(bundle, &["/bin/no-such-program"])
}

fn exec_plain_file(bundle: &mut Bundle) -> Done {
    inside(bundle, &["/etc/plain"])
}

fn exec_folder(bundle: &mut Bundle) -> Done {
    inside(bundle, &["/etc"])
}

fn mount_folder_on_file(bundle: &mut Bundle) -> Done {
    mount(bundle, "/usr", "/etc/plain")
}

fn mount_file_on_folder(bundle: &mut Bundle) -> Done {
    mount(bundle, "/etc/hostname", "/root")
}

fn mount(bundle: &mut Bundle, source: &str, destination: &str) -> Done {
    let mount = json!({"type": "bind", "source": source, "destination": destination, "options": ["bind"]});
    bundle.set("/mounts/-", mount);
    let done = run(bundle, &["true"]);
    bundle.spec["mounts"].as_array_mut().unwrap().pop();
    done
}

fn create_twice(bundle: &mut Bundle) -> Done {
    making(bundle, "create", &["true"]).ok();
    let done = making(bundle, "create", &["true"]);
    bundle.delete_force().ok();
    done
}

/// The last line of level `error`.
fn reason(bundle: &Bundle) -> String {
    let text = fs::read_to_string(bundle.dir.join("log")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let last = lines.rev().find(|line| line["level"] == "error").unwrap_or_default();
    last["msg"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn every_word_that_a_caller_looks_for_is_there() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let ours = runtime.name() != "runc";
        let (mut bundle, host) = stage_of(runtime);
        let mut wrong = Vec::new();
        for Match { source, act, words } in MATCHES {
            let _ = fs::remove_file(bundle.dir.join("log"));
            let done = act(&mut bundle);
            assert!(!done.is_ok(), "{source}: {done}");
            let texts = [done.err.clone(), reason(&bundle)];
            // containerd's and docker's matches are lower-case on both sides.
            let found = |text: &String| words.iter().any(|word| text.contains(word));
            if !texts.iter().all(found) {
                wrong.push(format!("{source} looks for {words:?} in {texts:?}"));
            }
        }
        // A match that the control does not make is a wrong one. It tells of a garbled program only after its log.
        wrong.retain(|line: &String| ours || !line.starts_with("all looks for [\"exec format"));
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        left_nothing(&bundle, &host);
    }
}

/// podman decodes the whole file as one object, so that a second line hides the reason.
#[test]
fn a_plain_failure_is_one_line_in_the_log_and_one_on_the_standard_error() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let done = run_unknown_word(&mut bundle);
    let log = fs::read_to_string(bundle.dir.join("log")).unwrap();
    assert_eq!((log.lines().count(), done.err.lines().count()), (1, 1), "{log}{done}");
    left_nothing(&bundle, &host);
}

/// podman, buildah and containerd know these words and no others.
#[test]
fn the_states_of_a_life_are_those_of_the_specification() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let word = |bundle: &Bundle| {
            let state: Value = serde_json::from_str(&bundle.state().ok()).unwrap();
            (state["status"].as_str().unwrap().to_owned(), state["pid"].as_i64().unwrap() > 0)
        };
        bundle.args(&["sleep", "1000"]).create().ok();
        assert_eq!(word(&bundle), ("created".into(), true));
        bundle.start().ok();
        assert_eq!(word(&bundle), ("running".into(), true));
        bundle.call(&["pause", &bundle.id]).ok();
        assert_eq!(word(&bundle), ("paused".into(), true));
        bundle.call(&["resume", &bundle.id]).ok();
        bundle.kill("KILL").ok();
        bundle.becomes("stopped");
        assert_eq!(word(&bundle), ("stopped".into(), false));
        bundle.delete().ok();
        left_nothing(&bundle, &host);
    }
}
