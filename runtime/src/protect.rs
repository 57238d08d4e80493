//! The runtime's own program file, kept out of reach of the jail.
//!
//! Inside, `/proc/<pid>/exe` of process 1 leads to the file that the runtime runs from. A jail that keeps it open could
//! write to it later, and so own the host at the next start (CVE-2019-5736). What enters a jail is therefore run from a
//! read-only clone of the mount that the file is on: the same pages, but no way to write.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::libc;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::execveat;
use sys::mount::{MountAttr, clone_tree, mount_setattr};
use sys::{Doing, Error, Kind, Result};

/// Set for the second start only. A caller who sets it gains nothing: the mount is looked at as well.
const MARK: &str = "_JAIL_READ_ONLY";

/// Makes sure that this process runs from a read-only clone, by starting it again where it does not.
///
/// Must come before anything has an effect.
///
/// # Errors
/// Where the clone cannot be made: no jail is entered without it.
pub fn ensure() -> Result<()> {
    let step = || "run from a read-only clone of the program file";
    let again = std::env::var_os(MARK).is_some();
    if again {
        let found = statvfs("/proc/self/exe").doing(step)?;
        return match found.flags().contains(FsFlags::ST_RDONLY) {
            true => Ok(()),
            false => Err(Error::new(Kind::Denied, format!("{}: {MARK} is set, but the file can be written", step()))),
        };
    }
    let tree = clone_tree(AT_FDCWD, c"/proc/self/exe", false).doing(step)?;
    let attr = MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
    mount_setattr(&tree, false, &attr).doing(step)?;
    let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| Error::new(Kind::Invalid, step()));
    let args = std::env::args_os().map(|arg| text(arg.as_bytes())).collect::<Result<Vec<_>>>()?;
    let mut env = std::env::vars_os()
        .map(|(name, value)| text(&[name.as_bytes(), b"=", value.as_bytes()].concat()))
        .collect::<Result<Vec<_>>>()?;
    env.push(text(format!("{MARK}=1").as_bytes())?);
    let Err(errno) = execveat(&tree, c"", &args, &env, AtFlags::AT_EMPTY_PATH);
    Err(Error::kernel(step(), errno))
}
