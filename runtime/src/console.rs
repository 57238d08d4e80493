//! The terminal of a jail: a pseudo-terminal of its own devpts, handed out by descriptor.

use std::fmt;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use base::Ctx;
use nix::fcntl::{OFlag, ResolveFlag};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use nix::sys::statfs::fstatfs;
use nix::unistd::{Gid, Uid, dup2_stderr, dup2_stdin, dup2_stdout, fchown};
use sys::{Doing, Error, Kind, Result};

/// Source: devpts in linux/magic.h.
const DEVPTS_MAGIC: i64 = 0x1cd1;

/// One part of giving a jail its terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Host: connects to the socket that wants the terminal.
    Connect { path: PathBuf, slot: usize },
    /// Jail: makes the terminal. It goes to the socket in `slot`, or else with the next change of side.
    Make { slot: Option<usize>, size: Option<(u16, u16)>, uid: u32, console: bool },
    /// Host: takes the terminal that process 1 has passed.
    Take,
    /// Jail: it becomes the controlling terminal of the session.
    Control,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect { path, .. } => write!(f, "connect to console socket {}", path.display()),
            Self::Make { .. } => f.write_str("make the terminal"),
            Self::Take => f.write_str("take the terminal"),
            Self::Control => f.write_str("make the terminal the controlling one"),
        }
    }
}

impl Step {
    /// Does the step.
    ///
    /// # Errors
    /// What the kernel refused; `Invalid` where the jail has no devpts on /dev/pts.
    pub fn run(&self, ctx: &mut Ctx) -> Result<()> {
        match self {
            Self::Connect { path, slot } => {
                let socket = UnixStream::connect(path).doing(|| self.to_string())?;
                ctx.keep(*slot, socket.into());
                Ok(())
            }
            Self::Make { slot, size, uid, console } => self.make(ctx, *slot, *size, *uid, *console),
            Self::Take => match ctx.pass {
                Some(_) => Ok(()),
                None => Err(Error::new(Kind::Kernel, format!("{self}: process 1 passed none"))),
            },
            Self::Control => sys::file::take_terminal(std::io::stdin()).doing(|| self.to_string()),
        }
    }

    fn make(
        &self,
        ctx: &mut Ctx,
        slot: Option<usize>,
        size: Option<(u16, u16)>,
        uid: u32,
        console: bool,
    ) -> Result<()> {
        let step = || self.to_string();
        let socket = slot.and_then(|slot| ctx.take(slot));
        let root = ctx.root.as_ref().ok_or_else(|| Error::new(Kind::Kernel, format!("{self}: there is no root")))?;
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY;
        let master = storage::beneath::open_with(root, c"/dev/pts/ptmx", flags, ResolveFlag::empty()).doing(step)?;
        if fstatfs(&master).doing(step)?.filesystem_type().0 as i64 != DEVPTS_MAGIC {
            return Err(Error::invalid(format!("{self}: /dev/pts of the jail is no devpts")));
        }
        let slave = sys::file::terminal_peer(&master).doing(step)?;
        if let Some((rows, columns)) = size {
            sys::file::set_terminal_size(&slave, rows, columns).doing(step)?;
        }
        if uid != 0 {
            fchown(&slave, Some(Uid::from_raw(uid)), None::<Gid>).doing(step)?;
        }
        if console {
            // By descriptor: /dev/console of the image is only ever a target.
            let tree = sys::mount::clone_tree(&slave, c"", false).doing(step)?;
            let place = storage::beneath::file(root.as_fd(), c"/dev/console")?;
            sys::mount::attach(&tree, &place).doing(step)?;
        }
        dup2_stdin(&slave).and_then(|()| dup2_stdout(&slave)).and_then(|()| dup2_stderr(&slave)).doing(step)?;
        match socket {
            Some(socket) => hand_over(&socket, &master).doing(step),
            None => {
                ctx.pass = Some(master);
                Ok(())
            }
        }
    }
}

/// Sends the terminal as console sockets expect it: one message, the name as its text.
fn hand_over(socket: &OwnedFd, master: &OwnedFd) -> nix::Result<()> {
    let fds = [master.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    let text = [IoSlice::new(b"/dev/ptmx")];
    sendmsg::<UnixAddr>(socket.as_fd().as_raw_fd(), &text, &rights, MsgFlags::MSG_NOSIGNAL, None).map(drop)
}
