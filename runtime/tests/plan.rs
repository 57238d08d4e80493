//! The planner on invented hosts: no system is looked at, and every plan is compared to the letter.
// clippy.toml allows it in functions with #[test] only, not in those that they share.
#![allow(clippy::unwrap_used)]

mod invented;

use base::Rank;
use cgroup::Layout;
use invented::{hybrid, v2};
use runtime::plan::Plan;
use serde_json::{Value, json};

fn minimal() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "process": { "user": { "uid": 0, "gid": 0 }, "args": ["true"], "cwd": "/", "noNewPrivileges": true },
        "root": { "path": "rootfs" },
        "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
        "linux": { "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "cgroup" }, { "type": "uts" }] },
    })
}

fn planned(spec: &Value, layout: &Layout) -> sys::Result<Plan> {
    invented::planned(&serde_json::from_value(spec.clone()).unwrap(), layout, secmodel::Caps::default())
}

/// The lines between the device nodes and links, which every jail has, and the confinement.
fn text(spec: &Value, layout: &Layout) -> Vec<String> {
    let plan = planned(spec, layout).unwrap().to_string();
    let usual = |line: &&str| !line.contains("make device /dev/") && !line.contains("link /dev/");
    plan.lines().filter(usual).map(str::to_owned).collect()
}

#[test]
fn on_pure_v2_a_jail_is_born_into_its_cgroup() {
    let expected = [
        "host  make cgroup /sys/fs/cgroup/jail-x",
        "host  open cgroup /sys/fs/cgroup/jail-x",
        "host  use /bundle/rootfs of the host",
        "host  clone process 1",
        "jail  make a session",
        "jail  make a session keyring",
        "jail  make the mounts of the jail private",
        "jail  attach the root",
        "jail  mount proc on /proc",
        "jail  change to the new root",
        "jail  use / as working directory",
        "jail  wait for start",
    ];
    assert_eq!(text(&minimal(), &v2())[..expected.len()], expected);
}

#[test]
fn on_v1_the_cgroup_name_space_is_made_inside_the_cgroup() {
    let lines = text(&minimal(), &hybrid());
    let at = |line: &str| lines.iter().position(|found| found == line).unwrap_or_else(|| panic!("{line}: {lines:#?}"));
    assert!(at("host  clone process 1") < at("jail  enter the cgroups"));
    assert!(at("jail  enter the cgroups") < at("jail  make the cgroup name space"));
}

#[test]
fn the_program_is_the_last_line_and_the_confinement_stands_right_before_it() {
    let lines = text(&minimal(), &v2());
    assert_eq!(lines.last().unwrap(), "jail  execute true");
    assert_eq!(lines[lines.len() - 2], "jail  forbid new privileges");
}

#[test]
fn what_a_process_asks_of_the_kernel_comes_where_it_works() {
    let mut spec = minimal();
    spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"}));
    spec["linux"]["timeOffsets"] = json!({"boottime": {"secs": -1}});
    spec["linux"]["intelRdt"] = json!({"l3CacheSchema": "L3:0=f"});
    spec["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "0"});
    spec["linux"]["personality"] = json!({"domain": "LINUX32"});
    spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/agent",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]});
    spec["process"]["scheduler"] = json!({"policy": "SCHED_RR", "priority": 1});
    spec["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 2});
    spec["process"]["execCPUAffinity"] = json!({"initial": "0", "final": "0"});
    spec["process"]["apparmorProfile"] = json!("profile");
    spec["process"]["selinuxLabel"] = json!("a:b:c:d");
    let lines = text(&spec, &v2());
    let expected = [
        "host  use resctrl group /sys/fs/resctrl/x with L3:0=f",
        "host  make cgroup /sys/fs/cgroup/jail-x",
        "host  open /proc of the host",
        "jail  make the time name space",
        "host  clone process 1",
        "host  enter resctrl group /sys/fs/resctrl/x",
        "jail  write \"a:b:c:d\" to /proc/self/attr/keycreate",
        "jail  make a session keyring",
        "jail  change to the new root",
        "jail  write \"exec profile\" to /proc/self/attr/exec",
        "jail  write \"a:b:c:d\" to /proc/self/attr/exec",
        "jail  use / as working directory",
        "host  set the scheduler SCHED_RR",
        "host  set the I/O priority IOPRIO_CLASS_BE:2",
        "jail  wait for start",
        "jail  set the memory policy MPOL_BIND:0",
        "jail  set the personality LINUX32",
        "jail  forbid new privileges",
        "jail  load a system call filter of 1 instructions",
        "host  send the seccomp listener to /agent",
        "jail  execute true",
    ];
    let found: Vec<_> = lines.iter().filter(|line| expected.contains(&line.as_str())).collect();
    assert_eq!(found, expected, "{lines:#?}");
    // Of exec only.
    assert!(!lines.iter().any(|line| line.contains("CPUs")));
}

#[test]
fn no_mount_may_hide_proc_or_the_root() {
    for (target, kind) in
        [("/proc/sys", "tmpfs"), ("/proc/self/attr", "tmpfs"), ("/proc", "tmpfs"), ("/dev/..", "tmpfs")]
    {
        let mut spec = minimal();
        spec["mounts"] = json!([{ "destination": target, "type": kind, "source": "none" }]);
        let refusal = planned(&spec, &v2()).unwrap_err().to_string();
        assert!(refusal.starts_with("cannot use /mounts/0/destination"), "{target}: {refusal}");
    }
}

#[test]
fn every_target_of_a_plan_is_clean() {
    let mut spec = minimal();
    spec["mounts"] = json!([{ "destination": "/a/../../../b/./c", "type": "tmpfs", "source": "none" }]);
    assert!(text(&spec, &v2()).contains(&"jail  mount tmpfs on /b/c".to_owned()));
}

#[test]
fn steps_never_leave_the_order_of_their_ranks() {
    let mut spec = minimal();
    spec["hostname"] = json!("x");
    spec["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 64, "hard": 64 }]);
    spec["linux"]["maskedPaths"] = json!(["/proc/kcore"]);
    spec["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1" });
    for layout in [v2(), hybrid()] {
        let ranks: Vec<Rank> = planned(&spec, &layout).unwrap().steps.iter().map(|planned| planned.rank).collect();
        assert!(ranks.is_sorted(), "{ranks:?}");
    }
}

#[test]
fn the_same_input_gives_the_same_plan() {
    let mut spec = minimal();
    spec["linux"]["sysctl"] = json!({ "net.a": "1", "net.b": "2", "net.c": "3", "net.d": "4", "net.e": "5" });
    let first = text(&spec, &v2());
    for _ in 0..20 {
        assert_eq!(text(&spec, &v2()), first);
    }
}

#[test]
fn a_limit_of_a_controller_that_is_not_there_is_refused_by_name() {
    let mut spec = minimal();
    spec["linux"]["resources"] = json!({ "memory": { "limit": 4096 } });
    let refusal = planned(&spec, &Layout::default()).unwrap_err().to_string();
    assert!(refusal.contains("/linux/resources/memory/limit") && refusal.contains("memory controller"), "{refusal}");
}

/// No machine of the tests has SELinux: the options that the kernel would get are looked at.
#[test]
fn every_new_file_system_but_the_kernels_own_has_the_label_of_the_mounts() {
    use runtime::plan::Step;
    let mut spec = minimal();
    spec["linux"]["mountLabel"] = json!("system_u:object_r:container_file_t:s0:c1,c2");
    for kind in ["tmpfs", "devpts", "sysfs"] {
        let target = format!("/{kind}");
        spec["mounts"].as_array_mut().unwrap().push(json!({ "destination": target, "type": kind, "source": kind }));
    }
    let own = json!({ "destination": "/own", "type": "tmpfs", "source": "x", "options": ["context=mine"] });
    spec["mounts"].as_array_mut().unwrap().push(own);
    let plan = planned(&spec, &v2()).unwrap();
    let labels = plan.steps.iter().filter_map(|planned| match &planned.step {
        Step::Storage(storage::Step::Mount(new)) => {
            let label = new.options.iter().filter(|(key, _)| key.as_c_str() == c"context");
            let label: Vec<_> = label.map(|(_, value)| value.as_ref().unwrap().to_str().unwrap().to_owned()).collect();
            Some((new.target.to_str().unwrap().to_owned(), label.concat()))
        }
        _ => None,
    });
    let all = "system_u:object_r:container_file_t:s0:c1,c2";
    let expected = [("/proc", ""), ("/tmpfs", all), ("/devpts", all), ("/sysfs", ""), ("/own", "mine")];
    assert_eq!(labels.collect::<Vec<_>>(), expected.map(|(path, label)| (path.to_owned(), label.to_owned())));
}
