//! podman, with the binary under test as its runtime and with Debian's runc as the reference.

use std::fs;
use std::os::unix::fs::symlink;

use tests::callers::{EATER, LIMIT_OF_MEMORY, ON_TERMINAL, Podman};
use tests::image::BUSYBOX;
use tests::terminal::under_terminal;
use tests::{Named, view, wait_for};

/// Runs SCENARIO with each runtime, and looks each time whether anything is left.
fn with_each_runtime(scenario: impl Fn(&Podman, &Named)) {
    let Some(podman) = Podman::new() else { return };
    for runtime in podman.room.runtimes() {
        println!("with {}", runtime.name);
        scenario(&podman, &runtime);
        podman.room.assert_empty(&runtime, &Podman::store(&runtime));
    }
    podman.room.close();
}

#[test]
fn podman_leads_a_container_from_its_start_to_its_end() {
    with_each_runtime(|podman, runtime| {
        let call = |words: &[&str]| podman.call(runtime, words);
        podman.run(runtime, &["--detach", "--name", "life"], &["sh", "-c", "echo out; exec sleep 1000"]).ok();
        let done = call(&["exec", "life", "sh", "-c", "echo inside; exit 3"]);
        assert_eq!((done.out.trim(), done.code()), ("inside", Some(3)), "{done}");
        let done = call(&[
            "exec",
            "--user",
            "65534",
            "--workdir",
            "/tmp",
            "--env",
            "A=b",
            "life",
            "sh",
            "-c",
            "id -u; pwd; echo $A",
        ]);
        assert_eq!(done.ok(), "65534\n/tmp\nb\n");
        let done = call(&["exec", "--workdir", "/not/there", "life", "true"]);
        assert!(!done.is_ok() && done.err.contains("/not/there"), "{done}");
        assert_eq!(call(&["logs", "life"]).ok(), "out\n");
        assert!(call(&["top", "life"]).ok().contains("sleep 1000"));
        let stats = call(&["stats", "--no-stream", "--format", "{{.PIDs}} {{.MemUsage}}", "life"]).ok();
        assert!(stats.starts_with("1 ") && !stats.contains(" 0B /"), "{stats}");
        call(&["pause", "life"]).ok();
        let paused = call(&["ps", "--filter", "status=paused", "--format", "{{.Names}}"]).ok();
        assert_eq!(paused.trim(), "life");
        assert!(!call(&["exec", "life", "true"]).is_ok());
        call(&["unpause", "life"]).ok();
        call(&["update", "--memory", "64m", "--cpus", "0.5", "life"]).ok();
        assert_eq!(call(&[&["exec", "life"], &LIMIT_OF_MEMORY[..]].concat()).ok().trim(), "67108864");
        call(&["restart", "--time", "0", "life"]).ok();
        call(&["exec", "life", "true"]).ok();
        call(&["kill", "life"]).ok();
        assert_eq!(call(&["wait", "life"]).ok().trim(), "137");
        call(&["rm", "life"]).ok();
    });
}

#[test]
fn podman_gets_exit_codes_output_and_errors() {
    with_each_runtime(|podman, runtime| {
        let run = |flags: &[&str], words: &[&str]| podman.run(runtime, &[&["--rm"], flags].concat(), words);
        let done = run(&[], &["sh", "-c", "echo hello; echo oh >&2; exit 7"]);
        assert_eq!((done.out.trim(), done.err.trim(), done.code()), ("hello", "oh", Some(7)), "{done}");
        let done = run(&[], &["/no/such/program"]);
        assert!(done.code() == Some(127) && done.err.contains("/no/such/program"), "{done}");
        let done = run(&[], &["/etc/passwd"]);
        assert!(done.code() == Some(126) && done.err.contains("/etc/passwd"), "{done}");
        assert_eq!(run(&["--memory", "16m"], &EATER).code(), Some(137));
    });
}

#[test]
fn podman_gets_what_its_flags_ask_for() {
    with_each_runtime(|podman, runtime| {
        let run = |flags: &[&str], script: &str| {
            podman.run(runtime, &[&["--rm"], flags].concat(), &["sh", "-c", script]).ok()
        };
        let weak = ["--user", "65534", "--cap-drop", "all", "--read-only", "--read-only-tmpfs=false"];
        let weak = [&weak[..], &["--security-opt", "no-new-privileges"]].concat();
        let shown = run(&weak, "id -u; touch /x 2>&1; grep -E 'CapBnd|NoNewPrivs|Seccomp:' /proc/self/status");
        for part in ["65534\n", "Read-only file system", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
            assert!(shown.contains(part), "{part:?} is not in {shown}");
        }
        let shown = run(&["--init"], "cat /proc/1/cmdline | tr '\\0' ' '");
        assert!(shown.starts_with("/run/podman-init -- sh"), "{shown}");
        let flags = ["--hostname", "inside", "--sysctl", "net.ipv4.ip_forward=1", "--device", "/dev/fuse"];
        let shown = run(&flags, "hostname; cat /proc/sys/net/ipv4/ip_forward; ls /dev/fuse");
        assert_eq!(shown, "inside\n1\n/dev/fuse\n");
        let shown = run(&["--mount", "type=bind,src=/etc,dst=/mnt,ro"], "touch /mnt/x 2>&1; true");
        assert!(shown.contains("Read-only file system"), "{shown}");
        assert_eq!(
            run(&["--uidmap", "0:100000:65536"], "head -n 1 /proc/self/uid_map | tr -s ' '"),
            " 0 100000 65536\n"
        );
        assert_eq!(
            run(&["--memory", "64m", "--cpus", "0.5", "--pids-limit", "30"], LIMIT_OF_MEMORY[2]).trim(),
            "67108864"
        );
    });
}

#[test]
fn podman_gives_a_container_a_terminal() {
    with_each_runtime(|podman, runtime| {
        let flags = ["--interactive", "--tty", "--name", "typed"];
        let done = under_terminal(&podman.making(runtime, "run", &flags, &ON_TERMINAL), "5\n");
        assert!(done.code() == Some(5) && done.out.contains("/dev/pts/0"), "{done}");
        podman.call(runtime, &["rm", "typed"]).ok();
        podman.run(runtime, &["--detach", "--name", "two"], &["sleep", "1000"]).ok();
        let exec = [&["exec", "--interactive", "--tty", "two"], &ON_TERMINAL[..]].concat();
        let done = under_terminal(&podman.command(runtime, &exec), "6\n");
        assert!(done.code() == Some(6) && done.out.contains("/dev/pts/"), "{done}");
        podman.call(runtime, &["rm", "--force", "--time", "0", "two"]).ok();
    });
}

#[test]
fn podman_checks_the_health_of_a_container_and_starts_it_again() {
    with_each_runtime(|podman, runtime| {
        let call = |words: &[&str]| podman.call(runtime, words);
        // No timer: that would be one of systemd.
        let flags = ["--detach", "--name", "ill", "--health-cmd", "test -e /well", "--health-interval", "disable"];
        podman.run(runtime, &flags, &["sleep", "1000"]).ok();
        assert_eq!(call(&["healthcheck", "run", "ill"]).code(), Some(1));
        call(&["exec", "ill", "touch", "/well"]).ok();
        call(&["healthcheck", "run", "ill"]).ok();
        call(&["rm", "--force", "--time", "0", "ill"]).ok();
        podman
            .run(runtime, &["--detach", "--name", "again", "--restart", "on-failure:2"], &["sh", "-c", "exit 1"])
            .ok();
        let state = ["inspect", "--format", "{{.RestartCount}} {{.State.Status}}", "again"];
        wait_for("two restarts", || call(&state).ok().trim() == "2 exited");
        call(&["rm", "again"]).ok();
    });
}

#[test]
fn podman_makes_a_pod_around_a_pause_container() {
    with_each_runtime(|podman, runtime| {
        let call = |words: &[&str]| podman.call(runtime, words);
        let parent = format!("/{}", podman.room.id);
        // Its own pause container would be built of catatonit, by podman itself.
        let infra = ["--infra-image", BUSYBOX, "--infra-command", "sleep 1000"];
        let create = ["pod", "create", "--name", "pod", "--network", "none", "--share", "ipc,net,uts,pid"];
        call(&[&create[..], &["--cgroup-parent", &parent], &infra].concat()).ok();
        for name in ["one", "two"] {
            call(&["run", "--detach", "--pod", "pod", "--name", name, BUSYBOX, "sleep", "1000"]).ok();
        }
        let space = |name: &str| call(&["exec", name, "readlink", "/proc/self/ns/net"]).ok();
        assert_eq!(space("one"), space("two"));
        // The pause container is the first process of both.
        assert_eq!(call(&["exec", "two", "ps"]).ok().matches("sleep 1000").count(), 3);
        call(&["pod", "pause", "pod"]).ok();
        call(&["pod", "unpause", "pod"]).ok();
        call(&["pod", "stop", "--time", "0", "pod"]).ok();
        call(&["pod", "start", "pod"]).ok();
        call(&["exec", "one", "true"]).ok();
        call(&["pod", "rm", "--force", "pod"]).ok();
    });
}

#[test]
fn podman_plays_a_pod_of_kubernetes() {
    const POD: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "kube"},
        "spec": {"restartPolicy": "Never", "containers": [
            {"name": "one", "image": "@", "command": ["sleep", "1000"], "resources": {"limits": {"memory": "64Mi"}}},
            {"name": "two", "image": "@", "command": ["sleep", "1000"],
             "securityContext": {"runAsUser": 65534, "capabilities": {"drop": ["ALL"]}}}]}}"#;
    with_each_runtime(|podman, runtime| {
        let call = |words: &[&str]| podman.call(runtime, words);
        let file = podman.room.write("pod.yaml", POD.replace('@', BUSYBOX));
        call(&["play", "kube", "--network", "none", &file]).ok();
        let pod = call(&["pod", "inspect", "--format", "{{.ID}}", "kube"]).ok();
        assert_eq!(call(&[&["exec", "kube-one"], &LIMIT_OF_MEMORY[..]].concat()).ok().trim(), "67108864");
        assert_eq!(call(&["exec", "kube-two", "id", "-u"]).ok(), "65534\n");
        call(&["play", "kube", "--down", &file]).ok();
        // Such a pod cannot be put below a cgroup of choice. runc does not remove the parents that it has made.
        assert!(runtime.name == "runc" || view::cgroups(pod.trim()).is_empty());
        for folder in view::cgroups("/libpod_parent").iter().rev() {
            let _ = std::fs::remove_dir(folder);
        }
    });
}

#[test]
fn podman_writes_a_unit_whose_command_works() {
    with_each_runtime(|podman, runtime| {
        let call = |words: &[&str]| podman.call(runtime, words);
        podman.room.finish(podman.making(runtime, "create", &["--name", "unit"], &["sleep", "1000"])).ok();
        let unit = call(&["generate", "systemd", "--new", "--name", "unit"]).ok();
        call(&["rm", "unit"]).ok();
        let unit = unit.replace("\\\n", " ").replace("%t", &podman.room.path("tmp")).replace("%n", &runtime.name);
        // Not those that stop it: podman 4.3 writes them without the flags that say where its containers are.
        let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        podman.room.finish(podman.room.command(&start.split_whitespace().collect::<Vec<_>>())).ok();
        call(&["exec", "unit", "true"]).ok();
        call(&["rm", "--force", "--time", "0", "unit"]).ok();
    });
}

/// The host's own systemd, in a root that has nothing but units of ours.
#[test]
fn podman_runs_a_systemd() {
    const SYSTEMD: &str = "/usr/lib/systemd/systemd";
    const TARGET: &str = "[Unit]\nDefaultDependencies=no\nRequires=shown.service\nAfter=shown.service\n";
    const SERVICE: &str = "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
                           ExecStart=/usr/bin/touch /run/shown\n";
    if !std::path::Path::new(SYSTEMD).exists() {
        return println!("skipped: systemd is not installed");
    }
    with_each_runtime(|podman, runtime| {
        let call = |words: &[&str]| podman.call(runtime, words);
        let root = podman.room.path(&format!("root-of-{}", runtime.name));
        for folder in ["dev", "proc", "run", "sys", "tmp", "usr", "var"] {
            fs::create_dir_all(podman.room.seen(&format!("{root}/{folder}"))).unwrap();
        }
        for name in ["bin", "lib", "lib64", "sbin"] {
            symlink(format!("usr/{name}"), podman.room.seen(&format!("{root}/{name}"))).unwrap();
        }
        let etc = format!("root-of-{}/etc", runtime.name);
        podman.room.write(&format!("{etc}/passwd"), "root:x:0:0::/:/bin/sh\n");
        podman.room.write(&format!("{etc}/systemd/system/default.target"), TARGET);
        podman.room.write(&format!("{etc}/systemd/system/shown.service"), SERVICE);
        let parent = format!("/{}", podman.room.id);
        let run = ["run", "--detach", "--name", "whole", "--network", "none", "--cgroup-parent", &parent];
        let how = ["--systemd=always", "--volume", "/usr:/usr:ro", "--rootfs", &root, SYSTEMD];
        call(&[&run[..], &how].concat()).ok();
        wait_for("a service of systemd", || call(&["exec", "whole", "test", "-e", "/run/shown"]).is_ok());
        assert_eq!(call(&["exec", "whole", "systemctl", "is-active", "shown.service"]).ok(), "active\n");
        // Not by `stop`: systemd's own way to the end was seen to hang, with runc.
        call(&["rm", "--force", "--time", "0", "whole"]).ok();
    });
}
