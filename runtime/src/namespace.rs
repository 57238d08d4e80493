//! Name spaces: which are new, which are joined, and the maps of a user name space.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use base::Ctx;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, Gid, Uid, setgroups, setresgid, setresuid};
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, LinuxTimeOffset, Spec};
use sys::{Doing, Error, Kind, Result};

/// One effect on the name spaces of a jail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Host: the name space at `path` is opened and kept in `slot`.
    Open { kind: LinuxNamespaceType, path: PathBuf, slot: usize },
    /// Jail: name spaces are joined; that of the pids takes effect for the children only.
    Join(Vec<Joined>),
    /// Host: who is who in the new user name space.
    Map { uid: String, gid: String },
    /// Host: the user name space that was joined must be the one that the maps describe.
    Compare { uid: String, gid: String },
    /// Jail: becomes root of the new user name space.
    Root,
    /// Jail: a new cgroup name space, whose root is the cgroup that the jail is in by now.
    Cgroup,
    /// Jail: a new time name space, into which the children of this process are born, with the offsets of its clocks.
    Time { offsets: String },
    /// Jail: the process of the program is made, where the others of the jail see it. The one that makes it ends.
    Program,
}

/// A name space by its path, opened into `slot`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Its kind.
    pub kind: LinuxNamespaceType,
    /// Where it is.
    pub path: PathBuf,
    /// Where its descriptor is.
    pub slot: usize,
}

impl fmt::Display for Joined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} name space {}", word(self.kind), self.path.display())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { kind, path, .. } => write!(f, "open {} name space {}", word(*kind), path.display()),
            Self::Join(list) => {
                let list: Vec<_> = list.iter().map(Joined::to_string).collect();
                write!(f, "join {}", list.join(", "))
            }
            Self::Map { .. } => f.write_str("map the users of the jail"),
            Self::Compare { .. } => f.write_str("compare the maps of the user name space that was joined"),
            Self::Root => f.write_str("become root of the user name space"),
            Self::Cgroup => f.write_str("make the cgroup name space"),
            Self::Time { .. } => f.write_str("make the time name space"),
            Self::Program => f.write_str("clone the process of the program"),
        }
    }
}

/// The flag of clone3(2) and setns(2).
pub fn flag(kind: LinuxNamespaceType) -> CloneFlags {
    match kind {
        LinuxNamespaceType::Mount => CloneFlags::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => CloneFlags::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => CloneFlags::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => CloneFlags::CLONE_NEWIPC,
        LinuxNamespaceType::User => CloneFlags::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => CloneFlags::CLONE_NEWPID,
        LinuxNamespaceType::Network => CloneFlags::CLONE_NEWNET,
        LinuxNamespaceType::Time => CloneFlags::from_bits_retain(nix::libc::CLONE_NEWTIME),
    }
}

/// The specification's word.
pub fn word(kind: LinuxNamespaceType) -> &'static str {
    match kind {
        LinuxNamespaceType::Mount => "mount",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Network => "network",
        LinuxNamespaceType::Time => "time",
    }
}

fn of(spec: &Spec, kind: LinuxNamespaceType) -> Option<&LinuxNamespace> {
    let list = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    list.iter().find(|namespace| namespace.typ() == kind)
}

/// Whether a specification gives the jail a name space other than the caller's of this kind.
pub fn has(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    of(spec, kind).is_some()
}

/// Whether a specification gives the jail a name space of its own of this kind.
pub fn is_new(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    of(spec, kind).is_some_and(|namespace| namespace.path().is_none())
}

/// The path of the name space of this kind that the jail joins.
pub fn path(spec: &Spec, kind: LinuxNamespaceType) -> Option<&Path> {
    of(spec, kind)?.path().as_deref()
}

impl Step {
    /// Does the step.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn run(&self, ctx: &mut Ctx) -> Result<()> {
        let step = || self.to_string();
        let missing = || Error::new(Kind::Kernel, format!("{self}: no step opened it"));
        match self {
            Self::Open { path, slot, .. } => {
                let fd = open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).doing(step)?;
                ctx.keep(*slot, fd);
                Ok(())
            }
            Self::Join(list) => join(list, ctx),
            Self::Map { uid, gid } => {
                let pid = ctx.pid.ok_or_else(missing)?;
                std::fs::write(format!("/proc/{pid}/uid_map"), uid).doing(step)?;
                std::fs::write(format!("/proc/{pid}/gid_map"), gid).doing(step)
            }
            Self::Compare { uid, gid } => {
                let pid = ctx.pid.ok_or_else(missing)?;
                for (name, key, wanted) in [("uid_map", "uidMappings", uid), ("gid_map", "gidMappings", gid)] {
                    let text = std::fs::read_to_string(format!("/proc/{pid}/{name}")).doing(step)?;
                    if !text.split_whitespace().eq(wanted.split_whitespace()) {
                        let why = "the user name space that is joined has others";
                        return Err(Error::invalid(format!("use /linux/{key}: {why}")));
                    }
                }
                Ok(())
            }
            Self::Root => {
                let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
                match setgroups(&[]) {
                    // Denied in this name space for ever, as user_namespaces(7) says; they were left before it was joined.
                    Err(Errno::EPERM) => {}
                    left => left.doing(step)?,
                }
                setresgid(gid, gid, gid).doing(step)?;
                setresuid(uid, uid, uid).doing(step)?;
                // Changing the user undid it.
                crate::init::hide_and_tie()
            }
            Self::Cgroup => unshare(CloneFlags::CLONE_NEWCGROUP).doing(step),
            Self::Time { offsets } => time(offsets),
            Self::Program => match sys::process::clone_sibling(0, ctx.birth.as_ref().ok_or_else(missing)?) {
                Ok(ForkResult::Child) => Ok(()),
                Ok(ForkResult::Parent { .. }) => sys::process::exit_now(0),
                // The kernel's word for a pid name space whose process 1 has ended, too.
                Err(Errno::ENOMEM) => {
                    Err(Error::new(Kind::Kernel, format!("{self}: the jail has ended, or its memory is used up")))
                }
                Err(errno) => Err(Error::kernel(step(), errno)),
            },
        }
    }
}

/// The clocks that a time name space has, by their names there, and the key of the offset. Source: time_namespaces(7).
pub const CLOCKS: [&str; 2] = ["monotonic", "boottime"];

/// The offsets as the kernel reads them, all in one write: the first member of the name space ends the time for that.
pub fn offsets(list: Option<&HashMap<String, LinuxTimeOffset>>) -> String {
    let offset = |clock| {
        let offset = list?.get(clock)?;
        Some(format!("{clock} {} {}\n", offset.secs().unwrap_or_default(), offset.nanosecs().unwrap_or_default()))
    };
    CLOCKS.into_iter().filter_map(offset).collect()
}

fn time(offsets: &str) -> Result<()> {
    let step = || "make the time name space";
    match unshare(CloneFlags::from_bits_retain(nix::libc::CLONE_NEWTIME)) {
        Err(Errno::EINVAL) => {
            return Err(Error::unsupported(format!("{}: this kernel has none (it came with Linux 5.6)", step())));
        }
        made => made.doing(step)?,
    }
    if offsets.is_empty() {
        return Ok(());
    }
    match std::fs::write("/proc/self/timens_offsets", offsets) {
        Err(error) if error.raw_os_error() == Some(Errno::ERANGE as i32) => {
            let why = "a clock would stand before its zero, or hundreds of years behind it";
            Err(Error::invalid(format!("use /linux/timeOffsets: {why}")))
        }
        Err(error) if error.raw_os_error() == Some(Errno::EPERM as i32) => {
            Err(Error::new(Kind::Denied, "use /linux/timeOffsets: the runtime lacks CAP_SYS_TIME"))
        }
        written => written.doing(|| "write the offsets of the clocks"),
    }
}

/// Leaves the caller's supplementary groups, which a user name space may forbid for ever once it is joined.
///
/// # Errors
/// As setgroups(2). One who is not root of the host may be where it is forbidden, and keeps his own.
pub fn leave_groups() -> Result<()> {
    match setgroups(&[]) {
        Err(Errno::EPERM) if !sys::user::is_host_root() => Ok(()),
        left => left.doing(|| "leave the supplementary groups"),
    }
}

/// Joins name spaces. Those that the caller has no right to are left until the user name space among them gives it: a
/// network of the host's own can be joined only before that, one of the user name space only after.
fn join(list: &[Joined], ctx: &mut Ctx) -> Result<()> {
    let mut enter = |one: &Joined| {
        let step = || format!("join {one}");
        let fd = ctx.take(one.slot).ok_or_else(|| Error::new(Kind::Kernel, format!("{}: nobody opened it", step())))?;
        match setns(&fd, flag(one.kind)) {
            Ok(()) => Ok(true),
            Err(Errno::EPERM) => {
                ctx.keep(one.slot, fd);
                Ok(false)
            }
            Err(Errno::EINVAL) if one.kind == LinuxNamespaceType::User => {
                Err(Error::invalid(format!("{}: it is no user name space, or the caller's own", step())))
            }
            Err(Errno::EINVAL) => Err(Error::invalid(format!("{}: it is no {} name space", step(), word(one.kind)))),
            Err(errno) => Err(Error::kernel(step(), errno)),
        }
    };
    let (user, others): (Vec<_>, Vec<_>) = list.iter().partition(|one| one.kind == LinuxNamespaceType::User);
    if !user.is_empty() {
        leave_groups()?;
    }
    let mut refused = Vec::new();
    for one in others {
        if !enter(one)? {
            refused.push(one);
        }
    }
    for one in user.into_iter().chain(refused) {
        if !enter(one)? {
            return Err(Error::kernel(format!("join {one}"), Errno::EPERM));
        }
    }
    Ok(())
}
