//! What must survive: interruption, damage, foreign state, a reboot. Whatever is there, `list` shows it and changes
//! nothing, `delete --force` ends it, and no process or cgroup of anybody else is touched.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::stat::Mode;
use serde_json::{Value, json};
use tests::{Bundle, Host, LIMIT, finish, processes, require_root, unique, view};

use crate::lifecycle::{code, entries, left_nothing, run_in_background, stage, wait_for};

/// All that is below a folder, each with what would tell of a change. Access times are no change.
fn tree(folder: &Path) -> BTreeMap<PathBuf, (u32, i64, i64, u64, Vec<u8>)> {
    let mut seen = BTreeMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, data) = (entry.path(), entry.metadata().unwrap());
        let text = if data.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        if data.is_dir() {
            seen.extend(tree(&path));
        }
        seen.insert(path, (data.mode(), data.mtime(), data.mtime_nsec(), data.ino(), text));
    }
    seen
}

/// The status of a jail as `list` shows it; `list` must succeed, and change nothing.
#[track_caller]
fn listed(bundle: &Bundle) -> BTreeMap<String, String> {
    let before = tree(&bundle.root);
    let text = bundle.call(&["list", "--format", "json"]).ok();
    let table = bundle.list().ok();
    let names = bundle.call(&["list", "--quiet"]).ok();
    assert!(tree(&bundle.root) == before, "list has changed the store");
    let all: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert_eq!((table.lines().count(), names.lines().count()), (all.len() + 1, all.len()));
    let word = |jail: &Value, key: &str| jail[key].as_str().unwrap_or_default().to_string();
    for jail in all.iter().filter(|jail| jail["status"] == "broken") {
        let reason = word(jail, "reason");
        assert!(!reason.is_empty() && table.contains(&reason), "no reason: {jail} in {table}");
    }
    all.iter().map(|jail| (word(jail, "id"), word(jail, "status"))).collect()
}

#[track_caller]
fn is_listed_as(bundle: &Bundle, status: &str) {
    assert_eq!(listed(bundle).get(&bundle.id).map(String::as_str), Some(status));
}

fn file(bundle: &Bundle, name: &str) -> PathBuf {
    bundle.root.join(&bundle.id).join(name)
}

/// A running jail, and the host before it.
fn running() -> (Bundle, Host) {
    let (mut bundle, host) = stage();
    bundle.args(&["sleep", "1000"]).create().ok();
    bundle.start().ok();
    (bundle, host)
}

/// A process that no jail has anything to do with.
struct Innocent(Child);

impl Innocent {
    fn new() -> Innocent {
        Innocent(Command::new("sleep").arg("3000").stdin(Stdio::null()).spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    /// When it started, as proc_pid_stat(5) has it.
    fn start(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().parse().unwrap()
    }

    #[track_caller]
    fn is_unharmed(&mut self) {
        assert!(self.0.try_wait().unwrap().is_none(), "the innocent process was killed");
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        assert!(stat.rsplit_once(") ").unwrap().1.starts_with('S'), "the innocent process was stopped: {stat}");
    }
}

impl Drop for Innocent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a verb with a hook that never ends by itself, and kills the runtime when the hook runs.
fn interrupt(bundle: &mut Bundle, verb: &str, moment: &str) {
    let begun = bundle.dir.join("begun");
    let script = format!(": > {0}; while [ -e {0} ]; do sleep 0.05; done", begun.display());
    let folder = bundle.dir.to_string_lossy().into_owned();
    bundle.set("/mounts/-", json!({"destination": folder, "type": "bind", "source": folder, "options": ["bind"]}));
    bundle.set(&format!("/hooks/{moment}"), json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])).write();
    let mut runtime = bundle.command(&[verb, "--bundle", &folder, &bundle.id]);
    let mut runtime = runtime.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the hook", || begun.exists());
    runtime.kill().unwrap();
    runtime.wait().unwrap();
}

/// Lets a hook that outlived its runtime go.
fn release(bundle: &Bundle) {
    fs::remove_file(bundle.dir.join("begun")).unwrap();
}

#[test]
fn a_create_that_is_killed_in_a_hook_is_broken_and_can_be_deleted() {
    if !require_root() {
        return;
    }
    for verb in ["create", "run"] {
        for moment in ["prestart", "createRuntime", "createContainer"] {
            let (mut bundle, host) = stage();
            interrupt(&mut bundle, verb, moment);
            wait_for("it is broken", || listed(&bundle).get(&bundle.id).is_some_and(|status| status == "broken"));
            assert!(bundle.delete().fails().contains("broken"));
            assert!(bundle.start().fails().contains("broken"));
            assert!(bundle.create().fails().contains("already exists"));
            bundle.delete_force().ok();
            release(&bundle);
            left_nothing(&bundle, &host);
        }
    }
}

#[test]
fn a_run_that_is_killed_in_a_hook_of_the_start_can_be_deleted() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    interrupt(&mut bundle, "run", "startContainer");
    listed(&bundle);
    bundle.delete_force().ok();
    release(&bundle);
    left_nothing(&bundle, &host);
}

/// Before a jail is created nothing may outlive the runtime that makes it.
#[test]
fn no_process_outlives_a_create_that_is_killed() {
    if !require_root() {
        return;
    }
    for moment in ["prestart", "createRuntime", "createContainer"] {
        let (mut bundle, _) = stage();
        interrupt(&mut bundle, "create", moment);
        let left = || processes::with_word(&bundle.id).into_iter().map(processes::name).collect::<Vec<_>>();
        let end = std::time::Instant::now() + LIMIT / 4;
        while !left().is_empty() && std::time::Instant::now() < end {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert_eq!(left(), [""; 0], "after a kill in {moment}");
    }
}

#[test]
fn a_jail_outlives_the_run_that_is_killed() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.args(&["sleep", "1000"]);
    let mut run = run_in_background(&bundle);
    bundle.becomes("running");
    run.kill().unwrap();
    run.wait().unwrap();
    is_listed_as(&bundle, "running");
    assert_eq!(bundle.exec(&["hostname"]).ok(), "jail\n");
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}

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
    act(&file(&bundle, name));
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
        fs::remove_file(file(&bundle, name)).unwrap();
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
    fs::write(file(&bundle, "state.json"), "garbage").unwrap();
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
    bundle.args(&["sleep", "1000"]).create().ok();
    bundle.start().ok();
    for name in ["state.json", "journal"] {
        fs::remove_file(file(&bundle, name)).unwrap();
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
    fs::remove_file(file(&broken, "state.json")).unwrap();
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
    bundle.args(&["sleep", "1000"]).write();
    let mut create = bundle.command(&["create", "--bundle", &bundle.dir.to_string_lossy(), &bundle.id]);
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
    let done = std::sync::atomic::AtomicBool::new(false);
    let made: Vec<_> = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    bundle.call(&["cleanup"]);
                }
            });
        }
        let made = (0..40).map(|_| (bundle.create(), bundle.state(), bundle.delete_force())).collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
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

fn edit_state(bundle: &Bundle, edit: impl FnOnce(&mut Value)) {
    let path = file(bundle, "state.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut state);
    fs::write(&path, state.to_string()).unwrap();
}

#[test]
fn a_jail_of_another_boot_is_stopped_and_can_be_deleted() {
    if !require_root() {
        return;
    }
    let (bundle, host) = running();
    bundle.kill("KILL").ok();
    bundle.becomes("stopped");
    edit_state(&bundle, |state| state["boot"] = "00000000-0000-4000-8000-000000000000".into());
    is_listed_as(&bundle, "stopped");
    assert!(bundle.kill("KILL").fails().contains("container not running"));
    bundle.exec(&["true"]).fails();
    bundle.start().fails();
    bundle.delete().ok();
    left_nothing(&bundle, &host);
}

/// A jail whose journal says that its process 1 is another one.
fn with_process_1(boot: Option<&str>, pid: i32, start: u64) -> (Bundle, Host) {
    let (bundle, host) = running();
    bundle.kill("KILL").ok();
    bundle.becomes("stopped");
    if let Some(boot) = boot {
        edit_state(&bundle, |state| state["boot"] = boot.into());
    }
    let path = file(&bundle, "journal");
    let text = fs::read_to_string(&path).unwrap();
    let kept: String =
        text.lines().filter(|line| !line.contains("\"created\"")).map(|line| format!("{line}\n")).collect();
    fs::write(&path, format!("{kept}{}\n", json!({"created": {"pid": pid, "start": start}}))).unwrap();
    (bundle, host)
}

#[track_caller]
fn no_verb_harms(bundle: &Bundle, innocent: &mut Innocent) {
    listed(bundle);
    for verb in [&["kill", &bundle.id[..], "KILL"][..], &["kill", "--all", &bundle.id, "KILL"], &["start", &bundle.id]]
    {
        bundle.call(verb);
        innocent.is_unharmed();
    }
    bundle.delete_force().ok();
    innocent.is_unharmed();
}

/// Numbers of processes are used again.
#[test]
fn a_process_that_has_got_the_number_is_not_harmed() {
    if !require_root() {
        return;
    }
    let mut innocent = Innocent::new();
    let (bundle, host) = with_process_1(None, innocent.pid(), innocent.start() - 1);
    is_listed_as(&bundle, "stopped");
    no_verb_harms(&bundle, &mut innocent);
    left_nothing(&bundle, &host);
}

/// The start time counts from the boot, so that after another one both can be the same by chance.
#[test]
fn a_process_of_another_boot_with_number_and_start_time_is_not_harmed() {
    if !require_root() {
        return;
    }
    let mut innocent = Innocent::new();
    let (bundle, host) = with_process_1(Some("00000000-0000-4000-8000-000000000000"), innocent.pid(), innocent.start());
    is_listed_as(&bundle, "stopped");
    no_verb_harms(&bundle, &mut innocent);
    left_nothing(&bundle, &host);
}

/// Damage is not chance: number and start time can both be another's. It is not in the jail's cgroup then.
#[test]
fn a_process_outside_of_the_jails_cgroup_is_not_harmed() {
    if !require_root() {
        return;
    }
    let mut innocent = Innocent::new();
    let (bundle, host) = with_process_1(None, innocent.pid(), innocent.start());
    no_verb_harms(&bundle, &mut innocent);
    left_nothing(&bundle, &host);
}

#[test]
fn numbers_that_are_no_process_are_no_harm() {
    if !require_root() {
        return;
    }
    // Not 0, 1 or -1: a runtime that fails this test would end the tests, or the machine.
    for pid in [i32::MAX, i32::MIN] {
        let (bundle, host) = with_process_1(None, pid, 0);
        bundle.kill("KILL").fails();
        bundle.delete_force().ok();
        left_nothing(&bundle, &host);
    }
}

/// A folder of a hierarchy in which there is room for somebody else.
fn somebody_elses_cgroup(innocent: &Innocent) -> PathBuf {
    let above = view::cgroups("/sys/fs/cgroup").into_iter().find(|path| path.join("cgroup.procs").exists()).unwrap();
    let folder = above.join(unique());
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("cgroup.procs"), innocent.pid().to_string()).unwrap();
    folder
}

/// A damaged or hostile journal can name any object. Never put a folder here that is above cgroups of the host: a runtime
/// that fails this test with `/` in it kills every process of the machine.
#[test]
fn an_object_that_is_not_the_jails_is_not_touched() {
    if !require_root() {
        return;
    }
    let mut innocent = Innocent::new();
    let cgroup = somebody_elses_cgroup(&innocent);
    let (bundle, host) = running();
    let (folder, full) = (bundle.dir.join("empty"), bundle.dir.join("full"));
    fs::create_dir(&folder).unwrap();
    fs::create_dir(&full).unwrap();
    fs::write(full.join("cgroup.procs"), innocent.pid().to_string()).unwrap();
    let path = file(&bundle, "journal");
    let mut text = fs::read_to_string(&path).unwrap();
    let mark =
        serde_json::from_slice::<Value>(&fs::read(file(&bundle, "state.json")).unwrap()).unwrap()["mark"].clone();
    for name in [&cgroup, &folder, &full] {
        text += &format!("{}\n", json!({"object": {"kind": "cgroup", "name": name, "unique": mark}}));
    }
    fs::write(&path, text).unwrap();
    let found = [&["kill", "--all", &bundle.id[..], "TERM"][..], &["delete", "--force", &bundle.id]].map(|verb| {
        let done = bundle.call(verb);
        innocent.is_unharmed();
        done
    });
    assert!(found[1].is_ok(), "{}", found[1]);
    assert!(cgroup.is_dir() && folder.is_dir() && full.join("cgroup.procs").is_file());
    drop(innocent);
    wait_for("the end of the cgroup", || fs::remove_dir(&cgroup).is_ok());
    left_nothing(&bundle, &host);
}

/// It was there before; whose it is nobody knows.
#[test]
fn a_cgroup_of_somebody_else_at_the_jails_path_is_not_removed() {
    if !require_root() {
        return;
    }
    let mut innocent = Innocent::new();
    let cgroup = somebody_elses_cgroup(&innocent);
    let (mut bundle, host) = stage();
    let name = cgroup.file_name().unwrap().to_string_lossy().into_owned();
    bundle.set("/linux/cgroupsPath", format!("/{name}")).args(&["sleep", "1000"]);
    let done = bundle.create();
    assert!(done.code().is_some(), "{done}");
    bundle.delete_force().ok();
    innocent.is_unharmed();
    assert!(cgroup.is_dir());
    drop(innocent);
    wait_for("the end of the cgroup", || fs::remove_dir(&cgroup).is_ok());
    assert_eq!(view::cgroups(&name), [""; 0].map(PathBuf::from));
    left_nothing(&bundle, &host);
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

/// A name can be taken again as soon as it is free, whatever was there.
#[test]
fn a_name_is_free_after_a_delete_by_force() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = running();
    fs::write(file(&bundle, "state.json"), "garbage").unwrap();
    bundle.delete_force().ok();
    bundle.args(&["true"]).run().ok();
    interrupt(&mut bundle, "create", "createContainer");
    bundle.delete_force().ok();
    release(&bundle);
    bundle.remove("/hooks").run().ok();
    left_nothing(&bundle, &host);
}

/// Whoever reads a status while others work sees one that the specification knows.
#[test]
fn list_and_state_never_fail_while_jails_come_and_go() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    bundle.args(&["sleep", "1000"]);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looks = || {
            let mut looks = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let text = bundle.call(&["list", "--format", "json"]).ok();
                let all: Vec<Value> = serde_json::from_str(&text).unwrap();
                let status = all.first().map_or("none", |jail| jail["status"].as_str().unwrap());
                assert!(["none", "creating", "created", "running", "stopped"].contains(&status), "{text}");
                let state = bundle.state();
                assert!(state.is_ok() || state.fails().contains("does not exist"));
                looks += 1;
            }
            looks
        };
        let looker = scope.spawn(looks);
        let mut made = Vec::new();
        for _ in 0..30 {
            made.extend([bundle.create(), bundle.start(), bundle.delete_force()]);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(looker.join().unwrap() > 30);
        made.into_iter().for_each(|done| drop(done.ok()));
    });
    left_nothing(&bundle, &host);
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
