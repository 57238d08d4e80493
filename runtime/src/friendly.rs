//! The jail that `jail run NAME` makes: the default root, its own name spaces, the default confinement.

use serde_json::{Value, json};
use sys::{Error, Kind, Result};

use crate::prelude;

/// What /proc and /sys hold of the host that a jail has no use for.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/iomem",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/keys",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/latency_stats",
    "/proc/pagetypeinfo",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/slabinfo",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/vmallocinfo",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What a jail may read of the host's knobs, but not turn.
const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The search path of a jail's program.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn mounts() -> Value {
    json!([
        { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
        { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
          "options": ["nosuid", "noexec", "strictatime", "mode=755", "size=64k"] },
        { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
          "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
        { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
          "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=64m"] },
        { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"] },
        { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] },
        { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
          "options": ["nosuid", "noexec", "nodev", "ro"] },
    ])
}

/// A specification as `jail spec` writes it: for a bundle whose root is in `rootfs`.
pub fn template() -> Value {
    let caps: Vec<String> = secmodel::caps::DEFAULT.iter().map(ToString::to_string).collect();
    json!({
        "ociVersion": crate::check::VERSION,
        "process": {
            "terminal": true,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": [PATH, "TERM=xterm"],
            "cwd": "/",
            "capabilities": { "bounding": caps, "effective": caps, "permitted": caps },
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "jail",
        "mounts": mounts(),
        "linux": {
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
                { "type": "cgroup" },
            ],
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    })
}

/// The same for a user name space in which the caller is root, and with nothing that only the host's root could make: the
/// host's network stack and /sys, and no limits.
///
/// # Errors
/// Where the caller cannot be told.
pub fn rootless() -> Result<Value> {
    let mut spec = template();
    map_caller(&mut spec)?;
    spec["linux"]["resources"] = json!({});
    if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
    }
    if let Some(mounts) = spec["mounts"].as_array_mut() {
        mounts.retain(|mount| mount["type"] != "cgroup");
        for mount in mounts.iter_mut().filter(|mount| mount["type"] == "sysfs") {
            *mount = json!({ "destination": "/sys", "type": "none", "source": "/sys",
                "options": ["rbind", "nosuid", "noexec", "nodev", "ro"] });
        }
    }
    Ok(spec)
}

/// Gives a specification a user name space in which the caller is root and nobody else is anybody.
fn map_caller(spec: &mut Value) -> Result<()> {
    let map = |id: u32| json!([{ "containerID": 0, "hostID": id, "size": 1 }]);
    let (uid, gid) = prelude::caller()?;
    spec["linux"]["uidMappings"] = map(uid);
    spec["linux"]["gidMappings"] = map(gid);
    if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
        namespaces.push(json!({ "type": "user" }));
    }
    leave_terminals_to_caller(spec);
    Ok(())
}

/// The group of terminals is not one of the jail's.
fn leave_terminals_to_caller(spec: &mut Value) {
    for options in
        spec["mounts"].as_array_mut().into_iter().flatten().filter_map(|mount| mount["options"].as_array_mut())
    {
        options.retain(|option| option != "gid=5");
    }
}

/// The text of the specification of a jail on the default root: a clone of the tree at `tree` by the allow list.
///
/// # Errors
/// Where the default profile cannot be written down, which is a defect, and where the caller cannot be told.
pub fn spec(name: &str, tree: &str, command: &[String], terminal: bool) -> Result<String> {
    let mut spec = template();
    if !sys::user::is_host_root() {
        match prelude::is_root_of_name_space() {
            false => map_caller(&mut spec)?,
            true if !prelude::has_group(5) => leave_terminals_to_caller(&mut spec),
            true => {}
        }
    }
    let (key, value) = crate::bundle::clone_annotation();
    spec["annotations"] = json!({ key: value });
    spec["root"] = json!({ "path": tree });
    spec["hostname"] = json!(name);
    spec["process"]["terminal"] = json!(terminal);
    if !command.is_empty() {
        spec["process"]["args"] = json!(command);
    }
    let term = std::env::var("TERM").unwrap_or_else(|_| "xterm".to_owned());
    spec["process"]["env"] = json!([PATH, format!("TERM={term}"), "HOME=/root", "LANG=C.UTF-8"]);
    spec["process"]["cwd"] = json!("/root");
    let defect =
        |error: serde_json::Error| Error::new(Kind::Kernel, format!("write the default specification: {error}"));
    spec["linux"]["seccomp"] = serde_json::to_value(secmodel::profile::default()).map_err(defect)?;
    Ok(spec.to_string())
}
