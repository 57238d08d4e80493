//! Paths of the image, resolved beneath the descriptor of its root and never otherwise.
//!
//! A link in the image leads at most to another place of the image: openat2(2) with `RESOLVE_IN_ROOT` follows it as
//! chroot(2) would, and `RESOLVE_NO_MAGICLINKS` keeps the links of /proc out of it.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};
use sys::{Doing, Error, Result};

/// How often a look-up is done again that the kernel gave up because something was renamed or mounted meanwhile.
const RACES: usize = 128;

/// Opens `path` beneath `root`, with `flags`, resolved as `resolve` says in addition.
///
/// # Errors
/// As openat2(2).
pub fn open_with(root: impl AsFd, path: &CStr, flags: OFlag, resolve: ResolveFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(resolve | ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    for _ in 0..RACES {
        match openat2(root.as_fd(), path, how) {
            // EAGAIN: a rename somewhere on the machine could have hidden a `..`; the kernel asks to try again.
            Err(Errno::EAGAIN) => {}
            other => return other,
        }
    }
    Err(Errno::EAGAIN)
}

/// Opens `path` beneath `root` as a place (`O_PATH`): neither read nor written, but a target for a mount.
///
/// # Errors
/// As openat2(2).
pub fn place(root: impl AsFd, path: &CStr) -> nix::Result<OwnedFd> {
    open_with(root, path, OFlag::O_PATH, ResolveFlag::empty())
}

fn path_of(path: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(path.to_bytes()))
}

/// The directory at `path` beneath `root`, made with what is missing above it.
///
/// # Errors
/// As mkdirat(2) and openat2(2), naming the path; a link that leads to nothing is not followed into making something.
pub fn directory(root: BorrowedFd<'_>, path: &CStr, mode: u32) -> Result<OwnedFd> {
    let open = || open_with(root, path, OFlag::O_PATH | OFlag::O_DIRECTORY, ResolveFlag::empty());
    let step = || format!("make directory {} in the root", path.to_string_lossy());
    match open() {
        Err(Errno::ENOENT) => {}
        found => return found.doing(|| format!("open directory {} in the root", path.to_string_lossy())),
    }
    let (above, name) = parent(root, path)?;
    match mkdirat(&above, name.as_c_str(), Mode::from_bits_truncate(mode)) {
        // Another jail on the same root was faster.
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(Error::kernel(step(), errno)),
    }
    // Looked up again from the root: whatever stands there now, it is beneath.
    open().doing(step)
}

/// The directory above `path` (made if it is missing), and the last word of `path`.
///
/// # Errors
/// `Invalid` where `path` has no last word; else as [`directory`].
pub fn parent(root: BorrowedFd<'_>, path: &CStr) -> Result<(OwnedFd, std::ffi::CString)> {
    let whole = path_of(path);
    let (Some(name), Some(above)) = (whole.file_name(), whole.parent()) else {
        return Err(Error::invalid(format!("use {:?} as a path in the root: it names no file", path)));
    };
    let text = |part: &OsStr| {
        std::ffi::CString::new(part.as_bytes()).map_err(|_| Error::invalid(format!("use {path:?}: it contains NUL")))
    };
    Ok((directory(root, &text(above.as_os_str())?, 0o755)?, text(name)?))
}

/// The place `path` beneath `root`; where nothing is there, an empty regular file is made.
///
/// # Errors
/// As openat(2), naming the path.
pub fn file(root: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd> {
    match place(root, path) {
        Err(Errno::ENOENT) => {}
        found => return found.doing(|| format!("open {} in the root", path.to_string_lossy())),
    }
    let (above, name) = parent(root, path)?;
    // O_NOFOLLOW and O_EXCL: what is made is ours, and a link that was put there meanwhile is not followed.
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
    nix::fcntl::openat(&above, name.as_c_str(), flags, Mode::from_bits_truncate(0o644))
        .doing(|| format!("make file {} in the root", path.to_string_lossy()))
}
