//! When and where a program runs: scheduler, CPUs, I/O priority, memory nodes, personality; of a jail and of exec.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tests::processes::field;
use tests::view::View;
use tests::{
    Bundle, LIMIT, finish, installed, jail, left_nothing, require_root, running, runtimes, stage, stage_of, wait_for,
    walk,
};

/// Nice value, real-time priority and policy of a process. Source: proc_pid_stat(5), fields 19, 40 and 41.
fn schedule(pid: i32) -> [i64; 3] {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    [19, 40, 41].map(|field: usize| fields[field - 3].parse().unwrap())
}

/// SCHED_* of linux/sched.h.
const OTHER: i64 = 0;
const FIFO: i64 = 1;
const BATCH: i64 = 3;
const IDLE: i64 = 5;
const DEADLINE: i64 = 6;

fn io_priority(pid: i32) -> String {
    let done = Command::new("ionice").args(["-p", &pid.to_string()]).output().unwrap();
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

/// Runs `sleep` in the running jail by a document that is that of the jail with `key` set, and gives its number.
#[track_caller]
fn sleeper(bundle: &Bundle, key: &str, value: &Value) -> i32 {
    let (document, pid) = (bundle.dir.join("process.json"), bundle.dir.join("pid"));
    let mut process = bundle.spec["process"].clone();
    process["args"] = json!(["sleep", "2000"]);
    process[key] = value.clone();
    fs::write(&document, process.to_string()).unwrap();
    let (document, pid) = (document.to_string_lossy(), pid.to_string_lossy());
    let mut exec = bundle.command(&["exec", "--detach", "--process", &document, "--pid-file", &pid, &bundle.id]);
    finish(exec.stdout(Stdio::null()).stderr(Stdio::piped()), LIMIT).ok();
    fs::read_to_string(&*pid).unwrap().parse().unwrap()
}

#[test]
fn the_program_has_the_scheduler_that_was_asked_for() {
    if !require_root() {
        return;
    }
    for (scheduler, wanted) in [
        (json!({"policy": "SCHED_OTHER", "nice": 7}), [7, 0, OTHER]),
        (json!({"policy": "SCHED_BATCH", "nice": -5}), [-5, 0, BATCH]),
        (json!({"policy": "SCHED_IDLE", "flags": ["SCHED_FLAG_RESET_ON_FORK"]}), [0, 0, IDLE]),
        (
            json!({"policy": "SCHED_DEADLINE", "runtime": 100_000, "deadline": 10_000_000, "period": 100_000_000}),
            [0, 0, DEADLINE],
        ),
    ] {
        let (mut bundle, host) = stage();
        bundle.set("/process/scheduler", scheduler.clone()).start_sleeper();
        assert_eq!(schedule(bundle.pid().unwrap()), wanted, "{scheduler}");
        bundle.delete_force().ok();
        // And that of exec, in a jail that has none.
        bundle.remove("/process/scheduler").start_sleeper();
        assert_eq!(schedule(bundle.pid().unwrap()), [0, 0, OTHER]);
        for privileges in [false, true] {
            bundle.set("/process/noNewPrivileges", privileges);
            assert_eq!(schedule(sleeper(&bundle, "scheduler", &scheduler)), wanted, "exec {scheduler}");
        }
        bundle.delete_force().ok();
        left_nothing(&bundle, &host);
    }
}

/// On v1 the jail's cgroup has a budget of real time of its own, which is none where nobody gives it any.
#[test]
fn a_real_time_scheduler_works_where_the_cgroup_lets_it_and_names_the_budget_elsewhere() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.set("/process/scheduler", json!({"policy": "SCHED_FIFO", "priority": 10}));
    let done = bundle.run();
    assert!(done.is_ok() || done.err.contains("/linux/resources/cpu/realtimeRuntime"), "{done}");
    left_nothing(&bundle, &host);
    let seen = std::thread::spawn(move || {
        View::V2.enter().unwrap();
        bundle.start_sleeper();
        let first = schedule(bundle.pid().unwrap());
        let second = schedule(sleeper(&bundle, "scheduler", &json!({"policy": "SCHED_RR", "priority": 99})));
        bundle.delete_force().ok();
        [first, second]
    });
    assert_eq!(seen.join().unwrap(), [[0, 10, FIFO], [0, 99, 2]]);
}

#[test]
fn the_program_has_the_io_priority_that_was_asked_for() {
    if !require_root() || !installed("ionice") {
        return;
    }
    for (class, level, wanted) in [
        ("IOPRIO_CLASS_RT", 3, "realtime: prio 3"),
        ("IOPRIO_CLASS_BE", 7, "best-effort: prio 7"),
        ("IOPRIO_CLASS_IDLE", 4, "idle"),
    ] {
        let (mut bundle, host) = stage();
        let value = json!({"class": class, "priority": level});
        bundle.set("/process/ioPriority", value.clone()).start_sleeper();
        assert_eq!(io_priority(bundle.pid().unwrap()), wanted);
        bundle.delete_force().ok();
        bundle.remove("/process/ioPriority").start_sleeper();
        assert_eq!(io_priority(sleeper(&bundle, "ioPriority", &value)), wanted, "exec");
        bundle.delete_force().ok();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn scheduler_and_io_priority_are_those_of_the_host_in_a_user_name_space_too() {
    if !require_root() || !installed("ionice") {
        return;
    }
    let (mut bundle, host) = stage();
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    bundle.set("/linux/namespaces/-", json!({"type": "user"}));
    bundle.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    for entry in walk(&bundle.dir) {
        std::os::unix::fs::lchown(entry, Some(100_000), Some(100_000)).unwrap();
    }
    bundle.set("/process/scheduler", json!({"policy": "SCHED_OTHER", "nice": -4}));
    bundle.set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_RT", "priority": 1})).start_sleeper();
    let both = [bundle.pid().unwrap(), sleeper(&bundle, "cwd", &json!("/"))];
    for pid in both {
        assert_eq!((schedule(pid), io_priority(pid).as_str()), ([-4, 0, OTHER], "realtime: prio 1"));
    }
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

#[test]
fn without_the_right_to_it_a_scheduler_is_refused_with_the_capability() {
    if !require_root() || !installed("setpriv") {
        return;
    }
    for (key, value) in [
        ("scheduler", json!({"policy": "SCHED_OTHER", "nice": -5})),
        ("ioPriority", json!({"class": "IOPRIO_CLASS_RT", "priority": 0})),
    ] {
        let (mut bundle, host) = stage();
        bundle.set(&format!("/process/{key}"), value).write();
        let mut run = Command::new("setpriv");
        // CAP_SYS_ADMIN is taken for CAP_SYS_NICE by ioprio_set(2), and no jail is made without it.
        run.args(["--bounding-set", "-sys_nice"]).arg(jail()).arg("--root").arg(&bundle.root);
        run.args(["run", "--bundle"]).arg(&bundle.dir).arg(&bundle.id);
        let done = finish(&mut run, LIMIT);
        match key {
            "scheduler" => assert!(done.fails().contains("lacks CAP_SYS_NICE")),
            _ => drop(done.ok()),
        }
        left_nothing(&bundle, &host);
    }
}

/// A CPU that this test may use, and the list of all of them.
fn cpus() -> (String, String) {
    let all = field(&fs::read_to_string("/proc/self/status").unwrap(), "Cpus_allowed_list");
    (all.split([',', '-']).next().unwrap().to_owned(), all)
}

#[test]
fn the_cpus_of_exec_are_those_of_its_document_and_the_jails_program_keeps_its_own() {
    if !require_root() {
        return;
    }
    let (one, all) = cpus();
    let (mut bundle, host) = stage();
    let of = |pid: i32| field(&fs::read_to_string(format!("/proc/{pid}/status")).unwrap(), "Cpus_allowed_list");
    bundle.set("/process/execCPUAffinity", json!({"initial": &one, "final": &one})).start_sleeper();
    assert_eq!(of(bundle.pid().unwrap()), all, "the specification: not of the jail's own program");
    let words = ["sh", "-c", "grep Cpus_allowed_list /proc/self/status"];
    assert_eq!(field(&bundle.exec(&words).ok(), "Cpus_allowed_list"), one);
    assert_eq!(of(sleeper(&bundle, "execCPUAffinity", &json!({"final": &one}))), one);
    assert_eq!(of(sleeper(&bundle, "execCPUAffinity", &json!({}))), all);
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

#[test]
fn the_runtime_itself_runs_on_the_initial_cpus_before_anything_enters_the_cgroup() {
    if !require_root() || !installed("strace") {
        return;
    }
    let (one, _) = cpus();
    let (mut bundle, host) = stage();
    bundle.set("/process/execCPUAffinity", json!({"initial": &one})).start_sleeper();
    let mut exec = Command::new("strace");
    exec.args(["-f", "-e", "trace=sched_setaffinity,clone3", "-o"]).arg(bundle.dir.join("trace")).arg(jail());
    exec.arg("--root").arg(&bundle.root).args(["exec", &bundle.id, "true"]);
    finish(exec.stdin(Stdio::null()), LIMIT).ok();
    let trace = fs::read_to_string(bundle.dir.join("trace")).unwrap();
    let place = |word| trace.find(word).unwrap_or_else(|| panic!("no {word} in {trace}"));
    assert!(place("sched_setaffinity(0") < place("clone3("), "{trace}");
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

#[test]
fn memory_comes_from_the_nodes_of_the_policy() {
    if !require_root() {
        return;
    }
    for (policy, wanted) in [
        (json!({"mode": "MPOL_BIND", "nodes": "0"}), "bind:0"),
        (json!({"mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}), "interleave=static:0"),
        (json!({"mode": "MPOL_PREFERRED", "nodes": "0"}), "prefer:0"),
        (json!({"mode": "MPOL_LOCAL"}), "local"),
        (json!({"mode": "MPOL_DEFAULT"}), "default"),
    ] {
        let (mut bundle, host) = stage();
        bundle.set("/linux/memoryPolicy", policy.clone()).start_sleeper();
        for pid in [bundle.pid().unwrap(), sleeper(&bundle, "cwd", &json!("/"))] {
            let maps = fs::read_to_string(format!("/proc/{pid}/numa_maps")).unwrap();
            let seen = maps.lines().next().unwrap().split(' ').nth(1).unwrap();
            assert_eq!(seen, wanted, "{policy}");
        }
        bundle.delete_force().ok();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn the_personality_is_what_uname_shows_also_under_a_filter_that_forbids_to_change_it() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let forbid = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["personality"], "action": "SCMP_ACT_KILL_PROCESS"}]});
    bundle.set("/linux/seccomp", forbid).set("/linux/personality", json!({"domain": "LINUX32", "flags": []}));
    assert_eq!(bundle.script("uname -m"), "i686\n");
    bundle.start_sleeper();
    assert_eq!(bundle.exec(&["uname", "-m"]).ok(), "i686\n");
    bundle.delete_force().ok();
    bundle.set("/linux/personality/domain", "LINUX");
    assert_eq!(bundle.script("uname -m"), format!("{}\n", std::env::consts::ARCH));
    left_nothing(&bundle, &host);
}

#[test]
fn what_no_kernel_takes_is_refused_with_its_place() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let good = bundle.spec.clone();
    for (pointer, value, place) in [
        ("/process/scheduler", json!({"policy": "SCHED_FIFO"}), "/process/scheduler/priority: "),
        ("/process/scheduler", json!({"policy": "SCHED_OTHER", "nice": 40}), "/process/scheduler/nice: "),
        ("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 8}), "/process/ioPriority/priority 8: "),
        ("/process/execCPUAffinity", json!({"final": "3-1"}), "/process/execCPUAffinity/final \"3-1\": "),
        ("/linux/memoryPolicy", json!({"mode": "MPOL_BIND"}), "/linux/memoryPolicy/nodes: "),
        ("/linux/personality", json!({"domain": "LINUX", "flags": ["X"]}), "/linux/personality/flags: "),
        ("/process/consoleSize", json!({"height": 65_536, "width": 1}), "/process/consoleSize: "),
        ("/process/user/umask", json!(0o1000), "/process/user/umask 01000: "),
    ] {
        bundle.spec.clone_from(&good);
        let line = bundle.set(pointer, value).run().fails();
        assert!(line.contains(place), "{line}");
    }
    left_nothing(&bundle, &host);
}

/// No machine that the tests run on has the hardware: `runtime/src/resctrl.rs` has the test of the plan.
#[test]
fn a_share_of_the_cache_is_refused_where_the_host_cannot_give_any() {
    let info = fs::read_to_string("/proc/self/mountinfo").unwrap();
    if !require_root() || info.contains(" - resctrl ") {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime.clone());
        bundle.set("/linux/intelRdt", json!({"closID": "gold", "l3CacheSchema": "L3:0=f"})).run().fails();
        left_nothing(&bundle, &host);
    }
    let (mut bundle, host) = stage();
    let line = bundle.set("/linux/intelRdt", json!({"enableCMT": true})).run_with(&["--dry-run"]).fails();
    assert!(line.contains("/linux/intelRdt: on this host no resctrl file system is mounted"), "{line}");
    let line = bundle.set("/linux/intelRdt", json!({"closID": "../x"})).run().fails();
    assert!(line.contains("/linux/intelRdt/closID: "), "{line}");
    left_nothing(&bundle, &host);
}

#[test]
fn a_node_or_a_cpu_that_this_host_lacks_is_named() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = running();
    bundle.set("/process/execCPUAffinity", json!({"final": "1000"}));
    let document = bundle.dir.join("process.json");
    fs::write(&document, bundle.spec["process"].to_string()).unwrap();
    let line = bundle.call(&["exec", "--process", &document.to_string_lossy(), &bundle.id]).fails();
    assert!(line.contains("CPUs 1000") && line.contains("has none of them"), "{line}");
    bundle.delete_force().ok();
    bundle.set("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "900"}));
    let line = bundle.run().fails();
    assert!(line.contains("MPOL_BIND:900") && line.contains("none of the nodes"), "{line}");
    left_nothing(&bundle, &host);
    wait_for("the store to be empty", || tests::entries(&bundle.root).is_empty());
}
