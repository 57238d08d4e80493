//! `--systemd-cgroup`: a jail is a scope of a real systemd, which a machine of the test runs.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tests::machine::{Cgroups, Machine, scoped_jail};
use tests::{Bundle, Host, Runtime, entries, installed, left_nothing, processes, require_root, view, wait_for};

use crate::pure_v2::{begun_by, config};

const MIB: i64 = 1 << 20;

/// A bundle whose scope is `test-ID.scope`, for RUNTIME.
fn bundle(runtime: Runtime) -> (Bundle, Host, String) {
    let mut bundle = Bundle::of(runtime);
    let host = Host::snapshot(&bundle.id, &[]);
    let unit = format!("test-{}.scope", bundle.id);
    bundle.args(&["sleep", "1000"]);
    (bundle, host, unit)
}

/// Both kinds of machine, those that this host can have.
fn machines() -> impl Iterator<Item = Machine> {
    [Cgroups::V2, Cgroups::Hybrid].into_iter().filter_map(Machine::start)
}

/// And the older one.
fn all_machines() -> impl Iterator<Item = Machine> {
    machines().chain([Cgroups::V1].into_iter().filter_map(Machine::start))
}

/// The text of a file in one of the jail's cgroups.
#[track_caller]
fn file(bundle: &Bundle, name: &str) -> String {
    let all = view::cgroups(&bundle.id);
    let path = all.iter().map(|folder| folder.join(name)).find(|path| path.exists());
    let path = path.unwrap_or_else(|| panic!("no cgroup of the jail has {name}: {all:?}"));
    fs::read_to_string(path).unwrap().trim().to_owned()
}

/// Nothing of the jail is left: on the host, in the store, and with systemd.
#[track_caller]
fn gone(machine: &Machine, bundle: &Bundle, host: &Host, unit: &str) {
    left_nothing(bundle, host);
    assert_eq!(machine.state(unit), "");
}

#[test]
fn the_life_of_a_jail_is_that_of_a_scope() {
    for machine in all_machines() {
        let (bundle, host, unit) = bundle(machine.jail());
        bundle.create().ok();
        assert_eq!(bundle.status().as_deref(), Some("created"));
        assert_eq!(machine.state(&unit), "active");
        let pid = bundle.pid().unwrap();
        let members = machine.sh(&format!("cat $(find /sys/fs/cgroup -path '*/{unit}/cgroup.procs') | sort -u")).ok();
        assert_eq!(members, format!("{pid}\n"), "who held the scope has ended");
        bundle.start().ok();
        let own = bundle.exec(&["cat", "/proc/self/cgroup"]).ok();
        assert!(own.lines().any(|line| line.ends_with(&format!(":/system.slice/{unit}"))), "{own}");
        bundle.call(&["pause", &bundle.id]).ok();
        assert_eq!(bundle.status().as_deref(), Some("paused"));
        bundle.call(&["resume", &bundle.id]).ok();
        assert_eq!(bundle.call(&["ps", "--format", "json", &bundle.id]).ok().trim(), format!("[{pid}]"));
        assert!(bundle.list().ok().contains("running"));
        bundle.call(&["exec", "--detach", &bundle.id, "sleep", "1001"]).ok();
        bundle.kill("KILL").ok();
        bundle.becomes("stopped");
        bundle.delete().ok();
        gone(&machine, &bundle, &host, &unit);
    }
}

#[test]
fn a_paused_jail_is_deleted_and_its_scope_too() {
    for machine in all_machines() {
        let (mut bundle, host, unit) = bundle(machine.jail());
        bundle.start_sleeper();
        bundle.call(&["pause", &bundle.id]).ok();
        bundle.delete_force().ok();
        gone(&machine, &bundle, &host, &unit);
    }
}

#[test]
fn a_run_leaves_no_scope_and_gives_the_exit_code() {
    for machine in all_machines() {
        let (mut bundle, host, unit) = bundle(machine.jail());
        let done = bundle.args(&["sh", "-c", "exit 7"]).run();
        assert_eq!(done.code(), Some(7), "{done}");
        gone(&machine, &bundle, &host, &unit);
        bundle.args(&["/missing"]).run().fails();
        gone(&machine, &bundle, &host, &unit);
    }
}

/// The scope as systemd has it, but for what tells one jail from another.
fn scope(machine: &Machine, runtime: &str, resources: &Value) -> Vec<String> {
    let (mut bundle, host, unit) = bundle(machine.runtime(runtime));
    let path = format!("test-a.slice:test:{}", bundle.id);
    bundle.set("/linux/resources", resources.clone()).set("/linux/cgroupsPath", path);
    bundle.create().ok();
    let names = "Slice,ControlGroup,Delegate,DelegateControllers,DefaultDependencies,CPUAccounting,CPUWeight,CPUShares,\
                 CPUQuotaPerSecUSec,CPUQuotaPeriodUSec,AllowedCPUs,AllowedMemoryNodes,IOAccounting,BlockIOAccounting,\
                 MemoryAccounting,MemoryLow,MemoryMax,MemorySwapMax,MemoryLimit,DevicePolicy,DeviceAllow,TasksAccounting,\
                 TasksMax,CollectMode,KillMode,TimeoutStopUSec,OOMPolicy";
    let mut found = machine.show(&unit, names);
    found.iter_mut().for_each(|line| *line = line.replace(&bundle.id, "ID"));
    // runc 1.1 opens tun and not console; the specification has it the other way round.
    found.retain(|line| {
        !line.starts_with("DeviceAllow=/dev/char/10:200") && !line.starts_with("DeviceAllow=/dev/char/5:1")
    });
    found.sort();
    bundle.delete_force().ok();
    gone(machine, &bundle, &host, &unit);
    found
}

#[test]
fn the_properties_of_the_scope_are_those_of_runc() {
    if !installed("runc") {
        return;
    }
    let devices = json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm"}]);
    let limits = json!({
        "devices": devices,
        "memory": {"limit": 64 * MIB, "reservation": 32 * MIB},
        "cpu": {"shares": 512, "quota": 15500, "period": 100000, "cpus": "0", "mems": "0"},
        "pids": {"limit": 33},
    });
    for (cgroups, resources) in [(Cgroups::V2, &json!({"devices": devices})), (Cgroups::Hybrid, &limits)] {
        let Some(machine) = Machine::start(cgroups) else { continue };
        let ours = scope(&machine, &scoped_jail(), resources);
        assert!(ours.contains(&"ControlGroup=/test.slice/test-a.slice/test-ID.scope".to_owned()), "{ours:#?}");
        assert!(ours.contains(&"DeviceAllow=/dev/char/10:229 rwm".to_owned()), "{ours:#?}");
        assert_eq!(ours, scope(&machine, "runc --systemd-cgroup", resources), "{cgroups:?}");
    }
}

#[test]
fn a_path_may_name_nested_slices_or_nothing() {
    for machine in machines() {
        let (mut bundle, host, _) = bundle(machine.jail());
        for (path, slice, group) in [
            (json!(format!(":test:{}", bundle.id)), "system.slice", format!("/system.slice/test-{}.scope", bundle.id)),
            (json!(""), "system.slice", format!("/system.slice/jail-{}.scope", bundle.id)),
            (
                json!(format!("a-b-c.slice:test:{}", bundle.id)),
                "a-b-c.slice",
                format!("/a.slice/a-b.slice/a-b-c.slice/test-{}.scope", bundle.id),
            ),
            (json!(format!("-.slice::{}", bundle.id)), "-.slice", format!("/-{}.scope", bundle.id)),
        ] {
            bundle.set("/linux/cgroupsPath", path).create().ok();
            let unit = group.rsplit('/').next().unwrap();
            let shown = machine.show(&format!("-- {unit}"), "Slice,ControlGroup");
            assert_eq!(shown, [format!("Slice={slice}"), format!("ControlGroup={group}")]);
            bundle.delete_force().ok();
            gone(&machine, &bundle, &host, &format!("-- {unit}"));
        }
    }
}

#[test]
fn a_path_that_makes_no_unit_is_refused() {
    let Some(machine) = Machine::start(Cgroups::V2) else { return };
    let (mut bundle, host, unit) = bundle(machine.jail());
    for (path, words) in [
        ("/system/x", "with --systemd-cgroup it is slice:prefix:name"),
        ("system.slice:x", "with --systemd-cgroup it is slice:prefix:name"),
        ("system:x:y", "system is no slice"),
        ("a--b.slice:x:y", "a--b.slice is no slice"),
        ("system.slice:x:y/z", "contains '/'"),
        ("system.slice:x:y.slice", "processes are in scopes only"),
    ] {
        let line = bundle.set("/linux/cgroupsPath", path).create().fails();
        assert!(line.contains("/linux/cgroupsPath") && line.contains(words), "{line}");
    }
    gone(&machine, &bundle, &host, &unit);
}

#[test]
fn annotations_set_properties() {
    let Some(machine) = Machine::start(Cgroups::V2) else { return };
    let (mut bundle, host, unit) = bundle(machine.jail());
    bundle.set(
        "/annotations",
        json!({
            "org.systemd.property.TimeoutStopUSec": "uint64 5000000",
            "org.systemd.property.CollectMode": "'inactive-or-failed'",
            "org.systemd.property.Before": "['a.service']",
            "org.systemd.property.SendSIGHUP": "true",
        }),
    );
    bundle.create().ok();
    let shown = machine.show(&unit, "TimeoutStopUSec,CollectMode,Before,SendSIGHUP");
    for line in ["TimeoutStopUSec=5s", "CollectMode=inactive-or-failed", "Before=a.service", "SendSIGHUP=yes"] {
        assert!(shown.contains(&line.to_owned()), "{line}: {shown:?}");
    }
    bundle.delete_force().ok();
    for (key, value, words) in [
        ("PIDs", "1", "set by the runtime itself"),
        ("Slice", "'a.slice'", "set by the runtime itself"),
        ("After", "a", "no value as GVariant writes it"),
        ("Nonsense", "1", "Nonsense"),
    ] {
        bundle.set("/annotations", json!({format!("org.systemd.property.{key}"): value}));
        let line = bundle.create().fails();
        assert!(line.contains(words) && line.contains(key), "{line}");
    }
    gone(&machine, &bundle, &host, &unit);
}

#[test]
fn limits_are_in_the_files_and_in_the_properties() {
    let Some(machine) = Machine::start(Cgroups::Hybrid) else { return };
    let (mut bundle, host, unit) = bundle(machine.jail());
    bundle.set("/linux/resources", json!({
        "memory": {"limit": 64 * MIB, "swap": 128 * MIB}, "cpu": {"shares": 512, "quota": 15500}, "pids": {"limit": 1},
    }));
    bundle.create().ok();
    let both = |files: &[(&str, &str)], properties: &[&str]| {
        for (name, value) in files {
            assert_eq!(file(&bundle, name), *value, "{name}");
        }
        let shown = machine.show(&unit, "MemoryLimit,CPUShares,CPUQuotaPerSecUSec,TasksMax");
        for line in properties {
            assert!(shown.contains(&(*line).to_owned()), "{line}: {shown:?}");
        }
    };
    let made = [("memory.memsw.limit_in_bytes", "134217728"), ("cpu.cfs_quota_us", "15500"), ("pids.max", "1")];
    both(&made, &["MemoryLimit=67108864", "CPUShares=512", "CPUQuotaPerSecUSec=160ms", "TasksMax=1"]);
    bundle.start().ok();
    bundle.call(&["update", "--memory", "32m", "--memory-swap", "48m", "--pids-limit", "20", &bundle.id]).ok();
    let changed = [("memory.limit_in_bytes", "33554432"), ("pids.max", "20"), ("cpu.shares", "512")];
    both(&changed, &["MemoryLimit=33554432", "CPUShares=512", "TasksMax=20"]);
    // One of two that are one property, and what systemd writes along with it.
    bundle.call(&["update", "--cpu-period", "50000", &bundle.id]).ok();
    both(&[("cpu.cfs_quota_us", "15500"), ("cpu.cfs_period_us", "50000")], &["CPUQuotaPerSecUSec=310ms"]);
    bundle.call(&["update", "--cpu-share", "512", &bundle.id]).ok();
    both(&[("cpu.cfs_quota_us", "15500"), ("cpu.cfs_period_us", "50000")], &["CPUQuotaPerSecUSec=310ms"]);
    // systemd writes all of them again, and they are the same.
    machine.sh("systemctl daemon-reload").ok();
    machine.sh(&format!("systemctl set-property --runtime {unit} CPUShares=600")).ok();
    both(&changed[..2], &["MemoryLimit=33554432", "CPUShares=600", "TasksMax=20"]);
    bundle.call(&["update", "--pids-limit", "-1", "--cpu-quota", "-1", &bundle.id]).ok();
    both(&[("pids.max", "max"), ("cpu.cfs_quota_us", "-1")], &["TasksMax=infinity", "CPUQuotaPerSecUSec=infinity"]);
    bundle.delete_force().ok();
    gone(&machine, &bundle, &host, &unit);
}

#[test]
fn a_change_that_the_kernel_refuses_changes_neither_files_nor_properties() {
    let Some(machine) = Machine::start(Cgroups::Hybrid) else { return };
    let (mut bundle, host, unit) = bundle(machine.jail());
    bundle.set("/linux/resources", json!({"cpu": {"shares": 512, "cpus": "0"}, "pids": {"limit": 30}})).start_sleeper();
    let properties = || machine.show(&unit, "CPUShares,TasksMax,AllowedCPUs,MemoryLimit");
    let before = properties();
    let line = bundle.call(&["update", "--cpu-share", "99", "--pids-limit", "9", "--cpu-quota", "3", &bundle.id]);
    assert!(line.fails().contains("quota"));
    assert_eq!(properties(), before);
    assert_eq!((file(&bundle, "cpu.shares"), file(&bundle, "pids.max")), ("512".to_owned(), "30".to_owned()));
    bundle.delete_force().ok();
    gone(&machine, &bundle, &host, &unit);
}

#[test]
fn devices_stay_closed_when_systemd_writes_its_rules_again() {
    for machine in machines() {
        let (mut bundle, host, unit) = bundle(machine.jail());
        bundle.set("/linux/devices", json!([{ "path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11 }]));
        bundle.set("/linux/resources", json!({"devices": [{"allow": false, "access": "rwm"}]}));
        bundle.start_sleeper();
        let closed = || {
            let done = bundle.exec(&["head", "-c", "1", "/dev/kmsg"]);
            assert!(done.err.contains("Operation not permitted"), "{done}");
            bundle.exec(&["head", "-c", "1", "/dev/zero"]).ok();
        };
        closed();
        machine.sh("systemctl daemon-reload").ok();
        machine.sh(&format!("systemctl set-property --runtime {unit} DeviceAllow='/dev/char/1:3 rwm'")).ok();
        closed();
        bundle.delete_force().ok();
        gone(&machine, &bundle, &host, &unit);
    }
}

/// Makes a scope of this name that is no jail's.
#[track_caller]
fn foreign(machine: &Machine, unit: &str) {
    machine.sh(&format!("systemd-run --quiet --scope --unit={unit} sleep 1000 > /dev/null 2>&1 &")).ok();
    wait_for("the scope", || machine.state(unit) == "active");
}

#[test]
fn a_unit_of_somebody_else_is_never_touched() {
    for machine in machines() {
        let (bundle, host, unit) = bundle(machine.jail());
        foreign(&machine, &unit);
        let line = bundle.create().fails();
        assert!(line.contains(&format!("start {unit}: it already exists")), "{line}");
        bundle.delete_force().ok();
        assert_eq!((machine.state(&unit).as_str(), entries(&bundle.root).len()), ("active", 0));
        machine.sh(&format!("systemctl stop {unit}")).ok();
        // … nor one that took the name of a jail which has ended.
        bundle.create().ok();
        bundle.kill("KILL").ok();
        bundle.becomes("stopped");
        wait_for("the end of the scope", || machine.state(&unit).is_empty());
        foreign(&machine, &unit);
        bundle.delete().ok();
        assert_eq!(machine.state(&unit), "active");
        machine.sh(&format!("systemctl stop {unit}")).ok();
        gone(&machine, &bundle, &host, &unit);
    }
}

#[test]
fn a_scope_that_has_failed_is_forgotten_with_its_jail() {
    for machine in machines() {
        let (mut bundle, host, unit) = bundle(machine.jail());
        bundle.set("/annotations", json!({"org.systemd.property.TimeoutStopUSec": "uint64 100000"}));
        bundle.args(&["sh", "-c", "trap '' TERM; while :; do sleep 1000; done"]).create().ok();
        bundle.start().ok();
        machine.sh(&format!("systemctl stop {unit}"));
        bundle.becomes("stopped");
        assert_eq!(machine.state(&unit), "failed");
        bundle.delete().ok();
        gone(&machine, &bundle, &host, &unit);
    }
}

#[test]
fn every_process_of_the_scope_ends_with_the_jail() {
    for machine in machines() {
        let (mut bundle, host, unit) = bundle(machine.jail());
        let kept = json!([{"type": "mount"}, {"type": "uts"}]);
        bundle.set("/linux/namespaces", kept).args(&["sh", "-c", "sleep 1001 & sleep 1002 & exec sleep 1000"]);
        bundle.create().ok();
        bundle.start().ok();
        wait_for("three processes", || bundle.call(&["ps", "-f", "json", &bundle.id]).out.matches(',').count() == 2);
        bundle.kill("KILL").ok();
        bundle.becomes("stopped");
        assert_eq!(machine.state(&unit), "active", "two are left");
        bundle.delete().ok();
        gone(&machine, &bundle, &host, &unit);
    }
}

fn is_runtime(pid: &i32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.starts_with(b"nsenter") && !line.starts_with(b"sh"))
}

#[test]
fn a_create_that_is_killed_leaves_nothing_behind_one_delete() {
    for machine in all_machines() {
        let (bundle, host, unit) = bundle(machine.jail());
        for moment in 0..16 {
            let mut create = bundle.making("create", &[]);
            let mut child =
                create.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(8 + 4 * moment));
            // The runtime alone; the words before it are those of the way into the machine.
            if let Some(runtime) = processes::below(child.id() as i32).into_iter().find(is_runtime) {
                processes::kill(runtime);
            }
            child.wait().unwrap();
            bundle.delete_force().ok();
            gone(&machine, &bundle, &host, &unit);
        }
    }
}

#[test]
fn without_systemd_it_is_refused_before_anything_is_touched() {
    if !require_root() || !installed("unshare") {
        return;
    }
    let script = std::env::temp_dir().join(tests::unique());
    fs::write(&script, "mount -n -t tmpfs none /run && exec \"$@\"\n").unwrap();
    let words = format!("unshare -m --propagation private sh {} {}", script.display(), scoped_jail());
    let (bundle, host, _) = bundle(Runtime::of(&words));
    let line = bundle.create().fails();
    fs::remove_file(script).unwrap();
    assert!(line.contains("cannot use --systemd-cgroup: no systemd to talk to at /run/systemd/private"), "{line}");
    assert!(line.ends_with("without --systemd-cgroup the cgroup is made directly"), "{line}");
    left_nothing(&bundle, &host);
}

#[test]
fn a_systemd_that_does_not_answer_hangs_nobody() {
    let Some(machine) = Machine::start(Cgroups::V2) else { return };
    let (bundle, host, unit) = bundle(machine.jail());
    let systemd = Pid::from_raw(machine.pid());
    kill(systemd, Signal::SIGSTOP).unwrap();
    let begin = Instant::now();
    let line = bundle.create().fails();
    let took = begin.elapsed();
    kill(systemd, Signal::SIGCONT).unwrap();
    assert!(line.contains("systemd does not answer within 10 seconds"), "{line}");
    assert!(took < Duration::from_secs(15), "{took:?}");
    gone(&machine, &bundle, &host, &unit);
    bundle.run_with(&["--detach"]).ok();
    bundle.delete_force().ok();
    gone(&machine, &bundle, &host, &unit);
}

/// The first program of a machine whose kernel is user-mode-linux, with all the controllers of v2: systemd, with a service
/// that runs the script.
const INIT: &str = r#"#!/bin/bash
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run
mount -n -t proc proc /proc; mount -n -t sysfs sysfs /sys; mount -n -t cgroup2 cgroup2 /sys/fs/cgroup
mount -n -t tmpfs -o mode=755 tmpfs /run; mkdir /run/lab /run/units; mount -n -t hostfs -o "$lab" lab /run/lab
mount -n -t tmpfs tmpfs /tmp
for t in basic sysinit shutdown umount final exit; do printf '[Unit]\nDefaultDependencies=no\n' > /run/units/$t.target; done
printf '[Unit]\nDefaultDependencies=no\nWants=script.service\n' > /run/units/default.target
cat > /run/units/script.service <<END
[Unit]
DefaultDependencies=no
[Service]
WorkingDirectory=/run
Environment=PATH=$PATH
ExecStart=/bin/bash -c 'bash /run/lab/script > /run/lab/out 2> /run/lab/err; echo \$? > /run/lab/code; sync; echo o > /proc/sysrq-trigger'
END
exec env -i PATH=$PATH container=test \
    SYSTEMD_UNIT_PATH=/run/systemd/system.control:/run/systemd/transient:/run/units /lib/systemd/systemd
"#;

#[test]
fn limits_of_v2_are_systemds_and_the_kernels() {
    let mut config = config("sleep 1000");
    config["linux"]["cgroupsPath"] = json!("a-b.slice:test:v2");
    config["linux"]["resources"]["memory"] = json!({ "limit": 33554432, "reservation": 1048576, "swap": 67108864 });
    config["linux"]["resources"]["pids"] = json!({ "limit": 1 });
    config["linux"]["resources"]["unified"] = json!({ "memory.min": "8192" });
    config["linux"]["resources"]["cpu"] = json!({ "quota": 15500, "period": 100000, "shares": 512 });
    let script = "j='/run/lab/jail --systemd-cgroup'; u=test-v2.scope; f=/sys/fs/cgroup/a.slice/a-b.slice/$u
show() { (cd $f; cat memory.max memory.low memory.swap.max pids.max cpu.max cpu.weight | paste -sd,)
systemctl show --property=MemoryMax,MemoryLow,MemorySwapMax,TasksMax,CPUQuotaPerSecUSec,CPUWeight $u | sort | paste -sd,; }
$j create --bundle b v2 < /dev/null; $j start v2; show; systemctl show --property=MemoryMin $u
$j update --memory 48m --memory-swap 64m --pids-limit 20 --cpu-quota 50000 --cpu-share 1024 v2; show
systemctl daemon-reload; systemctl set-property --runtime $u CPUWeight=70; cat $f/cpu.weight $f/cpu.max $f/memory.max
$j update --pids-limit 9 --cpu-quota 3 v2 || show
$j exec v2 dd if=/dev/zero of=/dev/shm/x bs=1M count=70 2> /dev/null || grep -c 'oom_kill [1-9]' $f/memory.events
$j delete --force v2; systemctl list-units --all --no-legend '*.scope' | grep -v init.scope || true
ls -A /run/jail; find /sys/fs/cgroup -name '*.scope' | grep -v init.scope || true";
    let Some(said) = begun_by(INIT, &config, script) else { return };
    let changed = "50331648,1048576,16777216,20,50000 100000,100
CPUQuotaPerSecUSec=500ms,CPUWeight=100,MemoryLow=1048576,MemoryMax=50331648,MemorySwapMax=16777216,TasksMax=20
";
    let expected = format!(
        "33554432,1048576,33554432,1,15500 100000,59
CPUQuotaPerSecUSec=160ms,CPUWeight=59,MemoryLow=1048576,MemoryMax=33554432,MemorySwapMax=33554432,TasksMax=1
MemoryMin=8192
{changed}70
50000 100000
50331648
{}1
.cache
",
        changed.replace("0,100\n", "0,70\n").replace("CPUWeight=100", "CPUWeight=70")
    );
    assert_eq!((said.out, said.code.trim()), (expected, "0"), "{}", said.err);
    assert!(said.err.contains("set cpu.max to 3 100000"), "{}", said.err);
}
