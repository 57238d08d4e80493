//! Which hierarchies of cgroups this mount name space shows, and where.

use std::fs;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs};
use sys::{Doing, Result};

use crate::plan::place;
use crate::step::read;

/// Where every distribution mounts cgroups.
const TOP: &str = "/sys/fs/cgroup";

/// One tree of cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// The controllers at its root: `cpu`, `memory`, …; `name=systemd` for a named one of v1.
    pub controllers: Vec<String>,
    /// The caller's own cgroup in it, as /proc/self/cgroup says: what a relative path starts from.
    pub own: PathBuf,
}

/// The hierarchies of this mount name space. Plain data: a test can invent one.
///
/// Only v2: a pure v2 host. Only v1: a v1 host. Both: hybrid. Neither: there are no cgroups, and limits are refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// The one tree of v2.
    pub v2: Option<Hierarchy>,
    /// The trees of v1, `freezer` last: objects are undone newest first, and nothing dies while it is frozen. That it is
    /// last, and v2 the first, is also how [`crate::freezer`] finds them.
    pub v1: Vec<Hierarchy>,
    /// Where the jail's cgroups are to be, if only what was delegated to one who is not root of the host is in this.
    pub delegated: Option<PathBuf>,
}

impl Layout {
    /// Reads the layout of this host.
    ///
    /// # Errors
    /// Where /proc/self/cgroup, a hierarchy or the root of v2 cannot be read.
    pub fn read() -> Result<Self> {
        let Some(top) = file_system(Path::new(TOP))? else { return Ok(Self::default()) };
        let own = match fs::read_to_string("/proc/self/cgroup") {
            // A kernel without cgroups.
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => return Ok(Self::default()),
            read => read.doing(|| "read /proc/self/cgroup")?,
        };
        if top == CGROUP2_SUPER_MAGIC {
            return Ok(Self { v2: v2(TOP.into(), &own)?, ..Self::default() });
        }
        let unified = Path::new(TOP).join("unified");
        let v2 = match file_system(&unified)? {
            Some(CGROUP2_SUPER_MAGIC) => v2(unified, &own)?,
            _ => None,
        };
        Ok(Self { v2, v1: v1(&own)?, delegated: None })
    }

    /// What is left of it for one who is not root of the host: the hierarchies in which he may make `path` and enter it.
    ///
    /// Where no path is given it is one near the caller's own: beside that, where its parent was delegated too, since on v2
    /// what is below a cgroup with processes of its own cannot be limited.
    #[must_use]
    pub fn delegated_to_caller(&self, path: Option<&Path>, id: &str) -> Self {
        let near = |above: usize| {
            let own = self.hierarchies().next()?.own.ancestors().nth(above)?;
            // Out of sight of this cgroup name space.
            if own.components().any(|part| part == Component::ParentDir) {
                return None;
            }
            Some(own.join(format!("jail-{id}")))
        };
        let left = |path: PathBuf| {
            let open = |hierarchy: &&Hierarchy| hierarchy.is_delegated(&path);
            let v2 = self.v2.as_ref().filter(open).cloned();
            let v1 = self.v1.iter().filter(open).cloned().collect();
            Self { v2, v1, delegated: Some(path) }
        };
        let some = |layout: &Self| layout.hierarchies().next().is_some();
        match path {
            Some(path) => left(path.to_owned()),
            None => [near(1), near(0)]
                .into_iter()
                .flatten()
                .map(left)
                .find(some)
                .unwrap_or_else(|| left(format!("/jail-{id}").into())),
        }
    }

    /// Whether the host has v2 and nothing else.
    pub fn is_pure_v2(&self) -> bool {
        self.v2.is_some() && self.v1.is_empty()
    }

    /// The hierarchy that `controller`, as v2 calls it, limits in, and whether that is one of v1. Without a name it is v2.
    pub fn home(&self, controller: &str) -> Option<(&Hierarchy, bool)> {
        let name = if controller == "io" { "blkio" } else { controller };
        let v1 = self.v1.iter().find(|hierarchy| hierarchy.has(name)).map(|found| (found, true));
        v1.or_else(|| {
            let v2 = self.v2.as_ref().filter(|hierarchy| controller.is_empty() || hierarchy.has(controller));
            v2.map(|found| (found, false))
        })
    }

    /// Every hierarchy, v2 first.
    pub fn hierarchies(&self) -> impl Iterator<Item = &Hierarchy> {
        self.v2.iter().chain(&self.v1)
    }
}

impl Hierarchy {
    /// Whether this hierarchy has `controller` at its root.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }

    /// Whether a directory can be made at `path` with the caller's own right to it, and a process of his be moved there.
    fn is_delegated(&self, path: &Path) -> bool {
        let Ok(dir) = place(self, path) else { return false };
        let may_write = sys::user::may_write;
        // What is there already is above it, or is it.
        let Some(above) = dir.ancestors().skip(1).find(|dir| dir.exists()) else { return false };
        if !above.starts_with(&self.mount) || !may_write(above) || (dir.exists() && !may_write(&dir)) {
            return false;
        }
        // On v2 the right to move is that to the nearest directory above both places: admin-guide/cgroup-v2, "Delegation
        // Containment".
        let own = self.mount.join(self.own.strip_prefix("/").unwrap_or(&self.own));
        let common = above.ancestors().find(|dir| own.starts_with(dir)).unwrap_or(&self.mount);
        common.join("tasks").exists() || may_write(&common.join("cgroup.procs"))
    }
}

/// The type of the file system that `path` shows, `None` where there is nothing.
///
/// # Errors
/// As statfs(2): what cannot be looked at must not count as missing, and leave a jail without cgroups.
pub(crate) fn file_system(path: &Path) -> Result<Option<FsType>> {
    match statfs(path) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        found => found.map(|found| Some(found.filesystem_type())).doing(|| format!("look at {}", path.display())),
    }
}

/// Whether `path` is on a cgroup file system of either version.
///
/// # Errors
/// As statfs(2).
pub(crate) fn is_cgroup(path: &Path) -> Result<bool> {
    Ok(matches!(file_system(path)?, Some(CGROUP_SUPER_MAGIC | CGROUP2_SUPER_MAGIC)))
}

fn v2(mount: PathBuf, own: &str) -> Result<Option<Hierarchy>> {
    let Some(own) = own.lines().find_map(|line| line.strip_prefix("0::")) else { return Ok(None) };
    let controllers = read(&mount.join("cgroup.controllers"))?;
    let controllers = controllers.split_whitespace().map(str::to_owned).collect();
    Ok(Some(Hierarchy { mount, controllers, own: own.into() }))
}

fn v1(own: &str) -> Result<Vec<Hierarchy>> {
    let mut found = Vec::new();
    let mut mountinfo = None;
    for (names, own) in own.lines().filter_map(v1_line) {
        // The conventional place first: a table of a thousand mounts need not be read then, and a mount that another
        // one hides is in the table too.
        let usual = Path::new(TOP).join(names.strip_prefix("name=").unwrap_or(names));
        let mount = if is_v1(&usual)? {
            usual
        } else {
            if mountinfo.is_none() {
                mountinfo = Some(fs::read_to_string("/proc/self/mountinfo").doing(|| "read /proc/self/mountinfo")?);
            }
            match mounted(mountinfo.as_deref().unwrap_or_default(), names) {
                Some(mount) if is_v1(&mount)? => mount,
                _ => continue,
            }
        };
        let controllers = names.split(',').map(str::to_owned).collect();
        found.push(Hierarchy { mount, controllers, own: own.into() });
    }
    found.sort_by_key(|hierarchy| hierarchy.has("freezer"));
    Ok(found)
}

fn is_v1(path: &Path) -> Result<bool> {
    Ok(file_system(path)? == Some(CGROUP_SUPER_MAGIC))
}

/// `(controllers, path)` of a line of /proc/PID/cgroup; `None` for that of v2.
fn v1_line(line: &str) -> Option<(&str, &str)> {
    let (_, rest) = line.split_once(':')?;
    rest.split_once(':').filter(|(names, _)| !names.is_empty())
}

/// Where the table of proc_pid_mountinfo(5) says that the hierarchy with the controllers `names` is mounted.
fn mounted(mountinfo: &str, names: &str) -> Option<PathBuf> {
    let mount = mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let options = (right.next()? == "cgroup").then(|| right.nth(1))??;
        let there = names.split(',').all(|name| options.split(',').any(|option| option == name));
        there.then(|| left.split(' ').nth(4))?
    })?;
    // An octal escape stands for a blank, which no mount point of cgroups has; such a one is not taken.
    (!mount.contains('\\')).then(|| mount.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_v1_has_controllers_and_a_path_that_may_contain_colons() {
        assert_eq!(v1_line("4:cpu,cpuacct:/a:b"), Some(("cpu,cpuacct", "/a:b")));
        assert_eq!(v1_line("9:name=systemd:/"), Some(("name=systemd", "/")));
        assert_eq!(v1_line("0::/x"), None);
        assert_eq!(v1_line(""), None);
    }

    #[test]
    fn joint_controllers_are_found_in_any_order_of_the_mount_table() {
        let table = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                     32 31 0:29 / /sys/fs/cgroup/cpuacct,cpu rw shared:5 - cgroup cgroup rw,cpuacct,cpu\n\
                     33 31 0:30 / /cg/sys\\040temd rw - cgroup cgroup rw,xattr,name=systemd\n";
        assert_eq!(mounted(table, "cpu,cpuacct"), Some("/sys/fs/cgroup/cpuacct,cpu".into()));
        assert_eq!(mounted(table, "name=systemd"), None);
        assert_eq!(mounted(table, "memory"), None);
    }

    #[test]
    fn the_layout_of_this_host_can_be_read() {
        let layout = Layout::read().unwrap();
        for hierarchy in layout.hierarchies() {
            assert!(hierarchy.mount.join("cgroup.procs").exists(), "{hierarchy:?}");
        }
        println!("{layout:#?}");
    }
}
