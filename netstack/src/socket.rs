//! A route socket: requests to the kernel about one network name space, and its answers.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use netlink_packet_core::{
    ErrorBuffer, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use sys::{Doing, Result};

/// The largest answer, in bytes: what the kernel makes of a listing at a time.
const ANSWER: usize = 1 << 15;

/// Set on what was listed while it changed. Source: linux/netlink.h.
const NLM_F_DUMP_INTR: u16 = 0x10;

/// How often a listing that changed meanwhile is asked for again.
const RACES: usize = 16;

/// An open route socket. It belongs to the name space in which it was opened.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

/// A request as it is sent.
pub(crate) fn request(message: RouteNetlinkMessage, flags: u16) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

impl Socket {
    /// Opens one in the network of this process.
    ///
    /// # Errors
    /// As socket(2).
    pub(crate) fn open() -> nix::Result<Self> {
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute).map(Self)
    }

    /// Opens one in another network: this process is in it for a moment.
    ///
    /// # Errors
    /// As setns(2) and socket(2).
    pub(crate) fn open_in(network: impl AsFd) -> Result<Self> {
        let own = File::open("/proc/self/ns/net").doing(|| "open the network name space of the runtime")?;
        let enter = |network: &dyn AsFd| setns(network.as_fd(), CloneFlags::CLONE_NEWNET);
        enter(&network).doing(|| "enter the network name space of the jail")?;
        let opened = Self::open();
        enter(&own).doing(|| "come back to the network name space of the runtime")?;
        opened.doing(|| "open a socket in the network name space of the jail")
    }

    /// Sends a request and gives what is answered until the kernel says that it is all.
    ///
    /// # Errors
    /// What the kernel says of it.
    pub(crate) fn ask(&self, request: &[u8]) -> nix::Result<Vec<Vec<u8>>> {
        for _ in 0..RACES {
            match self.ask_once(request) {
                Err(Errno::EAGAIN) => {}
                other => return other,
            }
        }
        Err(Errno::EAGAIN)
    }

    fn ask_once(&self, request: &[u8]) -> nix::Result<Vec<Vec<u8>>> {
        send(self.0.as_raw_fd(), request, MsgFlags::empty())?;
        let (mut answers, mut buffer) = (Answers::default(), vec![0; ANSWER]);
        while !answers.complete {
            let len = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC)?;
            answers.read(buffer.get(..len).ok_or(Errno::EMSGSIZE)?)?;
        }
        if answers.changed { Err(Errno::EAGAIN) } else { Ok(answers.payloads) }
    }
}

/// What was answered so far. Only the frame of a message is understood here: to decode every message of a route socket
/// would take a tenth of the program.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answers {
    payloads: Vec<Vec<u8>>,
    complete: bool,
    changed: bool,
}

impl Answers {
    fn read(&mut self, mut bytes: &[u8]) -> nix::Result<()> {
        while !bytes.is_empty() {
            let message = NetlinkBuffer::new_checked(bytes).map_err(|_| Errno::EBADMSG)?;
            self.changed |= message.flags() & NLM_F_DUMP_INTR != 0;
            match message.message_type() {
                NLMSG_DONE => self.complete = true,
                NLMSG_ERROR => {
                    let error = ErrorBuffer::new_checked(message.payload()).map_err(|_| Errno::EBADMSG)?;
                    error.code().map_or(Ok(()), |code| Err(Errno::from_raw(-code.get())))?;
                    self.complete = true;
                }
                _ => self.payloads.push(message.payload().to_vec()),
            }
            // Each message begins at a multiple of four.
            let len = (message.length() as usize).next_multiple_of(4);
            bytes = bytes.get(len..).unwrap_or_default();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Length, type, flags, sequence and port of the answer, and then the code.
    fn answer(kind: u16, code: i32) -> Vec<u8> {
        let header = [&36_u32.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], &code.to_ne_bytes(), &[0; 16]];
        header.concat()
    }

    fn read(bytes: &[u8]) -> nix::Result<Answers> {
        let mut answers = Answers::default();
        answers.read(bytes).map(|()| answers)
    }

    #[test]
    fn the_kernels_no_is_its_errno() {
        assert!(read(&answer(NLMSG_ERROR, 0)).unwrap().complete);
        assert_eq!(read(&answer(NLMSG_ERROR, -1)), Err(Errno::EPERM));
    }

    #[test]
    fn several_messages_in_one_answer_are_told_apart() {
        let answers = read(&[answer(16, 7), answer(16, 8), answer(NLMSG_DONE, 0)].concat()).unwrap();
        assert_eq!((answers.payloads.len(), answers.complete), (2, true));
        assert_eq!(answers.payloads[1][..4], 8_i32.to_ne_bytes());
    }

    #[test]
    fn what_is_torn_is_no_answer() {
        assert_eq!(read(&answer(NLMSG_ERROR, 0)[..17]), Err(Errno::EBADMSG));
        assert_eq!(read(&[1, 2, 3]), Err(Errno::EBADMSG));
        assert!(!read(&answer(16, 0)).unwrap().complete);
    }
}
