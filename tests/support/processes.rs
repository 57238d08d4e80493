//! Finding and ending processes: those below this one, and those that carry a word.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{self, Signal};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

static ADOPTS: AtomicBool = AtomicBool::new(false);

/// Makes orphans below this process its children, so that none can hide. They are waited for while commands run, as
/// any process 1 would do: a process name space cannot end before its last zombie is gone. Only for a program that
/// runs one command at a time, never for parallel tests.
///
/// # Panics
/// Never on a Linux of this century: prctl(2).
pub fn adopt_orphans() {
    nix::sys::prctl::set_child_subreaper(true).expect("PR_SET_CHILD_SUBREAPER");
    ADOPTS.store(true, Ordering::Relaxed);
}

/// Waits for orphans that have ended, if this process adopts them; COMMAND is left to the one who started it.
pub(crate) fn reap_orphans(command: i32) {
    if !ADOPTS.load(Ordering::Relaxed) {
        return;
    }
    // Only this thread's children: a wait of any kind would take away the stops of another thread's tracees.
    let own = WaitPidFlag::WNOHANG | WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
    let peek = own | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    // An orphan that is traced is this thread's child too: its stops are seen here, and must be left to the tracer.
    while let Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) = waitid(Id::All, peek) {
        if pid.as_raw() == command {
            return;
        }
        let _ = waitpid(pid, Some(own));
    }
}

/// Every process now, with its parent.
fn all() -> Vec<(i32, i32)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, parent(pid)?))).collect()
}

fn stat(pid: i32) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, even brackets; it ends at the last one.
    let mut rest = stat.rsplit_once(") ")?.1.split(' ');
    Some((rest.next()?.chars().next()?, rest.next()?.parse().ok()?))
}

fn parent(pid: i32) -> Option<i32> {
    Some(stat(pid)?.1)
}

/// Whether the process ended and only waits to be waited for.
pub fn is_zombie(pid: i32) -> bool {
    stat(pid).is_some_and(|(state, _)| state == 'Z')
}

/// Whether the process is there and has not ended.
pub fn lives(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists() && !is_zombie(pid)
}

/// What the text of a /proc/PID/status has at a name, its words with one space between them.
///
/// # Panics
/// If it has no such name.
#[track_caller]
pub fn field(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let line = line.unwrap_or_else(|| panic!("no {name} in:\n{status}"));
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Every process below PID.
pub fn below(pid: i32) -> Vec<i32> {
    let all = all();
    let mut found = vec![pid];
    let mut at = 0;
    while at < found.len() {
        let above = found[at];
        found.extend(all.iter().filter(|(_, parent)| *parent == above).map(|(child, _)| child));
        at += 1;
    }
    found.split_off(1)
}

/// Every process below a child of this one.
pub fn below_child(child: &std::process::Child) -> Vec<i32> {
    i32::try_from(child.id()).map(below).unwrap_or_default()
}

/// Living processes whose command line, environment or cgroup has this word in it.
pub fn with_word(word: &str) -> Vec<i32> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let has = |pid: i32, file: &str| {
        fs::read(Path::new("/proc").join(pid.to_string()).join(file))
            .is_ok_and(|bytes| bytes.windows(word.len()).any(|part| part == word.as_bytes()))
    };
    let pids = all().into_iter().map(|(pid, _)| pid).filter(|pid| *pid != own && !is_zombie(*pid));
    pids.filter(|pid| ["cgroup", "cmdline", "environ"].iter().any(|file| has(*pid, file))).collect()
}

/// What a process is, for messages: number and command line.
pub fn name(pid: i32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!("{pid} ({})", String::from_utf8_lossy(&line).replace('\0', " ").trim_end())
}

/// Ends a process at once.
pub fn kill(pid: i32) {
    let _ = signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
}

/// Waits for every child that has ended. Only for a program whose children are all its own to wait for.
pub fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}

/// Ends everything below this process and waits for it; gives what did not go within two seconds.
pub fn end_all() -> Vec<i32> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let end = Instant::now() + Duration::from_secs(2);
    loop {
        let left = below(own);
        if left.is_empty() || Instant::now() > end {
            return left;
        }
        left.into_iter().for_each(kill);
        reap();
        std::thread::sleep(Duration::from_millis(1));
    }
}
