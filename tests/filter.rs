//! The filter of system calls: a profile's, the default one, and the cache of both.

use std::fs;
use std::os::unix::fs::symlink;

use nix::sys::stat::Mode;
use serde_json::json;
use tests::{Bundle, left_nothing, require_root, runtimes, stage, stage_of};

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

fn refusing(calls: &[&str]) -> serde_json::Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": calls, "action": "SCMP_ACT_ERRNO"}]})
}

/// Where new privileges are not off, the filter is there before the process of the program is.
#[test]
fn the_program_of_exec_has_the_filter_of_the_jail_however_it_got_there() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        for privileges in [true, false] {
            for capability in ["CAP_SYS_PTRACE", "CAP_KILL"] {
                let (mut bundle, host) = stage_of(runtime.clone());
                bundle
                    .set("/process/noNewPrivileges", privileges)
                    .set("/linux/seccomp", refusing(&["mkdir", "mkdirat"]));
                bundle.capabilities(&[capability]).start_sleeper();
                let script = "grep Seccomp: /proc/self/status; grep CapEff /proc/self/status; mkdir /tmp/x; echo $?";
                let done = bundle.exec(&["sh", "-c", script]);
                let bit = if capability == "CAP_KILL" { "0000000000000020" } else { "0000000000080000" };
                assert_eq!(done.out, format!("Seccomp:\t2\nCapEff:\t{bit}\n1\n"), "{done}");
                bundle.delete_force().ok();
                left_nothing(&bundle, &host);
            }
        }
    }
}

#[test]
fn an_exec_whose_filter_would_have_to_allow_the_clone_of_its_process_says_so() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.set("/linux/seccomp", refusing(&["clone", "clone3", "fork", "vfork"]));
    bundle.start_sleeper();
    let line = bundle.exec(&["true"]).fails();
    assert!(line.contains("clone the process of the program: operation not permitted"), "{line}");
    assert_eq!(bundle.status().as_deref(), Some("running"));
    // With no_new_privs the process of the program loads its filter itself.
    bundle.delete_force().ok();
    bundle.set("/process/noNewPrivileges", true).start_sleeper();
    bundle.exec(&["true"]).ok();
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

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
    assert_eq!(bundle.friendly(&["perl", "-e", REFUSED]).ok(), "end\n");
    // The control: without the filter and with every capability many of these go through.
    let mut bundle = Bundle::new();
    bundle.perl(REFUSED);
    bundle.capabilities(&["CAP_SYS_ADMIN", "CAP_NET_RAW", "CAP_MKNOD"]);
    bundle.set(
        "/process/args/2",
        REFUSED.replace("[\"reboot\", 169, 0, 0, 0, 0],", "").replace("[\"acct\", 163, \"/tmp/a\"],", ""),
    );
    assert!(bundle.run().ok().lines().count() > 20);
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
