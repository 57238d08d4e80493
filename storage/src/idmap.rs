//! Idmapped mounts: the user name spaces whose maps they take, and why the kernel refuses one.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, readlink};
use nix::libc;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::unistd::{getpid, getppid, pause};
use oci_spec::runtime::LinuxIdMapping;
use sys::process::{Child, Fork, clone3, exit_now, pidfd_send_signal};
use sys::{Doing, Error, Kind, Result};

/// Where the maps of a mount come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Users {
    /// They are given, as the kernel reads them.
    Maps {
        /// Of the users.
        uid: String,
        /// Of the groups.
        gid: String,
    },
    /// Those of the user name space at this path.
    Joined(PathBuf),
}

impl fmt::Display for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Maps { .. } => f.write_str("make the user name space of an idmapped mount"),
            Self::Joined(path) => write!(f, "open user name space {} for an idmapped mount", path.display()),
        }
    }
}

/// The maps as the kernel reads them. Source: user_namespaces(7).
pub fn map(list: Option<&Vec<LinuxIdMapping>>) -> String {
    list.into_iter().flatten().map(|map| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size())).collect()
}

impl Users {
    /// Those that are given.
    pub(crate) fn maps(uid: Option<&Vec<LinuxIdMapping>>, gid: Option<&Vec<LinuxIdMapping>>) -> Self {
        Self::Maps { uid: map(uid), gid: map(gid) }
    }

    /// A descriptor of the user name space.
    ///
    /// # Errors
    /// As open(2), and what the kernel says of the maps.
    pub(crate) fn open(&self) -> Result<OwnedFd> {
        let step = || self.to_string();
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        match self {
            Self::Joined(path) => {
                let users = open(path, flags, Mode::empty()).doing(step)?;
                // Else the kernel would say that of the mount.
                let name = readlink(&*format!("/proc/self/fd/{}", users.as_raw_fd())).doing(step)?;
                match name.as_encoded_bytes().starts_with(b"user:") {
                    true => Ok(users),
                    false => Err(Error::invalid(format!("{self}: it is no user name space"))),
                }
            }
            Self::Maps { uid, gid } => {
                let holder = holder().doing(step)?;
                let made = write_maps(&holder, uid, gid)
                    .and_then(|()| open(&*format!("/proc/{}/ns/user", holder.pid), flags, Mode::empty()).doing(step));
                // The name space lives on in the descriptor.
                pidfd_send_signal(&holder.pidfd, libc::SIGKILL).and_then(|()| waitpid(holder.pid, None)).doing(step)?;
                made
            }
        }
    }
}

/// A process that does nothing but be in a new user name space, since the kernel makes none without a process.
fn holder() -> nix::Result<Child> {
    let maker = getpid();
    match clone3(libc::CLONE_NEWUSER as u64, None)? {
        Fork::Parent(child) => Ok(child),
        Fork::Child => {
            // It must not outlive its maker, who may have died before it could be tied to.
            if set_pdeathsig(Signal::SIGKILL).is_err() || getppid() != maker {
                exit_now(1);
            }
            loop {
                pause();
            }
        }
    }
}

fn write_maps(holder: &Child, uid: &str, gid: &str) -> Result<()> {
    for (file, key, text) in [("uid_map", "uidMappings", uid), ("gid_map", "gidMappings", gid)] {
        std::fs::write(format!("/proc/{}/{file}", holder.pid), text)
            .doing(|| format!("use {key} of an idmapped mount ({})", text.trim_end().replace('\n', ", ")))?;
    }
    Ok(())
}

/// Maps the owners of what the detached `tree`, a copy of the host's `source`, shows.
///
/// # Errors
/// Why the kernel refuses it, as far as it can be known, and the way out.
pub(crate) fn apply(tree: &OwnedFd, source: &CStr, recursive: bool, users: impl AsFd) -> Result<()> {
    let step = || format!("map the owners of {} of the host", source.to_string_lossy());
    sys::mount::map_owners(tree, recursive, users).map_err(|errno| {
        let kinds = kinds(source, recursive).join(", ");
        let mapped = "it is idmapped already, or its file system belongs to another user name space";
        match errno {
            Errno::EINVAL if recursive => {
                let which = format!("one of the file systems there ({kinds}) cannot be idmapped");
                Error::unsupported(format!("{}: {which}; idmap in the place of ridmap maps the first alone", step()))
            }
            Errno::EINVAL => {
                let which = format!("its file system ({kinds}) cannot be idmapped");
                Error::unsupported(format!("{}: {which}; bind it without idmap and mappings", step()))
            }
            Errno::EPERM => Error::new(Kind::Denied, format!("{} ({kinds}): {mapped}", step())),
            other => Error::kernel(step(), other),
        }
    })
}

/// Which kinds of file systems are at `source`, and below it where it is `recursive`: only asked for an error.
fn kinds(source: &CStr, recursive: bool) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let source = std::fs::canonicalize(source.to_string_lossy().as_ref()).unwrap_or_default();
    let of = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        Some((PathBuf::from(left.split(' ').nth(4)?), right.split(' ').next()?.to_owned()))
    };
    let all: Vec<_> = table.lines().filter_map(of).collect();
    let above = all.iter().filter(|(place, _)| source.starts_with(place));
    // The last of the longest: a mount covers what was mounted at its place before.
    let mut kinds: BTreeSet<_> = above.max_by_key(|(place, _)| place.as_os_str().len()).into_iter().collect();
    kinds.extend(all.iter().filter(|(place, _)| recursive && place.starts_with(&source)));
    let names: BTreeSet<_> = kinds.into_iter().map(|(_, kind)| kind.clone()).collect();
    names.into_iter().collect()
}
