//! Jails of those who are not root of the host: a user without an account, one with ranges of numbers, and root of a user
//! name space that somebody else made, as podman is where it calls a runtime.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use serde_json::{Value, json};
use tests::processes::field;
use tests::{
    Bundle, Host, LIMIT, Runtime, finish, installed, jail, left_nothing, require_root, unique, wait_for, walk,
};

use crate::pure_v2::on_pure_v2;

/// Nobody's number on any machine that tests run on.
const USER: u32 = 64_007;
/// The first number and the count that USER may use too, where he has an account.
const RANGE: (u32, u32) = (6_400_000, 65_536);

/// A folder that USER can look into, with a copy of the binary under test and whatever else a test needs on the host.
struct Home(PathBuf);

impl Home {
    fn new() -> Home {
        let path = std::env::temp_dir().join(unique());
        fs::create_dir(&path).unwrap();
        fs::copy(jail(), path.join("jail")).unwrap();
        Home(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }

    fn script(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
        self.path(name)
    }

    /// The words that make what follows run as USER, who has no account.
    fn plain(&self) -> String {
        format!("setpriv --reuid {USER} --regid {USER} --clear-groups")
    }

    /// The same for USER with an account, and RANGE in /etc/subuid, in a view of the host's /etc that nobody else has.
    fn with_account(&self) -> String {
        let table = |name: &str, line: String| {
            let text = fs::read_to_string(format!("/etc/{name}")).unwrap_or_default();
            fs::write(self.path(name), format!("{text}{line}\n")).unwrap();
        };
        table("passwd", format!("jailtest:x:{USER}:{USER}::/:/bin/sh"));
        table("group", format!("jailtest:x:{USER}:"));
        table("subuid", format!("jailtest:{}:{}", RANGE.0, RANGE.1));
        table("subgid", format!("jailtest:{}:{}", RANGE.0, RANGE.1));
        let view = format!(
            "for f in passwd group subuid subgid; do mount --bind {}/$f /etc/$f; done; exec {} \"$@\"",
            self.0.display(),
            self.plain()
        );
        self.script(
            "view",
            &format!("#!/bin/sh\nexec unshare --mount --propagation private sh -c '{view}' sh \"$@\"\n"),
        )
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A bundle that belongs to USER, for the runtime that is called by these words.
fn bundle(words: &str) -> (Bundle, Host) {
    let bundle = Bundle::of(Runtime::of(words));
    let host = Host::snapshot(&bundle.id, &[]);
    give(&bundle.dir);
    (bundle, host)
}

fn give(path: &Path) {
    std::os::unix::fs::lchown(path, Some(USER), Some(USER)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        fs::read_dir(path).unwrap().flatten().for_each(|entry| give(&entry.path()));
    }
}

/// Gives the jail a user name space whose root is USER, and after that COUNT of RANGE.
fn map(bundle: &mut Bundle, count: u32) {
    let mut maps = vec![json!({"containerID": 0, "hostID": USER, "size": 1})];
    if count > 0 {
        maps.push(json!({"containerID": 1, "hostID": RANGE.0, "size": count}));
    }
    bundle.set("/linux/uidMappings", maps.clone()).set("/linux/gidMappings", maps);
    bundle.set("/linux/namespaces/-", json!({"type": "user"})).remove("/linux/cgroupsPath");
}

/// The program under test and runc as USER: a test that runc fails too is a wrong test.
fn plain_runtimes(home: &Home) -> Vec<String> {
    let mut all = vec![format!("{} {}", home.plain(), home.path("jail"))];
    all.extend(installed("runc").then(|| format!("{} runc --rootless true", home.plain())));
    all
}

#[test]
fn a_plain_user_has_a_jail_from_its_start_to_its_end() {
    if !require_root() {
        return;
    }
    let home = Home::new();
    for words in plain_runtimes(&home) {
        let (mut bundle, host) = bundle(&words);
        map(&mut bundle, 0);
        bundle.create().ok();
        assert_eq!(bundle.status().as_deref(), Some("created"), "{words}");
        bundle.delete_force().ok();
        bundle.start_sleeper();
        assert_eq!(bundle.status().as_deref(), Some("running"));
        let seen = bundle.exec(&["sh", "-c", "id -u; echo $(cat /proc/self/setgroups); echo > /dev/null; exit 5"]);
        assert_eq!((seen.code(), &*seen.out), (Some(5), "0\ndeny\n"), "{words}: {seen}");
        let pid = bundle.pid().unwrap();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert_eq!(field(&status, "Uid").split_whitespace().next(), Some(&*USER.to_string()));
        bundle.kill("KILL").ok();
        bundle.becomes("stopped");
        bundle.delete().ok();
        bundle.args(&["sh", "-c", "exit 7"]);
        assert_eq!(bundle.run().code(), Some(7), "{words}");
        left_nothing(&bundle, &host);
    }
}

#[test]
fn what_a_plain_user_writes_as_a_start_runs() {
    if !require_root() {
        return;
    }
    let home = Home::new();
    for words in plain_runtimes(&home) {
        let (mut bundle, host) = bundle(&words);
        finish(bundle.command(&["spec", "--rootless"]).current_dir(&bundle.dir), LIMIT).ok();
        bundle.spec = serde_json::from_slice(&fs::read(bundle.dir.join("config.json")).unwrap()).unwrap();
        bundle.set("/process/terminal", false);
        let seen = bundle.script("id -u; ls -d /sys/class; echo > /dev/shm/x");
        assert_eq!(seen, "0\n/sys/class\n", "{words}");
        left_nothing(&bundle, &host);
    }
}

#[test]
fn the_jails_of_a_plain_user_are_listed_as_his_and_known_without_cgroups() {
    if !require_root() {
        return;
    }
    let home = Home::new();
    let (mut bundle, host) = bundle(&plain_runtimes(&home)[0]);
    map(&mut bundle, 0);
    bundle.args(&["sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"]).create().ok();
    bundle.start().ok();
    let members =
        || -> Vec<i32> { serde_json::from_str(&bundle.call(&["ps", "--format", "json", &bundle.id]).ok()).unwrap() };
    wait_for("the child of the shell", || members().len() == 2);
    let state: Value = serde_json::from_str(&bundle.state().ok()).unwrap();
    assert_eq!(state["owner"], USER.to_string());
    assert!(bundle.list().ok().contains(&USER.to_string()));
    let line = bundle.call(&["pause", &bundle.id]).fails();
    assert!(line.contains("none of its cgroups has a freezer"), "{line}");
    let [first, second] = members()[..] else { panic!() };
    assert_eq!(first, bundle.pid().unwrap());
    bundle.call(&["kill", "--all", &bundle.id, "TERM"]).ok();
    bundle.becomes("stopped");
    assert!(!tests::processes::lives(second));
    bundle.delete().ok();
    left_nothing(&bundle, &host);
}

#[test]
fn ranges_of_numbers_are_mapped_by_newuidmap() {
    if !require_root() || !installed("newuidmap") {
        return;
    }
    let home = Home::new();
    let (mut bundle, host) = bundle(&format!("{} {}", home.with_account(), home.path("jail")));
    map(&mut bundle, RANGE.1);
    bundle.set("/process/user", json!({"uid": 5, "gid": 6, "additionalGids": [7]}));
    bundle.start_sleeper();
    let status = fs::read_to_string(format!("/proc/{}/status", bundle.pid().unwrap())).unwrap();
    assert_eq!(field(&status, "Uid").split_whitespace().next(), Some(&*(RANGE.0 + 4).to_string()));
    assert_eq!(field(&status, "Groups").trim(), (RANGE.0 + 6).to_string());
    assert_eq!(bundle.exec(&["id"]).ok(), "uid=5 gid=6 groups=7\n");
    // He is not that user on the host, and ends him all the same.
    bundle.delete_force().ok();
    bundle.set("/linux/uidMappings/1/size", RANGE.1 + 1);
    let line = bundle.create().fails();
    assert!(line.starts_with("jail: cannot map the users of the jail: newuidmap: "), "{line}");
    left_nothing(&bundle, &host);
}

#[test]
fn what_a_plain_user_cannot_have_is_refused_and_touches_nothing() {
    if !require_root() {
        return;
    }
    let home = Home::new();
    let (mut bundle, host) = bundle(&plain_runtimes(&home)[0]);
    let line = bundle.create().fails();
    assert!(line.contains("/linux/namespaces") && line.contains("spec --rootless"), "{line}");
    map(&mut bundle, 0);
    bundle.set("/linux/resources", json!({"memory": {"limit": 1 << 26}}));
    let line = bundle.create().fails();
    assert!(line.contains("/linux/resources/memory/limit") && line.contains("Delegate=yes"), "{line}");
    bundle.remove("/linux/resources").set("/linux/cgroupsPath", "/there");
    let line = bundle.create().fails();
    assert!(line.contains("/linux/cgroupsPath") && line.contains("leave it out"), "{line}");
    bundle.remove("/linux/cgroupsPath").set("/linux/uidMappings/0/hostID", 0);
    let line = bundle.create().fails();
    // Of newuidmap, whether it knows the caller or not.
    assert!(line.contains("cannot map the users of the jail"), "{line}");
    left_nothing(&bundle, &host);
}

/// Says what the kernel says, and not what a variable of the environment does.
#[test]
fn root_is_who_the_kernel_says_is() {
    if !require_root() {
        return;
    }
    let home = Home::new();
    let (mut bundle, host) = bundle(&plain_runtimes(&home)[0]);
    let mut lying = bundle.making("create", &[]);
    lying.env("_JAIL_MAPPED", "1").env("_JAIL_READ_ONLY", "1").env("_CONTAINERS_ROOTLESS_UID", "0");
    let line = finish(&mut lying, LIMIT).fails();
    assert!(line.contains("read-only clone of the program file"), "{line}");
    left_nothing(&bundle, &host);
    drop(bundle);
    bundle = Bundle::new();
    let mut run = bundle.args(&["sh", "-c", "cat /proc/self/cgroup; cat /proc/self/uid_map"]).making("run", &[]);
    let seen = finish(run.env("_CONTAINERS_ROOTLESS_UID", "1000").env("XDG_RUNTIME_DIR", "/tmp"), LIMIT).ok();
    assert!(seen.contains(&bundle.id) && seen.contains("4294967295"), "{seen}");
}

/// A process that keeps a user name space and a mount name space open, as podman does.
struct Holder(Child);

impl Holder {
    fn new(home: &Home, how: &str) -> Holder {
        let words = format!("{} unshare {how} sleep 1000", home.plain());
        let mut words = words.split_whitespace();
        let child = Command::new(words.next().unwrap()).args(words).stdin(Stdio::null()).spawn().unwrap();
        let holder = Holder(child);
        wait_for("the name space", || {
            fs::read_to_string(format!("/proc/{}/uid_map", holder.0.id()))
                .is_ok_and(|map| map.split_whitespace().nth(1) == Some(&*USER.to_string()))
        });
        holder
    }

    fn inside(&self, home: &Home, spaces: &str) -> String {
        format!("{} nsenter --target {} {spaces} --preserve-credentials", home.plain(), self.0.id())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn root_of_a_user_name_space_that_somebody_else_made_has_jails_in_it() {
    if !require_root() {
        return;
    }
    let home = Home::new();
    for (how, spaces) in [("--user --map-root-user --mount", "--user --mount"), ("--user --map-root-user", "--user")] {
        let holder = Holder::new(&home, how);
        let inside = holder.inside(&home, spaces);
        let mut runtimes = vec![format!("{inside} {}", home.path("jail"))];
        // Without a mount name space of its own it cannot bind anything before the clone.
        runtimes.extend(installed("runc").then(|| format!("{inside} runc")));
        for words in runtimes {
            let (mut bundle, host) = bundle(&words);
            bundle.full();
            let mounts = bundle.spec["mounts"].as_array().unwrap().clone();
            let mounts: Vec<Value> = mounts.into_iter().filter(|mount| mount["type"] != "cgroup").collect();
            bundle.set("/mounts", mounts).remove("/linux/namespaces/5").remove("/linux/cgroupsPath");
            let pts = bundle.spec["mounts"].as_array().unwrap().iter().position(|mount| mount["type"] == "devpts");
            bundle.set(&format!("/mounts/{}/options", pts.unwrap()), json!(["nosuid", "noexec", "newinstance"]));
            bundle.set("/process/oomScoreAdj", 0);
            bundle.args(&["sleep", "1000"]).create().ok();
            assert_eq!(bundle.status().as_deref(), Some("created"), "{words}");
            bundle.start().ok();
            let seen = bundle.exec(&[
                "sh",
                "-c",
                "echo $(cat /proc/self/uid_map); echo > /dev/null; stat -c %t:%T /dev/zero; exit 3",
            ]);
            assert_eq!((seen.code(), &*seen.out), (Some(3), &*format!("0 {USER} 1\n1:5\n")), "{words}: {seen}");
            bundle.kill("KILL").ok();
            bundle.becomes("stopped");
            bundle.delete().ok();
            // One more user name space, with maps in the terms of this one.
            let maps = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
            bundle.set("/linux/uidMappings", maps.clone()).set("/linux/gidMappings", maps);
            bundle.set("/linux/namespaces/-", json!({"type": "user"}));
            assert_eq!(bundle.script("echo $(cat /proc/self/uid_map)"), "0 0 1\n", "{words}");
            left_nothing(&bundle, &host);
        }
    }
}

#[test]
fn he_who_made_a_user_name_space_enters_a_jail_in_it_from_outside() {
    if !require_root() {
        return;
    }
    let home = Home::new();
    let holder = Holder::new(&home, "--user --map-root-user --mount");
    let (mut inside, host) = bundle(&format!("{} {}", holder.inside(&home, "--user --mount"), home.path("jail")));
    inside.remove("/linux/cgroupsPath").start_sleeper();
    let outside = plain_runtimes(&home)[0].clone();
    let outside = |words: &[&str]| {
        let (root, words) = (inside.root.to_string_lossy(), words.to_vec());
        let all: Vec<_> = outside.split_whitespace().chain(["--root", &*root]).chain(words).collect();
        finish(Command::new(all[0]).args(&all[1..]).stdin(Stdio::null()), LIMIT)
    };
    assert_eq!(outside(&["exec", &inside.id, "sh", "-c", "id -u; hostname"]).ok(), "0\njail\n");
    outside(&["delete", "--force", &inside.id]).ok();
    // With the network stack of the host, /sys is not the caller's to mount; and who is in the jail is hard to say.
    let sysfs = json!({"destination": "/sys", "type": "sysfs", "source": "sysfs"});
    inside.set("/mounts/-", sysfs).remove("/linux/namespaces/4");
    let line = inside.create().fails();
    assert!(line.contains("mount sysfs on /sys") && line.contains("bind /sys"), "{line}");
    let mounts = inside.spec["mounts"].as_array().unwrap()[1..2].to_vec();
    let done = inside.set("/mounts", mounts).remove("/linux/namespaces/0").args(&["true"]).run();
    assert!(done.is_ok() && done.err.contains("neither cgroups nor a pid name space"), "{done}");
    left_nothing(&inside, &host);
}

#[test]
fn the_default_root_is_there_for_everybody() {
    if !require_root() {
        return;
    }
    let home = Home::new();
    let holder = Holder::new(&home, "--user --map-root-user --mount");
    let inside = holder.inside(&home, "--user --mount");
    for who in [home.plain(), inside] {
        let (bundle, host) = bundle(&format!("{who} {}", home.path("jail")));
        let script = "id -u; cat /etc/hostname; echo > /usr/new && echo wrote; cat /etc/shadow; echo >> /usr/bin/env";
        let done = bundle.friendly(&["sh", "-c", script]);
        assert_eq!(done.out, format!("0\n{}\nwrote\n", bundle.id), "{done}");
        // What belongs to the host's root belongs to nobody inside.
        assert!(done.err.contains("/etc/shadow") && done.err.contains("/usr/bin/env: Permission denied"), "{done}");
        assert!(!Path::new("/usr/new").exists());
        left_nothing(&bundle, &host);
    }
}

/// CVE-2019-5736, with a program file that the user may write to: his jail may not.
#[test]
fn the_program_file_of_a_plain_user_cannot_be_written_by_way_of_his_jail() {
    if !require_root() {
        return;
    }
    let home = Home::new();
    give(&home.0.join("jail"));
    for how in ["", "--user --map-root-user --mount", "--user --map-root-user"] {
        let holder = (!how.is_empty()).then(|| Holder::new(&home, how));
        let who =
            holder.as_ref().map_or(home.plain(), |holder| holder.inside(&home, &how.replace("--map-root-user", "")));
        let (mut bundle, host) = bundle(&format!("{who} {}", home.path("jail")));
        match how {
            "" => map(&mut bundle, 0),
            _ => drop(bundle.remove("/linux/cgroupsPath")),
        }
        bundle.args(&["sleep", "1000"]).create().ok();
        let exe = format!("/proc/{}/exe", bundle.pid().unwrap());
        let held = open(exe.as_str(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
        assert_eq!(fs::metadata(&exe).unwrap().ino(), fs::metadata(home.path("jail")).unwrap().ino());
        bundle.delete_force().ok();
        drop(fs::OpenOptions::new().append(true).open(home.path("jail")).unwrap());
        let again = format!("/proc/self/fd/{}", held.as_raw_fd());
        assert_eq!(open(again.as_str(), OFlag::O_WRONLY, Mode::empty()).unwrap_err(), nix::Error::EROFS, "{how}");
        left_nothing(&bundle, &host);
    }
}

#[test]
fn the_store_is_in_the_folder_of_the_session() {
    if !require_root() {
        return;
    }
    let home = Home::new();
    let (mut bundle, host) = bundle(&plain_runtimes(&home)[0]);
    map(&mut bundle, 0);
    bundle.args(&["sleep", "1000"]).write();
    give(&bundle.dir);
    let session = bundle.dir.join("session");
    fs::create_dir(&session).unwrap();
    chown(&session, Some(USER), Some(USER)).unwrap();
    let call = |words: &[&str]| {
        let as_user = format!("{} {}", home.plain(), home.path("jail"));
        let all: Vec<&str> = as_user.split_whitespace().chain(words.iter().copied()).collect();
        finish(Command::new(all[0]).args(&all[1..]).env("XDG_RUNTIME_DIR", &session).stdin(Stdio::null()), LIMIT)
    };
    call(&["run", "--detach", "--bundle", &bundle.dir.to_string_lossy(), &bundle.id]).ok();
    assert!(session.join("jail").join(&bundle.id).join("state.json").exists());
    assert_eq!(fs::metadata(session.join("jail")).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(call(&["exec", &bundle.id, "id", "-u"]).ok(), "0\n");
    assert!(call(&["list"]).ok().contains("running"));
    // Root of the host relies on no journal that another may write: that could name any process.
    let seen = finish(
        Command::new(jail()).args(["--root", &session.join("jail").to_string_lossy(), "state", &bundle.id]),
        LIMIT,
    );
    assert!(seen.ok().contains("stopped"));
    call(&["delete", "--force", &bundle.id]).ok();
    assert!(walk(&session.join("jail")).iter().all(|path| path.ends_with(".cache") || *path == session.join("jail")));
    fs::remove_dir_all(&session).unwrap();
    left_nothing(&bundle, &host);
}

/// One hierarchy of version 1 that root has given away: the jail is in that one, and in no other.
#[test]
fn a_delegated_hierarchy_of_version_1_is_used_and_the_others_are_not() {
    let pids = Path::new("/sys/fs/cgroup/pids");
    if !require_root() || !pids.join("cgroup.procs").exists() {
        return;
    }
    let home = Home::new();
    // runc wants all of them where it is told the place.
    let (mut bundle, host) = bundle(&plain_runtimes(&home)[0]);
    let given = pids.join(format!("jail-test-{}", bundle.id));
    fs::create_dir(&given).unwrap();
    give(&given);
    map(&mut bundle, 0);
    bundle.set("/linux/cgroupsPath", format!("/jail-test-{}/inside", bundle.id));
    bundle.set("/linux/resources", json!({"pids": {"limit": 20}}));
    bundle.start_sleeper();
    assert_eq!(tests::view::cgroups("inside"), [given.join("inside")]);
    assert_eq!(fs::read_to_string(given.join("inside/pids.max")).unwrap(), "20\n");
    assert!(bundle.exec(&["cat", "/proc/self/cgroup"]).ok().contains("/inside\n"));
    bundle.delete_force().ok();
    fs::remove_dir(&given).unwrap();
    left_nothing(&bundle, &host);
}

/// A limit that the file of the jail's cgroup shows, below what root has delegated.
#[test]
fn a_delegated_cgroup_holds_the_jail_and_its_limits() {
    let mut config = tests::spec::full("rootfs", "/unused");
    config["linux"].as_object_mut().unwrap().remove("cgroupsPath");
    config["process"]["args"] =
        json!(["sh", "-c", "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max; sleep 1000"]);
    config["linux"]["resources"]["memory"] = json!({"limit": 33_554_432});
    config["linux"]["resources"]["pids"] = json!({"limit": 20});
    let maps = json!([{"containerID": 0, "hostID": USER, "size": 1}]);
    config["linux"]["uidMappings"] = maps.clone();
    config["linux"]["gidMappings"] = maps;
    config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    for mount in config["mounts"].as_array_mut().unwrap() {
        if mount["type"] == "devpts" {
            mount["options"] = json!(["nosuid", "noexec", "newinstance"]);
        }
    }
    let script = format!(
        "u=/sys/fs/cgroup/user; mkdir -p $u/session /run/s; echo '+memory +pids' > /sys/fs/cgroup/cgroup.subtree_control
chown {USER}:{USER} /run/s $u $u/cgroup.procs $u/cgroup.subtree_control $u/session $u/session/cgroup.procs
chown -R {USER}:{USER} b; echo $BASHPID > $u/session/cgroup.procs
as() {{ setpriv --reuid {USER} --regid {USER} --clear-groups env XDG_RUNTIME_DIR=/run/s $j \"$@\"; }}
as run --detach --bundle b limited > said < /dev/null; while ! grep -q 20 said; do sleep 0.1; done; cat said
find $u -mindepth 1 -type d | sort; as exec limited cat /proc/self/cgroup
as pause limited; as state limited | grep status; as resume limited
as update --memory 16m limited; cat $u/jail-limited/memory.max
as kill --all limited KILL; as delete --force limited; find $u -mindepth 1 -type d
as --root /run/s/x run --bundle b near < /dev/null > said & while ! grep -q 20 said; do sleep 0.1; done
as --root /run/s/x delete --force near; wait $! || echo $?; find $u -mindepth 1 -type d"
    );
    let Some(said) = on_pure_v2(&config, &script) else { return };
    let once = "/sys/fs/cgroup/user/session\n";
    let expected = format!(
        "33554432\n20\n/sys/fs/cgroup/user/jail-limited\n{once}0::/\n  \"status\": \"paused\"\n16777216\n{once}137\n{once}"
    );
    assert_eq!((said.out.replace("paused\",", "paused\""), said.code.trim()), (expected, "0"), "{}", said.err);
    assert_eq!(said.err, "");
}
