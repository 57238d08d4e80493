//! The process that holds a scope until process 1 is in it: there is no scope without a process.

use std::fmt;
use std::path::PathBuf;

use base::Ctx;
use nix::errno::Errno;
use nix::sys::prctl::{set_dumpable, set_pdeathsig};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::waitpid;
use nix::unistd::{getpid, getppid, pause};
use sys::file::close_all_but;
use sys::process::{Fork, clone3, exit_now, pidfd_send_signal, reset_signals};
use sys::{Child, Doing, Result};

use crate::step::write;

/// A process that waits for ever, and dies with the runtime.
pub(crate) fn start() -> nix::Result<Child> {
    let runtime = getpid();
    match clone3(0, None)? {
        Fork::Parent(child) => Ok(child),
        Fork::Child => {
            // Where one of these does not work, it ends, and systemd says that it cannot be moved.
            let tied = set_pdeathsig(Signal::SIGKILL).and_then(|()| set_dumpable(false));
            reset_signals();
            // It has none of the caller's descriptors: who waits for the end of one of them must not wait for this.
            if tied.is_ok() && close_all_but(&[]).is_ok() && getppid() == runtime {
                // What a terminal sends is meant for the runtime.
                let terminal = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP, Signal::SIGHUP];
                let _ = terminal.into_iter().collect::<SigSet>().thread_set_mask();
                loop {
                    pause();
                }
            }
            exit_now(1)
        }
    }
}

pub(crate) fn end(holder: &Child) -> Result<()> {
    let step = || format!("end process {}, which held the scope", holder.pid);
    match pidfd_send_signal(&holder.pidfd, libc::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => {}
        sent => sent.doing(step)?,
    }
    waitpid(holder.pid, None).map(drop).doing(step)
}

/// The end of the process that held a scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// The directory that process 1 is moved into before, where it is not born into one that systemd looks at.
    pub(crate) enter: Option<PathBuf>,
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(dir) = &self.enter {
            write!(f, "move process 1 into {}, ", dir.display())?;
        }
        f.write_str("end the process that held the scope")
    }
}

impl Release {
    pub(crate) fn run(&self, ctx: &mut Ctx) -> Result<()> {
        if let (Some(dir), Some(pid)) = (&self.enter, ctx.pid) {
            write(&dir.join("cgroup.procs"), &pid.to_string()).doing(|| self)?;
        }
        ctx.holder.take().as_ref().map_or(Ok(()), end)
    }
}
