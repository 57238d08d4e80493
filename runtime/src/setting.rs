//! Settings of a jail's process 1 and of its name spaces.

use std::ffi::CString;
use std::fmt;
use std::os::fd::{AsFd, RawFd};

use base::Ctx;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::libc;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, getcwd, sethostname, setsid, write};
use oci_spec::runtime::PosixRlimitType;
use sys::mount::{fs_create, fsmount, fsopen};
use sys::{Doing, Error, Kind, Result};

use crate::inherit;

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Host: how willing the kernel is to end the jail when memory is short.
    OomScore(i32),
    /// Host: a resource limit, where the jail's side may not raise it.
    LimitFrom { name: String, resource: u32, soft: u64, hard: u64 },
    /// Jail: a session without a terminal.
    Session,
    /// Jail: an empty session keyring.
    Keyring,
    /// Jail.
    Hostname(String),
    /// Jail.
    Domainname(String),
    /// Jail: a sysctl of one of its name spaces, by its path below /proc/sys.
    Sysctl { path: CString, value: String },
    /// Jail: a resource limit.
    Limit { name: String, resource: u32, soft: u64, hard: u64 },
    /// Jail: so many descriptors of the caller go to the program.
    Inherit(u32),
    /// Jail: the working directory, proved to be inside. The jail's own program gets one that is missing; `exec`, which
    /// comes into a root that others use, does not.
    Directory { path: CString, make: bool },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OomScore(score) => write!(f, "set oom_score_adj to {score}"),
            Self::Session => f.write_str("make a session"),
            Self::Keyring => f.write_str("make a session keyring"),
            Self::Hostname(name) => write!(f, "set host name {name}"),
            Self::Domainname(name) => write!(f, "set domain name {name}"),
            Self::Sysctl { path, value } => write!(f, "set sysctl {} to {value}", path.to_string_lossy()),
            Self::Limit { name, soft, hard, .. } | Self::LimitFrom { name, soft, hard, .. } => {
                write!(f, "set {name} to {soft}:{hard}")
            }
            Self::Inherit(count) => write!(f, "pass {count} descriptors of the caller on"),
            Self::Directory { path, .. } => write!(f, "use {} as working directory", path.to_string_lossy()),
        }
    }
}

/// The number that the kernel has for a resource.
pub fn resource(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => Resource::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => Resource::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => Resource::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => Resource::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => Resource::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => Resource::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => Resource::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => Resource::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => Resource::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => Resource::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => Resource::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => Resource::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => Resource::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => Resource::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => Resource::RLIMIT_RTTIME,
    }
}

impl Step {
    /// Does the setting.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn run(&self, ctx: &mut Ctx) -> Result<()> {
        let step = || self.to_string();
        match self {
            Self::OomScore(score) => oom_score(ctx, *score),
            Self::LimitFrom { resource, soft, hard, .. } => {
                let pid = ctx.pid.ok_or_else(|| Error::kernel(step(), Errno::ESRCH))?;
                sys::process::prlimit(pid, *resource, *soft, *hard).doing(step)
            }
            Self::Session => match setsid() {
                // A process group's leader; exec's child in a shared pid name space never is.
                Err(Errno::EPERM) => Ok(()),
                other => other.map(drop).doing(step),
            },
            Self::Keyring => match sys::process::new_session_keyring() {
                // A kernel without keyrings has none to share.
                Err(Errno::ENOSYS) => Ok(()),
                other => other.doing(step),
            },
            Self::Hostname(name) => sethostname(name).doing(step),
            Self::Domainname(name) => sys::process::set_domain_name(name).doing(step),
            Self::Sysctl { path, value } => sysctl(path, value).doing(step),
            Self::Limit { resource, soft, hard, .. } => {
                sys::process::prlimit(nix::unistd::Pid::from_raw(0), *resource, *soft, *hard).doing(step)
            }
            Self::Inherit(count) => inherited(*count).try_for_each(sys::file::keep_on_exec).doing(step),
            Self::Directory { path, make } => directory(path, *make),
        }
    }
}

fn oom_score(ctx: &Ctx, score: i32) -> Result<()> {
    let step = || format!("set oom_score_adj to {score}");
    let pid = ctx.pid.ok_or_else(|| Error::kernel(step(), Errno::ESRCH))?;
    match std::fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string()) {
        // Lowering it needs CAP_SYS_RESOURCE. Callers set it for every container and cannot know; the jail works
        // without it, so this is a warning, as README says.
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
            crate::log::warn(&format!("oom_score_adj {score} is not set: this host lacks CAP_SYS_RESOURCE"));
            Ok(())
        }
        other => other.doing(step),
    }
}

/// Writes a sysctl through a procfs of our own: whatever the image has put on /proc is not asked (CVE-2019-16884).
fn sysctl(path: &CString, value: &str) -> nix::Result<()> {
    let fs = fsopen(c"proc")?;
    fs_create(&fs)?;
    let proc = fsmount(&fs, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC)?;
    let how = OpenHow::new()
        .flags(OFlag::O_WRONLY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV);
    let file = openat2(proc.as_fd(), path.as_c_str(), how)?;
    write(&file, value.as_bytes()).map(drop)
}

fn directory(path: &CString, make: bool) -> Result<()> {
    let step = || format!("use {} as working directory", path.to_string_lossy());
    match chdir(path.as_c_str()) {
        Err(Errno::ENOENT) if make => {
            // Of the jail by now, and closed again before anything else is looked up.
            let root = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).doing(step)?;
            drop(storage::beneath::directory(root.as_fd(), path, 0o755)?);
            drop(root);
            chdir(path.as_c_str()).doing(step)?;
        }
        other => other.doing(step)?,
    }
    // /proc/self/fd/7 and the like lead out of the root (CVE-2024-21626): such a place has no path inside.
    match getcwd() {
        Ok(here) if here.is_absolute() => Ok(()),
        _ => Err(Error::new(Kind::Invalid, format!("{}: it is outside of the root", step()))),
    }
}

/// The numbers of so many descriptors that are passed on.
pub fn inherited(count: u32) -> impl Iterator<Item = RawFd> {
    (inherit::FIRST..).take(count as usize)
}

/// The soft limit of this process, and the hard one, which is the highest that it may give away without CAP_SYS_RESOURCE.
pub fn limit(resource: Resource) -> (u64, u64) {
    getrlimit(resource).unwrap_or((u64::MAX, u64::MAX))
}
