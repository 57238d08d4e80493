//! The classes of bug that this field has had, each with a proof that this runtime does not have it.
//!
//! Where Debian's crun or runc has the bug, a control shows that the test would see it.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, open, renameat2};
use nix::sys::stat::Mode;
use serde_json::{Value, json};
use tests::view::{self, View};
use tests::{Bundle, Done, Host, LIMIT, Runtime, finish, installed, jail, processes, require_root, spec};

/// Everything of a tree that a jail could change: names, kinds, modes, owners, contents.
pub(crate) fn tree(path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![path.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let (path, data) = (entry.path(), entry.path().symlink_metadata().unwrap());
            let text = if data.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            let line = (&path, data.mode(), data.uid(), data.gid(), data.rdev(), String::from_utf8_lossy(&text).len());
            found.push(format!("{line:?} {}", String::from_utf8_lossy(&text[..text.len().min(64)])));
            if data.is_dir() {
                folders.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A folder of the host that nothing may touch, beside the bundle's root.
fn sentinel(bundle: &Bundle) -> std::path::PathBuf {
    let folder = bundle.dir.join("sentinel");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("file"), "of the host").unwrap();
    folder
}

fn full() -> Bundle {
    let mut bundle = Bundle::new();
    let cgroup = bundle.spec["linux"]["cgroupsPath"].as_str().unwrap().to_string();
    bundle.spec = spec::full("rootfs", &cgroup);
    bundle
}

/// Gives the root Debian's perl, whose `syscall` makes any call.
fn with_perl(bundle: &mut Bundle, script: &str) {
    for (name, to) in [("lib", "usr/lib"), ("lib64", "usr/lib64")] {
        symlink(to, bundle.rootfs().join(name)).unwrap();
    }
    let usr = json!({"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]});
    bundle.set("/mounts/-", usr).args(&["perl", "-e", script]);
}

/// `jail run NAME -- WORDS` on the default root.
fn friendly(bundle: &Bundle, words: &[&str]) -> Done {
    bundle.call(&[&["run", &bundle.id, "--"], words].concat())
}

/// Fields of /proc/self/status by name.
fn field<'a>(status: &'a str, name: &str) -> Vec<&'a str> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).split_whitespace().collect()
}

// 1: paths of the image.

fn make_dev_a_link(bundle: &mut Bundle) -> std::path::PathBuf {
    let host = sentinel(bundle);
    fs::remove_dir(bundle.rootfs().join("dev")).unwrap();
    symlink(&host, bundle.rootfs().join("dev")).unwrap();
    bundle.set("/mounts", json!([{"destination": "/proc", "type": "proc", "source": "proc"}]));
    host
}

#[test]
fn devices_are_not_made_where_a_link_of_the_image_leads() {
    if !require_root() {
        return;
    }
    let mut bundle = Bundle::new();
    let host = make_dev_a_link(&mut bundle);
    let before = tree(&host);
    bundle.run();
    assert_eq!(tree(&host), before);
}

#[test]
fn the_older_runc_and_crun_make_devices_where_a_link_of_the_image_leads() {
    for name in ["crun", "runc"] {
        if !require_root() || !installed(name) {
            return;
        }
        let version = Command::new(name).arg("--version").output().unwrap().stdout;
        let version = String::from_utf8_lossy(&version).into_owned();
        if !version.contains("version 1.8.1") && !version.contains("version 1.1.") {
            println!("skipped: {name} is no older one: {version}");
            continue;
        }
        View::V1.enter().unwrap();
        let mut bundle = Bundle::of(Runtime::of(name));
        let host = make_dev_a_link(&mut bundle);
        bundle.run();
        let made = fs::read_dir(&host).unwrap().count() - 1;
        assert!(made >= 5, "{name} made {made}");
    }
}

#[test]
fn a_link_in_the_place_of_a_mount_point_leads_nowhere_outside() {
    if !require_root() {
        return;
    }
    for name in ["dev", "proc", "sys", "tmp", "etc"] {
        for form in 0..4 {
            let mut bundle = full();
            let host = sentinel(&bundle);
            let target = match form {
                0 => host.clone(),
                1 => Path::new("../../../../../../..").join(host.strip_prefix("/").unwrap()),
                2 => "/proc/self/fd/3".into(),
                _ => Path::new("/proc/1/root").join(host.strip_prefix("/").unwrap()),
            };
            fs::remove_dir_all(bundle.rootfs().join(name)).unwrap();
            symlink(target, bundle.rootfs().join(name)).unwrap();
            for place in ["/tmp/new", "/etc/sub/folder"] {
                bundle.set("/mounts/-", json!({"destination": place, "type": "tmpfs", "source": "none"}));
            }
            let before = tree(&host);
            let done = bundle.run();
            assert!(!done.hung(), "{name} {form}: {done}");
            assert_eq!(tree(&host), before, "{name} {form}");
            if matches!(name, "proc" | "sys") {
                assert!(done.fails().contains("it is a link"), "{name} {form}");
            }
        }
    }
}

/// The race of CVE-2021-30465: between the look at a mount's target and the mount, the target becomes a link.
#[test]
fn a_racer_on_mount_destinations_reaches_nothing_of_the_host() {
    if !require_root() {
        return;
    }
    View::Host.enter().unwrap();
    let mut bundle = Bundle::new();
    let host = sentinel(&bundle);
    fs::create_dir(host.join("below")).unwrap();
    let rootfs = bundle.rootfs();
    fs::create_dir_all(rootfs.join("a/below")).unwrap();
    fs::write(rootfs.join("a/file"), "").unwrap();
    symlink(&host, rootfs.join("b")).unwrap();
    let source = bundle.dir.join("source");
    fs::create_dir(&source).unwrap();
    for mount in [
        json!({"destination": "/a/below", "type": "tmpfs", "source": "none"}),
        json!({"destination": "/a/below/deep/new", "type": "bind", "source": source, "options": ["bind"]}),
        json!({"destination": "/a/new", "type": "bind", "source": source, "options": ["bind"]}),
    ] {
        bundle.set("/mounts/-", mount);
    }
    bundle.set("/linux/maskedPaths", json!(["/a/file"])).set("/linux/readonlyPaths", json!(["/a/below"]));
    bundle.set("/linux/devices", json!([{"path": "/a/null", "type": "c", "major": 1, "minor": 3}]));
    let before = (tree(&host), view::mounts());
    let over = AtomicBool::new(false);
    let (mut made, mut swaps) = (0, 0_u64);
    std::thread::scope(|scope| {
        let racer = scope.spawn(|| {
            let mut swaps = 0;
            while !over.load(Ordering::Relaxed) {
                let exchanged =
                    renameat2(AT_FDCWD, &rootfs.join("a"), AT_FDCWD, &rootfs.join("b"), RenameFlags::RENAME_EXCHANGE);
                swaps += u64::from(exchanged.is_ok());
            }
            swaps
        });
        for _ in 0..200 {
            let done = bundle.run();
            made += usize::from(done.is_ok());
            if done.hung() || tree(&host) != before.0 || view::mounts() != before.1 {
                over.store(true, Ordering::Relaxed);
                panic!("{done}\n{:#?}", tree(&host));
            }
        }
        over.store(true, Ordering::Relaxed);
        swaps = racer.join().unwrap();
    });
    println!("{made} of 200 were made during {swaps} swaps");
    assert!(swaps > 1000 && view::cgroups(&bundle.id).is_empty());
}

// 2: masks.

/// `1:3 c` where the null device is, and the number of entries of a folder.
const SHOW_MASKS: &str = "for p in /proc/kcore /proc/keys /proc/timer_list /etc/passwd /etc/link; do \
    [ -e $p ] && stat -L -c '%n %t:%T %F' $p; done; ls /sys/firmware | wc -l; cat /proc/keys /etc/passwd /etc/link";

#[test]
fn a_mask_is_the_null_device_whatever_the_image_has_in_its_place() {
    if !require_root() {
        return;
    }
    let mut bundle = full();
    let secret = sentinel(&bundle).join("file");
    // With a /dev of the image's own: the null device in it leads elsewhere.
    bundle.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    symlink(&secret, bundle.rootfs().join("dev/null")).unwrap();
    symlink("group", bundle.rootfs().join("etc/link")).unwrap();
    let masks = ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/etc/passwd", "/etc/link"];
    bundle.set("/linux/maskedPaths", json!(masks)).set("/root/readonly", false);
    bundle.args(&["sh", "-c", SHOW_MASKS]);
    // The image's node is none: refused, not used.
    assert!(bundle.run().fails().contains("/dev/null"));
    fs::remove_file(bundle.rootfs().join("dev/null")).unwrap();
    let out = bundle.run().ok();
    let shown: Vec<&str> = out.lines().filter(|line| line.starts_with('/')).collect();
    assert!(shown.len() >= 4 && shown.iter().all(|line| line.ends_with("1:3 character special file")), "{out}");
    assert!(!out.contains("of the host") && !out.contains("root:"), "{out}");
    assert_eq!(out.lines().last().map(str::trim), Some("0"), "{out}");
}

/// The mask is a bind of the host's own node: by it, root inside must not reach the node's inode.
#[test]
fn a_mask_gives_no_hold_on_the_null_device_of_the_host() {
    if !require_root() {
        return;
    }
    let null = || {
        let data = fs::metadata("/dev/null").unwrap();
        assert!(data.file_type().is_char_device());
        (data.mode(), data.uid(), data.gid(), data.mtime())
    };
    let before = null();
    let bundle = Bundle::new();
    // The mode that it has anyway, so that a failure of this test harms nobody: what counts is whether it may be set.
    let try_all = "chmod 666 /proc/keys && echo chmod; chown 0:0 /proc/keys && echo chown; \
        touch -m /proc/keys && echo touch; echo x > /proc/keys && echo written";
    let out = friendly(&bundle, &["sh", "-c", try_all]).ok();
    assert_eq!(null(), before);
    assert_eq!(out, "written\n");
}

// 3: redirected writes to procfs.

#[test]
fn nothing_is_mounted_over_or_below_proc() {
    if !require_root() {
        return;
    }
    let places = [
        "/proc/sys",
        "/proc/self",
        "/proc/self/attr",
        "/proc/self/oom_score_adj",
        "/proc/1/uid_map",
        "/proc/sysrq-trigger",
        "/proc/../proc/sys/kernel",
        "/proc/./sys",
    ];
    for place in places {
        for mount in [
            json!({"destination": place, "type": "tmpfs", "source": "none"}),
            json!({"destination": place, "type": "bind", "source": "/tmp", "options": ["bind"]}),
            json!({"destination": place, "type": "bind", "source": "/proc/version", "options": ["bind"]}),
        ] {
            let mut bundle = Bundle::new();
            bundle.set("/mounts/-", mount);
            assert!(bundle.run().fails().contains("inside /proc"), "{place}");
        }
    }
    // … nor by way of a link of the image.
    let mut bundle = Bundle::new();
    symlink("/proc/sys", bundle.rootfs().join("way")).unwrap();
    bundle.set("/mounts/-", json!({"destination": "/way", "type": "tmpfs", "source": "none"}));
    assert!(bundle.run().fails().contains("inside /proc"));
    let mut bundle = Bundle::new();
    bundle.set("/mounts/-", json!({"destination": "/proc", "type": "tmpfs", "source": "none"}));
    assert!(bundle.run().fails().contains("inside /proc"));
}

#[test]
fn an_older_crun_mounts_over_proc_sys() {
    if !require_root() || !installed("crun") {
        return;
    }
    View::V1.enter().unwrap();
    let mut bundle = Bundle::of(Runtime::of("crun"));
    bundle.set("/mounts/-", json!({"destination": "/proc/sys", "type": "tmpfs", "source": "none"}));
    assert!(bundle.args(&["ls", "/proc/sys"]).run().ok().is_empty());
}

#[test]
fn a_sysctl_lands_in_the_kernel_whatever_is_on_proc() {
    if !require_root() {
        return;
    }
    let mut bundle = Bundle::new();
    let fake = bundle.dir.join("fake");
    fs::create_dir_all(fake.join("sys/kernel")).unwrap();
    fs::write(fake.join("sys/kernel/shmmni"), "77").unwrap();
    bundle.set(
        "/mounts",
        json!([
            {"destination": "/proc", "type": "bind", "source": fake, "options": ["bind"]},
            {"destination": "/true", "type": "proc", "source": "proc"},
        ]),
    );
    bundle.set("/linux/sysctl", json!({"kernel.shmmni": "99"}));
    bundle.args(&["cat", "/proc/sys/kernel/shmmni", "/true/sys/kernel/shmmni"]);
    let done = bundle.run();
    assert_eq!(fs::read_to_string(fake.join("sys/kernel/shmmni")).unwrap(), "77");
    assert!(!done.is_ok() || done.out == "7799\n", "{done}");
    for key in
        ["kernel.core_pattern", "net/../kernel/core_pattern", "kernel.shmmni/../core_pattern", "vm.overcommit_memory"]
    {
        let mut bundle = Bundle::new();
        bundle.set("/linux/sysctl", json!({key: "1"}));
        bundle.run().fails();
    }
}

// 4: the runtime's own program.

#[test]
fn the_program_file_of_the_runtime_cannot_be_opened_for_writing() {
    if !require_root() {
        return;
    }
    // A copy that only this test runs: a file that is running cannot be written to by anybody.
    let place = Bundle::new();
    let copy = place.dir.join("copy");
    fs::copy(jail(), &copy).unwrap();
    let mut bundle = Bundle::of(Runtime::of(&copy.to_string_lossy()));
    bundle.args(&["sleep", "1000"]).create().ok();
    let exe = format!("/proc/{}/exe", bundle.pid().unwrap());
    let held = open(exe.as_str(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
    assert_eq!(fs::metadata(&exe).unwrap().ino(), fs::metadata(&copy).unwrap().ino());
    bundle.delete_force().ok();
    // The file itself can be written to by now, by its own name.
    drop(fs::OpenOptions::new().append(true).open(&copy).unwrap());
    let again = format!("/proc/self/fd/{}", held.as_raw_fd());
    for flags in [OFlag::O_WRONLY, OFlag::O_RDWR, OFlag::O_WRONLY | OFlag::O_TRUNC] {
        assert_eq!(open(again.as_str(), flags, Mode::empty()).unwrap_err(), nix::Error::EROFS);
    }
}

/// CVE-2019-5736: what runs is the runtime itself, because the image says so; some process of the jail writes to it.
#[test]
fn a_program_that_is_the_runtime_itself_gives_no_way_to_write_to_it() {
    if !require_root() {
        return;
    }
    let place = Bundle::new();
    let copy = place.dir.join("copy");
    fs::copy(jail(), &copy).unwrap();
    let before = tree(&place.dir).into_iter().find(|line| line.contains("/copy")).unwrap();
    let again = |bundle: &Bundle| {
        let script = bundle.rootfs().join("bin/again");
        fs::write(&script, "#!/proc/self/exe\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let mut bundle = Bundle::of(Runtime::of(&copy.to_string_lossy()));
    again(&bundle);
    // Holds what runs and is not busybox, and writes to it when it has ended.
    let watch = "while :; do for p in /proc/[0-9]*; do case $(readlink $p/exe) in */busybox|'') ;; *) \
        (exec 9<$p/exe && echo >> /tmp/held && sleep 1 && echo x > /proc/self/fd/9 && echo >> /tmp/written) & ;; \
        esac; done; done 2>/dev/null";
    bundle.args(&["sh", "-c", watch]).create().ok();
    bundle.start().ok();
    let held = bundle.rootfs().join("tmp/held");
    for _ in 0..200 {
        bundle.exec(&["again"]);
        bundle.exec(&["/proc/self/exe", "list"]);
        if held.exists() {
            break;
        }
    }
    std::thread::sleep(Duration::from_millis(1500));
    bundle.delete_force().ok();
    println!("held while it ran: {}", held.exists());
    assert!(!bundle.rootfs().join("tmp/written").exists());
    for words in [&["again"][..], &["/proc/self/exe", "list"]] {
        assert!(!bundle.args(words).run().hung());
    }
    assert_eq!(tree(&place.dir).into_iter().find(|line| line.contains("/copy")).unwrap(), before);
}

// 5: descriptors, working directory, environment.

/// A caller that leaves two folders of the host open, and has a secret in its environment.
fn careless(bundle: &Bundle, words: &[&str]) -> Done {
    let mut command = Command::new("sh");
    // Digits: the shell of Debian takes no other descriptors.
    command.args(["-c", "exec 8<\"$0\" 9</; export OF_THE_HOST=mark; exec \"$@\""]).arg(&bundle.dir);
    command.arg(jail()).arg("--root").arg(&bundle.root).args(words).stdin(std::process::Stdio::null());
    let done = finish(&mut command, LIMIT);
    assert!(done.code() != Some(127), "the shell itself failed: {done}");
    done
}

#[test]
fn no_descriptor_and_no_variable_of_the_caller_comes_in() {
    if !require_root() {
        return;
    }
    let show = ["sh", "-c", "cd /proc/self/fd; echo *; ls -l /proc/1/fd; env; tr '\\0' '\\n' < /proc/1/environ"];
    let mut bundle = Bundle::new();
    bundle.args(&show).write();
    let dir = bundle.dir.to_string_lossy().into_owned();
    let run = careless(&bundle, &["run", "--bundle", &dir, &bundle.id]).ok();
    bundle.args(&["sleep", "1000"]).write();
    careless(&bundle, &["create", "--bundle", &dir, &bundle.id]).ok();
    careless(&bundle, &["start", &bundle.id]).ok();
    let exec = careless(&bundle, &[&["exec", bundle.id.as_str()][..], &show].concat()).ok();
    let friend = Bundle::new();
    let friend = careless(&friend, &[&["run", friend.id.as_str(), "--"][..], &show].concat()).ok();
    for out in [run, exec, friend] {
        let fds = out.lines().next().unwrap();
        // The shell has the folder open while it looks.
        assert!(matches!(fds, "0 1 2" | "0 1 2 3"), "{out}");
        let first = out.lines().filter(|line| line.contains(" -> "));
        assert!(first.clone().count() == 3 || first.count() == 0, "{out}");
        assert!(!out.contains("OF_THE_HOST") && !out.contains("_JAIL"), "{out}");
    }
}

/// CVE-2024-21626.
#[test]
fn a_working_directory_by_descriptor_is_inside_or_refused() {
    if !require_root() {
        return;
    }
    let mut bundle = Bundle::new();
    fs::write(bundle.rootfs().join("inside"), "").unwrap();
    let dir = bundle.dir.to_string_lossy().into_owned();
    for number in 3..64 {
        let cwd = format!("/proc/self/fd/{number}");
        bundle.set("/process/cwd", cwd).args(&["ls"]).write();
        let done = careless(&bundle, &["run", "--bundle", &dir, &bundle.id]);
        assert!(!done.is_ok() || done.out.lines().any(|line| line == "inside"), "{number}: {done}");
    }
    bundle.set("/process/cwd", "/").args(&["sleep", "1000"]).create().ok();
    bundle.start().ok();
    for number in 3..64 {
        let done = careless(&bundle, &["exec", "--cwd", &format!("/proc/self/fd/{number}"), &bundle.id, "ls"]);
        assert!(!done.is_ok() || done.out.lines().any(|line| line == "inside"), "{number}: {done}");
    }
    // The same by a link of the image.
    symlink("/proc/self/fd/3/..", bundle.rootfs().join("way")).unwrap();
    let done = bundle.exec(&["true"]);
    assert!(done.is_ok(), "{done}");
    let done = bundle.call(&["exec", "--cwd", "/way", &bundle.id, "ls"]);
    assert!(!done.is_ok() || done.out.lines().any(|line| line == "inside"), "{done}");
}

/// The same class by the program's path: a link of the image through a descriptor that process 1 still has. What would
/// run is a file of the host, which the jail could then open for writing by /proc/PID/exe.
#[test]
fn no_program_of_the_host_runs_by_way_of_a_descriptor() {
    if !require_root() {
        return;
    }
    let mut bundle = Bundle::new();
    let host = bundle.dir.join("host");
    fs::create_dir(&host).unwrap();
    fs::copy("/bin/busybox", host.join("busybox")).unwrap();
    let dir = bundle.dir.to_string_lossy().into_owned();
    let mut ran = Vec::new();
    let mut running = Bundle::new();
    running.args(&["sleep", "1000"]).create().ok();
    running.start().ok();
    for number in 3..30 {
        for up in ["host", "../host", "../../host"] {
            let path = format!("/proc/self/fd/{number}/{up}/busybox");
            bundle.args(&[&path, "readlink", "/proc/self/exe"]).write();
            let done = careless(&bundle, &["run", "--bundle", &dir, &bundle.id]);
            if done.out.contains("host") {
                ran.push(format!("run {path}"));
            }
        }
        // The image's own link, and exec.
        let folder = running.rootfs().join(format!("way{number}"));
        fs::create_dir(&folder).unwrap();
        symlink(format!("/proc/self/fd/{number}/../host/busybox"), folder.join("busybox")).unwrap();
        fs::create_dir_all(running.dir.join("host")).unwrap();
        fs::copy("/bin/busybox", running.dir.join("host/busybox")).unwrap();
        let path = format!("/way{number}/busybox");
        let done = careless(&running, &["exec", &running.id, &path, "readlink", "/proc/self/exe"]);
        if done.out.contains("host") {
            ran.push(format!("exec {path}"));
        }
    }
    assert!(ran.is_empty(), "ran: {ran:#?}");
}

#[test]
fn a_created_jail_holds_no_folder_of_the_host() {
    if !require_root() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.args(&["sleep", "1000"]).write();
    let dir = bundle.dir.to_string_lossy().into_owned();
    careless(&bundle, &["create", "--bundle", &dir, &bundle.id]).ok();
    let pid = bundle.pid().unwrap();
    let root = fs::metadata(format!("/proc/{pid}/root")).unwrap();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        let data = fs::metadata(entry.path());
        let folder =
            data.as_ref().is_ok_and(|data| data.is_dir() && (data.dev(), data.ino()) != (root.dev(), root.ino()));
        assert!(!folder, "{} -> {}", entry.path().display(), fs::read_link(entry.path()).unwrap().display());
    }
}

// 6: privilege sets.

/// A small generator: the same sequence in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

const CAPS: &[(&str, u32)] = &[
    ("CAP_CHOWN", 0),
    ("CAP_DAC_OVERRIDE", 1),
    ("CAP_FOWNER", 3),
    ("CAP_KILL", 5),
    ("CAP_SETGID", 6),
    ("CAP_SETUID", 7),
    ("CAP_NET_ADMIN", 12),
    ("CAP_SYS_PTRACE", 19),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_AUDIT_READ", 37),
    ("CAP_BPF", 39),
];

#[test]
fn a_process_is_exactly_who_the_specification_says() {
    if !require_root() {
        return;
    }
    let mut dice = Dice(7);
    for _ in 0..25 {
        let mut bundle = Bundle::new();
        let ids = [0, 1, 1000, 65_534, 4_000_000_000];
        let (uid, gid) = (ids[dice.roll(5) as usize], ids[dice.roll(5) as usize]);
        let groups: Vec<u64> = (0..dice.roll(4)).map(|n| n * 100 + 7).collect();
        let all: Vec<_> = CAPS.iter().filter(|_| dice.roll(2) == 0).collect();
        let some: Vec<_> = all.iter().filter(|_| dice.roll(2) == 0).collect();
        let mask = |caps: &[u32]| caps.iter().fold(0_u64, |bits, cap| bits | 1 << cap);
        let (bounding, held) = (
            mask(&all.iter().map(|(_, bit)| *bit).collect::<Vec<_>>()),
            mask(&some.iter().map(|(_, bit)| *bit).collect::<Vec<_>>()),
        );
        let names = |caps: Vec<&str>| json!(caps);
        let bounding_names = names(all.iter().map(|(name, _)| *name).collect());
        let held_names = names(some.iter().map(|(name, _)| *name).collect());
        let nnp = dice.roll(2) == 0;
        bundle.set("/process/user", json!({"uid": uid, "gid": gid, "additionalGids": groups}));
        bundle.set(
            "/process/capabilities",
            json!({
                "bounding": bounding_names, "effective": held_names, "permitted": held_names,
                "inheritable": held_names, "ambient": held_names,
            }),
        );
        bundle.set("/process/noNewPrivileges", nnp).args(&["cat", "/proc/self/status"]);
        let status = bundle.run().ok();
        let number = |name: &str| u64::from_str_radix(field(&status, name)[0], 16).unwrap();
        let ids = |name: &str| field(&status, name).iter().map(|id| id.parse().unwrap()).collect::<Vec<u64>>();
        assert_eq!((ids("Uid"), ids("Gid"), ids("Groups")), (vec![uid; 4], vec![gid; 4], groups));
        // Ambient ones keep all of them across the exec, whoever the user is; root has its own by the bounding set.
        let root = if uid == 0 { bounding } else { held };
        assert_eq!((number("CapBnd"), number("CapInh"), number("CapAmb")), (bounding, held, held), "{}", bundle.spec);
        assert_eq!(number("CapPrm") & !root, 0, "{}", bundle.spec);
        assert_eq!(number("CapPrm") & held, held, "{}", bundle.spec);
        assert_eq!(field(&status, "NoNewPrivs"), [if nnp { "1" } else { "0" }]);
    }
}

/// CVE-2022-24769 and its kin.
#[test]
fn nothing_is_inheritable_or_ambient_by_default() {
    if !require_root() {
        return;
    }
    let mut bundle = full();
    bundle.args(&["cat", "/proc/self/status"]);
    let friend = Bundle::new();
    for status in [bundle.run().ok(), friendly(&friend, &["cat", "/proc/self/status"]).ok()] {
        assert_eq!(
            (field(&status, "CapInh"), field(&status, "CapAmb")),
            (vec!["0000000000000000"], vec!["0000000000000000"])
        );
        assert_eq!(field(&status, "NoNewPrivs"), ["1"]);
    }
}

#[test]
fn a_user_that_is_no_number_is_nobody_at_all() {
    if !require_root() {
        return;
    }
    for user in ["nobody", "root", "-1", "4294967296", "0x0", "1:", ":1", ""] {
        let mut bundle = Bundle::new();
        bundle.args(&["sleep", "1000"]).create().ok();
        bundle.start().ok();
        let done = bundle.call(&["exec", "--user", user, &bundle.id, "id"]);
        assert!(!done.is_ok() && done.out.is_empty(), "{user}: {done}");
    }
    for uid in [json!("nobody"), json!(-1), json!(4_294_967_296_u64), json!(1.5), json!("0"), json!([0])] {
        let mut bundle = Bundle::new();
        bundle.set("/process/user/uid", uid).run().fails();
    }
}

// 7: sockets.

#[test]
fn a_jail_in_the_network_of_the_host_sees_no_abstract_socket_of_the_runtime() {
    if !require_root() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|space| space["type"] != "network");
    let abstracts = || -> Vec<String> {
        let text = fs::read_to_string("/proc/net/unix").unwrap();
        let names = text.lines().filter_map(|line| line.split_whitespace().nth(7));
        names.filter(|name| name.starts_with('@')).map(str::to_string).collect()
    };
    let before = abstracts();
    bundle.args(&["sleep", "1000"]).create().ok();
    let new: Vec<String> = abstracts().into_iter().filter(|name| !before.contains(name)).collect();
    assert!(!new.iter().any(|name| name.contains("jail") || name.contains(&bundle.id)), "{new:?}");
    assert_eq!(fs::metadata(bundle.root.join(&bundle.id)).unwrap().mode() & 0o777, 0o700);
}

// 8, 9: knobs of the host.

/// Opens every file below /proc and /sys for writing, its own processes left out, and prints which it could.
const SWEEP: &str = r#"
use Fcntl; use File::Find;
my $w = sub {
    my $p = $File::Find::name;
    if ($p =~ m{^/proc/(\d+|self|thread-self)$}) { $File::Find::prune = 1; return; }
    return if -l $p || !-f $p;
    if (sysopen(my $f, $p, O_WRONLY | O_NONBLOCK | O_NOCTTY)) { print "$p\n"; }
};
find({ wanted => $w, no_chdir => 1 }, "/proc", "/sys");
print "end\n";
"#;

/// Files without any effect when they are written to: procfs has no write operation for them (EIO), or it is the null
/// device of a mask, or it takes a memory-pressure trigger of the writer's own.
const HARMLESS: &[&str] = &["/proc/pressure/", "/proc/tty/", "/proc/sysvipc/", "/proc/driver/"];

#[test]
fn no_knob_of_the_host_can_be_opened_for_writing() {
    if !require_root() {
        return;
    }
    let bundle = Bundle::new();
    let out = friendly(&bundle, &["perl", "-e", SWEEP]).ok();
    assert!(out.ends_with("end\n"), "{out}");
    let dangerous = |path: &&str| {
        let top = path.strip_prefix("/proc/").is_some_and(|rest| !rest.contains('/'));
        let inert = !matches!(*path, "/proc/sysrq-trigger" | "/proc/mtrr" | "/proc/kcore" | "/proc/sched_debug");
        *path != "end" && !(top && inert) && !HARMLESS.iter().any(|known| path.starts_with(known))
    };
    let wrong: Vec<&str> = out.lines().filter(dangerous).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Of those at the top, a write has no effect: none is taken.
    let tops: Vec<&str> = out.lines().filter(|line| *line != "end" && !line.contains("/proc/pressure")).collect();
    let masked = ["/proc/keys", "/proc/kallsyms", "/proc/interrupts", "/proc/timer_list"];
    let write = format!(
        "for p in {}; do (echo 0 > $p) 2>/dev/null && echo $p; done; true",
        tops.iter()
            .filter(|path| !masked.contains(path) && path.matches('/').count() == 2)
            .copied()
            .collect::<Vec<_>>()
            .join(" ")
    );
    let again = Bundle::new();
    let written = friendly(&again, &["sh", "-c", &write]).ok();
    assert_eq!(written, "", "these take a write");
}

/// CVE-2022-0492.
#[test]
fn no_cgroup_tree_can_be_mounted_or_changed_inside() {
    if !require_root() {
        return;
    }
    let bundle = Bundle::new();
    let script = "mount -t cgroup -o memory none /mnt 2>/dev/null && echo MOUNTED; \
        mount -t cgroup2 none /mnt 2>/dev/null && echo MOUNTED; mkdir /sys/fs/cgroup/*/new 2>/dev/null && echo MADE; \
        for f in $(find /sys/fs/cgroup -name release_agent -o -name cgroup.procs -o -name devices.allow); do \
        (echo 0 > $f) 2>/dev/null && echo WRITTEN $f; done; find /sys/fs/cgroup -name release_agent; \
        unshare -UrmC true 2>/dev/null && echo UNSHARED; true";
    assert_eq!(friendly(&bundle, &["sh", "-c", script]).ok(), "");
}

// 10: hooks.

#[test]
fn a_hook_inside_has_no_more_privilege_than_the_program() {
    if !require_root() {
        return;
    }
    let controls = ["crun", "runc"].into_iter().filter(|name| installed(name)).map(Runtime::of);
    for runtime in std::iter::once(Runtime::jail()).chain(controls) {
        let name = runtime.name();
        View::V1.enter().unwrap();
        let mut bundle = Bundle::of(runtime);
        let hook = bundle.rootfs().join("bin/hook");
        fs::write(&hook, "#!/bin/sh\ncat /proc/self/status > /seen\n").unwrap();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
        bundle.set("/process/capabilities", json!({"bounding": [], "effective": [], "permitted": []}));
        bundle.set("/process/noNewPrivileges", true).set("/hooks/startContainer", json!([{"path": "/bin/hook"}]));
        bundle.run().ok();
        let status = fs::read_to_string(bundle.rootfs().join("seen")).unwrap();
        assert_eq!(field(&status, "CapEff"), ["0000000000000000"], "{name}");
        assert_eq!(field(&status, "CapBnd"), ["0000000000000000"], "{name}");
        assert_eq!(field(&status, "NoNewPrivs"), ["1"], "{name}");
    }
}

/// CVE-2025-23266: LD_PRELOAD of the image reached a hook on the host.
#[test]
fn a_hook_has_its_own_environment_and_nothing_else() {
    if !require_root() {
        return;
    }
    let mut bundle = Bundle::new();
    let seen = bundle.dir.join("seen");
    let words =
        ["sh", "-c", &format!("tr '\\0' '\\n' < /proc/$$/environ > {0}; ls /proc/$$/fd >> {0}", seen.display())];
    let hook = json!([{"path": "/bin/sh", "args": words, "env": ["ONLY=this"]}]);
    bundle.set("/process/env", json!(["PATH=/bin", "LD_PRELOAD=/evil.so"]));
    bundle.set("/hooks/createRuntime", hook).write();
    let dir = bundle.dir.to_string_lossy().into_owned();
    careless(&bundle, &["run", "--bundle", &dir, &bundle.id]).ok();
    let seen = fs::read_to_string(seen).unwrap();
    let (environment, fds): (Vec<&str>, Vec<&str>) = seen.lines().partition(|line| line.contains('='));
    assert_eq!(environment, ["ONLY=this"]);
    // The shell has 10 and 11 of its own.
    assert!(fds.iter().all(|fd| fd.parse::<u32>().is_ok_and(|fd| fd < 3 || matches!(fd, 10 | 11))), "{seen}");
}

// 13: tracers, keyrings, terminals.

/// Seizes every process of the jail that comes after it, and looks what that one has of the host.
const TRACER: &str = r#"
my ($last, $mine, $end) = ($$, 0, time + 6);
open(my $s, '<', '/proc/self/status'); while (<$s>) { $mine = hex($1) if /^CapEff:\s*(\S+)/; }
$| = 1; print "ready\n";
while (time < $end) {
    for my $p ($last + 1 .. $last + 12) {
        if (open(my $f, '<', "/proc/$p/root$ENV{SENTINEL}")) { print "ROOT ", scalar <$f>, "\n"; }
        if (syscall(101, 0x4206, $p, 0, 0) == 0) {
            if (open(my $f, '<', "/proc/$p/environ")) { local $/; my $e = <$f>; print "ENV\n" if $e =~ /OF_THE_HOST/; }
            if (open(my $f, '<', "/proc/$p/status")) { while (<$f>) { print "CAPS $_" if /^CapEff:\s*(\S+)/ && hex($1) & ~$mine; } }
            if (open(my $f, '<', "/proc/$p/root$ENV{SENTINEL}")) { print "ROOT ", scalar <$f>, "\n"; }
            syscall(101, 0x4207, $p, 0, 0); waitpid($p, 0x40000000); syscall(101, 17, $p, 0, 0);
        }
        $last = $p - 1 if kill(0, $p) && $p > $last + 6;
    }
    if (opendir(my $d, '/proc')) { for (readdir $d) { $last = $_ - 1 if /^\d+$/ && $_ > $last + 1; } }
}
print "end\n";
"#;

/// What the tracer met while as many programs as possible were started by `exec`.
fn trace_execs(caps: &[&str]) -> String {
    let mut bundle = Bundle::new();
    let secret = sentinel(&bundle).join("file");
    with_perl(&mut bundle, TRACER);
    bundle.set("/process/capabilities", json!({"bounding": caps, "effective": caps, "permitted": caps}));
    bundle.set("/process/env/-", format!("SENTINEL={}", secret.display())).write();
    let dir = bundle.dir.to_string_lossy().into_owned();
    let traced = std::thread::scope(|scope| {
        let run = scope.spawn(|| bundle.call(&["run", "--bundle", &dir, &bundle.id]));
        bundle.becomes("running");
        let mut execs = 0;
        while !run.is_finished() {
            execs += usize::from(careless(&bundle, &["exec", &bundle.id, "true"]).is_ok());
        }
        println!("{execs} execs");
        run.join().unwrap()
    });
    let out = traced.ok();
    assert!(out.ends_with("end\n"), "{out}");
    out
}

/// CVE-2016-9962.
#[test]
fn a_tracer_in_the_jail_cannot_look_into_what_joins_it() {
    if !require_root() {
        return;
    }
    let caps = ["CAP_KILL", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_SETUID", "CAP_SYS_ADMIN", "CAP_NET_ADMIN"];
    let out = trace_execs(&caps);
    assert!(!out.contains("ROOT") && !out.contains("ENV") && !out.contains("CAPS"), "{out}");
}

/// With CAP_SYS_PTRACE in the host's own user name space a process of the jail may look into any process that it sees,
/// as SECURITY.md says: what is met is printed. The caller's environment is gone by then.
#[test]
fn a_tracer_with_sys_ptrace_sees_no_environment_of_the_caller() {
    if !require_root() {
        return;
    }
    let out = trace_execs(&["CAP_SYS_PTRACE", "CAP_KILL", "CAP_DAC_OVERRIDE", "CAP_SETUID"]);
    let met = |word: &str| out.lines().filter(|line| line.starts_with(word)).count();
    println!("met: root {} caps {} environment {}", met("ROOT"), met("CAPS"), met("ENV"));
    assert!(!out.contains("ENV"), "{out}");
}

#[test]
fn the_session_keyring_of_the_caller_stays_outside() {
    if !require_root() {
        return;
    }
    // keyctl: 0 asks for the number of a keyring, 10 searches.
    let script = |number: i64| {
        format!(
            "my ($t, $n) = ('user', 'of-the-host'); my $s = syscall(250, 0, -3, 0); \
             print 'own ', $s == {number} ? 'SAME' : 'other', qq(\\n); \
             print 'search ', syscall(250, 10, -3, $t, $n, 0) >= 0 ? 'FOUND' : 'none', qq(\\n);"
        )
    };
    // SAFETY: anonymous keyring; no memory is passed but a null name.
    let number = unsafe { libc::syscall(libc::SYS_keyctl, 1, std::ptr::null::<libc::c_char>()) };
    assert!(number > 0);
    // SAFETY: three strings of these lengths, which outlive the call.
    let key = unsafe {
        libc::syscall(libc::SYS_add_key, c"user".as_ptr(), c"of-the-host".as_ptr(), c"secret".as_ptr(), 6, -3)
    };
    assert!(key > 0);
    let mut bundle = Bundle::new();
    with_perl(&mut bundle, &script(number));
    assert_eq!(bundle.run().ok(), "own other\nsearch none\n");
    bundle.args(&["sleep", "1000"]).create().ok();
    bundle.start().ok();
    assert_eq!(bundle.exec(&["perl", "-e", &script(number)]).ok(), "own other\nsearch none\n");
    // The test sees what it is there to see.
    bundle.delete_force().ok();
    with_keyring_of_the_caller(&bundle, &script(number));
}

fn with_keyring_of_the_caller(bundle: &Bundle, script: &str) {
    let mut bundle_spec = bundle.spec.clone();
    bundle_spec["process"]["args"] = json!(["perl", "-e", script]);
    fs::write(bundle.dir.join("config.json"), bundle_spec.to_string()).unwrap();
    let dir = bundle.dir.to_string_lossy().into_owned();
    let kept = bundle.call(&["run", "--no-new-keyring", "--bundle", &dir, &bundle.id]).ok();
    assert_eq!(kept, "own SAME\nsearch FOUND\n");
}

// 14, 15, 16: calls that a jail on the default root does not have.

/// NAME NUMBER ARGUMENTS: EPERM (1) or ENOSYS (38) is the answer, for a family EAFNOSUPPORT (97), and nothing else.
const REFUSED: &str = r#"
my @calls = (
    ["mount", 165, "none", "/mnt", "tmpfs", 0, 0], ["umount2", 166, "/proc", 2], ["pivot_root", 155, "/", "/"],
    ["unshare user", 272, 0x10000000], ["unshare mount", 272, 0x20000], ["setns", 308, 0, 0],
    ["clone user", 56, 0x10000011, 0, 0, 0, 0], ["clone net", 56, 0x40000011, 0, 0, 0, 0], ["clone3", 435, 0, 0],
    ["fsopen", 430, "tmpfs", 0], ["open_tree", 428, -100, "/", 1], ["mount_setattr", 442, -100, "/", 0, 0, 0],
    ["move_mount", 429, -1, "", -1, "", 0], ["bpf", 321, 0, 0, 0], ["perf_event_open", 298, 0, 0, -1, -1, 0],
    ["userfaultfd", 323, 0], ["io_uring_setup", 425, 1, 0], ["keyctl", 250, 0, -3, 0],
    ["add_key", 248, "user", "a", "b", 1, -3], ["request_key", 249, "user", "a", 0, -3],
    ["open_by_handle_at", 304, -100, 0, 0], ["name_to_handle_at", 303, -100, "/", 0, 0, 0], ["kcmp", 312, 1, 1, 0, 0, 0],
    ["init_module", 175, 0, 0, ""], ["finit_module", 313, 0, "", 0], ["kexec_load", 246, 0, 0, 0, 0],
    ["reboot", 169, 0, 0, 0, 0], ["swapon", 167, "/", 0], ["syslog", 103, 10, 0, 0], ["fanotify_init", 300, 0, 0],
    ["mknod block", 133, "/tmp/b", 060600, 0x800], ["mknod char", 133, "/tmp/c", 020600, 0x103],
    ["TIOCSTI", 16, 0, 0x5412, "x"], ["TIOCSTI high", 16, 0, 0x100005412, "x"], ["TIOCLINUX", 16, 0, 0x541c, "x"],
    ["NS_GET_USERNS", 16, 0, 0xb701, 0], ["NS_GET_PARENT", 16, 0, 0xb702, 0], ["NS_GET_ID", 16, 0, 0x8008b70d, 0],
    ["personality", 135, 0x0040000], ["acct", 163, "/tmp/a"], ["quotactl", 179, 0, 0, 0, 0],
    ["sethostname", 170, "a", 1], ["clock_settime", 227, 0, 0], ["iopl", 172, 3], ["ioperm", 173, 0, 1, 1],
    ["x32 getpid", 0x40000000 + 39], ["listns", 470, 0, 0, 0, 0],
    (map { ["socket $_", 41, $_, 3, 0] } 0, 3 .. 9, 11 .. 15, 17 .. 46), ["raw inet", 41, 2, 3, 1], ["raw inet6", 41, 10, 3, 58],
    (map { ["number $_", $_, -1, -1, -1, -1, -1] } 471 .. 600, 1000, 1023, 4096),
);
for my $call (@calls) {
    my ($name, $number, @args) = @$call;
    @args = map { my $copy = $_; $copy } @args;
    $! = 0;
    my $result = syscall($number, @args);
    my $errno = $! + 0;
    if ($name =~ /^clone/ && $result == 0) { syscall(231, 0); }
    print "$name: $result errno $errno\n" unless $result == -1 && ($errno == 1 || $errno == 38 || ($errno == 97 && $name =~ /^socket/));
}
print "end\n";
"#;

#[test]
fn the_default_filter_refuses_what_reaches_the_kernel_or_the_host() {
    if !require_root() {
        return;
    }
    let bundle = Bundle::new();
    assert_eq!(friendly(&bundle, &["perl", "-e", REFUSED]).ok(), "end\n");
    // The control: without the filter and with every capability many of these go through.
    let mut bundle = Bundle::new();
    with_perl(&mut bundle, REFUSED);
    let caps: Value = json!(["CAP_SYS_ADMIN", "CAP_NET_RAW", "CAP_MKNOD"]);
    bundle.set("/process/capabilities", json!({"bounding": caps, "effective": caps, "permitted": caps}));
    bundle.set(
        "/process/args/2",
        REFUSED.replace("[\"reboot\", 169, 0, 0, 0, 0],", "").replace("[\"acct\", 163, \"/tmp/a\"],", ""),
    );
    assert!(bundle.run().ok().lines().count() > 20);
}

#[test]
fn the_default_capabilities_are_eleven() {
    if !require_root() {
        return;
    }
    let bundle = Bundle::new();
    let status = friendly(&bundle, &["cat", "/proc/self/status"]).ok();
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        // chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service sys_chroot setfcap
        assert_eq!(field(&status, set), ["00000000800405fb"]);
    }
    assert_eq!(field(&status, "Seccomp"), ["2"]);
}

// The life cycle as seen by an enemy.

#[test]
fn a_runtime_that_is_killed_during_create_leaves_no_process() {
    if !require_root() {
        return;
    }
    let mut dice = Dice(99);
    for _ in 0..60 {
        let mut bundle = Bundle::new();
        bundle.args(&["sleep", "1000"]).write();
        let dir = bundle.dir.to_string_lossy().into_owned();
        let mut create = bundle.command(&["create", "--bundle", &dir, &bundle.id]);
        let mut child = create.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(dice.roll(25_000)));
        let _ = child.kill();
        let status = child.wait().unwrap();
        let cgroup = bundle.spec["linux"]["cgroupsPath"].as_str().unwrap().to_string();
        let end = std::time::Instant::now() + Duration::from_secs(2);
        let mut created = false;
        while !processes::with_word(&cgroup).is_empty() && !created {
            created = status.success() || bundle.status().as_deref() == Some("created");
            assert!(created || std::time::Instant::now() < end, "{status}: {}", bundle.state());
        }
        bundle.delete_force().ok();
        assert!(processes::with_word(&cgroup).is_empty() && view::cgroups(&bundle.id).is_empty());
    }
}

#[test]
fn a_jail_that_stops_freezes_or_multiplies_is_deleted_all_the_same() {
    if !require_root() {
        return;
    }
    let bomb = "f() { f | f & }; f 2>/dev/null; sleep 1000";
    for (name, program, shared) in [
        ("stop", "kill -STOP 1; for p in /proc/[0-9]*; do kill -STOP ${p#/proc/} 2>/dev/null; done; sleep 1000", false),
        ("bomb", bomb, false),
        ("bomb in the host's pids", bomb, true),
        ("freeze", "sleep 1000", false),
    ] {
        let mut bundle = Bundle::new();
        let host = Host::snapshot(&bundle.id, &[]);
        if shared {
            bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|space| space["type"] != "pid");
        }
        bundle.set("/linux/resources", json!({"pids": {"limit": 100}})).args(&["sh", "-c", program]).write();
        let dir = bundle.dir.to_string_lossy().into_owned();
        let quiet = "exec \"$@\" 2>/dev/null";
        let create = [
            quiet,
            "sh",
            &jail().to_string_lossy(),
            "--root",
            &bundle.root.to_string_lossy(),
            "create",
            "--bundle",
            &dir,
            &bundle.id,
        ]
        .map(str::to_string);
        finish(Command::new("sh").arg("-c").args(create), LIMIT).ok();
        bundle.start().ok();
        std::thread::sleep(Duration::from_millis(200));
        if name == "stop" {
            bundle.kill("STOP").ok();
        }
        if name == "freeze" {
            for folder in view::cgroups(&bundle.id) {
                let _ = fs::write(folder.join("freezer.state"), "FROZEN");
                let _ = fs::write(folder.join("cgroup.freeze"), "1");
            }
        }
        let begin = std::time::Instant::now();
        let done = bundle.delete_force();
        for folder in view::cgroups(&bundle.id) {
            let _ = fs::write(folder.join("freezer.state"), "THAWED");
        }
        assert!(done.is_ok() && begin.elapsed() < Duration::from_secs(5), "{name}: {done}");
        let left = host.leaked().into_iter().filter(|what| !what.contains("/.cache")).collect::<Vec<_>>();
        assert!(left.is_empty(), "{name}: {left:?}");
    }
}

#[test]
fn a_passwd_of_the_image_that_blocks_or_is_huge_holds_nothing_up() {
    if !require_root() {
        return;
    }
    for kind in 0..4 {
        let mut bundle = Bundle::new();
        let passwd = bundle.rootfs().join("etc/passwd");
        fs::remove_file(&passwd).unwrap();
        match kind {
            0 => nix::unistd::mkfifo(&passwd, Mode::S_IRWXU).unwrap(),
            1 => fs::File::create(&passwd).unwrap().set_len(1 << 40).unwrap(),
            2 => symlink("/proc/self/fd/0", &passwd).unwrap(),
            _ => symlink("/dev/zero", &passwd).unwrap(),
        }
        let begin = std::time::Instant::now();
        assert_eq!(bundle.args(&["sh", "-c", "echo $HOME"]).run().ok(), "/\n", "{kind}");
        assert!(begin.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn only_root_looks_into_the_store() {
    if !require_root() {
        return;
    }
    let mut bundle = full();
    bundle.root = bundle.dir.join("new/store");
    bundle.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}));
    bundle.args(&["sleep", "1000"]).create().ok();
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&bundle.root), 0o700);
    for entry in fs::read_dir(&bundle.root).unwrap().flatten() {
        assert_eq!(mode(&entry.path()) & 0o077, 0, "{}", entry.path().display());
        for file in fs::read_dir(entry.path()).unwrap().flatten() {
            let kind = file.file_type().unwrap();
            assert!(
                kind.is_socket() || mode(&file.path()) & 0o022 == 0,
                "{} {:o}",
                file.path().display(),
                mode(&file.path())
            );
        }
    }
    bundle.delete_force().ok();
}

/// A filter that another put into the cache is not loaded, whatever it looks like.
#[test]
fn a_poisoned_cache_of_filters_changes_no_filter() {
    if !require_root() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.set("/process/noNewPrivileges", true);
    let rule = json!([{"names": ["sethostname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]);
    bundle.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rule}));
    bundle.args(&["sh", "-c", "hostname other; hostname"]);
    assert_eq!(bundle.run().out, "jail\n");
    let cache = bundle.root.join(".cache");
    let entry = || fs::read_dir(&cache).unwrap().flatten().next().map(|entry| entry.path());
    let path = entry().expect("one filter in the cache");
    let good = fs::read(&path).unwrap();
    let other = bundle.dir.join("other");
    for kind in 0..6 {
        let _ = fs::remove_file(&path);
        match kind {
            // Another program behind the right head: a filter that allows all.
            0 => {
                let mut bad = good[..good.len() - 8].to_vec();
                bad.truncate(80);
                bad.extend([6, 0, 0, 0, 0, 0, 0xff, 0x7f]);
                fs::write(&path, bad).unwrap();
            }
            1 => fs::write(&path, &good[..good.len() / 2]).unwrap(),
            2 => nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap(),
            3 => {
                fs::write(&other, &good).unwrap();
                symlink(&other, &path).unwrap();
            }
            4 => fs::create_dir(&path).unwrap(),
            _ => {
                fs::write(&path, &good).unwrap();
                std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
            }
        }
        let done = bundle.run();
        assert!(done.out == "jail\n" && !done.hung(), "{kind}: {done}");
        let _ = fs::remove_dir(&path);
    }
}
