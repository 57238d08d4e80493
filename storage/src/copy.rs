//! What a directory of the image holds, copied into the tmpfs that is mounted over it (`tmpcopyup`).
//!
//! The image is not trusted and may change meanwhile. Every name is looked up in the descriptor of its directory and
//! through no link; devices, FIFOs and sockets are made anew and never opened; what is mounted below is no part of the
//! directory. Two descriptors are open at any depth, and of a directory only the names of those in it are kept.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstat, fstatat, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, Whence, fchown, fchownat, ftruncate, lseek, symlinkat};
use sys::{Error, Kind, Result};

/// One directory on the way to the one that is copied now.
struct Level {
    /// Its name in the one above.
    name: CString,
    /// What it is in the image.
    stat: FileStat,
    /// Device and inode of its copy.
    copy: (u64, u64),
    /// Directories in it that are still to be copied.
    waiting: Vec<CString>,
}

/// Copies all that is in the directory `from` to the empty directory `to`, which becomes like it but for its own owner
/// and mode.
///
/// # Errors
/// What could not be copied, by its path below `from`, and why.
pub(crate) fn up(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let mut levels = Vec::new();
    let top = readable(from, c".").and_then(|from| Ok((from, readable(to, c".")?)));
    let (mut from, mut to) = top.map_err(|errno| failure(&levels, c"", errno))?;
    enter(&mut levels, &from, &to, c"")?;
    while let Some(level) = levels.last_mut() {
        let stat = level.stat;
        if let Some(name) = level.waiting.pop() {
            match directory(&from, &name) {
                Ok(below) => from = below,
                // Something is mounted there: its place stays empty.
                Err(Errno::EXDEV) => continue,
                Err(errno) => return Err(failure(&levels, &name, errno)),
            }
            to = directory(&to, &name).map_err(|errno| failure(&levels, &name, errno))?;
            enter(&mut levels, &from, &to, &name)?;
        } else {
            let last = levels.len() == 1;
            finish(&from, &to, &stat, !last).map_err(|errno| failure(&levels, c"", errno))?;
            if last {
                return Ok(());
            }
            levels.pop();
            (from, to) = above(&from, &to, &levels)?;
        }
    }
    Ok(())
}

/// A step back: `..` may lead anywhere in a tree that changes, so it must be where one came from.
fn above(from: &OwnedFd, to: &OwnedFd, levels: &[Level]) -> Result<(OwnedFd, OwnedFd)> {
    let open = |fd: &OwnedFd, known| {
        let above = readable(fd.as_fd(), c"..")?;
        if identity(&fstat(&above)?) == known { Ok(above) } else { Err(Errno::ESTALE) }
    };
    let Some(level) = levels.last() else { return Err(failure(levels, c"", Errno::ESTALE)) };
    open(from, identity(&level.stat))
        .and_then(|from| Ok((from, open(to, level.copy)?)))
        .map_err(|errno| failure(levels, c"", errno))
}

fn identity(stat: &FileStat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Begins a directory: what is in it is copied, but for the directories, which wait.
fn enter(levels: &mut Vec<Level>, from: &OwnedFd, to: &OwnedFd, name: &CStr) -> Result<()> {
    let stat = fstat(from).and_then(|stat| Ok((stat, identity(&fstat(to)?))));
    let (stat, copy) = stat.map_err(|errno| failure(levels, name, errno))?;
    levels.push(Level { name: name.to_owned(), stat, copy, waiting: Vec::new() });
    let mut waiting = Vec::new();
    // A description of its own: it has its own place in the listing.
    let mut listing =
        readable(from.as_fd(), c".").and_then(Dir::from_fd).map_err(|errno| failure(levels, c"", errno))?;
    for entry in listing.iter() {
        let entry = entry.map_err(|errno| failure(levels, c"", errno))?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if copy_one(from, to, name).map_err(|errno| failure(levels, name, errno))? {
            waiting.push(name.to_owned());
        }
    }
    if let Some(level) = levels.last_mut() {
        level.waiting = waiting;
    }
    Ok(())
}

/// Copies one name; the answer is whether it is a directory, which is only made.
fn copy_one(from: &OwnedFd, to: &OwnedFd, name: &CStr) -> nix::Result<bool> {
    let stat = match fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        // Removed since it was listed.
        Err(Errno::ENOENT) => return Ok(false),
        other => other?,
    };
    match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFDIR => return mkdirat(to, name, Mode::S_IRWXU).map(|()| true),
        SFlag::S_IFREG => file(from, to, name)?,
        SFlag::S_IFLNK => {
            symlinkat(readlinkat(from, name)?.as_os_str(), to, name)?;
            own(to, name, &stat)?;
            times(to, name, &stat)?;
        }
        kind => {
            mknodat(to, name, kind, Mode::empty(), stat.st_rdev)?;
            own(to, name, &stat)?;
            fchmodat(to, name, mode(&stat), FchmodatFlags::FollowSymlink)?;
            times(to, name, &stat)?;
        }
    }
    Ok(false)
}

fn mode(stat: &FileStat) -> Mode {
    Mode::from_bits_truncate(stat.st_mode & 0o7777)
}

fn own(at: &OwnedFd, name: &CStr, stat: &FileStat) -> nix::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    fchownat(at, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
}

fn times(at: &OwnedFd, name: &CStr, stat: &FileStat) -> nix::Result<()> {
    let (read, written) =
        (TimeSpec::new(stat.st_atime, stat.st_atime_nsec), TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec));
    utimensat(at, name, &read, &written, UtimensatFlags::NoFollowSymlink)
}

fn readable(at: BorrowedFd<'_>, path: &CStr) -> nix::Result<OwnedFd> {
    openat(at, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
}

/// Opens `name` of a directory through no link and into no other mount.
fn open_here(at: &OwnedFd, name: &CStr, flags: OFlag) -> nix::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV;
    openat2(at, name, OpenHow::new().flags(flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).resolve(resolve))
}

fn directory(at: &OwnedFd, name: &CStr) -> nix::Result<OwnedFd> {
    open_here(at, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
}

fn file(from: &OwnedFd, to: &OwnedFd, name: &CStr) -> nix::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let copy = openat(to, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
    // It was a regular file. Should it be another one by now, O_NONBLOCK keeps a FIFO from blocking.
    let source = match open_here(from, name, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY) {
        // A file is mounted there.
        Err(Errno::EXDEV) => return Ok(()),
        other => other?,
    };
    let stat = fstat(&source)?;
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Err(Errno::ESTALE);
    }
    let (source, copy) = (File::from(source), File::from(copy));
    contents(&source, &copy, stat.st_size)?;
    finish(&source, &copy, &stat, true)
}

/// Copies what is written in a file of this size and leaves its holes, which would fill the memory.
fn contents(from: &File, to: &File, size: i64) -> nix::Result<()> {
    let mut at = 0;
    while at < size {
        let begin = match lseek(from, at, Whence::SeekData) {
            // Nothing but a hole is left.
            Err(Errno::ENXIO) => break,
            other => other?,
        };
        let end = lseek(from, begin, Whence::SeekHole)?.min(size);
        lseek(from, begin, Whence::SeekSet)?;
        lseek(to, begin, Whence::SeekSet)?;
        let copied = std::io::copy(&mut from.take((end - begin).unsigned_abs()), &mut &*to);
        if copied.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))? == 0 {
            break;
        }
        at = end;
    }
    ftruncate(to, size)
}

/// Gives a file or directory what its source has, in this order: a change of owner takes set-id bits and capabilities
/// away, and each of them changes the times.
fn finish(from: impl AsFd, to: impl AsFd, stat: &FileStat, whole: bool) -> nix::Result<()> {
    if whole {
        fchown(&to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
        fchmod(&to, mode(stat))?;
    }
    for name in sys::file::xattr_names(&from)? {
        match sys::file::set_xattr_of(&to, &name, &sys::file::xattr_of(&from, &name)?) {
            // A tmpfs has not every kind.
            Ok(()) | Err(Errno::EOPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
    }
    let read = TimeSpec::new(stat.st_atime, stat.st_atime_nsec);
    nix::sys::stat::futimens(&to, &read, &TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec))
}

/// How many directories above a file an error shows: the image chooses how deep it is.
const SHOWN: usize = 6;

fn failure(levels: &[Level], name: &CStr, errno: Errno) -> Error {
    let mut names: Vec<_> = levels.iter().map(|level| level.name.as_c_str()).chain([name]).collect();
    names.retain(|name| !name.is_empty());
    let dots = if names.len() > SHOWN { "…/" } else { "" };
    let shown = names[names.len().saturating_sub(SHOWN)..].iter().map(|name| name.to_string_lossy());
    let path = match names.is_empty() {
        true => "the directory".to_owned(),
        false => format!("{dots}{}", shown.collect::<Vec<_>>().join("/")),
    };
    let step = format!("copy {path} up");
    match errno {
        Errno::ENOSPC => Error::new(
            Kind::Kernel,
            format!("{step}: the tmpfs is full; its options size= and nr_inodes= make it larger"),
        ),
        Errno::ESTALE => Error::new(Kind::Kernel, format!("{step}: it was changed while it was copied")),
        Errno::EPERM => {
            Error::new(Kind::Denied, format!("{step}: the jail may make no such file in its user name space"))
        }
        Errno::EINVAL | Errno::EOVERFLOW => {
            Error::invalid(format!("{step}: its owner or group is nobody in the user name space of the jail"))
        }
        other => Error::kernel(step, other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a test over the binary cannot set without further programs.
    #[test]
    fn extended_attributes_of_files_and_directories_are_copied() {
        let place = std::env::temp_dir().join(format!("jail-copy-{}", std::process::id()));
        let (from, to) = (place.join("from"), place.join("to"));
        std::fs::create_dir_all(from.join("dir")).unwrap();
        std::fs::create_dir(&to).unwrap();
        std::fs::write(from.join("dir/file"), "").unwrap();
        for path in [from.join("dir/file"), from.join("dir"), from.clone()] {
            sys::file::set_xattr(&path, c"user.jail", path.as_os_str().as_encoded_bytes()).unwrap();
        }
        let open = |path| File::open(path).unwrap();
        up(open(&from).as_fd(), open(&to).as_fd()).unwrap();
        for path in ["dir/file", "dir", ""] {
            let value = sys::file::get_xattr(&to.join(path), c"user.jail").unwrap().unwrap();
            let was = sys::file::get_xattr(&from.join(path), c"user.jail").unwrap().unwrap();
            assert_eq!(value, was, "{path}");
        }
        std::fs::remove_dir_all(&place).unwrap();
    }

    #[test]
    fn an_error_shows_the_end_of_a_path_of_any_length() {
        let level = |name: &CStr| Level {
            name: name.to_owned(),
            stat: fstat(std::io::stdin()).unwrap(),
            copy: (0, 0),
            waiting: Vec::new(),
        };
        let levels: Vec<_> = (0..1000).map(|_| level(c"deep")).collect();
        let text = failure(&levels, c"file", Errno::ESTALE).to_string();
        assert_eq!(text, "cannot copy …/deep/deep/deep/deep/deep/file up: it was changed while it was copied");
    }
}
