//! What of the caller does not come in: its descriptors, variables, groups and keys.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::json;
use tests::processes::field;
use tests::{Bundle, LIMIT, finish, jail, left_nothing, require_root, stage};

#[test]
fn no_descriptor_and_no_variable_of_the_caller_comes_in() {
    if !require_root() {
        return;
    }
    let show = ["sh", "-c", "cd /proc/self/fd; echo *; ls -l /proc/1/fd; env; tr '\\0' '\\n' < /proc/1/environ"];
    let mut bundle = Bundle::new();
    bundle.args(&show).write();
    let dir = bundle.dir.to_string_lossy().into_owned();
    let run = bundle.careless(&["run", "--bundle", &dir, &bundle.id]).ok();
    bundle.args(&["sleep", "1000"]).write();
    bundle.careless(&["create", "--bundle", &dir, &bundle.id]).ok();
    bundle.careless(&["start", &bundle.id]).ok();
    let exec = bundle.careless(&[&["exec", bundle.id.as_str()][..], &show].concat()).ok();
    let friend = Bundle::new();
    let friend = friend.careless(&[&["run", friend.id.as_str(), "--"][..], &show].concat()).ok();
    for out in [run, exec, friend] {
        let fds = out.lines().next().unwrap();
        // The shell has the folder open while it looks.
        assert!(matches!(fds, "0 1 2" | "0 1 2 3"), "{out}");
        let first = out.lines().filter(|line| line.contains(" -> "));
        assert!(first.clone().count() == 3 || first.count() == 0, "{out}");
        assert!(!out.contains("OF_THE_HOST") && !out.contains("_JAIL"), "{out}");
    }
}

/// CVE-2025-23266: LD_PRELOAD of the image reached a hook on the host.
#[test]
fn a_hook_has_its_own_environment_and_nothing_else() {
    if !require_root() {
        return;
    }
    let mut bundle = Bundle::new();
    let seen = bundle.dir.join("seen");
    let words =
        ["sh", "-c", &format!("tr '\\0' '\\n' < /proc/$$/environ > {0}; ls /proc/$$/fd >> {0}", seen.display())];
    let hook = json!([{"path": "/bin/sh", "args": words, "env": ["ONLY=this"]}]);
    bundle.set("/process/env", json!(["PATH=/bin", "LD_PRELOAD=/evil.so"]));
    bundle.set("/hooks/createRuntime", hook).write();
    let dir = bundle.dir.to_string_lossy().into_owned();
    bundle.careless(&["run", "--bundle", &dir, &bundle.id]).ok();
    let seen = fs::read_to_string(seen).unwrap();
    let (environment, fds): (Vec<&str>, Vec<&str>) = seen.lines().partition(|line| line.contains('='));
    assert_eq!(environment, ["ONLY=this"]);
    // The shell has 10 and 11 of its own.
    assert!(fds.iter().all(|fd| fd.parse::<u32>().is_ok_and(|fd| fd < 3 || matches!(fd, 10 | 11))), "{seen}");
}

#[test]
fn the_callers_groups_do_not_reach_the_program() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.args(&["cat", "/proc/self/status"]).write();
    let mut run = Command::new("setpriv");
    run.args(["--groups", "7,4711"]).arg(jail()).arg("--root").arg(&bundle.root);
    run.args(["run", "--bundle"]).arg(&bundle.dir).arg(&bundle.id).stdin(Stdio::null());
    let text = finish(&mut run, LIMIT).ok();
    assert!(["", "0"].contains(&&field(&text, "Groups")[..]), "{text}");
    left_nothing(&bundle, &host);
}

#[test]
fn a_caller_that_ignores_its_children_is_served_like_any_other() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.start_sleeper();
    let ignoring = |words: &[&str]| {
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' CHLD; exec \"$@\"", "sh"]).arg(jail());
        finish(command.arg("--root").arg(&bundle.root).args(words), LIMIT)
    };
    assert_eq!(ignoring(&["exec", &bundle.id, "echo", "hello"]).ok(), "hello\n");
    ignoring(&["exec", "--detach", &bundle.id, "true"]).ok();
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

#[test]
fn the_session_keyring_of_the_caller_stays_outside() {
    if !require_root() {
        return;
    }
    // keyctl: 0 asks for the number of a keyring, 10 searches.
    let script = |number: i64| {
        format!(
            "my ($t, $n) = ('user', 'of-the-host'); my $s = syscall(250, 0, -3, 0); \
             print 'own ', $s == {number} ? 'SAME' : 'other', qq(\\n); \
             print 'search ', syscall(250, 10, -3, $t, $n, 0) >= 0 ? 'FOUND' : 'none', qq(\\n);"
        )
    };
    // SAFETY: anonymous keyring; no memory is passed but a null name.
    let number = unsafe { libc::syscall(libc::SYS_keyctl, 1, std::ptr::null::<libc::c_char>()) };
    assert!(number > 0);
    // SAFETY: three strings of these lengths, which outlive the call.
    let key = unsafe {
        libc::syscall(libc::SYS_add_key, c"user".as_ptr(), c"of-the-host".as_ptr(), c"secret".as_ptr(), 6, -3)
    };
    assert!(key > 0);
    let mut bundle = Bundle::new();
    bundle.perl(&script(number));
    assert_eq!(bundle.run().ok(), "own other\nsearch none\n");
    bundle.start_sleeper();
    assert_eq!(bundle.exec(&["perl", "-e", &script(number)]).ok(), "own other\nsearch none\n");
    // The test sees what it is there to see.
    bundle.delete_force().ok();
    bundle.args(&["perl", "-e", &script(number)]);
    assert_eq!(bundle.run_with(&["--no-new-keyring"]).ok(), "own SAME\nsearch FOUND\n");
}
