//! The folder that knows every jail: `<root>/<id>/` with `state.json`, `journal` and `control`.
//!
//! Making the folder of a jail is what decides a race of creates: mkdir(2) has one winner.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base::JailId;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sys::{Doing, Error, Kind, Result};

/// Where the store is when nobody says otherwise: of the host's root.
const DEFAULT: &str = "/run/jail";
/// Written once, before anything is made.
const STATE: &str = "state.json";
/// The socket on which process 1 waits for `start`.
pub const CONTROL: &str = "control";
/// What is cached for all jails; no name of a jail starts with a dot.
const CACHE: &str = ".cache";
/// What the folder of a jail holds, in the order in which it is removed: what finds the rest goes last.
const FILES: [&str; 3] = [CONTROL, STATE, crate::journal::NAME];
/// The version of [`State`] that this program writes.
pub const VERSION: u32 = 1;
/// How long one verb waits for another on the same jail.
const PATIENCE: Duration = Duration::from_secs(10);

/// What never changes in the life of a jail.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// Of this structure; a program reads older ones, and lists newer ones as broken with that reason.
    pub version: u32,
    /// The name.
    pub id: String,
    /// The OCI bundle.
    pub bundle: PathBuf,
    /// When it was made, as RFC 3339 has it.
    pub created: String,
    /// The boot that it belongs to: after another one nothing of it is left but this.
    pub boot: String,
    /// Who made it.
    pub owner: u32,
    /// The mark on its objects.
    pub mark: String,
    /// The specification, to the letter as it was read.
    pub config: Box<RawValue>,
}

/// What every version of [`State`] has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// An open root folder.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    fd: OwnedFd,
}

/// The folder of one jail.
#[derive(Debug)]
pub struct Entry {
    /// The jail's name.
    pub id: JailId,
    /// The folder.
    pub fd: OwnedFd,
}

const FOLDER: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_RDONLY).union(OFlag::O_CLOEXEC);

impl Store {
    /// Opens the store at `path`, making it where it is not there: only root may look into it.
    ///
    /// # Errors
    /// As open(2) and mkdir(2).
    pub fn make(path: &Path) -> Result<Self> {
        match Self::open(path)? {
            Some(store) => Ok(store),
            None => {
                let step = || match sys::user::is_host_root() {
                    true => format!("make the store {}", path.display()),
                    false => format!("make the store {} (XDG_RUNTIME_DIR or --root names another)", path.display()),
                };
                std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700)
                    .create(path)
                    .doing(step)?;
                Self::open(path)?.ok_or_else(|| Error::kernel(step(), Errno::ENOENT))
            }
        }
    }

    /// Opens the store at `path`; `None` where there is none, which holds no jail.
    ///
    /// # Errors
    /// As open(2).
    pub fn open(path: &Path) -> Result<Option<Self>> {
        match open(path, FOLDER, Mode::empty()) {
            Ok(fd) => Ok(Some(Self { path: path.to_owned(), fd })),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(Error::kernel(format!("open the store {}", path.display()), errno)),
        }
    }

    /// The first part of the mark on every object of jail `id` of this store: by it they are found without any state.
    pub fn mark(path: &Path, id: &JailId) -> String {
        // FNV-1a: short, and the same in every version of this program.
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for byte in path.as_os_str().as_encoded_bytes().iter().chain(b"\0").chain(id.as_str().as_bytes()) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        format!("{hash:016x}")
    }

    /// The folder of what is cached for all jails.
    ///
    /// # Errors
    /// As mkdir(2) and open(2).
    pub fn cache(&self) -> Result<OwnedFd> {
        let step = || format!("open the cache in {}", self.path.display());
        match openat(&self.fd, CACHE, FOLDER | OFlag::O_NOFOLLOW, Mode::empty()) {
            Err(Errno::ENOENT) => {}
            found => return found.doing(step),
        }
        match mkdirat(&self.fd, CACHE, Mode::S_IRWXU) {
            // Another create was first.
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(Error::kernel(step(), errno)),
        }
        openat(&self.fd, CACHE, FOLDER | OFlag::O_NOFOLLOW, Mode::empty()).doing(step)
    }

    /// Makes the folder of a new jail.
    ///
    /// # Errors
    /// `Exists` where there is one; of several that try at once, one has no error.
    pub fn reserve(&self, id: &JailId) -> Result<Entry> {
        match mkdirat(&self.fd, id.as_str(), Mode::S_IRWXU) {
            // Made by us and of no use: what cannot be opened goes again.
            Ok(()) => self.entry(id).map_err(|error| match unlink(&self.fd, id.as_str(), UnlinkatFlags::RemoveDir) {
                Ok(()) => error,
                Err(errno) => error.and(Error::kernel(format!("remove the folder of {id}"), errno)),
            }),
            Err(Errno::EEXIST) => {
                let way = format!(
                    "create {id}: a jail with that name already exists (`jail delete --force {id}` removes it)"
                );
                Err(Error::new(Kind::Exists, way))
            }
            Err(errno) => Err(Error::kernel(format!("make the folder of {id} in {}", self.path.display()), errno)),
        }
    }

    /// Opens the folder of a jail.
    ///
    /// # Errors
    /// `NotFound` where there is none.
    pub fn entry(&self, id: &JailId) -> Result<Entry> {
        match openat(&self.fd, id.as_str(), FOLDER | OFlag::O_NOFOLLOW, Mode::empty()) {
            Ok(fd) => Ok(Entry { id: id.clone(), fd }),
            Err(Errno::ENOENT) => Err(not_found(&format!("find jail {id}"))),
            Err(errno) => Err(Error::kernel(format!("open the folder of {id}"), errno)),
        }
    }

    /// The names of all jails, sorted; what has no name of a jail is none.
    ///
    /// # Errors
    /// As readdir(3).
    pub fn ids(&self) -> Result<Vec<JailId>> {
        let step = || format!("list the store {}", self.path.display());
        let mut ids = Vec::new();
        for entry in Dir::openat(&self.fd, ".", FOLDER, Mode::empty()).doing(step)?.iter() {
            let entry = entry.doing(step)?;
            ids.extend(entry.file_name().to_str().ok().and_then(|name| JailId::new(name).ok()));
        }
        ids.sort();
        Ok(ids)
    }

    /// Removes the folder of a jail of which nothing else is left.
    ///
    /// # Errors
    /// As unlinkat(2), naming what cannot be removed.
    pub fn remove(&self, entry: &Entry) -> Result<()> {
        for name in FILES {
            match unlink(&entry.fd, name, UnlinkatFlags::NoRemoveDir) {
                // A folder in its place; what follows removes whatever there is.
                Ok(()) | Err(Errno::EISDIR) => {}
                Err(errno) => return Err(Error::kernel(format!("remove {name} of {}", entry.id), errno)),
            }
        }
        match unlink(&self.fd, entry.id.as_str(), UnlinkatFlags::RemoveDir) {
            // Files of a newer version, or a stranger's: a forced delete is what ends them.
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => {
                clear(entry).doing(|| format!("empty the folder of {}", entry.id))?;
                unlink(&self.fd, entry.id.as_str(), UnlinkatFlags::RemoveDir)
            }
            other => other,
        }
        .doing(|| format!("remove the folder of {}", entry.id))
    }

    /// Removes what stands where the folder of a jail should be and is none.
    ///
    /// # Errors
    /// As unlinkat(2).
    pub fn remove_stray(&self, id: &JailId) -> Result<()> {
        unlink(&self.fd, id.as_str(), UnlinkatFlags::NoRemoveDir).doing(|| format!("remove {id}"))
    }
}

/// Where the store is when nobody says otherwise. That of one who is not root of the host is in the folder that his
/// session has for such things, `$XDG_RUNTIME_DIR`; root of a user name space may have a `/run` of its own.
pub fn default() -> PathBuf {
    let session = std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| Path::new(folder).is_absolute());
    match session {
        _ if sys::user::is_host_root() => PathBuf::from(DEFAULT),
        Some(folder) => Path::new(&folder).join("jail"),
        None if sys::user::euid() == 0 => PathBuf::from(DEFAULT),
        None => PathBuf::from(format!("/run/user/{}/jail", sys::user::euid())),
    }
}

/// The words that containerd, docker and podman match; `tests/messages.rs` says where.
pub(crate) fn not_found(step: &str) -> Error {
    Error::new(Kind::NotFound, format!("{step}: container does not exist"))
}

fn unlink(folder: &OwnedFd, name: &str, flags: UnlinkatFlags) -> nix::Result<()> {
    match unlinkat(folder, name, flags) {
        Err(Errno::ENOENT) => Ok(()),
        other => other,
    }
}

/// Removes everything in a folder. No link is followed.
fn clear(folder: impl AsFd) -> nix::Result<()> {
    for found in Dir::openat(&folder, ".", FOLDER, Mode::empty())?.iter() {
        let name = found?.file_name().to_owned();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match unlinkat(&folder, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => {
                clear(openat(&folder, name.as_c_str(), FOLDER | OFlag::O_NOFOLLOW, Mode::empty())?)?;
                unlinkat(&folder, name.as_c_str(), UnlinkatFlags::RemoveDir)?;
            }
            other => other?,
        }
    }
    Ok(())
}

impl Entry {
    /// Keeps other verbs that change the jail out, until the lock is dropped.
    ///
    /// # Errors
    /// `WrongState` where another verb does not finish within [`PATIENCE`].
    pub fn lock(&self) -> Result<OwnedFd> {
        let step = || format!("lock jail {}", self.id);
        // Opened anew: a lock belongs to an open file description, and ends when that is closed.
        let lock = openat(&self.fd, ".", FOLDER, Mode::empty()).doing(step)?;
        let start = Instant::now();
        loop {
            match sys::file::lock(&lock) {
                Ok(()) => return Ok(lock),
                Err(Errno::EWOULDBLOCK) if start.elapsed() < PATIENCE => {}
                Err(Errno::EWOULDBLOCK) => {
                    return Err(Error::new(Kind::WrongState, format!("{}: another verb is at work on it", step())));
                }
                // A signal: nothing was locked.
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(Error::kernel(step(), errno)),
            }
            // flock(2) has no time limit of its own, and a blocking one could hang on a hook of another verb.
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether another verb has the lock.
    ///
    /// # Errors
    /// As flock(2).
    pub fn is_busy(&self) -> Result<bool> {
        let step = || format!("look at jail {}", self.id);
        let look = openat(&self.fd, ".", FOLDER, Mode::empty()).doing(step)?;
        match sys::file::lock(&look) {
            Ok(()) => Ok(false),
            Err(Errno::EWOULDBLOCK) => Ok(true),
            Err(errno) => Err(Error::kernel(step(), errno)),
        }
    }

    /// Writes the state and returns its descriptor, [held](sys::file::hold): as long as anyone keeps it open, the jail
    /// is still on its way to its program.
    ///
    /// # Errors
    /// As open(2) and write(2).
    pub fn write(&self, state: &State) -> Result<OwnedFd> {
        let step = || format!("write the state of {}", self.id);
        let text =
            serde_json::to_vec(state).map_err(|error| Error::new(Kind::Kernel, format!("{}: {error}", step())))?;
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let fd = openat(&self.fd, STATE, flags, Mode::from_bits_truncate(0o600)).doing(step)?;
        let mut file = File::from(fd);
        file.write_all(&text).doing(step)?;
        let fd = OwnedFd::from(file);
        sys::file::hold(&fd).doing(step)?;
        Ok(fd)
    }

    /// Reads the state, with its descriptor.
    ///
    /// # Errors
    /// What is wrong with it, in words that complete "the jail is broken:".
    pub fn read(&self) -> Result<(State, OwnedFd), String> {
        let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let fd = match openat(&self.fd, STATE, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::ENOENT) => return Err("it was never finished: it has no state".to_owned()),
            Err(errno) => return Err(format!("its state cannot be opened: {}", errno.desc())),
        };
        let mut file = File::from(fd);
        let mut text = Vec::new();
        (&mut file)
            .take(32 << 20)
            .read_to_end(&mut text)
            .map_err(|error| format!("its state cannot be read: {error}"))?;
        let damaged = |error| format!("its state is damaged: {error}");
        // The version alone first: the rest of another one may look different.
        let Version { version } = serde_json::from_slice(&text).map_err(damaged)?;
        if version != VERSION {
            return Err(format!("its state has version {version}; this program reads {VERSION}"));
        }
        let state = serde_json::from_slice(&text).map_err(damaged)?;
        Ok((state, OwnedFd::from(file)))
    }

    /// The path of the folder for calls that take no descriptor.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }

    /// Whether the folder is still the one that the store knows by the name: a delete may have been faster.
    ///
    /// # Errors
    /// As stat(2).
    pub fn is_current(&self, store: &Store) -> Result<bool> {
        let step = || format!("look at the folder of {}", self.id);
        let mine = fstat(&self.fd).doing(step)?;
        match fstatat(&store.fd, self.id.as_str(), nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(found.st_ino == mine.st_ino && found.st_dev == mine.st_dev),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(Error::kernel(step(), errno)),
        }
    }
}

impl AsFd for Entry {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The identity of this boot. Source: random(4).
///
/// # Errors
/// Where /proc is not mounted.
pub fn boot() -> Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").doing(|| "read the boot id")?;
    Ok(text.trim().to_owned())
}
