//! Freezing all of a jail at once, and letting it run again.
//!
//! On v1 the controller `freezer` does it (admin-guide/cgroup-v1/freezer-subsystem), on v2 the file `cgroup.freeze` that
//! every directory has since Linux 5.2 (admin-guide/cgroup-v2). A jail that has both is frozen by v1's, as by runc, and
//! let run again by both.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use base::Object;
use sys::{Doing, Error, Kind, Result};

use crate::object;
use crate::process;
use crate::step::write;

/// v1's file: `THAWED`, `FREEZING` until the last thread stands still, `FROZEN`.
const V1: &str = "freezer.state";

/// v2's file: what is wanted, 1 or 0. What is so is in cgroup.events, and counts the directories above too.
const V2: &str = "cgroup.freeze";

/// How long all threads of a jail may take to stand still, or to run again. It is a matter of milliseconds, unless one is
/// in a system call that does not end.
const PATIENCE: Duration = Duration::from_secs(5);

/// After so many looks v1 lets all run for a moment: one of them may wait in the kernel for what a frozen one holds.
const LOOKS: u32 = 50;

/// How long a thread that was let run may take until it is not seen in its frozen state any more, which looks like D.
const MOMENT: Duration = Duration::from_millis(50);

/// A directory that can freeze what is in it and below.
#[derive(Debug)]
enum Freezer {
    V1(PathBuf),
    V2(PathBuf),
}

/// Those of a jail, v1's first. What does not carry the mark of the jail is not one of them.
fn freezers(objects: &[Object]) -> Vec<Freezer> {
    let leaves: Vec<_> = objects.iter().filter(|object| object::is_leaf(object)).collect();
    // Of all hierarchies v1's freezer is made last and v2's first: see `Layout`. No other can freeze, and each would
    // take some microseconds of every `start` and `exec` to say so.
    let ends = [leaves.last(), leaves.first()].into_iter().take(leaves.len()).flatten();
    let freezer = |leaf: &&Object| Freezer::at(Path::new(&leaf.name)).filter(|_| object::is_ours(leaf));
    ends.filter_map(freezer).collect()
}

/// Whether the jail is frozen, or about to be: nothing of it can be relied upon to run.
pub fn is_frozen(objects: &[Object]) -> bool {
    freezers(objects).iter().any(|freezer| freezer.is_wanted() || freezer.is_frozen())
}

/// Freezes all processes of a jail: either all, or none.
///
/// # Errors
/// `Unsupported` where the jail has no freezer; `Kernel` with the processes that do not stand still, where there are such
/// after five seconds. All run again then.
pub fn freeze(objects: &[Object]) -> Result<()> {
    let Some(freezer) = freezers(objects).into_iter().next() else {
        return Err(Error::unsupported("freeze the jail: none of its cgroups has a freezer"));
    };
    let done = freezer.freeze(Instant::now() + PATIENCE);
    if let Ok(true) = done {
        return Ok(());
    }
    let thawed = freezer.want(false);
    let error = done.err().unwrap_or_else(|| freezer.restless());
    Err(match thawed {
        Ok(()) => error,
        Err(other) => error.and(other),
    })
}

/// Lets all processes of a jail run again, and waits until they do.
///
/// # Errors
/// `Kernel` where they stay frozen, since a directory above is.
pub fn thaw(objects: &[Object]) -> Result<()> {
    release(objects)?;
    let deadline = Instant::now() + PATIENCE;
    for freezer in freezers(objects) {
        if !freezer.runs(deadline)? {
            let dir = freezer.dir().display();
            return Err(Error::new(Kind::Kernel, format!("thaw {dir}: a cgroup above it is frozen")));
        }
    }
    Ok(())
}

/// Lets all processes of a jail run again, as far as it depends on the jail's own cgroups, and does not wait.
///
/// # Errors
/// As write(2).
pub fn release(objects: &[Object]) -> Result<()> {
    freezers(objects).iter().try_for_each(|freezer| freezer.want(false))
}

/// Lets what is in `dir` run. Where there is no freezer, or nothing is frozen, nothing happens.
pub(crate) fn thaw_directory(dir: &Path) {
    if let Some(freezer) = Freezer::at(dir) {
        // Best effort: who waits for the processes names them if this was in vain.
        let _ = freezer.want(false);
    }
}

impl Freezer {
    /// The freezer of `dir`; the root of a tree has none.
    fn at(dir: &Path) -> Option<Self> {
        let has = |file| dir.join(file).exists();
        if has(V1) {
            return Some(Self::V1(dir.to_owned()));
        }
        has(V2).then(|| Self::V2(dir.to_owned()))
    }

    fn dir(&self) -> &Path {
        match self {
            Self::V1(dir) | Self::V2(dir) => dir,
        }
    }

    /// Asks for it, and does not wait.
    fn want(&self, frozen: bool) -> Result<()> {
        let (file, value) = match (self, frozen) {
            (Self::V1(dir), true) => (dir.join(V1), "FROZEN"),
            (Self::V1(dir), false) => (dir.join(V1), "THAWED"),
            (Self::V2(dir), true) => (dir.join(V2), "1"),
            (Self::V2(dir), false) => (dir.join(V2), "0"),
        };
        match write(&file, value) {
            // What is gone is not frozen.
            Err(error) if !frozen && process::is_gone(&error) => Ok(()),
            written => written.doing(|| format!("write {value} to {}", file.display())),
        }
    }

    /// Whether this very directory was asked to be frozen.
    fn is_wanted(&self) -> bool {
        match self {
            Self::V1(dir) => says(&dir.join("freezer.self_freezing"), "1"),
            Self::V2(dir) => says(&dir.join(V2), "1"),
        }
    }

    /// Whether what is in it stands still, or for v1 is about to, also by a directory above.
    fn is_frozen(&self) -> bool {
        match self {
            Self::V1(dir) => says(&dir.join(V1), "FROZEN") || says(&dir.join(V1), "FREEZING"),
            Self::V2(dir) => says(&dir.join("cgroup.events"), "frozen 1"),
        }
    }

    /// Freezes it; `false` where that is not done at `deadline`.
    fn freeze(&self, deadline: Instant) -> Result<bool> {
        self.want(true)?;
        let dir = match self {
            Self::V2(dir) => return process::await_event(dir, "frozen 1", deadline),
            Self::V1(dir) => dir,
        };
        let mut pause = Duration::from_millis(1);
        for look in 1.. {
            // The kernel finds out when it is asked; there is no event.
            if says(&dir.join(V1), "FROZEN") {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                break;
            }
            if look % LOOKS == 0 {
                self.want(false)?;
            }
            sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
            // Once more to those that were on their way.
            self.want(true)?;
        }
        Ok(false)
    }

    /// Whether it runs at `deadline`.
    fn runs(&self, deadline: Instant) -> Result<bool> {
        match self {
            Self::V1(_) => Ok(!self.is_frozen()),
            Self::V2(dir) => process::await_event(dir, "frozen 0", deadline),
        }
    }

    /// The error for a jail that was not frozen in time, and was let run again.
    fn restless(&self) -> Error {
        sleep(MOMENT);
        let who = process::uninterruptible(self.dir());
        let seconds = PATIENCE.as_secs();
        let why = match who.is_empty() {
            true => format!("not all of its processes stood still within {seconds} seconds"),
            false => format!("{} is in the middle of a system call (state D)", who.join(", ")),
        };
        Error::new(Kind::Kernel, format!("freeze {}: {why}", self.dir().display()))
    }
}

/// Whether a file has this line.
fn says(file: &Path, line: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text.lines().any(|found| found == line))
}
