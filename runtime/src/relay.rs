//! What a jail's program says to the service manager of the caller (sd_notify(3)), on its way there.
//!
//! Every datagram is passed on, in order, with its descriptors. The numbers of processes in them are the jail's, and
//! become the host's. The program is not trusted: nothing that it sends may stop the runtime or end it.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use base::Object;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recv, recvmsg};
use nix::unistd::{Pid, getpid};
use sys::Child;
use sys::process::{Fork, clone3, exit_now, pidfd_open, pidfd_send_signal};

use crate::notify::Manager;
use crate::process;

/// The longest datagram that is passed on, in bytes; systemd takes 4096.
const LONGEST: usize = 64 * 1024;
/// How many descriptors a datagram can have. Source: unix(7), SCM_RIGHTS.
const DESCRIPTORS: usize = 253;
/// How long what was said last may take to arrive.
const PATIENCE: Duration = Duration::from_secs(1);

/// The way from the socket inside to the manager outside.
#[derive(Debug)]
pub struct Relay {
    inside: OwnedFd,
    manager: Manager,
    objects: Vec<Object>,
    first: Pid,
    /// Whom the manager takes for the main process and listens to; at first that is this one.
    main: Main,
    /// What the manager has no room for yet.
    held: Option<Words>,
    /// A child that passes on what comes with descriptors.
    carrier: Option<Child>,
    /// What was warned of: once each, since a program can do it a million times.
    warned: Vec<&'static str>,
}

/// A datagram as it goes on.
#[derive(Debug)]
struct Words {
    text: Vec<u8>,
    /// Whom it makes the main process.
    main: Option<Main>,
}

/// A process in whose name is spoken.
#[derive(Debug)]
struct Main {
    pid: Pid,
    /// Where it is neither the runtime nor process 1, and so can end sooner.
    pidfd: Option<OwnedFd>,
}

impl Main {
    /// The runtime, or process 1, for which the runtime has yet to wait.
    fn stays(pid: Pid) -> Self {
        Self { pid, pidfd: None }
    }

    fn has_ended(&self) -> bool {
        self.pidfd.as_ref().is_some_and(|pidfd| process::ended(pidfd, Some(Duration::ZERO)) != Ok(false))
    }
}

impl Relay {
    /// A way from the socket `inside` of the jail with these objects, whose process 1 is `first`.
    pub fn new(inside: OwnedFd, manager: Manager, objects: Vec<Object>, first: Pid) -> Self {
        let (held, carrier, warned) = (None, None, Vec::new());
        Self { inside, manager, objects, first, main: Main::stays(getpid()), held, carrier, warned }
    }

    /// What has to come before [`Relay::go_on`] has anything to do.
    pub fn waits_for(&self) -> (BorrowedFd<'_>, PollFlags) {
        match (&self.carrier, &self.held) {
            (Some(child), _) => (child.pidfd.as_fd(), PollFlags::POLLIN),
            // No more is read meanwhile: who floods waits, and nothing is lost.
            (None, Some(_)) => (self.manager.as_fd(), PollFlags::POLLOUT),
            (None, None) => (self.inside.as_fd(), PollFlags::POLLIN),
        }
    }

    /// Takes one datagram one step on.
    pub fn go_on(&mut self) {
        if let Some(child) = self.carrier.take() {
            if process::exit_code(&child.pidfd) != Ok(0) {
                self.warn("with descriptors could not be passed on");
            }
        } else if let Some(words) = self.held.take() {
            self.send(words);
        } else {
            self.receive();
        }
    }

    /// Passes on what was said before the end, as far as the manager takes it in time.
    pub fn finish(&mut self) {
        let end = Instant::now() + PATIENCE;
        loop {
            let (fd, what) = self.waits_for();
            let idle = self.carrier.is_none() && self.held.is_none();
            let left = if idle { Duration::ZERO } else { end.saturating_duration_since(Instant::now()) };
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            let ready = poll(&mut [PollFd::new(fd, what)], timeout).is_ok_and(|ready| ready > 0);
            if !ready || Instant::now() > end {
                return;
            }
            self.go_on();
        }
    }

    fn receive(&mut self) {
        let mut bytes = vec![0; LONGEST];
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC | MsgFlags::MSG_DONTWAIT;
        let mut into = [IoSliceMut::new(&mut bytes)];
        let (len, has_descriptors) = match recvmsg::<UnixAddr>(self.inside.as_raw_fd(), &mut into, None, flags) {
            Ok(peeked) => (peeked.bytes, peeked.flags.contains(MsgFlags::MSG_CTRUNC)),
            Err(Errno::EAGAIN | Errno::EINTR) => return,
            Err(_) => return self.warn("could not be read"),
        };
        let words = if len > LONGEST {
            self.warn("of more than 65536 bytes is dropped");
            None
        } else {
            Some(self.translated(&bytes[..len])).filter(|words| !words.text.is_empty())
        };
        if has_descriptors {
            return self.carry(words);
        }
        // It was read already; this takes it out of the queue.
        let _ = recv(self.inside.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT);
        if let Some(words) = words {
            self.send(words);
        }
    }

    fn send(&mut self, words: Words) {
        let sender = self.sender();
        match self.manager.send(&words.text, &[], sender) {
            Ok(()) => self.is_now(words.main),
            Err(Errno::EAGAIN | Errno::EINTR) => self.held = Some(words),
            // It ended just now.
            Err(Errno::ESRCH) if self.main.pidfd.is_some() => self.held = Some(words),
            Err(Errno::EMSGSIZE) => self.warn("is too long for the service manager"),
            Err(_) => self.warn("does not arrive: the service manager does not listen"),
        }
    }

    /// In whose name is spoken. The kernel takes the number of none that has ended, and it may be anybody's by now: process
    /// 1 speaks in its place.
    fn sender(&mut self) -> Pid {
        if self.main.has_ended() {
            self.main = Main::stays(self.first);
        }
        self.main.pid
    }

    fn is_now(&mut self, main: Option<Main>) {
        if let Some(main) = main {
            self.main = main;
        }
    }

    /// Passes on what is next in the queue by a child, which alone opens and closes what comes with it: closing a file of
    /// the program's can take for ever (a socket that lingers, a file system of its own).
    fn carry(&mut self, words: Option<Words>) {
        let sender = self.sender();
        match clone3(0, None) {
            Ok(Fork::Child) => {
                // As good as it can be: the end of the runtime ends it anyway, by a signal.
                let _ = set_pdeathsig(Signal::SIGKILL);
                let delivered = self.deliver(words.map(|words| words.text), sender);
                exit_now(i32::from(delivered.is_err()));
            }
            Ok(Fork::Parent(child)) => {
                self.is_now(words.and_then(|words| words.main));
                self.carrier = Some(child);
            }
            Err(_) => {
                let _ = recv(self.inside.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT);
                self.warn("with descriptors could not be passed on");
            }
        }
    }

    fn deliver(&mut self, text: Option<Vec<u8>>, sender: Pid) -> nix::Result<()> {
        let mut space = nix::cmsg_space!([RawFd; DESCRIPTORS]);
        let mut byte = [0];
        let mut into = [IoSliceMut::new(&mut byte)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<UnixAddr>(self.inside.as_raw_fd(), &mut into, Some(&mut space), flags)?;
        let mut fds = Vec::new();
        for part in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(some) = part {
                fds.extend(some);
            }
        }
        let Some(text) = text else { return Ok(()) };
        loop {
            match self.manager.send(&text, &fds, sender) {
                Err(Errno::EAGAIN | Errno::EINTR) => {
                    poll(&mut [PollFd::new(self.manager.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE)?;
                }
                other => return other,
            }
        }
    }

    /// The datagram with the host's numbers. The first word that it is ready also tells who the main process is, which
    /// the manager could not know.
    fn translated(&mut self, text: &[u8]) -> Words {
        let (mut main, mut asked, mut ready, mut same) = (None, false, false, true);
        let mut lines = Vec::new();
        for line in text.split(|byte| *byte == b'\n') {
            if let Some(number) = line.strip_prefix(b"MAINPID=") {
                // Only the first: each costs a search.
                main = if asked { main } else { self.on_the_host(number) };
                (asked, same) = (true, false);
                if main.is_none() {
                    self.warn("names a MAINPID that is no process of the jail");
                }
            } else if line.starts_with(b"MAINPIDFDID=") {
                // It is about the number that is replaced.
                same = false;
            } else {
                ready |= line == b"READY=1";
                lines.push(line);
            }
        }
        if main.is_none() && ready && self.main.pid == getpid() {
            main = Some(Main::stays(self.first));
        }
        if main.is_none() && same {
            return Words { text: text.to_vec(), main };
        }
        let number = main.as_ref().map(|main| format!("MAINPID={}", main.pid));
        lines.retain(|line| !line.is_empty());
        lines.extend(number.iter().map(String::as_bytes));
        Words { text: lines.join(&b'\n'), main }
    }

    /// The process of the jail that its process 1 would know by this number.
    fn on_the_host(&self, number: &[u8]) -> Option<Main> {
        let number: i32 = std::str::from_utf8(number).ok()?.parse().ok()?;
        let level = process::numbers(self.first)?.len().checked_sub(1)?;
        let all = std::iter::once(self.first).chain(cgroup::processes(&self.objects));
        let is_meant = |pid: &Pid| process::numbers(*pid).is_some_and(|all| all.get(level) == Some(&number));
        let pid = all.into_iter().find(is_meant)?;
        if pid == self.first {
            return Some(Main::stays(pid));
        }
        // Asked again after it was opened: the answer is about what the descriptor holds.
        let pidfd = pidfd_open(pid).ok().filter(|_| is_meant(&pid))?;
        Some(Main { pid, pidfd: Some(pidfd) })
    }

    fn warn(&mut self, what: &'static str) {
        if !self.warned.contains(&what) {
            self.warned.push(what);
            crate::log::warn(&format!("a notification of the jail {what}"));
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(child) = &self.carrier {
            // Not waited for: what keeps it may keep it for ever. Whoever takes over our children does.
            let _ = pidfd_send_signal(&child.pidfd, nix::libc::SIGKILL);
        }
    }
}
