//! Processes and cgroups of somebody else: no verb touches them, whatever the state says and after a reboot.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tests::{Bundle, Host, is_listed_as, left_nothing, listed, require_root, running, stage, unique, view, wait_for};

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

fn edit_state(bundle: &Bundle, edit: impl FnOnce(&mut Value)) {
    let path = bundle.entry("state.json");
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
    let path = bundle.entry("journal");
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
    let path = bundle.entry("journal");
    let mut text = fs::read_to_string(&path).unwrap();
    let mark = serde_json::from_slice::<Value>(&fs::read(bundle.entry("state.json")).unwrap()).unwrap()["mark"].clone();
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
