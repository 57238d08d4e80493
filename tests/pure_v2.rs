//! The life cycle and the limits on a kernel with pure cgroup v2 and real controllers: user-mode-linux, which boots one
//! program in half a second. The host's root is the machine's, read-only; a folder of the test is its only writable one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::{installed, jail, require_root, rootfs, unique};

/// How long a machine may run.
const LIMIT: Duration = Duration::from_secs(90);

/// The first program of the machine: the file systems, the script, and off.
const INIT: &str = r#"#!/bin/bash
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run
mount -n -t proc proc /proc; mount -n -t sysfs sysfs /sys; mount -n -t cgroup2 cgroup2 /sys/fs/cgroup
mount -n -t tmpfs -o mode=755 tmpfs /run; mkdir /run/lab /run/modules; mount -n -t hostfs -o "$lab" lab /run/lab
mkdir -p /run/modules/lib; ln -s /usr/lib/uml/modules /run/modules/lib/modules; modprobe -d /run/modules overlay
cd /run; bash /run/lab/script > /run/lab/out 2> /run/lab/err; echo $? > /run/lab/code
sync; echo o > /proc/sysrq-trigger; sleep 60
"#;

/// What a script on the machine said: its output, its errors, its exit code.
pub(crate) struct Said {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) code: String,
}

/// Runs SCRIPT on a machine of its own. It finds the binary at /run/lab/jail, a bundle of CONFIG in /run/b, and an empty
/// disk, 98:0.
pub(crate) fn on_pure_v2(config: &Value, script: &str) -> Option<Said> {
    begun_by(INIT, config, script)
}

/// The same with another first program.
pub(crate) fn begun_by(init: &str, config: &Value, script: &str) -> Option<Said> {
    if !require_root() || !installed("linux.uml") {
        return None;
    }
    // Short, since it holds sockets; and not below /tmp, which the machine covers.
    let folder = PathBuf::from(format!("/var/tmp/{}", unique()));
    fs::create_dir(&folder).unwrap();
    fs::copy(jail(), folder.join("jail")).unwrap();
    rootfs(&folder.join("rootfs"));
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let bundle = "set -e; mkdir b; cp -a lab/rootfs lab/config.json b/; j=/run/lab/jail";
    fs::write(folder.join("script"), format!("{bundle}\n{script}\n")).unwrap();
    fs::File::create(folder.join("disk")).unwrap().set_len(8 << 20).unwrap();
    fs::write(folder.join("init"), init).unwrap();
    fs::set_permissions(folder.join("init"), fs::Permissions::from_mode(0o755)).unwrap();
    let at = folder.display();
    let mut machine = Command::new("linux.uml")
        .args(["mem=256M", "root=none", "rootfstype=hostfs", "ro", "con=null", "con0=null,fd:1", "ssl=null"])
        .args([&format!("init={at}/init"), &format!("lab={at}"), &format!("uml_dir={at}"), "umid=uml"])
        .arg(format!("ubd0={at}/disk"))
        .args(["noreboot", "panic=-1", "initcall_blacklist=raid6_select_algo"])
        .env("TMPDIR", "/dev/shm")
        .stdin(Stdio::null())
        .stdout(fs::File::create(folder.join("console")).unwrap())
        .stderr(Stdio::null())
        // Its helpers stay where only it is killed.
        .process_group(0)
        .spawn()
        .unwrap();
    let begin = Instant::now();
    while machine.try_wait().unwrap().is_none() {
        if begin.elapsed() > LIMIT {
            let _ =
                nix::sys::signal::killpg(nix::unistd::Pid::from_raw(machine.id() as i32), nix::sys::signal::SIGKILL);
            let _ = machine.wait();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let read = |name| fs::read_to_string(folder.join(name)).unwrap_or_default();
    let said = Said { out: read("out"), err: read("err"), code: read("code") };
    let console = read("console");
    fs::remove_dir_all(&folder).unwrap();
    assert!(!said.code.is_empty(), "the machine died:\n{console}");
    Some(said)
}

/// A configuration whose program is the shell command COMMAND, without limits and in the usual cgroup.
pub(crate) fn config(command: &str) -> Value {
    let mut config = tests::spec::full("rootfs", "/test");
    config["process"]["args"] = json!(["sh", "-c", command]);
    config
}

#[test]
fn limits_are_in_the_kernels_files() {
    let files =
        "cd /sys/fs/cgroup; cat memory.max memory.low pids.max cpu.max cpu.weight; echo x > /dev/null && echo null";
    let mut config = config(files);
    config["linux"]["resources"]["memory"] = json!({ "limit": 33554432, "reservation": 1048576, "swap": 67108864 });
    config["linux"]["resources"]["pids"] = json!({ "limit": 20 });
    config["linux"]["resources"]["cpu"] = json!({ "quota": 50000, "period": 100000, "shares": 512 });
    let Some(said) = on_pure_v2(&config, "$j run --bundle b limits") else { return };
    assert_eq!(said.code.trim(), "0", "{}", said.err);
    assert_eq!(said.out, "33554432\n1048576\n20\n50000 100000\n59\nnull\n");
}

#[test]
fn limits_change_while_the_program_runs_and_halves_of_a_file_keep_the_other() {
    // The controllers are enabled by the change: the jail was made without a limit.
    let script =
        "f=/sys/fs/cgroup/test; show() { (cd $f; cat memory.max memory.swap.max pids.max cpu.max cpu.weight); }
$j create --bundle b up < /dev/null; $j start up
$j update --memory 32m --memory-swap 64m --pids-limit 20 --cpu-quota 50000 --cpu-share 512 up; show
$j update --cpu-period 200000 up; $j update --memory-swap 48m up; show
echo '{\"cpu\":{\"quota\":-1},\"memory\":{\"limit\":-1}}' | $j update --resources - up; show
echo '{\"memory\":{\"limit\":4096,\"checkBeforeUpdate\":true}}' > low
$j exec up dd if=/dev/zero of=/dev/shm/x bs=1M count=2 2> /dev/null; $j update -r - up < low || show
$j update --cpu-share 1024 --cpu-quota 3 --pids-limit 9 up || show
$j delete --force up; ls -A /run/jail; find /sys/fs/cgroup -mindepth 1 -type d";
    let Some(said) = on_pure_v2(&config("sleep 1000"), script) else { return };
    let last = "max\nmax\n20\nmax 200000\n59\n";
    let first = "33554432\n33554432\n20\n50000 100000\n59\n33554432\n16777216\n20\n50000 200000\n59\n";
    assert_eq!((said.out, said.code.trim()), (format!("{first}{last}{last}{last}.cache\n"), "0"), "{}", said.err);
    assert!(said.err.contains("/memory/limit: 4096 is less than the "), "{}", said.err);
    assert!(said.err.contains("set cpu.max to 3 200000 in /sys/fs/cgroup/test: invalid argument"), "{}", said.err);
    assert_eq!(said.err.lines().count(), 2, "{}", said.err);
}

#[test]
fn a_device_that_is_not_allowed_cannot_be_opened() {
    let mut config = config("head -c 1 /dev/kmsg");
    config["linux"]["devices"] = json!([{ "path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11 }]);
    let Some(said) = on_pure_v2(&config, "$j run --bundle b devices") else { return };
    assert!(said.err.contains("Operation not permitted"), "{} {}", said.out, said.err);
}

#[test]
fn the_life_cycle_leaves_no_cgroup_and_no_state() {
    let script = "$j create --bundle b life < /dev/null; $j state life | grep -q created; $j start life
$j exec life cat /proc/1/cgroup; $j list -q; if $j delete life 2> /dev/null; then exit 7; fi
$j kill life KILL; until $j state life | grep -q stopped; do sleep 0.05; done; $j delete life
ls -A /run/jail; find /sys/fs/cgroup -mindepth 1 -type d";
    let Some(said) = on_pure_v2(&config("sleep 1000"), script) else { return };
    assert_eq!((said.out.as_str(), said.code.trim()), ("0::/\nlife\n.cache\n", "0"), "{}", said.err);
}

#[test]
fn a_jail_is_frozen_by_its_cgroup_and_dies_of_sigkill_all_the_same() {
    let script = "$j run --bundle b --detach ice < /dev/null; c=/sys/fs/cgroup/test; status() { $j state ice | grep '\"status'; }
$j pause ice; status; grep frozen $c/cgroup.events; $j pause ice 2>&1 || true; $j exec ice true 2>&1 || true
before=$(cat b/rootfs/count); sleep 0.3; [ $before = $(cat b/rootfs/count) ]; [ \"$($j ps --format json ice)\" = \"[$(sort -n -T /run $c/cgroup.procs | paste -sd,)]\" ]
$j resume ice; status; grep frozen $c/cgroup.events; sleep 0.3; [ $before != $(cat b/rootfs/count) ]
$j pause ice; $j kill ice KILL; until status | grep -q stopped; do sleep 0.05; done; $j delete ice
$j create --bundle b ice < /dev/null; $j pause ice; $j start ice 2>&1 || true; $j delete --force ice
find /sys/fs/cgroup -mindepth 1 -type d";
    let command = "n=0; while :; do n=$((n + 1)); echo $n > /count; sleep 0.05; done";
    let mut config = config(command);
    config["root"]["readonly"] = json!(false);
    let Some(said) = on_pure_v2(&config, script) else { return };
    let expected = "  \"status\": \"paused\"
frozen 1
jail: cannot pause ice: container not running: it is paused
jail: cannot exec in ice: the container is paused (`jail resume ice` lets it run)
  \"status\": \"running\"
frozen 0
jail: cannot start ice: it is paused, not created
";
    assert_eq!((said.out.replace("\",", "\""), said.code.trim()), (expected.to_owned(), "0"), "{}", said.err);
}

#[test]
fn a_killed_create_leaves_nothing_behind_one_delete() {
    let script = "$j create --bundle b kill < /dev/null; $j delete --force kill
for n in $(seq 10); do $j create --bundle b kill < /dev/null & p=$!
sleep 0.0$n; kill -9 $p 2> /dev/null || true; wait $p || true; $j list > /dev/null; $j delete --force kill; done
ls -A /run/jail; find /sys/fs/cgroup -mindepth 1 -type d; pgrep -x sleep || true";
    let Some(said) = on_pure_v2(&config("sleep 1000"), script) else { return };
    assert_eq!((said.out.as_str(), said.code.trim()), (".cache\n", "0"), "{}", said.err);
}

#[test]
fn the_default_root_is_a_clone_on_an_older_kernel_too() {
    let script = "$j run demo -- sh -c 'touch /usr/made && ls /usr/made; ls /etc/shadow' < /dev/null || ls /usr/made";
    let Some(said) = on_pure_v2(&config("true"), script) else { return };
    assert_eq!(said.out, "/usr/made\n", "{}", said.err);
    assert_eq!(said.err.matches("No such file").count(), 2, "{}", said.err);
}
