//! `linux.resources`: every limit is in the kernel's file, or refused with the reason; an update of it that is interrupted
//! is taken back.

use std::fs;
use std::process::Stdio;

use serde_json::{Value, json};
use tests::trace::{self, Act, Follow};
use tests::{Bundle, LIMIT, left_nothing, require_root, running, runtimes, stage, stage_of};

use crate::pure_v2::{config, on_pure_v2};
use crate::update::{end, limit, on_v1, update_to};

/// A disk that nobody uses, as `major:minor`.
fn disk() -> (Value, String) {
    let text = fs::read_to_string("/sys/block/loop0/dev").unwrap();
    let (major, minor) = text.trim().split_once(':').unwrap();
    let device = json!({"major": major.parse::<i64>().unwrap(), "minor": minor.parse::<i64>().unwrap(), "rate": 5000});
    (device, text.trim().to_owned())
}

#[test]
fn limits_of_v1_are_in_their_files_at_create_and_update() {
    if !on_v1() {
        return;
    }
    let (mut device, name) = disk();
    let mut resources = json!({
        "blockIO": {"weight": 300, "throttleReadBpsDevice": [device], "throttleWriteIOPSDevice": [device]},
        "memory": {"limit": 64 << 20, "swappiness": 30, "disableOOMKiller": true}
    });
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.set("/linux/resources", resources.clone()).start_sleeper();
        let weight = limit(&bundle, "blkio.bfq.weight");
        assert_eq!(weight, "300");
        assert_eq!(limit(&bundle, "blkio.throttle.read_bps_device"), format!("{name} 5000"));
        assert_eq!(limit(&bundle, "blkio.throttle.write_iops_device"), format!("{name} 5000"));
        assert_eq!(limit(&bundle, "memory.swappiness"), "30");
        assert!(limit(&bundle, "memory.oom_control").starts_with("oom_kill_disable 1"));
        bundle.call(&["update", "--blkio-weight", "200", &bundle.id]).ok();
        assert_eq!(limit(&bundle, "blkio.bfq.weight"), "200");
        end(&bundle, &host);
    }
    // What runc leaves as it is at create or update without a word.
    device["rate"] = json!(0);
    let (mut bundle, host) = stage();
    resources["cpu"] = json!({"quota": 20000, "burst": 10000, "realtimeRuntime": 1000, "realtimePeriod": 500_000});
    resources["memory"]["kernelTCP"] = json!(8 << 20);
    bundle.set("/linux/resources", resources).start_sleeper();
    for (file, value) in [
        ("cpu.cfs_burst_us", "10000"),
        ("cpu.rt_runtime_us", "1000"),
        ("cpu.rt_period_us", "500000"),
        ("memory.kmem.tcp.limit_in_bytes", "8388608"),
    ] {
        assert_eq!(limit(&bundle, file), value, "{file}");
    }
    let blocks = json!({"throttleReadBpsDevice": [device]});
    let cpu = json!({"idle": 1, "quota": 5000, "burst": 0});
    update_to(&bundle, &json!({"blockIO": blocks, "memory": {"disableOOMKiller": false, "swappiness": 9}, "cpu": cpu}))
        .ok();
    bundle.call(&["update", "--cpu-rt-runtime", "2000", "--kernel-memory-tcp", "4m", &bundle.id]).ok();
    for (file, value) in [
        ("blkio.throttle.read_bps_device", ""),
        ("memory.swappiness", "9"),
        ("cpu.idle", "1"),
        ("cpu.cfs_burst_us", "0"),
        ("cpu.rt_runtime_us", "2000"),
        ("memory.kmem.tcp.limit_in_bytes", "4194304"),
    ] {
        assert_eq!(limit(&bundle, file), value, "{file}");
    }
    assert!(limit(&bundle, "memory.oom_control").starts_with("oom_kill_disable 0"));
    let idle = bundle.call(&["update", "--cpu-share", "300", &bundle.id]).fails();
    assert!(idle.ends_with(": an idle cgroup has none; set cpu/idle to 0 too"), "{idle}");
    bundle.call(&["update", "--cpu-idle", "0", "--cpu-share", "300", "--cpu-burst", "1000", &bundle.id]).ok();
    assert_eq!((limit(&bundle, "cpu.shares"), limit(&bundle, "cpu.cfs_burst_us")), ("300".into(), "1000".into()));
    end(&bundle, &host);
}

/// A cgroup can have no more of it than the one above, and runc says `invalid argument` where that has nothing.
#[test]
fn directories_that_jails_have_made_get_what_their_jails_need_of_real_time() {
    if !on_v1() {
        return;
    }
    let (mut one, host) = stage();
    let mut two = Bundle::new();
    let parent = format!("/jail-test-{}", one.id);
    let real_time = |runtime: i64| json!({"cpu": {"realtimeRuntime": runtime, "realtimePeriod": 1_000_000}});
    one.set("/linux/cgroupsPath", format!("{parent}/one")).set("/linux/resources", real_time(1000)).start_sleeper();
    two.set("/linux/cgroupsPath", format!("{parent}/{}", two.id))
        .set("/linux/resources", real_time(2000))
        .start_sleeper();
    let above = || fs::read_to_string(format!("/sys/fs/cgroup/cpu{parent}/cpu.rt_runtime_us")).unwrap();
    assert!((3000..3010).contains(&above().trim().parse::<i64>().unwrap()), "{}", above());
    update_to(&two, &json!({"cpu": {"realtimeRuntime": 5000}})).ok();
    assert_eq!(limit(&two, "cpu.rt_runtime_us"), "5000");
    let before = above();
    // The last of the values is refused, and the directory above gets its old value back too.
    update_to(&two, &json!({"cpu": {"realtimeRuntime": 9000, "quota": 3}})).fails();
    assert_eq!((limit(&two, "cpu.rt_runtime_us"), above()), ("5000".to_owned(), before));
    let all = update_to(&two, &json!({"cpu": {"realtimeRuntime": 999_000}})).fails();
    assert!(all.contains("write more to its cpu.rt_runtime_us, or ask for less"), "{all}");
    two.delete_force().ok();
    end(&one, &host);
}

#[test]
fn what_this_host_cannot_do_is_refused_in_one_line_before_anything_is_made() {
    if !on_v1() {
        return;
    }
    let (mut bundle, host) = stage();
    let (device, name) = disk();
    let at = |major: i64, minor: i64| json!({"major": major, "minor": minor, "rate": 1});
    for (resources, words) in [
        (json!({"unified": {"memory.high": "1"}}), "/unified/memory.high: it names a file of cgroup v2"),
        (json!({"unified": {"x/../y.max": "1"}}), "/unified/x~1..~1y.max: it is no name of a file"),
        (json!({"rdma": {"mlx": {"hcaHandles": 3}}}), "/rdma/mlx: this host has no rdma controller"),
        (json!({"network": {"classID": 5}}), "/network/classID: this host has no net_cls controller"),
        (json!({"hugepageLimits": [{"pageSize": "3MB", "limit": 0}]}), "/hugepageLimits/0: this host has no huge"),
        (json!({"memory": {"kernel": 5_000_000}}), "/memory/kernel: kernel memory counts as memory here"),
        (json!({"cpu": {"cpus": "0-9999"}}), " is not there; this host has 0"),
        (json!({"cpu": {"cpus": "one"}}), "/cpu/cpus: \"one\" is no list"),
        (json!({"cpu": {"mems": "77"}}), "/cpu/mems: memory node 77 is not there; this host has 0"),
        (json!({"blockIO": {"throttleReadIOPSDevice": [at(4095, 9)]}}), "this host has no block device 4095:9"),
        (json!({"blockIO": {"throttleReadBpsDevice": [device, device]}}), &*format!("/1: {name} is given twice")),
    ] {
        let line = bundle.set("/linux/resources", resources.clone()).create().fails();
        assert!(line.contains(words) && line.contains("config.json:1:"), "{resources}: {line}");
        assert!(!bundle.entry("state.json").exists());
    }
    left_nothing(&bundle, &host);
}

/// The tests change nothing of the host's own hierarchies: only where somebody has enabled the controller is it there.
#[test]
fn huge_pages_are_limited_by_v2_beside_controllers_of_v1() {
    let enabled = fs::read_to_string("/sys/fs/cgroup/unified/cgroup.subtree_control").unwrap_or_default();
    if !on_v1() || !enabled.contains("hugetlb") {
        println!("skipped: hugetlb is not enabled");
        return;
    }
    let (mut bundle, host) = stage();
    let pages = |limit: i64| json!({"hugepageLimits": [{"pageSize": "2MB", "limit": limit}]});
    bundle.set("/linux/resources", pages(0)).start_sleeper();
    assert_eq!((limit(&bundle, "hugetlb.2MB.max"), limit(&bundle, "hugetlb.2MB.rsvd.max")), ("0".into(), "0".into()));
    update_to(&bundle, &pages(4 << 20)).ok();
    assert_eq!(limit(&bundle, "hugetlb.2MB.max"), "4194304");
    update_to(&bundle, &json!({"unified": {"hugetlb.2MB.max": "2097152", "hugetlb.1GB.max": "x"}})).fails();
    assert_eq!(limit(&bundle, "hugetlb.2MB.max"), "4194304");
    update_to(&bundle, &pages(-1)).ok();
    assert_eq!(limit(&bundle, "hugetlb.2MB.rsvd.max"), "max");
    end(&bundle, &host);
}

/// Every value of every limit is either refused in one line or makes a plan.
#[test]
fn values_that_nobody_sends_are_refused_in_one_line_or_planned() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let device = disk().0;
    let weight = json!({"major": device["major"], "minor": device["minor"], "weight": 10, "leafWeight": 10});
    let all = json!({
        "memory": {"limit": 5, "reservation": 5, "swap": 5, "kernel": 5, "kernelTCP": 5, "swappiness": 5,
            "disableOOMKiller": false, "useHierarchy": true, "checkBeforeUpdate": true},
        "cpu": {"shares": 5, "quota": 5, "burst": 5, "period": 5, "realtimeRuntime": 5, "realtimePeriod": 5, "cpus": "0",
            "mems": "0", "idle": 1},
        "pids": {"limit": 5},
        "blockIO": {"weight": 10, "leafWeight": 10, "weightDevice": [weight], "throttleReadBpsDevice": [device],
            "throttleWriteIOPSDevice": [device]},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 5}],
        "network": {"classID": 5, "priorities": [{"name": "lo", "priority": 5}]},
        "rdma": {"a": {"hcaHandles": 5, "hcaObjects": 5}},
        "unified": {"memory.high": "5"}
    });
    let values = [
        json!(-1),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(0),
        json!("x"),
        json!(""),
        json!(null),
        json!([]),
        json!({}),
        json!(true),
    ];
    let mut planned = 0;
    for pointer in leaves(&all, "") {
        for value in &values {
            let mut resources = json!({});
            let (part, rest) = pointer[1..].split_once('/').unwrap();
            resources[part] = all[part].clone();
            *resources[part].pointer_mut(&format!("/{rest}")).unwrap() = value.clone();
            let done = bundle.set("/linux/resources", resources).create_with(&["--dry-run"]);
            match done.is_ok() {
                true => planned += 1,
                false => drop(done.fails()),
            }
        }
    }
    assert!(planned > 30, "{planned}");
    left_nothing(&bundle, &host);
}

/// The pointers of all that is no object and no list.
fn leaves(value: &Value, at: &str) -> Vec<String> {
    match value {
        Value::Object(map) => map.iter().flat_map(|(key, value)| leaves(value, &format!("{at}/{key}"))).collect(),
        Value::Array(list) => {
            list.iter().enumerate().flat_map(|(index, value)| leaves(value, &format!("{at}/{index}"))).collect()
        }
        _ => vec![at.to_owned()],
    }
}

#[test]
fn an_update_that_is_killed_is_taken_back_by_the_next_verb() {
    if !on_v1() {
        return;
    }
    const WRITE: u64 = 1;
    let (bundle, host) = running();
    let old = ["64", "128", "20", "512"];
    let values = || {
        let bytes = |file| limit(&bundle, file).parse::<u64>().map_or(0, |n| n >> 20).to_string();
        let [memory, swap] = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"].map(bytes);
        [memory, swap, limit(&bundle, "pids.max"), limit(&bundle, "cpu.shares")]
    };
    let words = |values: [&str; 4]| {
        let [memory, swap, pids, shares] = values.map(str::to_owned);
        let words = ["update", "--memory", &format!("{memory}m"), "--memory-swap", &format!("{swap}m")];
        let words =
            words.map(str::to_owned).into_iter().chain(["--pids-limit".into(), pids, "--cpu-share".into(), shares]);
        words.chain([bundle.id.clone()]).collect::<Vec<_>>()
    };
    let command = |values| {
        let words = words(values);
        bundle.command(&words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let set = |values| tests::finish(&mut command(values), LIMIT).ok();
    let (new, mut halves) = (["96", "192", "30", "1024"], 0);
    for kill_at in 1.. {
        set(old);
        let mut writes = 0;
        let traced = trace::run(&mut command(new), Follow::Main, None, LIMIT, &mut |call| {
            writes += usize::from(call.number == WRITE);
            if call.number == WRITE && writes == kill_at { Act::Kill } else { Act::Go }
        });
        let left = values();
        let interrupted = bundle.entry("update").exists();
        // It is not paused, but its lock is taken all the same.
        let after = bundle.call(&["resume", &bundle.id]);
        assert!(!bundle.entry("update").exists());
        if traced.done.is_ok() {
            assert_eq!((values(), interrupted), (new.map(str::to_owned), false));
            break;
        }
        halves += usize::from(left != old);
        assert_eq!(values(), old, "killed before write {kill_at}");
        assert_eq!(
            after.err.contains("was interrupted: its limits are again"),
            interrupted && left_a_whole_record(kill_at),
            "{after}"
        );
    }
    assert!(halves >= 3, "{halves}");
    end(&bundle, &host);
}

/// The first write of an update is that of the record.
fn left_a_whole_record(kill_at: usize) -> bool {
    kill_at > 1
}

/// The file is a stranger's word: it can be damaged, forged, or of a jail that was made since.
#[test]
fn a_record_of_an_update_that_is_none_changes_nothing() {
    if !on_v1() {
        return;
    }
    let (bundle, host) = running();
    let other = format!("/sys/fs/cgroup/pids/other-{}", bundle.id);
    fs::create_dir(&other).unwrap();
    let own = format!("/sys/fs/cgroup/pids/jail-test-{}", bundle.id);
    let old = |dir: &str, file: &str| format!("{}\n", json!([{"dir": dir, "file": file, "text": "7"}]));
    bundle.call(&["update", "--pids-limit", "9", &bundle.id]).ok();
    for (text, pids) in [
        (old(&other, "pids.max"), "9"),
        (old("/", "etc/passwd"), "9"),
        (old(&own, &format!("../other-{}/pids.max", bundle.id)), "9"),
        ("garbage\n".to_owned(), "9"),
        (old(&own, "pids.max").trim().to_owned(), "9"),
        (String::new(), "9"),
        (old(&own, "pids.max"), "7"),
    ] {
        fs::write(bundle.entry("update"), &text).unwrap();
        bundle.call(&["pause", &bundle.id]).ok();
        bundle.call(&["resume", &bundle.id]).ok();
        assert_eq!(limit(&bundle, "pids.max"), pids, "{text}");
        assert_eq!(fs::read_to_string(format!("{other}/pids.max")).unwrap(), "max\n", "{text}");
        assert!(!bundle.entry("update").exists());
    }
    // Nor does it keep a jail from being deleted.
    fs::write(bundle.entry("update"), "garbage").unwrap();
    fs::remove_dir(&other).unwrap();
    end(&bundle, &host);
}

#[test]
fn limits_of_v2_are_in_their_files_at_create_and_update() {
    let mut config = config("sleep 1000");
    config["linux"]["resources"] = json!({
        "blockIO": {
            "throttleReadBpsDevice": [{"major": 98, "minor": 0, "rate": 1_000_000}],
            "throttleWriteIOPSDevice": [{"major": 98, "minor": 0, "rate": 50}]
        },
        "cpu": {"idle": 1, "quota": 20000, "burst": 10000},
        "memory": {"limit": 32 << 20, "swap": 48 << 20, "useHierarchy": true, "disableOOMKiller": false},
        "unified": {"memory.high": "30000000", "pids.max": "44", "cgroup.max.depth": "3"}
    });
    let script = r#"f=/sys/fs/cgroup/test; show() { (cd $f; cat io.max cpu.idle cpu.max.burst memory.high pids.max cgroup.max.depth memory.swap.max | paste -sd,); }
$j create --bundle b all < /dev/null; $j start all; show
up() { echo "$1" | $j update -r - all 2>&1 || true; show; }
up '{"blockIO":{"throttleReadBpsDevice":[{"major":98,"minor":0,"rate":0}]},"cpu":{"idle":0,"shares":1024,"burst":0},"unified":{"memory.high":"max"}}'
up '{"memory":{"limit":50331648}}'
up '{"blockIO":{"throttleWriteBpsDevice":[{"major":98,"minor":0,"rate":9}]},"unified":{"memory.high":"9000000","memory.max":"x"}}'
up '{"unified":{"memory.nothing":"1"},"pids":{"limit":3}}'
$j delete --force all; ls -A /run/jail; find /sys/fs/cgroup -mindepth 1 -type d"#;
    let Some(said) = on_pure_v2(&config, script) else { return };
    let after = "98:0 rbps=max wbps=max riops=max wiops=50,0,0,max,44,3,16777216\n";
    let expected = format!(
        "98:0 rbps=1000000 wbps=max riops=max wiops=50,1,10000,29999104,44,3,16777216\n{after}{after}\
         jail: cannot set memory.max to x in /sys/fs/cgroup/test: invalid argument\n{after}\
         jail: cannot apply the standard input:1:32: /unified/memory.nothing: /sys/fs/cgroup/test has no memory.nothing: \
         this kernel does not know it\n{after}.cache\n"
    );
    assert_eq!((said.out, said.code.trim()), (expected, "0"), "{}", said.err);
}

#[test]
fn what_v2_does_not_have_is_refused_with_the_reason() {
    let lines = [
        (r#"{"network":{"classID":5}}"#, "/network/classID: cgroup v2 has no classes"),
        (r#"{"memory":{"swappiness":20}}"#, "/memory/swappiness: cgroup v2 has one for the whole host"),
        (r#"{"memory":{"disableOOMKiller":true}}"#, "/memory/disableOOMKiller: cgroup v2 cannot switch it off"),
        (r#"{"memory":{"kernel":5000000}}"#, "/memory/kernel: kernel memory counts as memory here"),
        (r#"{"cpu":{"realtimeRuntime":5}}"#, "/cpu/realtimeRuntime: cgroup v2 has no real-time"),
        (r#"{"blockIO":{"leafWeight":50}}"#, "/blockIO/leafWeight: cgroup v2 has no processes"),
        (r#"{"blockIO":{"weight":50}}"#, " has no io.bfq.weight and no io.weight: this kernel does not know it"),
        (r#"{"hugepageLimits":[{"pageSize":"2MB","limit":0}]}"#, "/hugepageLimits/0: this host has no hugetlb"),
        (r#"{"unified":{"cgroup.procs":"1"}}"#, "/unified/cgroup.procs: it is no limit"),
        (r#"{"unified":{"hugetlb.2MB.max":"1"}}"#, "/unified/hugetlb.2MB.max: this host has no hugetlb"),
        (r#"{"blockIO":{"throttleReadBpsDevice":[{"major":98,"minor":1,"rate":1}]}}"#, "no block device 98:1"),
    ];
    let documents: String = lines.iter().map(|(json, _)| format!("try '{json}'\n")).collect();
    // The same at create as at update.
    let script = format!(
        "try() {{ sed \"s|\\\"resources\\\":{{[^}}]*}}]}}|\\\"resources\\\":$1|\" lab/config.json > b/config.json
grep -qF \"$1\" b/config.json; $j create --bundle b no < /dev/null && exit 7; echo \"$1\" | $j update -r - yes && exit 7; true; }}
sed -i 's|/test|/other|' lab/config.json; cp lab/config.json b/; $j create --bundle b yes < /dev/null; sed -i 's|/other|/test|' lab/config.json
{documents}$j delete --force yes; ls -A /run/jail; find /sys/fs/cgroup -mindepth 1 -type d"
    );
    let Some(said) = on_pure_v2(&config("sleep 1000"), &script) else { return };
    assert_eq!((said.out.as_str(), said.code.trim()), (".cache\n", "0"), "{}", said.err);
    let refusals: Vec<_> = said.err.lines().collect();
    assert_eq!(refusals.len(), 2 * lines.len(), "{}", said.err);
    for (index, (json, words)) in lines.iter().enumerate() {
        assert!(refusals[2 * index..][..2].iter().all(|line| line.contains(words)), "{json}: {}", said.err);
    }
}

/// An answer to nobody: `update` with everything at once, as a script may call it.
#[test]
fn an_option_that_is_refused_is_named() {
    if !on_v1() {
        return;
    }
    let (bundle, host) = running();
    for (option, value, words) in [
        ("--blkio-weight", "1001", "use --blkio-weight: 1001 is not between 10 and 1000"),
        ("--cpuset-cpus", "4096", "apply --cpuset-cpus: CPU 4096 is not there; this host has 0"),
        ("--cpu-idle", "3", "use --cpu-idle: 3 is neither 0 nor 1"),
        ("--cpu-rt-runtime", "9999999", "use --cpu-rt-runtime: 9999999 is more than the period of 1000000"),
        ("--kernel-memory", "9m", "apply --kernel-memory: kernel memory counts as memory here"),
        ("--l3-cache-schema", "L3:0=f", "use --l3-cache-schema: intelRdt is not carried out yet"),
        ("--mem-bw-schema", "MB:0=9", "use --mem-bw-schema: intelRdt is not carried out yet"),
    ] {
        let mut command = bundle.command(&["update", option, value, &bundle.id]);
        let line = tests::finish(command.stdin(Stdio::null()), LIMIT).fails();
        assert!(line.starts_with(&format!("jail: cannot {words}")), "{line}");
    }
    end(&bundle, &host);
}
