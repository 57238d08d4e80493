//! The socket of a service manager (sd_notify(3)), and how a jail gets to it.
//!
//! `run` stays, and passes on what comes ([`crate::relay`]). After `create`, and after `run --detach`, nobody is left to
//! do that: the jail gets the caller's socket itself.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc::ucred;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, UnixCredentials, bind, connect, sendmsg,
    socket,
};
use nix::unistd::{Pid, getegid, geteuid, getpid};
use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};
use sys::{Doing, Error, Result};

use crate::namespace::has;

/// Where the socket is inside.
const INSIDE: &str = "/run/notify/notify.sock";
/// The name of our own in the folder of the jail.
const SOCKET: &str = "notify";
/// Nonblocking: no sender and no receiver may stop the runtime.
const FLAGS: SockFlag = SockFlag::SOCK_CLOEXEC.union(SockFlag::SOCK_NONBLOCK);

/// Where a service manager listens.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    Path(PathBuf),
    /// Without a file; only processes of the same network name space reach it.
    Abstract(Vec<u8>),
}

/// A service manager that waits to hear from the jail's program.
#[derive(Clone, Debug)]
pub struct Notify {
    address: Address,
    /// Whether the runtime stays and passes on.
    relayed: bool,
    /// How often the program must be heard, in microseconds.
    watchdog: Option<u64>,
}

impl Notify {
    /// The one that the caller's environment names, if any; none where the specification has its own way for the program,
    /// as podman's has.
    ///
    /// # Errors
    /// `Invalid` for an address or a watchdog that makes no sense.
    pub fn find(spec: &Spec, relayed: bool) -> Result<Option<Self>> {
        let Some(value) = std::env::var_os("NOTIFY_SOCKET").filter(|value| !value.is_empty()) else { return Ok(None) };
        let mut env = spec.process().iter().filter_map(|process| process.env().as_ref()).flatten();
        if env.any(|variable| variable.starts_with("NOTIFY_SOCKET=")) {
            return Ok(None);
        }
        let step = || format!("use NOTIFY_SOCKET {}", value.to_string_lossy());
        let address = match value.as_bytes() {
            [b'@', name @ ..] => Address::Abstract(name.to_vec()),
            [b'/', ..] => Address::Path(PathBuf::from(&value)),
            _ => return Err(Error::invalid(format!("{}: it is neither a path nor @ and a name", step()))),
        };
        if let Address::Path(path) = &address
            && !std::fs::metadata(path).doing(step)?.file_type().is_socket()
        {
            return Err(Error::invalid(format!("{}: it is no socket", step())));
        }
        Ok(Some(Self { address, relayed, watchdog: watchdog()? }))
    }

    /// What the program is told.
    pub fn variables(&self) -> Vec<String> {
        let socket = match &self.address {
            Address::Abstract(name) if !self.relayed => format!("@{}", String::from_utf8_lossy(name)),
            _ => INSIDE.to_owned(),
        };
        let watchdog = self.watchdog.iter().map(|microseconds| format!("WATCHDOG_USEC={microseconds}"));
        std::iter::once(format!("NOTIFY_SOCKET={socket}")).chain(watchdog).collect()
    }

    /// The variables whose value is the program's own number.
    pub fn numbers(&self) -> Option<&'static str> {
        self.watchdog.map(|_| "WATCHDOG_PID")
    }

    /// The specification with the mount that brings the socket of a jail whose folder is `entry`.
    ///
    /// # Errors
    /// `Unsupported` where the jail could not reach it.
    pub fn mounted(&self, spec: &Spec, entry: &Path) -> Result<Spec> {
        let mut spec = spec.clone();
        let source = match &self.address {
            _ if self.relayed => entry.join(SOCKET),
            Address::Path(path) => path.clone(),
            Address::Abstract(name) if has(&spec, LinuxNamespaceType::Network) => {
                let name = String::from_utf8_lossy(name);
                let why = "no other network name space reaches it, and only `run` stays to pass on what is said";
                return Err(Error::unsupported(format!("use NOTIFY_SOCKET @{name}: {why}")));
            }
            Address::Abstract(_) => return Ok(spec),
        };
        let mut mount = Mount::default();
        // Whoever may write to the socket may do so there too, but nobody inside takes it away from others on the host.
        let options = ["bind", "ro", "nosuid", "nodev", "noexec"].map(str::to_owned).to_vec();
        mount.set_destination(PathBuf::from(INSIDE)).set_typ(Some("bind".to_owned()));
        mount.set_source(Some(source)).set_options(Some(options));
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        mounts.push(mount);
        spec.set_mounts(Some(mounts));
        Ok(spec)
    }

    /// Makes the socket that the jail writes to, in its folder, where the runtime passes on.
    ///
    /// # Errors
    /// As bind(2).
    pub fn listen(&self, entry: &Path) -> Result<Option<OwnedFd>> {
        if !self.relayed {
            return Ok(None);
        }
        let step = || "make the socket for notifications";
        let path = entry.join(SOCKET);
        let fd = socket(AddressFamily::Unix, SockType::Datagram, FLAGS, None).doing(step)?;
        bind(fd.as_raw_fd(), &UnixAddr::new(&path).doing(step)?).doing(step)?;
        // The folder is root's alone; inside, whoever the program is may write.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).doing(step)?;
        Ok(Some(fd))
    }

    /// Connects to it, where the runtime passes on.
    ///
    /// # Errors
    /// As connect(2).
    pub fn connect(&self) -> Result<Option<Manager>> {
        if !self.relayed {
            return Ok(None);
        }
        let step = || "connect to NOTIFY_SOCKET";
        Ok(Some(Manager { fd: self.address.connect().doing(step)?, address: self.address.clone() }))
    }
}

/// How often the caller must be heard; what is meant for another process is none of ours.
fn watchdog() -> Result<Option<u64>> {
    let Ok(value) = std::env::var("WATCHDOG_USEC") else { return Ok(None) };
    if std::env::var("WATCHDOG_PID").is_ok_and(|pid| pid.parse() != Ok(getpid().as_raw())) {
        return Ok(None);
    }
    let number = value.parse().ok().filter(|number| *number > 0);
    number.map(Some).ok_or_else(|| Error::invalid(format!("use WATCHDOG_USEC {value:?}: it is no number above 0")))
}

impl Address {
    fn connect(&self) -> nix::Result<OwnedFd> {
        let fd = socket(AddressFamily::Unix, SockType::Datagram, FLAGS, None)?;
        let address = match self {
            Self::Path(path) => UnixAddr::new(path)?,
            Self::Abstract(name) => UnixAddr::new_abstract(name)?,
        };
        connect(fd.as_raw_fd(), &address)?;
        Ok(fd)
    }
}

/// A connection to a service manager.
#[derive(Debug)]
pub struct Manager {
    address: Address,
    fd: OwnedFd,
}

impl AsFd for Manager {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Manager {
    /// Sends a datagram as process `sender`, which is whom the manager listens to.
    ///
    /// # Errors
    /// As sendmsg(2); `EAGAIN` where its queue is full.
    pub fn send(&mut self, text: &[u8], fds: &[RawFd], sender: Pid) -> nix::Result<()> {
        match self.try_send(text, fds, sender) {
            // It has been started anew.
            Err(Errno::ECONNREFUSED | Errno::ECONNRESET | Errno::ENOTCONN) => {
                self.fd = self.address.connect()?;
                self.try_send(text, fds, sender)
            }
            other => other,
        }
    }

    fn try_send(&self, text: &[u8], fds: &[RawFd], sender: Pid) -> nix::Result<()> {
        let who =
            UnixCredentials::from(ucred { pid: sender.as_raw(), uid: geteuid().as_raw(), gid: getegid().as_raw() });
        let rights = (!fds.is_empty()).then_some(ControlMessage::ScmRights(fds));
        let named: Vec<_> = rights.into_iter().chain([ControlMessage::ScmCredentials(&who)]).collect();
        let send = |control: &[ControlMessage<'_>]| {
            let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
            sendmsg::<UnixAddr>(self.fd.as_raw_fd(), &[IoSlice::new(text)], control, flags, None).map(drop)
        };
        match send(&named) {
            // Only who has CAP_SYS_ADMIN may name another process; this one's own name is better than nothing.
            Err(Errno::EPERM) => send(&named[..named.len() - 1]),
            other => other,
        }
    }
}

/// Takes the socket away from the folder of a jail whose end has come.
pub fn forget(entry: &Path) {
    // Whoever removes the folder removes what is left in it.
    let _ = std::fs::remove_file(entry.join(SOCKET));
}
