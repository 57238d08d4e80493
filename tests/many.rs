//! What a long life leaves: the same verb a thousand times, and an image that wants to keep `exec` busy.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use serde_json::json;
use tests::{Bundle, left_nothing, require_root, stage, tree, view};

/// What a verb could leave behind that counts: cgroups, and zombies and descriptors of process 1 of the jail.
fn counts(bundle: &Bundle) -> (usize, usize, usize) {
    let pid = bundle.pid().unwrap();
    let stats = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let (_, rest) = stat.rsplit_once(") ")?;
        let mut words = rest.split(' ');
        let state = words.next()?.to_owned();
        Some((state, words.next()?.parse::<i32>().ok()?))
    });
    let zombies = stats.filter(|(state, parent)| state == "Z" && *parent == pid);
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    (view::cgroups(&bundle.id).len(), zombies.count(), fds)
}

#[test]
fn a_thousand_execs_in_a_row_leave_nothing() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.start_sleeper();
    bundle.exec(&["true"]).ok();
    let (before, store) = (counts(&bundle), tree(&bundle.root));
    for _ in 0..1000 {
        let status = bundle.command(&["exec", &bundle.id, "true"]).status().unwrap();
        assert!(status.success(), "{status}");
    }
    assert_eq!((counts(&bundle), tree(&bundle.root)), (before, store));
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

/// Whose home directory `HOME` is comes from a file of the image, which may be anything.
#[test]
fn no_file_of_the_image_keeps_an_exec_busy() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.set("/process/env", json!(["PATH=/bin"])).start_sleeper();
    let home = |bundle: &Bundle| {
        let begin = Instant::now();
        let out = bundle.exec(&["sh", "-c", "echo $HOME"]).ok();
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
        out.trim().to_owned()
    };
    assert_eq!(home(&bundle), "/root");
    let files = ["etc/passwd", "etc/group"].map(|name| bundle.rootfs().join(name));
    type Make<'a> = &'a dyn Fn(&Path);
    let make: [(&str, Make<'_>); 6] = [
        ("a FIFO", &|path| nix::unistd::mkfifo(path, Mode::S_IRWXU).unwrap()),
        ("a link to a terminal that never speaks", &|path| std::os::unix::fs::symlink("/dev/ptmx", path).unwrap()),
        ("an endless device", &|path| std::os::unix::fs::symlink("/dev/zero", path).unwrap()),
        ("a link to itself", &|path| std::os::unix::fs::symlink(path.file_name().unwrap(), path).unwrap()),
        ("a folder", &|path| fs::create_dir(path).unwrap()),
        ("a file of a terabyte, whose last line would fit", &|path| {
            let mut file = fs::File::create(path).unwrap();
            file.set_len(1 << 40).unwrap();
            std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).unwrap();
            writeln!(file, "\nroot:x:0:0::/of-the-end:/bin/sh").unwrap();
        }),
    ];
    for (what, make) in make {
        for file in &files {
            let gone = fs::remove_file(file).or_else(|_| fs::remove_dir(file));
            assert!(gone.is_ok(), "{what}");
            make(file);
        }
        assert_eq!(home(&bundle), "/", "{what}");
    }
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

/// After the machine's reboot the store of a runtime is usually gone, but a caller's `--root` may be on a disk.
#[test]
fn a_jail_of_another_boot_is_stopped_and_can_be_deleted() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.start_sleeper();
    let kept = bundle.dir.join("kept");
    assert!(Command::new("cp").arg("-a").arg(bundle.root.join(&bundle.id)).arg(&kept).status().unwrap().success());
    bundle.delete_force().ok();
    for force in [false, true] {
        assert!(Command::new("cp").arg("-a").arg(&kept).arg(bundle.root.join(&bundle.id)).status().unwrap().success());
        let state = bundle.entry("state.json");
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let other = "00000000-1111-2222-3333-444444444444";
        let text = fs::read_to_string(&state).unwrap().replace(boot.trim(), other);
        assert!(text.contains(other));
        fs::write(&state, text).unwrap();
        assert_eq!((bundle.status().as_deref(), bundle.pid()), (Some("stopped"), None));
        assert!(bundle.kill("KILL").fails().contains("container not running"));
        let done = if force { bundle.delete_force() } else { bundle.delete() };
        done.ok();
        left_nothing(&bundle, &host);
    }
}
