//! A jail whose state is damaged or of another version: `list` shows it and changes nothing, `delete --force` ends it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use nix::sys::stat::Mode;
use serde_json::Value;
use tests::{Bundle, Host, entries, is_listed_as, left_nothing, listed, processes, require_root, running, stage, view};

/// A file of the jail, and how it is damaged.
type Damage = (&'static str, &'static str, fn(&Path));

const DAMAGES: [Damage; 17] = [
    ("state.json", "cut in half", |path| {
        let text = fs::read(path).unwrap();
        fs::write(path, &text[..text.len() / 2]).unwrap();
    }),
    ("state.json", "empty", |path| fs::write(path, "").unwrap()),
    ("state.json", "garbage", |path| fs::write(path, b"\x00\xff garbage {").unwrap()),
    ("state.json", "another document", |path| fs::write(path, "[1, 2, 3]").unwrap()),
    ("state.json", "missing", |path| fs::remove_file(path).unwrap()),
    ("state.json", "a folder", |path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    }),
    ("state.json", "a link", |path| {
        fs::remove_file(path).unwrap();
        symlink("/etc/hostname", path).unwrap();
    }),
    ("state.json", "a FIFO", |path| {
        fs::remove_file(path).unwrap();
        nix::unistd::mkfifo(path, Mode::S_IRWXU).unwrap();
    }),
    ("journal", "torn", |path| {
        let text = fs::read(path).unwrap();
        fs::write(path, &text[..text.len() - 9]).unwrap();
    }),
    ("journal", "without its begin", |path| {
        let text = fs::read(path).unwrap();
        fs::write(path, &text[text.len() / 2..]).unwrap();
    }),
    ("journal", "empty", |path| fs::write(path, "").unwrap()),
    ("journal", "garbage", |path| fs::write(path, b"\x00\xff garbage {\n\n\n{}\n").unwrap()),
    ("journal", "missing", |path| fs::remove_file(path).unwrap()),
    ("journal", "a folder", |path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    }),
    ("journal", "a link", |path| {
        fs::remove_file(path).unwrap();
        symlink("/etc/hostname", path).unwrap();
    }),
    ("journal", "a FIFO", |path| {
        fs::remove_file(path).unwrap();
        nix::unistd::mkfifo(path, Mode::S_IRWXU).unwrap();
    }),
    ("control", "missing", |path| fs::remove_file(path).unwrap()),
];

/// What is wrong after a running jail was damaged and then ended by VERB; its process and its cgroups have to go too.
fn complaints_after(verb: &[&str], begun: bool, damage: &Damage) -> Vec<String> {
    let (name, how, act) = damage;
    let (mut bundle, host) = stage();
    let hostname = fs::read("/etc/hostname").ok();
    bundle.args(&["sleep", "1000"]).create().ok();
    if begun {
        bundle.start().ok();
    }
    act(&bundle.entry(name));
    let mut found = Vec::new();
    let mut expect =
        |holds: bool, what: String| found.extend((!holds).then(|| format!("{name} {how}, {verb:?}: {what}")));
    let status = listed(&bundle).remove(&bundle.id);
    let sound = *name == "control";
    expect(sound || status.as_deref() == Some("broken"), format!("listed as {status:?}"));
    let mut words = verb.to_vec();
    words.extend((verb[0] == "delete").then_some(&bundle.id[..]));
    let done = bundle.call(&words);
    expect(done.is_ok(), done.to_string());
    expect(entries(&bundle.root).is_empty(), "it is still in the store".to_string());
    for what in host.leaked() {
        expect(false, format!("left behind {what}"));
    }
    expect(fs::read("/etc/hostname").ok() == hostname, "a file of the host was changed".to_string());
    found
}

#[test]
fn a_damaged_jail_that_runs_is_listed_and_ended_by_force() {
    if !require_root() {
        return;
    }
    let found: Vec<String> =
        DAMAGES.iter().flat_map(|damage| complaints_after(&["delete", "--force"], true, damage)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_damaged_jail_that_is_created_is_listed_and_ended_by_force() {
    if !require_root() {
        return;
    }
    let found: Vec<String> =
        DAMAGES.iter().flat_map(|damage| complaints_after(&["delete", "--force"], false, damage)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn cleanup_mends_what_is_damaged() {
    if !require_root() {
        return;
    }
    // Without its control socket a jail that runs is not broken, and stays.
    let damages = DAMAGES.iter().filter(|(name, ..)| *name != "control");
    let found: Vec<String> = damages.flat_map(|damage| complaints_after(&["cleanup"], true, damage)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_jail_of_which_only_the_folder_is_left_is_ended_by_force() {
    if !require_root() {
        return;
    }
    let (bundle, host) = running();
    for name in ["state.json", "journal", "control"] {
        fs::remove_file(bundle.entry(name)).unwrap();
    }
    is_listed_as(&bundle, "broken");
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

#[test]
fn a_damaged_jail_is_refused_by_the_other_verbs() {
    if !require_root() {
        return;
    }
    let (bundle, host) = running();
    fs::write(bundle.entry("state.json"), "garbage").unwrap();
    let pid = processes::with_word(&bundle.id);
    for verb in
        [&["start", &bundle.id[..]][..], &["state", &bundle.id], &["delete", &bundle.id], &["exec", &bundle.id, "true"]]
    {
        let line = bundle.call(verb).fails();
        assert!(line.starts_with("jail: cannot "), "{line}");
    }
    assert_eq!(processes::with_word(&bundle.id), pid, "nothing was touched");
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

/// Two stores can hold the same name: what is found without a journal must be told apart all the same.
#[test]
fn a_damaged_jail_is_not_confused_with_one_of_another_store() {
    if !require_root() {
        return;
    }
    let (mut other, other_host) = running();
    let (mut bundle, host) = stage();
    let word = std::mem::replace(&mut bundle.id, other.id.clone());
    bundle.start_sleeper();
    for name in ["state.json", "journal"] {
        fs::remove_file(bundle.entry(name)).unwrap();
    }
    bundle.delete_force().ok();
    assert_eq!(other.status().as_deref(), Some("running"));
    other.exec(&["true"]).ok();
    assert!(view::cgroups(&word).is_empty());
    assert_eq!(entries(&bundle.root), [""; 0]);
    other.args(&["true"]).delete_force().ok();
    host.assert_unchanged();
    left_nothing(&other, &other_host);
}

/// Puts the golden folders of VERSION into a fresh store, with `@BOOT@` as this boot, and what was listed then.
fn golden(version: &str) -> (Bundle, Host, BTreeMap<String, String>) {
    let (bundle, host) = stage();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(version);
    for jail in fs::read_dir(source).unwrap().flatten() {
        let folder = bundle.root.join(jail.file_name());
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        for entry in fs::read_dir(jail.path()).unwrap().flatten() {
            let text = fs::read_to_string(entry.path()).unwrap().replace("@BOOT@", boot.trim());
            fs::write(folder.join(entry.file_name()), text).unwrap();
        }
    }
    let listed = listed(&bundle);
    (bundle, host, listed)
}

fn all(rows: &[(&str, &str)]) -> BTreeMap<String, String> {
    rows.iter().map(|(name, status)| (name.to_string(), status.to_string())).collect()
}

#[test]
fn the_state_of_this_version_stays_readable() {
    if !require_root() {
        return;
    }
    let (bundle, host, seen) = golden("version-1");
    assert_eq!(
        seen,
        all(&[("ended", "stopped"), ("rebooted", "stopped"), ("interrupted", "broken"), ("torn", "broken")])
    );
    let ended: Value = serde_json::from_str(&bundle.call(&["state", "ended"]).ok()).unwrap();
    assert_eq!(ended["bundle"], "/var/lib/golden");
    assert_eq!(ended["created"], "2026-11-25T14:35:15.208628981Z");
    for name in ["ended", "rebooted"] {
        bundle.call(&["delete", name]).ok();
    }
    bundle.call(&["delete", "interrupted"]).fails();
    assert_eq!(bundle.call(&["cleanup"]).ok(), "interrupted\ntorn\n");
    left_nothing(&bundle, &host);
}

#[test]
fn the_state_of_a_newer_and_of_an_older_version_is_listed_and_deleted() {
    if !require_root() {
        return;
    }
    for (version, jails, reason) in [
        ("version-99", &["same-shape", "other-shape", "more-files"][..], "version 99"),
        ("version-0", &["older"], "version 0"),
    ] {
        let (bundle, host, seen) = golden(version);
        assert_eq!(seen, jails.iter().map(|name| (name.to_string(), "broken".to_string())).collect());
        let table = bundle.list().ok();
        for name in jails {
            let line = table.lines().find(|line| line.starts_with(name)).unwrap();
            assert!(line.contains(reason), "{line}");
            assert!(bundle.call(&["delete", name]).fails().contains(reason));
            bundle.call(&["delete", "--force", name]).ok();
        }
        left_nothing(&bundle, &host);
    }
}
