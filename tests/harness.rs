//! The harness itself: it must see what it is there to see, or every green test is worth nothing.

use std::process::Command;
use std::time::Duration;

use nix::mount::MsFlags;
use tests::trace::{self, Act, Follow};
use tests::view::{self, View};
use tests::{Bundle, Host, Runtime, finish, installed, require_root, unique};

#[test]
fn a_cgroup_left_behind_is_reported_by_name() {
    if !require_root() {
        return;
    }
    let word = unique();
    let host = Host::snapshot(&word, &[]);
    let folder = view::cgroups("/sys/fs/cgroup").into_iter().find(|path| path.join("cgroup.procs").exists());
    std::fs::create_dir(folder.expect("a hierarchy").join(&word)).unwrap();
    let leaked = host.leaked();
    assert!(view::remove_cgroups(&word).is_empty());
    assert!(leaked.len() == 1 && leaked[0].starts_with("cgroup ") && leaked[0].ends_with(&word), "{leaked:?}");
    host.assert_unchanged();
}

#[test]
fn a_mount_and_a_file_left_behind_are_reported_by_name() {
    if !require_root() {
        return;
    }
    View::Host.enter().unwrap();
    let word = unique();
    let folder = std::env::temp_dir().join(&word);
    std::fs::create_dir(&folder).unwrap();
    let host = Host::snapshot(&word, &[&folder]);
    let none = None::<&str>;
    nix::mount::mount(Some("none"), &folder, Some("tmpfs"), MsFlags::empty(), none).unwrap();
    std::fs::write(folder.join("left"), "").unwrap();
    let leaked = host.leaked();
    nix::mount::umount(&folder).unwrap();
    host.assert_unchanged();
    std::fs::remove_dir(&folder).unwrap();
    assert!(leaked.iter().any(|what| what.starts_with("mount ")), "{leaked:?}");
    assert!(leaked.iter().any(|what| what.starts_with("file ") && what.ends_with("/left")), "{leaked:?}");
}

#[test]
fn a_process_left_behind_is_reported_by_name() {
    let word = unique();
    let host = Host::snapshot(&word, &[]);
    let mut child = Command::new("sleep").arg("1000").env("WORD", &word).spawn().unwrap();
    let leaked = host.leaked();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(leaked.iter().any(|what| what.ends_with("(sleep 1000)")), "{leaked:?}");
}

#[test]
fn a_command_that_hangs_is_ended() {
    let done = finish(Command::new("sleep").arg("1000"), Duration::from_millis(50));
    assert!(done.hung(), "{done}");
}

#[test]
fn what_hangs_under_the_tracer_is_ended_too() {
    let traced =
        trace::run(Command::new("sleep").arg("1000"), Follow::All, None, Duration::from_millis(200), &mut |_| Act::Go);
    assert!(traced.done.hung(), "{}", traced.done);
}

#[test]
fn an_injected_error_is_what_the_call_returns() {
    let mut opened = |call: &trace::Call| match trace::describe(call) {
        text if text.starts_with("open") && text.contains("/etc/passwd") => Act::Fail(libc::EMFILE),
        _ => Act::Go,
    };
    let mut cat = Command::new("/bin/busybox");
    let traced = trace::run(cat.args(["cat", "/etc/passwd"]), Follow::Main, None, tests::LIMIT, &mut opened);
    assert!(traced.done.fails().contains("Too many open files"));
}

#[test]
fn a_child_is_counted_apart_from_the_command() {
    let mut shell = Command::new("/bin/busybox");
    shell.args(["sh", "-c", "/bin/busybox true; /bin/busybox false"]);
    let traced = trace::run(&mut shell, Follow::All, None, tests::LIMIT, &mut |_| Act::Go);
    assert!(traced.done.code() == Some(1) && traced.main > 5 && traced.below > 5, "{traced:?}");
}

/// The control of every life-cycle test: what a peer can do, the harness can show.
#[test]
fn a_container_of_crun_lives_and_leaves_nothing() {
    if !require_root() || !installed("crun") {
        return;
    }
    View::V1.enter().unwrap();
    let mut bundle = Bundle::of(Runtime::of("crun"));
    let host = Host::snapshot(&bundle.id, &[&bundle.root]);
    bundle.args(&["sleep", "1000"]).create().ok();
    assert_eq!(bundle.status().as_deref(), Some("created"));
    bundle.start().ok();
    assert_eq!(bundle.exec(&["hostname"]).ok().trim(), "jail");
    assert!(bundle.pid().is_some());
    bundle.kill("KILL").ok();
    bundle.becomes("stopped");
    bundle.delete().ok();
    host.assert_unchanged();
}

/// The reason for the fault sweep: killed half-way, a peer leaves cgroups that its own `delete --force` does not find.
#[test]
fn a_crun_killed_at_its_clone_leaves_cgroups() {
    if !require_root() || !installed("crun") {
        return;
    }
    View::V1.enter().unwrap();
    let bundle = Bundle::of(Runtime::of("crun"));
    let host = Host::snapshot(&bundle.id, &[&bundle.root]);
    let mut create = bundle.making("create", &[]);
    let (mut inside, cgroups) = (false, format!("/sys/fs/cgroup/memory/jail-test-{}/cgroup.procs", bundle.id));
    trace::run(&mut create, Follow::Main, None, tests::LIMIT, &mut |call| {
        inside |= trace::describe(call).contains(&cgroups);
        if inside { Act::KillTree } else { Act::Go }
    });
    bundle.delete_force();
    assert!(inside && host.leaked().iter().any(|what| what.starts_with("cgroup ")));
}
