//! What the host has, so that a test can show that it is as before.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::{processes, view, walk};

/// Everything that a jail could leave behind, each as one line that names it. See the table of leaks in the
/// project's notes on security: mounts, cgroups, links, loop devices, keys, sockets, processes, name spaces, files.
#[derive(Debug)]
pub struct Host {
    word: String,
    alone: bool,
    stores: Vec<PathBuf>,
    seen: BTreeSet<String>,
}

impl Host {
    /// The host as it is now, seen through the objects whose names have WORD in them (a bundle's id), so that tests
    /// that run at the same time do not see each other. STORES are folders that are looked at whole.
    pub fn snapshot(word: &str, stores: &[&Path]) -> Host {
        Host::look_at(word, false, stores)
    }

    /// The same for a program that has its mount and network name space and its children to itself: it sees all of
    /// these without a filter, and only cgroups and files by WORD.
    pub fn alone(word: &str, stores: &[&Path]) -> Host {
        Host::look_at(word, true, stores)
    }

    fn look_at(word: &str, alone: bool, stores: &[&Path]) -> Host {
        let stores: Vec<PathBuf> = stores.iter().map(|path| path.to_path_buf()).collect();
        let seen = look(word, alone, &stores);
        Host { word: word.to_string(), alone, stores, seen }
    }

    /// What is there now and was not before. What dies by itself (a process after SIGKILL, a cgroup whose last member
    /// is just leaving) gets half a second; a keyring, which the kernel collects when it finds the time, ten.
    pub fn leaked(&self) -> Vec<String> {
        let begin = Instant::now();
        loop {
            if self.alone {
                // A zombie holds its credentials, and with them a keyring.
                processes::reap();
            }
            let left: Vec<String> =
                look(&self.word, self.alone, &self.stores).difference(&self.seen).cloned().collect();
            let only_keys = left.iter().all(|what| what.starts_with("key "));
            let grace = Duration::from_millis(if only_keys { 10_000 } else { 500 });
            if left.is_empty() || begin.elapsed() > grace {
                return left;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asserts that nothing was left and nothing was taken away.
    ///
    /// # Panics
    /// With the name of each object that leaked or is gone.
    #[track_caller]
    pub fn assert_unchanged(&self) {
        let leaked = self.leaked();
        assert!(leaked.is_empty(), "left behind:\n  {}", leaked.join("\n  "));
        let gone: Vec<_> = self.seen.difference(&look(&self.word, self.alone, &self.stores)).cloned().collect();
        assert!(gone.is_empty(), "taken away:\n  {}", gone.join("\n  "));
    }
}

fn look(word: &str, alone: bool, stores: &[PathBuf]) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut add = |kind: &str, names: Vec<String>| seen.extend(names.into_iter().map(|name| format!("{kind} {name}")));
    add("mount", mounts(if alone { "" } else { word }));
    add("cgroup", view::cgroups(word).iter().map(|path| path.display().to_string()).collect());
    add("loop", loops(word));
    add("key", lines("/proc/keys", word, 8));
    add("socket", lines("/proc/net/unix", word, 7));
    add("run file", run_files(word));
    let processes = if alone { children() } else { processes::with_word(word) };
    add("name space", processes.iter().flat_map(|pid| foreign_name_spaces(*pid)).collect());
    add("process", processes.into_iter().map(processes::name).collect());
    for store in stores {
        add("file", files(store));
    }
    if alone {
        // A link has no name that tells whose it is.
        add("link", lines("/proc/net/dev", ":", 0));
    }
    seen
}

/// Children of this process that live; a zombie is reaped or waited for by whoever started it.
fn children() -> Vec<i32> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    processes::below(own).into_iter().filter(|pid| !processes::is_zombie(*pid)).collect()
}

/// Mounts whose place, root or source has WORD in it: the numbers before change with every look in a new name space.
fn mounts(word: &str) -> Vec<String> {
    let info = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    let lines = info.lines().filter(|line| line.contains(word));
    lines.map(|line| line.split(' ').skip(3).collect::<Vec<_>>().join(" ")).collect()
}

fn loops(word: &str) -> Vec<String> {
    let Ok(devices) = fs::read_dir("/sys/block") else { return Vec::new() };
    let backing = devices.flatten().filter_map(|device| {
        let file = fs::read_to_string(device.path().join("loop/backing_file")).ok()?;
        Some(format!("{} on {}", device.file_name().to_string_lossy(), file.trim_end()))
    });
    backing.filter(|line| line.contains(word)).collect()
}

/// From the COLUMN on, the lines of a file with WORD in them.
fn lines(path: &str, word: &str, column: usize) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let with_word = text.lines().filter(|line| line.contains(word));
    let first = |line: &str| line.split_whitespace().skip(column).take(1).collect::<String>();
    with_word.map(first).collect()
}

/// Where runtimes keep what is not in their store.
fn run_files(word: &str) -> Vec<String> {
    let places = ["/run/jail", "/run/crun", "/run/runc", "/run/netns", "/var/lib/jail"];
    let all = places.iter().flat_map(|place| files(Path::new(place)));
    all.filter(|path| path.contains(word)).collect()
}

fn files(folder: &Path) -> Vec<String> {
    walk(folder).into_iter().map(|path| path.display().to_string()).collect()
}

/// The name spaces of a process that are not ours: each is one that the jail made and a process keeps.
fn foreign_name_spaces(pid: i32) -> Vec<String> {
    let of = |pid: &str, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
    let kinds = ["mnt", "net", "ipc", "uts", "pid", "user", "cgroup", "time"].into_iter();
    let foreign =
        kinds.filter_map(|kind| of(&pid.to_string(), kind).filter(|space| of("self", kind).as_ref() != Some(space)));
    foreign.map(|space| space.display().to_string()).collect()
}
