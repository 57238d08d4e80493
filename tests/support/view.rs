//! What this process sees of mounts and cgroups, and the two private views of the cgroup tree.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

const CGROUP: &str = "/sys/fs/cgroup";

/// A way to see the cgroup tree. On a hybrid host each of the pure ones is made in a mount name space of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// As the host has it.
    Host,
    /// The v1 hierarchies only.
    V1,
    /// One v2 tree.
    V2,
}

impl View {
    /// The view of this name.
    pub fn named(name: &str) -> Option<View> {
        Some(match name {
            "host" => View::Host,
            "v1" => View::V1,
            "v2" => View::V2,
            _ => return None,
        })
    }

    /// Gives this process and its children a mount name space of their own with this view. A second call goes over to
    /// another view. Mounts do not propagate back, so the host never notices.
    pub fn enter(self) -> nix::Result<()> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        // The host's own mount is the lowest; what lies over it is the view before.
        while mounts().iter().filter(|place| *place == CGROUP).count() > 1 {
            umount2(CGROUP, MntFlags::MNT_DETACH)?;
        }
        match self {
            View::Host => Ok(()),
            View::V1 => only_v1(),
            View::V2 if types(CGROUP) == ["cgroup2"] => Ok(()),
            View::V2 => mount(Some("none"), CGROUP, Some("cgroup2"), MsFlags::empty(), none),
        }
    }
}

/// The v1 hierarchies again, on a fresh folder. An empty file system over `unified` would hide v2 too, but crun makes
/// folders in it and leaves them.
fn only_v1() -> nix::Result<()> {
    let info = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    mount(Some("none"), CGROUP, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    for line in info.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let right: Vec<&str> = right.split(' ').collect();
        let (Some(place), ["cgroup", _, options]) = (left.split(' ').nth(4), &right[..]) else { continue };
        let named = options.contains("name=").then_some("none");
        let options: Vec<&str> = named.into_iter().chain(options.split(',').filter(|word| *word != "rw")).collect();
        fs::create_dir_all(place).map_err(|error| nix::Error::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
        mount(Some("cgroup"), place, Some("cgroup"), MsFlags::empty(), Some(options.join(",").as_str()))?;
    }
    Ok(())
}

/// The types of the file systems that are mounted at PLACE, the lowest first.
fn types(place: &str) -> Vec<String> {
    let info = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    let lines = info.lines().filter(|line| line.split(' ').nth(4) == Some(place));
    lines.filter_map(|line| Some(line.split_once(" - ")?.1.split(' ').next()?.to_string())).collect()
}

/// The places of every mount of this mount name space, oldest first.
pub fn mounts() -> Vec<String> {
    let info = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    info.lines().filter_map(|line| line.split(' ').nth(4)).map(str::to_string).collect()
}

/// Every cgroup of every hierarchy whose path has WORD in it, parents first.
pub fn cgroups(word: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(CGROUP)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        let below = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.extend(below.map(|entry| entry.path()));
        if folder.to_string_lossy().contains(word) {
            found.push(folder);
        }
    }
    found.sort();
    found
}

/// Ends the processes of every cgroup with WORD in its path and removes it; gives what did not go within two seconds.
pub fn remove_cgroups(word: &str) -> Vec<PathBuf> {
    let end = Instant::now() + Duration::from_secs(2);
    loop {
        let left = cgroups(word);
        if left.is_empty() || Instant::now() > end {
            return left;
        }
        for folder in left.iter().rev() {
            // A frozen process cannot die.
            let _ = fs::write(folder.join("freezer.state"), "THAWED");
            let _ = fs::write(folder.join("cgroup.freeze"), "0");
            let members = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            members.lines().filter_map(|pid| pid.parse().ok()).for_each(crate::processes::kill);
            let _ = fs::remove_dir(folder);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
