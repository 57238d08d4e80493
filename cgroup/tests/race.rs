//! What happens when others move at the same moment.
// clippy.toml allows it in functions with #[test] only, not in those that they share.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use base::{Ctx, Object, Rank};
use cgroup::{Layout, Step, object, plan, processes};

fn layout() -> Option<Layout> {
    let layout = Layout::read().unwrap();
    let able = nix::unistd::geteuid().is_root() && layout.hierarchies().next().is_some();
    if !able {
        assert!(std::env::var_os("CI").is_none(), "needs root and cgroups, and in CI nothing is skipped");
        println!("skipped: needs root and cgroups");
    }
    able.then_some(layout)
}

fn undo(objects: &[Object]) {
    let deadline = Instant::now() + Duration::from_secs(5);
    objects.iter().rev().for_each(|object| object::undo(object, deadline).unwrap());
}

/// Makes and removes a cgroup below `parent`, without any process.
fn come_and_go(layout: &Layout, parent: &Path, id: &str) {
    let steps = plan(Some(&parent.join(id)), id, &format!("{id}-1"), None, layout).unwrap();
    let mut objects = Vec::new();
    for (_, _, step) in steps.iter().filter(|(rank, ..)| *rank == Rank::Cgroup) {
        objects.extend(step.makes());
        step.run(&mut Ctx::default()).unwrap();
    }
    undo(&objects);
}

#[test]
fn jails_that_share_parents_come_and_go_at_once_and_the_last_takes_the_parents_away() {
    let Some(layout) = layout() else { return };
    let top = format!("jailtest-share-{}", std::process::id());
    let parent = PathBuf::from(format!("/{top}/a"));
    thread::scope(|scope| {
        for thread in 0..4 {
            let (layout, parent) = (&layout, &parent);
            scope.spawn(move || (0..30).for_each(|i| come_and_go(layout, parent, &format!("{thread}x{i}"))));
        }
    });
    for hierarchy in layout.hierarchies() {
        assert!(!hierarchy.mount.join(&top).exists(), "{hierarchy:?}");
    }
}

/// Undoes a jail in which shells make children as fast as they can.
fn undo_forkers(layout: &Layout, name: &str) {
    let path = PathBuf::from(format!("/jailtest-{name}-{}", std::process::id()));
    let script = "sleep 0.1; for i in 1 2 3 4; do (while :; do sh -c 'sleep 0.01 & sleep 0.01 &'; done) & done; wait";
    let mut shell = Command::new("sh").args(["-c", script]).stderr(Stdio::null()).spawn().unwrap();
    let mut ctx = Ctx::default();
    let mut objects = Vec::new();
    for (_, _, step) in plan(Some(&path), "x", "h-1", None, layout).unwrap() {
        objects.extend(step.makes());
        match &step {
            // It would move this test itself.
            Step::Enter => continue,
            _ => step.run(&mut ctx).unwrap(),
        }
        if let Step::Open { dir } | Step::Tasks { dir } = step {
            std::fs::write(dir.join("cgroup.procs"), shell.id().to_string()).unwrap();
        }
    }
    thread::sleep(Duration::from_millis(300));
    assert!(processes(&objects).len() > 1);
    undo(&objects);
    assert!(objects.iter().all(|object| !Path::new(&object.name).exists()));
    shell.wait().unwrap();
}

#[test]
fn a_jail_that_forks_all_the_time_is_undone() {
    let Some(layout) = layout() else { return };
    let v2 = Layout { v1: Vec::new(), ..layout.clone() };
    let v1 = Layout { v2: None, ..layout };
    for (layout, name) in [(v2, "fork2"), (v1, "fork1")] {
        if layout.hierarchies().next().is_some() {
            undo_forkers(&layout, name);
        }
    }
}
