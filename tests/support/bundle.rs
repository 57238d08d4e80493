//! A throw-away bundle with a store of its own.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::command::{Done, LIMIT, Runtime, finish, jail};
use crate::{processes, spec, unique, view};

/// A bundle on a busybox root, the store that its jail is kept in, and the jail's name. Dropping it ends the jail by
/// force and removes everything.
#[derive(Debug)]
pub struct Bundle {
    /// The folder that holds `config.json`, `rootfs` and, beside them, `store`.
    pub dir: PathBuf,
    /// What `--root` names.
    pub root: PathBuf,
    /// The jail's name; it is in the names of its cgroup and its folders too, and in no other's.
    pub id: String,
    /// The configuration, as it will be written before the next command.
    pub spec: Value,
    /// What its leftovers are found by; it stays when a test gives the jail another name.
    word: String,
    runtime: Runtime,
}

impl Bundle {
    /// A bundle for the binary under test.
    #[allow(clippy::new_without_default, reason = "it makes folders: that is no default value")]
    pub fn new() -> Bundle {
        Bundle::of(Runtime::jail())
    }

    /// A bundle for RUNTIME: the control of a test, or a peer of the benchmark.
    ///
    /// # Panics
    /// If the temporary folder cannot be written.
    pub fn of(runtime: Runtime) -> Bundle {
        let id = unique();
        let dir = std::env::temp_dir().join(format!("jail-test-{id}"));
        let root = dir.join("store");
        rootfs(&dir.join("rootfs"));
        fs::create_dir(&root).expect("a folder for the store");
        let path = match runtime.name().contains("--systemd-cgroup") {
            true => format!("system.slice:test:{id}"),
            false => format!("/jail-test-{id}"),
        };
        let spec = spec::minimal("rootfs", &path);
        Bundle { dir, root, word: id.clone(), id, spec, runtime }
    }

    /// Sets the value at the JSON POINTER, making the objects on the way. A last part `-` appends to a list.
    ///
    /// # Panics
    /// If the way leads through something that is neither an object nor a list.
    pub fn set(&mut self, pointer: &str, value: impl Into<Value>) -> &mut Bundle {
        let (way, last) = pointer.rsplit_once('/').expect("a JSON pointer begins with /");
        let mut place = &mut self.spec;
        for part in way.split('/').skip(1) {
            place = match place {
                Value::Array(list) => &mut list[part.parse::<usize>().expect("a place in a list")],
                other => &mut other[part],
            };
        }
        match place {
            Value::Array(list) if last == "-" => list.push(value.into()),
            Value::Array(list) => list[last.parse::<usize>().expect("a place in a list")] = value.into(),
            other => other[last] = value.into(),
        }
        self
    }

    /// Removes what is at the JSON POINTER, if anything is.
    pub fn remove(&mut self, pointer: &str) -> &mut Bundle {
        let (way, last) = pointer.rsplit_once('/').expect("a JSON pointer begins with /");
        match self.spec.pointer_mut(way) {
            Some(Value::Object(map)) => drop(map.remove(last)),
            Some(Value::Array(list)) => drop(list.remove(last.parse::<usize>().expect("a place in a list"))),
            _ => (),
        }
        self
    }

    /// Sets the program and its words.
    pub fn args(&mut self, words: &[&str]) -> &mut Bundle {
        self.set("/process/args", words)
    }

    /// Sets the program to a script of the shell, runs it and gives what it printed.
    #[track_caller]
    pub fn script(&mut self, text: &str) -> String {
        self.args(&["sh", "-c", text]).run().ok()
    }

    /// Runs a program that shows its own /proc/self/status, for [`processes::field`].
    #[track_caller]
    pub fn own_status(&mut self) -> String {
        self.args(&["cat", "/proc/self/status"]).run().ok()
    }

    /// Sets the program to a script of Debian's perl, whose `syscall` makes any call, and puts the host's perl into the
    /// root.
    ///
    /// # Panics
    /// If the root cannot be written.
    pub fn perl(&mut self, script: &str) -> &mut Bundle {
        for (name, to) in [("lib", "usr/lib"), ("lib64", "usr/lib64")] {
            symlink(to, self.rootfs().join(name)).expect("a link of the root");
        }
        let usr = json!({"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]});
        self.set("/mounts/-", usr).args(&["perl", "-e", script])
    }

    /// Asks for what a container manager asks for by default.
    pub fn full(&mut self) -> &mut Bundle {
        self.spec = spec::full("rootfs", &format!("/jail-test-{}", self.id));
        self
    }

    /// Sets the capabilities that the program has.
    pub fn capabilities(&mut self, names: &[&str]) -> &mut Bundle {
        self.set("/process/capabilities", json!({"bounding": names, "effective": names, "permitted": names}))
    }

    /// A folder of the host that nothing may touch, with a `file` in it, beside the root.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn sentinel(&self) -> PathBuf {
        let folder = self.dir.join("sentinel");
        fs::create_dir(&folder).expect("a folder beside the root");
        fs::write(folder.join("file"), "of the host").expect("a file beside the root");
        folder
    }

    /// The path of the root as the host sees it.
    pub fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// Writes `config.json`. Every verb that takes the bundle does it first.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn write(&self) {
        fs::write(self.dir.join("config.json"), self.spec.to_string()).expect("config.json");
    }

    /// A command of the runtime with these words, not yet run.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = self.runtime.command(&self.root);
        command.args(words).stdin(Stdio::null());
        command
    }

    /// `create` or `run` of this bundle, as it is now, with OPTIONS before the name; not yet run.
    pub fn making(&self, verb: &str, options: &[&str]) -> Command {
        self.write();
        self.command(&[&[verb, "--bundle", &self.dir.to_string_lossy()], options, &[&self.id]].concat())
    }

    /// Runs the runtime with these words.
    pub fn call(&self, words: &[&str]) -> Done {
        finish(&mut self.command(words), LIMIT)
    }

    /// `create`: the jail is there, its program waits for `start`.
    pub fn create(&self) -> Done {
        self.create_with(&[])
    }

    /// `create` with options.
    pub fn create_with(&self, options: &[&str]) -> Done {
        finish(&mut self.making("create", options), LIMIT)
    }

    /// `run`: create, start, wait and delete in one.
    pub fn run(&self) -> Done {
        self.run_with(&[])
    }

    /// `run` with options.
    pub fn run_with(&self, options: &[&str]) -> Done {
        finish(&mut self.making("run", options), LIMIT)
    }

    /// `run` in the background, its output thrown away.
    ///
    /// # Panics
    /// If the runtime cannot be started.
    pub fn run_in_background(&self) -> Child {
        let mut run = self.making("run", &[]);
        run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the runtime")
    }

    /// `run` of these words on the default root.
    pub fn friendly(&self, words: &[&str]) -> Done {
        self.call(&[&["run", &self.id, "--"], words].concat())
    }

    /// Runs the runtime with these words for a careless caller, who leaves two folders of the host open and has a
    /// secret in the environment.
    ///
    /// # Panics
    /// If there is no shell for it.
    pub fn careless(&self, words: &[&str]) -> Done {
        let mut command = Command::new("sh");
        // Digits: the shell of Debian takes no other descriptors.
        command.args(["-c", "exec 8<\"$0\" 9</; export OF_THE_HOST=mark; exec \"$@\""]).arg(&self.dir);
        command.arg(jail()).arg("--root").arg(&self.root).args(words).stdin(Stdio::null());
        let done = finish(&mut command, LIMIT);
        assert!(done.code() != Some(127), "the shell itself failed: {done}");
        done
    }

    /// `create` and `start` with a program that sleeps.
    #[track_caller]
    pub fn start_sleeper(&mut self) {
        self.args(&["sleep", "1000"]).create().ok();
        self.start().ok();
    }

    /// `start`.
    pub fn start(&self) -> Done {
        self.call(&["start", &self.id])
    }

    /// `exec` of these words.
    pub fn exec(&self, words: &[&str]) -> Done {
        self.call(&[&["exec", &self.id], words].concat())
    }

    /// `kill` by the name of a signal.
    pub fn kill(&self, signal: &str) -> Done {
        self.call(&["kill", &self.id, signal])
    }

    /// `state`, as it was printed.
    pub fn state(&self) -> Done {
        self.call(&["state", &self.id])
    }

    /// The word of the jail's status, or nothing where `state` fails.
    pub fn status(&self) -> Option<String> {
        Some(self.json()?["status"].as_str()?.to_string())
    }

    /// Gives the jail one hook at MOMENT that makes the file BEGUN and waits until somebody has removed it.
    pub fn hook_that_waits(&mut self, moment: &str, begun: &Path) -> &mut Bundle {
        let script = format!(": > {0}; while [ -e {0} ]; do sleep 0.05; done", begun.display());
        self.set(&format!("/hooks/{moment}"), json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]))
    }

    /// The pid of the jail's first process, while it has one.
    pub fn pid(&self) -> Option<i32> {
        i32::try_from(self.json()?["pid"].as_i64()?).ok().filter(|pid| *pid > 0)
    }

    fn json(&self) -> Option<Value> {
        serde_json::from_str(&self.state().out).ok()
    }

    /// Waits until the status is this one, or gives up after the usual limit.
    #[track_caller]
    pub fn becomes(&self, status: &str) {
        let end = std::time::Instant::now() + LIMIT;
        while self.status().as_deref() != Some(status) {
            assert!(std::time::Instant::now() < end, "{} never became {status}: {}", self.id, self.state());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// The path of a file of the jail in the store.
    pub fn entry(&self, name: &str) -> PathBuf {
        self.root.join(&self.id).join(name)
    }

    /// `list`.
    pub fn list(&self) -> Done {
        self.call(&["list"])
    }

    /// `delete` of a stopped jail.
    pub fn delete(&self) -> Done {
        self.call(&["delete", &self.id])
    }

    /// `delete --force`.
    pub fn delete_force(&self) -> Done {
        self.call(&["delete", "--force", &self.id])
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        // A test that failed may leave anything, and its runtime may not even be built: nothing here may panic.
        if fs::read_dir(&self.root).is_ok_and(|mut entries| entries.next().is_some())
            && self.runtime.command(&self.root).arg("--version").output().is_ok()
        {
            let _ = self.delete_force();
        }
        for pid in processes::with_word(&self.word) {
            processes::kill(pid);
        }
        for mount in view::mounts().into_iter().filter(|mount| mount.contains(&self.word)).rev() {
            let _ = nix::mount::umount2(mount.as_str(), nix::mount::MntFlags::MNT_DETACH);
        }
        view::remove_cgroups(&self.word);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Makes a root with busybox at PATH: every applet that tests use is a link to it.
///
/// # Panics
/// If `/bin/busybox` is missing (Debian package busybox-static) or PATH cannot be written.
pub fn rootfs(path: &Path) {
    let bin = path.join("bin");
    for folder in ["bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "var"] {
        fs::create_dir_all(path.join(folder)).expect("a folder of the root");
    }
    let busybox = bin.join("busybox");
    if fs::hard_link("/bin/busybox", &busybox).is_err() {
        fs::copy("/bin/busybox", &busybox).expect("/bin/busybox, of the package busybox-static");
    }
    for applet in APPLETS.split_whitespace() {
        symlink("busybox", bin.join(applet)).expect("a link to busybox");
    }
    let mut tmp = fs::metadata(path.join("tmp")).expect("the folder just made").permissions();
    tmp.set_mode(0o1777);
    fs::set_permissions(path.join("tmp"), tmp).expect("the mode of tmp");
    let users = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
    write!(fs::File::create(path.join("etc/passwd")).expect("passwd"), "{users}").expect("passwd");
    write!(fs::File::create(path.join("etc/group")).expect("group"), "root:x:0:\ntty:x:5:\n").expect("group");
}

const APPLETS: &str = "sh true false sleep cat echo ls id env pwd hostname ps mount umount mkdir rm ln ip dd stat head \
                       tail test touch kill chmod mknod readlink stty tty seq grep find wc date uname nc ipcs df od";
