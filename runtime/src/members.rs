//! Who is in a jail: those of its cgroups; where it has none, those of its pid name space.

use std::fs;
use std::path::{Path, PathBuf};

use base::Object;
use nix::errno::Errno;
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use sys::process::{pidfd_open, pidfd_send_signal};
use sys::{Doing, Result};

use crate::namespace;

/// How many rounds of signals are sent: each reaches the children that were born during the one before.
const ROUNDS: usize = 16;

/// Said where processes of a jail can outlive its program and nobody would know whose they are.
pub const UNKNOWN: &str =
    "it has neither cgroups nor a pid name space of its own, so that only its first process is known";

/// Whether the members of a jail are known by its cgroups.
pub fn has_cgroups(objects: &[Object]) -> bool {
    objects.iter().any(cgroup::object::is_leaf)
}

/// The members of a jail without cgroups whose process 1 is `first`, in ascending order.
pub fn of(first: Pid, spec: &Spec) -> Vec<Pid> {
    let space = |pid: &Path| fs::read_link(pid.join("ns/pid")).ok();
    let wanted = space(&PathBuf::from(format!("/proc/{first}")));
    if wanted.is_none() || !namespace::is_new(spec, LinuxNamespaceType::Pid) {
        return vec![first];
    }
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok().map(|pid| (pid, entry.path()));
    let all = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(number);
    let mut found: Vec<i32> = all.filter(|(_, path)| space(path) == wanted).map(|(pid, _)| pid).collect();
    found.sort_unstable();
    found.into_iter().map(Pid::from_raw).collect()
}

/// Sends `signal` to all of them, those included that are born meanwhile.
///
/// # Errors
/// As pidfd_send_signal(2).
pub fn kill(first: Pid, spec: &Spec, signal: i32) -> Result<()> {
    if !namespace::is_new(spec, LinuxNamespaceType::Pid) {
        crate::log::warn(UNKNOWN);
    }
    let mut done = Vec::new();
    for _ in 0..ROUNDS {
        let mut opened = Vec::new();
        for pid in of(first, spec).into_iter().filter(|pid| !done.contains(pid)) {
            match pidfd_open(pid) {
                Err(Errno::ESRCH) => {}
                fd => opened.push((pid, fd.doing(|| format!("open process {pid}"))?)),
            }
        }
        if opened.is_empty() {
            break;
        }
        // Looked at again: a number could have become another process's before its descriptor was opened.
        let still = of(first, spec);
        for (pid, fd) in opened {
            done.push(pid);
            if !still.contains(&pid) {
                continue;
            }
            match pidfd_send_signal(fd, signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                sent => sent.doing(|| format!("send signal {signal} to process {pid}"))?,
            }
        }
    }
    Ok(())
}
