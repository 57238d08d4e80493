//! `update`: the limits of a jail that lives, in part, all or none.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value, json};
use tests::{
    Bundle, Done, Host, LIMIT, Runtime, finish, left_nothing, require_root, running, running_of, runtimes, view,
};

const MIB: i64 = 1 << 20;

/// The text of a file in the jail's cgroup of whichever hierarchy has it.
#[track_caller]
pub(crate) fn limit(bundle: &Bundle, file: &str) -> String {
    let all = view::cgroups(&bundle.id);
    let path = all.iter().map(|folder| folder.join(file)).find(|path| path.exists());
    let path = path.unwrap_or_else(|| panic!("no cgroup of the jail has {file}: {all:?}"));
    fs::read_to_string(path).unwrap().trim().to_owned()
}

/// A host whose memory, cpu, cpuset and pids are controlled by v1, as the names of files here have it.
pub(crate) fn on_v1() -> bool {
    let there = require_root() && PathBuf::from("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists();
    if !there {
        println!("skipped: no controllers of v1; pure_v2 has the same for v2");
    }
    there
}

/// `update` with a document on its standard input.
fn update(bundle: &Bundle, text: &[u8]) -> Done {
    let path = bundle.dir.join("input");
    fs::write(&path, text).unwrap();
    let mut command = bundle.command(&["update", "--resources=-", &bundle.id]);
    finish(command.stdin(Stdio::from(fs::File::open(path).unwrap())), LIMIT)
}

pub(crate) fn update_to(bundle: &Bundle, document: &Value) -> Done {
    update(bundle, document.to_string().as_bytes())
}

pub(crate) fn end(bundle: &Bundle, host: &Host) {
    bundle.delete_force().ok();
    left_nothing(bundle, host);
}

#[test]
fn options_change_what_they_name_and_nothing_else() {
    if !on_v1() {
        return;
    }
    for runtime in runtimes() {
        let (bundle, host) = running_of(runtime);
        let id = &bundle.id[..];
        bundle.call(&["update", "--memory", "67108864", "--memory-swap", "134217728", id]).ok();
        bundle.call(&["update", "--memory-reservation", "33554432", "--pids-limit", "40", id]).ok();
        bundle.call(&["update", "--cpu-period", "50000", "--cpu-quota", "25000", "--cpu-share", "512", id]).ok();
        bundle.call(&["update", "--cpuset-cpus", "0", "--cpuset-mems", "0", id]).ok();
        for (file, value) in [
            ("memory.limit_in_bytes", "67108864"),
            ("memory.memsw.limit_in_bytes", "134217728"),
            ("memory.soft_limit_in_bytes", "33554432"),
            ("pids.max", "40"),
            ("cpu.cfs_period_us", "50000"),
            ("cpu.cfs_quota_us", "25000"),
            ("cpu.shares", "512"),
            ("cpuset.cpus", "0"),
            ("cpuset.mems", "0"),
        ] {
            assert_eq!(limit(&bundle, file), value, "{file}");
        }
        bundle.call(&["update", "--pids-limit", "-1", id]).ok();
        assert_eq!(limit(&bundle, "pids.max"), "max");
        assert_eq!(limit(&bundle, "cpu.shares"), "512", "what is not named stays");
        end(&bundle, &host);
    }
}

/// containerd and docker write it on the standard input, podman into a file.
#[test]
fn a_document_changes_what_it_names_and_nothing_else() {
    if !on_v1() {
        return;
    }
    for runtime in runtimes() {
        let (bundle, host) = running_of(runtime);
        update_to(&bundle, &json!({"memory": {"limit": 64 * MIB, "swap": 64 * MIB}, "pids": {"limit": 30}})).ok();
        update_to(&bundle, &json!({"cpu": {"shares": 256, "quota": 0}, "memory": {"limit": 0}, "blockIO": {}})).ok();
        assert_eq!(limit(&bundle, "memory.limit_in_bytes"), (64 * MIB).to_string());
        assert_eq!(limit(&bundle, "cpu.shares"), "256");
        let file = bundle.dir.join("resources");
        fs::write(&file, json!({"cpu": {"shares": 300}}).to_string()).unwrap();
        bundle.call(&["update", "--resources", &file.to_string_lossy(), &bundle.id]).ok();
        assert_eq!((limit(&bundle, "cpu.shares"), limit(&bundle, "pids.max")), ("300".to_owned(), "30".to_owned()));
        end(&bundle, &host);
    }
}

/// v1 wants the sum of memory and swap to be no less than memory at every moment.
#[test]
fn memory_and_swap_grow_and_shrink_together() {
    if !on_v1() {
        return;
    }
    for runtime in runtimes() {
        let (bundle, host) = running_of(runtime);
        for (memory, swap) in [(64, 80), (128, 160), (48, 50), (300, 300)] {
            update_to(&bundle, &json!({"memory": {"limit": memory * MIB, "swap": swap * MIB}})).ok();
            assert_eq!(limit(&bundle, "memory.limit_in_bytes"), (memory * MIB).to_string());
            assert_eq!(limit(&bundle, "memory.memsw.limit_in_bytes"), (swap * MIB).to_string());
        }
        // No limit of memory is none of both.
        update_to(&bundle, &json!({"memory": {"limit": -1}})).ok();
        assert!(limit(&bundle, "memory.memsw.limit_in_bytes").len() > 15);
        end(&bundle, &host);
    }
}

#[test]
fn a_change_that_the_kernel_refuses_changes_nothing() {
    if !on_v1() {
        return;
    }
    // runc's way back ends in a warning, and it knows no burst.
    let (bundle, host) = running();
    update_to(&bundle, &json!({"cpu": {"shares": 512, "quota": 20000}, "memory": {"limit": 64 * MIB}})).ok();
    // No burst may be longer than the quota; the shares are written before it is tried.
    let wrong = json!({"cpu": {"shares": 128, "quota": 9000, "burst": 9001}, "memory": {"limit": 32 * MIB}});
    assert!(update_to(&bundle, &wrong).fails().contains("set cpu.cfs_burst_us to 9001"));
    for (file, value) in [("cpu.shares", "512"), ("cpu.cfs_quota_us", "20000"), ("memory.limit_in_bytes", "67108864")] {
        assert_eq!(limit(&bundle, file), value, "{file}");
    }
    assert_eq!(bundle.status().as_deref(), Some("running"));
    end(&bundle, &host);
}

#[test]
fn a_limit_below_what_is_in_use_is_refused_where_that_is_asked() {
    if !on_v1() {
        return;
    }
    let (bundle, host) = running();
    update_to(&bundle, &json!({"memory": {"limit": 64 * MIB}})).ok();
    let low = json!({"memory": {"limit": 4096, "checkBeforeUpdate": true}, "pids": {"limit": 5}});
    let line = update_to(&bundle, &low).fails();
    assert!(line.contains("/memory/limit: 4096 is less than the ") && line.contains(":1:"), "{line}");
    assert_eq!(limit(&bundle, "memory.limit_in_bytes"), (64 * MIB).to_string());
    assert_eq!(limit(&bundle, "pids.max"), "max");
    update_to(&bundle, &json!({"memory": {"limit": 32 * MIB, "checkBeforeUpdate": true}})).ok();
    assert_eq!(limit(&bundle, "memory.limit_in_bytes"), (32 * MIB).to_string());
    end(&bundle, &host);
}

#[test]
fn what_makes_no_sense_or_is_not_carried_out_is_refused_with_its_place() {
    if !on_v1() {
        return;
    }
    let (bundle, host) = running();
    let before = limit(&bundle, "cpu.shares");
    for (text, words) in [
        ("", "the standard input:1:0"),
        ("[]", "the standard input:1:"),
        ("{\"cpu\":{\"shares\":9}", ":1:"),
        ("{\"cpu\":\n {\"shares\":\"many\"}}", ":2:"),
        ("{\"memory\":\n{\"limit\":-5}}", ":2:11: /memory/limit: -5"),
        ("{\"cpu\":{\"shares\":9},\"blockIO\":{\"weight\":9}}", ":1:41: /blockIO/weight: 9 is not between"),
        ("{\"cpu\":{\"shares\":9},\"unified\":{\"memory.high\":\"1\"}}", "/unified/memory.high: it names a file of"),
        ("{\"cpu\":{\"shares\":9,\"cpus\":\"0,9999\"}}", "/cpu/cpus: CPU 9999 is not there; this host has 0"),
        ("{\"cpu\":{\"shares\":9},\"devices\":[{\"allow\":true,\"access\":\"rwm\"}]}", "/devices: "),
        ("{\"cpu\":{\"shares\":9,\"cpus\":\"0\\u0000\"}}", "/cpu/cpus: it contains NUL"),
        ("{\"cpu\":{\"shares\":9},\"memory\":{\"limit\":9000000,\"swap\":5000000}}", "/memory/swap: it counts"),
    ] {
        let line = update(&bundle, text.as_bytes()).fails();
        assert!(line.starts_with("jail: cannot ") && line.contains(words), "{text}: {line}");
    }
    let large = [b"{}".to_vec(), vec![b' '; 17 << 20]].concat();
    assert!(update(&bundle, &large).fails().contains("16 MiB"));
    let line = bundle.call(&["update", "--cpu-share", "9", "--memory", "-5", &bundle.id]).fails();
    assert_eq!(line, "jail: cannot use --memory: -5 is neither a limit nor -1, which is none");
    assert_eq!(limit(&bundle, "cpu.shares"), before);
    end(&bundle, &host);
}

/// containerd sends the jail's own device rules along.
#[test]
fn the_jails_own_device_rules_are_no_change() {
    if !on_v1() {
        return;
    }
    for runtime in runtimes() {
        let mut bundle = Bundle::of(runtime);
        let host = Host::snapshot(&bundle.id, &[]);
        let rules = json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}]);
        bundle.set("/linux/resources", json!({"devices": rules})).start_sleeper();
        let before = limit(&bundle, "devices.list");
        update_to(&bundle, &json!({"devices": rules, "pids": {"limit": 12}})).ok();
        assert_eq!((limit(&bundle, "pids.max").as_str(), limit(&bundle, "devices.list")), ("12", before));
        end(&bundle, &host);
    }
}

#[test]
fn a_created_jail_is_changed_and_a_stopped_or_missing_one_is_not() {
    if !on_v1() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = tests::stage_of(runtime);
        let missing = bundle.call(&["update", "--pids-limit", "9", &bundle.id]).fails();
        assert!(missing.contains("does not exist"), "{missing}");
        bundle.args(&["sleep", "1000"]).create().ok();
        bundle.call(&["update", "--pids-limit", "9", &bundle.id]).ok();
        assert_eq!(limit(&bundle, "pids.max"), "9");
        bundle.start().ok();
        bundle.kill("KILL").ok();
        bundle.becomes("stopped");
        let stopped = bundle.call(&["update", "--pids-limit", "9", &bundle.id]).fails();
        assert!(stopped.contains("not running"), "{stopped}");
        end(&bundle, &host);
    }
}

/// A journal can be damaged or forged, and a folder can be another's by now.
#[test]
fn a_cgroup_without_the_jails_mark_is_not_touched() {
    if !on_v1() {
        return;
    }
    let (bundle, host) = running();
    let other = PathBuf::from(format!("/sys/fs/cgroup/pids/other-{}", bundle.id));
    fs::create_dir(&other).unwrap();
    // Behind the jail's own, and then in its place.
    let object = |unique: &str| format!("{}\n", json!({"object": {"kind": "cgroup", "name": other, "unique": unique}}));
    let journal = bundle.entry("journal");
    let text = fs::read_to_string(&journal).unwrap();
    let marked = text.lines().find(|line| line.contains("/pids/")).unwrap();
    let mark: Value = serde_json::from_str(marked).unwrap();
    let forged = object(mark["object"]["unique"].as_str().unwrap());
    fs::write(&journal, text.replace(&format!("{marked}\n"), &forged)).unwrap();
    let refused = bundle.call(&["update", "--pids-limit", "9", &bundle.id]).fails();
    assert!(refused.contains("no cgroup with the pids controller"), "{refused}");
    assert_eq!(fs::read_to_string(other.join("pids.max")).unwrap().trim(), "max");
    fs::write(&journal, text).unwrap();
    fs::remove_dir(&other).unwrap();
    end(&bundle, &host);
}

#[test]
fn a_newer_limit_holds_for_the_program() {
    if !on_v1() {
        return;
    }
    for runtime in runtimes() {
        let (bundle, host) = running_of(runtime);
        bundle.exec(&["sh", "-c", "true & true & true & wait"]).ok();
        bundle.call(&["update", "--pids-limit", "1", &bundle.id]).ok();
        assert!(!bundle.exec(&["sh", "-c", "true & true & true & wait"]).is_ok());
        bundle.call(&["update", "--pids-limit", "100", &bundle.id]).ok();
        bundle.exec(&["sh", "-c", "true & true & true & wait"]).ok();
        end(&bundle, &host);
    }
}

/// A control: crun, too, takes the documents of these tests; it knows only one version of cgroups at a time.
#[test]
fn crun_takes_the_same_document() {
    if !on_v1() || !tests::installed("crun") {
        return;
    }
    view::View::V1.enter().unwrap();
    let (bundle, host) = running_of(Runtime::of("crun"));
    update_to(&bundle, &json!({"cpu": {"shares": 256}, "pids": {"limit": 30}})).ok();
    assert_eq!((limit(&bundle, "cpu.shares").as_str(), limit(&bundle, "pids.max").as_str()), ("256", "30"));
    end(&bundle, &host);
}
