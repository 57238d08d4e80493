//! The runtime's own program file, kept out of reach of the jail.
//!
//! Inside, `/proc/<pid>/exe` of process 1 leads to the file that the runtime runs from. A jail that keeps it open could
//! write to it later, and so own the host at the next start (CVE-2019-5736). What enters a jail is therefore run from a
//! read-only clone of the mount that the file is on: the same pages, but no way to write. `sys/src/entry.rs` starts the
//! program again from there before anything else is done.

use nix::errno::Errno;
use nix::sys::prctl::set_dumpable;
use nix::sys::statvfs::{FsFlags, statvfs};
use sys::{Doing, Error, Kind, Result};

use crate::prelude::{self, Way};

/// Makes sure that this process runs from a read-only clone, and lets nothing look into it from here on.
///
/// Must come before anything has an effect. Where the caller is not root of the host and may not do it as he is, `way`
/// leads to where he may, and the program starts again there.
///
/// # Errors
/// `Denied` where the program file could be written, or why no clone could be made: no jail is entered then.
pub fn ensure(way: impl FnOnce() -> Result<Way>) -> Result<()> {
    let step = || "run from a read-only clone of the program file";
    let second = match sys::entry::is_second_start() {
        Err(Errno::EPERM) if !sys::user::is_host_root() => match prelude::enter(way)? {},
        other => other.doing(step)?,
    };
    if !second || !statvfs("/proc/self/exe").doing(step)?.flags().contains(FsFlags::ST_RDONLY) {
        return Err(Error::new(Kind::Denied, format!("{}: it can be written to", step())));
    }
    // Inherited by what is cloned: nothing in a jail without CAP_SYS_PTRACE may look into a process on its way there.
    set_dumpable(false).doing(|| "make the runtime not dumpable")?;
    // What the caller had open is for the runtime's eyes only, if for anybody's: no hook and no jail gets it.
    sys::file::close_on_exec_from(3).doing(|| "mark descriptors close-on-exec")
}
