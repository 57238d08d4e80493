//! The two configurations that tests, faults and the benchmark start from.

use serde_json::{Value, json};

/// The least that makes a jail: own name spaces, /proc and /dev. ROOT is the path of its root, CGROUP its cgroup.
pub fn minimal(root: &str, cgroup: &str) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["true"],
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/"
        },
        "root": {"path": root},
        "hostname": "jail",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]}
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"}, {"type": "network"}
            ]
        }
    })
}

/// What a container manager asks for by default: every default mount, masked and read-only paths, a capability list,
/// device rules, a cgroup name space. Its seccomp profile, if any, is added by the caller at `/linux/seccomp`.
pub fn full(root: &str, cgroup: &str) -> Value {
    let mut spec = minimal(root, cgroup);
    spec["root"]["readonly"] = json!(true);
    spec["process"]["noNewPrivileges"] = json!(true);
    let kept = CAPABILITIES;
    spec["process"]["capabilities"] = json!({"bounding": kept, "effective": kept, "permitted": kept});
    spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}]);
    spec["mounts"] = mounts();
    spec["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "cgroup"}));
    spec["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    spec["linux"]["maskedPaths"] = json!(MASKED);
    spec["linux"]["readonlyPaths"] = json!(READ_ONLY);
    spec
}

/// A mount of a new tmpfs.
pub fn tmpfs(target: &str, options: &[&str]) -> Value {
    json!({"destination": target, "type": "tmpfs", "source": "tmpfs", "options": options})
}

/// What container managers leave a container by default.
pub const CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Paths that show or change the host, hidden by default.
pub const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];

/// Paths that may be read but not written by default.
pub const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn mounts() -> Value {
    json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
         "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
         "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
         "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
         "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}
    ])
}
