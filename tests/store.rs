//! The store: who may look into it, what strays in it, its locks, and what `list` and `cleanup` make of it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::stat::Mode;
use serde_json::{Value, json};
use tests::{
    Bundle, Done, LIMIT, code, finish, installed, is_listed_as, left_nothing, listed, require_root, running, runtimes,
    stage, stage_of, wait_for,
};

#[test]
fn only_root_looks_into_the_store() {
    if !require_root() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.full();
    bundle.root = bundle.dir.join("new/store");
    bundle.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}));
    bundle.args(&["sleep", "1000"]).create().ok();
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&bundle.root), 0o700);
    for entry in fs::read_dir(&bundle.root).unwrap().flatten() {
        assert_eq!(mode(&entry.path()) & 0o077, 0, "{}", entry.path().display());
        for file in fs::read_dir(entry.path()).unwrap().flatten() {
            let kind = file.file_type().unwrap();
            assert!(
                kind.is_socket() || mode(&file.path()) & 0o022 == 0,
                "{} {:o}",
                file.path().display(),
                mode(&file.path())
            );
        }
    }
    bundle.delete_force().ok();
}

fn parsed(done: Done) -> Value {
    serde_json::from_str(&done.ok()).expect("JSON")
}

#[test]
fn state_and_list_print_what_runc_prints() {
    if !require_root() || !installed("runc") {
        return;
    }
    let mut answers = Vec::new();
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.set("/annotations/org.test", "yes");
        bundle.args(&["sleep", "1000"]).create().ok();
        let (state, list) = (parsed(bundle.state()), parsed(bundle.call(&["list", "--format", "json"])));
        let pid = i64::from(bundle.pid().unwrap());
        for document in [&state, &list[0]] {
            assert_eq!(document["id"], bundle.id[..]);
            assert_eq!(document["pid"], pid);
            assert_eq!(document["bundle"], bundle.dir.to_string_lossy()[..]);
            assert_eq!(document["rootfs"], bundle.rootfs().to_string_lossy()[..]);
            assert_eq!(document["status"], "created");
            assert_eq!(document["annotations"]["org.test"], "yes");
        }
        let table = bundle.list().ok();
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines.len(), 2, "{table}");
        assert_eq!(lines[0], ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
        assert_eq!(lines[1][..3], [&bundle.id[..], &pid.to_string(), "created"]);
        assert_eq!(lines[1][5], "root");
        assert_eq!(bundle.call(&["list", "--quiet"]).ok(), format!("{}\n", bundle.id));
        bundle.start().ok();
        bundle.kill("KILL").ok();
        bundle.becomes("stopped");
        assert_eq!(parsed(bundle.state())["pid"], 0);
        assert_eq!(bundle.list().ok().lines().nth(1).map(|line| line.contains(" stopped ")), Some(true));
        bundle.delete().ok();
        left_nothing(&bundle, &host);
        let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        answers.push((keys(&state), keys(&list[0])));
    }
    assert_eq!(answers[0], answers[1], "the same keys");
}

#[test]
fn an_empty_store_and_none_at_all_list_nothing() {
    let (bundle, host) = stage();
    assert_eq!(bundle.list().ok().lines().count(), 1);
    assert_eq!(bundle.call(&["list", "--quiet"]).ok(), "");
    fs::remove_dir(&bundle.root).unwrap();
    assert_eq!(bundle.list().ok().lines().count(), 1);
    assert_eq!(bundle.call(&["list", "--format", "json"]).ok().trim(), "[]");
    assert!(!bundle.root.exists(), "list makes nothing");
    host.assert_unchanged();
}

#[test]
fn a_store_that_is_none_is_an_error_of_one_line() {
    let (mut bundle, host) = stage();
    let file = bundle.dir.join("file");
    fs::write(&file, "").unwrap();
    bundle.root = file;
    bundle.list().fails();
    bundle.delete_force().fails();
    host.assert_unchanged();
}

#[test]
fn strays_in_the_store_hide_no_jail() {
    if !require_root() {
        return;
    }
    let (bundle, host) = running();
    let secret = bundle.dir.join("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("state.json"), "{}").unwrap();
    let place = |name: &str| bundle.root.join(name);
    fs::write(place("stray-file"), "text").unwrap();
    fs::write(place("not a name"), "text").unwrap();
    fs::create_dir(place("stray-folder")).unwrap();
    fs::create_dir(place("not a name either")).unwrap();
    symlink(&secret, place("stray-link")).unwrap();
    symlink("/no/such/place", place("stray-nowhere")).unwrap();
    nix::unistd::mkfifo(&place("stray-fifo"), Mode::S_IRWXU).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(place("stray-socket")).unwrap();
    let mut expected = BTreeMap::from([(bundle.id.clone(), "running".to_string())]);
    let strays = ["stray-file", "stray-folder", "stray-link", "stray-nowhere", "stray-fifo", "stray-socket"];
    expected.extend(strays.map(|name| (name.to_string(), "broken".to_string())));
    assert_eq!(listed(&bundle), expected);
    for name in strays {
        assert!(!bundle.call(&["delete", name]).is_ok(), "{name}");
        assert!(!bundle.call(&["create", "--bundle", &bundle.dir.to_string_lossy(), name]).is_ok(), "{name}");
        bundle.call(&["delete", "--force", name]).ok();
        assert!(place(name).symlink_metadata().is_err(), "{name}");
    }
    assert_eq!(fs::read_to_string(secret.join("state.json")).unwrap(), "{}", "a link was followed");
    drop(socket);
    assert_eq!(bundle.status().as_deref(), Some("running"));
    bundle.delete_force().ok();
    host.assert_unchanged();
}

/// `finish` and the limits of the harness are what every "never hangs" rests on.
#[test]
fn no_verb_waits_for_a_lock_for_ever() {
    if !require_root() {
        return;
    }
    let (bundle, host) = running();
    let folder = fs::File::open(bundle.root.join(&bundle.id)).unwrap();
    let lock =
        nix::fcntl::Flock::lock(folder, nix::fcntl::FlockArg::LockExclusive).map_err(|(_, errno)| errno).unwrap();
    is_listed_as(&bundle, "running");
    bundle.exec(&["true"]).ok();
    bundle.kill("CONT").ok();
    let mut delete = bundle.command(&["delete", "--force", &bundle.id]);
    assert!(finish(&mut delete, LIMIT * 2).fails().contains("another verb"));
    drop(lock);
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

#[test]
fn cleanup_leaves_what_is_not_broken() {
    if !require_root() {
        return;
    }
    let (bundle, host) = running();
    let in_same_store = || {
        let mut other = Bundle::new();
        other.root.clone_from(&bundle.root);
        other.args(&["sleep", "1000"]).create().ok();
        other
    };
    let (created, stopped, broken) = (in_same_store(), in_same_store(), in_same_store());
    stopped.kill("KILL").ok();
    stopped.becomes("stopped");
    fs::remove_file(broken.entry("state.json")).unwrap();
    fs::write(bundle.root.join("stray"), "").unwrap();
    let mut said: Vec<String> = bundle.call(&["cleanup"]).ok().lines().map(str::to_string).collect();
    said.sort();
    assert_eq!(said, [broken.id.clone(), "stray".to_string()]);
    let left = [(&bundle, "running"), (&created, "created"), (&stopped, "stopped")];
    let left = BTreeMap::from(left.map(|(jail, status)| (jail.id.clone(), status.to_string())));
    assert_eq!(listed(&bundle), left);
    assert_eq!(bundle.call(&["cleanup"]).ok(), "");
    for jail in [&created, &stopped, &bundle] {
        jail.delete_force().ok();
    }
    left_nothing(&bundle, &host);
}

#[test]
fn cleanup_leaves_a_jail_that_is_being_made() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let begun = bundle.dir.join("begun");
    let script = format!(": > {0}; while [ -e {0} ]; do sleep 0.02; done", begun.display());
    bundle.set("/hooks/createRuntime", json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]));
    let mut create = bundle.args(&["sleep", "1000"]).making("create", &[]);
    let mut create = create.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the hook", || begun.exists());
    is_listed_as(&bundle, "creating");
    assert_eq!(bundle.call(&["cleanup"]).ok(), "");
    fs::remove_file(begun).unwrap();
    assert_eq!(code(&mut create), Some(0));
    is_listed_as(&bundle, "created");
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

/// In the first moment of a create there is a folder without a state, and that is nothing to mend.
#[test]
fn cleanup_never_takes_a_jail_that_was_just_made() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.args(&["sleep", "1000"]);
    let done = AtomicBool::new(false);
    let made: Vec<_> = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    bundle.call(&["cleanup"]);
                }
            });
        }
        let made = (0..40).map(|_| (bundle.create(), bundle.state(), bundle.delete_force())).collect();
        done.store(true, Ordering::Relaxed);
        made
    });
    for (create, state, delete) in made {
        create.ok();
        assert!(state.ok().contains("\"created\""));
        delete.ok();
    }
    left_nothing(&bundle, &host);
}

#[test]
fn cleanup_of_no_store_makes_none() {
    let (bundle, host) = stage();
    fs::remove_dir(&bundle.root).unwrap();
    assert_eq!(bundle.call(&["cleanup"]).ok(), "");
    assert!(!bundle.root.exists());
    host.assert_unchanged();
}
