//! `tmpcopyup`: a tmpfs that begins with what is in the directory that it covers, and no way out of the image by it.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::json;
use tests::spec::tmpfs;
use tests::{Bundle, left_nothing, require_root, runtimes, stage, stage_of, walk};

/// A directory of the image that a tmpfs is to cover.
fn covered(bundle: &Bundle) -> PathBuf {
    let path = bundle.rootfs().join("mnt");
    fs::create_dir(&path).unwrap();
    path
}

fn fifo(path: &Path) {
    mknod(path, SFlag::S_IFIFO, Mode::from_bits_truncate(0o622), 0).unwrap();
}

#[test]
fn what_is_in_the_directory_is_in_the_tmpfs_and_stays_as_it_was_beneath() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let mnt = covered(&bundle);
        fs::create_dir_all(mnt.join("a/b")).unwrap();
        fs::write(mnt.join("a/b/file"), "beneath\n").unwrap();
        symlink("a/b/file", mnt.join("link")).unwrap();
        bundle.set("/mounts/-", tmpfs("/mnt", &["tmpcopyup", "size=4m"]));
        let look = "cd /mnt; cat a/b/file link; readlink link; echo new > a/b/file; rm link; ls; df /mnt | tail -n 1 | { read a b c; echo $b; }";
        assert_eq!(bundle.script(look), "beneath\nbeneath\na/b/file\na\n4096\n");
        assert_eq!(fs::read_to_string(mnt.join("link")).unwrap(), "beneath\n");
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_copy_has_the_owner_mode_times_and_attributes_of_its_source() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let mnt = covered(&bundle);
    fs::create_dir(mnt.join("dir")).unwrap();
    fs::write(mnt.join("dir/file"), "x").unwrap();
    symlink("nowhere", mnt.join("dir/link")).unwrap();
    for (path, mode) in [("dir/file", 0o4751), ("dir", 0o2770)] {
        let path = mnt.join(path);
        chown(&path, Some(5), Some(6)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    std::os::unix::fs::lchown(mnt.join("dir/link"), Some(7), Some(8)).unwrap();
    mknod(&mnt.join("dir/null"), SFlag::S_IFCHR, Mode::empty(), makedev(1, 3)).unwrap();
    fs::set_permissions(mnt.join("dir/null"), fs::Permissions::from_mode(0o640)).unwrap();
    fifo(&mnt.join("dir/fifo"));
    let mut touch = Command::new("touch");
    touch.args(["-h", "-d", "2001-02-03T04:05:06.123456789Z", "dir/file", "dir/link", "dir"]);
    assert!(touch.current_dir(&mnt).status().unwrap().success());
    chown(&mnt, Some(9), Some(10)).unwrap();
    fs::set_permissions(&mnt, fs::Permissions::from_mode(0o1750)).unwrap();
    bundle.set("/mounts/-", tmpfs("/mnt", &["tmpcopyup"])).start_sleeper();
    // The whole of it is compared from outside, by the root of the process.
    let copy = PathBuf::from(format!("/proc/{}/root/mnt", bundle.pid().unwrap()));
    for path in ["", "dir", "dir/file", "dir/link", "dir/null", "dir/fifo"] {
        let (is, was) = [&copy, &mnt].map(|at| fs::symlink_metadata(at.join(path)).unwrap()).into();
        assert_eq!(
            (is.mode(), is.uid(), is.gid(), is.rdev()),
            (was.mode(), was.uid(), was.gid(), was.rdev()),
            "{path}"
        );
        assert_eq!((is.mtime(), is.mtime_nsec()), (was.mtime(), was.mtime_nsec()), "{path}");
    }
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

#[test]
fn in_a_user_name_space_the_owners_are_those_of_the_jail_or_the_file_is_named() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let mnt = covered(&bundle);
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
    bundle.set("/linux/namespaces/-", json!({"type": "user"}));
    bundle.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    for (path, owner) in [("", 100_000), ("dir", 100_005), ("dir/file", 100_007)] {
        match path {
            "dir" => fs::create_dir(mnt.join(path)).unwrap(),
            "dir/file" => fs::write(mnt.join(path), "").unwrap(),
            _ => (),
        }
        chown(mnt.join(path), Some(owner), Some(owner)).unwrap();
    }
    bundle.set("/mounts/-", tmpfs("/mnt", &["tmpcopyup"]));
    assert_eq!(
        bundle.script("stat -c '%n %u %g' /mnt /mnt/dir /mnt/dir/file"),
        "/mnt 0 0\n/mnt/dir 5 5\n/mnt/dir/file 7 7\n"
    );
    chown(mnt.join("dir/file"), Some(1), Some(1)).unwrap();
    let line = bundle.create().fails();
    assert!(line.contains("cannot copy dir/file up: its owner or group is nobody"), "{line}");
    chown(mnt.join("dir/file"), Some(100_000), Some(100_000)).unwrap();
    mknod(&mnt.join("dir/null"), SFlag::S_IFCHR, Mode::empty(), makedev(1, 3)).unwrap();
    let line = bundle.create().fails();
    assert!(line.contains("cannot copy dir/null up: the jail may make no such file"), "{line}");
    left_nothing(&bundle, &host);
}

#[test]
fn an_owner_and_a_mode_that_are_asked_for_win() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let mnt = covered(&bundle);
    chown(&mnt, Some(9), Some(10)).unwrap();
    fs::set_permissions(&mnt, fs::Permissions::from_mode(0o750)).unwrap();
    bundle.set("/mounts/-", tmpfs("/mnt", &["tmpcopyup", "mode=711", "uid=3"]));
    assert_eq!(bundle.script("stat -c '%a %u %g' /mnt"), "711 3 0\n");
    left_nothing(&bundle, &host);
}

/// As runc has it: without `mode=` a tmpfs is as open as the directory that it covers.
#[test]
fn a_tmpfs_without_a_mode_takes_that_of_its_place() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        fs::set_permissions(covered(&bundle), fs::Permissions::from_mode(0o750)).unwrap();
        bundle.set("/mounts/-", tmpfs("/mnt", &[])).set("/mounts/-", tmpfs("/nowhere", &[]));
        assert_eq!(bundle.script("stat -c '%a' /mnt /nowhere"), "750\n1777\n");
        left_nothing(&bundle, &host);
    }
}

#[test]
fn nothing_of_the_host_comes_along_by_a_link_of_the_image() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let secret = bundle.sentinel();
    let mnt = covered(&bundle);
    // A link at the mount point leads to another place of the image, those in the directory to nothing.
    symlink("../../../../../../../../etc", bundle.rootfs().join("out")).unwrap();
    symlink(&secret, mnt.join("absolute")).unwrap();
    symlink("../../sentinel", mnt.join("relative")).unwrap();
    symlink("/proc/self/root", mnt.join("magic")).unwrap();
    bundle.set("/mounts/-", tmpfs("/out", &["tmpcopyup"])).set("/mounts/-", tmpfs("/mnt", &["tmpcopyup"]));
    let look = "ls /etc; cd /mnt; readlink absolute; readlink relative; find / -name file | grep -v ^/proc | wc -l";
    assert_eq!(bundle.script(look), format!("group\npasswd\n{}\n../../sentinel\n0\n", secret.display()));
    // What would be outside is not there, and is not made.
    symlink(&secret, bundle.rootfs().join("far")).unwrap();
    let line = bundle.set("/mounts/-", tmpfs("/far", &["tmpcopyup"])).create().fails();
    assert!(line.contains("make directory /far in the root"), "{line}");
    assert_eq!(fs::read_to_string(secret.join("file")).unwrap(), "of the host");
    left_nothing(&bundle, &host);
}

#[test]
fn what_is_mounted_below_is_not_copied() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let secret = bundle.sentinel().to_string_lossy().into_owned();
    fs::create_dir(covered(&bundle).join("below")).unwrap();
    fs::write(bundle.rootfs().join("mnt/own"), "").unwrap();
    bundle
        .set("/mounts/-", json!({"destination": "/mnt/below", "type": "bind", "source": secret, "options": ["bind"]}));
    bundle.set(
        "/mounts/-",
        json!({"destination": "/mnt/own", "type": "bind", "source": format!("{secret}/file"), "options": ["bind"]}),
    );
    bundle.set("/mounts/-", tmpfs("/mnt", &["tmpcopyup"]));
    assert_eq!(bundle.script("cd /mnt; ls; ls below | wc -l; cat own"), "below\nown\n0\n");
    left_nothing(&bundle, &host);
}

#[test]
fn fifos_and_sockets_are_made_anew_and_block_nobody() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let mnt = covered(&bundle);
    fifo(&mnt.join("fifo"));
    let socket = std::os::unix::net::UnixListener::bind(mnt.join("socket")).unwrap();
    bundle.set("/mounts/-", tmpfs("/mnt", &["tmpcopyup"]));
    assert_eq!(bundle.script("cd /mnt; test -p fifo && test -S socket && echo both"), "both\n");
    assert!(fs::symlink_metadata(mnt.join("fifo")).unwrap().file_type().is_fifo());
    socket.set_nonblocking(true).unwrap();
    assert!(socket.accept().is_err(), "somebody has connected to it");
    drop(socket);
    left_nothing(&bundle, &host);
}

#[test]
fn names_of_any_length_and_directories_of_any_depth_are_copied() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let mnt = covered(&bundle);
    let long = "n".repeat(255);
    fs::write(mnt.join(&long), "").unwrap();
    fs::write(mnt.join(std::ffi::OsStr::from_bytes(b"\xff\n\x1b[2J")), "").unwrap();
    // Deeper than a path can be long, and than descriptors can be open.
    let depth = 1500;
    let script =
        format!("chdir $ARGV[0]; for (1..{depth}) {{ mkdir 'dddd' and chdir 'dddd' or die $! }}; open F, '>leaf'");
    assert!(Command::new("perl").args(["-e", &script]).arg(&mnt).status().unwrap().success());
    bundle.set("/mounts/-", tmpfs("/mnt", &["tmpcopyup"]));
    // The directory itself, two files, the way down, and the file at its end.
    let look = format!(
        "ls /mnt | wc -l; test -e /mnt/{long} && echo long; df -i /mnt | tail -n 1 | {{ read a b c d; echo $c; }}"
    );
    assert_eq!(bundle.script(&look), format!("3\nlong\n{}\n", 1 + 2 + depth + 1));
    assert!(Command::new("rm").arg("-rf").arg(mnt.join("dddd")).status().unwrap().success());
    left_nothing(&bundle, &host);
}

#[test]
fn a_hole_takes_no_memory_and_what_does_not_fit_is_named() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let mnt = covered(&bundle);
    let sparse = fs::File::create(mnt.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 1 << 34).unwrap();
    bundle.set("/mounts/-", tmpfs("/mnt", &["tmpcopyup", "size=1m"]));
    assert_eq!(bundle.script("stat -c %s /mnt/sparse; tail -c 3 /mnt/sparse"), format!("{}\nend", (1_u64 << 34) + 3));
    fs::create_dir(mnt.join("dir")).unwrap();
    fs::write(mnt.join("dir/large"), vec![1; 2 << 20]).unwrap();
    let line = bundle.create().fails();
    assert!(line.contains("mount tmpfs on /mnt: cannot copy dir/large up: the tmpfs is full"), "{line}");
    assert!(line.contains("size="), "{line}");
    left_nothing(&bundle, &host);
}

/// Another jail on the same root, or whoever may write there, moves what is being copied.
#[test]
fn a_tree_that_changes_while_it_is_copied_leads_nowhere() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let secret = bundle.sentinel();
    let mnt = covered(&bundle);
    for index in 0..200 {
        fs::create_dir_all(mnt.join(format!("{index}/x/y"))).unwrap();
    }
    fs::create_dir(bundle.rootfs().join("aside")).unwrap();
    // Directories turn into links to the host and back, and are moved up, all the time.
    let script = "while :; do for i in $(seq 0 40); do mv $i/x ../aside/$i; ln -s $0 $i/x; rm $i/x; mkfifo $i/x; rm $i/x; mv ../aside/$i $i/x; done; done 2> /dev/null";
    let mut changer =
        Command::new("/bin/busybox").args(["sh", "-c", script]).arg(&secret).current_dir(&mnt).spawn().unwrap();
    bundle.set("/mounts/-", tmpfs("/mnt", &["tmpcopyup"]));
    let mut copied = 0;
    for _ in 0..15 {
        let done = bundle.args(&["sh", "-c", "find /mnt -name file | wc -l"]).run();
        assert!(!done.hung());
        match done.is_ok() {
            true => assert_eq!(done.out, "0\n"),
            false => assert!(done.err.contains("mount tmpfs on /mnt: cannot copy"), "{done}"),
        }
        copied += u32::from(done.is_ok());
    }
    changer.kill().unwrap();
    changer.wait().unwrap();
    println!("copied {copied} times of 15");
    assert_eq!(fs::read_to_string(secret.join("file")).unwrap(), "of the host");
    left_nothing(&bundle, &host);
}

#[test]
fn a_tree_of_thousands_of_files_is_copied_whole() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let mnt = covered(&bundle);
    for index in 0..50 {
        fs::create_dir(mnt.join(index.to_string())).unwrap();
        for file in 0..40 {
            fs::write(mnt.join(format!("{index}/{file}")), index.to_string()).unwrap();
        }
    }
    bundle.set("/mounts/-", tmpfs("/mnt", &["tmpcopyup"])).start_sleeper();
    let copy = PathBuf::from(format!("/proc/{}/root/mnt", bundle.pid().unwrap()));
    assert_eq!(walk(&copy).len(), walk(&mnt).len());
    assert_eq!(fs::read_to_string(copy.join("33/39")).unwrap(), "33");
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

#[test]
fn only_a_tmpfs_copies_up() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    for mount in [
        json!({"destination": "/mnt", "type": "bind", "source": "/etc", "options": ["bind", "tmpcopyup"]}),
        json!({"destination": "/mnt", "type": "mqueue", "source": "mqueue", "options": ["tmpcopyup"]}),
    ] {
        let line = bundle.set("/mounts/-", mount).create().fails();
        assert!(line.contains("/options \"tmpcopyup\": only a tmpfs can have it"), "{line}");
        bundle.spec["mounts"].as_array_mut().unwrap().pop();
    }
    left_nothing(&bundle, &host);
}
