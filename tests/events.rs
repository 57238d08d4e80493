//! `events`: what a jail uses and what happens to it, in runc's words.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Value, json};
use tests::{Bundle, code, left_nothing, require_root, running, running_of, runtimes, stage, stage_of, view};

use crate::pure_v2::{config, on_pure_v2};
use crate::update::{end, on_v1};

/// Every key on the way to a number or a word; what a list holds counts once.
fn keys(value: &Value, at: &str) -> Vec<String> {
    let mut all: Vec<String> = match value {
        Value::Object(map) => map.iter().flat_map(|(key, value)| keys(value, &format!("{at}/{key}"))).collect(),
        Value::Array(list) => list.iter().flat_map(|value| keys(value, &format!("{at}/-"))).collect(),
        _ => Vec::new(),
    };
    all.push(at.to_owned());
    all.sort();
    all.dedup();
    all
}

fn statistics(bundle: &Bundle) -> Value {
    let line = bundle.call(&["events", "--stats", &bundle.id]).ok();
    assert_eq!(line.lines().count(), 1, "{line}");
    serde_json::from_str(&line).unwrap()
}

/// `events` in the background, and what it prints.
fn watch(bundle: &Bundle, options: &[&str]) -> (Child, impl Iterator<Item = Value> + use<>) {
    let mut command: Command = bundle.command(&[&["events"], options, &[&bundle.id]].concat());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let out: ChildStdout = child.stdout.take().unwrap();
    let lines = BufReader::new(out).lines();
    (child, lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()))
}

/// The same jail, limited in all that is counted apart, and a second process that reads a disk and works.
#[test]
fn statistics_have_the_keys_and_the_limits_that_runcs_have() {
    if !on_v1() {
        return;
    }
    let mut all = Vec::new();
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let resources = json!({"memory": {"limit": 64 << 20, "swap": 80 << 20}, "pids": {"limit": 20}, "cpu": {"quota": 50000, "cpus": "0"}});
        bundle.set("/linux/resources", resources).start_sleeper();
        let busy = "n=0; while [ $n -lt 100000 ]; do n=$((n + 1)); done; dd if=/bin/busybox of=/dev/null";
        bundle.exec(&["sh", "-c", busy]).ok();
        let document = statistics(&bundle);
        assert_eq!((&document["type"], &document["id"]), (&json!("stats"), &json!(bundle.id)));
        for (pointer, value) in [
            ("/data/memory/usage/limit", json!(64 << 20)),
            ("/data/memory/swap/limit", json!(80 << 20)),
            ("/data/pids", json!({"current": 1, "limit": 20})),
            ("/data/cpuset/cpus", json!([0])),
            ("/data/network_interfaces", json!(null)),
            ("/data/intel_rdt", json!({})),
        ] {
            assert_eq!(document.pointer(pointer), Some(&value), "{pointer}");
        }
        let total = document.pointer("/data/cpu/usage/total").unwrap().as_u64().unwrap();
        let each = document.pointer("/data/cpu/usage/percpu").unwrap().as_array().unwrap();
        assert_eq!(each.iter().map(|n| n.as_u64().unwrap()).sum::<u64>(), total);
        // What is 0 is left out: whether a quota has throttled, or a disk was read, is chance. On a hybrid host huge pages are
        // counted by v2, where runc does not look.
        let chance = |key: &String| {
            ["/throttling", "/blkio", "/cache", "/kernelTCP", "/hugetlb/"].iter().any(|part| key.contains(part))
        };
        all.push(keys(&document, "").into_iter().filter(|key| !chance(key)).collect::<Vec<_>>());
        end(&bundle, &host);
    }
    if let [own, runcs] = &all[..] {
        assert_eq!(own, runcs);
    }
}

#[test]
fn events_come_in_every_interval_and_end_with_the_jail() {
    if !on_v1() {
        return;
    }
    for runtime in runtimes() {
        let runtime_is_own = runtime.name() != "runc";
        let (bundle, host) = running_of(runtime);
        let (mut child, mut lines) = watch(&bundle, &["--interval", "100ms"]);
        for _ in 0..3 {
            assert_eq!(lines.next().unwrap()["type"], "stats");
        }
        finish_with(&bundle, runtime_is_own, &mut child);
        assert!(lines.all(|line| line["type"] == "stats"));
        end(&bundle, &host);
    }
}

#[test]
fn a_jail_without_memory_left_is_told_of() {
    if !on_v1() {
        return;
    }
    for runtime in runtimes() {
        let runtime_is_own = runtime.name() != "runc";
        let (mut bundle, host) = stage_of(runtime);
        bundle.set("/linux/resources", json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}})).start_sleeper();
        let (mut child, mut lines) = watch(&bundle, &["--interval", "1h"]);
        // Registered when it is there: the kernel tells nobody of what was before.
        tests::wait_for("the watch", || is_watched(child.id()));
        bundle.exec(&["sh", "-c", "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done"]);
        assert_eq!(lines.next(), Some(json!({"type": "oom", "id": bundle.id})));
        finish_with(&bundle, runtime_is_own, &mut child);
        assert!(lines.all(|line| line["type"] == "oom"));
        end(&bundle, &host);
    }
}

/// Ends the jail and with it the events; runc's end only when the cgroup is removed.
#[track_caller]
fn finish_with(bundle: &Bundle, is_own: bool, child: &mut Child) {
    bundle.kill("KILL").ok();
    if !is_own {
        bundle.delete_force().ok();
    }
    assert_eq!(code(child), Some(0));
}

/// Whether a process has an eventfd: it is registered a moment after it is made.
fn is_watched(pid: u32) -> bool {
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let mut links = open.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    links.any(|link| link.to_string_lossy().contains("[eventfd"))
}

#[test]
fn events_of_what_does_not_run_and_intervals_of_nothing_are_refused() {
    if !require_root() {
        return;
    }
    let (bundle, host) = stage();
    assert!(bundle.call(&["events", "--stats", &bundle.id]).fails().contains("does not exist"));
    let (bundle, host) = (drop((bundle, host)), running()).1;
    for interval in ["0s", "-5s", "soon", ""] {
        let done = bundle.call(&["events", &format!("--interval={interval}"), &bundle.id]);
        assert_eq!(done.code(), Some(2), "{done}");
    }
    bundle.call(&["pause", &bundle.id]).ok();
    assert_eq!(statistics(&bundle)["type"], "stats");
    bundle.kill("KILL").ok();
    bundle.becomes("stopped");
    assert!(bundle.call(&["events", "--stats", &bundle.id]).fails().contains("container not running"));
    bundle.delete().ok();
    left_nothing(&bundle, &host);
}

#[test]
fn a_reader_that_leaves_ends_it_without_a_word() {
    if !require_root() {
        return;
    }
    let (bundle, host) = running();
    let (mut child, lines) = watch(&bundle, &["--interval", "20ms"]);
    drop(lines);
    assert_eq!(code(&mut child), Some(0));
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
    assert_eq!(said, "");
    end(&bundle, &host);
}

/// No controllers are there, but every directory of v2 counts CPU time.
#[test]
fn a_view_of_v2_alone_has_statistics_too() {
    if !require_root() {
        return;
    }
    view::View::V2.enter().unwrap();
    let (bundle, host) = running();
    let document = statistics(&bundle);
    assert!(document.pointer("/data/cpu/usage/total").unwrap().as_u64().unwrap() > 0, "{document}");
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

#[test]
fn statistics_and_a_lack_of_memory_on_pure_v2() {
    let mut config = config("sleep 1000");
    config["linux"]["resources"] = json!({
        "memory": {"limit": 16 << 20, "swap": 20 << 20}, "pids": {"limit": 20}, "cpu": {"quota": 50000},
        "blockIO": {"throttleReadBpsDevice": [{"major": 98, "minor": 0, "rate": 9_000_000}]}
    });
    // runc may not be there; its document is compared where it is.
    let script = "$j create --bundle b use < /dev/null; $j start use; $j events --stats use
$j events --interval 1h use > log & sleep 0.3; $j exec use sh -c 'x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done' 2> /dev/null || true
until [ -s log ]; do sleep 0.05; done; cat log; $j kill use KILL; wait; $j delete use
sed -i 's|/test|/other|' b/config.json; runc run -d --bundle b other < /dev/null > /dev/null 2>&1 && runc events --stats other && runc delete -f other
find /sys/fs/cgroup -mindepth 1 -type d";
    let Some(said) = on_pure_v2(&config, script) else { return };
    assert_eq!(said.code.trim(), "0", "{}", said.err);
    let lines: Vec<Value> = said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let own = &lines[0];
    for (pointer, value) in [
        ("/data/memory/usage/limit", json!(16 << 20)),
        ("/data/memory/swap/limit", json!(20 << 20)),
        ("/data/pids/limit", json!(20)),
    ] {
        assert_eq!(own.pointer(pointer), Some(&value), "{pointer}");
    }
    assert_eq!(lines[1], json!({"type": "oom", "id": "use"}));
    let runcs = lines.iter().skip(2).find(|line| line["type"] == "stats");
    let known = keys(own, "");
    // Chance as above.
    let lacks = |key: &String| !known.contains(key) && !["/throttling", "/cache"].iter().any(|part| key.contains(part));
    assert_eq!(runcs.map(|runcs| keys(runcs, "")).unwrap_or_default().into_iter().find(lacks), None);
}
