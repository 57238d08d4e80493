//! What of the host a jail is shown, and where.

use std::ffi::{CStr, CString};
use std::os::fd::{BorrowedFd, OwnedFd};

use base::Ctx;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, ResolveFlag, readlinkat};
use nix::sys::stat::{SFlag, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::symlinkat;
use sys::mount::{MountAttr, attach, clone_tree, clone_tree_itself};
use sys::{Doing, Error, Kind, Result};

use crate::{beneath, idmap};

/// A detached copy of a tree of the host, with its attributes set while only we see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Where the copy is kept.
    pub slot: usize,
    /// The path on the host.
    pub path: CString,
    /// With all that is mounted below.
    pub recursive: bool,
    /// It must be a directory.
    pub directory: bool,
    /// Where it is a link, the link itself.
    pub itself: bool,
    /// What is set on the first mount.
    pub attr: MountAttr,
    /// What is set on it and all below.
    pub below: MountAttr,
    /// The slot of the user name space that maps its owners, and whether of all below too.
    pub users: Option<(usize, bool)>,
}

impl Source {
    /// Opens it.
    ///
    /// # Errors
    /// As open_tree(2) and mount_setattr(2).
    pub(crate) fn open(&self, ctx: &Ctx) -> Result<OwnedFd> {
        let step = || format!("use {} of the host", self.path.to_string_lossy());
        let open = if self.itself { clone_tree_itself } else { clone_tree };
        let tree = open(AT_FDCWD, &self.path, self.recursive).doing(step)?;
        if self.directory && kind(&tree).doing(step)? != SFlag::S_IFDIR {
            return Err(Error::invalid(format!("{} as the root: it is no directory", step())));
        }
        if let Some((slot, recursive)) = self.users {
            let users = ctx.sources.get(slot).and_then(Option::as_ref);
            let users = users.ok_or_else(|| Error::new(Kind::Kernel, format!("{}: nobody mapped it", step())))?;
            idmap::apply(&tree, &self.path, recursive, users)?;
        }
        // Detached first: a mount that were attached while still shared would show on the host.
        let change = |recursive, attr: &MountAttr| match *attr == MountAttr::default() {
            true => Ok(()),
            false => sys::mount::mount_setattr(&tree, recursive, attr).doing(step),
        };
        change(true, &self.below)?;
        change(false, &self.attr)?;
        Ok(tree)
    }
}

/// The place at which a [`Source`] is attached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bind {
    /// Where the copy is kept.
    pub slot: usize,
    /// Where it is to be, as a path in the jail.
    pub target: CString,
    /// Whether that may be inside /proc.
    pub on_proc: bool,
    /// Where a link is there, it is covered itself.
    pub itself: bool,
    /// Where the source is a link, one like it is made, and nothing is bound.
    pub copy_link: bool,
}

impl Bind {
    /// Attaches `tree` beneath `root`.
    ///
    /// # Errors
    /// As move_mount(2).
    pub(crate) fn attach(&self, root: BorrowedFd<'_>, tree: &OwnedFd) -> Result<()> {
        let text = self.target.to_string_lossy();
        let kind = kind(tree).doing(|| format!("look at the source of {text}"))?;
        if self.copy_link && kind == SFlag::S_IFLNK {
            let to = readlinkat(tree, c"").doing(|| format!("read the link that {text} is to be"))?;
            return link(root, &self.target, to.as_os_str());
        }
        let flags = if self.itself { OFlag::O_PATH | OFlag::O_NOFOLLOW } else { OFlag::O_PATH };
        let place = match beneath::open_with(root, &self.target, flags, ResolveFlag::empty()) {
            Err(Errno::ENOENT) if kind == SFlag::S_IFDIR => beneath::directory(root, &self.target, 0o755)?,
            Err(Errno::ENOENT) => beneath::file(root, &self.target)?,
            found => found.doing(|| format!("open {text} in the root"))?,
        };
        refuse_proc(&place, &self.target, self.on_proc)?;
        // The kernel calls it an invalid argument; docker gives its users a hint on these words.
        let mixed = |what| Error::kernel(format!("bind {what}"), Errno::ENOTDIR);
        attach(tree, &place).map_err(|errno| match (kind == SFlag::S_IFDIR, is_directory(&place)) {
            (true, Ok(false)) => mixed(format!("a directory on {text}, which is a file")),
            (false, Ok(true)) => mixed(format!("a file on {text}, which is a directory")),
            _ => Error::kernel(format!("bind on {text}"), errno),
        })
    }
}

/// A link to `to`; one like it may be there already.
fn link(root: BorrowedFd<'_>, path: &CStr, to: &std::ffi::OsStr) -> Result<()> {
    let step = || format!("copy the link {}", path.to_string_lossy());
    let (above, name) = beneath::parent(root, path)?;
    match symlinkat(to, &above, name.as_c_str()) {
        Err(Errno::EEXIST) if readlinkat(&above, name.as_c_str()).is_ok_and(|there| there == to) => Ok(()),
        Err(Errno::EEXIST) => Err(Error::new(Kind::Exists, format!("{}: another file is in its place", step()))),
        other => other.doing(step),
    }
}

pub(crate) fn kind(file: &OwnedFd) -> nix::Result<SFlag> {
    Ok(SFlag::from_bits_truncate(fstat(file)?.st_mode) & SFlag::S_IFMT)
}

fn is_directory(file: &OwnedFd) -> nix::Result<bool> {
    Ok(kind(file)? == SFlag::S_IFDIR)
}

/// A link of the image must not lead a mount into /proc, where it would hide what the runtime and the jail rely on.
pub(crate) fn refuse_proc(place: &OwnedFd, target: &CStr, allowed: bool) -> Result<()> {
    if allowed {
        return Ok(());
    }
    let found = fstatfs(place).doing(|| format!("look at {} in the root", target.to_string_lossy()))?;
    match found.filesystem_type() == PROC_SUPER_MAGIC {
        true => Err(Error::invalid(format!("mount on {}: it is inside /proc", target.to_string_lossy()))),
        false => Ok(()),
    }
}
