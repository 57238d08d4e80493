//! The prelude of a caller who is not root of the host: into a user and a mount name space in which he may do what a plan
//! needs. The program starts again behind it, looks at the host again, and goes on as ever.
//!
//! Behind it the caller is user 0. His own numbers come first, and those that the specification gives to the jail after
//! them, so that the maps of the jail are rewritten in these terms (`/proc/self/uid_map` has both sides).

use std::fmt::Write;
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, getegid, geteuid, getpid, getppid, pipe2};
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespaceType, Spec};
use sys::process::{Fork, clone3, exit_now};
use sys::{Child, Doing, Error, Kind, Result};

use crate::namespace;
use crate::process;

/// How one gets into a user name space in which one may mount.
#[derive(Debug)]
pub enum Way {
    /// A new one is made.
    New(Box<Users>),
    /// The one in which a jail was made.
    Made(OwnedFd),
}

/// Who is who in a new user name space: ranges of the host's numbers, in the order in which they are numbered from 1 on;
/// 0 is the caller.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Users {
    uid: Vec<(u32, u32)>,
    gid: Vec<(u32, u32)>,
}

/// Goes there and starts the program again. Where the caller lacks no more than a mount name space of his own, that is all
/// that is made.
///
/// # Errors
/// Why it could not be done; it comes back with an error only.
pub fn enter(way: impl FnOnce() -> Result<Way>) -> Result<std::convert::Infallible> {
    let step = || "make a mount name space";
    let mut mapped = false;
    match unshare(CloneFlags::CLONE_NEWNS) {
        Err(Errno::EPERM) => match way()? {
            Way::New(users) => {
                users.enter()?;
                mapped = true;
            }
            Way::Made(space) => {
                setns(space, CloneFlags::CLONE_NEWUSER)
                    .doing(|| "join the user name space in which the jail was made")?;
                unshare(CloneFlags::CLONE_NEWNS).doing(step)?;
            }
        },
        made => made.doing(step)?,
    }
    Err(Error::kernel("run from a read-only clone of the program file", sys::entry::again(mapped)))
}

/// To where the jail of process `pid` was made: the user name space above its `own`, or that which it shares.
///
/// # Errors
/// As open(2) and ioctl(2).
pub fn of_jail(pid: Pid, own: bool) -> Result<Way> {
    let step = || format!("find the user name space in which the jail of process {pid} was made");
    let space =
        open(&*format!("/proc/{pid}/ns/user"), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).doing(step)?;
    Ok(Way::Made(if own { sys::user::parent(space).doing(step)? } else { space }))
}

impl Users {
    /// What a specification needs of the host's numbers.
    ///
    /// # Errors
    /// `Unsupported` where the jail has no user name space: nothing can be mounted without one.
    pub fn of(spec: &Spec) -> Result<Self> {
        if !namespace::is_new(spec, LinuxNamespaceType::User) {
            let way = "one who is not root needs a new one of type user (`jail spec --rootless` writes such a file)";
            return Err(Error::unsupported(format!("use /linux/namespaces: {way}")));
        }
        let linux = spec.linux().as_ref();
        let of = |maps: Option<&Vec<LinuxIdMapping>>, own: u32| {
            let ranges = maps.into_iter().flatten().map(|map| (map.host_id(), map.size()));
            let mut ranges: Vec<_> = ranges.filter(|range| *range != (own, 1)).collect();
            ranges.sort_unstable();
            ranges.dedup();
            ranges
        };
        Ok(Self {
            uid: of(linux.and_then(|linux| linux.uid_mappings().as_ref()), geteuid().as_raw()),
            gid: of(linux.and_then(|linux| linux.gid_mappings().as_ref()), getegid().as_raw()),
        })
    }

    fn enter(&self) -> Result<()> {
        let step = || "make a user name space";
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        let (uid, gid) = (lines(uid, &self.uid), lines(gid, &self.gid));
        let helper = match self.uid.is_empty() && self.gid.is_empty() {
            true => None,
            false => Some(Helper::start([("newuidmap", &uid), ("newgidmap", &gid)])?),
        };
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(|errno| match errno {
            Errno::EPERM => Error::new(Kind::Denied, format!("{}: this host lets nobody but root make one", step())),
            Errno::ENOSPC => {
                Error::new(Kind::Denied, format!("{}: /proc/sys/user/max_user_namespaces allows no more", step()))
            }
            other => Error::kernel(step(), other),
        })?;
        if let Some(helper) = helper {
            return helper.finish();
        }
        // Groups that are left could keep files from the caller on purpose: user_namespaces(7).
        fs::write("/proc/self/setgroups", "deny").doing(|| "forbid setgroups")?;
        fs::write("/proc/self/uid_map", uid).doing(|| "map the caller's own user")?;
        fs::write("/proc/self/gid_map", gid).doing(|| "map the caller's own group")
    }
}

/// The lines of a map: the caller's own number is 0 inside.
fn lines(own: u32, ranges: &[(u32, u32)]) -> String {
    let mut text = format!("0 {own} 1\n");
    let mut next = 1_u64;
    for (host, size) in ranges {
        // Writing into a string does not fail.
        let _ = writeln!(text, "{next} {host} {size}");
        next += u64::from(*size);
    }
    text
}

/// A process that stays outside, where a set-user-ID program works, and lets newuidmap(1) and newgidmap(1) write the maps
/// of this one.
struct Helper {
    child: Child,
    go: OwnedFd,
    said: OwnedFd,
}

impl Helper {
    fn start(maps: [(&str, &str); 2]) -> Result<Self> {
        let step = || "start a helper for newuidmap";
        let maker = getpid();
        let (wait, go) = pipe2(OFlag::O_CLOEXEC).doing(step)?;
        let (said, say) = pipe2(OFlag::O_CLOEXEC).doing(step)?;
        match clone3(0, None).doing(step)? {
            Fork::Parent(child) => Ok(Self { child, go, said }),
            Fork::Child => {
                drop((go, said));
                if set_pdeathsig(Signal::SIGKILL).is_err() || getppid() != maker {
                    exit_now(1);
                }
                let mut word = [0];
                // End of file: there is no name space to map.
                let told = nix::unistd::read(&wait, &mut word).is_ok_and(|read| read == 1);
                let wrong = if told { maps.into_iter().find_map(|(name, map)| helped(name, maker, map)) } else { None };
                if let Some(wrong) = wrong {
                    let _ = nix::unistd::write(say, wrong.as_bytes());
                }
                exit_now(0);
            }
        }
    }

    fn finish(self) -> Result<()> {
        let step = || "hear from newuidmap";
        nix::unistd::write(&self.go, b"x").doing(step)?;
        drop(self.go);
        let code = process::exit_code(self.child.pidfd.as_fd())?;
        let mut wrong = String::new();
        fs::File::from(self.said).read_to_string(&mut wrong).doing(step)?;
        match (wrong.is_empty(), code) {
            (true, 0) => Ok(()),
            (true, _) => Err(Error::new(Kind::Kernel, format!("{}: its helper died", step()))),
            _ => Err(Error::new(Kind::Denied, wrong)),
        }
    }
}

/// Runs newuidmap(1) or newgidmap(1); the answer is what went wrong.
fn helped(name: &str, pid: Pid, map: &str) -> Option<String> {
    let mut command = Command::new(name);
    command.arg(pid.to_string()).args(map.split_whitespace()).stdin(Stdio::null());
    let file = if name == "newuidmap" { "/etc/subuid" } else { "/etc/subgid" };
    match command.output() {
        Ok(done) if done.status.success() => None,
        Ok(done) => {
            let text = String::from_utf8_lossy(&done.stderr);
            let line =
                text.lines().next().unwrap_or("it gave no reason").trim_start_matches(name).trim_start_matches(": ");
            Some(format!("map the users of the jail: {name}: {line} ({file} says which the caller may use)"))
        }
        Err(error) => Some(format!("map the users of the jail: run {name} (of the package uidmap): {error}")),
    }
}

/// The effective user and group of the caller, as they were before the prelude.
///
/// # Errors
/// Where /proc is not mounted.
pub fn caller() -> Result<(u32, u32)> {
    if !sys::entry::is_mapped() {
        return Ok((sys::user::euid(), sys::user::egid()));
    }
    let outside = |name| {
        let first = ranges(&table(name)?).next().and_then(|(_, outside, _)| u32::try_from(outside).ok());
        first.ok_or_else(|| Error::new(Kind::Kernel, format!("find the caller in /proc/self/{name}: it is empty")))
    };
    Ok((outside("uid_map")?, outside("gid_map")?))
}

/// Whether the caller is root of a user name space that was there before him.
pub fn is_root_of_name_space() -> bool {
    sys::user::euid() == 0 && !sys::entry::is_mapped()
}

/// Whether the caller's user name space has this group.
pub fn has_group(group: u64) -> bool {
    let table = table("gid_map").unwrap_or_default();
    ranges(&table).any(|(inside, _, count)| (inside..inside + count).contains(&group))
}

/// The lines of a map as the kernel shows it: the first number inside, the first outside, how many.
fn ranges(table: &str) -> impl Iterator<Item = (u64, u64, u64)> {
    table.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace().map_while(|word| word.parse().ok());
        Some((numbers.next()?, numbers.next()?, numbers.next()?))
    })
}

fn table(name: &str) -> Result<String> {
    fs::read_to_string(format!("/proc/self/{name}")).doing(|| format!("read /proc/self/{name}"))
}

/// Rewrites the maps of a specification in the terms of the user name space that the prelude has made.
///
/// # Errors
/// `Invalid` where a map names what is not there.
pub fn translate(spec: &mut Spec) -> Result<()> {
    if !sys::entry::is_mapped() {
        return Ok(());
    }
    let Some(mut linux) = spec.linux().clone() else { return Ok(()) };
    let (uid, gid) = (table("uid_map")?, table("gid_map")?);
    linux.set_uid_mappings(maps(linux.uid_mappings().as_ref(), &uid, "uidMappings")?);
    linux.set_gid_mappings(maps(linux.gid_mappings().as_ref(), &gid, "gidMappings")?);
    spec.set_linux(Some(linux));
    Ok(())
}

fn maps(list: Option<&Vec<LinuxIdMapping>>, table: &str, key: &str) -> Result<Option<Vec<LinuxIdMapping>>> {
    let one = |(index, map): (usize, &LinuxIdMapping)| {
        let missing = || {
            let (first, size) = (map.host_id(), map.size());
            Error::invalid(format!("use /linux/{key}/{index}: {size} from {first} on are not the caller's"))
        };
        let inside = inside(table, map.host_id(), map.size()).ok_or_else(missing)?;
        let map = LinuxIdMappingBuilder::default().container_id(map.container_id()).host_id(inside).size(map.size());
        map.build().map_err(|error| Error::invalid(format!("use /linux/{key}/{index}: {error}")))
    };
    list.map(|list| list.iter().enumerate().map(one).collect()).transpose()
}

/// What the `size` numbers from `host` on are inside, where one line of the table has them all.
fn inside(table: &str, host: u32, size: u32) -> Option<u32> {
    ranges(table).find_map(|(inside, outside, count)| {
        let offset = u64::from(host).checked_sub(outside)?;
        (offset + u64::from(size) <= count).then(|| u32::try_from(inside + offset).ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_maps_of_a_jail_are_rewritten_in_the_terms_of_the_name_space_between() {
        let table = lines(1000, &[(100_000, 65_536), (300_000, 10)]);
        assert_eq!(table, "0 1000 1\n1 100000 65536\n65537 300000 10\n");
        for (host, size, expected) in [
            (1000, 1, Some(0)),
            (100_000, 65_536, Some(1)),
            (100_005, 2, Some(6)),
            (300_009, 1, Some(65_546)),
            (300_009, 2, None),
            (1000, 2, None),
            (7, 1, None),
        ] {
            assert_eq!(inside(&table, host, size), expected, "{host} {size}");
        }
    }
}
