//! Pausing a jail, and letting it run again. Nothing is written down: the cgroups themselves say that it is paused.

use std::path::Path;

use base::JailId;
use nix::unistd::Pid;
use sys::{Error, Kind, Result};

use crate::jail::{Jail, Status};
use crate::process;
use crate::store::Store;

/// Freezes all processes of a jail that runs or was created: either all, or none.
///
/// # Errors
/// `WrongState` where it neither runs nor was created; `Unsupported` where no cgroup of it can be frozen; `Kernel` with the
/// processes that do not stand still in time, and the jail runs on.
pub fn pause(root: &Path, id: &JailId) -> Result<()> {
    let store = Store::open(root)?;
    let (jail, _lock) = Jail::open_locked(store.as_ref(), id)?;
    let why = match jail.status()? {
        (Status::Running | Status::Created, pid) => return freeze(&jail, pid),
        (Status::Broken(reason), _) => format!("it is broken: {reason}"),
        (other, _) => format!("container not running: it is {other}"),
    };
    Err(Error::new(Kind::WrongState, format!("pause {id}: {why}")))
}

fn freeze(jail: &Jail, pid: Option<Pid>) -> Result<()> {
    cgroup::freezer::freeze(&jail.objects())?;
    // `kill` sends SIGKILL and thaws then, without the lock. Where it came in between, its thaw was in vain.
    match pid.is_some_and(process::is_doomed) {
        true => cgroup::freezer::release(&jail.objects()),
        false => Ok(()),
    }
}

/// Lets all processes of a paused jail run again.
///
/// # Errors
/// `WrongState` where it is not paused; `Kernel` where a cgroup above it is frozen.
pub fn resume(root: &Path, id: &JailId) -> Result<()> {
    let store = Store::open(root)?;
    let (jail, _lock) = Jail::open_locked(store.as_ref(), id)?;
    match jail.status()? {
        (Status::Paused, _) => cgroup::freezer::thaw(&jail.objects()),
        (other, _) => {
            let why = format!("container not paused: it is {other}");
            Err(Error::new(Kind::WrongState, format!("resume {id}: {why}")))
        }
    }
}
