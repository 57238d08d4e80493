//! A verb that stays: passes signals, the terminal and notifications on, waits by pidfd, and gives the exit code back.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{isatty, read, write};
use sys::{Child, Doing, Result};

use crate::process;
use crate::relay::Relay;

/// The signals that go to the jail instead of to the runtime. Blocked from before the clone, so that none is lost.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks them and keeps them for [`attend`].
    ///
    /// # Errors
    /// As sigprocmask(2) and signalfd(2).
    pub fn block() -> Result<Self> {
        let mut set = SigSet::all();
        // What the kernel sends for a fault of our own must end us; a stopped child is none of our business.
        for kept in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE, Signal::SIGABRT, Signal::SIGCHLD]
        {
            set.remove(kept);
        }
        set.thread_block().doing(|| "block signals")?;
        SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .doing(|| "wait for signals")
            .map(Self)
    }
}

/// The caller's terminal in raw mode, as long as this lives.
struct Raw(Option<Termios>);

impl Raw {
    fn enter() -> Self {
        let stdin = std::io::stdin();
        if !isatty(&stdin).unwrap_or(false) {
            return Self(None);
        }
        let Ok(before) = tcgetattr(&stdin) else { return Self(None) };
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        Self(tcsetattr(&stdin, SetArg::TCSANOW, &raw).ok().map(|()| before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // Nothing is left to be done where the terminal has gone away.
            let _ = tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, before);
        }
    }
}

/// Waits for the end of a child, passing on signals, its terminal where it has one, and what it says to a service manager
/// where there is one.
///
/// # Errors
/// As poll(2) and waitid(2).
pub fn attend(child: &Child, terminal: Option<OwnedFd>, mut signals: Signals, mut relay: Option<Relay>) -> Result<i32> {
    let _raw = terminal.as_ref().map(|_| Raw::enter());
    let stdin = std::io::stdin();
    let (mut typing, mut showing) = (terminal.is_some(), terminal.is_some());
    loop {
        let mut fds = vec![
            PollFd::new(child.pidfd.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.0.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(terminal) = &terminal {
            if showing {
                fds.push(PollFd::new(terminal.as_fd(), PollFlags::POLLIN));
            }
            if typing {
                fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
            }
        }
        fds.extend(relay.as_ref().map(Relay::waits_for).map(|(fd, what)| PollFd::new(fd, what)));
        match poll(&mut fds, PollTimeout::NONE) {
            // Only a stop and continue of this process: the signals are blocked.
            Err(Errno::EINTR) => continue,
            other => other.doing(|| "wait for the jail")?,
        };
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        drop(fds);
        // In the order in which they were put in, and only those that were.
        let mut more = ready[2..].iter().copied();
        let shown = showing && more.next().unwrap_or(false);
        let typed = typing && more.next().unwrap_or(false);
        if let Some(relay) = relay.as_mut().filter(|_| more.next().unwrap_or(false)) {
            relay.go_on();
        }
        if let Some(terminal) = &terminal {
            if shown {
                showing = copy(terminal.as_fd(), std::io::stdout().as_fd());
            }
            if typed {
                typing = copy(stdin.as_fd(), terminal.as_fd());
            }
        }
        if ready[1] {
            pass_on(&mut signals, child, terminal.as_ref())?;
        }
        if ready[0] {
            if let Some(terminal) = terminal.as_ref().filter(|_| showing) {
                drain(terminal);
            }
            relay.iter_mut().for_each(Relay::finish);
            return process::exit_code(&child.pidfd);
        }
    }
}

/// Copies what is there; `false` when nothing more will come.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    let mut bytes = [0; 16 * 1024];
    let mut rest = match read(from, &mut bytes) {
        Ok(0) => return false,
        Ok(len) => &bytes[..len],
        Err(errno) => return matches!(errno, Errno::EINTR | Errno::EAGAIN),
    };
    while !rest.is_empty() {
        match write(to, rest) {
            Ok(len) => rest = &rest[len..],
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => return false,
        }
    }
    true
}

/// Shows what the program wrote just before its end. A terminal whose last user is gone answers EIO.
fn drain(terminal: &OwnedFd) {
    loop {
        let mut fds = [PollFd::new(terminal.as_fd(), PollFlags::POLLIN)];
        let more = poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
        if !more || !copy(terminal.as_fd(), std::io::stdout().as_fd()) {
            return;
        }
    }
}

fn pass_on(signals: &mut Signals, child: &Child, terminal: Option<&OwnedFd>) -> Result<()> {
    while let Some(signal) = signals.0.read_signal().doing(|| "read a signal")? {
        let number = signal.ssi_signo as i32;
        if let Some(terminal) = terminal
            && number == Signal::SIGWINCH as i32
        {
            if let Ok((rows, columns)) = sys::file::terminal_size(std::io::stdin()) {
                // The kernel tells the program itself.
                let _ = sys::file::set_terminal_size(terminal, rows, columns);
            }
            continue;
        }
        match sys::process::pidfd_send_signal(&child.pidfd, number) {
            // It has just ended.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(sys::Error::kernel(format!("pass signal {number} on"), errno)),
        }
    }
    Ok(())
}
