//! Another program in a running jail.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tests::terminal::{read_all, terminal_from, with_terminal};
use tests::{
    Bundle, Host, LIMIT, code, finish, left_nothing, processes, require_root, running, running_of, runtimes, stage,
    stage_of, wait_for, within_limit,
};

#[track_caller]
fn end(bundle: &Bundle, host: &Host) {
    assert_eq!(bundle.status().as_deref(), Some("running"), "an exec is nothing to the jail");
    bundle.delete_force().ok();
    left_nothing(bundle, host);
}

/// `exec` of these words, with options before the name.
fn exec_with(bundle: &Bundle, options: &[&str], words: &[&str]) -> tests::Done {
    bundle.call(&[&["exec"], options, &[&bundle.id[..]], words].concat())
}

/// A document for `--process`.
fn document(bundle: &Bundle, value: &Value) -> String {
    let path = bundle.dir.join("process.json");
    fs::write(&path, value.to_string()).unwrap();
    path.to_string_lossy().into_owned()
}

#[test]
fn exec_gives_back_output_and_exit_code() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (bundle, host) = running_of(runtime);
        for code in [0, 1, 42, 255] {
            let done = bundle.exec(&["sh", "-c", &format!("echo out; echo err >&2; exit {code}")]);
            assert_eq!((done.code(), &done.out[..], &done.err[..]), (Some(code), "out\n", "err\n"), "{done}");
        }
        let done = bundle.exec(&["sh", "-c", "kill -KILL $$"]);
        assert_eq!(done.code(), Some(128 + libc::SIGKILL), "{done}");
        end(&bundle, &host);
    }
}

#[test]
fn exec_joins_every_name_space() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.set("/linux/namespaces/-", json!({"type": "cgroup"}));
        bundle.start_sleeper();
        let pid = bundle.pid().unwrap();
        for kind in ["pid", "mnt", "uts", "ipc", "net", "cgroup", "user"] {
            let inside = bundle.exec(&["readlink", &format!("/proc/self/ns/{kind}")]).ok();
            let outside = fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
            assert_eq!(Path::new(inside.trim()), outside);
        }
        assert_eq!(bundle.exec(&["hostname"]).ok(), "jail\n");
        assert!(
            bundle
                .exec(&["ps"])
                .ok()
                .lines()
                .any(|line| line.trim_start().starts_with("1 ") && line.contains("sleep 1000"))
        );
        end(&bundle, &host);
    }
}

#[test]
fn exec_is_in_the_cgroups_of_the_jail() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (bundle, host) = running_of(runtime);
        let of_jail = fs::read_to_string(format!("/proc/{}/cgroup", bundle.pid().unwrap())).unwrap();
        assert!(of_jail.contains(&bundle.id), "{of_jail}");
        assert_eq!(bundle.exec(&["cat", "/proc/self/cgroup"]).ok(), of_jail);
        end(&bundle, &host);
    }
}

#[test]
fn exec_is_confined_as_the_program_is() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime.clone());
        bundle.capabilities(&["CAP_CHOWN", "CAP_KILL"]);
        bundle.set("/process/noNewPrivileges", true).set("/process/oomScoreAdj", 321);
        bundle.set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 100}]));
        bundle.set(
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}),
        );
        bundle.start_sleeper();
        let lines = |text: String| -> Vec<String> {
            let same =
                ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp:", "Uid", "Gid", "Groups"];
            text.lines().filter(|line| same.iter().any(|key| line.starts_with(key))).map(str::to_string).collect()
        };
        let program = lines(fs::read_to_string(format!("/proc/{}/status", bundle.pid().unwrap())).unwrap());
        assert_eq!(lines(bundle.exec(&["cat", "/proc/self/status"]).ok()), program);
        assert!(!bundle.exec(&["mkdir", "/tmp/new"]).is_ok());
        if runtime.name() != "runc" {
            // Debian's runc forgets these two.
            assert_eq!(bundle.exec(&["cat", "/proc/self/oom_score_adj"]).ok(), "321\n");
        }
        assert_eq!(bundle.exec(&["sh", "-c", "ulimit -n"]).ok(), "100\n");
        end(&bundle, &host);
    }
}

#[test]
fn exec_has_the_environment_and_place_of_the_program_and_what_is_added() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.set("/process/env", json!(["PATH=/bin", "A=1"])).set("/process/cwd", "/tmp");
        bundle.start_sleeper();
        assert_eq!(bundle.exec(&["env"]).ok(), "PATH=/bin\nA=1\nHOME=/root\n");
        assert_eq!(bundle.exec(&["pwd"]).ok(), "/tmp\n");
        let more = exec_with(
            &bundle,
            &["--env", "B=2", "--env", "C=a b", "--cwd", "/etc"],
            &["sh", "-c", "pwd; echo $A $B $C"],
        );
        assert_eq!(more.ok(), "/etc\n1 2 a b\n");
        end(&bundle, &host);
    }
}

#[test]
fn exec_runs_as_the_user_that_is_asked_for() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (bundle, host) = running_of(runtime);
        let ids = ["sh", "-c", "id -u; id -g; id -G"];
        assert_eq!(exec_with(&bundle, &["--user", "1000:1001"], &ids).ok(), "1000\n1001\n1001\n");
        assert_eq!(exec_with(&bundle, &["-u", "1000:7", "-g", "8", "-g", "9"], &ids).ok(), "1000\n7\n7 8 9\n");
        end(&bundle, &host);
    }
}

/// A peer ran what it could not read as root (CVE-2026-30892); and for the kernel 4294967295 means "as it is".
#[test]
fn exec_refuses_a_user_that_is_none() {
    if !require_root() {
        return;
    }
    let (bundle, host) = running();
    let users = [
        "nobody",
        "1000:x",
        "-1",
        "",
        ":",
        "0:",
        ":0",
        "4294967296",
        "1:2:3",
        "4294967295",
        "4294967295:0",
        "0:4294967295",
    ];
    let taken: Vec<&str> =
        users.into_iter().filter(|user| exec_with(&bundle, &["--user", user], &["true"]).is_ok()).collect();
    assert_eq!(taken, [""; 0]);
    end(&bundle, &host);
}

#[test]
fn exec_may_have_a_capability_more_and_privileges_less() {
    if !require_root() {
        return;
    }
    let (bundle, host) = running();
    let status = |options: &[&str], key: &str| exec_with(&bundle, options, &["grep", key, "/proc/self/status"]).ok();
    assert_eq!(status(&[], "CapEff"), "CapEff:\t0000000000000000\n");
    for cap in ["CAP_KILL", "kill"] {
        assert_eq!(status(&["--cap", cap], "CapEff"), "CapEff:\t0000000000000020\n");
    }
    assert_eq!(status(&["--no-new-privs"], "NoNewPrivs"), "NoNewPrivs:\t1\n");
    exec_with(&bundle, &["--cap", "CAP_NOPE"], &["true"]).fails();
    end(&bundle, &host);
}

#[test]
fn exec_takes_a_document_as_containerd_gives_it() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (bundle, host) = running_of(runtime);
        let caps = json!(["CAP_KILL"]);
        let path = document(
            &bundle,
            &json!({"user": {"uid": 0, "gid": 5}, "args": ["sh", "-c", "pwd; echo $X; id -g; grep CapEff /proc/self/status; exit 8"],
                    "env": ["PATH=/bin", "X=y"], "cwd": "/etc", "noNewPrivileges": true,
                    "capabilities": {"bounding": caps, "permitted": caps, "effective": caps}}),
        );
        let done = bundle.call(&["exec", "--process", &path, &bundle.id]);
        assert_eq!((done.code(), &done.out[..]), (Some(8), "/etc\ny\n5\nCapEff:\t0000000000000020\n"), "{done}");
        end(&bundle, &host);
    }
}

#[test]
fn exec_refuses_a_bad_document_with_its_place() {
    if !require_root() {
        return;
    }
    let (bundle, host) = running();
    let good = json!({"user": {"uid": 0, "gid": 0}, "args": ["true"], "env": ["PATH=/bin"], "cwd": "/"});
    for (key, value, word) in [
        ("args", json!([]), "/args"),
        ("args", json!(["true", "\0"]), "/args/1"),
        ("cwd", json!("tmp"), "/cwd"),
        ("user", json!({"uid": "nobody", "gid": 0}), "/user/uid"),
        ("user", json!({"uid": -1, "gid": 0}), "/user/uid"),
        ("env", json!(["NOVALUE"]), "/env/0"),
        ("apparmorProfile", json!("mine"), "/apparmorProfile"),
        ("oomScoreAdj", json!(5000), "/oomScoreAdj"),
    ] {
        let mut process = good.clone();
        process[key] = value;
        let path = document(&bundle, &process);
        let line = bundle.call(&["exec", "--process", &path, &bundle.id]).fails();
        assert!(line.starts_with("jail: cannot ") && line.contains(word), "{line}");
    }
    let fifo = bundle.dir.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    bundle.call(&["exec", "--process", &fifo.to_string_lossy(), &bundle.id]).fails();
    bundle.call(&["exec", "--process", "/no/such/file", &bundle.id]).fails();
    let path = document(&bundle, &good);
    bundle.call(&["exec", "--process", &path, &bundle.id]).ok();
    end(&bundle, &host);
}

#[test]
fn exec_names_a_program_that_is_missing() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (bundle, host) = running_of(runtime);
        let line = bundle.exec(&["nosuchprogram"]).fails();
        assert!(line.contains("nosuchprogram"), "{line}");
        let line = bundle.exec(&["/etc/passwd"]).fails();
        assert!(line.contains("/etc/passwd"), "{line}");
        assert!(!bundle.exec(&[]).is_ok());
        end(&bundle, &host);
    }
}

#[test]
fn a_detached_exec_comes_back_and_names_its_process() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (bundle, host) = running_of(runtime);
        let file = bundle.dir.join("exec.pid");
        exec_with(&bundle, &["--detach", "--pid-file", &file.to_string_lossy()], &["sleep", "2000"]).ok();
        let pid: i32 = fs::read_to_string(&file).unwrap().parse().unwrap();
        wait_for("the program", || processes::name(pid).contains("sleep 2000"));
        assert_ne!(Some(pid), bundle.pid());
        let space = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap();
        assert_eq!(space(pid), space(bundle.pid().unwrap()));
        end(&bundle, &host);
        wait_for("its end with the jail", || !processes::lives(pid));
    }
}

#[test]
fn an_exec_in_the_foreground_passes_signals_on() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (bundle, host) = running_of(runtime);
        let script = "trap 'exit 42' TERM; : > /ready; while :; do sleep 0.01; done";
        let mut exec = bundle.command(&["exec", &bundle.id, "sh", "-c", script]);
        let mut exec = exec.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_for("the trap", || bundle.rootfs().join("ready").exists());
        kill(Pid::from_raw(i32::try_from(exec.id()).unwrap()), Signal::SIGTERM).unwrap();
        assert_eq!(code(&mut exec), Some(42));
        end(&bundle, &host);
    }
}

#[test]
fn exec_reads_its_standard_input() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (bundle, host) = running_of(runtime);
        let input = bundle.dir.join("input");
        fs::write(&input, "x".repeat(100_000)).unwrap();
        let mut exec = bundle.command(&["exec", &bundle.id, "wc", "-c"]);
        assert_eq!(finish(exec.stdin(File::open(input).unwrap()), LIMIT).ok(), "100000\n");
        end(&bundle, &host);
    }
}

#[test]
fn the_words_of_a_program_are_not_options_of_exec() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (bundle, host) = running_of(runtime);
        assert_eq!(bundle.exec(&["echo", "-e", "--tty", "--detach", "--", "-x"]).ok(), "--tty --detach -- -x\n");
        end(&bundle, &host);
    }
}

#[test]
fn fifty_execs_in_a_row_leave_nothing() {
    if !require_root() {
        return;
    }
    let (bundle, host) = running();
    let inside = || processes::with_word(&bundle.id).len();
    let before = inside();
    for _ in 0..50 {
        bundle.exec(&["true"]).ok();
    }
    wait_for("every exec's end", || inside() == before);
    let count: usize = bundle.exec(&["sh", "-c", "ls -d /proc/[0-9]* | wc -l"]).ok().trim().parse().unwrap();
    assert!(count <= 4, "{count}: process 1, the shell, ls, and wc if it is there by then");
    end(&bundle, &host);
}

#[test]
fn many_execs_at_once_all_end() {
    if !require_root() {
        return;
    }
    let (bundle, host) = running();
    std::thread::scope(|scope| {
        for number in 0..20 {
            let bundle = &bundle;
            scope.spawn(move || {
                let done = bundle.exec(&["sh", "-c", &format!("exit {number}")]);
                assert_eq!(done.code(), Some(number), "{done}");
            });
        }
    });
    end(&bundle, &host);
}

#[test]
fn a_jail_can_be_killed_while_an_exec_runs() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (bundle, host) = running_of(runtime);
        let mut exec = bundle.command(&["exec", &bundle.id, "sh", "-c", ": > /ready; sleep 1000"]);
        let mut exec = exec.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_for("the program", || bundle.rootfs().join("ready").exists());
        bundle.kill("KILL").ok();
        assert_eq!(code(&mut exec), Some(137));
        bundle.becomes("stopped");
        bundle.delete().ok();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn exec_into_a_created_jail_works_as_with_runc() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.args(&["sleep", "1000"]).create().ok();
        assert_eq!(bundle.exec(&["hostname"]).ok(), "jail\n");
        assert_eq!(bundle.status().as_deref(), Some("created"));
        bundle.start().ok();
        end(&bundle, &host);
    }
}

#[test]
fn exec_into_a_stopped_or_missing_jail_is_refused() {
    if !require_root() {
        return;
    }
    let (bundle, host) = stage();
    assert!(bundle.exec(&["true"]).fails().contains("does not exist"));
    bundle.create().ok();
    bundle.start().ok();
    bundle.becomes("stopped");
    assert!(bundle.exec(&["true"]).fails().contains("container not running"));
    bundle.delete().ok();
    left_nothing(&bundle, &host);
}

#[test]
fn exec_works_in_a_jail_that_shares_all_but_its_mounts() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.remove("/hostname").set("/linux/namespaces", json!([{"type": "mount"}]));
        bundle.start_sleeper();
        assert_eq!(bundle.exec(&["cat", "/etc/group"]).ok(), "root:x:0:\ntty:x:5:\n");
        end(&bundle, &host);
    }
}

#[test]
fn exec_gets_a_terminal_of_the_jail() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.set(
        "/mounts/-",
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]}),
    );
    bundle.start_sleeper();
    let done = exec_with(&bundle, &["--tty"], &["sh", "-c", "test -t 0 && test -t 1 && tty; exit 5"]);
    assert_eq!((done.code(), &done.out[..]), (Some(5), "/dev/pts/0\r\n"), "{done}");
    end(&bundle, &host);
}

/// As containerd does it for `ctr exec -t`.
#[test]
fn a_detached_exec_gives_its_terminal_to_the_console_socket() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        with_terminal(&mut bundle);
        bundle.set("/process/terminal", false);
        bundle.start_sleeper();
        let process = json!({"terminal": true, "consoleSize": {"height": 21, "width": 63}, "user": {"uid": 0, "gid": 0},
                             "args": ["sh", "-c", "stty size; read word; echo got $word"], "env": ["PATH=/bin"], "cwd": "/"});
        let (path, socket) = (document(&bundle, &process), bundle.dir.join("console.sock"));
        let listener = UnixListener::bind(&socket).unwrap();
        let taker = std::thread::spawn(move || terminal_from(&listener));
        let socket = socket.to_string_lossy();
        bundle.call(&["exec", "--process", &path, "--detach", "--console-socket", &socket, &bundle.id]).ok();
        let mut terminal = File::from(within_limit(move || taker.join().unwrap()));
        terminal.write_all(b"hello\n").unwrap();
        let text = within_limit(move || read_all(&mut terminal));
        assert!(text.contains("21 63\n") && text.contains("got hello\n"), "{text:?}");
        end(&bundle, &host);
    }
}

/// Its process 1 has the host's root until the change of root (CVE-2024-21626).
#[test]
fn a_jail_that_is_being_made_takes_no_exec() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let begun = bundle.dir.join("begun");
    bundle.set("/hooks", json!({})).hook_that_waits("createContainer", &begun);
    let mut run = bundle.args(&["sleep", "1000"]).making("run", &["--detach"]);
    let mut run = run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the hook", || begun.exists());
    let line = bundle.exec(&["true"]).fails();
    assert!(line.contains("container not running"), "{line}");
    fs::remove_file(&begun).unwrap();
    assert!(run.wait().unwrap().success());
    bundle.exec(&["true"]).ok();
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

#[test]
fn a_pid_file_that_cannot_be_written_costs_no_program_its_life() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.start_sleeper();
    let line = bundle.call(&["exec", "--pid-file", "/nosuch/pid", &bundle.id, "touch", "/tmp/ran"]).fails();
    assert!(line.contains("write pid file /nosuch/pid"), "{line}");
    assert!(!bundle.rootfs().join("tmp/ran").exists());
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

/// The process that makes it belongs to the same user for a moment, and must not count against it.
#[test]
fn a_limit_of_one_process_leaves_room_for_the_program() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.start_sleeper();
        let mut document = bundle.spec.pointer("/process").unwrap().clone();
        document["user"] = json!({"uid": 41_234, "gid": 5});
        document["args"] = json!(["cat", "/proc/self/limits"]);
        document["rlimits"] = json!([{"type": "RLIMIT_NPROC", "soft": 1, "hard": 1}]);
        let file = bundle.dir.join("process.json");
        fs::write(&file, document.to_string()).unwrap();
        let done = bundle.call(&["exec", "--process", &file.to_string_lossy(), &bundle.id]);
        let limits = done.ok();
        assert!(limits.contains("Max processes             1                    1  "), "{limits}");
        bundle.delete_force().ok();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn the_root_of_the_jail_is_what_exec_looks_in() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (bundle, host) = running_of(runtime);
        // A program that only the jail has, found by the jail's own search path.
        fs::copy("/bin/busybox", bundle.rootfs().join("usr/echo")).unwrap();
        assert_eq!(bundle.exec(&["/usr/echo", "here"]).ok(), "here\n");
        assert!(!bundle.exec(&["/usr/bin/env"]).is_ok(), "of the host");
        end(&bundle, &host);
    }
}
