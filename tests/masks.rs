//! Masked paths, read-only paths and a read-only root.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};

use serde_json::json;
use tests::mountinfo::{at, mounted};
use tests::spec::tmpfs;
use tests::{Bundle, left_nothing, require_root, runtimes, stage_of};

#[test]
fn a_masked_path_is_empty_whatever_it_was() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        fs::write(bundle.rootfs().join("usr/secret"), "secret").unwrap();
        let paths = ["/etc/passwd", "/usr", "/proc/sys", "/proc/timer_list", "/proc/nosuchfile", "/no/such/path"];
        bundle.set("/linux/maskedPaths", paths.to_vec());
        let text = "wc -c < /etc/passwd; ls -A /usr /proc/sys; wc -c < /proc/timer_list; \
                    true > /usr/new || echo refused; echo x > /etc/passwd; ls /no 2> /dev/null || echo none";
        assert_eq!(bundle.script(text), "0\n/proc/sys:\n\n/usr:\n0\nrefused\nnone\n");
        assert!(fs::read_to_string(bundle.rootfs().join("etc/passwd")).unwrap().starts_with("root:"));
        left_nothing(&bundle, &host);
    }
}

/// `1:3 c` where the null device is, and the number of entries of a folder.
const SHOW_MASKS: &str = "for p in /proc/kcore /proc/keys /proc/timer_list /etc/passwd /etc/link; do \
    [ -e $p ] && stat -L -c '%n %t:%T %F' $p; done; ls /sys/firmware | wc -l; cat /proc/keys /etc/passwd /etc/link";

#[test]
fn a_mask_is_the_null_device_whatever_the_image_has_in_its_place() {
    if !require_root() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.full();
    let secret = bundle.sentinel().join("file");
    // With a /dev of the image's own: the null device in it leads elsewhere.
    bundle.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    symlink(&secret, bundle.rootfs().join("dev/null")).unwrap();
    symlink("group", bundle.rootfs().join("etc/link")).unwrap();
    let masks = ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/etc/passwd", "/etc/link"];
    bundle.set("/linux/maskedPaths", json!(masks)).set("/root/readonly", false);
    bundle.args(&["sh", "-c", SHOW_MASKS]);
    // The image's node is none: refused, not used.
    assert!(bundle.run().fails().contains("/dev/null"));
    fs::remove_file(bundle.rootfs().join("dev/null")).unwrap();
    let out = bundle.run().ok();
    let shown: Vec<&str> = out.lines().filter(|line| line.starts_with('/')).collect();
    assert!(shown.len() >= 4 && shown.iter().all(|line| line.ends_with("1:3 character special file")), "{out}");
    assert!(!out.contains("of the host") && !out.contains("root:"), "{out}");
    assert_eq!(out.lines().last().map(str::trim), Some("0"), "{out}");
}

/// The mask is a bind of the host's own node: by it, root inside must not reach the node's inode.
#[test]
fn a_mask_gives_no_hold_on_the_null_device_of_the_host() {
    if !require_root() {
        return;
    }
    let null = || {
        let data = fs::metadata("/dev/null").unwrap();
        assert!(data.file_type().is_char_device());
        (data.mode(), data.uid(), data.gid(), data.mtime())
    };
    let before = null();
    let bundle = Bundle::new();
    // The mode that it has anyway, so that a failure of this test harms nobody: what counts is whether it may be set.
    let try_all = "chmod 666 /proc/keys && echo chmod; chown 0:0 /proc/keys && echo chown; \
        touch -m /proc/keys && echo touch; echo x > /proc/keys && echo written";
    let out = bundle.friendly(&["sh", "-c", try_all]).ok();
    assert_eq!(null(), before);
    assert_eq!(out, "written\n");
}

#[test]
fn a_read_only_path_is_read_and_not_written() {
    if !require_root() {
        return;
    }
    let before = fs::read_to_string("/proc/sys/vm/swappiness").unwrap();
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.set("/linux/readonlyPaths", vec!["/proc/sys", "/etc", "/bin/busybox", "/no/such/path"]);
        let text = "echo 1 > /proc/sys/vm/swappiness || echo refused; true > /etc/new || echo refused; \
                    true > /bin/busybox || echo refused; cat /etc/passwd | head -n 1; true > /tmp/new && echo written";
        assert_eq!(bundle.script(text), "refused\nrefused\nrefused\nroot:x:0:0:root:/root:/bin/sh\nwritten\n");
        left_nothing(&bundle, &host);
    }
    assert_eq!(fs::read_to_string("/proc/sys/vm/swappiness").unwrap(), before);
}

#[test]
fn a_read_only_root_takes_no_write() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.set("/root/readonly", true).set("/mounts/-", tmpfs("/var", &[]));
        let text = "true > /new || echo refused; true > /etc/passwd || echo refused; true > /var/new && echo written";
        assert_eq!(bundle.script(text), "refused\nrefused\nwritten\n");
        assert!(at(&mounted(&mut bundle), "/").options.contains(&"ro".to_string()));
        left_nothing(&bundle, &host);
    }
}
