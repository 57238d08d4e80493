//! What is planned on hosts that are invented here.
// clippy.toml allows it in functions with #[test] only, not in those that they share.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use base::Rank;
use cgroup::{Hierarchy, Layout, plan};
use sys::Kind;

fn hierarchy(mount: &str, controllers: &str, own: &str) -> Hierarchy {
    let controllers = controllers.split(' ').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    Hierarchy { mount: mount.into(), controllers, own: own.into() }
}

fn v2() -> Layout {
    let tree = hierarchy("/sys/fs/cgroup", "cpuset cpu io memory pids", "/user.slice/me");
    Layout { v2: Some(tree), ..Layout::default() }
}

fn v1() -> Layout {
    let trees = [("memory", "/"), ("cpuset", "/"), ("devices", "/"), ("pids", "/system/me"), ("freezer", "/")];
    let v1 = trees.map(|(name, own)| hierarchy(&format!("/cg/{name}"), name, own)).to_vec();
    Layout { v1, ..Layout::default() }
}

fn hybrid() -> Layout {
    let v1 = vec![hierarchy("/cg/pids", "pids", "/"), hierarchy("/cg/cpu,cpuacct", "cpu cpuacct", "/")];
    Layout { v2: Some(hierarchy("/cg/unified", "memory", "/")), v1, delegated: None }
}

fn try_text(path: Option<&str>, resources: &str, layout: &Layout) -> sys::Result<Vec<String>> {
    let resources = serde_json::from_str(resources).unwrap();
    let steps = plan(path.map(Path::new), "x", "h-1", Some(&resources), layout)?;
    Ok(steps.iter().map(|(rank, _, step)| format!("{rank:?}: {step}")).collect())
}

fn text(path: Option<&str>, resources: &str, layout: &Layout) -> Vec<String> {
    try_text(path, resources, layout).unwrap()
}

#[test]
fn v2_enables_what_the_limits_need_from_the_top_downwards() {
    let resources = r#"{"memory":{"limit":4096},"pids":{"limit":9},"devices":[{"allow":false,"access":"rwm"}]}"#;
    let expected = [
        "Cgroup: enable memory and pids for the children of /sys/fs/cgroup",
        "Cgroup: make cgroup /sys/fs/cgroup/jail-x",
        "Cgroup: set memory.max to 4096 in /sys/fs/cgroup/jail-x",
        "Cgroup: set pids.max to 9 in /sys/fs/cgroup/jail-x",
        "Meanwhile: attach a device program of 48 instructions to /sys/fs/cgroup/jail-x",
        "Cgroup: open cgroup /sys/fs/cgroup/jail-x",
    ];
    assert_eq!(text(None, resources, &v2()), expected);
}

#[test]
fn v2_without_limits_enables_nothing() {
    let expected = ["Cgroup: make cgroup /sys/fs/cgroup/jail-x", "Cgroup: open cgroup /sys/fs/cgroup/jail-x"];
    assert_eq!(text(None, "{}", &v2()), expected);
}

#[test]
fn v1_has_a_directory_in_each_hierarchy_and_enters_all() {
    let resources = r#"{"memory":{"limit":4096},"devices":[{"allow":false,"type":"c","major":1,"minor":3}]}"#;
    let expected = [
        "Cgroup: make cgroup /cg/memory/a",
        "Cgroup: set memory.limit_in_bytes to 4096 in /cg/memory/a",
        "Cgroup: open tasks of /cg/memory/a",
        "Cgroup: make cgroup /cg/cpuset/a",
        "Cgroup: copy the parent's CPUs and memory nodes to /cg/cpuset/a",
        "Cgroup: open tasks of /cg/cpuset/a",
        "Cgroup: make cgroup /cg/devices/a",
        "Cgroup: write 1 device rules in /cg/devices/a",
        "Cgroup: open tasks of /cg/devices/a",
        "Cgroup: make cgroup /cg/pids/a",
        "Cgroup: open tasks of /cg/pids/a",
        "Cgroup: make cgroup /cg/freezer/a",
        "Cgroup: open tasks of /cg/freezer/a",
        "Attach: enter the cgroups",
    ];
    assert_eq!(text(Some("/a"), resources, &v1()), expected);
}

#[test]
fn hybrid_takes_each_limit_where_its_controller_is() {
    let resources = r#"{"memory":{"limit":4096},"cpu":{"shares":512}}"#;
    let expected = [
        "Cgroup: enable memory for the children of /cg/unified",
        "Cgroup: make cgroup /cg/unified/a",
        "Cgroup: set memory.max to 4096 in /cg/unified/a",
        "Cgroup: open cgroup /cg/unified/a",
        "Cgroup: make cgroup /cg/pids/a",
        "Cgroup: open tasks of /cg/pids/a",
        "Cgroup: make cgroup /cg/cpu,cpuacct/a",
        "Cgroup: set cpu.shares to 512 in /cg/cpu,cpuacct/a",
        "Cgroup: open tasks of /cg/cpu,cpuacct/a",
        "Attach: enter the cgroups",
    ];
    assert_eq!(text(Some("/a"), resources, &hybrid()), expected);
}

#[test]
fn a_relative_path_starts_at_the_callers_own_cgroup() {
    assert!(text(Some("a/./b"), "{}", &v1()).contains(&"Cgroup: make cgroup /cg/pids/system/me/a/b".to_owned()));
    assert!(text(Some("a"), "{}", &v2()).contains(&"Cgroup: open cgroup /sys/fs/cgroup/user.slice/me/a".to_owned()));
    let mut outside = v2();
    outside.v2.as_mut().unwrap().own = "/../other".into();
    assert_eq!(try_text(Some("a"), "{}", &outside).unwrap_err().kind, Kind::Invalid);
    assert!(try_text(Some("/a"), "{}", &outside).is_ok());
}

#[test]
fn a_path_that_leaves_or_names_nothing_is_refused() {
    for path in ["", "/", ".", "/a/../b", "..", "/a\0b"] {
        let error = try_text(Some(path), "{}", &v1()).unwrap_err();
        assert_eq!(error.kind, Kind::Invalid);
        assert!(error.what.starts_with("use /linux/cgroupsPath"), "{error}");
    }
}

#[test]
fn a_limit_whose_controller_is_missing_is_refused() {
    for (resources, layout, text) in [
        (r#"{"cpu":{"shares":9}}"#, v1(), "apply /linux/resources/cpu/shares: this host has no cpu controller"),
        (
            r#"{"pids":{"limit":9}}"#,
            Layout::default(),
            "apply /linux/resources/pids/limit: this host has no pids controller",
        ),
        (
            r#"{"devices":[{"allow":false}]}"#,
            Layout::default(),
            "apply /linux/resources/devices: this host has no devices controller",
        ),
    ] {
        let error = try_text(None, resources, &layout).unwrap_err();
        assert_eq!((error.kind, error.what.as_str()), (Kind::Unsupported, text));
    }
    assert!(text(None, "{}", &Layout::default()).is_empty());
    let no_limit = r#"{"pids":{"limit":0},"memory":{"limit":-1},"cpu":{"quota":-1,"period":100}}"#;
    assert!(text(None, no_limit, &Layout::default()).is_empty());
}

#[test]
fn every_directory_is_marked_and_the_leaf_is_told_from_its_parents() {
    let steps = plan(Some(Path::new("/a/b")), "x", "h-1", None, &v1()).unwrap();
    let made: Vec<_> = steps.iter().filter_map(|(_, _, step)| step.makes()).collect();
    assert_eq!((made[0].name.as_str(), made[0].unique.as_str()), ("/cg/memory/a", "parent:h-1"));
    assert_eq!((made[1].name.as_str(), made[1].unique.as_str()), ("/cg/memory/a/b", "h-1"));
    assert!(steps.iter().all(|(rank, _, step)| step.makes().is_none() || *rank == Rank::Cgroup));
}
