//! The program of a jail: its words, user, environment, working directory, input and limits.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tests::processes::field;
use tests::{Bundle, LIMIT, finish, installed, jail, left_nothing, require_root, running, runtimes, stage, stage_of};

#[test]
fn a_value_of_the_configuration_is_never_a_word_of_the_shell() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let words = ["echo", "$HOME", "`id`", "a  b", "*", "\"", "ü"];
        bundle.set("/process/args", Value::from(words.to_vec()));
        assert_eq!(bundle.run().ok(), "$HOME `id` a  b * \" ü\n");
        left_nothing(&bundle, &host);
    }
}

#[test]
fn standard_input_reaches_the_program() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.args(&["wc", "-c"]);
        let input = bundle.dir.join("input");
        fs::write(&input, "x".repeat(100_000)).unwrap();
        let mut run = bundle.making("run", &[]);
        assert_eq!(finish(run.stdin(File::open(input).unwrap()), LIMIT).ok(), "100000\n");
        left_nothing(&bundle, &host);
    }
}

#[test]
fn the_user_and_its_groups_are_those_that_were_asked_for() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.set("/process/user", json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 1002]}));
        let text = bundle.own_status();
        assert_eq!(field(&text, "Uid"), "1000 1000 1000 1000");
        assert_eq!(field(&text, "Gid"), "1001 1001 1001 1001");
        assert_eq!(field(&text, "Groups").replace("1001 ", ""), "5 1002");
        left_nothing(&bundle, &host);
    }
}

#[test]
fn the_umask_is_what_was_asked_for_and_022_otherwise() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.args(&["sh", "-c", "umask"]);
        assert_eq!(bundle.run().ok(), "0022\n");
        assert_eq!(bundle.set("/process/user/umask", 0o027).run().ok(), "0027\n");
        assert_eq!(bundle.set("/process/user/umask", 0).run().ok(), "0000\n");
        left_nothing(&bundle, &host);
    }
}

#[test]
fn the_environment_is_the_one_of_the_configuration_and_home() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.set("/process/env", json!(["PATH=/bin", "B=two words", "A=", "C==x=", "N=a\nb"])).args(&["env"]);
        let mut run = bundle.making("run", &[]);
        run.env("SECRET", "of the caller").env("LD_PRELOAD", "");
        let text = finish(&mut run, LIMIT).ok();
        assert_eq!(text, "PATH=/bin\nB=two words\nA=\nC==x=\nN=a\nb\nHOME=/root\n");
        left_nothing(&bundle, &host);
    }
}

#[test]
fn home_is_what_the_jails_own_passwd_says() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let passwd = "root:x:0:0:root:/root:/bin/sh\nu:x:1000:1000::/home/u:/bin/sh\n";
        fs::write(bundle.rootfs().join("etc/passwd"), passwd).unwrap();
        bundle.args(&["sh", "-c", "echo $HOME"]);
        for (uid, home) in [(0, "/root\n"), (1000, "/home/u\n"), (4711, "/\n")] {
            assert_eq!(bundle.set("/process/user/uid", uid).run().ok(), home);
        }
        bundle.set("/process/env/-", "HOME=/mine");
        assert_eq!(bundle.run().ok(), "/mine\n");
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_working_directory_that_is_missing_is_made() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.set("/process/cwd", "/made/for/me").args(&["pwd"]);
        assert_eq!(bundle.run().ok(), "/made/for/me\n");
        assert!(bundle.rootfs().join("made/for/me").is_dir());
        left_nothing(&bundle, &host);
    }
}

/// A typing error of somebody who looks around must not change the root.
#[test]
fn exec_makes_no_working_directory() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.start_sleeper();
        let done = bundle.call(&["exec", "--cwd", "/not/there", &bundle.id, "true"]);
        assert!(!done.is_ok() && done.err.contains("/not/there") && done.err.contains("no such file"), "{done}");
        assert!(!bundle.rootfs().join("not").exists());
        bundle.delete_force().ok();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_working_directory_that_is_a_file_is_named() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let line = bundle.set("/process/cwd", "/etc/passwd").run().fails();
        assert!(line.contains("/etc/passwd"), "{line}");
        left_nothing(&bundle, &host);
    }
}

#[test]
fn limits_are_set_soft_and_hard() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let limit = |name: &str, soft: u64, hard: u64| json!({"type": name, "soft": soft, "hard": hard});
        bundle.set(
            "/process/rlimits",
            json!([
                limit("RLIMIT_NOFILE", 100, 200),
                limit("RLIMIT_CORE", 0, 0),
                limit("RLIMIT_FSIZE", 4096, u64::MAX)
            ]),
        );
        let text = bundle.args(&["cat", "/proc/self/limits"]).run().ok();
        for (name, soft, hard) in
            [("Max open files", "100", "200"), ("Max core file size", "0", "0"), ("Max file size", "4096", "unlimited")]
        {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            assert_eq!(line.split_whitespace().take(2).collect::<Vec<_>>(), [soft, hard], "{name}");
        }
        left_nothing(&bundle, &host);
    }
}

/// The binary under test with a user that may raise nothing, as containers of containers have it.
fn without_resources(bundle: &Bundle, limits: &[&str], words: &[&str]) -> Command {
    bundle.write();
    let mut command = Command::new("prlimit");
    command.args(limits).args(["setpriv", "--bounding-set", "-sys_resource"]).arg(jail());
    command.arg("--root").arg(&bundle.root).args(words).stdin(Stdio::null());
    command
}

#[test]
fn a_limit_that_may_not_be_raised_stays_with_a_warning() {
    if !require_root() || !installed("setpriv") || !installed("prlimit") {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.set("/process/rlimits", json!([{"type": "RLIMIT_CORE", "soft": 2000, "hard": 2000}]));
    bundle.args(&["grep", "Max core", "/proc/self/limits"]);
    let run = ["run", "--bundle", &bundle.dir.to_string_lossy(), &bundle.id];
    let done = finish(&mut without_resources(&bundle, &["--core=1000:1000"], &run), LIMIT);
    assert!(done.is_ok() && done.out.split_whitespace().skip(4).take(2).eq(["1000", "1000"]), "{done}");
    assert!(done.err.starts_with("jail: warning: ") && done.err.contains("RLIMIT_CORE"), "{done}");
    assert_eq!(done.err.lines().count(), 1, "{done}");
    left_nothing(&bundle, &host);
}

#[test]
fn the_out_of_memory_score_is_set() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.args(&["cat", "/proc/self/oom_score_adj"]);
        assert_eq!(bundle.set("/process/oomScoreAdj", 500).run().ok(), "500\n");
        assert_eq!(bundle.set("/process/oomScoreAdj", 1000).run().ok(), "1000\n");
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_score_that_may_not_be_lowered_stays_with_a_warning() {
    if !require_root() || !installed("setpriv") || !installed("prlimit") {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.set("/process/oomScoreAdj", -999).args(&["cat", "/proc/self/oom_score_adj"]);
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let run = ["run", "--bundle", &bundle.dir.to_string_lossy(), &bundle.id];
    let done = finish(&mut without_resources(&bundle, &[], &run), LIMIT);
    assert!(done.is_ok() && done.out == own, "{done}");
    assert!(done.err.starts_with("jail: warning: ") && done.err.contains("oom_score_adj"), "{done}");
    assert_eq!(done.err.lines().count(), 1, "{done}");
    left_nothing(&bundle, &host);
}

#[test]
fn exec_keeps_a_limit_and_a_score_that_may_not_be_changed_with_a_warning_each() {
    if !require_root() || !installed("setpriv") || !installed("prlimit") {
        return;
    }
    let (bundle, host) = running();
    let mut process = bundle.spec["process"].clone();
    process["args"] = json!(["cat", "/proc/self/oom_score_adj"]);
    process["oomScoreAdj"] = json!(-999);
    process["rlimits"] = json!([{"type": "RLIMIT_CORE", "soft": 2000, "hard": 2000}]);
    let document = bundle.dir.join("process.json");
    fs::write(&document, process.to_string()).unwrap();
    let exec = ["exec", "--process", &document.to_string_lossy(), &bundle.id];
    let done = finish(&mut without_resources(&bundle, &["--core=1000:1000"], &exec), LIMIT);
    assert!(done.is_ok() && done.out == fs::read_to_string("/proc/self/oom_score_adj").unwrap(), "{done}");
    for word in ["RLIMIT_CORE", "oom_score_adj"] {
        assert!(done.err.lines().any(|line| line.starts_with("jail: warning: ") && line.contains(word)), "{done}");
    }
    assert_eq!(done.err.lines().count(), 2, "{done}");
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}
