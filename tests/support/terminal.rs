//! The terminal of a jail, as it comes over a console socket, and the terminal that a caller is started on.

use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use nix::pty::{Winsize, openpty};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::json;

use crate::{Bundle, Done};

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

/// Runs COMMAND under a new terminal of 33 rows and 77 columns on which KEYS are typed; its output is what the terminal
/// shows.
///
/// # Panics
/// If there is no terminal to have.
pub fn under_terminal(command: &Command, keys: &str) -> Done {
    let size = Winsize { ws_row: 33, ws_col: 77, ws_xpixel: 0, ws_ypixel: 0 };
    let pair = openpty(Some(&size), None).expect("a terminal");
    let end = || -> Stdio { pair.slave.try_clone().expect("a descriptor").into() };
    let mut session = Command::new("setsid");
    session.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args()).env_clear();
    session.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("TERM", "xterm");
    let mut child = session.stdin(end()).stdout(end()).stderr(end()).spawn().expect("setsid");
    // The command holds copies of its end; without them and these two the terminal hangs up.
    drop(session);
    drop(pair.slave);
    let mut terminal = File::from(pair.master);
    terminal.write_all(keys.as_bytes()).expect("a terminal");
    let shown = std::thread::spawn(move || read_all(&mut terminal));
    let status = crate::command::wait(&mut child, crate::room::LIMIT);
    if status.is_none() {
        crate::processes::below_child(&child).into_iter().for_each(crate::processes::kill);
        let _ = child.kill();
        let _ = child.wait();
    }
    let out = shown.join().expect("the reader of a terminal");
    Done { line: crate::command::line(command), status, out, err: String::new() }
}
