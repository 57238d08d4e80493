//! docker, with the binary under test as the runtime of its containers and with Debian's runc as the reference.

use serde_json::json;
use tests::callers::{Docker, EATER, LIMIT_OF_MEMORY, ON_TERMINAL};
use tests::terminal::under_terminal;
use tests::{Named, wait_for};

/// Runs SCENARIO with each runtime on one daemon, and looks each time whether anything is left.
fn with_each_runtime(scenario: impl Fn(&Docker, &Named)) {
    let Some(docker) = Docker::start() else { return };
    for runtime in docker.room.runtimes() {
        println!("with {}", runtime.name);
        scenario(&docker, &runtime);
        docker.room.assert_empty(&runtime, &docker.store(&runtime));
    }
    docker.room.close();
}

#[test]
fn docker_leads_a_container_from_its_start_to_its_end() {
    with_each_runtime(|docker, runtime| {
        let call = |words: &[&str]| docker.call(words);
        docker.run(runtime, &["--detach", "--name", "life"], &["sh", "-c", "echo out; exec sleep 1000"]).ok();
        let done = call(&["exec", "life", "sh", "-c", "echo inside; exit 3"]);
        assert_eq!((done.out.trim(), done.code()), ("inside", Some(3)), "{done}");
        let flags = ["--user", "65534", "--workdir", "/tmp", "--env", "A=b"];
        let done = call(&[&["exec"], &flags[..], &["life", "sh", "-c", "id -u; pwd; echo $A"]].concat());
        assert_eq!(done.ok(), "65534\n/tmp\nb\n");
        call(&["exec", "--detach", "life", "touch", "/tmp/detached"]).ok();
        wait_for("the detached exec", || call(&["exec", "life", "test", "-e", "/tmp/detached"]).is_ok());
        let done = call(&["exec", "--workdir", "/not/there", "life", "true"]);
        // docker shows an error of exec as output.
        assert!(done.code() == Some(126) && done.out.contains("/not/there"), "{done}");
        assert_eq!(call(&["logs", "life"]).ok(), "out\n");
        assert!(call(&["top", "life"]).ok().contains("sleep 1000"));
        let stats = call(&["stats", "--no-stream", "--format", "{{.PIDs}} {{.MemUsage}}", "life"]).ok();
        assert!(stats.starts_with("1 ") && !stats.contains(" 0B /"), "{stats}");
        call(&["pause", "life"]).ok();
        assert_eq!(call(&["ps", "--filter", "status=paused", "--format", "{{.Names}}"]).ok().trim(), "life");
        assert!(!call(&["exec", "life", "true"]).is_ok());
        call(&["unpause", "life"]).ok();
        let limits = ["--memory", "64m", "--memory-swap", "64m", "--cpus", "0.5", "--pids-limit", "33"];
        call(&[&["update"], &limits[..], &["life"]].concat()).ok();
        assert_eq!(call(&[&["exec", "life"], &LIMIT_OF_MEMORY[..]].concat()).ok().trim(), "67108864");
        call(&["restart", "--time", "0", "life"]).ok();
        call(&["exec", "life", "true"]).ok();
        call(&["kill", "life"]).ok();
        assert_eq!(call(&["wait", "life"]).ok().trim(), "137");
        call(&["rm", "life"]).ok();
    });
}

#[test]
fn docker_gets_exit_codes_output_and_errors() {
    with_each_runtime(|docker, runtime| {
        let run = |flags: &[&str], words: &[&str]| docker.run(runtime, &[&["--rm"], flags].concat(), words);
        let done = run(&[], &["sh", "-c", "echo hello; echo oh >&2; exit 7"]);
        assert_eq!((done.out.trim(), done.err.trim(), done.code()), ("hello", "oh", Some(7)), "{done}");
        let done = run(&[], &["/no/such/program"]);
        assert!(done.code() == Some(127) && done.err.contains("/no/such/program"), "{done}");
        let done = run(&[], &["/etc/passwd"]);
        assert!(done.code() == Some(126) && done.err.contains("/etc/passwd"), "{done}");
        let done = docker.run(runtime, &["--memory", "16m", "--name", "eater"], &EATER);
        assert_eq!(done.code(), Some(137), "{done}");
        let state = docker.call(&["inspect", "--format", "{{.State.OOMKilled}} {{.State.ExitCode}}", "eater"]);
        assert_eq!(state.ok().trim(), "true 137");
        docker.call(&["rm", "eater"]).ok();
    });
}

#[test]
fn docker_gets_what_its_flags_ask_for() {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]
    });
    with_each_runtime(|docker, runtime| {
        let run = |flags: &[&str], script: &str| {
            docker.run(runtime, &[&["--rm"], flags].concat(), &["sh", "-c", script]).ok()
        };
        let weak = ["--user", "65534", "--cap-drop", "all", "--read-only", "--security-opt", "no-new-privileges"];
        let shown = run(&weak, "id -u; touch /x 2>&1; grep -E 'CapBnd|NoNewPrivs|Seccomp:' /proc/self/status");
        for part in ["65534\n", "Read-only file system", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
            assert!(shown.contains(part), "{part:?} is not in {shown}");
        }
        // The client reads the profile, so its path is one of the room.
        let filter = format!("seccomp={}", docker.room.write("profile.json", profile.to_string()));
        let shown = run(&["--security-opt", &filter], "mkdir /x 2>&1; touch /y && echo made");
        assert!(shown.contains("Operation not permitted") && shown.ends_with("made\n"), "{shown}");
        let shown = run(&["--init"], "cat /proc/1/cmdline | tr '\\0' ' '");
        assert!(shown.starts_with("/sbin/docker-init -- sh"), "{shown}");
        let flags = ["--hostname", "inside", "--sysctl", "net.ipv4.ip_forward=1", "--device", "/dev/fuse"];
        let shown = run(&flags, "hostname; cat /proc/sys/net/ipv4/ip_forward; ls /dev/fuse");
        assert_eq!(shown, "inside\n1\n/dev/fuse\n");
        let shown =
            run(&["--tmpfs", "/t:size=1m", "--volume", "/etc:/mnt:ro"], "df /t | tail -n 1; touch /mnt/x 2>&1; true");
        assert!(shown.contains(" 1024 ") && shown.contains("Read-only file system"), "{shown}");
        assert_eq!(
            run(&["--memory", "64m", "--cpus", "0.5", "--pids-limit", "30"], LIMIT_OF_MEMORY[2]).trim(),
            "67108864"
        );
    });
}

#[test]
fn docker_gives_a_container_a_terminal() {
    with_each_runtime(|docker, runtime| {
        let done = under_terminal(&docker.running(runtime, &["--rm", "--interactive", "--tty"], &ON_TERMINAL), "5\n");
        assert!(done.code() == Some(5) && done.out.contains("/dev/pts/0"), "{done}");
        docker.run(runtime, &["--detach", "--name", "two"], &["sleep", "1000"]).ok();
        let exec = [&["exec", "--interactive", "--tty", "two"], &ON_TERMINAL[..]].concat();
        let done = under_terminal(&docker.command(&exec), "6\n");
        assert!(done.code() == Some(6) && done.out.contains("/dev/pts/"), "{done}");
        docker.call(&["rm", "--force", "two"]).ok();
    });
}

#[test]
fn docker_starts_a_container_again_as_its_policy_says() {
    with_each_runtime(|docker, runtime| {
        let state = || docker.call(&["inspect", "--format", "{{.RestartCount}} {{.State.Status}}", "again"]).ok();
        docker.run(runtime, &["--detach", "--name", "again", "--restart", "on-failure:2"], &["false"]).ok();
        wait_for("two restarts", || state().trim() == "2 exited");
        docker.call(&["rm", "again"]).ok();
        docker.run(runtime, &["--detach", "--name", "again", "--restart", "always"], &["sleep", "1000"]).ok();
        let pid = docker.call(&["inspect", "--format", "{{.State.Pid}}", "again"]).ok();
        docker.room.finish(docker.room.command(&["kill", "-KILL", pid.trim()])).ok();
        wait_for("a restart", || state().trim() == "1 running");
        docker.call(&["exec", "again", "true"]).ok();
        docker.call(&["rm", "--force", "again"]).ok();
    });
}
