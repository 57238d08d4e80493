//! The name spaces of a jail, and what is set in them: host name, sysctls, loopback, mappings of users.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::json;
use tests::processes::field;
use tests::{Bundle, left_nothing, require_root, runtimes, stage, stage_of, wait_for};

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
        first.start_sleeper();
        let pid = first.pid().unwrap();
        for (index, (kind, file)) in
            SPACES.into_iter().enumerate().filter(|(_, (kind, _))| !["mount", "cgroup"].contains(kind))
        {
            let (mut bundle, host) = stage_of(runtime.clone());
            bundle.set(&format!("/linux/namespaces/{index}/path"), format!("/proc/{pid}/ns/{file}"));
            if kind == "uts" {
                bundle.remove("/hostname");
            }
            bundle.start_sleeper();
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
        wait_for("the program", || field(&seen(), "Uid") == "100005 100005 100005 100005");
        assert_eq!(field(&seen(), "Gid"), "100006 100006 100006 100006");
        assert_eq!(bundle.exec(&["id", "-u"]).ok(), "5\n");
        bundle.delete_force().ok();
        left_nothing(&bundle, &host);
    }
}

/// Gives the jail a user name space, a new one or that of the process USERS.
fn with_users(bundle: &mut Bundle, users: Option<i32>) {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
    let mut namespace = json!({"type": "user"});
    if let Some(pid) = users {
        namespace["path"] = json!(format!("/proc/{pid}/ns/user"));
    }
    bundle.set("/linux/namespaces/-", namespace).set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    fs::set_permissions(bundle.rootfs().join("tmp"), std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
}

#[test]
fn a_user_name_space_is_joined_by_path_and_the_new_ones_are_made_in_it() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut first, first_host) = stage_of(runtime.clone());
        with_users(&mut first, None);
        first.start_sleeper();
        let pid = first.pid().unwrap();
        let (mut bundle, host) = stage_of(runtime.clone());
        with_users(&mut bundle, Some(pid));
        bundle.start_sleeper();
        let own = bundle.pid().unwrap();
        assert_eq!(space(own, "user"), space(pid, "user"));
        for (_, file) in SPACES.into_iter().filter(|(kind, _)| *kind != "cgroup") {
            assert_ne!(space(own, file), space(pid, file), "{file}");
        }
        // SYS_ADMIN over the new ones is what the name space gives.
        assert_eq!(bundle.exec(&["sh", "-c", "id -u; touch /tmp/mine && echo touched"]).ok(), "0\ntouched\n");
        assert_eq!(fs::metadata(bundle.rootfs().join("tmp/mine")).unwrap().uid(), 100_000);
        bundle.delete_force().ok();
        first.delete_force().ok();
        left_nothing(&bundle, &host);
        left_nothing(&first, &first_host);
    }
}

#[test]
fn with_a_user_name_space_others_are_joined_whether_they_are_its_own_or_the_hosts() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut users, users_host) = stage_of(runtime.clone());
        with_users(&mut users, None);
        users.start_sleeper();
        let (mut plain, plain_host) = stage_of(runtime.clone());
        plain.start_sleeper();
        let (inner, outer) = (users.pid().unwrap(), plain.pid().unwrap());
        for (user, network) in [(Some(inner), inner), (Some(inner), outer), (None, outer)] {
            if runtime.name() == "runc" && network == outer {
                // Debian's runc has given up its rights over the host's by then, in exec at the latest; newer ones have not.
                continue;
            }
            let (mut bundle, host) = stage_of(runtime.clone());
            with_users(&mut bundle, user);
            let at = SPACES.iter().position(|(kind, _)| *kind == "network").unwrap();
            bundle.set(&format!("/linux/namespaces/{at}/path"), format!("/proc/{network}/ns/net"));
            bundle.start_sleeper();
            let own = bundle.pid().unwrap();
            assert_eq!(space(own, "net"), space(network, "net"));
            assert_eq!(user.map(|pid| space(pid, "user")).is_some_and(|of| of == space(own, "user")), user.is_some());
            assert_eq!(bundle.exec(&["readlink", "/proc/self/ns/net"]).ok().trim(), space(network, "net"));
            bundle.delete_force().ok();
            left_nothing(&bundle, &host);
        }
        users.delete_force().ok();
        plain.delete_force().ok();
        left_nothing(&users, &users_host);
        left_nothing(&plain, &plain_host);
    }
}

#[test]
fn mappings_beside_a_joined_user_name_space_must_be_its_own() {
    if !require_root() {
        return;
    }
    let (mut first, first_host) = stage();
    with_users(&mut first, None);
    first.start_sleeper();
    let (mut bundle, host) = stage();
    with_users(&mut bundle, first.pid());
    let line = bundle.set("/linux/gidMappings/0/hostID", 100_001).run().fails();
    assert!(line.contains("/linux/gidMappings: the user name space that is joined has others"), "{line}");
    left_nothing(&bundle, &host);
    first.delete_force().ok();
    left_nothing(&first, &first_host);
}

/// unshare(1) forbids setgroups(2) in it, as the kernel asks of everybody without privileges.
#[test]
fn a_user_name_space_that_allows_no_groups_can_be_joined() {
    if !require_root() {
        return;
    }
    let mut holder = std::process::Command::new("unshare").args(["-Ur", "sleep", "1000"]).spawn().unwrap();
    let pid = i32::try_from(holder.id()).unwrap();
    wait_for("its maps", || fs::read_to_string(format!("/proc/{pid}/setgroups")).is_ok_and(|text| text == "deny\n"));
    wait_for("its program", || tests::processes::name(pid).contains("sleep"));
    let (mut bundle, host) = stage();
    with_users(&mut bundle, Some(pid));
    bundle.remove("/linux/uidMappings").remove("/linux/gidMappings").start_sleeper();
    assert_eq!(bundle.exec(&["id", "-G"]).ok(), "0\n");
    bundle.delete_force().ok();
    holder.kill().unwrap();
    holder.wait().unwrap();
    left_nothing(&bundle, &host);
}

#[test]
fn what_is_no_user_name_space_is_not_joined() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.set("/linux/namespaces/-", json!({"type": "user"}));
    for path in ["/proc/self/ns/user", "/proc/self/ns/net", "/etc/passwd"] {
        bundle.set("/linux/namespaces/5/path", path);
        let line = bundle.run().fails();
        assert!(line.contains("no user name space"), "{line}");
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_name_space_that_cannot_be_joined_leaves_no_process() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let line = bundle.set("/linux/namespaces/0/path", "/proc/self/ns/net").run().fails();
    assert!(line.contains("no pid name space"), "{line}");
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
        bundle.capabilities(&["CAP_CHOWN", "CAP_SYS_ADMIN"]);
        fs::set_permissions(bundle.rootfs().join("tmp"), std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
        let script =
            "id -u; touch /tmp/mine && hostname other && hostname; touch /etc/theirs 2>/dev/null || echo refused";
        assert_eq!(bundle.args(&["sh", "-c", script]).run().ok(), "0\nother\nrefused\n");
        assert_eq!(fs::metadata(bundle.rootfs().join("tmp/mine")).unwrap().uid(), 100_000);
        left_nothing(&bundle, &host);
    }
}
