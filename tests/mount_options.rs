//! Options that change how a mount comes about: recursive attributes, remount, links at its source and destination.

use std::fs;
use std::os::unix::fs::symlink;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use tests::mountinfo::{at, mounted};
use tests::spec::tmpfs;
use tests::view::View;
use tests::{Bundle, left_nothing, require_root, runtimes, stage, stage_of};

const NONE: Option<&str> = None;

/// A folder of the host beside the root, with a file and a link to it.
fn source(bundle: &Bundle) -> String {
    let path = bundle.dir.join("source");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("file"), "of the host\n").unwrap();
    symlink("file", path.join("link")).unwrap();
    path.to_string_lossy().into_owned()
}

fn bind(source: &str, target: &str, options: &[&str]) -> Value {
    json!({"destination": target, "type": "bind", "source": source, "options": options})
}

/// Each word with `r` before it is for all that is mounted below, and that without is not.
#[test]
fn a_recursive_attribute_reaches_all_below_and_any_other_does_not() {
    if !require_root() {
        return;
    }
    View::Host.enter().unwrap();
    // What the mount below has on the host, the word, and what it has then.
    let table: &[(MsFlags, &str, &str, bool)] = &[
        (MsFlags::empty(), "ro", "ro", true),
        (MsFlags::MS_RDONLY, "rw", "ro", false),
        (MsFlags::empty(), "nosuid", "nosuid", true),
        (MsFlags::MS_NOSUID, "suid", "nosuid", false),
        (MsFlags::empty(), "nodev", "nodev", true),
        (MsFlags::MS_NODEV, "dev", "nodev", false),
        (MsFlags::empty(), "noexec", "noexec", true),
        (MsFlags::MS_NOEXEC, "exec", "noexec", false),
        (MsFlags::empty(), "nosymfollow", "nosymfollow", true),
        (MsFlags::from_bits_retain(256), "symfollow", "nosymfollow", false),
        (MsFlags::empty(), "nodiratime", "nodiratime", true),
        (MsFlags::MS_NODIRATIME, "diratime", "nodiratime", false),
        (MsFlags::empty(), "noatime", "noatime", true),
        (MsFlags::MS_NOATIME, "atime", "noatime", false),
        (MsFlags::MS_NOATIME, "relatime", "relatime", true),
        (MsFlags::MS_NOATIME, "norelatime", "noatime", false),
        (MsFlags::MS_NOATIME, "strictatime", "noatime", false),
        (MsFlags::MS_STRICTATIME, "nostrictatime", "relatime", true),
    ];
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime.clone());
        let source = source(&bundle);
        for (index, (flags, word, _, _)) in table.iter().enumerate() {
            let below = format!("{source}/{index}/below");
            fs::create_dir_all(&below).unwrap();
            mount(Some("none"), &below[..], Some("tmpfs"), *flags, NONE).unwrap();
            for (place, word) in [("plain", (*word).to_owned()), ("all", format!("r{word}"))] {
                // runc takes the words against noatime for others.
                let unknown = runtime.name() == "runc" && word.contains("atime");
                let options = if unknown { vec!["rbind"] } else { vec!["rbind", &word] };
                bundle.set("/mounts/-", bind(&format!("{source}/{index}"), &format!("/mnt/{index}/{place}"), &options));
            }
        }
        let mounts = mounted(&mut bundle);
        for (index, (_, word, option, then)) in table.iter().enumerate() {
            let has =
                |place| at(&mounts, &format!("/mnt/{index}/{place}/below")).options.iter().any(|seen| seen == option);
            if runtime.name() != "runc" || !word.contains("atime") {
                assert_eq!((has("plain"), has("all")), (!then, *then), "{word} of {}", runtime.name());
            }
            umount2(&format!("{source}/{index}/below")[..], MntFlags::MNT_DETACH).unwrap();
        }
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_remount_changes_a_mount_that_is_there_and_leaves_the_rest_of_it() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime.clone());
        let source = source(&bundle);
        bundle.set("/mounts/-", bind(&source, "/mnt", &["bind", "nosuid"]));
        bundle.set("/mounts/-", bind(&source, "/mnt", &["bind", "remount", "ro", "nosuid", "noexec"]));
        let look = "true > /mnt/new || echo refused";
        assert_eq!(bundle.script(look), "refused\n");
        let options = at(&mounted(&mut bundle), "/mnt").options.clone();
        assert_eq!(options, ["noexec", "nosuid", "relatime", "ro"], "{}", runtime.name());
        left_nothing(&bundle, &host);
    }
    let (mut bundle, host) = stage();
    let source = source(&bundle);
    bundle.set("/mounts/-", bind(&source, "/mnt", &["bind", "nosuid"]));
    // It is read-only in the end; what is mounted in it in between is not kept away.
    bundle.set("/mounts/-", bind("none", "/mnt", &["remount", "ro"])).set("/mounts/-", tmpfs("/mnt/made/later", &[]));
    assert_eq!(at(&mounted(&mut bundle), "/mnt").options, ["nosuid", "relatime", "ro"]);
    bundle.set("/mounts/-", bind("none", "/mnt", &["remount", "rw", "suid"]));
    assert_eq!(at(&mounted(&mut bundle), "/mnt").options, ["relatime", "rw"]);
    left_nothing(&bundle, &host);
}

#[test]
fn a_remount_of_the_root_makes_it_read_only() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.set("/mounts/-", bind("none", "/", &["bind", "remount", "ro"]));
    assert_eq!(bundle.script("true > /new || echo refused"), "refused\n");
    assert!(!bundle.rootfs().join("new").exists());
    left_nothing(&bundle, &host);
}

/// A link of the image would make another mount writable than the one that was meant.
#[test]
fn a_remount_follows_no_link_of_the_image() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let source = source(&bundle);
    symlink("/kept", bundle.rootfs().join("way")).unwrap();
    bundle.set("/mounts/-", bind(&source, "/kept", &["bind", "ro"]));
    bundle.set("/mounts/-", bind("none", "/way", &["remount", "rw"]));
    let line = bundle.create().fails();
    assert!(line.contains("change the mount on /way: a link leads there"), "{line}");
    left_nothing(&bundle, &host);
}

#[test]
fn a_remount_of_what_is_no_mount_and_what_it_cannot_do_are_refused() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let source = source(&bundle);
    let usual = bundle.spec.clone();
    let maps = json!([{"containerID": 0, "hostID": 100_000, "size": 10}]);
    for (mut mount, reason) in [
        (tmpfs("/etc", &["remount", "nosuid"]), "change the mount on /etc: nothing is mounted there"),
        (tmpfs("/etc", &["remount", "ro"]), "make /etc read-only: nothing is mounted there"),
        (tmpfs("/nowhere", &["remount", "nosuid"]), "change the mount on /nowhere: no such file"),
        (tmpfs("/mnt", &["remount", "size=1m"]), "options \"size\": remount changes the mount alone"),
        (tmpfs("/mnt", &["remount", "sync"]), "options \"sync\": remount changes the mount alone"),
        (bind(&source, "/mnt", &["bind", "remount", "idmap"]), "options \"idmap\": a mount that is there already"),
        (tmpfs("/mnt", &["remount", "tmpcopyup"]), "options \"tmpcopyup\": a mount that is there already"),
        (tmpfs("/proc/sys", &["remount", "rw"]), "destination: it is inside /proc"),
        (json!({"destination": "/mnt", "uidMappings": maps.clone(), "options": ["remount"]}), "uidMappings"),
    ] {
        bundle.spec.clone_from(&usual);
        if reason == "uidMappings" {
            mount["gidMappings"] = maps.clone();
        }
        let line = bundle.set("/mounts/-", mount).create().fails();
        assert!(line.contains(reason), "{reason}: {line}");
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_link_at_the_source_is_followed_bound_or_copied() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let source = source(&bundle);
    let link = format!("{source}/link");
    for (place, option) in
        [("/mnt/followed", None), ("/mnt/itself", Some("src-nofollow")), ("/mnt/copied", Some("copy-symlink"))]
    {
        bundle.set("/mounts/-", bind(&link, place, &[&["bind"][..], option.as_slice()].concat()));
    }
    // What is no link is bound, whatever the option is.
    bundle.set("/mounts/-", bind(&format!("{source}/file"), "/mnt/plain", &["bind", "copy-symlink"]));
    let look =
        "cd /mnt; cat followed plain; readlink itself; readlink copied; grep -c ' /mnt/copied ' /proc/self/mountinfo";
    assert_eq!(bundle.args(&["sh", "-c", look]).run().out, "of the host\nof the host\nfile\nfile\n0\n");
    left_nothing(&bundle, &host);
}

#[test]
fn a_copied_link_finds_its_like_or_the_mount_is_refused() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let source = source(&bundle);
    symlink("file", bundle.rootfs().join("same")).unwrap();
    symlink("/etc/passwd", bundle.rootfs().join("other")).unwrap();
    let link = format!("{source}/link");
    bundle.set("/mounts/-", bind(&link, "/same", &["bind", "copy-symlink"]));
    assert_eq!(bundle.script("readlink /same"), "file\n");
    for place in ["/other", "/etc/group"] {
        bundle.set("/mounts/-", bind(&link, place, &["bind", "copy-symlink"]));
        let line = bundle.create().fails();
        assert!(line.contains(&format!("copy the link {place}: another file is in its place")), "{line}");
        bundle.spec["mounts"].as_array_mut().unwrap().pop();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_link_at_the_destination_is_followed_inside_the_root_or_covered_itself() {
    if !require_root() {
        return;
    }
    for (option, seen) in [(None, "of the host\nof the host\n"), (Some("dest-nofollow"), "root\nof the host\n")] {
        let (mut bundle, host) = stage();
        let source = source(&bundle);
        let target = bundle.rootfs().join("etc/real");
        fs::write(&target, "root\n").unwrap();
        // As the host sees it, it leads out.
        symlink("/../../../../../etc/real", bundle.rootfs().join("way")).unwrap();
        bundle.set("/mounts/-", bind(&format!("{source}/file"), "/way", &[&["bind"][..], option.as_slice()].concat()));
        assert_eq!(bundle.script("cat /etc/real /way"), seen, "{option:?}");
        assert_eq!(fs::read_to_string(target).unwrap(), "root\n");
        left_nothing(&bundle, &host);
    }
}

#[test]
fn words_for_a_bind_alone_are_refused_elsewhere() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    for word in ["src-nofollow", "dest-nofollow", "copy-symlink", "idmap", "ridmap"] {
        let line = bundle.set("/mounts/-", tmpfs("/mnt", &[word])).create().fails();
        assert!(line.contains(&format!("/options {word:?}: only a bind mount can have it")), "{line}");
        bundle.spec["mounts"].as_array_mut().unwrap().pop();
    }
    left_nothing(&bundle, &host);
}

#[test]
fn what_a_mount_cannot_change_of_its_file_system_is_refused() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let source = source(&bundle);
    bundle.set("/mounts/-", bind(&source, "/mnt", &["bind", "async", "nolazytime"])).run().ok();
    for (mount, reason) in [
        (bind(&source, "/mnt", &["bind", "sync"]), "options \"sync\": a bind mount shows the file system of the host"),
        (bind(&source, "/mnt", &["bind", "size=1m"]), "options \"size\": no such option of a bind mount"),
        (
            json!({"destination": "/mnt", "type": "cgroup", "options": ["nsdelegate"]}),
            "options \"nsdelegate\": how the host",
        ),
    ] {
        let line = bundle.set("/mounts/-", mount).create().fails();
        assert!(line.contains(reason), "{reason}: {line}");
        bundle.spec["mounts"].as_array_mut().unwrap().pop();
    }
    left_nothing(&bundle, &host);
}

/// What the host mounts under the root later is seen by a root that is a slave, and by no other.
#[test]
fn a_root_that_is_a_slave_hears_of_what_the_host_mounts() {
    if !require_root() {
        return;
    }
    View::Host.enter().unwrap();
    for runtime in runtimes() {
        for (word, appears) in [("private", false), ("rprivate", false), ("slave", true), ("rslave", true)] {
            // Debian's runc hears of it only where all of its own root is a slave.
            if runtime.name() == "runc" && word == "slave" {
                continue;
            }
            let (mut bundle, host) = stage_of(runtime.clone());
            let root = bundle.rootfs();
            mount(Some(&root), &root, NONE, MsFlags::MS_BIND, NONE).unwrap();
            mount(NONE, &root, NONE, MsFlags::MS_SHARED, NONE).unwrap();
            fs::create_dir(root.join("mnt")).unwrap();
            bundle.set("/linux/rootfsPropagation", word).start_sleeper();
            mount(Some("none"), &root.join("mnt"), Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
            fs::write(root.join("mnt/late"), "").unwrap();
            let seen = bundle.exec(&["test", "-e", "/mnt/late"]);
            assert_eq!(seen.is_ok(), appears, "{word} of {}: {seen}", runtime.name());
            bundle.delete_force().ok();
            umount2(&root.join("mnt"), MntFlags::MNT_DETACH).unwrap();
            umount2(&root, MntFlags::MNT_DETACH).unwrap();
            left_nothing(&bundle, &host);
        }
    }
}

#[test]
fn a_bind_that_is_a_slave_hears_of_what_the_host_mounts_also_when_it_is_not_recursive() {
    if !require_root() {
        return;
    }
    View::Host.enter().unwrap();
    for options in [&["bind", "slave"][..], &["rbind", "slave"], &["rbind", "rslave"]] {
        let (mut bundle, host) = stage();
        let source = source(&bundle);
        mount(Some("none"), &source[..], Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
        mount(NONE, &source[..], NONE, MsFlags::MS_SHARED, NONE).unwrap();
        fs::create_dir(format!("{source}/below")).unwrap();
        bundle.set("/mounts/-", bind(&source, "/mnt", options)).start_sleeper();
        mount(Some("none"), &format!("{source}/below")[..], Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
        fs::write(format!("{source}/below/late"), "").unwrap();
        let seen = bundle.exec(&["test", "-e", "/mnt/below/late"]);
        assert!(seen.is_ok(), "{options:?}: {seen}");
        bundle.delete_force().ok();
        umount2(&format!("{source}/below")[..], MntFlags::MNT_DETACH).unwrap();
        umount2(&source[..], MntFlags::MNT_DETACH).unwrap();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_mount_of_a_type_that_nobody_has_is_named() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime.clone());
        bundle.set("/mounts/-", json!({"destination": "/mnt/here", "type": "nosuchfs", "source": "none"}));
        let line = bundle.create().fails();
        assert!(line.contains("/mnt/here"), "{line}");
        // runc leaves the type out.
        assert!(line.contains("mount nosuchfs on") || runtime.name() == "runc", "{line}");
        left_nothing(&bundle, &host);
    }
}
