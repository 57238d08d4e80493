//! Who owns the jail's cgroup of v2: the program's user, where it sees that part of the tree alone and may write to it.
//!
//! runc 1.1.5 does so with systemd only, so that there is no control.

use serde_json::json;
use tests::view::View;
use tests::{Bundle, left_nothing, require_root, stage};

/// A jail whose root is user 100000 of the host and which has `options` on its tree of cgroups.
fn with_tree(bundle: &mut Bundle, options: &[&str]) {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
    bundle.set("/linux/namespaces/-", json!({"type": "user"})).set("/linux/namespaces/-", json!({"type": "cgroup"}));
    bundle.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    bundle.set("/mounts/-", json!({"destination": "/sys", "type": "tmpfs", "source": "none"}));
    let tree = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options});
    bundle.set("/mounts/-", tree);
}

#[test]
fn a_tree_that_is_writable_belongs_to_the_jail_and_its_limits_to_the_host() {
    if !require_root() {
        return;
    }
    View::V2.enter().unwrap();
    let (mut bundle, host) = stage();
    with_tree(&mut bundle, &[]);
    let said = bundle.script(
        "cd /sys/fs/cgroup; stat -c %u . cgroup.procs cgroup.subtree_control cgroup.max.depth
mkdir below && echo 0 > below/cgroup.procs && cat below/cgroup.procs | head -n1",
    );
    assert_eq!(said.lines().collect::<Vec<_>>(), ["0", "0", "0", "65534", "1"]);
    left_nothing(&bundle, &host);
}

#[test]
fn a_tree_that_is_read_only_stays_the_hosts() {
    if !require_root() {
        return;
    }
    View::V2.enter().unwrap();
    let (mut bundle, host) = stage();
    with_tree(&mut bundle, &["ro"]);
    assert_eq!(bundle.script("stat -c %u /sys/fs/cgroup"), "65534\n");
    left_nothing(&bundle, &host);
}

#[test]
fn a_program_without_a_user_name_space_owns_the_tree_too() {
    if !require_root() {
        return;
    }
    View::V2.enter().unwrap();
    let (mut bundle, host) = stage();
    with_tree(&mut bundle, &[]);
    bundle.remove("/linux/uidMappings").remove("/linux/gidMappings").remove("/linux/namespaces/5");
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    assert_eq!(bundle.script("cd /sys/fs/cgroup; stat -c %u . cgroup.procs cgroup.max.depth"), "1000\n1000\n0\n");
    left_nothing(&bundle, &host);
}
