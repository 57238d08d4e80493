//! The terminal of a jail, as it comes over a console socket.

use std::fs::File;
use std::io::{IoSliceMut, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::json;

use crate::Bundle;

/// Asks for a terminal, and for the terminals' file system, which the least configuration has not.
pub fn with_terminal(bundle: &mut Bundle) {
    bundle.set("/process/terminal", true).set(
        "/mounts/-",
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
               "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]}),
    );
}

/// Takes the descriptor that comes over a console socket.
///
/// # Panics
/// If something else comes.
pub fn terminal_from(listener: &UnixListener) -> OwnedFd {
    let (stream, _) = listener.accept().expect("a connection");
    let mut name = [0; 64];
    let mut text = [IoSliceMut::new(&mut name)];
    let mut space = nix::cmsg_space!(RawFd);
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut text, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC);
    let message = message.expect("a message");
    let fds = message.cmsgs().expect("room for one descriptor").find_map(|message| match message {
        ControlMessageOwned::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fds = fds.expect("a descriptor");
    assert_eq!(fds.len(), 1);
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fds[0]) }
}

/// All that is written to a terminal until its last user is gone, which reads as EIO.
pub fn read_all(terminal: &mut File) -> String {
    let (mut text, mut bytes) = (Vec::new(), [0; 4096]);
    while let Ok(read @ 1..) = terminal.read(&mut bytes) {
        text.extend_from_slice(&bytes[..read]);
    }
    String::from_utf8_lossy(&text).replace('\r', "")
}
