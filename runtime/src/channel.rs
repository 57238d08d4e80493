//! The socket between the runtime and process 1 of a jail, and the six messages on it.
//!
//! ```text
//! runtime            process 1
//!    │── Go{pid} ──────►│   the id maps and the like are done (where there are none, nobody waits)
//!    │◄───── Here ──────│   a step of the other side is next (it may carry a descriptor)
//!    │── Here ─────────►│   … and done
//!    │◄───── Ready ─────│   all is made (`run` and `exec` say Start before they hear this)
//!    │── Here ─────────►│   `create` only: … and written down: from now on it may outlive the runtime
//!    │◄───── Here ──────│   `create` only: … and will
//!    │── Start ────────►│   become the program
//!    │◄───── Exec ──────│   the next thing is execve; end of file means that it worked
//!    │◄───── Here ──────│   or, where the host's side has the last word with the program's process
//!    │── Here ─────────►│   … and has said it: then end of file
//!    │◄─ Fault{error} ──│   at any time, and the last message
//! ```

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, recvmsg, sendmsg,
    socketpair,
};
use nix::unistd::{Pid, write};
use sys::{Doing, Error, Kind, Result};

/// A message names no feature; that is what keeps them six.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// To process 1: its number on the host; go on.
    Go(Pid),
    /// The barrier between two sides of the plan.
    Here,
    /// Process 1 is what `created` means.
    Ready,
    /// To process 1: become the program.
    Start,
    /// Process 1 is about to execute the program.
    Exec,
    /// Process 1 gave up.
    Fault(Error),
}

/// The longest message: an error with all that came with it.
const LONGEST: usize = 16 * 1024;

impl Message {
    /// The message as it is sent.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Go(pid) => [&[b'G'][..], &pid.as_raw().to_le_bytes()].concat(),
            Self::Here => vec![b'H'],
            Self::Ready => vec![b'R'],
            Self::Start => vec![b'S'],
            Self::Exec => vec![b'E'],
            Self::Fault(error) => {
                let mut bytes = vec![b'F'];
                bytes.extend(serde_json::to_vec(error).unwrap_or_default());
                bytes
            }
        }
    }

    /// What was received, `None` where it is no message of ours.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        Some(match bytes.split_first()? {
            (b'G', pid) => Self::Go(Pid::from_raw(i32::from_le_bytes(pid.try_into().ok()?))),
            (b'H', []) => Self::Here,
            (b'R', []) => Self::Ready,
            (b'S', []) => Self::Start,
            (b'E', []) => Self::Exec,
            (b'F', error) => Self::Fault(serde_json::from_slice(error).ok()?),
            _ => return None,
        })
    }
}

/// One end.
#[derive(Debug)]
pub struct Channel {
    fd: OwnedFd,
    /// Who is at the other one, for errors.
    peer: &'static str,
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Channel {
    /// An end that somebody has opened.
    pub fn new(fd: OwnedFd, peer: &'static str) -> Self {
        Self { fd, peer }
    }

    /// Both ends: the runtime's, and that of `peer`.
    ///
    /// # Errors
    /// As socketpair(2).
    pub fn pair(peer: &'static str) -> Result<(Self, Self)> {
        let (kind, flags) = (SockType::SeqPacket, SockFlag::SOCK_CLOEXEC);
        let (one, other) =
            socketpair(AddressFamily::Unix, kind, None, flags).doing(|| format!("make the channel to {peer}"))?;
        Ok((Self::new(one, peer), Self::new(other, "the runtime")))
    }

    /// Sends a message, with a descriptor where one is given.
    ///
    /// # Errors
    /// As sendmsg(2); `EPIPE` where the other end is gone.
    pub fn send(&self, message: &Message, fd: Option<&OwnedFd>) -> nix::Result<()> {
        let bytes = message.encode();
        let fds = fd.map(|fd| [fd.as_raw_fd()]);
        let rights = fds.as_ref().map(|fds| ControlMessage::ScmRights(fds));
        let control = rights.as_slice();
        loop {
            let flags = MsgFlags::MSG_NOSIGNAL;
            // A plain write(2), since the filter may be loaded by then, and its agent waits for this word.
            let bare = fd.is_none() && *message == Message::Here;
            match if bare {
                write(&self.fd, &bytes)
            } else {
                sendmsg::<UnixAddr>(self.as_raw_fd(), &[IoSlice::new(&bytes)], control, flags, None)
            } {
                // A signal for the runtime came first; nothing was sent.
                Err(Errno::EINTR) => {}
                sent => return sent.map(drop),
            }
        }
    }

    /// The next message, `None` at end of file; with the descriptor that came with it.
    ///
    /// # Errors
    /// As recvmsg(2); `EBADMSG` for what is no message of ours.
    pub fn receive(&self) -> nix::Result<Option<(Message, Option<OwnedFd>)>> {
        let mut bytes = vec![0; LONGEST];
        let mut space = nix::cmsg_space!([i32; 1]);
        let (len, fd) = loop {
            let mut into = [IoSliceMut::new(&mut bytes)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            match recvmsg::<UnixAddr>(self.as_raw_fd(), &mut into, Some(&mut space), flags) {
                // A signal for the runtime came first; nothing was received.
                Err(Errno::EINTR) => {}
                // Said once, where the other end closed before it had read everything. What it sent is still there.
                Err(Errno::ECONNRESET) => {}
                Err(errno) => return Err(errno),
                Ok(message) => break (message.bytes, descriptor(&message)?),
            }
        };
        if len == 0 {
            return Ok(None);
        }
        Message::decode(&bytes[..len]).map(|message| Some((message, fd))).ok_or(Errno::EBADMSG)
    }

    /// Waits for one certain message.
    ///
    /// # Errors
    /// The fault that came instead, or that process 1 died.
    pub fn expect(&self, wanted: &Message) -> Result<Option<OwnedFd>> {
        match self.receive().doing(|| format!("hear from {}", self.peer))? {
            Some((message, fd)) if message == *wanted => Ok(fd),
            Some((Message::Fault(error), _)) => Err(error),
            Some((other, _)) => {
                Err(Error::new(Kind::Kernel, format!("hear {wanted:?} from {}: it said {other:?}", self.peer)))
            }
            None => Err(Error::new(Kind::Kernel, format!("set up {}: it died without a word", self.peer))),
        }
    }

    /// Reports why this process gives up, and ends it.
    pub fn give_up(&self, error: Error) -> ! {
        // Where this does not arrive, the other side sees the end of file, and says that this process died.
        let _ = self.send(&Message::Fault(error), None);
        sys::process::exit_now(1)
    }

    /// Says what the other side waits for, with a descriptor where one is given.
    ///
    /// # Errors
    /// Where it has ended: the fault that it reported before.
    pub fn say(&self, message: &Message, fd: Option<&OwnedFd>) -> Result<()> {
        match self.send(message, fd) {
            Err(Errno::EPIPE | Errno::ECONNRESET) => loop {
                // Whatever came before is of no use now; the end of file is an error of `expect` like any other.
                self.expect(&Message::Ready)?;
            },
            sent => sent.doing(|| format!("speak to {}", self.peer)),
        }
    }
}

fn descriptor<S>(message: &nix::sys::socket::RecvMsg<'_, '_, S>) -> nix::Result<Option<OwnedFd>> {
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = part {
            return Ok(fds.first().map(|fd| sys::file::received(*fd)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_arrives_as_it_was_sent() {
        let (one, other) = Channel::pair("the test").unwrap();
        let fault = Error::kernel("bind /a on /b", Errno::ENOENT).and(Error::invalid("use x"));
        let all = [
            Message::Go(Pid::from_raw(70_000)),
            Message::Here,
            Message::Ready,
            Message::Start,
            Message::Exec,
            Message::Fault(fault),
        ];
        for message in all {
            one.send(&message, None).unwrap();
            assert_eq!(other.receive().unwrap().unwrap().0, message);
        }
        drop(one);
        assert!(other.receive().unwrap().is_none());
    }

    #[test]
    fn who_speaks_to_one_that_has_given_up_hears_why() {
        let (other, one) = Channel::pair("the test").unwrap();
        one.send(&Message::Ready, None).unwrap();
        one.send(&Message::Fault(Error::invalid("use x")), None).unwrap();
        drop(one);
        assert_eq!(other.say(&Message::Start, None), Err(Error::invalid("use x")));
        let died = other.say(&Message::Start, None).unwrap_err();
        assert!(died.to_string().contains("the test: it died without a word"), "{died}");
    }

    #[test]
    fn the_last_word_of_one_who_did_not_listen_arrives() {
        let (one, other) = Channel::pair("the test").unwrap();
        other.send(&Message::Start, None).unwrap();
        one.send(&Message::Ready, None).unwrap();
        drop(one);
        assert_eq!(other.receive().unwrap().unwrap().0, Message::Ready);
        assert!(other.receive().unwrap().is_none());
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for bytes in [&b"G"[..], b"X", b"Gabc", b"F{"] {
            assert_eq!(Message::decode(bytes), None);
        }
    }
}
