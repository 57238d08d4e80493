//! Processes on the host, told apart for certain.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use sys::{Doing, Error, Kind, Result};

use crate::journal::Process;

/// When process `pid` started, and whether it has ended but was not waited for yet; `None` where there is none.
///
/// Source: proc_pid_stat(5), fields 3 and 22.
///
/// # Errors
/// As open(2) and read(2): nothing is known of the process then, and least of all that it has ended.
pub fn start_time(pid: Pid) -> Result<Option<(u64, bool)>> {
    let path = format!("/proc/{pid}/stat");
    match std::fs::read(&path) {
        Err(error) if matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ENOENT | Errno::ESRCH)) => {
            Ok(None)
        }
        stat => Ok(start_in(&stat.doing(|| format!("read {path}"))?)),
    }
}

fn start_in(stat: &[u8]) -> Option<(u64, bool)> {
    // The name of the program stands in parentheses and may contain anything, also parentheses.
    let rest = &stat[stat.iter().rposition(|byte| *byte == b')')? + 2..];
    let mut words = rest.split(|byte| *byte == b' ');
    let ended = matches!(words.next()?, b"Z" | b"X");
    let start = std::str::from_utf8(words.nth(18)?).ok()?.parse().ok()?;
    Some((start, ended))
}

/// The numbers of process `pid`, from the caller's pid name space to its own; `None` where there is none.
///
/// Source: proc_pid_status(5), `NSpid`.
pub fn numbers(pid: Pid) -> Option<Vec<i32>> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    Some(line.split_whitespace().filter_map(|number| number.parse().ok()).collect())
}

impl Process {
    /// Describes a process that is known to be there.
    ///
    /// # Errors
    /// Where it has ended meanwhile.
    pub fn of(pid: Pid) -> Result<Self> {
        match start_time(pid)? {
            Some((start, _)) => Ok(Self { pid: pid.as_raw(), start }),
            None => Err(Error::kernel(format!("look at process {pid}"), Errno::ESRCH)),
        }
    }

    /// Whether it runs.
    ///
    /// # Errors
    /// As [`start_time`].
    pub fn is_alive(&self) -> Result<bool> {
        Ok(matches!(start_time(Pid::from_raw(self.pid))?, Some((start, false)) if start == self.start))
    }

    /// A descriptor of it; `None` where it has ended, or its number is another process's now.
    ///
    /// # Errors
    /// As pidfd_open(2) and [`start_time`].
    pub fn open(&self) -> Result<Option<OwnedFd>> {
        let pid = Pid::from_raw(self.pid);
        if self.pid <= 0 {
            return Ok(None);
        }
        match sys::process::pidfd_open(pid) {
            // Looked at after the descriptor was opened: the answer is about what the descriptor holds.
            Ok(pidfd) => Ok(self.is_alive()?.then_some(pidfd)),
            Err(Errno::ESRCH) => Ok(None),
            Err(errno) => Err(Error::kernel(format!("open process {pid}"), errno)),
        }
    }
}

/// Whether SIGKILL waits for a process that does not run.
///
/// Source: proc_pid_status(5), `SigPnd` and `ShdPnd`.
pub fn is_doomed(pid: Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let set = |line: &str| {
        let hex = line.strip_prefix("SigPnd:\t").or_else(|| line.strip_prefix("ShdPnd:\t"))?;
        u64::from_str_radix(hex, 16).ok()
    };
    status.lines().filter_map(set).any(|set| set >> (nix::libc::SIGKILL - 1) & 1 == 1)
}

/// Waits until the process of `pidfd` has ended, at most `limit`; `None` waits for ever.
///
/// # Errors
/// As poll(2).
pub fn ended(pidfd: impl AsFd, limit: Option<Duration>) -> Result<bool> {
    let timeout = limit.map_or(PollTimeout::NONE, |limit| PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX));
    loop {
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            // A signal for the runtime: nothing is known yet.
            Err(Errno::EINTR) => {}
            other => return other.map(|ready| ready > 0).doing(|| "wait for a process"),
        }
    }
}

/// Takes the exit code of a child that has ended, as a shell counts it: 128 and the signal for a killed one.
///
/// # Errors
/// As waitid(2).
pub fn exit_code(pidfd: impl AsFd) -> Result<i32> {
    loop {
        match waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(128 + signal as i32),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::kernel("wait for a child", errno)),
        }
    }
}

/// Ends a child of ours and waits for it, so that no zombie stays.
pub fn end(child: &sys::Child) -> Result<()> {
    match sys::process::pidfd_send_signal(&child.pidfd, nix::libc::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(errno) => return Err(Error::kernel(format!("kill process {}", child.pid), errno)),
    }
    exit_code(&child.pidfd).map(drop)
}

/// Ends a child of ours because of `error`, which stays the first thing that is said.
pub fn end_after(child: &sys::Child, error: Error) -> Error {
    match end(child) {
        Ok(()) => error,
        Err(other) => error.and(other),
    }
}

/// Opens a child of ours that another process has made for us. One that cannot be opened is ended.
///
/// # Errors
/// As pidfd_open(2).
pub fn adopt(pid: Pid) -> Result<sys::Child> {
    match sys::process::pidfd_open(pid) {
        Ok(pidfd) => Ok(sys::Child { pid, pidfd }),
        Err(errno) => {
            // Nobody has waited for it yet, so that the number is its own.
            let ended = kill(pid, Signal::SIGKILL).and_then(|()| waitpid(pid, None));
            let error = Error::kernel(format!("open process {pid}"), errno);
            Err(ended.doing(|| format!("end process {pid}")).err().map_or(error.clone(), |other| error.and(other)))
        }
    }
}

/// The number of a signal from its name, with or without `SIG`, or its number.
///
/// # Errors
/// `Invalid` for what is neither.
pub fn signal(word: &str) -> Result<i32> {
    if let Ok(number) = word.parse::<i32>() {
        return match number {
            0..=64 => Ok(number),
            _ => Err(Error::invalid(format!("use signal {number}: 0 to 64 are known"))),
        };
    }
    let upper = word.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        let offset: i32 = if offset.is_empty() { 0 } else { offset.trim_start_matches('+').parse().unwrap_or(-1) };
        if (0..=30).contains(&offset) {
            return Ok(34 + offset);
        }
    }
    format!("SIG{name}")
        .parse::<Signal>()
        .map(|signal| signal as i32)
        .map_err(|_| Error::new(Kind::Invalid, format!("use signal {word:?}: no such signal")))
}
