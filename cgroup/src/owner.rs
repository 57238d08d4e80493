//! The owner of a jail's directory of v2: who its program is, so that it can make directories below.
//!
//! Source: the OCI runtime specification's config-linux, "Cgroup ownership"; cgroups(7), /sys/kernel/cgroup/delegate.

use std::fs;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Uid, chown};
use sys::{Doing, Result};

/// The files that the kernel says may be given away with a directory.
const LIST: &str = "/sys/kernel/cgroup/delegate";
/// The same, where it does not say.
const USUAL: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";

/// Gives `dir` and what belongs to it away; its limits stay root's.
pub(crate) fn change(dir: &Path, uid: Uid) -> Result<()> {
    let list = match fs::read_to_string(LIST) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => USUAL.to_owned(),
        read => read.doing(|| format!("read {LIST}"))?,
    };
    let step = |path: &Path| format!("give {} to user {uid}", path.display());
    chown(dir, Some(uid), None).doing(|| step(dir))?;
    for file in list.lines().map(|name| dir.join(name)) {
        match chown(&file, Some(uid), None) {
            // Not every directory has every file.
            Err(Errno::ENOENT) => {}
            other => other.doing(|| step(&file))?,
        }
    }
    Ok(())
}
