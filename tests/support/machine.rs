//! A machine of a test: systemd as process 1 of name spaces on the host's own kernel, in cgroups that only the test has.
//!
//! Its root is the host's, read-only but for the folder of temporary files. It has no units but its own, so that none of
//! the host's services starts; and /proc/sys is read-only, since systemd would set the host's kernel.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Done, LIMIT, Runtime, finish, installed, jail, require_root, unique, view};

const SYSTEMD: &str = "/lib/systemd/systemd";

/// Which hierarchies of cgroups a machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cgroups {
    /// v2 alone; without controllers where those of the host are v1's.
    V2,
    /// Both, as the host has them, with the controllers where they are.
    Hybrid,
    /// v1 alone, where systemd is not told of a scope that is empty.
    V1,
}

impl Cgroups {
    /// Those of this name.
    pub fn named(name: &str) -> Option<Cgroups> {
        Some(match name {
            "host" => Cgroups::Hybrid,
            "v1" => Cgroups::V1,
            "v2" => Cgroups::V2,
            _ => return None,
        })
    }
}

/// A machine; dropping it switches it off.
#[derive(Debug)]
pub struct Machine {
    outside: Child,
    folder: PathBuf,
    name: String,
}

/// The name spaces of the machine, what is mounted in them, and systemd. Words: the folder, that of temporary files, what
/// systemd shall take for the kernel's command line, and the cgroups. systemd tries to mount other hierarchies, but the
/// kernel makes new ones only in the first cgroup name space.
const BOOT: &str = r#"set -e
export folder=$1 temporary=$2 line="$3"; shift 3; export cgroups="$*"
for c in $cgroups; do echo $$ > $c/cgroup.procs; done
exec unshare -C -m -p -u -i --propagation private --fork --kill-child sh -ec '
mount --bind $temporary $temporary; mount -n -t tmpfs -o mode=755 run /run; mount -n -t proc proc /proc
mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys
umount -l /sys/fs/cgroup
case $cgroups in
*\ *)
    mount -n -t tmpfs -o mode=755 none /sys/fs/cgroup
    for c in $cgroups; do
        c=${c%/*}; name=${c##*/}; mkdir /sys/fs/cgroup/$name
        case $name in
        unified) mount -n -t cgroup2 none /sys/fs/cgroup/$name ;;
        systemd) mount -n -t cgroup -o none,name=systemd none /sys/fs/cgroup/$name ;;
        *) mount -n -t cgroup -o $name none /sys/fs/cgroup/$name ;;
        esac
    done ;;
*) mount -n -t cgroup2 none /sys/fs/cgroup ;;
esac
mount --bind /dev/null /dev/console; mount -o remount,bind,ro /sys; mount -o remount,bind,ro /
hostname machine
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=test "SYSTEMD_PROC_CMDLINE=$line" SYSTEMD_UNIT_PATH=/run/systemd/system.control:/run/systemd/transient:$folder/units \
    setpriv --bounding-set=-sys_time,-sys_module,-sys_boot,-sys_rawio,-wake_alarm,-syslog,-audit_control,-mac_admin \
    /lib/systemd/systemd --system --unit=default.target --log-target=null
'"#;

/// Calls the words in the machine whose process 1 and cgroups the first ones name.
const ENTER: &str = r#"#!/bin/sh
for c in @cgroups@; do echo $$ > $c/cgroup.procs; done
exec nsenter -t @pid@ -m -u -i -p -C -- "$@"
"#;

impl Machine {
    /// Starts one; none, with the reason, where there is no systemd or the host has not these cgroups.
    pub fn start(cgroups: Cgroups) -> Option<Machine> {
        if !require_root() || !installed("systemctl") || !installed("nsenter") {
            return None;
        }
        let tops = tops(cgroups);
        if !Path::new(SYSTEMD).exists() || tops.is_empty() {
            println!("skipped: no {SYSTEMD}, or no cgroups for {cgroups:?}");
            return None;
        }
        let name = unique();
        let folder = std::env::temp_dir().join(format!("jail-machine-{name}"));
        units(&folder.join("units"));
        let own: Vec<_> = tops.iter().map(|top| top.join(&name)).collect();
        for (top, own) in tops.iter().zip(&own) {
            fs::create_dir(own).expect("a cgroup for the machine");
            for file in ["cpuset.cpus", "cpuset.mems"].into_iter().filter(|_| top.ends_with("cpuset")) {
                fs::copy(top.join(file), own.join(file)).expect("the cpuset of the machine");
            }
        }
        let outside = Command::new("setpriv")
            // It ends with the test, however that ends.
            .args(["--pdeathsig", "KILL", "sh", "-c", BOOT, "boot"])
            .args([folder.as_path(), &std::env::temp_dir()])
            .arg(match cgroups {
                Cgroups::V1 => "systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1",
                Cgroups::V2 | Cgroups::Hybrid => "",
            })
            .args(&own)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.join("errors")).expect("a file for errors"))
            .spawn()
            .expect("the machine");
        let machine = Machine { outside, folder, name };
        machine.await_systemd(&own);
        Some(machine)
    }

    fn await_systemd(&self, own: &[PathBuf]) {
        let end = Instant::now() + LIMIT;
        let cgroups: Vec<_> = own.iter().map(|path| path.to_string_lossy()).collect();
        let children = format!("/proc/{0}/task/{0}/children", self.outside.id());
        loop {
            let child = fs::read_to_string(&children).unwrap_or_default();
            let program = fs::read_to_string(format!("/proc/{}/comm", child.trim())).unwrap_or_default();
            if program.trim() == "systemd" {
                let text = ENTER.replace("@pid@", child.trim()).replace("@cgroups@", &cgroups.join(" "));
                fs::write(self.enter(), text).expect("the way into the machine");
                if self.sh("systemctl is-system-running").out.trim() == "running" {
                    return;
                }
            }
            let errors = fs::read_to_string(self.folder.join("errors")).unwrap_or_default();
            assert!(Instant::now() < end, "no systemd: {program:?} {errors}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn enter(&self) -> PathBuf {
        self.folder.join("enter")
    }

    /// The runtime that is called by these words, in the machine.
    pub fn runtime(&self, words: &str) -> Runtime {
        Runtime::of(&format!("sh {} {words}", self.enter().display()))
    }

    /// The binary under test in the machine, with systemd's cgroups.
    pub fn jail(&self) -> Runtime {
        self.runtime(&scoped_jail())
    }

    /// A command of this program in the machine, not yet run.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("sh");
        command.arg(self.enter()).arg(program);
        command
    }

    /// Runs a script of the shell in the machine.
    pub fn sh(&self, script: &str) -> Done {
        finish(self.command("sh").args(["-c", script]).stdin(Stdio::null()), LIMIT)
    }

    /// Properties of a unit as `Name=value`, in the order of systemctl; none where there is no such unit.
    #[track_caller]
    pub fn show(&self, unit: &str, properties: &str) -> Vec<String> {
        let text = self.sh(&format!("systemctl show --property=LoadState,{properties} {unit}")).ok();
        match text.lines().any(|line| line == "LoadState=loaded") {
            true => text.lines().filter(|line| !line.starts_with("LoadState=")).map(str::to_owned).collect(),
            false => Vec::new(),
        }
    }

    /// The unit as a word: `active`, `failed`, or nothing where there is none.
    #[track_caller]
    pub fn state(&self, unit: &str) -> String {
        self.show(unit, "ActiveState").concat().replace("ActiveState=", "")
    }

    /// The number of systemd on the host.
    pub fn pid(&self) -> i32 {
        let text = fs::read_to_string(self.enter()).unwrap_or_default();
        let word = text.split("nsenter -t ").nth(1).and_then(|rest| rest.split(' ').next());
        word.and_then(|word| word.parse().ok()).expect("the number in the script")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // With it goes its child, and with that its pid name space.
        let _ = self.outside.kill();
        let _ = self.outside.wait();
        view::remove_cgroups(&self.name);
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The words that call the binary under test with systemd's cgroups, wherever one stands.
pub fn scoped_jail() -> String {
    let path = fs::canonicalize(jail()).unwrap_or_else(|_| jail());
    format!("{} --systemd-cgroup", path.display())
}

/// Where the hierarchies are mounted.
fn tops(cgroups: Cgroups) -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let unified = top.join("unified");
    match cgroups {
        Cgroups::V2 if top.join("cgroup.procs").exists() => vec![top.to_owned()],
        Cgroups::V2 if unified.join("cgroup.procs").exists() => vec![unified],
        Cgroups::V1 | Cgroups::Hybrid
            if unified.join("cgroup.procs").exists() && top.join("systemd/tasks").exists() =>
        {
            let all = fs::read_dir(top).into_iter().flatten().flatten();
            // Joint controllers have a link for each of them.
            let all = all.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            let mut all: Vec<_> = all.map(|entry| entry.path()).filter(|path| path.join("tasks").exists()).collect();
            all.extend((cgroups == Cgroups::Hybrid).then_some(unified));
            all
        }
        _ => Vec::new(),
    }
}

fn units(folder: &Path) {
    fs::create_dir_all(folder).expect("a folder for units");
    for name in ["default", "basic", "sysinit", "shutdown", "umount", "final", "exit"] {
        let text = "[Unit]\nDefaultDependencies=no\nAllowIsolate=yes\n";
        fs::write(folder.join(format!("{name}.target")), text).expect("a unit");
    }
}
