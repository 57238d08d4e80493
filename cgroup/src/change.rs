//! A change of the limits of a jail that lives: planned as those of a new one are, and written as a whole or not at all.

use std::path::{Path, PathBuf};

use base::{Ctx, Object};
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};
use sys::{Doing, Error, Kind, Result};

use crate::layout::Layout;
use crate::limit::{Limit, Now, can_limit, limits, realtime};
use crate::object::{self, Mark};
use crate::plan::set;
use crate::scope::{self, Change};
use crate::seat::{Seat, Seats};
use crate::step::{Step, above, read, write};
use crate::{machine, realtime};

/// What has to be done for the limits in `resources`, in the cgroups that `objects` name and that carry their marks.
///
/// What is absent stays, and so is a number that is 0, as callers written in Go mean it. Nothing is touched here.
///
/// # Errors
/// As [`crate::plan`]; `WrongState` where the jail has no cgroup that the limit could be in.
pub fn plan(objects: &[Object], resources: &LinuxResources, layout: &Layout) -> Result<Vec<Step>> {
    let seats = Seats { objects, layout };
    let mut resources = resources.clone();
    if resources.pids().is_some_and(|pids| pids.limit() == 0) {
        resources.set_pids(None);
    }
    let now = now(&seats)?;
    let limits = limits(&resources, &now)?;
    can_limit(&limits, layout)?;
    machine::check(&limits, layout)?;
    if resources.memory().is_some_and(|memory| memory.check_before_update() == Some(true)) {
        refuse_less_than_used(&seats, &limits)?;
    }
    let (mut before, mut steps) = (Vec::new(), Vec::new());
    if let Some((wanted, seat)) = realtime(&resources, &now).zip(seats.of("cpu")).filter(|(_, seat)| seat.is_v1) {
        let above = realtime::above_needs(&seat.dir, &seat.hierarchy.mount, wanted)?;
        let set = |(dir, value)| Step::Set {
            dir,
            key: REALTIME.to_owned(),
            files: vec![(realtime::RUNTIME.to_owned(), value)],
        };
        steps.extend(above.into_iter().map(set));
    }
    for limit in limits.iter().filter(|limit| limit.home(layout).is_some()) {
        let seat = seats.of(&limit.controller).ok_or_else(|| {
            let (key, controller) = (&limit.key, &limit.controller);
            let text = format!("apply /linux/resources/{key}: the jail has no cgroup with the {controller} controller");
            Error::new(Kind::WrongState, text)
        })?;
        if !seat.is_v1 && !limit.controller.is_empty() {
            let enable = enable_for(&seat, &limit.controller);
            before.extend(enable.into_iter().filter(|step| !before.contains(step)).collect::<Vec<_>>());
        }
        steps.extend(set(&seat.dir, limit, seat.is_v1));
    }
    if let Some(seat) = seats.of("cpu") {
        steps.extend(scope::rounded(objects, &seat.dir, &steps)?);
    }
    before.extend(Change::plan(objects, &steps)?);
    before.extend(steps);
    Ok(before)
}

/// Where real-time scheduling is in the document.
const REALTIME: &str = "cpu/realtimeRuntime";

/// Enables the controllers that steps of [`plan`] need.
///
/// One that was enabled stays so, also where the change is taken back: by itself it limits nothing, and to switch it off
/// would silently take away the limits of a jail that came to use it meanwhile.
///
/// # Errors
/// The first cause.
pub fn enable(steps: &[Step]) -> Result<()> {
    let mut enable = steps.iter().filter(|step| matches!(step, Step::Enable { .. }));
    enable.try_for_each(|step| step.run(&mut Ctx::default()))
}

/// What a file has before it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Old {
    dir: PathBuf,
    file: String,
    /// The text that brings it back.
    text: String,
}

/// What the files of steps of [`plan`] have now, in their order.
///
/// # Errors
/// Where one cannot be read.
pub fn before(steps: &[Step]) -> Result<Vec<Old>> {
    let mut all = Vec::new();
    for step in steps {
        let Step::Set { dir, files, .. } = step else { continue };
        for (file, value) in files {
            let text = old(dir, file, value)?;
            all.extend(text.map(|text| Old { dir: dir.clone(), file: file.clone(), text }));
        }
    }
    Ok(all)
}

/// Writes the limits of steps of [`plan`]. Where one does not work, all get back what [`before`] has seen.
///
/// # Errors
/// The first cause, and after it what could not be written back.
pub fn apply(steps: &[Step], old: &[Old]) -> Result<()> {
    let run = |step: &Step| step.run(&mut Ctx::default());
    // What systemd writes, it writes to the same files; so it comes first, there and back.
    let changes: Vec<_> = steps.iter().filter(|step| matches!(step, Step::Properties(_))).collect();
    changes.iter().try_for_each(|step| run(step))?;
    let mut limits = steps.iter().filter(|step| matches!(step, Step::Set { .. }));
    let Err(error) = limits.try_for_each(run) else { return Ok(()) };
    let back = changes.into_iter().filter_map(|step| match step {
        Step::Properties(change) => change.with(texts(old)).apply().err(),
        _ => None,
    });
    Err(back.chain(write_back(old)).fold(error, Error::and))
}

/// Files and what they had.
fn texts(old: &[Old]) -> impl Iterator<Item = (&str, &str)> {
    old.iter().map(|one| (one.file.as_str(), one.text.as_str()))
}

/// Writes back what differs, and returns what could not be.
fn write_back(old: &[Old]) -> Vec<Error> {
    // Backwards: what was a valid state on the way is one on the way back.
    old.iter().rev().filter_map(|one| one.write_back().err()).collect()
}

/// Takes back a change that was interrupted. Only what is in the jail's own directories, or above them in one that jails
/// have made, is written: the record of a change can be damaged or forged.
///
/// # Errors
/// What could not be written back, all of it.
pub fn take_back(old: &[Old], objects: &[Object]) -> Result<()> {
    let ours = |one: &&Old| {
        let named = |object: &Object| Path::new(&object.name) == one.dir && object::is_ours(object);
        let above = |object: &Object| Path::new(&object.name).starts_with(&one.dir) && object::is_ours(object);
        let parent = || matches!(Mark::of(&one.dir), Ok(Mark::Parent(_))) && objects.iter().any(above);
        !one.file.contains('/') && (objects.iter().any(named) || parent())
    };
    let old: Vec<_> = old.iter().filter(ours).cloned().collect();
    let unit = Change::back(objects, texts(&old)).err();
    unit.into_iter().chain(write_back(&old)).reduce(Error::and).map_or(Ok(()), Err)
}

impl Old {
    fn write_back(&self) -> Result<()> {
        if old(&self.dir, &self.file, &self.text)?.is_none_or(|now| now == self.text) {
            return Ok(());
        }
        let step = || format!("set {} back to {} in {}", self.file, self.text.trim(), self.dir.display());
        write(&self.dir.join(&self.file), &self.text).doing(step)
    }
}

/// Files with one line for each device and the like, and what the line says of one that has no limit.
const LINES: &[(&str, &str)] = &[
    ("io.max", "rbps=max wbps=max riops=max wiops=max"),
    ("io.weight", "default"),
    ("io.bfq.weight", "default"),
    ("io.latency", "target=0"),
    ("misc.max", "max"),
    ("rdma.max", "hca_handle=max hca_object=max"),
    ("net_prio.ifpriomap", "0"),
    ("blkio.bfq.weight_device", "default"),
    ("blkio.weight_device", "0"),
    ("blkio.leaf_weight_device", "0"),
    ("blkio.throttle.read_bps_device", "0"),
    ("blkio.throttle.write_bps_device", "0"),
    ("blkio.throttle.read_iops_device", "0"),
    ("blkio.throttle.write_iops_device", "0"),
];

/// What would have to be written to `file` of `dir` to undo that `value` is; nothing where the file is not there, or
/// where another file brings it back.
fn old(dir: &Path, file: &str, value: &str) -> Result<Option<String>> {
    let path = dir.join(file);
    if !path.exists() {
        return Ok(None);
    }
    let text = read(&path)?;
    if let Some((_, none)) = LINES.iter().find(|(name, _)| *name == file) {
        // A weight without a device is that of all others.
        let word = value.split_whitespace().next().unwrap_or_default();
        let key = if word.bytes().all(|byte| byte.is_ascii_digit()) { "default" } else { word };
        let line = text.lines().find(|line| line.split(' ').next() == Some(key));
        return Ok(Some(line.map_or_else(|| format!("{key} {none}"), str::to_owned)));
    }
    Ok(match file {
        "memory.oom_control" => text.lines().find_map(|line| line.strip_prefix("oom_kill_disable ")).map(str::to_owned),
        // An idle cgroup has none, and gets it back with that.
        "cpu.weight" if text.trim() == "0" => None,
        // As it is, with its newline: to write nothing at all would not empty a list of CPUs.
        _ => Some(text),
    })
}

/// What the jail has now.
fn now(seats: &Seats<'_>) -> Result<Now> {
    let mut now = Now::default();
    if let Some(seat) = seats.of("memory") {
        now.memory = seat.number("memory.limit_in_bytes", "memory.max")?;
        now.swap = seat.number("memory.memsw.limit_in_bytes", "memory.swap.max")?;
        now.waits_for_memory = seat.is_v1 && seat.text("memory.oom_control")?.starts_with("oom_kill_disable 1");
    }
    if let Some(seat) = seats.of("cpu") {
        now.quota = seat.number("cpu.cfs_quota_us", "cpu.max")?;
        now.period = seat.last("cpu.cfs_period_us", "cpu.max")?;
        now.burst = seat.last("cpu.cfs_burst_us", "cpu.max.burst")?;
        if seat.is_v1 {
            now.realtime = seat.number(realtime::RUNTIME, realtime::RUNTIME)?;
            now.realtime_period = seat.last(realtime::PERIOD, realtime::PERIOD)?;
        }
    }
    Ok(now)
}

/// Refuses a limit of memory that is less than what is in use.
fn refuse_less_than_used(seats: &Seats<'_>, limits: &[Limit]) -> Result<()> {
    let Some(seat) = seats.of("memory") else { return Ok(()) };
    let Some(limit) = limits.iter().find(|limit| limit.key == "memory/limit") else { return Ok(()) };
    let file = limit.files(seat.is_v1).first();
    let wanted = file.and_then(|(_, value)| value.parse::<i64>().ok()).filter(|n| *n >= 0);
    match wanted.zip(seat.number("memory.usage_in_bytes", "memory.current")?) {
        Some((wanted, used)) if wanted < used => {
            let text = format!("apply /linux/resources/memory/limit: {wanted} is less than the {used} in use");
            Err(Error::new(Kind::WrongState, text))
        }
        _ => Ok(()),
    }
}

/// The steps that give a controller of v2 to the directory.
fn enable_for(seat: &Seat<'_>, controller: &str) -> Vec<Step> {
    let above = above(&seat.dir, &seat.hierarchy.mount);
    let step = |dir: &Path| Step::Enable { dir: dir.to_owned(), controllers: vec![controller.to_owned()] };
    above.into_iter().map(step).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_change_that_does_not_work_is_written_back() {
        let dir = std::env::temp_dir().join(format!("jail-change-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let text = |file: &str| fs::read_to_string(dir.join(file)).unwrap();
        let step = |files: &[&str]| {
            let files = files.iter().map(|file| ((*file).to_owned(), "2\n".to_owned())).collect();
            Step::Set { dir: dir.clone(), key: "a".to_owned(), files }
        };
        let change = |steps: &[Step]| apply(steps, &before(steps).unwrap());
        fs::write(dir.join("a"), "1\n").unwrap();
        let refused = change(&[step(&["a"]), step(&["missing", "gone"])]).unwrap_err().to_string();
        assert!(refused.ends_with("has no missing and no gone: this kernel does not know it"), "{refused}");
        assert_eq!(text("a"), "1\n");
        change(&[step(&["missing", "a"])]).unwrap();
        assert_eq!(text("a"), "2\n");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_was_is_found_among_the_lines_of_other_devices() {
        let dir = std::env::temp_dir().join(format!("jail-lines-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let max = "rbps=max wbps=max riops=max wiops=max";
        for (file, text, value, expected) in [
            (
                "io.max",
                "8:0 rbps=5 wbps=max riops=max wiops=max\n",
                "8:0 wbps=7",
                Some("8:0 rbps=5 wbps=max riops=max wiops=max"),
            ),
            ("io.max", "8:16 rbps=5\n", "8:1 wbps=7", Some(&*format!("8:1 {max}"))),
            ("io.weight", "default 100\n8:0 50\n", "300", Some("default 100")),
            ("io.weight", "default 100\n8:0 50\n", "8:16 30", Some("8:16 default")),
            ("blkio.throttle.read_bps_device", "", "8:0 30", Some("8:0 0")),
            ("net_prio.ifpriomap", "lo 0\neth0 4\n", "eth0 5", Some("eth0 4")),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n", "1", Some("0")),
            ("cpu.weight", "0\n", "100", None),
            ("cpuset.cpus", "\n", "1", Some("\n")),
        ] {
            fs::write(dir.join(file), text).unwrap();
            assert_eq!(old(&dir, file, value).unwrap().as_deref(), expected, "{file} {value}");
            // What would be written back is what would be read then.
            if let Some(expected) = expected {
                assert_eq!(old(&dir, file, expected).unwrap().as_deref(), Some(expected), "{file} {expected}");
            }
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
