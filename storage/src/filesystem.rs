//! New file systems of a jail.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, ResolveFlag};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, fstat};
use nix::unistd::{Gid, Uid, fchownat};
use sys::mount::{MountAttr, attach, fs_create, fs_reason, fs_set, fs_set_flag, fsmount, fsopen};
use sys::{Doing, Error, Kind, Result};

use crate::beneath;
use crate::bind::refuse_proc;

/// What is mounted, with every word of it resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileSystem {
    /// The type, as in filesystems(5).
    pub kind: CString,
    /// Where it is to be mounted, as a path in the jail.
    pub target: CString,
    /// Options, in order: key and value.
    pub options: Vec<(CString, Option<CString>)>,
    /// `MOUNT_ATTR_*` bits.
    pub attr: u64,
    /// Propagation, or 0 for private.
    pub propagation: u64,
    /// What its root directory takes over from the directory that it covers.
    pub cover: Cover,
}

/// What the root directory of a new file system takes over from the directory that it covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cover {
    /// The permission bits.
    pub mode: bool,
    /// The owner, who is then changed before anything is copied.
    pub owner: bool,
    /// All that is in it, and its times and extended attributes.
    pub contents: bool,
}

impl FileSystem {
    /// Makes the file system and attaches it beneath `root`; returns the mount.
    ///
    /// # Errors
    /// What the file system itself said, where it said something.
    pub fn mount(&self, root: BorrowedFd<'_>) -> Result<OwnedFd> {
        let step = || format!("mount {} on {}", self.kind.to_string_lossy(), self.target.to_string_lossy());
        let fs = fsopen(&self.kind).map_err(|errno| match errno {
            Errno::ENODEV => Error::unsupported(format!("{}: this kernel has no such file system", step())),
            Errno::EPERM if self.kind.to_bytes() == b"sysfs" => {
                let why =
                    "it takes a network name space that belongs to the same user name space; bind /sys without one";
                Error::new(Kind::Denied, format!("{}: {why}", step()))
            }
            other => Error::kernel(step(), other),
        })?;
        let said = |errno| match fs_reason(&fs) {
            Some(reason) => Error::new(Kind::Invalid, format!("{}: {reason}", step())),
            None => Error::kernel(step(), errno),
        };
        for (key, value) in &self.options {
            match value {
                Some(value) => fs_set(&fs, key, value),
                None => fs_set_flag(&fs, key),
            }
            .map_err(said)?;
        }
        fs_create(&fs).map_err(said)?;
        let tree = fsmount(&fs, self.attr).map_err(said)?;
        let (place, was_there) = self.place(root)?;
        if was_there && self.cover != Cover::default() {
            self.cover(&place, &tree)?;
        }
        attach(&tree, &place).doing(step)?;
        if self.propagation != 0 {
            let attr = MountAttr { propagation: self.propagation, ..MountAttr::default() };
            sys::mount::mount_setattr(&tree, false, &attr).doing(step)?;
        }
        Ok(tree)
    }

    /// The target, and whether it was there. That of proc and sysfs is reached through no link, so that what others
    /// later open by these paths is what was mounted.
    fn place(&self, root: BorrowedFd<'_>) -> Result<(OwnedFd, bool)> {
        let fixed = matches!(self.kind.to_bytes(), b"proc" | b"sysfs");
        let resolve = if fixed { ResolveFlag::RESOLVE_NO_SYMLINKS } else { ResolveFlag::empty() };
        let found = match beneath::open_with(root, &self.target, OFlag::O_PATH | OFlag::O_DIRECTORY, resolve) {
            Err(Errno::ENOENT) => (beneath::directory(root, &self.target, 0o755)?, false),
            Err(Errno::ELOOP) if fixed => {
                let text = self.target.to_string_lossy();
                return Err(Error::invalid(format!("mount {} on {text}: it is a link", self.kind.to_string_lossy())));
            }
            other => (other.doing(|| format!("open {} in the root", self.target.to_string_lossy()))?, true),
        };
        refuse_proc(&found.0, &self.target, fixed)?;
        Ok(found)
    }

    /// Makes the new root directory like the one that it is going to cover, while nobody sees it yet.
    fn cover(&self, place: &OwnedFd, tree: &OwnedFd) -> Result<()> {
        let step = || format!("make {} like the directory that it covers", self.target.to_string_lossy());
        let stat = fstat(place).doing(step)?;
        if self.cover.owner {
            let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            fchownat(tree, c".", Some(uid), Some(gid), AtFlags::empty()).doing(step)?;
        }
        if self.cover.mode {
            let mode = Mode::from_bits_truncate(stat.st_mode & 0o7777);
            fchmodat(tree, c".", mode, FchmodatFlags::FollowSymlink).doing(step)?;
        }
        match self.cover.contents {
            true => crate::copy::up(place.as_fd(), tree.as_fd()).map_err(|mut error| {
                error.what = format!("mount tmpfs on {}: cannot {}", self.target.to_string_lossy(), error.what);
                error
            }),
            false => Ok(()),
        }
    }
}
