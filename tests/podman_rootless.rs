//! podman without root: it makes a user and a mount name space, and calls its runtime in there.

use std::os::unix::fs::chown;
use std::process::Command;

use tests::image::{self, BUSYBOX};
use tests::terminal::under_terminal;
use tests::{Done, Named, Room};

/// A user whom no machine has, and the numbers that he may use besides.
const USER: u32 = 64_009;
const RANGE: &str = "6500000:65536";

/// A podman of USER, who has an account in the room.
struct Podman {
    room: Room,
}

impl Podman {
    fn new() -> Option<Podman> {
        let room = Room::open(&["podman", "conmon", "catatonit", "newuidmap"])?;
        let add = |name: &str, line: &str| {
            let path = room.seen(&format!("/etc/{name}"));
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            std::fs::write(path, format!("{text}{line}\n")).unwrap();
        };
        add("passwd", &format!("someone:x:{USER}:{USER}::/:/bin/sh"));
        add("group", &format!("someone:x:{USER}:"));
        add("subuid", &format!("someone:{RANGE}"));
        add("subgid", &format!("someone:{RANGE}"));
        room.write("containers.conf", "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n");
        for folder in ["home", "session"] {
            let path = room.seen(&room.path(folder));
            std::fs::create_dir(&path).unwrap();
            chown(path, Some(USER), Some(USER)).unwrap();
        }
        let archive = image::archive(&room);
        let podman = Podman { room };
        podman.room.finish(podman.plain(&["load", "--input", &archive])).ok();
        Some(podman)
    }

    fn plain(&self, words: &[&str]) -> Command {
        let (user, room) = (USER.to_string(), &self.room);
        let (root, run) = (room.path("home/storage"), room.path("session/run"));
        let who = ["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups"];
        let podman = ["podman", "--root", &root, "--runroot", &run, "--storage-driver", "vfs"];
        let how = ["--cgroup-manager", "cgroupfs", "--events-backend", "file"];
        let mut command = room.command(&[&who[..], &podman, &how, words].concat());
        command
            .env("HOME", room.path("home"))
            .env("TMPDIR", room.path("home"))
            .env("XDG_RUNTIME_DIR", room.path("session"))
            .env("CONTAINERS_CONF", room.path("containers.conf"))
            .env("CONTAINERS_REGISTRIES_CONF", "/dev/null");
        command
    }

    fn call(&self, runtime: &Named, words: &[&str]) -> Done {
        self.room.finish(self.plain(&[&["--runtime", &runtime.path], words].concat()))
    }

    fn run(&self, runtime: &Named, flags: &[&str], words: &[&str]) -> Done {
        self.call(runtime, &[&["run", "--network", "none"], flags, &[BUSYBOX], words].concat())
    }
}

/// Runs SCENARIO with each runtime, and looks each time whether anything is left.
fn with_each_runtime(scenario: impl Fn(&Podman, &Named)) {
    let Some(podman) = Podman::new() else { return };
    for runtime in podman.room.runtimes() {
        println!("with {}", runtime.name);
        scenario(&podman, &runtime);
        podman.room.assert_empty(&runtime, &podman.room.path(&format!("session/{}", runtime.name)));
    }
    podman.room.close();
}

#[test]
fn podman_of_a_plain_user_leads_a_container_from_its_start_to_its_end() {
    with_each_runtime(|podman, runtime| {
        let call = |words: &[&str]| podman.call(runtime, words);
        podman.run(runtime, &["--detach", "--name", "life"], &["sh", "-c", "echo out; exec sleep 1000"]).ok();
        let done = call(&["exec", "life", "sh", "-c", "echo inside; exit 3"]);
        assert_eq!((done.out.trim(), done.code()), ("inside", Some(3)), "{done}");
        assert_eq!(call(&["exec", "--user", "65534", "--workdir", "/tmp", "life", "id", "-u"]).ok(), "65534\n");
        assert_eq!(call(&["logs", "life"]).ok(), "out\n");
        assert!(call(&["top", "life"]).ok().contains("sleep 1000"));
        call(&["restart", "--time", "0", "life"]).ok();
        call(&["exec", "life", "true"]).ok();
        call(&["kill", "life"]).ok();
        assert_eq!(call(&["wait", "life"]).ok().trim(), "137");
        call(&["rm", "life"]).ok();
    });
}

#[test]
fn podman_of_a_plain_user_gets_what_its_flags_ask_for() {
    with_each_runtime(|podman, runtime| {
        let run =
            |flags: &[&str], script: &str| podman.run(runtime, &[&["--rm"], flags].concat(), &["sh", "-c", script]);
        assert_eq!(run(&[], "echo hello; exit 7").code(), Some(7));
        let done = podman.run(runtime, &["--rm"], &["/no/such/program"]);
        assert!(done.code() == Some(127) && done.err.contains("/no/such/program"), "{done}");
        let maps = format!("0 {USER} 1\n1 {}\n", RANGE.replace(':', " "));
        assert_eq!(run(&[], "while read a b c; do echo $a $b $c; done < /proc/self/uid_map").ok(), maps);
        let weak = ["--user", "5", "--cap-drop", "all", "--read-only", "--security-opt", "no-new-privileges"];
        let shown = run(&weak, "id -u; touch /x 2>&1; grep -E 'CapBnd|NoNewPrivs|Seccomp:' /proc/self/status").ok();
        for part in ["5\n", "Read-only file system", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
            assert!(shown.contains(part), "{part:?} is not in {shown}");
        }
        let shown =
            run(&["--hostname", "inside", "--device", "/dev/fuse"], "hostname; echo > /dev/null; ls /dev/fuse").ok();
        assert_eq!(shown, "inside\n/dev/fuse\n");
        assert_eq!(run(&["--privileged", "--init"], "cat /proc/1/comm").ok(), "podman-init\n");
        assert_eq!(run(&["--pid", "host"], "echo shared").ok(), "shared\n");
        assert_eq!(run(&["--uidmap", "0:1:100"], "cat /proc/self/uid_map | tr -s ' '").ok(), " 0 1 100\n");
    });
}

#[test]
fn podman_of_a_plain_user_gives_a_container_a_terminal() {
    with_each_runtime(|podman, runtime| {
        let how = ["--runtime", &runtime.path];
        let words = ["run", "--rm", "--network", "none", "--interactive", "--tty", BUSYBOX];
        let script = ["sh", "-c", "tty; read line; exit $line"];
        let done = under_terminal(&podman.plain(&[&how[..], &words, &script].concat()), "5\n");
        assert!(done.code() == Some(5) && done.out.contains("/dev/pts/0"), "{done}");
    });
}
