//! A change of the limits of a jail that lives: planned as those of a new one are, and written as a whole or not at all.

use std::fs;
use std::path::{Path, PathBuf};

use base::{Ctx, Object};
use oci_spec::runtime::LinuxResources;
use sys::{Doing, Error, Kind, Result};

use crate::layout::{Hierarchy, Layout};
use crate::limit::{Limit, Now, limits};
use crate::object;
use crate::plan::{can_limit, set};
use crate::step::{Step, above, read};

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
    let limits = limits(&resources, &seats.now()?)?;
    can_limit(&limits, layout)?;
    if resources.memory().is_some_and(|memory| memory.check_before_update() == Some(true)) {
        seats.refuse_less_than_used(&limits)?;
    }
    let (mut before, mut steps) = (Vec::new(), Vec::new());
    for limit in limits.iter().filter(|limit| layout.hierarchies().any(|h| h.has(limit.controller))) {
        let seat = seats.of(limit.controller).ok_or_else(|| {
            let (key, controller) = (limit.key, limit.controller);
            let text = format!("apply /linux/resources/{key}: the jail has no cgroup with the {controller} controller");
            Error::new(Kind::WrongState, text)
        })?;
        if !seat.is_v1 {
            let enable = seat.enable(limit.controller);
            before.extend(enable.into_iter().filter(|step| !before.contains(step)).collect::<Vec<_>>());
        }
        steps.extend(seat.file(limit).map(|file| set(&seat.dir, file)));
    }
    before.extend(steps);
    Ok(before)
}

/// Does the steps of [`plan`]. Where one does not work, the limits that were written before it get their old values.
///
/// A controller that was enabled for it stays so: by itself it limits nothing, and another jail may have come to use it.
///
/// # Errors
/// The first cause, and after it what could not be written back.
pub fn apply(steps: &[Step]) -> Result<()> {
    let mut ctx = Ctx::default();
    let (limits, enable): (Vec<_>, Vec<_>) = steps.iter().partition(|step| matches!(step, Step::Set { .. }));
    enable.iter().try_for_each(|step| step.run(&mut ctx))?;
    let old = limits.iter().filter_map(|step| before(step)).collect::<Result<Vec<_>>>()?;
    for (at, step) in limits.iter().enumerate() {
        if let Err(error) = step.run(&mut ctx) {
            // Backwards: what was a valid state on the way is one on the way back.
            let undone = old[..at].iter().rev().filter_map(|step| step.run(&mut ctx).err());
            return Err(undone.fold(error, Error::and));
        }
    }
    Ok(())
}

/// The step that writes what the file of a step has now.
fn before(step: &Step) -> Option<Result<Step>> {
    let Step::Set { dir, file, .. } = step else { return None };
    // As it is, with its newline: to write nothing at all would not empty a list of CPUs.
    let value = read(&dir.join(file));
    Some(value.map(|value| Step::Set { dir: dir.clone(), file: file.clone(), value }))
}

/// Where the controllers of a jail are.
struct Seats<'a> {
    objects: &'a [Object],
    layout: &'a Layout,
}

/// The directory of a jail for one controller.
struct Seat<'a> {
    dir: PathBuf,
    hierarchy: &'a Hierarchy,
    is_v1: bool,
}

impl Seats<'_> {
    /// The jail's directory in the hierarchy that has `controller`; one without the jail's mark is not the jail's.
    fn of(&self, controller: &str) -> Option<Seat<'_>> {
        let v1 = self.layout.v1.iter().find(|h| h.has(controller));
        let hierarchy = v1.or(self.layout.v2.as_ref().filter(|h| h.has(controller)))?;
        let here = |object: &&Object| Path::new(&object.name).starts_with(&hierarchy.mount) && object::is_ours(object);
        let dir = PathBuf::from(&self.objects.iter().find(here)?.name);
        Some(Seat { dir, hierarchy, is_v1: v1.is_some() })
    }

    /// What the jail has now.
    fn now(&self) -> Result<Now> {
        let mut now = Now::default();
        if let Some(seat) = self.of("memory") {
            now.memory = seat.number("memory.limit_in_bytes", "memory.max")?;
            now.swap = seat.number("memory.memsw.limit_in_bytes", "memory.swap.max")?;
        }
        if let Some(seat) = self.of("cpu") {
            now.quota = seat.number("cpu.cfs_quota_us", "cpu.max")?;
            now.period = seat.period()?;
        }
        Ok(now)
    }

    /// Refuses a limit of memory that is less than what is in use.
    fn refuse_less_than_used(&self, limits: &[Limit]) -> Result<()> {
        let Some(seat) = self.of("memory") else { return Ok(()) };
        let Some(limit) = limits.iter().find(|limit| limit.key == "memory/limit") else { return Ok(()) };
        let wanted = seat.file(limit).and_then(|(_, value)| value.parse::<i64>().ok()).filter(|n| *n >= 0);
        match wanted.zip(seat.number("memory.usage_in_bytes", "memory.current")?) {
            Some((wanted, used)) if wanted < used => {
                let text = format!("apply /linux/resources/memory/limit: {wanted} is less than the {used} in use");
                Err(Error::new(Kind::WrongState, text))
            }
            _ => Ok(()),
        }
    }
}

impl Seat<'_> {
    /// The file of a limit and its text, in the words of this hierarchy.
    fn file<'a>(&self, limit: &'a Limit) -> Option<&'a (&'static str, String)> {
        if self.is_v1 { limit.v1.as_ref() } else { limit.v2.as_ref() }
    }

    /// The steps that give a controller of v2 to the directory.
    fn enable(&self, controller: &str) -> Vec<Step> {
        let above = above(&self.dir, &self.hierarchy.mount);
        let step = |dir: &Path| Step::Enable { dir: dir.to_owned(), controllers: vec![controller.to_owned()] };
        above.into_iter().map(step).collect()
    }

    /// The words of a file; none where it is not there: an older kernel, or a controller that is not enabled yet.
    fn words(&self, v1: &str, v2: &str) -> Result<Vec<String>> {
        let path = self.dir.join(if self.is_v1 { v1 } else { v2 });
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            text => {
                let text = text.doing(|| format!("read {}", path.display()))?;
                Ok(text.split_whitespace().map(str::to_owned).collect())
            }
        }
    }

    /// The number at the beginning of a file, -1 for no limit.
    fn number(&self, v1: &str, v2: &str) -> Result<Option<i64>> {
        Ok(self.words(v1, v2)?.first().and_then(|word| number(word)))
    }

    fn period(&self) -> Result<Option<u64>> {
        let words = self.words("cpu.cfs_period_us", "cpu.max")?;
        Ok(words.last().and_then(|word| word.parse().ok()))
    }
}

/// A number as the kernel writes it: v2 says `max` where there is no limit, v1 the largest number of whole pages.
fn number(word: &str) -> Option<i64> {
    const LARGEST_PAGE: i64 = 64 << 10;
    match word.parse::<i64>() {
        Ok(n) if n > i64::MAX - LARGEST_PAGE => Some(-1),
        Ok(n) => Some(n),
        Err(_) => (word == "max").then_some(-1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_have_a_word_for_no_limit() {
        for (word, expected) in
            [("max", Some(-1)), ("-1", Some(-1)), ("9223372036854771712", Some(-1)), ("4096", Some(4096)), ("x", None)]
        {
            assert_eq!(number(word), expected, "{word}");
        }
    }

    #[test]
    fn a_change_that_does_not_work_is_written_back() {
        let dir = std::env::temp_dir().join(format!("jail-change-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("a"), "1\n").unwrap();
        let step = |file: &str| Step::Set { dir: dir.clone(), file: file.to_owned(), value: "2\n".to_owned() };
        // Nothing is written where an old value cannot be read.
        apply(&[step("a"), step("missing")]).unwrap_err();
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "1\n");
        apply(&[step("a")]).unwrap();
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "2\n");
        fs::remove_dir_all(&dir).unwrap();
    }
}
