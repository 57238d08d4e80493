//! Cache and memory bandwidth of a jail, and what it uses of them: directories of the kernel's resctrl file system.
//!
//! Source: the kernel's filesystems/resctrl. A group that is the jail's own is made and goes with it; one that `closID`
//! names and that was there before is only joined.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use base::{Ctx, Object, Rank, Side};
use nix::errno::Errno;
use nix::sys::statfs::statfs;
use oci_spec::runtime::{LinuxIntelRdt, Spec};
use sys::{Doing, Error, Kind, Result};

/// The kind of every object here. Its name is the directory's absolute path.
pub const KIND: &str = "resctrl";

/// RDTGROUP_SUPER_MAGIC of linux/magic.h.
const MAGIC: i64 = 0x0765_5821;

/// One effect, all of the host's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The jail's class of service: made, or where `joined` may be, the one that is there.
    Group { dir: PathBuf, lines: Vec<String>, joined: bool },
    /// A group in which what the jail uses is counted.
    Monitor { dir: PathBuf },
    /// The process goes into the group.
    Enter { dir: PathBuf },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group { dir, lines, .. } if lines.is_empty() => write!(f, "use resctrl group {}", dir.display()),
            Self::Group { dir, lines, .. } => {
                write!(f, "use resctrl group {} with {}", dir.display(), lines.join(" and "))
            }
            Self::Monitor { dir } => write!(f, "make resctrl group {}", dir.display()),
            Self::Enter { dir } => write!(f, "enter resctrl group {}", dir.display()),
        }
    }
}

/// Where this host has mounted resctrl; not looked at for a jail that does not ask for it.
pub fn mount_for(spec: &Spec) -> Option<PathBuf> {
    asked(spec)?;
    let info = fs::read_to_string("/proc/self/mountinfo").ok()?;
    info.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let place = left.split(' ').nth(4)?;
        right.starts_with("resctrl ").then(|| PathBuf::from(place))
    })
}

fn asked(spec: &Spec) -> Option<&LinuxIntelRdt> {
    spec.linux().as_ref()?.intel_rdt().as_ref()
}

/// Checks `intelRdt`.
///
/// # Errors
/// `Invalid` for a name that is no directory's, and for a schema that has the form of another.
pub fn check(asked: &LinuxIntelRdt) -> Result<()> {
    let wrong = |key: &str, why: &str| Err(Error::invalid(format!("use /linux/intelRdt/{key}: {why}")));
    if let Some(name) = asked.clos_id() {
        // The last three are there in every group.
        if name.is_empty()
            || name.contains('/')
            || [".", "..", "info", "mon_groups", "mon_data"].contains(&name.as_str())
        {
            return wrong("closID", &format!("{name:?} is no name of a group"));
        }
    }
    if asked.mem_bw_schema().as_ref().is_some_and(|line| !line.starts_with("MB:") || line.contains('\n')) {
        return wrong("memBwSchema", "it is not one line that begins with MB:");
    }
    match asked.schemata().iter().flatten().position(|line| line.contains('\n') || !line.contains(':')) {
        Some(index) => wrong(&format!("schemata/{index}"), "it is not one line with a colon"),
        None => Ok(()),
    }
}

/// The lines for the file `schemata`, in the order in which they are written.
fn lines(asked: &LinuxIntelRdt) -> Vec<String> {
    let bandwidth = asked.mem_bw_schema().as_deref();
    let cache = asked.l3_cache_schema().as_deref().unwrap_or_default().lines();
    // The specification: of two bandwidths, that of `memBwSchema` counts.
    let cache = cache.filter(|line| bandwidth.is_none() || !line.trim_start().starts_with("MB:"));
    let all = cache.chain(bandwidth).chain(asked.schemata().iter().flatten().map(String::as_str));
    all.map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

/// The groups that a process of a jail is in: its class of service, and where it is counted.
#[allow(deprecated)] // `enableCMT` and `enableMBM`: callers of older versions send them.
fn groups(asked: &LinuxIntelRdt, id: &str, mount: &Path) -> (PathBuf, Option<PathBuf>) {
    let class = mount.join(asked.clos_id().as_deref().unwrap_or(id));
    let counted = [asked.enable_monitoring(), asked.enable_cmt(), asked.enable_mbm()].contains(&&Some(true));
    let monitor = counted.then(|| class.join("mon_groups").join(id));
    (class, monitor)
}

fn needed(mount: Option<&Path>) -> Result<&Path> {
    let why =
        "no resctrl file system is mounted (`mount -t resctrl resctrl /sys/fs/resctrl`, where CPU and kernel have it)";
    mount.ok_or_else(|| Error::unsupported(format!("apply /linux/intelRdt: on this host {why}")))
}

/// What makes the groups of jail `id` and takes its process 1 there.
///
/// # Errors
/// `Unsupported` where resctrl is not mounted.
pub fn plan(spec: &Spec, id: &str, mount: Option<&Path>) -> Result<Vec<(Rank, Side, Step)>> {
    let Some(asked) = asked(spec) else { return Ok(Vec::new()) };
    let (dir, monitor) = groups(asked, id, needed(mount)?);
    let group = Step::Group { dir, lines: lines(asked), joined: asked.clos_id().is_some() };
    let mut steps = vec![(Rank::Cgroup, Side::Host, group)];
    steps.extend(monitor.map(|dir| (Rank::Cgroup, Side::Host, Step::Monitor { dir })));
    steps.extend(join(spec, id, mount)?);
    Ok(steps)
}

/// What takes one more process there.
///
/// # Errors
/// As [`plan`].
pub fn join(spec: &Spec, id: &str, mount: Option<&Path>) -> Result<Vec<(Rank, Side, Step)>> {
    let Some(asked) = asked(spec) else { return Ok(Vec::new()) };
    let (class, monitor) = groups(asked, id, needed(mount)?);
    // Only a task of the class can be counted in a group of it.
    let dirs = [Some(class), monitor].into_iter().flatten();
    Ok(dirs.map(|dir| (Rank::Map, Side::Host, Step::Enter { dir })).collect())
}

impl Step {
    /// What must be gone when the jail is gone: nothing that was there before.
    pub fn makes(&self) -> Option<Object> {
        let (Self::Group { dir, .. } | Self::Monitor { dir }) = self else { return None };
        let object =
            || Object { kind: KIND.to_owned(), name: dir.to_string_lossy().into_owned(), unique: String::new() };
        (!dir.exists()).then(object)
    }

    /// Does the step.
    ///
    /// # Errors
    /// What the kernel refused, with its own words from `info/last_cmd_status`; `Exists` for another jail's group.
    pub fn run(&self, ctx: &mut Ctx) -> Result<()> {
        match self {
            Self::Group { dir, lines, joined: true } if lines.is_empty() => match dir.is_dir() {
                true => Ok(()),
                false => Err(Error::new(
                    Kind::NotFound,
                    format!("{self}: it does not exist, and /linux/intelRdt has no schema to make it with"),
                )),
            },
            Self::Group { dir, lines, joined } => match fs::create_dir(dir) {
                Err(error) if *joined && error.raw_os_error() == Some(Errno::EEXIST as i32) => self.compare(dir, lines),
                made => made
                    .map_err(|error| self.refused(dir, &error))
                    .and_then(|()| lines.iter().try_for_each(|line| self.write(dir, "schemata", &format!("{line}\n")))),
            },
            Self::Monitor { dir } => fs::create_dir(dir).map_err(|error| self.refused(dir, &error)),
            Self::Enter { dir } => {
                let pid = ctx.pid.ok_or_else(|| Error::kernel(self, Errno::ESRCH))?;
                self.write(dir, "tasks", &pid.to_string())
            }
        }
    }

    fn write(&self, dir: &Path, file: &str, text: &str) -> Result<()> {
        let opened = OpenOptions::new().write(true).open(dir.join(file));
        opened.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| self.refused(dir, &error))
    }

    /// A group that others use too keeps its schema.
    fn compare(&self, dir: &Path, lines: &[String]) -> Result<()> {
        let there = fs::read_to_string(dir.join("schemata")).doing(|| self)?;
        match lines.iter().find(|line| !has(&there, line)) {
            None => Ok(()),
            Some(line) => Err(Error::invalid(format!("{self}: the group is there, and its schemata have no {line}"))),
        }
    }

    fn refused(&self, dir: &Path, error: &std::io::Error) -> Error {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
        let status = dir.ancestors().find_map(|dir| fs::read_to_string(dir.join("info/last_cmd_status")).ok());
        match status.as_deref().map(str::trim).filter(|status| !status.is_empty() && *status != "ok") {
            Some(status) => {
                Error { kind: Error::kernel("", errno).kind, ..Error::invalid(format!("{self}: {status}")) }
            }
            None => Error::kernel(self, errno),
        }
    }
}

/// Whether the file `schemata` says what `line` asks for: each domain that it names, whatever the others are.
fn has(schemata: &str, line: &str) -> bool {
    let parse = |line: &str| -> Option<(String, Vec<(String, String)>)> {
        let (resource, domains) = line.split_once(':')?;
        let domain = |text: &str| {
            let (number, value) = text.split_once('=')?;
            Some((number.trim().to_owned(), value.trim().trim_start_matches('0').to_ascii_lowercase()))
        };
        Some((resource.trim().to_owned(), domains.split(';').filter_map(domain).collect()))
    };
    let Some((resource, wanted)) = parse(line) else { return false };
    let there = schemata.lines().filter_map(parse).find(|(name, _)| *name == resource);
    there.is_some_and(|(_, there)| wanted.iter().all(|domain| there.contains(domain)))
}

/// Removes a group that the jail has made. It comes after the cgroups, with which the jail's processes have ended: who
/// is still in it is of another jail that has joined, and the last of those has no object for it, so that it stays.
///
/// # Errors
/// The kernel's refusal.
pub fn undo(object: &Object) -> Result<()> {
    let dir = Path::new(&object.name);
    match statfs(dir) {
        Err(Errno::ENOENT) => return Ok(()),
        // A damaged journal can name any directory.
        found if found.doing(|| format!("look at {object}"))?.filesystem_type().0 != MAGIC => return Ok(()),
        _ => {}
    }
    let step = || format!("remove {object}");
    if fs::read_to_string(dir.join("tasks")).is_ok_and(|tasks| !tasks.trim().is_empty()) {
        crate::log::warn(&format!("{object} stays: processes of others are in it"));
        return Ok(());
    }
    match fs::remove_dir(dir) {
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(()),
        removed => removed.doing(step),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(rdt: Value) -> Spec {
        serde_json::from_value(json!({"ociVersion": "1.2.0", "linux": {"intelRdt": rdt}})).unwrap()
    }

    fn planned(rdt: Value) -> Vec<String> {
        let steps = plan(&spec(rdt), "web", Some(Path::new("/r"))).unwrap();
        steps.iter().map(|(rank, side, step)| format!("{rank:?} {side:?} {step}")).collect()
    }

    #[test]
    fn a_jail_has_a_group_of_its_own_name_or_of_the_name_that_it_asks_for() {
        assert_eq!(
            planned(json!({"l3CacheSchema": "L3:0=f;1=f\nMB:0=10", "memBwSchema": "MB:0=20"})),
            ["Cgroup Host use resctrl group /r/web with L3:0=f;1=f and MB:0=20", "Map Host enter resctrl group /r/web"]
        );
        assert_eq!(
            planned(json!({"closID": "gold", "schemata": ["L2:0=f"], "enableMonitoring": true})),
            [
                "Cgroup Host use resctrl group /r/gold with L2:0=f",
                "Cgroup Host make resctrl group /r/gold/mon_groups/web",
                "Map Host enter resctrl group /r/gold",
                "Map Host enter resctrl group /r/gold/mon_groups/web"
            ]
        );
        assert_eq!(planned(json!({"closID": "gold"})).len(), 2);
    }

    #[test]
    fn a_host_without_resctrl_is_named() {
        let line = plan(&spec(json!({})), "web", None).unwrap_err().to_string();
        assert!(
            line.starts_with("cannot apply /linux/intelRdt: on this host no resctrl file system is mounted"),
            "{line}"
        );
    }

    #[test]
    fn a_name_that_leads_elsewhere_and_a_schema_of_another_form_are_refused() {
        for (bad, place) in [
            (json!({"closID": "../x"}), "closID"),
            (json!({"closID": "info"}), "closID"),
            (json!({"closID": ""}), "closID"),
            (json!({"memBwSchema": "L3:0=f"}), "memBwSchema"),
            (json!({"memBwSchema": "MB:0=1\nL3:0=f"}), "memBwSchema"),
            (json!({"schemata": ["L3:0=f", "x"]}), "schemata/1"),
        ] {
            let line = check(asked(&spec(bad)).unwrap()).unwrap_err().to_string();
            assert!(line.starts_with(&format!("cannot use /linux/intelRdt/{place}: ")), "{line}");
        }
    }

    #[test]
    fn a_group_that_is_there_has_what_is_asked_for_whatever_else_it_has() {
        let there = "    MB:0= 20;1=100\n    L3:0=000ff;1=FF\n";
        for (line, wanted) in [
            ("L3:0=ff", true),
            ("L3:0=0FF;1=ff", true),
            ("MB:1=100;0=20", true),
            ("L3:0=f", false),
            ("L3:2=ff", false),
            ("L2:0=ff", false),
            ("x", false),
        ] {
            assert_eq!(has(there, line), wanted, "{line}");
        }
    }

    #[test]
    fn undo_touches_nothing_but_resctrl() {
        let dir = std::env::temp_dir().join(format!("jail-resctrl-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let object = |name: &Path| Object {
            kind: KIND.to_owned(),
            name: name.to_string_lossy().into_owned(),
            unique: String::new(),
        };
        undo(&object(&dir)).unwrap();
        assert!(dir.is_dir());
        fs::remove_dir(&dir).unwrap();
        undo(&object(&dir)).unwrap();
    }
}
