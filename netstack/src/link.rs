//! Links of the jail's own stack.

use std::fmt;
use std::os::fd::AsRawFd;

use netlink_packet_core::{
    ErrorBuffer, NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use sys::{Doing, Error, Result};

/// The loopback link has this number in every network name space.
const LOOPBACK: u32 = 1;

/// One effect on a network name space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Jail: the loopback link is up. The request is made beforehand: the jail's side only sends it.
    Loopback(Vec<u8>),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback(_) => f.write_str("bring up lo"),
        }
    }
}

impl Step {
    /// The step that brings the loopback link up. Source: rtnetlink(7), RTM_SETLINK.
    pub fn loopback() -> Self {
        let mut link = LinkMessage::default();
        link.header.index = LOOPBACK;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(RouteNetlinkMessage::SetLink(link)));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        Self::Loopback(bytes)
    }

    /// Does the step.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn run(&self) -> Result<()> {
        let Self::Loopback(request) = self;
        let step = || self.to_string();
        let (family, kind) = (AddressFamily::Netlink, SockType::Raw);
        let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute).doing(step)?;
        send(socket.as_raw_fd(), request, MsgFlags::empty()).doing(step)?;
        let mut answer = [0; 1024];
        let len = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()).doing(step)?;
        acknowledged(&answer[..len]).map_err(|errno| Error::kernel(step(), errno))
    }
}

/// Only an acknowledgement is understood: to decode every message of a route socket would take a tenth of the program.
fn acknowledged(answer: &[u8]) -> Result<(), Errno> {
    let message = NetlinkBuffer::new_checked(answer).map_err(|_| Errno::EBADMSG)?;
    if message.message_type() != NLMSG_ERROR {
        return Err(Errno::EBADMSG);
    }
    let error = ErrorBuffer::new_checked(message.payload()).map_err(|_| Errno::EBADMSG)?;
    error.code().map_or(Ok(()), |code| Err(Errno::from_raw(-code.get())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Length, type, flags, sequence and port of the answer, and then the code.
    fn answer(kind: u16, code: i32) -> Vec<u8> {
        let header = [&36_u32.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], &code.to_ne_bytes(), &[0; 16]];
        header.concat()
    }

    #[test]
    fn the_kernels_no_is_its_errno() {
        assert_eq!(acknowledged(&answer(NLMSG_ERROR, 0)), Ok(()));
        assert_eq!(acknowledged(&answer(NLMSG_ERROR, -1)), Err(Errno::EPERM));
    }

    #[test]
    fn anything_else_is_no_yes() {
        assert_eq!(acknowledged(&answer(16, 0)), Err(Errno::EBADMSG));
        assert_eq!(acknowledged(&answer(NLMSG_ERROR, 0)[..17]), Err(Errno::EBADMSG));
        assert_eq!(acknowledged(&[]), Err(Errno::EBADMSG));
    }
}
