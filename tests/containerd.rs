//! containerd, driven by `ctr`: a private daemon with the binary under test as the runtime of its containers, and with
//! Debian's runc as the reference.

use std::process::Stdio;

use tests::callers::{Containerd, EATER, ON_TERMINAL};
use tests::terminal::under_terminal;
use tests::{Done, Named, wait_for};

/// `ctr run --rm` to its end.
fn run(containerd: &Containerd, runtime: &Named, flags: &[&str], words: &[&str]) -> Done {
    containerd.room.finish(containerd.run(runtime, &[&["--rm"], flags].concat(), "one", words))
}

/// Starts a container that sleeps.
fn start(containerd: &Containerd, runtime: &Named, id: &str) {
    let script = ["sh", "-c", "sleep 1000 & sleep 1000"];
    containerd.room.finish(containerd.run(runtime, &["--detach"], id, &script)).ok();
}

/// The status of a task. A line of `task ls` is name, number and status.
fn status(containerd: &Containerd, id: &str) -> String {
    let list = containerd.ctr(&["task", "ls"]).ok();
    let line = list.lines().find(|line| line.split(' ').next() == Some(id)).unwrap_or_default();
    line.split_whitespace().nth(2).unwrap_or_default().to_owned()
}

/// Kills a task, waits for its end, and removes it with its container.
fn end(containerd: &Containerd, id: &str) {
    containerd.ctr(&["task", "kill", "--signal", "SIGKILL", id]).ok();
    wait_for("the end of a task", || status(containerd, id) == "STOPPED");
    let removed = containerd.ctr(&["task", "rm", id]);
    assert!(removed.is_ok() && removed.err.contains("137"), "{removed}");
    containerd.ctr(&["container", "rm", id]).ok();
}

fn exec(containerd: &Containerd, id: &str, words: &[&str]) -> Done {
    containerd.ctr(&[&["task", "exec", "--exec-id", "e1", id], words].concat())
}

#[test]
fn containerd_leads_a_container_from_its_start_to_its_end() {
    let Some(containerd) = Containerd::start() else { return };
    for runtime in containerd.room.runtimes() {
        println!("with {}", runtime.name);
        start(&containerd, &runtime, "life");
        assert_eq!(status(&containerd, "life"), "RUNNING");
        let done = exec(&containerd, "life", &["sh", "-c", "echo inside; exit 3"]);
        assert_eq!((done.out.trim(), done.code()), ("inside", Some(3)), "{done}");
        let metrics = containerd.ctr(&["task", "metrics", "life"]).ok();
        assert!(metrics.contains("memory.usage_in_bytes") && metrics.contains("pids.current"), "{metrics}");
        // A header stands before the processes.
        wait_for("both processes", || containerd.ctr(&["task", "ps", "life"]).ok().lines().count() == 3);
        containerd.ctr(&["task", "pause", "life"]).ok();
        assert_eq!(status(&containerd, "life"), "PAUSED");
        let refused = exec(&containerd, "life", &["true"]);
        assert!(!refused.is_ok() && refused.err.contains("paused"), "{refused}");
        containerd.ctr(&["task", "resume", "life"]).ok();
        assert_eq!(status(&containerd, "life"), "RUNNING");
        exec(&containerd, "life", &["true"]).ok();
        end(&containerd, "life");
        containerd.room.assert_empty(&runtime, &containerd.store());
    }
    containerd.room.close();
}

#[test]
fn containerd_kills_a_paused_container() {
    let Some(containerd) = Containerd::start() else { return };
    for runtime in containerd.room.runtimes() {
        println!("with {}", runtime.name);
        start(&containerd, &runtime, "frozen");
        containerd.ctr(&["task", "pause", "frozen"]).ok();
        end(&containerd, "frozen");
        containerd.room.assert_empty(&runtime, &containerd.store());
    }
    containerd.room.close();
}

#[test]
fn containerd_gets_exit_codes_output_and_errors() {
    let Some(containerd) = Containerd::start() else { return };
    for runtime in containerd.room.runtimes() {
        println!("with {}", runtime.name);
        let done = run(&containerd, &runtime, &[], &["sh", "-c", "echo hello; echo oh >&2; exit 7"]);
        assert_eq!((done.out.trim(), done.err.trim(), done.code()), ("hello", "oh", Some(7)), "{done}");
        let script = "touch /x 2>&1; grep Seccomp: /proc/self/status";
        let done = run(&containerd, &runtime, &["--read-only", "--seccomp"], &["sh", "-c", script]);
        assert!(done.out.contains("Read-only file system") && done.out.contains("Seccomp:\t2"), "{done}");
        let done = run(&containerd, &runtime, &[], &["/no/such/program"]);
        assert!(done.err.contains("/no/such/program") && done.err.contains("no such file or directory"), "{done}");
        containerd.ctr(&["container", "rm", "one"]);
        containerd.room.assert_empty(&runtime, &containerd.store());
    }
    containerd.room.close();
}

#[test]
fn containerd_gives_a_container_a_terminal() {
    let Some(containerd) = Containerd::start() else { return };
    for runtime in containerd.room.runtimes() {
        println!("with {}", runtime.name);
        // The size comes after the start.
        let done = under_terminal(&containerd.run(&runtime, &["--rm", "--tty"], "one", &ON_TERMINAL), "5\n");
        assert!(done.code() == Some(5) && done.out.contains("/dev/pts/0"), "{done}");
        start(&containerd, &runtime, "two");
        let exec = [&["task", "exec", "--tty", "--exec-id", "e1", "two"], &ON_TERMINAL[..]].concat();
        let done = under_terminal(&containerd.command(&exec), "6\n");
        assert!(done.code() == Some(6) && done.out.contains("/dev/pts/0"), "{done}");
        end(&containerd, "two");
        containerd.room.assert_empty(&runtime, &containerd.store());
    }
    containerd.room.close();
}

#[test]
fn containerd_hears_of_a_container_that_is_out_of_memory() {
    let Some(containerd) = Containerd::start() else { return };
    for runtime in containerd.room.runtimes() {
        println!("with {}", runtime.name);
        let mut events = containerd.command(&["events"]);
        let log = containerd.room.seen(&containerd.room.write(&runtime.name, ""));
        let mut events = events.stdout(std::fs::File::create(log).unwrap()).stderr(Stdio::null()).spawn().unwrap();
        let heard = |what: &str| containerd.room.read(&runtime.name).contains(what);
        wait_for("the first event", || {
            run(&containerd, &runtime, &[], &["true"]).ok();
            heard("/tasks/exit")
        });
        let done = run(&containerd, &runtime, &["--memory-limit", "16777216"], &EATER);
        assert_eq!(done.code(), Some(137), "{done}");
        wait_for("/tasks/oom", || heard("/tasks/oom"));
        tests::processes::below_child(&events).into_iter().for_each(tests::processes::kill);
        events.wait().unwrap();
        containerd.room.assert_empty(&runtime, &containerd.store());
    }
    containerd.room.close();
}

#[test]
fn containerd_finds_its_containers_again_after_a_restart() {
    let Some(mut containerd) = Containerd::start() else { return };
    for runtime in containerd.room.runtimes() {
        start(&containerd, &runtime, &runtime.name);
    }
    containerd.restart();
    for runtime in containerd.room.runtimes() {
        println!("with {}", runtime.name);
        assert_eq!(status(&containerd, &runtime.name), "RUNNING", "{}", containerd.log());
        assert_eq!(exec(&containerd, &runtime.name, &["sh", "-c", "exit 3"]).code(), Some(3));
        end(&containerd, &runtime.name);
        assert!(tests::entries(&containerd.room.seen(&containerd.store())).iter().all(|id| *id != runtime.name));
    }
    containerd.room.close();
}
