//! What happens to a jail, and what it uses, as long as it lives.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use base::JailId;
use cgroup::statistics::{self, Statistics};
use cgroup::{Layout, oom};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use sys::{Doing, Error, Kind, Result};

use crate::jail::{Jail, Status, not_running};
use crate::process;
use crate::store::Store;

/// What is to be told, as runc does.
#[derive(Debug, Serialize)]
pub struct Event {
    /// `stats` for what it uses, `oom` where it has no memory left.
    #[serde(rename = "type")]
    kind: &'static str,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Statistics>,
}

/// The longest interval, some 68 years: no clock of the kernel goes on for ever.
const LONGEST: Duration = Duration::from_secs(1 << 31);

/// An open jail.
#[derive(Debug)]
pub struct Watched {
    jail: Jail,
    pidfd: OwnedFd,
    layout: Layout,
}

impl Watched {
    /// Opens a jail that lives.
    ///
    /// # Errors
    /// `WrongState` where it does not.
    pub fn open(root: &Path, id: &JailId) -> Result<Self> {
        let store = Store::open(root)?;
        let jail = Jail::open(store.as_ref(), id)?;
        let step = || format!("watch {id}");
        match (jail.open_process()?, jail.status()?.0) {
            (_, Status::Broken(reason)) => {
                Err(Error::new(Kind::WrongState, format!("{}: it is broken: {reason}", step())))
            }
            (Some(pidfd), _) => Ok(Self { jail, pidfd, layout: Layout::read()? }),
            (None, _) => Err(not_running(step())),
        }
    }

    /// What it uses now.
    ///
    /// # Errors
    /// As read(2).
    pub fn statistics(&self) -> Result<Event> {
        Ok(self.event("stats", Some(statistics::read(&self.jail.objects(), &self.layout)?)))
    }

    fn event(&self, kind: &'static str, data: Option<Statistics>) -> Event {
        Event { kind, id: self.jail.entry.id.to_string(), data }
    }

    /// Tells what happens, and in each `interval` what it uses, until its process 1 ends or `tell` answers `false`.
    ///
    /// # Errors
    /// That of `tell`, and where the jail cannot be watched.
    pub fn follow(&self, interval: Duration, mut tell: impl FnMut(&Event) -> Result<bool>) -> Result<()> {
        let mut watch = oom::Watch::new(&self.jail.objects(), &self.layout)?;
        let interval = interval.min(LONGEST);
        let mut next = Instant::now() + interval;
        loop {
            self.wait(watch.as_ref(), next)?;
            // Asked before the other: what killed it came first.
            let ended = process::ended(&self.pidfd, Some(Duration::ZERO))?;
            if let Some(watch) = &mut watch
                && watch.tells()?
                && !tell(&self.event("oom", None))?
            {
                return Ok(());
            }
            if ended {
                return Ok(());
            }
            if Instant::now() >= next {
                next = Instant::now() + interval;
                if !tell(&self.statistics()?)? {
                    return Ok(());
                }
            }
        }
    }

    /// Waits for the end, for what `watch` tells, or until `deadline`.
    fn wait(&self, watch: Option<&oom::Watch>, deadline: Instant) -> Result<()> {
        // As long as poll(2) can; who waits longer than 24 days is woken in between.
        let left = deadline.saturating_duration_since(Instant::now()).as_millis() + 1;
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = vec![PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        fds.extend(watch.map(|watch| PollFd::new(watch.as_fd(), watch.flags())));
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => Ok(()),
            done => done.map(drop).doing(|| format!("watch {}", self.jail.entry.id)),
        }
    }
}
