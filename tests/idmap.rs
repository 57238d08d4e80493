//! Idmapped mounts: who owns what a jail is shown of the host, seen from both sides.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use tests::view::View;
use tests::{Bundle, Runtime, installed, left_nothing, require_root, stage, stage_of};

const NONE: Option<&str> = None;

/// A folder of the host with files of user 0 and of user 7, group 8.
fn source(bundle: &Bundle) -> String {
    let path = bundle.dir.join("source");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    for (name, owner, group) in [("root", 0, 0), ("seven", 7, 8)] {
        fs::write(path.join(name), "").unwrap();
        chown(path.join(name), Some(owner), Some(group)).unwrap();
    }
    path.to_string_lossy().into_owned()
}

fn map(inside: u32, outside: u32, size: u32) -> Value {
    json!([{"containerID": inside, "hostID": outside, "size": size}])
}

fn bind(source: &str, options: &[&str]) -> Value {
    json!({"destination": "/mnt", "type": "bind", "source": source, "options": options})
}

/// The same with maps of its own: owner 0 of the file system is OUTSIDE for the kernel.
fn mapped(source: &str, options: &[&str], outside: u32) -> Value {
    let mut bound = bind(source, options);
    bound["uidMappings"] = map(0, outside, 1000);
    bound["gidMappings"] = map(0, outside + 100_000, 1000);
    bound
}

fn with_users(bundle: &mut Bundle) {
    bundle.set("/linux/namespaces/-", json!({"type": "user"}));
    bundle.set("/linux/uidMappings", map(0, 100_000, 1000)).set("/linux/gidMappings", map(0, 200_000, 1000));
    for folder in [bundle.rootfs().join("tmp"), bundle.rootfs()] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
    }
}

const OWNERS: &str = "stat -c '%n %u %g' /mnt/root /mnt/seven";

#[test]
fn the_owners_of_a_bind_are_those_that_its_own_maps_say() {
    if !require_root() {
        return;
    }
    // With a user name space of the jail and without; with the option and without, which means the same.
    for (users, options) in
        [(false, &["bind"][..]), (false, &["bind", "idmap"]), (true, &["bind", "idmap"]), (true, &["rbind", "ridmap"])]
    {
        let (mut bundle, host) = stage();
        let source = source(&bundle);
        if users {
            with_users(&mut bundle);
        }
        bundle.set("/mounts/-", mapped(&source, options, 100_000));
        let (uid, gid) = if users { (0, 0) } else { (100_000, 200_000) };
        let seen = format!("/mnt/root {uid} {gid}\n/mnt/seven {} {}\n", uid + 7, gid + 8);
        assert_eq!(bundle.script(OWNERS), seen, "{users} {options:?}");
        left_nothing(&bundle, &host);
    }
}

/// The control: crun, the only one of Debian 12 that knows it, shows the same.
#[test]
fn crun_shows_the_same_owners() {
    if !require_root() || !installed("crun") {
        return;
    }
    View::V1.enter().unwrap();
    let mut seen = Vec::new();
    for runtime in [Runtime::jail(), Runtime::of("crun")] {
        let (mut bundle, host) = stage_of(runtime);
        let source = source(&bundle);
        with_users(&mut bundle);
        bundle.set("/mounts/-", mapped(&source, &["bind", "idmap"], 100_000));
        seen.push(bundle.script(OWNERS));
        left_nothing(&bundle, &host);
    }
    assert_eq!(seen[0], seen[1]);
}

#[test]
fn what_is_written_through_an_idmapped_bind_belongs_to_the_right_one_on_the_host() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let source = source(&bundle);
    with_users(&mut bundle);
    bundle.capabilities(&["CAP_CHOWN", "CAP_DAC_OVERRIDE"]);
    bundle.set("/mounts/-", mapped(&source, &["bind", "idmap"], 100_000));
    bundle.script("touch /mnt/new; echo x > /mnt/seven");
    let new = fs::metadata(format!("{source}/new")).unwrap();
    assert_eq!((new.uid(), new.gid()), (0, 0));
    let seven = fs::metadata(format!("{source}/seven")).unwrap();
    assert_eq!((seven.uid(), seven.gid(), seven.len()), (7, 8, 2));
    left_nothing(&bundle, &host);
}

#[test]
fn idmap_without_maps_takes_those_of_the_jail() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let source = source(&bundle);
    with_users(&mut bundle);
    let usual = bundle.spec.clone();
    for options in [&["bind", "idmap"][..], &["rbind", "ridmap"]] {
        bundle.spec.clone_from(&usual);
        bundle.set("/mounts/-", bind(&source, options));
        assert_eq!(bundle.script(OWNERS), "/mnt/root 0 0\n/mnt/seven 7 8\n", "{options:?}");
    }
    // The control: without it nobody inside owns them.
    bundle.spec.clone_from(&usual);
    bundle.set("/mounts/-", bind(&source, &["bind"]));
    assert_eq!(bundle.script(OWNERS), "/mnt/root 65534 65534\n/mnt/seven 65534 65534\n");
    left_nothing(&bundle, &host);
}

#[test]
fn idmap_without_maps_takes_those_of_a_user_name_space_that_is_joined() {
    if !require_root() {
        return;
    }
    let (mut first, first_host) = stage();
    with_users(&mut first);
    first.start_sleeper();
    let path = format!("/proc/{}/ns/user", first.pid().unwrap());
    let (mut bundle, host) = stage();
    let source = source(&bundle);
    fs::set_permissions(bundle.rootfs(), fs::Permissions::from_mode(0o777)).unwrap();
    bundle.set("/linux/namespaces/-", json!({"type": "user", "path": path}));
    bundle.set("/mounts/-", bind(&source, &["bind", "idmap"]));
    assert_eq!(bundle.script(OWNERS), "/mnt/root 0 0\n/mnt/seven 7 8\n");
    left_nothing(&bundle, &host);
    first.delete_force().ok();
    left_nothing(&first, &first_host);
}

#[test]
fn what_is_no_user_name_space_maps_nobody() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let source = source(&bundle);
    bundle.set("/linux/namespaces/-", json!({"type": "user", "path": "/proc/self/ns/net"}));
    let line = bundle.set("/mounts/-", bind(&source, &["bind", "idmap"])).create().fails();
    assert!(line.contains("/proc/self/ns/net for an idmapped mount: it is no user name space"), "{line}");
    left_nothing(&bundle, &host);
}

#[test]
fn idmap_is_for_the_first_mount_and_ridmap_for_all_below() {
    if !require_root() {
        return;
    }
    View::Host.enter().unwrap();
    for (option, seen) in [("idmap", "0 0\n"), ("ridmap", "100000 200000\n")] {
        let (mut bundle, host) = stage();
        let source = source(&bundle);
        let below = format!("{source}/below");
        fs::create_dir(&below).unwrap();
        mount(Some("none"), &below[..], Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
        bundle.set("/mounts/-", mapped(&source, &["rbind", option], 100_000));
        assert_eq!(bundle.script("stat -c '%u %g' /mnt/below"), seen, "{option}");
        assert_eq!(bundle.script("stat -c '%u %g' /mnt/root"), "100000 200000\n", "{option}");
        umount2(&below[..], MntFlags::MNT_DETACH).unwrap();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn several_mounts_have_several_maps_and_attributes_beside_them() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let source = source(&bundle);
    for (place, outside) in [("/mnt/a", 300_000), ("/mnt/b", 400_000), ("/mnt/c", 300_000)] {
        let mut mount = mapped(&source, &["bind", "idmap", "ro"], outside);
        mount["destination"] = place.into();
        bundle.set("/mounts/-", mount);
    }
    let look = "stat -c '%u' /mnt/a/root /mnt/b/root /mnt/c/seven; true > /mnt/a/new || echo refused";
    assert_eq!(bundle.script(look), "300000\n400000\n300007\nrefused\n");
    left_nothing(&bundle, &host);
}

#[test]
fn a_file_system_that_cannot_be_idmapped_is_refused_by_name_with_the_way_out() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.set("/mounts/-", mapped("/proc/sys", &["bind", "idmap"], 100_000));
    let line = bundle.create().fails();
    assert!(
        line.contains("map the owners of /proc/sys of the host: its file system (proc) cannot be idmapped"),
        "{line}"
    );
    assert!(line.contains("bind it without idmap"), "{line}");
    left_nothing(&bundle, &host);
}

#[test]
fn maps_that_make_no_sense_are_refused_before_anything_is_made() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let source = source(&bundle);
    let usual = bundle.spec.clone();
    let alone = |key: &str| {
        let mut mount = bind(&source, &["bind"]);
        mount[key] = map(0, 100_000, 10);
        mount
    };
    let mut file_system = mapped("none", &["idmap"], 100_000);
    file_system["type"] = "tmpfs".into();
    let mut wide = mapped(&source, &["bind"], 100_000);
    wide["gidMappings"] = map(0, u32::MAX - 3, 10);
    for (mount, reason) in [
        (bind(&source, &["bind", "idmap"]), "/options \"idmap\": without uidMappings and gidMappings"),
        (alone("uidMappings"), "one of them is missing"),
        (alone("gidMappings"), "one of them is missing"),
        (file_system, "/options \"idmap\": only a bind mount can have it"),
        (wide, "/gidMappings/0: the range is empty or ends above"),
        (bind(&source, &["bind", "idmap=uids=0-1-10"]), "are its uidMappings and gidMappings"),
    ] {
        bundle.spec.clone_from(&usual);
        bundle.set("/mounts/-", mount);
        let line = bundle.create().fails();
        assert!(line.contains(reason), "{reason}: {line}");
        left_nothing(&bundle, &host);
    }
    // Only the kernel can say it of these: the two ranges overlap.
    bundle.spec.clone_from(&usual);
    let mut twice = mapped(&source, &["bind"], 100_000);
    twice["uidMappings"].as_array_mut().unwrap().push(map(5, 500_000, 10)[0].clone());
    let line = bundle.set("/mounts/-", twice).create().fails();
    assert!(line.contains("use uidMappings of an idmapped mount (0 100000 1000, 5 500000 10)"), "{line}");
    left_nothing(&bundle, &host);
}
