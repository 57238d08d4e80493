//! What a jail cannot change of the kernel: what is on /proc, its knobs, its cgroup trees.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;
use tests::view::View;
use tests::{Bundle, Runtime, installed, require_root};

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
    let out = bundle.friendly(&["perl", "-e", SWEEP]).ok();
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
    let written = again.friendly(&["sh", "-c", &write]).ok();
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
    assert_eq!(bundle.friendly(&["sh", "-c", script]).ok(), "");
}
