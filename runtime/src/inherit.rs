//! What of the caller's goes into a jail because the caller asks for it: descriptors, from 3 on without a gap, and the
//! way to his service manager.
//!
//! Of the descriptors, those of socket activation (sd_listen_fds(3)) come first, as runc and crun have it, then those of `--preserve-fds`.
//! What they lead to is the caller's choice: one of a directory of the host leads out of the jail.

use std::os::fd::RawFd;

use nix::unistd::getpid;
use sys::{Error, Result};

use crate::notify::Notify;

/// The first that is passed on.
pub const FIRST: RawFd = 3;

/// Descriptors that are passed on; usually none.
#[derive(Clone, Debug, Default)]
pub struct Inherited {
    sockets: u32,
    names: Option<String>,
    more: u32,
    /// The service manager that hears from the program.
    pub notify: Option<Notify>,
}

impl Inherited {
    /// Those that the caller's environment and `--preserve-fds` name.
    ///
    /// Must come before anything is opened: a file of ours would take the number of one that is missing.
    ///
    /// # Errors
    /// `Invalid` where one is closed, or `LISTEN_FDS` is no number.
    pub fn find(more: u32) -> Result<Self> {
        let mut found = Self { more, ..Self::default() };
        if let Some(count) = std::env::var_os("LISTEN_FDS")
            // Else they are somebody else's, who passed the environment on by chance.
            && std::env::var("LISTEN_PID").is_ok_and(|pid| pid.parse() == Ok(getpid().as_raw()))
        {
            let number = count.to_str().and_then(|count| count.parse().ok());
            found.sockets = number.ok_or_else(|| {
                Error::invalid(format!("use LISTEN_FDS {:?}: it is no number", count.to_string_lossy()))
            })?;
            found.names = std::env::var("LISTEN_FDNAMES").ok();
        }
        let count = u64::from(found.sockets) + u64::from(found.more);
        if let Some(fd) =
            (FIRST..).take(usize::try_from(count).unwrap_or(usize::MAX)).find(|fd| !sys::file::is_open(*fd))
        {
            let of = if fd - FIRST < i32::try_from(found.sockets).unwrap_or(i32::MAX) {
                format!("LISTEN_FDS is {}", found.sockets)
            } else {
                format!("--preserve-fds is {more}")
            };
            return Err(Error::invalid(format!("pass descriptor {fd} on: it is not open, and {of}")));
        }
        Ok(found)
    }

    /// How many.
    pub fn count(&self) -> u32 {
        self.sockets + self.more
    }

    /// What the program is told in its environment.
    pub fn variables(&self) -> Vec<String> {
        let mut variables = self.notify.as_ref().map(Notify::variables).unwrap_or_default();
        if self.sockets > 0 {
            variables.push(format!("LISTEN_FDS={}", self.sockets));
            variables.extend(self.names.iter().map(|names| format!("LISTEN_FDNAMES={names}")));
        }
        variables
    }

    /// The variables whose value is the program's own number.
    pub fn numbers(&self) -> impl Iterator<Item = &'static str> {
        let sockets = (self.sockets > 0).then_some("LISTEN_PID");
        sockets.into_iter().chain(self.notify.as_ref().and_then(Notify::numbers))
    }
}
