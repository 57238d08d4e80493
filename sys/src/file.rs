//! Descriptors and files: close_range(2), open file description locks, extended attributes, terminals.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::NixPath;
use nix::errno::Errno;

/// Marks every descriptor from `first` on close-on-exec. Source: close_range(2), CLOSE_RANGE_CLOEXEC.
///
/// # Errors
/// `EINVAL` on kernels before 5.11.
pub fn close_on_exec_from(first: RawFd) -> nix::Result<()> {
    // SAFETY: no memory is passed, and a flag on a descriptor breaks no ownership.
    let ret =
        unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Errno::result(ret).map(drop)
}

/// Whether the number `fd` is that of an open descriptor. Source: fcntl(2), F_GETFD.
pub fn is_open(fd: RawFd) -> bool {
    // SAFETY: no memory is passed, and nothing is changed.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// Takes the mark close-on-exec from a descriptor. Source: fcntl(2), F_SETFD.
///
/// # Errors
/// `EBADF` where it is not open.
pub fn keep_on_exec(fd: RawFd) -> nix::Result<()> {
    // SAFETY: no memory is passed, and a flag on a descriptor breaks no ownership.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }).map(drop)
}

/// Closes every descriptor from 3 on but those in `keep`. Source: close_range(2).
///
/// For the child of a clone on its way to exec only: whoever owns one of the closed must never touch it again.
///
/// # Errors
/// As close_range(2).
pub fn close_all_but(keep: &[RawFd]) -> nix::Result<()> {
    let mut keep = keep.to_vec();
    keep.sort_unstable();
    let mut first = 3;
    for last in keep.into_iter().map(|fd| fd as libc::c_uint).chain([libc::c_uint::MAX]) {
        let end = if last == libc::c_uint::MAX { last } else { last.saturating_sub(1) };
        if first <= end {
            // SAFETY: no memory is passed. The caller promises that no owner of a closed descriptor uses it.
            Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, end, 0) })?;
        }
        first = first.max(last.saturating_add(1));
    }
    Ok(())
}

/// Locks an open file or directory until it is closed, without waiting. Source: flock(2), LOCK_EX | LOCK_NB.
///
/// nix's own `Flock` panics where the unlock is refused, and closing cannot be.
///
/// # Errors
/// `EWOULDBLOCK` where another open file description has the lock.
pub fn lock(file: impl AsFd) -> nix::Result<()> {
    // SAFETY: no memory is passed.
    Errno::result(unsafe { libc::flock(file.as_fd().as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }).map(drop)
}

fn whole_file(kind: i32) -> libc::flock {
    libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 }
}

/// Locks the whole file for this open file description, which children inherit and exec(2) closes.
///
/// `file` must be open for writing. Source: fcntl_locking(2), F_OFD_SETLK.
///
/// # Errors
/// `EAGAIN` where another description holds it.
pub fn hold(file: impl AsFd) -> nix::Result<()> {
    nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))).map(drop)
}

/// Whether some other open file description [`hold`]s the file. Changes nothing, wakes nobody.
///
/// # Errors
/// As fcntl_locking(2).
pub fn is_held(file: impl AsFd) -> nix::Result<bool> {
    let mut lock = whole_file(libc::F_WRLCK);
    // SAFETY: F_OFD_GETLK reads and writes one flock, which outlives the call.
    let ret = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    Errno::result(ret)?;
    Ok(lock.l_type != libc::F_UNLCK as i16)
}

/// Sets extended attribute `name` of the file at `path`, of a link itself. Source: lsetxattr(2).
///
/// # Errors
/// `EOPNOTSUPP` where the file system has none.
pub fn set_xattr(path: &Path, name: &CStr, value: &[u8]) -> nix::Result<()> {
    let set = |path: &CStr| {
        // SAFETY: two C strings, and `value` with its length; all outlive the call.
        unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) }
    };
    Errno::result(path.with_nix_path(set)?).map(drop)
}

/// Extended attribute `name` of the file at `path`, of a link itself; `None` where it has none. Nothing is opened, so that
/// the file may be of any kind. Source: lgetxattr(2).
///
/// # Errors
/// `ENOENT` where there is no file, `ERANGE` where the value is over 255 bytes, which none of ours is.
pub fn get_xattr(path: &Path, name: &CStr) -> nix::Result<Option<Vec<u8>>> {
    let mut value = vec![0; 255];
    let get = |path: &CStr| {
        // SAFETY: two C strings, and `value` with its capacity; all outlive the call.
        unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) }
    };
    match Errno::result(path.with_nix_path(get)?) {
        Ok(len) => {
            value.truncate(len as usize);
            Ok(Some(value))
        }
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The largest value of an extended attribute, and the longest list of their names. Source: xattr(7).
const LARGEST_XATTR: usize = 1 << 16;

/// The names of all extended attributes of an open file; none where its file system has none. Source: flistxattr(2).
///
/// # Errors
/// As flistxattr(2).
pub fn xattr_names(file: impl AsFd) -> nix::Result<Vec<CString>> {
    let mut list = vec![0_u8; LARGEST_XATTR];
    // SAFETY: the list is passed with its capacity and outlives the call.
    let len = unsafe { libc::flistxattr(file.as_fd().as_raw_fd(), list.as_mut_ptr().cast(), list.len()) };
    match Errno::result(len) {
        Ok(len) => list.truncate(len as usize),
        Err(Errno::EOPNOTSUPP) => return Ok(Vec::new()),
        Err(errno) => return Err(errno),
    }
    let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names.map(|name| CString::new(name).map_err(|_| Errno::EINVAL)).collect()
}

/// Extended attribute `name` of an open file. Source: fgetxattr(2).
///
/// # Errors
/// `ENODATA` where it has none of this name.
pub fn xattr_of(file: impl AsFd, name: &CStr) -> nix::Result<Vec<u8>> {
    let mut value = vec![0_u8; LARGEST_XATTR];
    // SAFETY: a C string, and `value` with its capacity; both outlive the call.
    let len =
        unsafe { libc::fgetxattr(file.as_fd().as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.truncate(Errno::result(len)? as usize);
    Ok(value)
}

/// Sets extended attribute `name` of an open file. Source: fsetxattr(2).
///
/// # Errors
/// `EOPNOTSUPP` where the file system has none of this kind.
pub fn set_xattr_of(file: impl AsFd, name: &CStr, value: &[u8]) -> nix::Result<()> {
    // SAFETY: a C string, and `value` with its length; both outlive the call.
    let ret =
        unsafe { libc::fsetxattr(file.as_fd().as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(ret).map(drop)
}

/// Opens the other end of a pseudo-terminal without any path. Source: ioctl_tty(2), TIOCSPTLCK and TIOCGPTPEER.
///
/// # Errors
/// `EIO` where `master` belongs to a devpts that is gone.
pub fn terminal_peer(master: impl AsFd) -> nix::Result<OwnedFd> {
    let unlocked: libc::c_int = 0;
    let fd = master.as_fd().as_raw_fd();
    // SAFETY: TIOCSPTLCK reads one int, which outlives the call.
    Errno::result(unsafe { libc::ioctl(fd, libc::TIOCSPTLCK, &raw const unlocked) })?;
    // SAFETY: TIOCGPTPEER takes open flags and returns a new descriptor that nobody else owns.
    unsafe {
        let peer = Errno::result(libc::ioctl(fd, libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC))?;
        Ok(OwnedFd::from_raw_fd(peer))
    }
}

/// Makes `terminal` the controlling terminal of the calling session leader. Source: ioctl_tty(2), TIOCSCTTY.
///
/// # Errors
/// `EPERM` where the caller leads no session, or the terminal has one already.
pub fn take_terminal(terminal: impl AsFd) -> nix::Result<()> {
    // SAFETY: the argument is a number.
    Errno::result(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) }).map(drop)
}

/// The size of a terminal as (rows, columns). Source: ioctl_tty(2), TIOCGWINSZ.
///
/// # Errors
/// `ENOTTY` where `terminal` is none.
pub fn terminal_size(terminal: impl AsFd) -> nix::Result<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize, which outlives the call.
    Errno::result(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) })?;
    Ok((size.ws_row, size.ws_col))
}

/// Sets the size of a terminal. Source: ioctl_tty(2), TIOCSWINSZ.
///
/// # Errors
/// `ENOTTY` where `terminal` is none.
pub fn set_terminal_size(terminal: impl AsFd, rows: u16, columns: u16) -> nix::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize, which outlives the call.
    Errno::result(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }).map(drop)
}

/// Takes ownership of a descriptor that recvmsg(2) has just put into this process.
pub fn received(fd: RawFd) -> OwnedFd {
    // SAFETY: the callers pass what came in an SCM_RIGHTS message once, so nobody else owns it. A number that is no
    // descriptor is harmless: closing it fails with EBADF.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
