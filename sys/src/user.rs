//! Whose privileges this process has: those of the host's root, or at most those of a user name space.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::readlink;

/// The first user name space: its number is the same on every host. Source: linux/proc_ns.h, PROC_USER_INIT_INO.
const FIRST: &str = "user:[4026531837]";

/// The effective user that this program was started with, without a system call: the kernel left it on the stack.
///
/// Source: getauxval(3), AT_EUID.
pub fn euid() -> u32 {
    // SAFETY: reads what the kernel gave this process at its start; no memory is passed.
    unsafe { libc::getauxval(libc::AT_EUID) as u32 }
}

/// The effective group, likewise.
pub fn egid() -> u32 {
    // SAFETY: as above.
    unsafe { libc::getauxval(libc::AT_EGID) as u32 }
}

/// Whether this process is root of the host itself: user 0 of the first user name space. Asked once.
///
/// Where that cannot be told it is not, and less is done.
pub fn is_host_root() -> bool {
    static ROOT: OnceLock<bool> = OnceLock::new();
    *ROOT.get_or_init(|| euid() == 0 && readlink("/proc/self/ns/user").is_ok_and(|name| name == FIRST))
}

/// The user name space above `users`. Source: ioctl_nsfs(2), NS_GET_PARENT.
///
/// # Errors
/// `EPERM` where it is outside of what the caller's own user name space holds.
pub fn parent(users: impl AsFd) -> nix::Result<OwnedFd> {
    const NS_GET_PARENT: libc::c_ulong = 0xb702;
    // SAFETY: no memory is passed; a result that is not an error is a new descriptor that nobody else owns.
    unsafe {
        let fd = Errno::result(libc::ioctl(users.as_fd().as_raw_fd(), NS_GET_PARENT))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Whether this process may write what is at `path`, with the privileges that it has now. Source: faccessat(2).
pub fn may_write(path: &Path) -> bool {
    let flags = nix::unistd::AccessFlags::W_OK;
    nix::unistd::faccessat(nix::fcntl::AT_FDCWD, path, flags, nix::fcntl::AtFlags::AT_EACCESS).is_ok()
}
