//! Being told that a jail has no memory left.
//!
//! v1 tells by an eventfd(2) that is registered for memory.oom_control (admin-guide/cgroup-v1/memory), v2 by a change of
//! memory.events, which poll(2) sees (admin-guide/cgroup-v2).

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;

use base::Object;
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::eventfd::{EfdFlags, EventFd};
use sys::{Doing, Result};

use crate::layout::Layout;
use crate::process::is_gone;
use crate::seat::Seats;
use crate::step::write;

/// What tells it.
#[derive(Debug)]
pub struct Watch(Kind);

#[derive(Debug)]
enum Kind {
    V1 { event: EventFd, control: PathBuf },
    V2 { events: File, kills: u64 },
}

impl Watch {
    /// Begins to watch; `None` where no controller counts the jail's memory.
    ///
    /// # Errors
    /// As open(2), eventfd(2) and write(2).
    pub fn new(objects: &[Object], layout: &Layout) -> Result<Option<Self>> {
        let seats = Seats { objects, layout };
        let Some(seat) = seats.of("memory") else { return Ok(None) };
        if seat.is_v1 {
            let control = seat.dir.join("memory.oom_control");
            let step = || format!("watch {}", control.display());
            let file = File::open(&control).doing(step)?;
            let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).doing(step)?;
            let line = format!("{} {}", event.as_fd().as_raw_fd(), file.as_raw_fd());
            write(&seat.dir.join("cgroup.event_control"), &line).doing(step)?;
            return Ok(Some(Self(Kind::V1 { event, control })));
        }
        let path = seat.dir.join("memory.events");
        let events = match File::open(&path) {
            // The controller is not enabled for the jail, which then has no limit of its own to run into.
            Err(error) if is_gone(&error) => return Ok(None),
            file => file.doing(|| format!("watch {}", path.display()))?,
        };
        let mut watch = Self(Kind::V2 { events, kills: 0 });
        watch.tells()?;
        Ok(Some(watch))
    }

    /// What poll(2) is asked for it.
    pub fn flags(&self) -> PollFlags {
        match self.0 {
            Kind::V1 { .. } => PollFlags::POLLIN,
            Kind::V2 { .. } => PollFlags::POLLPRI,
        }
    }

    /// Whether it happened since this was asked last.
    ///
    /// # Errors
    /// As read(2).
    pub fn tells(&mut self) -> Result<bool> {
        match &mut self.0 {
            Kind::V1 { event, control } => match event.read() {
                // The kernel also tells that the directory is gone.
                Ok(_) => Ok(fs::exists(control).unwrap_or(false)),
                Err(Errno::EAGAIN) => Ok(false),
                read => read.map(|_| false).doing(|| format!("watch {}", control.display())),
            },
            Kind::V2 { events, kills } => {
                let mut text = String::new();
                match events.rewind().and_then(|()| events.read_to_string(&mut text)) {
                    Err(error) if is_gone(&error) => return Ok(false),
                    read => read.doing(|| "read memory.events")?,
                };
                let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
                let now = line.and_then(|n| n.parse().ok()).unwrap_or(0);
                Ok(std::mem::replace(kills, now) < now)
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Kind::V1 { event, .. } => event.as_fd(),
            Kind::V2 { events, .. } => events.as_fd(),
        }
    }
}
