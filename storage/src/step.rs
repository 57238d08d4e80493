//! The steps by which a jail gets its root and its mounts.

use std::ffi::{CStr, CString};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use base::Ctx;
use nix::errno::Errno;
use nix::fcntl::{OFlag, ResolveFlag, open};
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, fstat, makedev, mknodat};
use nix::unistd::{Gid, Uid, fchdir, fchownat, pivot_root, symlinkat};
use sys::mount::{MountAttr, attach, clone_tree, fs_create, fs_set, fsmount, fsopen};
use sys::{Doing, Error, Kind, Result};

use crate::beneath;
use crate::bind::{Bind, Source, kind};
use crate::filesystem::FileSystem;
use crate::idmap::Users;

/// A device node or link of /dev.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Where it is, as a path in the jail.
    pub path: CString,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO`.
    pub kind: SFlag,
    /// Permission bits.
    pub mode: u32,
    /// Major and minor number.
    pub number: (u64, u64),
    /// Owner, as the jail counts.
    pub owner: (u32, u32),
}

/// One effect on the mounts of a jail.
#[expect(missing_docs, reason = "the comment of each variant names its fields")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Host: the user name space by which owners are mapped, kept in `slot`.
    Users { slot: usize, users: Users },
    /// Host: a detached copy of a tree of the host is kept in its slot.
    Source(Source),
    /// Jail: the host's null device, proved to be that, kept in `slot`.
    Null { slot: usize },
    /// Jail: nothing that is mounted here shows on the host.
    Private,
    /// Jail: the tree in `slot` becomes the root of the jail.
    Root { slot: usize },
    /// Jail: a fresh tmpfs becomes the root, filled with an allow-listed copy-on-write clone of the host's `tree`. Its
    /// upper layers are mounted over `scratch`, out of the jail's sight.
    Clone { tree: CString, scratch: CString, name: String },
    /// Jail: a tree of the host is attached.
    Bind(Bind),
    /// Jail: a new file system is made and attached.
    Mount(FileSystem),
    /// Jail: the mount that is at `target` gets other attributes, and with `below` those under it too.
    Remount { target: CString, attr: MountAttr, below: MountAttr },
    /// Jail: the mount at `path` is made read-only, now that all is made that is below it.
    Seal { path: CString },
    /// Jail: a device node.
    Node(Device),
    /// Jail: a link, unless something is there.
    Link { path: CString, to: CString },
    /// Jail: a path is hidden: a file by the null device of `slot`, a directory by an empty read-only tmpfs.
    Mask { path: CString, slot: usize, empty: usize },
    /// Jail: a path is made read-only.
    ReadOnly { path: CString },
    /// Jail: the root is made read-only.
    SealRoot,
    /// Jail: the root becomes `/`, and the host's tree goes out of sight.
    Pivot,
    /// Jail: propagation of the root, as `linux.rootfsPropagation` has it.
    Propagation { flag: u64, recursive: bool },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = CStr::to_string_lossy;
        match self {
            Self::Users { users, .. } => users.fmt(f),
            Self::Source(source) => write!(f, "use {} of the host", text(&source.path)),
            Self::Null { .. } => write!(f, "use the null device of the host"),
            Self::Private => write!(f, "make the mounts of the jail private"),
            Self::Root { .. } => write!(f, "attach the root"),
            Self::Clone { tree, .. } => write!(f, "clone {} of the host as the root", text(tree)),
            Self::Bind(bind) => write!(f, "bind on {}", text(&bind.target)),
            Self::Remount { target, .. } => write!(f, "change the mount on {}", text(target)),
            Self::Mount(new) => write!(f, "mount {} on {}", text(&new.kind), text(&new.target)),
            Self::Seal { path } | Self::ReadOnly { path } => write!(f, "make {} read-only", text(path)),
            Self::Node(device) => write!(f, "make device {}", text(&device.path)),
            Self::Link { path, to } => write!(f, "link {} to {}", text(path), text(to)),
            Self::Mask { path, .. } => write!(f, "mask {}", text(path)),
            Self::SealRoot => write!(f, "make the root read-only"),
            Self::Pivot => write!(f, "change to the new root"),
            Self::Propagation { .. } => write!(f, "set the propagation of the root"),
        }
    }
}

impl Step {
    /// Does the step.
    ///
    /// # Errors
    /// What the kernel refused, with this step's sentence before it.
    pub fn run(&self, ctx: &mut Ctx) -> Result<()> {
        let step = || self.to_string();
        match self {
            Self::Users { slot, users } => {
                ctx.keep(*slot, users.open()?);
                Ok(())
            }
            Self::Source(source) => {
                let tree = source.open(ctx)?;
                ctx.keep(source.slot, tree);
                Ok(())
            }
            Self::Null { slot } => {
                ctx.keep(*slot, null_device()?);
                Ok(())
            }
            Self::Private => {
                mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).doing(step)
            }
            Self::Root { slot } => {
                let tree = kept(ctx, *slot)?;
                attach_root(&tree).doing(step)?;
                ctx.root = Some(tree);
                Ok(())
            }
            Self::Clone { tree, scratch, name } => {
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                let host = open(tree.as_c_str(), flags, Mode::empty()).doing(step)?;
                let fs = fsopen(c"tmpfs").doing(step)?;
                fs_set(&fs, c"mode", c"755").and_then(|()| fs_create(&fs)).doing(step)?;
                let root = fsmount(&fs, libc::MOUNT_ATTR_NOSUID).doing(step)?;
                attach_root(&root).doing(step)?;
                crate::clone::populate(root.as_fd(), host.as_fd(), scratch)?;
                crate::clone::set_name(root.as_fd(), name)?;
                ctx.root = Some(root);
                Ok(())
            }
            Self::Bind(bind) => {
                let tree = kept(ctx, bind.slot)?;
                bind.attach(root(ctx)?, &tree)
            }
            Self::Remount { target, attr, below } => {
                // A link of the image would choose which mount of the jail is loosened.
                let place = beneath::open_with(root(ctx)?, target, OFlag::O_PATH, ResolveFlag::RESOLVE_NO_SYMLINKS);
                let place = place.map_err(|errno| match errno {
                    Errno::ELOOP => Error::invalid(format!("{self}: a link leads there")),
                    other => Error::kernel(step(), other),
                })?;
                let change = |recursive, attr: &MountAttr| match sys::mount::mount_setattr(&place, recursive, attr) {
                    Err(Errno::EINVAL) => Err(Error::invalid(format!("{self}: nothing is mounted there"))),
                    other => other.doing(step),
                };
                change(true, below)?;
                change(false, attr)
            }
            Self::Mount(new) => new.mount(root(ctx)?).map(drop),
            Self::Seal { path } | Self::ReadOnly { path } => {
                read_only(root(ctx)?, path, matches!(self, Self::Seal { .. }))
            }
            Self::Node(device) => device.make(root(ctx)?),
            Self::Link { path, to } => {
                let (above, name) = beneath::parent(root(ctx)?, path)?;
                match symlinkat(to.as_c_str(), &above, name.as_c_str()) {
                    Err(Errno::EEXIST) => Ok(()),
                    other => other.doing(step),
                }
            }
            Self::Mask { path, slot, empty } => mask(ctx, path, *slot, *empty),
            Self::SealRoot => sys::mount::mount_setattr(root(ctx)?, false, &read_only_attr()).doing(step),
            Self::Pivot => pivot(root(ctx)?).doing(step),
            Self::Propagation { flag, recursive } => {
                let attr = MountAttr { propagation: *flag, ..MountAttr::default() };
                sys::mount::mount_setattr(root(ctx)?, *recursive, &attr).doing(step)
            }
        }
    }
}

fn root(ctx: &Ctx) -> Result<BorrowedFd<'_>> {
    ctx.root.as_ref().map(AsFd::as_fd).ok_or_else(|| Error::new(Kind::Kernel, "find the root: no step attached it"))
}

fn kept(ctx: &mut Ctx, slot: usize) -> Result<OwnedFd> {
    ctx.take(slot).ok_or_else(|| Error::new(Kind::Kernel, format!("find source {slot}: no step opened it")))
}

fn read_only_attr() -> MountAttr {
    MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() }
}

/// Attributes for a node of the host that a jail may use: its owner, mode and times stay as they are.
pub(crate) fn node_attr() -> MountAttr {
    let set = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;
    MountAttr { set, ..MountAttr::default() }
}

/// The host's null device; a mask by anything else would show that thing (CVE-2025-31133).
fn null_device() -> Result<OwnedFd> {
    let step = || "use /dev/null of the host";
    let null = open("/dev/null", OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()).doing(step)?;
    let stat = fstat(&null).doing(step)?;
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFCHR || stat.st_rdev != makedev(1, 3) {
        return Err(Error::invalid("use /dev/null of the host: it is not the null device"));
    }
    Ok(null)
}

/// Attaches `tree` over the old root: the only place that every jail can reach, whatever the path of its root.
fn attach_root(tree: &OwnedFd) -> nix::Result<()> {
    let old = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    attach(tree, old)
}

fn read_only(root: BorrowedFd<'_>, path: &CStr, seal: bool) -> Result<()> {
    let step = || format!("make {} read-only", path.to_string_lossy());
    let place = match beneath::place(root, path) {
        // Not every kernel has every path that callers list.
        Err(Errno::ENOENT) if !seal => return Ok(()),
        found => found.doing(step)?,
    };
    if seal {
        return sys::mount::mount_setattr(&place, false, &read_only_attr()).map_err(|errno| match errno {
            Errno::EINVAL => Error::invalid(format!("{}: nothing is mounted there", step())),
            other => Error::kernel(step(), other),
        });
    }
    let tree = clone_tree(&place, c"", true).doing(step)?;
    sys::mount::mount_setattr(&tree, true, &read_only_attr()).doing(step)?;
    attach(&tree, &place).doing(step)
}

fn mask(ctx: &mut Ctx, path: &CStr, null: usize, empty: usize) -> Result<()> {
    let step = || format!("mask {}", path.to_string_lossy());
    let place = match beneath::place(root(ctx)?, path) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
        found => found.doing(step)?,
    };
    let cover = if kind(&place).doing(step)? == SFlag::S_IFDIR { empty } else { null };
    let tree = match ctx.sources.get(cover).and_then(Option::as_ref) {
        Some(cover) => {
            let tree = clone_tree(cover, c"", false).doing(step)?;
            // It is the host's own node: on a read-only mount the device still works, but nobody changes its mode.
            sys::mount::mount_setattr(&tree, false, &node_attr()).doing(step)?;
            tree
        }
        None => {
            let fs = fsopen(c"tmpfs").doing(step)?;
            // One superblock serves all masks of the jail, and holds nothing but its root directory.
            fs_set(&fs, c"nr_inodes", c"1").and_then(|()| fs_create(&fs)).doing(step)?;
            fsmount(&fs, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NODEV).doing(step)?
        }
    };
    attach(&tree, &place).doing(step)?;
    if cover == empty {
        // Kept once it is attached: a kernel before 6.15 copies no detached mount.
        ctx.keep(empty, tree);
    }
    Ok(())
}

impl Device {
    fn make(&self, root: BorrowedFd<'_>) -> Result<()> {
        let step = || format!("make device {}", self.path.to_string_lossy());
        let (above, name) = beneath::parent(root, &self.path)?;
        let mode = Mode::from_bits_truncate(self.mode);
        match mknodat(&above, name.as_c_str(), self.kind, mode, makedev(self.number.0, self.number.1)) {
            Err(Errno::EEXIST) => return self.same(root),
            other => other.doing(step)?,
        }
        if self.owner != (0, 0) {
            let (uid, gid) = (Uid::from_raw(self.owner.0), Gid::from_raw(self.owner.1));
            let flag = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
            fchownat(&above, name.as_c_str(), Some(uid), Some(gid), flag).doing(step)?;
        }
        Ok(())
    }

    /// What is there already may stay where it is the very device; anything else is refused.
    fn same(&self, root: BorrowedFd<'_>) -> Result<()> {
        let step = || format!("use device {}", self.path.to_string_lossy());
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
        let found = beneath::open_with(root, &self.path, flags, ResolveFlag::empty()).doing(step)?;
        let stat = fstat(&found).doing(step)?;
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        let right =
            kind == self.kind && (kind == SFlag::S_IFIFO || stat.st_rdev == makedev(self.number.0, self.number.1));
        match right {
            true => Ok(()),
            false => Err(Error::new(Kind::Exists, format!("{}: another file is in its place", step()))),
        }
    }
}

/// pivot_root(2) with the new root on top of the old one: `.` is both, and the old root is then below it.
fn pivot(root: BorrowedFd<'_>) -> nix::Result<()> {
    fchdir(root)?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")
}
