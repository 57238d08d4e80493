//! What a hostile image brings: links in its paths, and files that are none.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::stat::Mode;
use serde_json::json;
use tests::view::{self, View};
use tests::{Bundle, Runtime, installed, left_nothing, require_root, stage, tree};

fn make_dev_a_link(bundle: &mut Bundle) -> PathBuf {
    let host = bundle.sentinel();
    fs::remove_dir(bundle.rootfs().join("dev")).unwrap();
    symlink(&host, bundle.rootfs().join("dev")).unwrap();
    bundle.set("/mounts", json!([{"destination": "/proc", "type": "proc", "source": "proc"}]));
    host
}

#[test]
fn devices_are_not_made_where_a_link_of_the_image_leads() {
    if !require_root() {
        return;
    }
    let mut bundle = Bundle::new();
    let host = make_dev_a_link(&mut bundle);
    let before = tree(&host);
    bundle.run();
    assert_eq!(tree(&host), before);
}

#[test]
fn the_older_runc_and_crun_make_devices_where_a_link_of_the_image_leads() {
    for name in ["crun", "runc"] {
        if !require_root() || !installed(name) {
            return;
        }
        let version = Command::new(name).arg("--version").output().unwrap().stdout;
        let version = String::from_utf8_lossy(&version).into_owned();
        if !version.contains("version 1.8.1") && !version.contains("version 1.1.") {
            println!("skipped: {name} is no older one: {version}");
            continue;
        }
        View::V1.enter().unwrap();
        let mut bundle = Bundle::of(Runtime::of(name));
        let host = make_dev_a_link(&mut bundle);
        bundle.run();
        let made = fs::read_dir(&host).unwrap().count() - 1;
        assert!(made >= 5, "{name} made {made}");
    }
}

#[test]
fn a_link_in_the_place_of_a_mount_point_leads_nowhere_outside() {
    if !require_root() {
        return;
    }
    for name in ["dev", "proc", "sys", "tmp", "etc"] {
        for form in 0..4 {
            let mut bundle = Bundle::new();
            bundle.full();
            let host = bundle.sentinel();
            let target = match form {
                0 => host.clone(),
                1 => Path::new("../../../../../../..").join(host.strip_prefix("/").unwrap()),
                2 => "/proc/self/fd/3".into(),
                _ => Path::new("/proc/1/root").join(host.strip_prefix("/").unwrap()),
            };
            fs::remove_dir_all(bundle.rootfs().join(name)).unwrap();
            symlink(target, bundle.rootfs().join(name)).unwrap();
            for place in ["/tmp/new", "/etc/sub/folder"] {
                bundle.set("/mounts/-", json!({"destination": place, "type": "tmpfs", "source": "none"}));
            }
            let before = tree(&host);
            let done = bundle.run();
            assert!(!done.hung(), "{name} {form}: {done}");
            assert_eq!(tree(&host), before, "{name} {form}");
            if matches!(name, "proc" | "sys") {
                assert!(done.fails().contains("it is a link"), "{name} {form}");
            }
        }
    }
}

/// The race of CVE-2021-30465: between the look at a mount's target and the mount, the target becomes a link.
#[test]
fn a_racer_on_mount_destinations_reaches_nothing_of_the_host() {
    if !require_root() {
        return;
    }
    View::Host.enter().unwrap();
    let mut bundle = Bundle::new();
    let host = bundle.sentinel();
    fs::create_dir(host.join("below")).unwrap();
    let rootfs = bundle.rootfs();
    fs::create_dir_all(rootfs.join("a/below")).unwrap();
    fs::write(rootfs.join("a/file"), "").unwrap();
    symlink(&host, rootfs.join("b")).unwrap();
    let source = bundle.dir.join("source");
    fs::create_dir(&source).unwrap();
    for mount in [
        json!({"destination": "/a/below", "type": "tmpfs", "source": "none"}),
        json!({"destination": "/a/below/deep/new", "type": "bind", "source": source, "options": ["bind"]}),
        json!({"destination": "/a/new", "type": "bind", "source": source, "options": ["bind"]}),
    ] {
        bundle.set("/mounts/-", mount);
    }
    bundle.set("/linux/maskedPaths", json!(["/a/file"])).set("/linux/readonlyPaths", json!(["/a/below"]));
    bundle.set("/linux/devices", json!([{"path": "/a/null", "type": "c", "major": 1, "minor": 3}]));
    let before = (tree(&host), view::mounts());
    let over = AtomicBool::new(false);
    let (mut made, mut swaps) = (0, 0_u64);
    std::thread::scope(|scope| {
        let racer = scope.spawn(|| {
            let mut swaps = 0;
            while !over.load(Ordering::Relaxed) {
                let exchanged =
                    renameat2(AT_FDCWD, &rootfs.join("a"), AT_FDCWD, &rootfs.join("b"), RenameFlags::RENAME_EXCHANGE);
                swaps += u64::from(exchanged.is_ok());
            }
            swaps
        });
        for _ in 0..200 {
            let done = bundle.run();
            made += usize::from(done.is_ok());
            if done.hung() || tree(&host) != before.0 || view::mounts() != before.1 {
                over.store(true, Ordering::Relaxed);
                panic!("{done}\n{:#?}", tree(&host));
            }
        }
        over.store(true, Ordering::Relaxed);
        swaps = racer.join().unwrap();
    });
    println!("{made} of 200 were made during {swaps} swaps");
    assert!(swaps > 1000 && view::cgroups(&bundle.id).is_empty());
}

/// Containers have come with a device, a link or a gigabyte in its place.
#[test]
fn a_passwd_that_is_none_gives_no_home_and_no_hang() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let passwd = bundle.rootfs().join("etc/passwd");
    bundle.args(&["sh", "-c", "echo $HOME"]);
    fs::remove_file(&passwd).unwrap();
    assert_eq!(bundle.run().ok(), "/\n");
    nix::unistd::mkfifo(&passwd, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(bundle.run().ok(), "/\n");
    fs::remove_file(&passwd).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &passwd).unwrap();
    assert_eq!(bundle.run().ok(), "/\n");
    fs::remove_file(&passwd).unwrap();
    // A million users without an end of line; the one that is asked for stands behind what is read.
    let mut long = "x".repeat(64 << 20);
    long.push_str("\nroot:x:0:0::/late:/bin/sh\n");
    fs::write(&passwd, long).unwrap();
    assert_eq!(bundle.run().ok(), "/\n");
    left_nothing(&bundle, &host);
}

#[test]
fn a_passwd_of_the_image_that_blocks_or_is_huge_holds_nothing_up() {
    if !require_root() {
        return;
    }
    for kind in 0..4 {
        let mut bundle = Bundle::new();
        let passwd = bundle.rootfs().join("etc/passwd");
        fs::remove_file(&passwd).unwrap();
        match kind {
            0 => nix::unistd::mkfifo(&passwd, Mode::S_IRWXU).unwrap(),
            1 => fs::File::create(&passwd).unwrap().set_len(1 << 40).unwrap(),
            2 => symlink("/proc/self/fd/0", &passwd).unwrap(),
            _ => symlink("/dev/zero", &passwd).unwrap(),
        }
        let begin = Instant::now();
        assert_eq!(bundle.args(&["sh", "-c", "echo $HOME"]).run().ok(), "/\n", "{kind}");
        assert!(begin.elapsed() < Duration::from_secs(5));
    }
}
