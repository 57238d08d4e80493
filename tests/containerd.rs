//! containerd, the first real caller: a private daemon with its state in a folder of the test drives the binary through
//! `ctr`, without any image.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tests::{Bundle, Done, Host, installed, jail, require_root, view};

/// How long one call of `ctr` may take.
const LIMIT: Duration = Duration::from_secs(30);

/// What containerd would look for on this machine and must not.
const CONFIG: &str = r#"version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.tracing.processor.v1.otlp"]
"#;

/// A private containerd with the binary under test as its runtime.
struct Containerd {
    /// Holds the root for the containers, and is the folder of everything else.
    bundle: Bundle,
    daemon: Child,
}

impl Containerd {
    /// Starts one; `None` where it is not installed, or this is not root.
    fn start() -> Option<Self> {
        if !require_root() || !installed("containerd") || !installed("ctr") {
            return None;
        }
        let bundle = Bundle::new();
        let folder = bundle.dir.join("containerd");
        std::fs::create_dir(&folder).unwrap();
        let path = |name: &str| folder.join(name).display().to_string();
        let config = format!(
            "{CONFIG}root = {:?}\nstate = {:?}\n[grpc]\naddress = {:?}\n",
            path("root"),
            path("state"),
            path("sock")
        );
        // A table ends the keys of the top, so that these must stand before it.
        std::fs::write(folder.join("config.toml"), config).unwrap();
        symlink(jail(), folder.join("jail-oci")).unwrap();
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let daemon = Command::new("containerd")
            .args(["--config", &path("config.toml")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let containerd = Self { bundle, daemon };
        let begin = Instant::now();
        while !containerd.ctr(&["version"]).is_ok() {
            assert!(begin.elapsed() < LIMIT, "containerd does not answer: {}", containerd.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(containerd)
    }

    fn folder(&self) -> PathBuf {
        self.bundle.dir.join("containerd")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder().join("log")).unwrap_or_default()
    }

    fn ctr(&self, words: &[&str]) -> Done {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.folder().join("sock")).args(words).stdin(Stdio::null());
        tests::finish(&mut command, LIMIT)
    }

    /// `ctr run` with the binary under test.
    fn run(&self, flags: &[&str], id: &str, words: &[&str]) -> Done {
        let binary = self.folder().join("jail-oci").display().to_string();
        let rootfs = self.bundle.rootfs().display().to_string();
        let fixed = ["run", "--runtime", "io.containerd.runc.v2", "--runc-binary", &binary, "--rootfs"];
        self.ctr(&[&fixed, flags, &[&rootfs, id], words].concat())
    }

    /// A container's name that is found again in the names of all that it leaves.
    fn id(&self, name: &str) -> String {
        format!("{name}-{}", self.bundle.id)
    }

    /// What containerd keeps for the runtime: nothing, once no container is left.
    fn assert_nothing_left(&self, id: &str) {
        let left = view::cgroups(id);
        assert!(left.is_empty(), "{left:?}");
        assert!(!Path::new("/run/containerd/runc/default").join(id).exists(), "a folder of {id} is left");
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

#[test]
fn containerd_runs_execs_kills_and_deletes_a_container() {
    let Some(containerd) = Containerd::start() else { return };
    let before = Host::snapshot(&containerd.bundle.id, &[]);
    let id = containerd.id("life");
    containerd.run(&["--detach"], &id, &["sleep", "1000"]).ok();
    let exec = containerd.ctr(&["task", "exec", "--exec-id", "e1", &id, "sh", "-c", "echo inside; exit 3"]);
    assert_eq!((exec.out.trim(), exec.code()), ("inside", Some(3)), "{exec}");
    assert!(containerd.ctr(&["task", "ls"]).ok().contains("RUNNING"));
    assert!(containerd.ctr(&["task", "metrics", &id]).ok().contains("memory"));
    containerd.ctr(&["task", "kill", "--signal", "SIGKILL", &id]).ok();
    let begin = Instant::now();
    while !containerd.ctr(&["task", "ls"]).ok().contains("STOPPED") {
        assert!(begin.elapsed() < LIMIT, "the task does not stop: {}", containerd.log());
    }
    let removed = containerd.ctr(&["task", "rm", &id]);
    assert!(removed.is_ok() && removed.err.contains("137"), "{removed}");
    containerd.ctr(&["container", "rm", &id]).ok();
    containerd.assert_nothing_left(&id);
    before.assert_unchanged();
}

#[test]
fn containerd_pauses_resumes_and_lists_the_processes_of_a_container() {
    let Some(containerd) = Containerd::start() else { return };
    let before = Host::snapshot(&containerd.bundle.id, &[]);
    let id = containerd.id("pause");
    containerd.run(&["--detach"], &id, &["sh", "-c", "sleep 1000 & sleep 1000"]).ok();
    // A line of `task ls` is name, number and status; `task ps` has a header.
    let status = || {
        let list = containerd.ctr(&["task", "ls"]).ok();
        let line = list.lines().find(|line| line.starts_with(&id)).unwrap_or_default();
        line.split_whitespace().nth(2).unwrap_or_default().to_owned()
    };
    tests::wait_for("both processes", || containerd.ctr(&["task", "ps", &id]).ok().lines().count() == 3);
    containerd.ctr(&["task", "pause", &id]).ok();
    assert_eq!(status(), "PAUSED");
    let exec = containerd.ctr(&["task", "exec", "--exec-id", "e1", &id, "true"]);
    assert!(!exec.is_ok() && exec.err.contains("paused"), "{exec}");
    containerd.ctr(&["task", "resume", &id]).ok();
    assert_eq!(status(), "RUNNING");
    containerd.ctr(&["task", "exec", "--exec-id", "e2", &id, "true"]).ok();
    containerd.ctr(&["task", "pause", &id]).ok();
    containerd.ctr(&["task", "kill", "--signal", "SIGKILL", &id]).ok();
    tests::wait_for("the end", || status() == "STOPPED");
    containerd.ctr(&["task", "rm", &id]);
    containerd.ctr(&["container", "rm", &id]).ok();
    containerd.assert_nothing_left(&id);
    before.assert_unchanged();
}

#[test]
fn containerd_gets_the_exit_code_and_the_output() {
    let Some(containerd) = Containerd::start() else { return };
    let id = containerd.id("code");
    let done = containerd.run(&["--rm"], &id, &["sh", "-c", "echo hello; exit 7"]);
    assert_eq!((done.out.trim(), done.code()), ("hello", Some(7)), "{done}");
    containerd.assert_nothing_left(&id);
}

#[test]
fn containerd_runs_read_only_and_filtered() {
    let Some(containerd) = Containerd::start() else { return };
    let id = containerd.id("filter");
    let script = "touch /x 2>&1; grep Seccomp: /proc/self/status";
    let done = containerd.run(&["--rm", "--read-only", "--seccomp"], &id, &["sh", "-c", script]);
    assert!(done.out.contains("Read-only file system") && done.out.contains("Seccomp:\t2"), "{done}");
    containerd.assert_nothing_left(&id);
}

#[test]
fn containerd_shows_why_a_program_cannot_start() {
    let Some(containerd) = Containerd::start() else { return };
    let id = containerd.id("missing");
    let done = containerd.run(&["--rm"], &id, &["/no/such/program"]);
    assert!(done.err.contains("cannot execute /no/such/program: no such file or directory"), "{done}");
    containerd.ctr(&["container", "rm", &id]);
    containerd.assert_nothing_left(&id);
}
