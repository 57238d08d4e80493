//! Steps on the links of a jail.

use std::fmt;

use base::Ctx;
use netlink_packet_core::NLM_F_ACK;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use sys::{Doing, Result};

use crate::device::Device;
use crate::socket::{Socket, request};

/// The loopback link has this number in every network name space.
const LOOPBACK: u32 = 1;

/// One effect on a network name space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Jail: the loopback link is up. The request is made beforehand: the jail's side only sends it.
    Loopback(Vec<u8>),
    /// Host: a link of the host becomes the jail's.
    Move(Device),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback(_) => f.write_str("bring up lo"),
            Self::Move(device) => device.fmt(f),
        }
    }
}

/// The message that brings a link up. Source: rtnetlink(7), RTM_SETLINK.
pub(crate) fn up(index: u32) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::SetLink(link)
}

impl Step {
    /// The step that brings the loopback link up.
    pub fn loopback() -> Self {
        Self::Loopback(request(up(LOOPBACK), NLM_F_ACK))
    }

    /// Does the step.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn run(&self, ctx: &mut Ctx) -> Result<()> {
        match self {
            Self::Loopback(request) => {
                Socket::open().and_then(|socket| socket.ask(request)).map(drop).doing(|| self.to_string())
            }
            Self::Move(device) => device.hand_over(ctx),
        }
    }
}
