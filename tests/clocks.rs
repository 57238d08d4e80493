//! The time name space of a jail: its clocks have their offsets, in every process that is in it, and nowhere else.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use tests::{Bundle, left_nothing, require_root, stage};

/// A year, in seconds: no test takes so long, and no host has been up for so long.
const YEAR: i64 = 31_536_000;

const SCRIPT: &str = "my $t = pack('qq', 0, 0); for my $clock (1, 7) { syscall(228, $clock, $t); \
                      print((unpack('qq', $t))[0], ' ') }";

/// CLOCK_MONOTONIC and CLOCK_BOOTTIME, in seconds.
fn clocks(text: &str) -> [i64; 2] {
    let numbers: Vec<_> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
    numbers.try_into().unwrap()
}

fn of_the_host() -> [i64; 2] {
    clocks(&String::from_utf8(Command::new("perl").args(["-e", SCRIPT]).output().unwrap().stdout).unwrap())
}

#[track_caller]
fn is_after(now: i64, offset: i64, then: i64) {
    assert!((0..60).contains(&(now - offset - then)), "{now} is not {then} and {offset}");
}

fn offsets(bundle: &mut Bundle, offsets: Value) -> &mut Bundle {
    bundle.set("/linux/namespaces/-", json!({"type": "time"})).set("/linux/timeOffsets", offsets)
}

fn space(pid: i32) -> String {
    fs::read_link(format!("/proc/{pid}/ns/time")).unwrap().to_string_lossy().into_owned()
}

#[test]
fn the_first_process_and_every_other_see_the_clocks_with_their_offsets() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    offsets(&mut bundle, json!({"monotonic": {"secs": YEAR, "nanosecs": 999_999_999}, "boottime": {"secs": 2 * YEAR}}));
    let before = of_the_host();
    let inside = clocks(&bundle.perl(SCRIPT).run().ok());
    is_after(inside[0], YEAR, before[0]);
    is_after(inside[1], 2 * YEAR, before[1]);
    let uptime = bundle.script("cat /proc/uptime");
    is_after(uptime.split('.').next().unwrap().parse().unwrap(), 2 * YEAR, before[1]);
    bundle.start_sleeper();
    let pid = bundle.pid().unwrap();
    assert_ne!(space(pid), space(std::process::id() as i32));
    let inside = clocks(&bundle.exec(&["perl", "-e", SCRIPT]).ok());
    is_after(inside[0], YEAR, before[0]);
    is_after(inside[1], 2 * YEAR, before[1]);
    assert_eq!(bundle.exec(&["readlink", "/proc/self/ns/time"]).ok().trim(), space(pid));
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
    let after = of_the_host();
    is_after(after[0], 0, before[0]);
}

#[test]
fn an_offset_can_go_back() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    // A host that has just been started cannot go back far.
    let back = -of_the_host()[1].min(1000);
    offsets(&mut bundle, json!({"boottime": {"secs": back}}));
    let before = of_the_host();
    let inside = clocks(&bundle.perl(SCRIPT).run().ok());
    is_after(inside[0], 0, before[0]);
    is_after(inside[1], back, before[1]);
    left_nothing(&bundle, &host);
}

#[test]
fn a_time_name_space_without_offsets_is_new_all_the_same() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.set("/linux/namespaces/-", json!({"type": "time"})).start_sleeper();
    assert_ne!(space(bundle.pid().unwrap()), space(std::process::id() as i32));
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

#[test]
fn a_jail_joins_the_clocks_of_another_by_path() {
    if !require_root() {
        return;
    }
    let (mut first, host) = stage();
    offsets(&mut first, json!({"boottime": {"secs": YEAR}})).start_sleeper();
    let pid = first.pid().unwrap();
    let (mut bundle, second_host) = stage();
    bundle.set("/linux/namespaces/-", json!({"type": "time", "path": format!("/proc/{pid}/ns/time")}));
    let before = of_the_host();
    is_after(clocks(&bundle.perl(SCRIPT).run().ok())[1], YEAR, before[1]);
    bundle.args(&["sleep", "1000"]).create().ok();
    bundle.start().ok();
    assert_eq!(space(bundle.pid().unwrap()), space(pid));
    is_after(clocks(&bundle.exec(&["perl", "-e", SCRIPT]).ok())[1], YEAR, before[1]);
    bundle.delete_force().ok();
    left_nothing(&bundle, &second_host);
    first.delete_force().ok();
    left_nothing(&first, &host);
}

/// Both are joined or made by the process in between.
#[test]
fn offsets_work_beside_a_user_name_space_and_a_pid_name_space_by_path() {
    if !require_root() {
        return;
    }
    let (mut first, host) = stage();
    first.start_sleeper();
    let pid = first.pid().unwrap();
    let (mut bundle, second_host) = stage();
    bundle.set("/linux/namespaces/0/path", format!("/proc/{pid}/ns/pid"));
    offsets(&mut bundle, json!({"boottime": {"secs": YEAR}}));
    let before = of_the_host();
    is_after(clocks(&bundle.perl(SCRIPT).run().ok())[1], YEAR, before[1]);
    left_nothing(&bundle, &second_host);
    first.delete_force().ok();
    left_nothing(&first, &host);

    let (mut bundle, host) = stage();
    offsets(&mut bundle, json!({"monotonic": {"secs": YEAR}})).set("/linux/namespaces/-", json!({"type": "user"}));
    let map = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
    bundle.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    let before = of_the_host();
    is_after(clocks(&bundle.perl(SCRIPT).run().ok())[0], YEAR, before[0]);
    bundle.start_sleeper();
    is_after(clocks(&bundle.exec(&["perl", "-e", SCRIPT]).ok())[0], 0, of_the_host()[0] + YEAR);
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

#[test]
fn offsets_that_cannot_be_are_refused_with_their_place() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.set("/linux/timeOffsets", json!({"boottime": {"secs": 1}}));
    assert!(bundle.run().fails().contains("/linux/timeOffsets: it needs a name space of type time"));
    bundle.set("/linux/namespaces/-", json!({"type": "time", "path": "/proc/self/ns/time"}));
    assert!(bundle.run().fails().contains("/linux/timeOffsets: one that is joined keeps its own"));
    bundle.remove("/linux/namespaces/5/path");
    for (offsets, place) in [
        (json!({"realtime": {"secs": 1}}), "/linux/timeOffsets/realtime: monotonic and boottime are known"),
        (json!({"boottime": {"nanosecs": 1_000_000_000}}), "/linux/timeOffsets/boottime/nanosecs: "),
        (json!({"monotonic": {"secs": -100 * YEAR}}), "/linux/timeOffsets: a clock would stand before its zero"),
        (json!({"monotonic": {"secs": i64::MAX}}), "/linux/timeOffsets: a clock would stand before its zero"),
    ] {
        let line = bundle.set("/linux/timeOffsets", offsets).run().fails();
        assert!(line.contains(place), "{line}");
    }
    left_nothing(&bundle, &host);
}

/// The offsets of a container on a host that may not set its own clock.
#[test]
fn without_the_right_to_set_a_clock_the_offsets_are_refused() {
    if !require_root() || !tests::installed("setpriv") {
        return;
    }
    let (mut bundle, host) = stage();
    offsets(&mut bundle, json!({"boottime": {"secs": 1}})).write();
    let mut run = Command::new("setpriv");
    run.args(["--bounding-set", "-sys_time"]).arg(tests::jail()).arg("--root").arg(&bundle.root);
    run.args(["run", "--bundle"]).arg(&bundle.dir).arg(&bundle.id);
    let line = tests::finish(&mut run, tests::LIMIT).fails();
    assert!(line.contains("/linux/timeOffsets: the runtime lacks CAP_SYS_TIME"), "{line}");
    left_nothing(&bundle, &host);
}
