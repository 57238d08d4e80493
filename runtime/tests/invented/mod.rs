//! Hosts that are nowhere, and a planner on them: no system is looked at.

use std::path::Path;

use base::JailId;
use cgroup::{Hierarchy, Layout};
use oci_spec::runtime::Spec;
use runtime::inherit::Inherited;
use runtime::plan::Plan;
use runtime::planner::{Input, Modules, plan};
use secmodel::{Caps, Confinement, Filter};

fn hierarchy(mount: &str, controllers: &[&str]) -> Hierarchy {
    let controllers = controllers.iter().map(ToString::to_string).collect();
    Hierarchy { mount: mount.into(), controllers, own: "/".into() }
}

/// A host with systemd and nothing but cgroups of version 2.
pub fn v2() -> Layout {
    let controllers = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma"];
    Layout { v2: Some(hierarchy("/sys/fs/cgroup", &controllers)), ..Layout::default() }
}

/// A host with the controllers in trees of version 1, and a tree of version 2 without any.
pub fn hybrid() -> Layout {
    let controllers =
        ["cpuset", "cpu", "memory", "devices", "blkio", "hugetlb", "pids", "rdma", "net_cls", "net_prio", "freezer"];
    Layout {
        v2: Some(hierarchy("/sys/fs/cgroup/unified", &[])),
        v1: controllers.iter().map(|name| hierarchy(&format!("/sys/fs/cgroup/{name}"), &[name])).collect(),
        delegated: None,
    }
}

/// Plans a jail named `x` of the bundle `/bundle`.
///
/// # Errors
/// As the planner.
pub fn planned(spec: &Spec, layout: &Layout, caps: Caps) -> sys::Result<Plan> {
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let notifies = profile.is_some_and(secmodel::seccomp::notifies);
    plan(&Input {
        id: &JailId::new("x")?,
        bundle: Path::new("/bundle"),
        spec,
        layout,
        systemd: None,
        mark: "hash-1",
        console_socket: Some(Path::new("/console.sock")),
        terminal_size: None,
        new_keyring: true,
        confinement: Confinement {
            uid: 0.into(),
            gid: 0.into(),
            groups: Vec::new(),
            setgroups: true,
            umask: Some(0o022),
            caps,
            no_new_privs: true,
            // How long a filter is depends on the library; that it has a listener does not.
            filter: notifies.then(|| Filter { program: vec![0; 8], flags: 8 }),
        },
        may_raise: true,
        modules: Modules { apparmor: true, selinux: true },
        resctrl: Some("/sys/fs/resctrl".into()),
        inherited: &Inherited::default(),
        clone: None,
    })
}
