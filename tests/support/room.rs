//! A place of its own for a real caller of runtimes: daemon, state and sockets.

use std::fs;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::command::{Done, finish, jail};
use crate::{Host, entries, installed, processes, require_root, unique, view, wait_for};

/// How long one command of a caller may take: several processes and daemons take part in it.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// What process 1 of a room does: everything that a caller would write to, whatever it was told, is a new file system or
/// a layer over the host's; without security modules in sight, nobody loads a profile for the whole machine. Then it waits
/// for ever, and as a shell for every orphan.
const SETUP: &str = r#"set -e
mount -t tmpfs none /run
mkdir -p "/run/$1/tmp" /run/etc/upper /run/etc/work /run/lock
: > "/run/$1/jail-oci"
mount --bind "$2" "/run/$1/jail-oci"
mount -t overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work none /etc
mount -t tmpfs none /var
mkdir -p -m 1777 /var/tmp /var/lib /var/log
mount -t tmpfs none /tmp
[ ! -d /sys/kernel/security ] || mount -t tmpfs none /sys/kernel/security
ip link set lo up
: > "/run/$1/ready"
while :; do sleep 1000; done
"#;

/// Mount, network and process name spaces with a /run, /var, /tmp and /etc of their own. All that a caller starts or
/// mounts in there ends with it; its cgroups, which it has on the host, belong below `/ID`.
#[derive(Debug)]
pub struct Room {
    /// A word that no other room has.
    pub id: String,
    host: Host,
    holder: Child,
    /// Process 1 of the room, as the host counts.
    first: i32,
    daemons: Vec<Child>,
}

/// A runtime as callers are told of it.
#[derive(Clone, Debug)]
pub struct Named {
    /// What it is called in names and messages.
    pub name: String,
    /// Its program, as the room has it.
    pub path: String,
}

impl Room {
    /// A room for those PROGRAMS; `None` where one of them is not installed, or this is not root.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn open(programs: &[&str]) -> Option<Room> {
        if !require_root() || !programs.iter().all(|program| installed(program)) {
            return None;
        }
        let id = unique();
        let host = Host::snapshot(&id, &[]);
        let mut holder = Command::new("unshare");
        holder.args([
            "--mount",
            "--propagation",
            "private",
            "--net",
            "--pid",
            "--mount-proc",
            "--fork",
            "--kill-child",
        ]);
        holder.args(["sh", "-c", SETUP, "sh", &id]).arg(jail()).stdin(Stdio::null());
        let holder = holder.spawn().expect("unshare, of the package util-linux");
        let mut room = Room { id, host, holder, first: 0, daemons: Vec::new() };
        wait_for("the first process of a room", || {
            room.first = processes::below_child(&room.holder).first().copied().unwrap_or(0);
            room.first != 0 && room.seen(&room.path("ready")).exists()
        });
        Some(room)
    }

    /// The path of a file of the caller, as the room has it.
    pub fn path(&self, name: &str) -> String {
        format!("/run/{}/{name}", self.id)
    }

    /// The path of a file of the room, as the host has it.
    pub fn seen(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.first))
    }

    /// Writes a file of the caller, and gives its path as the room has it.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        let seen = self.seen(&path);
        fs::create_dir_all(seen.parent().expect("a folder of the room")).expect("a folder of the room");
        fs::write(seen, text).expect("a file of the room");
        path
    }

    /// What is in a file of the caller; nothing where it is not there.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.seen(&self.path(name))).unwrap_or_default()
    }

    /// A command in the room, not yet run. Its environment is that of a service.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.first.to_string(), "--mount", "--net", "--pid", "--wdns=/"]).args(words);
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", self.path(""));
        command.env("TMPDIR", self.path("tmp")).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end, at most for as long as a caller may take.
    pub fn finish(&self, mut command: Command) -> Done {
        finish(&mut command, LIMIT)
    }

    /// Starts a command that lives until the room is closed; its output is in the file `NAME.log`.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn daemon(&mut self, name: &str, words: &[&str]) {
        let log = self.seen(&self.write(&format!("{name}.log"), ""));
        let log = File::options().append(true).open(log).expect("the log of a daemon");
        let mut command = self.command(words);
        command.stdout(log.try_clone().expect("a descriptor")).stderr(log);
        self.daemons.push(command.spawn().expect("nsenter, of the package util-linux"));
    }

    /// Ends the latest daemon, and nothing that it has started.
    pub fn end_daemon(&mut self) {
        let Some(mut daemon) = self.daemons.pop() else { return };
        // nsenter is outside of the process name space: its child is the daemon.
        processes::below_child(&daemon).into_iter().take(1).for_each(processes::kill);
        let _ = daemon.wait();
    }

    /// The binary under test and, as the reference, Debian's runc: what differs between them is a defect, or explained.
    pub fn runtimes(&self) -> Vec<Named> {
        let mut all = vec![Named { name: "jail".to_string(), path: self.path("jail-oci") }];
        if installed("runc") {
            all.push(Named { name: "runc".to_string(), path: "/usr/sbin/runc".to_string() });
        }
        all
    }

    /// Asserts that RUNTIME has no container left in STORE, and no cgroup below that of the room but those that the caller
    /// made for itself.
    ///
    /// # Panics
    /// With what is left.
    #[track_caller]
    pub fn assert_empty(&self, runtime: &Named, store: &str) {
        let left = entries(&self.seen(store));
        assert!(left.is_empty(), "left in {store}: {left:?}");
        // runc does not remove the parents of cgroups that it has made.
        if runtime.name == "runc" {
            return;
        }
        let below = format!("{}/", self.id);
        let left = || view::cgroups(&below).into_iter().filter(|path| !path.ends_with("conmon")).collect::<Vec<_>>();
        let begin = Instant::now();
        // The last process of a cgroup may just be leaving it.
        while !left().is_empty() {
            assert!(begin.elapsed() < Duration::from_secs(1), "cgroups are left: {:?}", left());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends everything in the room, and asserts that the host is as before.
    ///
    /// # Panics
    /// If something of the room is left.
    #[track_caller]
    pub fn close(mut self) {
        self.end();
        self.host.assert_unchanged();
    }

    fn end(&mut self) {
        // The kernel ends process 1 of the room with its holder, and all others with process 1.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        for mut daemon in self.daemons.drain(..) {
            let _ = daemon.wait();
        }
        for _ in 0..500 {
            if !Path::new(&format!("/proc/{}", self.first)).exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // The parent of its containers' cgroups is the caller's own: no runtime removes it.
        view::remove_cgroups(&self.id);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.end();
    }
}
