//! What is mounted in a jail, and how it propagates.

use std::fs;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use tests::mountinfo::{at, mounted};
use tests::spec::tmpfs;
use tests::view::{self, View};
use tests::{Bundle, left_nothing, require_root, runtimes, stage, stage_of};

const NONE: Option<&str> = None;

/// A folder of the host with a file in it, beside the root.
fn source(bundle: &Bundle) -> String {
    let path = bundle.dir.join("source");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("file"), "of the host\n").unwrap();
    path.to_string_lossy().into_owned()
}

fn bind(source: &str, options: &[&str]) -> Value {
    json!({"destination": "/mnt/bound", "type": "bind", "source": source, "options": options})
}

#[test]
fn a_bind_shows_the_hosts_folder_and_writes_reach_it() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let source = source(&bundle);
        bundle.set("/mounts/-", bind(&source, &["bind"]));
        assert_eq!(bundle.script("cat /mnt/bound/file; echo inside > /mnt/bound/new"), "of the host\n");
        assert_eq!(fs::read_to_string(bundle.dir.join("source/new")).unwrap(), "inside\n");
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_read_only_bind_takes_no_write() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let source = source(&bundle);
        bundle.set("/mounts/-", bind(&source, &["bind", "ro"]));
        assert_eq!(
            bundle.script("cat /mnt/bound/file; true > /mnt/bound/new || echo refused"),
            "of the host\nrefused\n"
        );
        assert!(!bundle.dir.join("source/new").exists());
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_relative_source_is_below_the_bundle() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        source(&bundle);
        bundle.set("/mounts/-", bind("source", &["rbind"]));
        assert_eq!(bundle.script("cat /mnt/bound/file"), "of the host\n");
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_recursive_bind_brings_what_is_mounted_below_and_a_plain_one_does_not() {
    if !require_root() {
        return;
    }
    View::Host.enter().unwrap();
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let source = source(&bundle);
        let below = format!("{source}/below");
        fs::create_dir(&below).unwrap();
        mount(Some("none"), &below[..], Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
        fs::write(format!("{below}/deep"), "deep\n").unwrap();
        let usual = bundle.spec["mounts"].as_array().unwrap().clone();
        let look = "cat /mnt/bound/below/deep 2> /dev/null || echo nothing; true > /mnt/bound/below/new && echo written || echo refused";
        for (options, seen) in [
            (&["bind"][..], "nothing\nwritten\n"),
            (&["rbind"], "deep\nwritten\n"),
            (&["rbind", "ro"], "deep\nwritten\n"),
            (&["rbind", "rro"], "deep\nrefused\n"),
        ] {
            let mut mounts = usual.clone();
            mounts.push(bind(&source, options));
            bundle.set("/mounts", mounts);
            let done = bundle.args(&["sh", "-c", look]).run();
            assert_eq!(done.out, seen, "{options:?}: {done}");
        }
        umount2(&below[..], MntFlags::MNT_DETACH).unwrap();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_file_is_bound_on_a_file_and_on_nothing() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let file = format!("{}/file", source(&bundle));
        for target in ["/etc/passwd", "/etc/made/here"] {
            bundle
                .set("/mounts/-", json!({"destination": target, "type": "bind", "source": file, "options": ["bind"]}));
        }
        assert_eq!(bundle.script("cat /etc/passwd /etc/made/here"), "of the host\nof the host\n");
        assert!(fs::read_to_string(bundle.rootfs().join("etc/passwd")).unwrap().starts_with("root:"));
        left_nothing(&bundle, &host);
    }
}

#[test]
fn mounts_are_made_in_their_order() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let source = source(&bundle);
        bundle.set("/mounts/-", tmpfs("/mnt", &[])).set("/mounts/-", bind(&source, &["bind"]));
        bundle.set("/mounts/-", tmpfs("/mnt/bound/below", &[]));
        bundle.set("/mounts/-", tmpfs("/var", &["size=1m"])).set("/mounts/-", tmpfs("/var", &["size=2m"]));
        let text = "ls /mnt; ls /mnt/bound; df /var | tail -n 1 | { read a b c; echo $b; }";
        assert_eq!(bundle.script(text), "bound\nbelow\nfile\n2048\n");
        left_nothing(&bundle, &host);
    }
}

#[test]
fn the_options_of_a_tmpfs_reach_it() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.set("/mounts/-", tmpfs("/mnt", &["size=1m", "nr_inodes=100", "mode=1770", "uid=5", "gid=6", "nosuid"]));
        assert_eq!(
            bundle.script("stat -c '%a %u %g' /mnt; df /mnt | tail -n 1 | { read a b c; echo $b; }"),
            "1770 5 6\n1024\n"
        );
        let mounts = mounted(&mut bundle);
        let mnt = at(&mounts, "/mnt");
        assert_eq!(mnt.kind, "tmpfs");
        for word in ["size=1024k", "nr_inodes=100", "mode=1770"] {
            assert!(mnt.superblock.contains(word), "{mnt:?}");
        }
        left_nothing(&bundle, &host);
    }
}

#[test]
fn every_attribute_of_a_mount_is_as_it_was_asked_for() {
    if !require_root() {
        return;
    }
    let table: &[(&[&str], &[&str])] = &[
        (&[], &["relatime", "rw"]),
        (&["ro"], &["relatime", "ro"]),
        (&["ro", "rw"], &["relatime", "rw"]),
        (&["nosuid", "nodev", "noexec"], &["nodev", "noexec", "nosuid", "relatime", "rw"]),
        (&["nosuid", "suid", "noexec", "exec", "nodev", "dev"], &["relatime", "rw"]),
        (&["noatime"], &["noatime", "rw"]),
        (&["strictatime"], &["rw"]),
        (&["nodiratime"], &["nodiratime", "relatime", "rw"]),
        (&["noatime", "relatime"], &["relatime", "rw"]),
        (&["defaults"], &["relatime", "rw"]),
    ];
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime.clone());
        let source = source(&bundle);
        // runc takes `defaults` for an option of the file system, and knows of no way back from noatime.
        let unknown =
            |asked: &[&str]| runtime.name() == "runc" && (asked == ["defaults"] || asked == ["noatime", "relatime"]);
        for (index, (options, _)) in table.iter().enumerate().filter(|(_, (asked, _))| !unknown(asked)) {
            bundle.set("/mounts/-", tmpfs(&format!("/mnt/t{index}"), options));
            let mut bound = bind(&source, &[*options, &["bind"]].concat());
            bound["destination"] = format!("/mnt/b{index}").into();
            bundle.set("/mounts/-", bound);
        }
        let mounts = mounted(&mut bundle);
        for (index, (asked, seen)) in table.iter().enumerate().filter(|(_, (asked, _))| !unknown(asked)) {
            assert_eq!(at(&mounts, &format!("/mnt/t{index}")).options, *seen, "{asked:?} of a tmpfs");
            if !asked.iter().any(|word| word.contains("atime")) {
                assert_eq!(at(&mounts, &format!("/mnt/b{index}")).options, *seen, "{asked:?} of a bind");
            }
        }
        left_nothing(&bundle, &host);
    }
}

#[test]
fn noexec_and_nosymfollow_do_what_they_say() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.set("/mounts/-", tmpfs("/mnt", &["noexec", "nosymfollow"]));
    let text = "cp /bin/busybox /mnt/echo; /mnt/echo ran 2> /dev/null; echo $?; ln -s /etc/passwd /mnt/link; cat /mnt/link 2> /dev/null || echo refused";
    std::os::unix::fs::symlink("busybox", bundle.rootfs().join("bin/cp")).unwrap();
    assert_eq!(bundle.script(text), "126\nrefused\n");
    left_nothing(&bundle, &host);
}

#[test]
fn what_the_host_mounts_later_does_not_appear_unless_it_is_asked_for() {
    if !require_root() {
        return;
    }
    View::Host.enter().unwrap();
    for runtime in runtimes() {
        for (options, appears) in
            [(&["rbind"][..], false), (&["rbind", "rprivate"], false), (&["rbind", "rslave"], true)]
        {
            // runc leaves it to the root, and that is a slave here.
            if runtime.name() == "runc" && options == ["rbind"] {
                continue;
            }
            let (mut bundle, host) = stage_of(runtime.clone());
            let source = source(&bundle);
            mount(Some("none"), &source[..], Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
            mount(NONE, &source[..], NONE, MsFlags::MS_SHARED, NONE).unwrap();
            let below = format!("{source}/below");
            fs::create_dir(&below).unwrap();
            bundle.set("/linux/rootfsPropagation", "rslave");
            bundle.set("/mounts/-", bind(&source, options)).start_sleeper();
            mount(Some("none"), &below[..], Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
            fs::write(format!("{below}/late"), "").unwrap();
            let seen = bundle.exec(&["test", "-e", "/mnt/bound/below/late"]);
            assert_eq!(seen.is_ok(), appears, "{options:?}: {seen}");
            bundle.delete_force().ok();
            umount2(&below[..], MntFlags::MNT_DETACH).unwrap();
            umount2(&source[..], MntFlags::MNT_DETACH).unwrap();
            left_nothing(&bundle, &host);
        }
    }
}

#[test]
fn what_the_jail_mounts_never_reaches_the_host() {
    if !require_root() {
        return;
    }
    View::Host.enter().unwrap();
    let (mut bundle, host) = stage();
    let source = source(&bundle);
    mount(Some("none"), &source[..], Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
    mount(NONE, &source[..], NONE, MsFlags::MS_SHARED, NONE).unwrap();
    fs::create_dir(format!("{source}/below")).unwrap();
    bundle.capabilities(&["CAP_SYS_ADMIN"]);
    bundle.set("/mounts/-", bind(&source, &["rbind"])).start_sleeper();
    bundle.exec(&["mount", "-t", "tmpfs", "none", "/mnt/bound/below"]).ok();
    let places = view::mounts();
    assert!(!places.iter().any(|place| place.ends_with("/below")), "{places:?}");
    bundle.delete_force().ok();
    umount2(&source[..], MntFlags::MNT_DETACH).unwrap();
    left_nothing(&bundle, &host);
}

#[test]
fn every_mount_is_private_by_default() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let source = source(&bundle);
    bundle.set("/mounts/-", bind(&source, &["rbind"])).set("/mounts/-", tmpfs("/mnt/t", &[]));
    for mount in mounted(&mut bundle) {
        assert_eq!(mount.propagation, [""; 0], "{mount:?}");
    }
    left_nothing(&bundle, &host);
}

#[test]
fn the_root_propagates_as_it_was_asked_to() {
    if !require_root() {
        return;
    }
    // runc's root is shared only where the caller's is too.
    for (word, tag) in [("private", None), ("shared", Some("shared:")), ("unbindable", Some("unbindable"))] {
        let (mut bundle, host) = stage();
        bundle.set("/linux/rootfsPropagation", word);
        let mounts = mounted(&mut bundle);
        let root = at(&mounts, "/");
        match tag {
            None => assert_eq!(root.propagation, [""; 0], "{word}"),
            Some(tag) => assert!(root.propagation.iter().any(|seen| seen.starts_with(tag)), "{word}: {root:?}"),
        }
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_cgroup_mount_shows_the_jails_own_cgroup() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        for own_space in [true, false] {
            let (mut bundle, host) = stage_of(runtime.clone());
            if own_space {
                bundle.set("/linux/namespaces/-", json!({"type": "cgroup"}));
            }
            bundle.set(
                "/mounts/-",
                json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]}),
            );
            bundle.set(
                "/mounts/-",
                json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "ro"]}),
            );
            // The jail's own: process 1 is in it, and nothing outside is in sight.
            let text = "cd /sys/fs/cgroup; [ -d memory ] && cd memory; head -n 1 cgroup.procs; ls -d */ 2> /dev/null | wc -l; \
                        mkdir new 2> /dev/null || echo refused";
            assert_eq!(bundle.script(text), "1\n0\nrefused\n", "{own_space}");
            if own_space {
                let paths = bundle.script("cat /proc/self/cgroup");
                assert!(paths.lines().all(|line| line.ends_with(":/")), "{paths}");
            }
            left_nothing(&bundle, &host);
        }
    }
}

/// Of version 2 beside version 1 nothing is shown: a systemd inside would take it for its own.
#[test]
fn a_cgroup_mount_shows_the_hierarchies_that_runc_shows() {
    if !require_root() {
        return;
    }
    let mut seen = Vec::new();
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.full();
        seen.push(bundle.script("[ -e /sys/fs/cgroup/cgroup.procs ] || ls /sys/fs/cgroup"));
        left_nothing(&bundle, &host);
    }
    assert!(seen.iter().all(|shown| *shown == seen[0]), "{seen:?}");
}

/// What container managers ask for, side by side with runc: every mount of the same kind with the same options.
#[test]
fn the_usual_mounts_are_those_of_runc() {
    if !require_root() {
        return;
    }
    let mut seen = Vec::new();
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.full();
        // runc forgets that the last one, of type cgroup, was to be read-only.
        let asked = bundle.spec["mounts"].as_array().unwrap()[..6].to_vec();
        let mounts = mounted(&mut bundle);
        let of = |mount: &Value| {
            let found = at(&mounts, mount["destination"].as_str().unwrap());
            (found.target.clone(), found.kind.clone(), found.options.clone())
        };
        seen.push(asked.iter().map(of).collect::<Vec<_>>());
        left_nothing(&bundle, &host);
    }
    if let [own, control] = &seen[..] {
        assert_eq!(own, control);
    }
}

#[test]
fn the_places_of_mounts_are_made_and_stay_in_the_root() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        // A link of the image that leads out as the host sees it.
        std::os::unix::fs::symlink("/../../../../../usr", bundle.rootfs().join("out")).unwrap();
        bundle.set("/mounts/-", tmpfs("/out/here", &[])).set("/mounts/-", tmpfs("/mnt/../opt/./deep", &[]));
        let mounts = mounted(&mut bundle);
        assert_eq!(at(&mounts, "/usr/here").kind, "tmpfs");
        assert_eq!(at(&mounts, "/opt/deep").kind, "tmpfs");
        assert!(bundle.rootfs().join("usr/here").is_dir());
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_source_that_is_missing_names_its_mount() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.set("/mounts/-", bind("/no/such/source", &["bind"]));
        let line = bundle.create().fails();
        assert!(line.contains("/no/such/source"), "{line}");
        left_nothing(&bundle, &host);
    }
}

#[test]
fn nothing_of_the_hosts_tree_is_left_in_sight() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let word = bundle.id.clone();
        let text = bundle.args(&["cat", "/proc/self/mountinfo"]).run().ok();
        let outside: Vec<&str> =
            text.lines().filter(|line| line.split(' ').nth(4).is_some_and(|place| place.contains(&word))).collect();
        assert_eq!(outside, [""; 0]);
        left_nothing(&bundle, &host);
    }
}
