//! Who is in a cgroup, and signals to all of them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use base::Object;
use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use sys::process::{pidfd_open, pidfd_send_signal};
use sys::{Doing, Error, Kind, Result};

use crate::step::write;
use crate::{freezer, object};

/// How many rounds of signals are sent: each reaches the children that were born during the one before.
const ROUNDS: usize = 16;

/// Every process in the jail's cgroups and below them, as the caller's pid name space counts, in ascending order.
///
/// `objects` may hold those of other kinds. What is gone, or carries another mark, has no processes of this jail.
pub fn processes(objects: &[Object]) -> Vec<Pid> {
    let leaves = objects.iter().filter(|object| object::is_ours(object));
    let found: BTreeSet<_> = leaves.flat_map(|leaf| members(&tree(Path::new(&leaf.name)))).collect();
    found.into_iter().collect()
}

/// Whether `pid` is in one of the jail's cgroups, or below; stops at the first that has it.
///
/// # Errors
/// Where none has it, and not all of them could be asked.
pub fn contain(objects: &[Object], pid: Pid) -> Result<bool> {
    let mut unknown = None;
    for leaf in objects.iter().filter(|object| object::is_leaf(object)) {
        match holds(leaf, pid) {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(error) => unknown = unknown.or(Some(error)),
        }
    }
    unknown.map_or(Ok(false), Err)
}

/// Whether `pid` is in the directory of `leaf`, which carries its mark, or below.
fn holds(leaf: &Object, pid: Pid) -> Result<bool> {
    let mut left = vec![PathBuf::from(&leaf.name)];
    match object::Mark::of(&left[0]).doing(|| format!("read the mark of {leaf}"))? {
        object::Mark::Jail(mark) if mark == leaf.unique => {}
        _ => return Ok(false),
    }
    // Nearly always it is in the directory itself.
    while let Some(dir) = left.pop() {
        let path = dir.join("cgroup.procs");
        let text = match fs::read_to_string(&path) {
            Err(error) if is_gone(&error) => continue,
            // A threaded one, which the jail itself can make: its processes are those of the directory above.
            Err(error) if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => String::new(),
            text => text.doing(|| format!("read {}", path.display()))?,
        };
        if text.lines().any(|line| line.parse() == Ok(pid.as_raw())) {
            return Ok(true);
        }
        match try_below(&dir) {
            Err(Errno::ENOENT | Errno::ENODEV) => {}
            dirs => left.extend(dirs.doing(|| format!("list {}", dir.display()))?),
        }
    }
    Ok(false)
}

/// Sends `signal` to every process of the jail, those included that are born meanwhile.
///
/// # Errors
/// `Denied` where a process is not the caller's to signal, `Kernel` for a signal that does not exist.
pub fn kill_all(objects: &[Object], signal: i32) -> Result<()> {
    if signal == libc::SIGKILL {
        // On v2 one write reaches even those that fork faster than they can be listed. Where it is refused, the rounds
        // below do it, and say what does not work.
        for leaf in objects.iter().filter(|object| object::is_ours(object)) {
            let _ = write(&Path::new(&leaf.name).join("cgroup.kill"), "1");
        }
    }
    let mut done = BTreeSet::new();
    for _ in 0..ROUNDS {
        let mut new = processes(objects);
        new.retain(|pid| !done.contains(pid));
        if new.is_empty() {
            break;
        }
        send(&new, || processes(objects), signal)?;
        done.extend(new);
    }
    Ok(())
}

/// Signals those of `pids` that `again` lists too, and returns their descriptors.
///
/// A number is looked at twice, since it could have been freed and used again before its descriptor was opened. What
/// is listed after that is either the same process or one that is rightly in the cgroup.
fn send(pids: &[Pid], again: impl Fn() -> Vec<Pid>, signal: i32) -> Result<Vec<OwnedFd>> {
    let mut opened = Vec::new();
    for &pid in pids {
        match pidfd_open(pid) {
            Err(Errno::ESRCH) => {}
            fd => opened.push((pid, fd.doing(|| format!("open process {pid}"))?)),
        }
    }
    let still = again();
    opened.retain(|(pid, _)| still.contains(pid));
    for (pid, fd) in &opened {
        match pidfd_send_signal(fd, signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            sent => sent.doing(|| format!("send signal {signal} to process {pid}"))?,
        }
    }
    Ok(opened.into_iter().map(|(_, fd)| fd).collect())
}

/// Kills everything in `dir` and below, and waits for its end.
///
/// # Errors
/// `Kernel` with the processes that are still there at `deadline`.
pub(crate) fn kill_tree(dir: &Path, deadline: Instant) -> Result<()> {
    let step = || format!("kill the processes in {}", dir.display());
    // One write reaches all at once, frozen ones too. Since Linux 5.14; v1 does not have it.
    match write(&dir.join("cgroup.kill"), "1") {
        Ok(()) => return await_empty(dir, deadline),
        Err(error) if is_gone(&error) => {}
        Err(error) => return Err(error).doing(step),
    }
    loop {
        let dirs = tree(dir);
        dirs.iter().for_each(|dir| freezer::thaw_directory(dir));
        let pids = members(&dirs);
        if pids.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(left(dir));
        }
        for fd in send(&pids, || members(&tree(dir)), libc::SIGKILL)? {
            wait(fd.as_fd(), PollFlags::POLLIN, deadline).doing(step)?;
        }
    }
}

/// The file is not there, or its cgroup was removed while it was open.
pub(crate) fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ENOENT | Errno::ENODEV))
}

/// Waits until v2 says that nothing alive is in `dir` and below.
fn await_empty(dir: &Path, deadline: Instant) -> Result<()> {
    match await_event(dir, "populated 0", deadline)? {
        true => Ok(()),
        false => Err(left(dir)),
    }
}

/// Waits until `line` is in cgroup.events of `dir`, a directory of v2; `false` where it is not at `deadline`. A directory
/// that is gone has nothing to wait for.
pub(crate) fn await_event(dir: &Path, line: &str, deadline: Instant) -> Result<bool> {
    let path = dir.join("cgroup.events");
    let step = || format!("read {}", path.display());
    let mut file = match File::open(&path) {
        Err(error) if is_gone(&error) => return Ok(true),
        file => file.doing(step)?,
    };
    loop {
        let mut text = String::new();
        match file.rewind().and_then(|()| file.read_to_string(&mut text)) {
            Err(error) if is_gone(&error) => return Ok(true),
            read => read.doing(step)?,
        };
        if text.lines().any(|found| found == line) {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        // The kernel wakes this at every change since the last read: admin-guide/cgroup-v2, "[Un]populated".
        wait(file.as_fd(), PollFlags::POLLPRI, deadline).doing(step)?;
    }
}

/// Waits for `what` on `fd`, at the longest until `deadline`.
fn wait(fd: std::os::fd::BorrowedFd<'_>, what: PollFlags, deadline: Instant) -> nix::Result<()> {
    // A poll of 0 ms never waits, so the last, broken millisecond counts as a whole one.
    let left = deadline.saturating_duration_since(Instant::now()).as_millis() + 1;
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(fd, what)], timeout) {
        Err(Errno::EINTR) => Ok(()),
        done => done.map(drop),
    }
}

/// What is to be said of those that did not end.
fn left(dir: &Path) -> Error {
    let who = holders_of(dir).join(", ");
    Error::new(Kind::Kernel, format!("kill the processes in {}: {who} did not end in time", dir.display()))
}

/// `dir` and every directory below it, each before its children; none where it is gone.
pub(crate) fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![dir.to_owned()];
    let mut next = 0;
    while next < found.len() {
        let inner = below(&found[next]);
        found.extend(inner);
        next += 1;
    }
    found
}

/// The directories in `dir`; none where it is gone or cannot be read.
pub(crate) fn below(dir: &Path) -> Vec<PathBuf> {
    try_below(dir).unwrap_or_default()
}

/// The directories in `dir`.
///
/// std's own iterator panics where closing the directory is answered by an error.
fn try_below(dir: &Path) -> nix::Result<Vec<PathBuf>> {
    let mut open = Dir::open(dir, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut dirs = Vec::new();
    for entry in open.iter() {
        let entry = entry?;
        if entry.file_type() == Some(Type::Directory) && !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            dirs.push(dir.join(OsStr::from_bytes(entry.file_name().to_bytes())));
        }
    }
    Ok(dirs)
}

/// The processes in `dirs` that can be signalled.
fn members(dirs: &[PathBuf]) -> Vec<Pid> {
    let mut found = numbers(dirs);
    found.retain(|pid| pid.as_raw() > 0);
    found
}

/// The processes in `dirs`. One that the caller's pid name space does not have is 0.
fn numbers(dirs: &[PathBuf]) -> Vec<Pid> {
    let texts = dirs.iter().filter_map(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok());
    let numbers = texts.flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<i32>>());
    numbers.map(Pid::from_raw).collect()
}

/// Every process in `dir` and below as `123 (sleep)`.
pub(crate) fn holders_of(dir: &Path) -> Vec<String> {
    numbers(&tree(dir)).into_iter().map(name).collect()
}

/// The first process in `dir` and below that is not `process`, as `123 (sleep)`.
pub(crate) fn others_in(dir: &Path, process: Option<Pid>) -> Option<String> {
    numbers(&tree(dir)).into_iter().find(|pid| Some(*pid) != process).map(name)
}

/// Whether `pid` is in `dir` itself.
pub(crate) fn is_in(dir: &Path, pid: Pid) -> bool {
    numbers(std::slice::from_ref(&dir.to_owned())).contains(&pid)
}

/// Every process of the jail that no signal reaches, and where it waits, as `123 (cat) waits in request_wait_answer`.
pub fn unreachable(objects: &[Object]) -> Vec<String> {
    let stuck = processes(objects).into_iter().filter_map(|pid| Some((pid, stuck(pid)?)));
    stuck.map(|(pid, thread)| format!("{} waits in {}", name(pid), place(&thread))).collect()
}

/// Those of `dir` and below of which a thread waits in the kernel for what no signal ends: state D of proc(5).
pub(crate) fn uninterruptible(dir: &Path) -> Vec<String> {
    let mut found = members(&tree(dir));
    found.retain(|pid| stuck(*pid).is_some());
    found.into_iter().map(name).collect()
}

/// The first thread of process `pid` that waits in the kernel for what no signal ends.
fn stuck(pid: Pid) -> Option<PathBuf> {
    let waits = |thread: &PathBuf| {
        fs::read_to_string(thread.join("status"))
            .is_ok_and(|text| text.lines().any(|line| line.starts_with("State:\tD")))
    };
    below(Path::new(&format!("/proc/{pid}/task"))).into_iter().find(waits)
}

/// Where in the kernel a thread waits. Source: proc_pid_wchan(5).
fn place(thread: &Path) -> String {
    let place = fs::read_to_string(thread.join("wchan")).unwrap_or_default();
    if matches!(place.trim(), "" | "0") { "the kernel".to_owned() } else { place.trim().to_owned() }
}

fn name(pid: Pid) -> String {
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(comm) => format!("{pid} ({})", comm.trim_end()),
        Err(_) if pid.as_raw() == 0 => "a process of another pid name space".to_owned(),
        Err(_) => pid.to_string(),
    }
}
