//! The runtime's own program file, kept out of reach of the jail.
//!
//! Inside, `/proc/<pid>/exe` of process 1 leads to the file that the runtime runs from. A jail that keeps it open could
//! write to it later, and so own the host at the next start (CVE-2019-5736). What enters a jail is therefore run from a
//! read-only clone of the mount that the file is on: the same pages, but no way to write.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::libc;
use nix::sys::prctl::set_dumpable;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::execveat;
use sys::mount::{MountAttr, clone_tree, mount_setattr};
use sys::{Doing, Error, Kind, Result};

/// Set for the second start only. A caller who sets it gains nothing: the mount is looked at as well.
const MARK: &str = "_JAIL_READ_ONLY";

/// What of the caller's environment the runtime itself uses. The rest, which may hold secrets, does not come along.
const KEPT: [&str; 1] = ["TERM"];

/// Makes sure that this process runs from a read-only clone, by starting it again where it does not.
///
/// Must come before anything has an effect.
///
/// # Errors
/// Where the clone cannot be made: no jail is entered without it.
pub fn ensure() -> Result<()> {
    if std::env::var_os(MARK).is_some() {
        return is_ensured();
    }
    let tree = clone_tree(AT_FDCWD, c"/proc/self/exe", false).doing(step)?;
    let attr = MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
    mount_setattr(&tree, false, &attr).doing(step)?;
    let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| Error::new(Kind::Invalid, step()));
    let args = std::env::args_os().map(|arg| text(arg.as_bytes())).collect::<Result<Vec<_>>>()?;
    let mut env = vec![text(format!("{MARK}=1").as_bytes())?];
    for name in KEPT {
        if let Some(value) = std::env::var_os(name) {
            env.push(text(&[name.as_bytes(), b"=", value.as_bytes()].concat())?);
        }
    }
    let Err(errno) = execveat(&tree, c"", &args, &env, AtFlags::AT_EMPTY_PATH);
    Err(Error::kernel(step(), errno))
}

/// Checks that this process runs from a read-only clone, and lets nothing look into it from here on.
///
/// # Errors
/// `Denied` where the program file could be written.
pub fn is_ensured() -> Result<()> {
    match statvfs("/proc/self/exe").doing(step)?.flags().contains(FsFlags::ST_RDONLY) {
        // Inherited by what is cloned: nothing in a jail may look into a process on its way there. (A jail that was
        // given CAP_SYS_PTRACE and no user name space of its own still may; SECURITY.md says so.)
        true => {
            set_dumpable(false).doing(|| "make the runtime not dumpable")?;
            // What the caller had open is for the runtime's eyes only, if for anybody's: no hook and no jail gets it.
            sys::file::close_on_exec_from(3).doing(|| "mark descriptors close-on-exec")
        }
        false => Err(Error::new(Kind::Denied, format!("{}: it can be written to", step()))),
    }
}

fn step() -> &'static str {
    "run from a read-only clone of the program file"
}
