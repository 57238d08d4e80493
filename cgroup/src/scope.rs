//! Control groups by systemd: a jail is a transient scope, delegated to the runtime.
//!
//! There is no scope without a process, and process 1 is to be born into its cgroups like that of any jail. So a child of
//! the runtime that only waits is there first: systemd moves it, the jail's marks and limits are put on the directories,
//! process 1 comes in, and the one that waited ends. Neither outlives a runtime that is killed meanwhile.
//!
//! What systemd has a property for is one, since it writes such files anew when it likes; all limits are also written to
//! the files, since it has no property for many.
//! Source: systemd.scope(5), systemd.resource-control(5), systemd's CGROUP_DELEGATION.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use base::{Object, Rank, Side};
use nix::unistd::Pid;
use oci_spec::runtime::LinuxResources;
use sys::{Child, Doing, Error, Kind, Result};

use crate::bus::{self, Bus, PATIENCE, Refused, Unit};
use crate::device::{self, Class, Rule};
use crate::holder::{self, Release};
use crate::layout::Layout;
use crate::name::Name;
use crate::object::{self, same_jail};
use crate::plan::{place, placed, steps};
use crate::process;
use crate::property::{self, Property, Value};
use crate::step::{Step, read};

/// The kind of the object that a scope is. Its name is that of the unit, its `unique` the mark in its description.
pub const KIND: &str = "scope";

/// What is known of this host's systemd before a jail is planned.
#[derive(Clone, Debug)]
pub struct Systemd {
    name: Name,
    version: u32,
    /// The cgroup that its units are below.
    group: String,
    /// The unit that has the jail's name already.
    unit: Option<Unit>,
    /// The kinds of devices that the kernel has drivers for: /proc/devices.
    devices: String,
}

impl Systemd {
    /// Asks systemd; changes nothing. `path` is `linux.cgroupsPath` of the jail `id`.
    ///
    /// # Errors
    /// `Invalid` for a path that is none, `Unsupported` where there is no systemd to talk to.
    pub fn look(path: Option<&Path>, id: &str) -> Result<Self> {
        let name = Name::of(path, id)?;
        if !sys::user::is_host_root() {
            let way = "without it the cgroup is made where one was delegated";
            return Err(Error::unsupported(format!("use --systemd-cgroup: only root of the host can yet; {way}")));
        }
        let bus = Bus::open(Instant::now() + PATIENCE, "use --systemd-cgroup").map_err(|mut error| {
            error.what += "; without --systemd-cgroup the cgroup is made directly";
            error
        })?;
        Ok(Self {
            version: bus.version()?,
            group: bus.control_group()?,
            unit: bus.unit(&name.unit)?,
            name,
            devices: fs::read_to_string("/proc/devices").doing(|| "read /proc/devices")?,
        })
    }
}

/// What a jail asks for.
#[derive(Debug)]
pub struct Ask<'a> {
    /// Its name.
    pub id: &'a str,
    /// What is put on its directories, and into the description of its scope.
    pub mark: &'a str,
    /// Its limits.
    pub resources: Option<&'a LinuxResources>,
    /// Its annotations, some of which are properties.
    pub annotations: Option<&'a HashMap<String, String>>,
}

/// The steps for a jail in a scope: those of any other, between the start of the scope and the release of who holds it.
///
/// # Errors
/// As [`crate::plan`]; `Exists` where another unit has the name.
pub fn plan(ask: &Ask<'_>, systemd: &Systemd, layout: &Layout) -> Result<Vec<(Rank, Side, Step)>> {
    let Name { slice, unit, path } = &systemd.name;
    if let Some(found) = systemd.unit.as_ref().filter(|found| !is_left_over(found, ask.mark)) {
        return Err(exists(unit, found, ask.mark));
    }
    let path = Path::new("/").join(systemd.group.trim_start_matches('/')).join(path);
    let (steps, rules) = steps(&path, ask.mark, ask.resources, layout)?;
    // systemd counts processes in one of these two.
    let own = layout.v2.iter().chain(layout.v1.iter().filter(|h| h.has("name=systemd")));
    let dirs = own.map(|hierarchy| place(hierarchy, &path)).collect::<Result<Vec<_>>>()?;
    if dirs.is_empty() {
        return Err(Error::unsupported("use --systemd-cgroup: no hierarchy of cgroups here is systemd's"));
    }
    let v1 = !layout.is_pure_v2();
    let yes = |name| Property::new(name, Value::Bool(true));
    let mut properties = vec![
        Property::text("Description", &format!("jail {} ({})", ask.id, ask.mark)),
        Property::text("Slice", slice),
        yes("Delegate"),
        Property::new("DefaultDependencies", Value::Bool(false)),
    ];
    let io = if v1 { "BlockIOAccounting" } else { "IOAccounting" };
    properties.extend(["MemoryAccounting", "CPUAccounting", io, "TasksAccounting"].map(yes));
    properties.extend(ask.annotations.map(property::of_annotations).transpose()?.into_iter().flatten());
    properties.extend(property::of_new_files(files(&steps), systemd.version));
    properties.extend(devices(&rules, v1, &systemd.devices)?);
    // Where process 1 is not born into what systemd counts processes in, it must be moved there.
    let enter = if layout.v2.is_none() { dirs.first().cloned() } else { None };
    let scope = Scope { unit: unit.clone(), mark: ask.mark.to_owned(), dirs, properties };
    // The holder does not count among the jail's processes.
    let limits: Vec<_> = steps.iter().filter(|step| limits_processes(step)).cloned().collect();
    let steps = [Step::Scope(scope)].into_iter().chain(steps.into_iter().map(without_limit_of_processes));
    let after = [Step::Release(Release { enter })].into_iter().chain(limits);
    let after = after.map(|step| (Rank::Meanwhile, Side::Host, step));
    Ok(placed(steps.collect()).into_iter().chain(after).collect())
}

fn limits_processes(step: &Step) -> bool {
    matches!(step, Step::Set { files, .. } if files.iter().any(|(file, _)| file == "pids.max"))
}

/// The same step, but where it limits processes one that takes away the limit that systemd has set.
fn without_limit_of_processes(mut step: Step) -> Step {
    if let Step::Set { files, .. } = &mut step {
        files.iter_mut().filter(|(file, _)| file == "pids.max").for_each(|(_, value)| *value = "max".to_owned());
    }
    step
}

/// What is written to files by STEPS.
fn files(steps: &[Step]) -> impl Iterator<Item = (&str, &str)> + Clone {
    let files = steps.iter().filter_map(|step| match step {
        Step::Set { files, .. } => Some(files),
        _ => None,
    });
    files.flatten().map(|(file, value)| (file.as_str(), value.as_str()))
}

/// The rules for devices, as systemd has them: all is forbidden but a list. On v2 that list and the program of our own must
/// both allow; on v1 systemd may write its own over ours.
fn devices(rules: &[Rule], v1: bool, known: &str) -> Result<Vec<Property>> {
    let all = rules.iter().all(|rule| rule.allow);
    let allowed = match device::allowed(rules) {
        _ if all => return Ok(Vec::new()),
        None if v1 => {
            let why = "on cgroup v1 systemd can only forbid all devices and allow some";
            return Err(Error::unsupported(format!("apply /linux/resources/devices with --systemd-cgroup: {why}")));
        }
        None => return Ok(Vec::new()),
        Some(allowed) => allowed,
    };
    let words: Vec<_> =
        allowed.iter().map(|rule| word(rule, known).map(|word| (word, rule.access.to_string()))).collect();
    // What systemd cannot say is said by our program alone.
    if !v1 && words.contains(&None) {
        return Ok(Vec::new());
    }
    let words = Value::Pairs(words.into_iter().flatten().collect());
    Ok(vec![Property::text("DevicePolicy", "strict"), Property::new("DeviceAllow", words)])
}

/// What systemd calls the devices of a rule; all minors of a major are the name of their driver.
fn word(rule: &Rule, known: &str) -> Option<String> {
    let (class, heading) = match rule.class? {
        Class::Character => ("char", "Character devices:"),
        Class::Block => ("block", "Block devices:"),
    };
    match (rule.major, rule.minor) {
        (None, None) => Some(format!("{class}-*")),
        (Some(major), Some(minor)) => Some(format!("/dev/{class}/{major}:{minor}")),
        (Some(major), None) => {
            let lines = known.lines().skip_while(|line| *line != heading).skip(1).take_while(|line| !line.is_empty());
            let mut drivers = lines.filter_map(|line| line.trim().split_once(' '));
            let driver = drivers.find(|(number, _)| number.parse() == Ok(major))?.1;
            Some(format!("{class}-{driver}"))
        }
        (None, Some(_)) => None,
    }
}

/// The mark in the description of a jail's scope.
fn mark_of(unit: &Unit) -> Option<&str> {
    Some(unit.description.strip_suffix(')')?.rsplit_once('(')?.1)
}

/// Whether a unit is what systemd remembers of the same jail, which has ended badly.
fn is_left_over(unit: &Unit, mark: &str) -> bool {
    unit.state == "failed" && mark_of(unit).is_some_and(|other| same_jail(other, mark))
}

fn exists(name: &str, unit: &Unit, mark: &str) -> Error {
    let Unit { description, state } = unit;
    let whose = match mark_of(unit).is_some_and(|other| same_jail(other, mark)) {
        true => format!("is left of an earlier jail (`systemctl stop {name}` ends it)"),
        false => "is another's".to_owned(),
    };
    Error::new(Kind::Exists, format!("start {name}: it already exists, and {whose}: {description}, {state}"))
}

/// The start of a scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    unit: String,
    mark: String,
    /// Its directories; in one of them process 1 is afterwards.
    dirs: Vec<PathBuf>,
    properties: Vec<Property>,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let properties: Vec<_> = self.properties.iter().map(ToString::to_string).collect();
        write!(f, "start {} by systemd with {}", self.unit, properties.join(", "))
    }
}

impl Scope {
    pub(crate) fn object(&self) -> Object {
        Object { kind: KIND.to_owned(), name: self.unit.clone(), unique: self.mark.clone() }
    }

    /// Starts it; gives the process in it, which waits for ever and dies with the runtime.
    pub(crate) fn start(&self) -> Result<Child> {
        let holder = holder::start().doing(|| format!("start {}", self.unit))?;
        match self.start_with(holder.pid) {
            Ok(()) => Ok(holder),
            Err(error) => Err(holder::end(&holder).err().map_or(error.clone(), |other| error.and(other))),
        }
    }

    fn start_with(&self, holder: Pid) -> Result<()> {
        let unit = &self.unit;
        let bus = Bus::open(Instant::now() + PATIENCE, format_args!("start {unit}"))?;
        let mut properties = self.properties.clone();
        properties.push(Property::new("PIDs", Value::Numbers(vec![holder.as_raw().unsigned_abs()])));
        match bus.start(unit, &properties) {
            Err(Refused::Exists) => match bus.unit(unit)? {
                Some(found) if !is_left_over(&found, &self.mark) => return Err(exists(unit, &found, &self.mark)),
                _ => {
                    bus.reset(unit)?;
                    bus.start(unit, &properties).map_err(|refused| refused.because(unit))?;
                }
            },
            done => done.map_err(|refused| refused.because(unit))?,
        }
        bus.settle()?;
        match self.dirs.iter().any(|dir| process::is_in(dir, holder)) {
            true => Ok(()),
            false => {
                let dirs: Vec<_> = self.dirs.iter().map(|dir| dir.display().to_string()).collect();
                let where_to = dirs.join(" or ");
                Err(Error::new(Kind::Kernel, format!("start {unit}: systemd has not put a process into {where_to}")))
            }
        }
    }
}

/// The scopes that directories of jails are of, which were found without a journal. [`undo`] looks whether they are.
pub fn of_directories(found: &[Object]) -> Vec<Object> {
    let mut scopes: Vec<Object> = Vec::new();
    for leaf in found.iter().filter(|object| object::is_leaf(object)) {
        let name = Path::new(&leaf.name).file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.ends_with(".scope") && !scopes.iter().any(|scope| scope.name == name) {
            scopes.push(Object { kind: KIND.to_owned(), name: name.to_owned(), unique: leaf.unique.clone() });
        }
    }
    scopes
}

/// Stops the scope of `object`, and lets systemd forget it. A unit without the object's mark is somebody else's, and stays.
///
/// # Errors
/// `Kernel` where systemd does not answer in time.
pub fn undo(object: &Object, deadline: Instant) -> Result<()> {
    let name = &object.name;
    if bus::is_absent()? {
        return Ok(());
    }
    let bus = Bus::open(deadline, format_args!("stop {name}"))?;
    match bus.unit(name)? {
        Some(unit) if mark_of(&unit) == Some(&object.unique) => {
            if !matches!(unit.state.as_str(), "failed" | "inactive") {
                bus.stop(name)?;
            }
            bus.reset(name)
        }
        _ => Ok(()),
    }
}

/// A change of properties of a scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    unit: String,
    version: u32,
    properties: Vec<Property>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let properties: Vec<_> = self.properties.iter().map(ToString::to_string).collect();
        write!(f, "set {} of {}", properties.join(", "), self.unit)
    }
}

impl Change {
    /// What the scope among OBJECTS, if there is one, must be told before STEPS write to files.
    ///
    /// # Errors
    /// Where systemd cannot be asked for its version.
    pub(crate) fn plan(objects: &[Object], steps: &[Step]) -> Result<Option<Step>> {
        let change = Self::of(objects, files(steps))?;
        Ok(change.filter(|change| !change.properties.is_empty()).map(Step::Properties))
    }

    fn of<'a>(objects: &[Object], files: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Option<Self>> {
        let Some(scope) = scope_of(objects) else { return Ok(None) };
        let version = Bus::open(Instant::now() + PATIENCE, format_args!("change {}", scope.name))?.version()?;
        Ok(Some(Self { unit: scope.name.clone(), version, properties: Vec::new() }.with(files)))
    }

    /// The change of the same scope for other FILES.
    pub(crate) fn with<'a>(&self, files: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let properties = property::of_files(files, self.version);
        Self { unit: self.unit.clone(), version: self.version, properties }
    }

    /// Gives the scope among OBJECTS, if there is one, what it had when its files were FILES.
    ///
    /// # Errors
    /// Where systemd refuses it or does not answer; a scope that has ended has nothing to get back.
    pub(crate) fn back<'a>(objects: &[Object], files: impl Iterator<Item = (&'a str, &'a str)>) -> Result<()> {
        match Self::of(objects, files)?.map(|change| change.apply()) {
            Some(Err(error)) if error.kind != Kind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    pub(crate) fn apply(&self) -> Result<()> {
        if self.properties.is_empty() {
            return Ok(());
        }
        Bus::open(Instant::now() + PATIENCE, self)?.set(&self.unit, &self.properties)
    }
}

fn scope_of(objects: &[Object]) -> Option<&Object> {
    objects.iter().find(|object| object.kind == KIND)
}

/// Files that systemd may write when it is told of anything, and rounds to whole percents.
const ROUNDED: [&str; 3] = ["cpu.max", "cpu.cfs_period_us", "cpu.cfs_quota_us"];

/// The steps that write such files of a scope as they are now, where STEPS do not write them. `dir` is where they are.
///
/// # Errors
/// Where one cannot be read.
pub(crate) fn rounded(objects: &[Object], dir: &Path, steps: &[Step]) -> Result<Vec<Step>> {
    if scope_of(objects).is_none() || files(steps).next().is_none() {
        return Ok(Vec::new());
    }
    let missing = |file: &&str| dir.join(file).exists() && !files(steps).any(|(known, _)| known == *file);
    let step = |file: &str| {
        let files = vec![(file.to_owned(), read(&dir.join(file))?.trim().to_owned())];
        Ok(Step::Set { dir: dir.to_owned(), key: "cpu/quota".to_owned(), files })
    };
    ROUNDED.into_iter().filter(missing).map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Hierarchy;

    const KNOWN: &str = "Character devices:\n  1 mem\n  4 /dev/vc/0\n  4 tty\n136 pts\n\nBlock devices:\n  8 sd\n";

    fn listed(json: &str, v1: bool) -> Result<Vec<String>> {
        let rules = device::rules(&serde_json::from_str::<Vec<_>>(json).unwrap()).unwrap();
        let found = devices(&rules, v1, KNOWN)?;
        Ok(match found.last().map(|property| property.value.clone()) {
            Some(Value::Pairs(pairs)) => pairs.into_iter().map(|(node, access)| format!("{node} {access}")).collect(),
            _ => Vec::new(),
        })
    }

    #[test]
    fn a_list_of_what_is_allowed_is_systemds_too() {
        let json = r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":10,"minor":200,"access":"rw"},
            {"allow":true,"type":"b","major":8,"access":"r"}]"#;
        let found = listed(json, false).unwrap();
        assert_eq!(found[..4], ["/dev/char/10:200 rw", "block-sd r", "block-* m", "char-* m"]);
        assert!(found.contains(&"char-pts rwm".to_owned()) && found.contains(&"/dev/char/1:3 rwm".to_owned()));
    }

    #[test]
    fn what_systemd_cannot_say_is_left_to_our_program_and_refused_where_there_is_none() {
        // A driver that is not there; a rule that forbids.
        let unknown = r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":195,"access":"rw"}]"#;
        assert_eq!(listed(unknown, false).unwrap(), [""; 0]);
        assert!(!listed(unknown, true).unwrap().iter().any(|word| word.contains("195")));
        let forbids = r#"[{"allow":false,"type":"c","major":1,"minor":11,"access":"rwm"}]"#;
        assert_eq!(listed(forbids, false).unwrap(), [""; 0]);
        assert_eq!(listed(forbids, true).unwrap_err().kind, Kind::Unsupported);
        assert_eq!(listed(r#"[{"allow":true,"access":"rwm"}]"#, true).unwrap(), [""; 0]);
    }

    /// The steps on LAYOUT for a jail with a limit of processes.
    fn planned(layout: &Layout, unit: Option<Unit>) -> Result<Vec<String>> {
        let name = Name::of(Some(Path::new("a.slice:p:n")), "id")?;
        let systemd = Systemd { name, version: 252, group: String::new(), unit, devices: KNOWN.to_owned() };
        let resources = serde_json::from_str(r#"{"pids":{"limit":7}}"#).unwrap();
        let ask = Ask { id: "id", mark: "12ab-02", resources: Some(&resources), annotations: None };
        let steps = plan(&ask, &systemd, layout)?;
        Ok(steps.iter().map(|(rank, _, step)| format!("{rank:?}: {step}")).collect())
    }

    fn hierarchy(mount: &str, controllers: &[&str]) -> Hierarchy {
        let controllers = controllers.iter().map(ToString::to_string).collect();
        Hierarchy { mount: mount.into(), controllers, own: "/".into() }
    }

    #[test]
    fn process_1_is_born_between_the_start_of_the_scope_and_the_end_of_who_holds_it() {
        let v2 = Layout { v2: Some(hierarchy("/c", &["pids"])), ..Layout::default() };
        let steps = planned(&v2, None).unwrap();
        assert!(
            steps[0]
                .starts_with("Cgroup: start p-n.scope by systemd with Description=jail id (12ab-02), Slice=a.slice,")
        );
        assert!(steps[0].contains(", TasksMax=7") && steps[0].contains("IOAccounting=yes"), "{}", steps[0]);
        let last = steps.len() - 4;
        let expected = [
            "Cgroup: set pids.max to max in /c/a.slice/p-n.scope",
            "Cgroup: open cgroup /c/a.slice/p-n.scope",
            "Meanwhile: end the process that held the scope",
            "Meanwhile: set pids.max to 7 in /c/a.slice/p-n.scope",
        ];
        assert_eq!(steps[last..], expected);
    }

    #[test]
    fn on_v1_process_1_is_moved_to_where_systemd_looks_before_who_holds_the_scope_ends() {
        let v1 = vec![hierarchy("/c/systemd", &["name=systemd"]), hierarchy("/c/pids", &["pids"])];
        let steps = planned(&Layout { v1, ..Layout::default() }, None).unwrap();
        assert!(steps[0].contains("BlockIOAccounting=yes"), "{}", steps[0]);
        let moved = "Meanwhile: move process 1 into /c/systemd/a.slice/p-n.scope, end the process that held the scope"
            .to_owned();
        assert!(steps.contains(&moved) && steps.contains(&"Attach: enter the cgroups".to_owned()), "{steps:#?}");
        let none = planned(&Layout::default(), None).unwrap_err();
        assert_eq!(none.kind, Kind::Unsupported);
    }

    #[test]
    fn a_name_that_another_unit_has_is_refused_before_anything_is_touched() {
        let v2 = Layout { v2: Some(hierarchy("/c", &["pids"])), ..Layout::default() };
        let unit = |description: &str, state: &str| {
            Some(Unit { description: description.to_owned(), state: state.to_owned() })
        };
        for (unit, words) in [
            (unit("libcontainer container n", "failed"), "it already exists, and is another's"),
            (unit("jail id (12ac-01)", "active"), "it already exists, and is another's"),
            (unit("jail id (12ab-01)", "active"), "`systemctl stop p-n.scope` ends it"),
        ] {
            let error = planned(&v2, unit).unwrap_err();
            assert!(error.kind == Kind::Exists && error.what.contains(words), "{error}");
        }
        planned(&v2, unit("jail id (12ab-01)", "failed")).unwrap();
    }

    #[test]
    fn only_a_failed_scope_of_the_same_jail_is_left_over() {
        let unit =
            |description: &str, state: &str| Unit { description: description.to_owned(), state: state.to_owned() };
        assert!(is_left_over(&unit("jail a (12ab-01)", "failed"), "12ab-02"));
        assert!(!is_left_over(&unit("jail a (12ab-01)", "active"), "12ab-02"));
        assert!(!is_left_over(&unit("jail a (12ac-01)", "failed"), "12ab-02"));
        assert!(!is_left_over(&unit("libcontainer container a", "failed"), "12ab-02"));
    }
}
