//! The steps and their undoing against the kernel's own cgroups. Every test makes directories of its own name only, and
//! is skipped where it may not make any.
// clippy.toml allows it in functions with #[test] only, not in those that they share.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base::{Ctx, Object};
use cgroup::{Layout, Step, join, kill_all, object, plan, processes};
use nix::unistd::Pid;

/// A cgroup of one test; its directories go when it does.
struct Ground {
    path: PathBuf,
    layout: Layout,
    objects: Vec<Object>,
}

/// Does a step, unless it would move this test itself.
fn do_outside(step: &Step, ctx: &mut Ctx) {
    if !matches!(step, Step::Enter) {
        step.run(ctx).unwrap();
    }
}

impl Ground {
    /// All hierarchies of the host, or only that of v2; `None` where the test cannot be done.
    fn new(name: &str, only_v2: bool) -> Option<Self> {
        let mut layout = Layout::read().unwrap();
        if only_v2 {
            layout.v1.clear();
        }
        if !nix::unistd::geteuid().is_root() || layout.hierarchies().next().is_none() {
            assert!(std::env::var_os("CI").is_none(), "needs root and cgroups, and in CI nothing is skipped");
            println!("skipped: needs root and cgroups");
            return None;
        }
        let path = PathBuf::from(format!("/jailtest-{name}-{}/x", std::process::id()));
        Some(Self { path, layout, objects: Vec::new() })
    }

    fn steps(&self, mark: &str, resources: &str) -> Vec<Step> {
        let resources = serde_json::from_str(resources).unwrap();
        let steps = plan(Some(&self.path), "x", mark, Some(&resources), &self.layout).unwrap();
        steps.into_iter().map(|(_, _, step)| step).collect()
    }

    /// Runs the steps for a process that sleeps, after its birth on v2 too, and returns it.
    fn fill(&mut self, resources: &str) -> Child {
        let sleeper = Command::new("sleep").arg("600").spawn().unwrap();
        let mut ctx = Ctx::default();
        for step in self.steps("h-1", resources) {
            self.objects.extend(step.makes());
            do_outside(&step, &mut ctx);
        }
        self.enter(&sleeper);
        sleeper
    }

    /// What the jail's side does for itself, done for another process.
    fn enter(&self, child: &Child) {
        for dir in self.dirs() {
            fs::write(dir.join("cgroup.procs"), child.id().to_string()).unwrap();
        }
    }

    fn dirs(&self) -> Vec<PathBuf> {
        self.layout.hierarchies().map(|h| h.mount.join(self.path.strip_prefix("/").unwrap())).collect()
    }

    fn undo(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(2);
        while let Some(object) = self.objects.pop() {
            object::undo(&object, deadline).unwrap();
        }
    }

    fn assert_gone(&self) {
        for dir in self.dirs() {
            assert!(!dir.parent().unwrap().exists(), "{dir:?}");
        }
    }
}

impl Drop for Ground {
    /// After a failed assertion too, nothing stays.
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(2);
        for object in self.objects.iter().rev() {
            let _ = object::undo(object, deadline);
        }
    }
}

fn killed(child: &mut Child) -> bool {
    child.wait().unwrap().signal() == Some(libc::SIGKILL)
}

#[test]
fn a_jail_is_made_found_joined_and_undone_with_its_processes() {
    let Some(mut ground) = Ground::new("all", false) else { return };
    let mut sleeper = ground.fill("{}");
    let mut joined = Command::new("sleep").arg("600").spawn().unwrap();
    let mut ctx = Ctx::default();
    for (.., step) in join(&ground.objects).unwrap() {
        do_outside(&step, &mut ctx);
    }
    assert_eq!(ctx.cgroup.is_some(), ground.layout.v2.is_some());
    assert_eq!(ctx.tasks.len(), ground.layout.v1.len());
    ground.enter(&joined);
    let mut expected = vec![sleeper.id() as i32, joined.id() as i32];
    expected.sort_unstable();
    assert_eq!(processes(&ground.objects), expected.into_iter().map(Pid::from_raw).collect::<Vec<_>>());
    let leaf = ground.objects.last().unwrap();
    // Its name is not compared: a child is seen for a moment under that of its parent, even after exec has begun.
    let holders = object::holders(leaf);
    assert!(holders.iter().any(|who| who.starts_with(&format!("{} (", sleeper.id()))), "{holders:?}");

    let found = object::find(&ground.layout, "h-");
    assert_eq!(found.iter().filter(|o| ground.objects.contains(o)).count(), ground.objects.len());
    ground.undo();
    ground.assert_gone();
    assert!(killed(&mut sleeper) && killed(&mut joined));
}

#[test]
fn a_signal_reaches_every_process() {
    let Some(mut ground) = Ground::new("signal", false) else { return };
    let mut sleeper = ground.fill("{}");
    kill_all(&ground.objects, libc::SIGTERM).unwrap();
    assert_eq!(sleeper.wait().unwrap().signal(), Some(libc::SIGTERM));
    assert!(kill_all(&ground.objects, libc::SIGTERM).is_ok());
    ground.undo();
    ground.assert_gone();
}

#[test]
fn a_frozen_jail_with_cgroups_below_it_is_undone() {
    let Some(mut ground) = Ground::new("frozen", false) else { return };
    let mut sleeper = ground.fill("{}");
    for dir in ground.dirs() {
        fs::create_dir_all(dir.join("below/deeper")).unwrap();
        for (file, text) in [("freezer.state", "FROZEN"), ("cgroup.freeze", "1")] {
            if dir.join(file).exists() {
                fs::write(dir.join(file), text).unwrap();
            }
        }
    }
    ground.undo();
    ground.assert_gone();
    assert!(killed(&mut sleeper));
}

#[test]
fn what_carries_another_mark_is_left_with_its_processes() {
    let Some(mut ground) = Ground::new("foreign", false) else { return };
    let mut sleeper = ground.fill("{}");
    let deadline = Instant::now() + Duration::from_secs(1);
    for object in &ground.objects {
        let other = Object { unique: object.unique.replace("h-1", "h-2"), ..object.clone() };
        object::undo(&other, deadline).unwrap();
    }
    assert!(sleeper.try_wait().unwrap().is_none());
    assert_eq!(processes(&ground.objects).len(), 1);
    ground.undo();
    ground.assert_gone();
    sleeper.wait().unwrap();
}

#[test]
fn a_directory_in_use_is_refused_and_a_free_one_taken() {
    let Some(mut ground) = Ground::new("adopt", false) else { return };
    let mut sleeper = ground.fill("{}");
    let leaf = |mark: &str| ground.steps(mark, "{}").into_iter().find(|step| matches!(step, Step::Leaf(_))).unwrap();
    let error = leaf("h-1").run(&mut Ctx::default()).unwrap_err();
    assert_eq!(error.kind, sys::Kind::Exists);
    assert!(error.what.contains(&format!("process {} (", sleeper.id())), "{error}");
    let below: Vec<_> = ground.dirs().iter().map(|dir| dir.join("below")).collect();
    below.iter().for_each(|dir| fs::create_dir(dir).unwrap());
    let error = leaf("other-1").run(&mut Ctx::default()).unwrap_err();
    assert!(error.what.ends_with("it is another jail's"), "{error}");
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    below.iter().for_each(|dir| fs::remove_dir(dir).unwrap());
    leaf("h-1").run(&mut Ctx::default()).unwrap();
    ground.undo();
    ground.assert_gone();
}

#[test]
fn a_parent_that_somebody_else_made_stays() {
    let Some(mut ground) = Ground::new("parent", false) else { return };
    let parents: Vec<_> = ground.dirs().iter().map(|dir| dir.parent().unwrap().to_owned()).collect();
    parents.iter().for_each(|dir| fs::create_dir(dir).unwrap());
    let mut sleeper = ground.fill("{}");
    ground.undo();
    let left: Vec<_> = parents.iter().map(fs::remove_dir).collect();
    assert!(left.iter().all(Result::is_ok), "{left:?}");
    sleeper.wait().unwrap();
}

#[test]
fn a_crash_before_the_mark_leaves_nothing_that_cannot_be_removed() {
    let Some(mut ground) = Ground::new("crash", false) else { return };
    ground.objects = ground.steps("h-1", "{}").iter().filter_map(Step::makes).collect();
    ground.dirs().iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
    ground.undo();
    ground.assert_gone();
}

#[test]
fn a_directory_with_others_below_it_is_not_taken() {
    let Some(ground) = Ground::new("below", false) else { return };
    for (dir, step) in ground.dirs().iter().zip(ground.steps("h-1", "{}").iter().filter(|s| matches!(s, Step::Leaf(_))))
    {
        fs::create_dir_all(dir.join("theirs")).unwrap();
        let error = step.run(&mut Ctx::default()).unwrap_err();
        for gone in [dir.join("theirs"), dir.clone(), dir.parent().unwrap().to_owned()] {
            fs::remove_dir(gone).unwrap();
        }
        assert!(error.what.ends_with("other cgroups are below it"), "{error}");
    }
}

#[test]
fn a_directory_that_is_no_cgroup_is_never_removed() {
    let dir = std::env::temp_dir().join(format!("jailtest-none-{}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    for unique in ["h-1", "parent:h-1"] {
        let name = dir.to_string_lossy().into_owned();
        let object = Object { kind: object::KIND.to_owned(), name, unique: unique.to_owned() };
        object::undo(&object, Instant::now()).unwrap();
    }
    fs::remove_dir(&dir).unwrap();
}

#[test]
fn a_parent_that_goes_meanwhile_is_made_again() {
    let Some(mut ground) = Ground::new("race", false) else { return };
    let steps = ground.steps("h-1", "{}");
    ground.objects = steps.iter().filter_map(Step::makes).collect();
    for step in steps.iter().filter(|step| matches!(step, Step::Leaf(_))) {
        step.run(&mut Ctx::default()).unwrap();
    }
    ground.undo();
    ground.assert_gone();
}

#[test]
fn limits_are_read_back_from_the_kernel() {
    let Some(mut ground) = Ground::new("limit", false) else { return };
    let has = |c: &str| ground.layout.hierarchies().any(|h| h.has(c));
    if !["memory", "pids", "cpu", "cpuset"].into_iter().all(has) {
        println!("skipped: needs the controllers memory, pids, cpu and cpuset");
        return;
    }
    let mut sleeper = ground.fill(
        r#"{"memory":{"limit":67108864,"reservation":33554432},"pids":{"limit":77},
            "cpu":{"shares":512,"quota":50000,"period":100000,"cpus":"0","mems":"0"}}"#,
    );
    let values = [
        ("memory.limit_in_bytes", "67108864"),
        ("memory.max", "67108864"),
        ("pids.max", "77"),
        ("cpu.shares", "512"),
        ("cpu.cfs_quota_us", "50000"),
        ("cpu.max", "50000 100000"),
        ("cpuset.cpus", "0"),
    ];
    for dir in ground.dirs() {
        for (file, value) in values {
            if let Ok(text) = fs::read_to_string(dir.join(file)) {
                assert_eq!(text.trim(), value, "{file} in {dir:?}");
            }
        }
    }
    ground.undo();
    ground.assert_gone();
    sleeper.wait().unwrap();
}

/// Whether a process in the jail's cgroups may do `script`.
fn may(dirs: &[PathBuf], script: &str) -> bool {
    let enter: String = dirs.iter().map(|dir| format!("echo $$ > {}/cgroup.procs && ", dir.display())).collect();
    Command::new("sh").arg("-c").arg(enter + script).stderr(Stdio::null()).status().unwrap().success()
}

fn devices(only_v2: bool, name: &str) {
    let Some(mut ground) = Ground::new(name, only_v2) else { return };
    if only_v2 && ground.layout.v2.is_none() {
        println!("skipped: needs cgroup v2");
        return;
    }
    let resources = r#"{"devices":[{"allow":false,"access":"rwm"},
        {"allow":true,"type":"c","major":1,"minor":11,"access":"r"}]}"#;
    let mut sleeper = ground.fill(resources);
    let dirs = ground.dirs();
    let node = std::env::temp_dir().join(format!("jailtest-{name}-{}", std::process::id()));
    let node = node.display();
    assert!(may(&dirs, "cat /dev/null && head -c1 /dev/urandom >/dev/zero"), "default devices");
    assert!(may(&dirs, &format!("mknod {node} c 240 7 && rm {node}")), "mknod");
    assert!(may(&[], &format!("mknod {node} c 1 1")), "a node of /dev/mem");
    assert!(!may(&dirs, &format!("exec 3< {node}")), "/dev/mem is closed");
    assert!(may(&[], &format!("rm {node} && mknod {node} c 1 11")), "a node of /dev/kmsg");
    assert!(may(&dirs, &format!("exec 3< {node}")), "/dev/kmsg is open for reading");
    assert!(!may(&dirs, &format!("exec 3<> {node}")), "and for nothing else");
    assert!(may(&[], &format!("rm {node}")));
    ground.undo();
    ground.assert_gone();
    sleeper.wait().unwrap();
}

#[test]
fn devices_are_closed_but_the_default_ones() {
    devices(false, "devices");
}

#[test]
fn devices_are_closed_by_a_program_on_v2() {
    devices(true, "program");
}

#[test]
fn a_parent_is_not_shared_with_the_leaf_of_another() {
    let Some(mut ground) = Ground::new("shared", false) else { return };
    let mut first = ground.fill("{}");
    let mut second = Ground { path: ground.path.with_file_name("y"), layout: ground.layout.clone(), objects: vec![] };
    let mut other = second.fill("{}");
    ground.undo();
    assert!(second.dirs().iter().all(|dir| Path::exists(dir)), "the first to go leaves the parent");
    assert!(other.try_wait().unwrap().is_none());
    second.undo();
    second.assert_gone();
    first.wait().unwrap();
    other.wait().unwrap();
}
