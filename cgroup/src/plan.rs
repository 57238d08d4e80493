//! What has to be done for the cgroups of a jail. Nothing is touched here.

use std::path::{Component, Path, PathBuf};

use base::{Object, Rank, Side};
use nix::sys::statfs::CGROUP2_SUPER_MAGIC;
use oci_spec::runtime::LinuxResources;
use sys::{Error, Result};

use crate::layout::{Hierarchy, Layout, file_system};
use crate::limit::{Limit, Now, can_limit, limits, realtime};
use crate::object;
use crate::step::{Directory, Step};
use crate::{bpf, device};

/// The steps for the jail `id`: its directories, its limits, and its way into them.
///
/// `path` is `linux.cgroupsPath`: absolute, it is below each hierarchy's mount point; relative, below the caller's own
/// cgroup; `None` is `/jail/<id>`. `mark` is put on every directory, so that it can be told from another one of the
/// same name.
///
/// # Errors
/// `Invalid` for a path or a limit that means nothing, `Unsupported` for a limit that this program or this host cannot
/// enforce; each names the JSON pointer.
pub fn plan(
    path: Option<&Path>,
    id: &str,
    mark: &str,
    resources: Option<&LinuxResources>,
    layout: &Layout,
) -> Result<Vec<(Rank, Side, Step)>> {
    let usual = PathBuf::from(format!("/jail-{id}"));
    if let Some(path) = path.filter(|_| layout.delegated.is_some() && layout.hierarchies().next().is_none()) {
        let way = "the caller may not make it; leave it out, or let root delegate a cgroup above it";
        return Err(Error::unsupported(format!("use /linux/cgroupsPath {path:?}: {way}")));
    }
    let (steps, _) = steps(layout.delegated.as_deref().or(path).unwrap_or(&usual), mark, resources, layout)?;
    Ok(placed(steps))
}

/// The steps of the host's side in the order of the hierarchies, and the rules for devices.
pub(crate) fn steps(
    path: &Path,
    mark: &str,
    resources: Option<&LinuxResources>,
    layout: &Layout,
) -> Result<(Vec<Step>, Vec<device::Rule>)> {
    check(path)?;
    let limits = resources.map(|of| limits(of, &Now::default())).transpose()?.unwrap_or_default();
    can_limit(&limits, layout)?;
    let mut rules = match resources.and_then(|r| r.devices().as_ref()).filter(|list| !list.is_empty()) {
        Some(list) => device::rules(list)?,
        None => Vec::new(),
    };
    if layout.delegated.is_some() {
        // The kernel takes them from the host's root alone. No device can be made in a user name space, and those of the
        // host are as open to the jail as to its owner.
        rules.clear();
    }
    if !rules.is_empty() && layout.v2.is_none() && !layout.v1.iter().any(|h| h.has("devices")) {
        return Err(Error::unsupported("apply /linux/resources/devices: this host has no devices controller"));
    }
    let realtime = resources.and_then(|of| realtime(of, &Now::default()));
    let want = Want { path, mark, limits: &limits, realtime, rules: &rules };
    let mut steps = Vec::new();
    if let Some(v2) = &layout.v2 {
        want.v2(v2, layout, &mut steps)?;
    }
    for hierarchy in &layout.v1 {
        want.v1(hierarchy, layout, &mut steps)?;
    }
    Ok((steps, rules))
}

/// The steps at their place; where a hierarchy of v1 is among them, the process enters those behind the clone.
pub(crate) fn placed(steps: Vec<Step>) -> Vec<(Rank, Side, Step)> {
    let v1 = steps.iter().any(|step| matches!(step, Step::Tasks { .. }));
    let enter = v1.then_some((Rank::Attach, Side::Jail, Step::Enter));
    let rank = |step: &Step| match step {
        // The kernel takes 0.2 ms to check and translate a program. (The rules of v1 are written one by one, and while
        // only the first is there, which forbids all, process 1 could make no device.)
        Step::Program { .. } => Rank::Meanwhile,
        _ => Rank::Cgroup,
    };
    steps.into_iter().map(|step| (rank(&step), Side::Host, step)).chain(enter).collect()
}

/// The steps that put one more process into the cgroups of a jail, from the objects of its journal.
///
/// On v2 the process is born into the directory that the step leaves in [`base::Ctx::cgroup`]; on v1 it moves itself.
/// Each directory is asked which of the two it is.
///
/// # Errors
/// As statfs(2).
pub fn join(objects: &[Object]) -> Result<Vec<(Rank, Side, Step)>> {
    let step = |object: &Object| {
        let dir = PathBuf::from(&object.name);
        let v2 = file_system(&dir)? == Some(CGROUP2_SUPER_MAGIC);
        Ok(if v2 { Step::Open { dir } } else { Step::Tasks { dir } })
    };
    Ok(placed(objects.iter().filter(|object| object::is_leaf(object)).map(step).collect::<Result<_>>()?))
}

/// The longest `cgroupsPath` in bytes. Every parent is a step that has its own path, so that the plan grows with the
/// square of this; and the kernel takes no path of more than PATH_MAX, the mount point included.
const LONGEST: usize = 2048;

/// Refuses a `cgroupsPath` that names no cgroup, or one above where it starts.
fn check(path: &Path) -> Result<()> {
    let wrong = |why: &str| Err(Error::invalid(format!("use /linux/cgroupsPath {path:?}: {why}")));
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return wrong("it contains a NUL");
    }
    if path.as_os_str().len() > LONGEST {
        return wrong("it is too long for a path");
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return wrong("it contains '..'");
    }
    if !path.components().any(|part| matches!(part, Component::Normal(_))) {
        return wrong("it names no cgroup");
    }
    Ok(())
}

/// The directory of `path` in `hierarchy`.
pub(crate) fn place(hierarchy: &Hierarchy, path: &Path) -> Result<PathBuf> {
    let below = |part: &Component<'_>| matches!(part, Component::Normal(_));
    let mut dir = hierarchy.mount.clone();
    if path.is_relative() {
        if hierarchy.own.components().any(|part| part == Component::ParentDir) {
            let own = hierarchy.own.display();
            return Err(Error::invalid(format!(
                "use /linux/cgroupsPath {path:?}: it is relative, and the caller's own cgroup {own} is out of sight"
            )));
        }
        dir.extend(hierarchy.own.components().filter(below));
    }
    dir.extend(path.components().filter(below));
    Ok(dir)
}

/// What every hierarchy is asked for.
struct Want<'a> {
    path: &'a Path,
    mark: &'a str,
    limits: &'a [Limit],
    realtime: Option<(i64, u64)>,
    rules: &'a [device::Rule],
}

impl Want<'_> {
    /// The limits that a hierarchy enforces.
    fn of<'b>(&'b self, hierarchy: &'b Hierarchy, layout: &'b Layout) -> impl Iterator<Item = &'b Limit> {
        self.limits.iter().filter(move |limit| limit.home(layout).is_some_and(|(home, _)| home == hierarchy))
    }

    fn v1(&self, hierarchy: &Hierarchy, layout: &Layout, steps: &mut Vec<Step>) -> Result<()> {
        let dir = place(hierarchy, self.path)?;
        self.directories(hierarchy, &dir, &[], steps);
        if hierarchy.has("cpuset") {
            steps.push(Step::Inherit { dir: dir.clone(), below: hierarchy.mount.clone() });
        }
        if let Some(realtime) = self.realtime.filter(|_| hierarchy.has("cpu")) {
            steps.push(Step::Reserve { dir: dir.clone(), below: hierarchy.mount.clone(), realtime });
        }
        steps.extend(self.of(hierarchy, layout).filter_map(|limit| set(&dir, limit, true)));
        if hierarchy.has("devices") && !self.rules.is_empty() {
            steps.push(Step::Devices { dir: dir.clone(), lines: device::v1_lines(self.rules)? });
        }
        steps.push(Step::Tasks { dir });
        Ok(())
    }

    fn v2(&self, hierarchy: &Hierarchy, layout: &Layout, steps: &mut Vec<Step>) -> Result<()> {
        let dir = place(hierarchy, self.path)?;
        let on_v1 = |controller: &str| layout.v1.iter().any(|h| h.has(controller));
        let limits: Vec<_> = self.of(hierarchy, layout).collect();
        let mut enable: Vec<String> = Vec::new();
        for limit in limits.iter().filter(|limit| !limit.controller.is_empty()) {
            if !enable.iter().any(|known| *known == limit.controller) {
                enable.push(limit.controller.to_string());
            }
        }
        self.directories(hierarchy, &dir, &enable, steps);
        steps.extend(limits.into_iter().filter_map(|limit| set(&dir, limit, false)));
        if !self.rules.is_empty() && !on_v1("devices") {
            steps.push(Step::Program { dir: dir.clone(), program: bpf::assemble(self.rules) });
        }
        steps.push(Step::Open { dir });
        Ok(())
    }

    /// The directory and those above it, with the controllers of v2 enabled on the way.
    fn directories(&self, hierarchy: &Hierarchy, dir: &Path, enable: &[String], steps: &mut Vec<Step>) {
        let directory = |path: &Path| Directory {
            path: path.to_owned(),
            mark: self.mark.to_owned(),
            below: hierarchy.mount.clone(),
            enable: enable.to_owned(),
        };
        let leaf = directory(dir);
        for above in leaf.above() {
            if above != hierarchy.mount {
                steps.push(Step::Parent(directory(above)));
            }
            if !enable.is_empty() {
                steps.push(Step::Enable { dir: above.to_owned(), controllers: enable.to_owned() });
            }
        }
        steps.push(Step::Leaf(leaf));
    }
}

/// The step that writes a limit, where there is something to write.
pub(crate) fn set(dir: &Path, limit: &Limit, is_v1: bool) -> Option<Step> {
    let files: Vec<_> = limit.files(is_v1).iter().map(|(file, value)| (file.to_string(), value.clone())).collect();
    (!files.is_empty()).then(|| Step::Set { dir: dir.to_owned(), key: limit.key.clone(), files })
}
