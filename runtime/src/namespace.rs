//! Name spaces: which are new, which are joined, and the maps of a user name space.

use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;

use base::Ctx;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};
use sys::{Doing, Error, Kind, Result};

/// One effect on the name spaces of a jail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Host: the name space at `path` is opened and kept in `slot`.
    Open { kind: LinuxNamespaceType, path: PathBuf, slot: usize },
    /// Host: children are born into the pid name space in `slot`.
    JoinPid { slot: usize },
    /// Host: … and no longer.
    LeavePid,
    /// Jail: the name space in `slot` is joined.
    Join { kind: LinuxNamespaceType, path: PathBuf, slot: usize },
    /// Host: who is who in the new user name space.
    Map { uid: String, gid: String },
    /// Jail: becomes root of the new user name space.
    Root,
    /// Jail: a new cgroup name space, whose root is the cgroup that the jail is in by now.
    Cgroup,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { kind, path, .. } => write!(f, "open {} name space {}", word(*kind), path.display()),
            Self::JoinPid { .. } => f.write_str("join the pid name space"),
            Self::LeavePid => f.write_str("leave the pid name space"),
            Self::Join { kind, path, .. } => write!(f, "join the {} name space {}", word(*kind), path.display()),
            Self::Map { .. } => f.write_str("map the users of the jail"),
            Self::Root => f.write_str("become root of the user name space"),
            Self::Cgroup => f.write_str("make the cgroup name space"),
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

/// Whether a specification gives the jail a name space of its own of this kind.
pub fn is_new(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    let list = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    list.iter().any(|namespace| namespace.typ() == kind && namespace.path().is_none())
}

/// The maps as the kernel reads them. Source: user_namespaces(7).
pub fn map(list: Option<&Vec<LinuxIdMapping>>) -> String {
    list.into_iter().flatten().map(|map| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size())).collect()
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
            Self::JoinPid { slot } => {
                let fd = ctx.take(*slot).ok_or_else(missing)?;
                setns(fd, CloneFlags::CLONE_NEWPID).doing(step)
            }
            Self::LeavePid => {
                let own = File::open("/proc/self/ns/pid").doing(step)?;
                setns(own.as_fd(), CloneFlags::CLONE_NEWPID).doing(step)
            }
            Self::Join { kind, slot, .. } => {
                let fd = ctx.take(*slot).ok_or_else(missing)?;
                setns(&fd, flag(*kind)).map_err(|errno| match errno {
                    Errno::EINVAL => Error::invalid(format!("{self}: it is no {} name space", word(*kind))),
                    other => Error::kernel(step(), other),
                })
            }
            Self::Map { uid, gid } => {
                let pid = ctx.pid.ok_or_else(missing)?;
                std::fs::write(format!("/proc/{pid}/uid_map"), uid).doing(step)?;
                std::fs::write(format!("/proc/{pid}/gid_map"), gid).doing(step)
            }
            Self::Root => {
                let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
                setgroups(&[]).doing(step)?;
                setresgid(gid, gid, gid).doing(step)?;
                setresuid(uid, uid, uid).doing(step)?;
                // Changing the user cleared it.
                crate::init::die_with_parent().doing(step)
            }
            Self::Cgroup => unshare(CloneFlags::CLONE_NEWCGROUP).doing(step),
        }
    }
}
