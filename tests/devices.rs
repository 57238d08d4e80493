//! The devices of a jail: those that every program expects, those that are asked for, and the rules for them.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;
use tests::{left_nothing, require_root, runtimes, stage, stage_of};

#[test]
fn the_devices_and_links_that_every_program_expects_are_there() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let text = "cd /dev; stat -c '%n %F %t:%T %a %u:%g' null zero full random urandom tty; \
                    for l in fd stdin stdout stderr ptmx; do echo $l $(readlink $l); done; \
                    head -c 3 zero | wc -c; echo x > null; echo x > full || echo full; head -c 4 urandom | wc -c";
        let devices: String =
            [("null", "1:3"), ("zero", "1:5"), ("full", "1:7"), ("random", "1:8"), ("urandom", "1:9"), ("tty", "5:0")]
                .map(|(name, number)| format!("{name} character special file {number} 666 0:0\n"))
                .concat();
        let links =
            "fd /proc/self/fd\nstdin /proc/self/fd/0\nstdout /proc/self/fd/1\nstderr /proc/self/fd/2\nptmx pts/ptmx\n";
        assert_eq!(bundle.script(text), format!("{devices}{links}3\nfull\n4\n"));
        left_nothing(&bundle, &host);
    }
}

#[test]
fn a_device_is_made_as_it_was_asked_for() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.set(
            "/linux/devices",
            json!([
                {"path": "/dev/deep/null2", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 7, "gid": 8},
                {"path": "/dev/disk", "type": "b", "major": 7, "minor": 0, "fileMode": 0o600},
                {"path": "/dev/pipe", "type": "p", "fileMode": 0o622}
            ]),
        );
        let text = "cd /dev; stat -c '%n %F %t:%T %a %u:%g' deep/null2 disk pipe";
        let seen = "deep/null2 character special file 1:3 640 7:8\ndisk block special file 7:0 600 0:0\npipe fifo 0:0 622 0:0\n";
        assert_eq!(bundle.script(text), seen);
        left_nothing(&bundle, &host);
    }
}

/// A name that is there and is something else must not be taken for the device, nor be replaced by it.
#[test]
fn a_device_in_the_place_of_something_else_is_refused() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    for (place, path) in [("etc/passwd", "/etc/passwd"), ("usr", "/usr")] {
        bundle.set("/linux/devices", json!([{"path": path, "type": "c", "major": 1, "minor": 3}]));
        let before = fs::metadata(bundle.rootfs().join(place)).unwrap();
        let line = bundle.create().fails();
        assert!(line.contains(path), "{line}");
        let after = fs::metadata(bundle.rootfs().join(place)).unwrap();
        assert_eq!(
            (after.file_type(), after.len(), after.permissions().mode()),
            (before.file_type(), before.len(), before.permissions().mode())
        );
        left_nothing(&bundle, &host);
    }
}

/// Where the image brings its own /dev, the host's files must not be what is looked at.
#[test]
fn a_root_without_a_dev_of_its_own_gets_the_devices_too() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.remove("/mounts/1");
    for _ in 0..2 {
        // The second time they are there already.
        assert_eq!(bundle.script("stat -c '%t:%T' /dev/null; echo x > /dev/null"), "1:3\n");
    }
    left_nothing(&bundle, &host);
}

#[test]
fn device_rules_let_in_what_is_allowed_and_nothing_else() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        // Random numbers under another name: a device that is no default one would need a driver.
        bundle.set("/linux/devices", json!([{"path": "/dev/kmsg2", "type": "c", "major": 1, "minor": 11}]));
        let deny = json!({"allow": false, "access": "rwm"});
        let text = "echo x > /dev/null && echo null; head -c 1 /dev/zero | wc -c; (: < /dev/kmsg2) 2> /dev/null && echo opened; true";
        bundle.capabilities(&["CAP_SYSLOG"]);
        bundle.set("/linux/resources", json!({"devices": [deny]}));
        assert_eq!(bundle.script(text), "null\n1\n");
        let allow = json!({"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"});
        bundle.set("/linux/resources", json!({"devices": [deny, allow]}));
        assert_eq!(bundle.script(text), "null\n1\nopened\n");
        left_nothing(&bundle, &host);
    }
}
