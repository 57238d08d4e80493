//! The program of a jail: its user, environment, limits, capabilities, name spaces and terminal.

use std::fs::{self, File};
use std::io::{IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::termios::tcgetattr;
use nix::unistd::Pid;
use serde_json::{Value, json};
use tests::{Bundle, LIMIT, installed, require_root};

use crate::lifecycle::{code, left_nothing, runtimes, stage, stage_of, wait_for};

/// What the program's first lines of /proc/self/status say of KEY.
fn status(text: &str, key: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {key} in:\n{text}")).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn own_status(bundle: &mut Bundle) -> String {
    bundle.args(&["cat", "/proc/self/status"]).run().ok()
}

/// A capability set as /proc shows it.
fn caps(numbers: &[u32]) -> String {
    format!("{:016x}", numbers.iter().fold(0_u64, |set, number| set | 1 << number))
}

const CHOWN: u32 = 0;
const KILL: u32 = 5;

/// The terminals' file system, which `minimal` has not.
pub(crate) fn with_terminal(bundle: &mut Bundle) {
    bundle.set("/process/terminal", true).set(
        "/mounts/-",
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
               "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]}),
    );
}

#[test]
fn the_user_and_its_groups_are_those_that_were_asked_for() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.set("/process/user", json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 1002]}));
        let text = own_status(&mut bundle);
        assert_eq!(status(&text, "Uid"), "1000 1000 1000 1000");
        assert_eq!(status(&text, "Gid"), "1001 1001 1001 1001");
        assert_eq!(status(&text, "Groups").replace("1001 ", ""), "5 1002");
        left_nothing(&bundle, &host);
    }
}

#[test]
fn the_callers_groups_do_not_reach_the_program() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.args(&["cat", "/proc/self/status"]).write();
    let mut run = Command::new("setpriv");
    run.args(["--groups", "7,4711"]).arg(tests::jail()).arg("--root").arg(&bundle.root);
    run.args(["run", "--bundle"]).arg(&bundle.dir).arg(&bundle.id).stdin(Stdio::null());
    let text = tests::finish(&mut run, LIMIT).ok();
    assert!(["", "0"].contains(&&status(&text, "Groups")[..]), "{text}");
    left_nothing(&bundle, &host);
}

#[test]
fn the_umask_is_what_was_asked_for_and_022_otherwise() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.args(&["sh", "-c", "umask"]);
        assert_eq!(bundle.run().ok(), "0022\n");
        assert_eq!(bundle.set("/process/user/umask", 0o027).run().ok(), "0027\n");
        assert_eq!(bundle.set("/process/user/umask", 0).run().ok(), "0000\n");
        left_nothing(&bundle, &host);
    }
}

#[test]
fn the_environment_is_the_one_of_the_configuration_and_home() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.set("/process/env", json!(["PATH=/bin", "B=two words", "A=", "C==x=", "N=a\nb"])).args(&["env"]);
        bundle.write();
        let mut run = bundle.command(&["run", "--bundle", &bundle.dir.to_string_lossy(), &bundle.id]);
        run.env("SECRET", "of the caller").env("LD_PRELOAD", "");
        let text = tests::finish(&mut run, LIMIT).ok();
        assert_eq!(text, "PATH=/bin\nB=two words\nA=\nC==x=\nN=a\nb\nHOME=/root\n");
        left_nothing(&bundle, &host);
    }
}

#[test]
fn home_is_what_the_jails_own_passwd_says() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let passwd = "root:x:0:0:root:/root:/bin/sh\nu:x:1000:1000::/home/u:/bin/sh\n";
        fs::write(bundle.rootfs().join("etc/passwd"), passwd).unwrap();
        bundle.args(&["sh", "-c", "echo $HOME"]);
        for (uid, home) in [(0, "/root\n"), (1000, "/home/u\n"), (4711, "/\n")] {
            assert_eq!(bundle.set("/process/user/uid", uid).run().ok(), home);
        }
        bundle.set("/process/env/-", "HOME=/mine");
        assert_eq!(bundle.run().ok(), "/mine\n");
        left_nothing(&bundle, &host);
    }
}

/// Containers have come with a device, a link or a gigabyte in its place.
#[test]
fn a_passwd_that_is_none_gives_no_home_and_no_hang() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let passwd = bundle.rootfs().join("etc/passwd");
    bundle.args(&["sh", "-c", "echo $HOME"]);
    fs::remove_file(&passwd).unwrap();
    assert_eq!(bundle.run().ok(), "/\n");
    nix::unistd::mkfifo(&passwd, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(bundle.run().ok(), "/\n");
    fs::remove_file(&passwd).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &passwd).unwrap();
    assert_eq!(bundle.run().ok(), "/\n");
    fs::remove_file(&passwd).unwrap();
    // A million users without an end of line; the one that is asked for stands behind what is read.
    let mut long = "x".repeat(64 << 20);
    long.push_str("\nroot:x:0:0::/late:/bin/sh\n");
    fs::write(&passwd, long).unwrap();
    assert_eq!(bundle.run().ok(), "/\n");
    left_nothing(&bundle, &host);
}

#[test]
fn a_working_directory_that_is_missing_is_made() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.set("/process/cwd", "/made/for/me").args(&["pwd"]);
        assert_eq!(bundle.run().ok(), "/made/for/me\n");
        assert!(bundle.rootfs().join("made/for/me").is_dir());
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_working_directory_that_is_a_file_is_named() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let line = bundle.set("/process/cwd", "/etc/passwd").run().fails();
        assert!(line.contains("/etc/passwd"), "{line}");
        left_nothing(&bundle, &host);
    }
}

#[test]
fn limits_are_set_soft_and_hard() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let limit = |name: &str, soft: u64, hard: u64| json!({"type": name, "soft": soft, "hard": hard});
        bundle.set(
            "/process/rlimits",
            json!([
                limit("RLIMIT_NOFILE", 100, 200),
                limit("RLIMIT_CORE", 0, 0),
                limit("RLIMIT_FSIZE", 4096, u64::MAX)
            ]),
        );
        let text = bundle.args(&["cat", "/proc/self/limits"]).run().ok();
        for (name, soft, hard) in
            [("Max open files", "100", "200"), ("Max core file size", "0", "0"), ("Max file size", "4096", "unlimited")]
        {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            assert_eq!(line.split_whitespace().take(2).collect::<Vec<_>>(), [soft, hard], "{name}");
        }
        left_nothing(&bundle, &host);
    }
}

/// The binary under test with a user that may raise nothing, as containers of containers have it.
fn without_resources(bundle: &Bundle, limits: &[&str]) -> Command {
    bundle.write();
    let mut run = Command::new("prlimit");
    run.args(limits).args(["setpriv", "--bounding-set", "-sys_resource"]).arg(tests::jail());
    run.arg("--root").arg(&bundle.root).args(["run", "--bundle"]).arg(&bundle.dir).arg(&bundle.id).stdin(Stdio::null());
    run
}

#[test]
fn a_limit_that_may_not_be_raised_stays_with_a_warning() {
    if !require_root() || !installed("setpriv") || !installed("prlimit") {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.set("/process/rlimits", json!([{"type": "RLIMIT_CORE", "soft": 2000, "hard": 2000}]));
    bundle.args(&["grep", "Max core", "/proc/self/limits"]);
    let done = tests::finish(&mut without_resources(&bundle, &["--core=1000:1000"]), LIMIT);
    assert!(done.is_ok() && done.out.split_whitespace().skip(4).take(2).eq(["1000", "1000"]), "{done}");
    assert!(done.err.starts_with("jail: warning: ") && done.err.contains("RLIMIT_CORE"), "{done}");
    assert_eq!(done.err.lines().count(), 1, "{done}");
    left_nothing(&bundle, &host);
}

#[test]
fn a_score_that_may_not_be_lowered_stays_with_a_warning() {
    if !require_root() || !installed("setpriv") || !installed("prlimit") {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.set("/process/oomScoreAdj", -999).args(&["cat", "/proc/self/oom_score_adj"]);
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let done = tests::finish(&mut without_resources(&bundle, &[]), LIMIT);
    assert!(done.is_ok() && done.out == own, "{done}");
    assert!(done.err.starts_with("jail: warning: ") && done.err.contains("oom_score_adj"), "{done}");
    assert_eq!(done.err.lines().count(), 1, "{done}");
    left_nothing(&bundle, &host);
}

#[test]
fn every_capability_set_is_the_one_that_was_asked_for() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let (both, one) = (json!(["CAP_CHOWN", "CAP_KILL"]), json!(["CAP_KILL"]));
        let sets = json!({"bounding": both, "permitted": both, "effective": both, "inheritable": one, "ambient": one});
        bundle.set("/process/capabilities", sets);
        // Root gets at exec(2) all that is in the bounding set; another user what is ambient.
        let text = own_status(bundle.set("/process/user/uid", 1000));
        assert_eq!(status(&text, "CapBnd"), caps(&[CHOWN, KILL]));
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(status(&text, set), caps(&[KILL]), "{set}");
        }
        let sets = json!({"bounding": both, "permitted": both, "effective": both});
        let text = own_status(bundle.set("/process/user/uid", 0).set("/process/capabilities", sets));
        for set in ["CapBnd", "CapPrm", "CapEff"] {
            assert_eq!(status(&text, set), caps(&[CHOWN, KILL]), "{set}");
        }
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(status(&text, set), caps(&[]), "{set}");
        }
        left_nothing(&bundle, &host);
    }
}

/// Without a list there is none; runc then leaves all that the caller has.
#[test]
fn a_jail_without_a_capability_list_has_no_capability() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let text = own_status(&mut bundle);
    for set in ["CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"] {
        assert_eq!(status(&text, set), caps(&[]), "{set}");
    }
    left_nothing(&bundle, &host);
}

#[test]
fn no_new_privileges_is_set_where_it_is_asked_for() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        for (asked, seen) in [(true, "1"), (false, "0")] {
            let text = own_status(bundle.set("/process/noNewPrivileges", asked));
            assert_eq!(status(&text, "NoNewPrivs"), seen);
        }
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_filtered_call_fails_as_the_profile_says() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        for privileges in [true, false] {
            let (mut bundle, host) = stage_of(runtime.clone());
            bundle.set("/process/noNewPrivileges", privileges).set(
                "/linux/seccomp",
                json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                    {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::EXDEV},
                    {"names": ["unlink", "unlinkat"], "action": "SCMP_ACT_ERRNO"},
                    {"names": ["symlink", "symlinkat"], "action": "SCMP_ACT_KILL_PROCESS"},
                    {"names": ["a_call_of_the_future"], "action": "SCMP_ACT_ERRNO"}]}),
            );
            // Without no_new_privs the filter needs CAP_SYS_ADMIN, which the program itself does not get.
            let script = "grep Seccomp: /proc/self/status; mkdir /tmp/x; rm /etc/group; ln -s a /tmp/y; echo $?";
            let done = bundle.args(&["sh", "-c", script]).run();
            assert!(done.out.starts_with("Seccomp:\t2\n"), "{done}");
            assert!(done.out.ends_with(&format!("\n{}\n", 128 + libc::SIGSYS)), "{done}");
            assert!(done.err.contains("Invalid cross-device link"), "{done}");
            assert!(done.err.contains("Operation not permitted"), "{done}");
            left_nothing(&bundle, &host);
        }
    }
}

#[test]
fn the_out_of_memory_score_is_set() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.args(&["cat", "/proc/self/oom_score_adj"]);
        assert_eq!(bundle.set("/process/oomScoreAdj", 500).run().ok(), "500\n");
        assert_eq!(bundle.set("/process/oomScoreAdj", 1000).run().ok(), "1000\n");
        left_nothing(&bundle, &host);
    }
}

#[test]
fn the_host_name_is_the_jails_own() {
    if !require_root() {
        return;
    }
    let kernel = |name: &str| fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap();
    let before = (kernel("hostname"), kernel("domainname"));
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime.clone());
        bundle.set("/hostname", "a-jail.test").args(&["sh", "-c", "cd /proc/sys/kernel; cat hostname domainname"]);
        assert_eq!(bundle.run().ok(), format!("a-jail.test\n{}", before.1));
        if runtime.name() != "runc" {
            // Debian's runc is older than this property.
            assert_eq!(bundle.set("/domainname", "example").run().ok(), "a-jail.test\nexample\n");
        }
        left_nothing(&bundle, &host);
    }
    assert_eq!((kernel("hostname"), kernel("domainname")), before);
}

#[test]
fn a_sysctl_is_set_in_the_jail_and_not_on_the_host() {
    if !require_root() {
        return;
    }
    let files = ["net/ipv4/ip_forward", "net/ipv4/conf/lo/log_martians", "kernel/msgmax"];
    let read = || files.map(|file| fs::read_to_string(Path::new("/proc/sys").join(file)).unwrap());
    let before = read();
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.set(
            "/linux/sysctl",
            json!({"net.ipv4.ip_forward": "1", "net/ipv4/conf/lo/log_martians": "1", "kernel.msgmax": "4711"}),
        );
        bundle.args(&["sh", "-c", &format!("cd /proc/sys; cat {}", files.join(" "))]);
        assert_eq!(bundle.run().ok(), "1\n1\n4711\n");
        left_nothing(&bundle, &host);
    }
    assert_eq!(read(), before);
}

#[test]
fn a_sysctl_that_the_kernel_does_not_know_is_named() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let line = bundle.set("/linux/sysctl", json!({"net.ipv4.nosuchthing": "1"})).run().fails();
        assert!(line.contains("nosuchthing"), "{line}");
        left_nothing(&bundle, &host);
    }
}

#[test]
fn the_loopback_of_a_new_network_is_up() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let text = bundle.args(&["ip", "link"]).run().ok();
        assert!(text.contains("<LOOPBACK,UP,LOWER_UP>"), "{text}");
        assert!(!text.contains("eth0"), "{text}");
        left_nothing(&bundle, &host);
    }
}

fn space(pid: i32, kind: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().to_string_lossy().into_owned()
}

const SPACES: [(&str, &str); 6] =
    [("pid", "pid"), ("mount", "mnt"), ("uts", "uts"), ("ipc", "ipc"), ("network", "net"), ("cgroup", "cgroup")];

#[test]
fn every_name_space_that_is_listed_is_new_and_every_other_the_callers() {
    if !require_root() {
        return;
    }
    let own = i32::try_from(std::process::id()).unwrap();
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime.clone());
        bundle.args(&["sleep", "1000"]).set("/linux/namespaces/-", json!({"type": "cgroup"})).create().ok();
        let pid = bundle.pid().unwrap();
        for (_, file) in SPACES {
            assert_ne!(space(pid, file), space(own, file), "{file}");
        }
        for file in ["user", "time"] {
            assert_eq!(space(pid, file), space(own, file), "{file}");
        }
        bundle.delete_force().ok();
        bundle.remove("/hostname").set("/linux/namespaces", json!([{"type": "mount"}])).create().ok();
        let pid = bundle.pid().unwrap();
        for (_, file) in SPACES {
            assert_eq!(space(pid, file) == space(own, file), file != "mnt", "{file}");
        }
        bundle.delete_force().ok();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_jail_joins_the_name_spaces_of_another_by_path() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut first, first_host) = stage_of(runtime.clone());
        first.args(&["sleep", "1000"]).create().ok();
        first.start().ok();
        let pid = first.pid().unwrap();
        for (index, (kind, file)) in
            SPACES.into_iter().enumerate().filter(|(_, (kind, _))| !["mount", "cgroup"].contains(kind))
        {
            let (mut bundle, host) = stage_of(runtime.clone());
            bundle.set(&format!("/linux/namespaces/{index}/path"), format!("/proc/{pid}/ns/{file}"));
            if kind == "uts" {
                bundle.remove("/hostname");
            }
            bundle.args(&["sleep", "1000"]).create().ok();
            bundle.start().ok();
            let own = bundle.pid().unwrap();
            for (_, other) in SPACES.into_iter().filter(|(kind, _)| *kind != "cgroup") {
                assert_eq!(
                    space(own, other) == space(pid, other),
                    other == file,
                    "{other} of a jail that joins {kind}"
                );
            }
            assert_eq!(bundle.exec(&["readlink", &format!("/proc/self/ns/{file}")]).ok().trim(), space(pid, file));
            bundle.kill("KILL").ok();
            bundle.becomes("stopped");
            bundle.delete().ok();
            left_nothing(&bundle, &host);
        }
        assert_eq!(first.status().as_deref(), Some("running"), "it outlives its guests");
        first.delete_force().ok();
        left_nothing(&first, &first_host);
    }
}

/// Its mapped root is nobody on the host, and everything on the way to it must still work.
#[test]
fn a_user_name_space_has_its_mappings() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}, {"containerID": 4000, "hostID": 200_000, "size": 7}]);
        bundle.set("/linux/namespaces/-", json!({"type": "user"}));
        bundle.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
        bundle.set("/process/user", json!({"uid": 5, "gid": 6}));
        bundle.args(&["sh", "-c", "id -u; id -g; hostname; sleep 1000 < /dev/null > /dev/null & wait"]).create().ok();
        let pid = bundle.pid().unwrap();
        bundle.start().ok();
        let squeezed = |file: &str| {
            let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        for file in ["uid_map", "gid_map"] {
            assert_eq!(squeezed(file), "0 100000 1000 4000 200000 7");
        }
        let seen = || fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        wait_for("the program", || status(&seen(), "Uid") == "100005 100005 100005 100005");
        assert_eq!(status(&seen(), "Gid"), "100006 100006 100006 100006");
        assert_eq!(bundle.exec(&["id", "-u"]).ok(), "5\n");
        bundle.delete_force().ok();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_user_name_space_by_path_is_refused_by_its_name() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.set("/linux/namespaces/-", json!({"type": "user", "path": "/proc/self/ns/user"}));
    let refusal = bundle.run().fails();
    assert!(refusal.contains("joining a user name space is not carried out yet"), "{refusal}");
    left_nothing(&bundle, &host);
}

#[test]
fn root_of_a_user_name_space_is_root_inside_only() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
        bundle.set("/linux/namespaces/-", json!({"type": "user"}));
        bundle.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
        let all = json!(["CAP_CHOWN", "CAP_SYS_ADMIN"]);
        bundle.set("/process/capabilities", json!({"bounding": all, "permitted": all, "effective": all}));
        fs::set_permissions(bundle.rootfs().join("tmp"), std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
        let script =
            "id -u; touch /tmp/mine && hostname other && hostname; touch /etc/theirs 2>/dev/null || echo refused";
        assert_eq!(bundle.args(&["sh", "-c", script]).run().ok(), "0\nother\nrefused\n");
        assert_eq!(fs::metadata(bundle.rootfs().join("tmp/mine")).unwrap().uid(), 100_000);
        left_nothing(&bundle, &host);
    }
}

/// Takes the descriptor that comes over a console socket.
pub(crate) fn terminal_from(listener: &UnixListener) -> OwnedFd {
    let (stream, _) = listener.accept().unwrap();
    let mut name = [0; 64];
    let mut text = [IoSliceMut::new(&mut name)];
    let mut space = nix::cmsg_space!(RawFd);
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut text, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC).unwrap();
    let fds = message.cmsgs().unwrap().find_map(|message| match message {
        ControlMessageOwned::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fds = fds.expect("a descriptor");
    assert_eq!(fds.len(), 1);
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fds[0]) }
}

/// All that is written to a terminal until its last user is gone, which reads as EIO.
pub(crate) fn read_all(terminal: &mut File) -> String {
    let (mut text, mut bytes) = (Vec::new(), [0; 4096]);
    while let Ok(read @ 1..) = terminal.read(&mut bytes) {
        text.extend_from_slice(&bytes[..read]);
    }
    String::from_utf8_lossy(&text).replace('\r', "")
}

/// Gives what ACT does on a thread of its own, or fails after the usual limit: nothing here may block for ever.
pub(crate) fn within_limit<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wait) = mpsc::channel();
    std::thread::spawn(move || done.send(act()));
    wait.recv_timeout(LIMIT).expect("it ended in time")
}

#[test]
fn a_console_socket_gets_the_terminal() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        with_terminal(&mut bundle);
        bundle.set("/process/consoleSize", json!({"height": 33, "width": 77}));
        let script = "test -t 0 && test -t 1 && test -t 2 && echo three; stty size; read word; echo got $word; : < /dev/tty && echo own";
        bundle.args(&["sh", "-c", script]).write();
        let path = bundle.dir.join("console.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let taker = std::thread::spawn(move || terminal_from(&listener));
        let (dir, socket) = (bundle.dir.to_string_lossy(), path.to_string_lossy());
        bundle.call(&["create", "--bundle", &dir, "--console-socket", &socket, &bundle.id]).ok();
        let mut terminal = File::from(within_limit(move || taker.join().unwrap()));
        bundle.start().ok();
        terminal.write_all(b"hello\n").unwrap();
        let text = within_limit(move || read_all(&mut terminal));
        for line in ["three", "33 77", "got hello", "own"] {
            assert!(text.lines().any(|seen| seen == line), "no {line:?} in {text:?}");
        }
        bundle.becomes("stopped");
        bundle.delete().ok();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_console_socket_that_nobody_listens_on_undoes_the_create() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        with_terminal(&mut bundle);
        bundle.write();
        let (dir, socket) = (bundle.dir.to_string_lossy(), bundle.dir.join("nobody.sock"));
        let socket = socket.to_string_lossy();
        bundle.call(&["create", "--bundle", &dir, "--console-socket", &socket, &bundle.id]).fails();
        left_nothing(&bundle, &host);
    }
}

/// A person's terminal: what the test holds, and what the runtime has as its standard streams.
struct Screen {
    keys: File,
    user: OwnedFd,
}

impl Screen {
    fn new(rows: u16, columns: u16) -> Screen {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(Some(&size), None).unwrap();
        Screen { keys: pair.master.into(), user: pair.slave }
    }

    fn end(&self) -> Stdio {
        self.user.try_clone().unwrap().into()
    }

    fn resize(&self, rows: u16, columns: u16) {
        let (rows, columns) = (rows.to_string(), columns.to_string());
        let done = Command::new("stty").args(["rows", &rows, "cols", &columns]).stdin(self.end()).status();
        assert!(done.unwrap().success());
    }
}

/// Reads what appears on a screen, so that a test can wait for a word.
struct Seen {
    lines: mpsc::Receiver<Vec<u8>>,
    text: String,
}

impl Seen {
    fn on(screen: &Screen) -> Seen {
        let mut keys = screen.keys.try_clone().unwrap();
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = keys.read(&mut bytes) {
                if send.send(bytes[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        Seen { lines, text: String::new() }
    }

    #[track_caller]
    fn wait_for(&mut self, word: &str) {
        while !self.text.contains(word) {
            match self.lines.recv_timeout(LIMIT) {
                Ok(bytes) => self.text.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("never seen {word:?} in {:?}", self.text),
            }
        }
    }
}

#[test]
fn a_run_on_a_terminal_has_its_size_and_keys() {
    if !require_root() {
        return;
    }
    // Not against runc, which sets the size after the start: its signal can end the `read` below.
    let (mut bundle, host) = stage();
    with_terminal(&mut bundle);
    let script = "trap 'stty size' WINCH; trap 'echo interrupted; exit 6' INT; stty size; read word; echo got $word; \
                  echo ready; while :; do sleep 0.01; done";
    bundle.args(&["sh", "-c", script]).write();
    let mut screen = Screen::new(30, 100);
    let before = tcgetattr(&screen.user).unwrap();
    let mut seen = Seen::on(&screen);
    let mut run = bundle.command(&["run", "--bundle", &bundle.dir.to_string_lossy(), &bundle.id]);
    let mut run = run.stdin(screen.end()).stdout(screen.end()).stderr(screen.end()).spawn().unwrap();
    seen.wait_for("30 100");
    screen.keys.write_all(b"hello\r").unwrap();
    seen.wait_for("got hello");
    seen.wait_for("ready");
    screen.resize(40, 90);
    // The kernel sends it to the terminal's foreground, which a child of the test is not.
    kill(Pid::from_raw(i32::try_from(run.id()).unwrap()), Signal::SIGWINCH).unwrap();
    seen.wait_for("40 90");
    // Ctrl-C is a byte for the runtime and a signal inside.
    screen.keys.write_all(b"\x03").unwrap();
    seen.wait_for("interrupted");
    assert_eq!(code(&mut run), Some(6));
    let after = tcgetattr(&screen.user).unwrap();
    assert_eq!((after.input_flags, after.output_flags), (before.input_flags, before.output_flags));
    assert_eq!((after.local_flags, after.control_flags), (before.local_flags, before.control_flags));
    left_nothing(&bundle, &host);
}

/// What a program writes just before its end must not be lost with its terminal.
#[test]
fn the_last_words_on_a_terminal_arrive() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    with_terminal(&mut bundle);
    bundle.args(&["sh", "-c", "seq 1 5000; echo the end"]).write();
    for _ in 0..10 {
        let screen = Screen::new(30, 100);
        let mut seen = Seen::on(&screen);
        let mut run = bundle.command(&["run", "--bundle", &bundle.dir.to_string_lossy(), &bundle.id]);
        let mut run = run.stdin(screen.end()).stdout(screen.end()).stderr(screen.end()).spawn().unwrap();
        seen.wait_for("\r\n5000\r\nthe end\r\n");
        assert_eq!(code(&mut run), Some(0));
    }
    left_nothing(&bundle, &host);
}

#[test]
fn a_terminal_of_a_run_without_one_is_a_plain_pipe() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    with_terminal(&mut bundle);
    let done = bundle.args(&["sh", "-c", "test -t 0 && echo terminal; exit 4"]).run();
    assert_eq!((done.code(), &done.out[..]), (Some(4), "terminal\r\n"), "{done}");
    left_nothing(&bundle, &host);
}

#[test]
fn standard_input_reaches_the_program() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.args(&["wc", "-c"]).write();
        let input = bundle.dir.join("input");
        fs::write(&input, "x".repeat(100_000)).unwrap();
        let mut run = bundle.command(&["run", "--bundle", &bundle.dir.to_string_lossy(), &bundle.id]);
        assert_eq!(tests::finish(run.stdin(File::open(input).unwrap()), LIMIT).ok(), "100000\n");
        left_nothing(&bundle, &host);
    }
}

/// A person on a terminal of the default root.
#[test]
fn a_jail_on_the_default_root_has_a_working_terminal() {
    if !require_root() {
        return;
    }
    let (bundle, host) = stage();
    let mut screen = Screen::new(31, 101);
    let mut seen = Seen::on(&screen);
    let mut run = bundle.command(&["run", &bundle.id, "--", "sh"]);
    let mut run = run.stdin(screen.end()).stdout(screen.end()).stderr(screen.end()).spawn().unwrap();
    screen.keys.write_all(b"stty size; tty\r").unwrap();
    seen.wait_for("31 101");
    seen.wait_for("/dev/");
    // Job control: Ctrl-C ends the program in the foreground, not the shell.
    screen.keys.write_all(b"echo w''ait; sleep 1000\r").unwrap();
    seen.wait_for("wait");
    let sleeps = || tests::processes::with_word("sleep\u{0}1000").into_iter().any(|pid| is_in(pid, &bundle.id));
    wait_for("the program in the foreground", sleeps);
    screen.keys.write_all(b"\x03").unwrap();
    wait_for("its end", || !sleeps());
    screen.keys.write_all(b"exit 9\r").unwrap();
    assert_eq!(code(&mut run), Some(9));
    left_nothing(&bundle, &host);
}

fn is_in(pid: i32, id: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(id))
}

#[test]
fn a_value_of_the_configuration_is_never_a_word_of_the_shell() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let words = ["echo", "$HOME", "`id`", "a  b", "*", "\"", "ü"];
        bundle.set("/process/args", Value::from(words.to_vec()));
        assert_eq!(bundle.run().ok(), "$HOME `id` a  b * \" ü\n");
        left_nothing(&bundle, &host);
    }
}
