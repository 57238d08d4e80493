//! The default root: a throw-away copy-on-write clone of the host's own, by an allow list.
//!
//! Three ways, by what the thing is. `/usr` and the package database are large and public as a whole: overlayfs, whose
//! upper layer is in memory and reachable from nowhere inside. `/etc` is small and mixed: each allowed entry is copied,
//! so that what appears later on the host does not show up inside (two directories of links excepted, [`allow::LIVE`]).
//! Everything else is made empty.
//!
//! What is copied from `/etc` must be public on the host: a regular file or directory that everybody may read, without
//! set-id bits, under a size limit; or a link whose target stays in `/etc` or `/usr`. A file with a private key or with
//! a password in a URL is left out even if everybody may read it.
//!
//! `/usr` is shown whole: a file that only root may read there (in `/usr/local`, say) is readable to root inside. So is
//! `/var/lib/dpkg`. Names tell something too: who has an account (without the hashes), which packages are installed.

use std::ffi::{CStr, CString};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstat, fstatat, mkdirat, umask};
use nix::unistd::symlinkat;
use sys::mount::{attach, fs_create, fs_reason, fs_set, fsmount, fsopen};
use sys::{Doing, Error, Result};

use crate::allow;

/// The largest file that is copied; a larger one is left out.
const FILE_LIMIT: u64 = 1 << 20;

/// How much is copied in all, in bytes and in entries, before the host's `/etc` is refused as none.
const BYTES: u64 = 32 << 20;
const ENTRIES: u32 = 20_000;

/// From how many entries on a directory of [`allow::LIVE`] is an overlay: one costs as much as some dozen copies.
const MANY: usize = 64;

/// How deep directories are followed below `/etc`.
const DEPTH: u32 = 8;

/// Attributes of every overlay: device nodes come from the jail's own `/dev`, never from the host's tree.
const OVERLAY_ATTR: u64 = nix::libc::MOUNT_ATTR_NODEV;

/// Fills `root`, the root directory of a fresh, attached tmpfs, with a clone of the tree beneath `host`.
///
/// `scratch` is an empty directory outside of `root`: the upper layers are mounted on it, and go with the mount name
/// space's old root. To be called as root in a private mount name space that has a procfs at `/proc`.
///
/// # Errors
/// `NotFound` where the host has no `usr`, `Unsupported` where it is a link, and whatever the kernel says of a mount or a copy. What was mounted until
/// then goes with the mount name space.
pub fn populate(root: BorrowedFd, host: BorrowedFd, scratch: &CStr) -> Result<()> {
    // The modes in the tables are meant exactly.
    let before = umask(Mode::empty());
    let done = skeleton(root)
        .and_then(|()| Layers::on(scratch))
        .and_then(|layers| trees(root, host, layers))
        .and_then(|layers| etc(root, host, layers));
    umask(before);
    done
}

/// Writes `hostname` and `hosts` of the clone `root` for a jail that is called `name`.
///
/// # Errors
/// As open(2) and write(2); `Exists` where they were written before.
pub fn set_name(root: BorrowedFd, name: &str) -> Result<()> {
    let etc = open(root, c"etc", OFlag::O_PATH | OFlag::O_DIRECTORY).doing(|| "open etc of the clone")?;
    let hosts = format!("127.0.0.1\tlocalhost\n127.0.1.1\t{name}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    write_new(etc.as_fd(), c"hostname", 0o644, format!("{name}\n").as_bytes())?;
    write_new(etc.as_fd(), c"hosts", 0o644, hosts.as_bytes())
}

/// Opens `path` beneath `at`, through no link at all: what the table names is meant literally.
fn open(at: impl AsFd, path: &CStr, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(at, path, how)
}

/// `None` where nothing is there, or something that only a link leads to.
fn if_there<T>(found: nix::Result<T>) -> nix::Result<Option<T>> {
    match found {
        Ok(it) => Ok(Some(it)),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn make_directory(at: impl AsFd, path: &CStr, mode: u32) -> Result<()> {
    mkdirat(at, path, Mode::from_bits_truncate(mode)).doing(|| format!("make {} of the clone", path.to_string_lossy()))
}

fn write_new(at: BorrowedFd, name: &CStr, mode: u32, text: &[u8]) -> Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let step = || format!("write {} of the clone", name.to_string_lossy());
    let fd = openat(at, name, flags, Mode::from_bits_truncate(mode)).doing(step)?;
    std::fs::File::from(fd).write_all(text).doing(step)
}

/// All that is empty or the same in every clone.
fn skeleton(root: BorrowedFd) -> Result<()> {
    // By name, since `root` may be a mere place (O_PATH), which fchmod(2) refuses.
    fchmodat(root, c".", Mode::from_bits_truncate(0o755), FchmodatFlags::FollowSymlink)
        .doing(|| "set the mode of the clone's root")?;
    for (path, mode) in allow::EMPTY {
        make_directory(root, path, *mode)?;
    }
    for (target, place) in allow::LINKS {
        symlinkat(*target, root, *place).doing(|| format!("link {} of the clone", place.to_string_lossy()))?;
    }
    Ok(())
}

/// Where the upper layers are: a file system of its own in memory, which no path inside leads to.
struct Layers {
    at: OwnedFd,
    made: u32,
}

impl Layers {
    /// Mounts it on `scratch`: before Linux 6.15, overlayfs takes no layer of a mount that is attached nowhere.
    fn on(scratch: &CStr) -> Result<Self> {
        let step = || format!("mount the clone's upper layers on {}", scratch.to_string_lossy());
        let mount = || -> nix::Result<OwnedFd> {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let target = nix::fcntl::open(scratch, flags, Mode::empty())?;
            let fs = fsopen(c"tmpfs")?;
            fs_set(&fs, c"mode", c"0700")?;
            fs_create(&fs)?;
            let at = fsmount(&fs, OVERLAY_ATTR)?;
            attach(&at, target)?;
            Ok(at)
        };
        Ok(Self { at: mount().doing(step)?, made: 0 })
    }

    /// An empty directory, named by its number.
    fn next(&mut self) -> nix::Result<OwnedFd> {
        self.made += 1;
        let name = self.made.to_string();
        // The mode of an upper layer is the mode of the whole.
        mkdirat(&self.at, name.as_str(), Mode::from_bits_truncate(0o755))?;
        openat(&self.at, name.as_str(), OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
    }

    /// Puts the directory `lower` of the host on `path` beneath `at`, copy-on-write.
    fn cover(&mut self, at: BorrowedFd, path: &CStr, lower: impl AsFd) -> Result<()> {
        let step = || format!("clone {} of the host", path.to_string_lossy());
        let target = open(at, path, OFlag::O_PATH | OFlag::O_DIRECTORY).doing(step)?;
        let (upper, work) = (self.next().doing(step)?, self.next().doing(step)?);
        let fs = fsopen(c"overlay").doing(step)?;
        let configure = || {
            fs_set(&fs, c"lowerdir", &by_descriptor(lower.as_fd()))?;
            fs_set(&fs, c"upperdir", &by_descriptor(upper.as_fd()))?;
            fs_set(&fs, c"workdir", &by_descriptor(work.as_fd()))?;
            fs_create(&fs)
        };
        if let Err(errno) = configure() {
            let reason = fs_reason(&fs).map(|text| format!(" ({text})")).unwrap_or_default();
            return Err(Error::kernel(format!("{}{reason}", step()), errno));
        }
        attach(fsmount(&fs, OVERLAY_ATTR).doing(step)?, target).doing(step)
    }
}

/// The one form in which every kernel's overlayfs takes a descriptor; the host's paths do not show in it either.
fn by_descriptor(fd: BorrowedFd) -> CString {
    // A number holds no NUL, so the default is never taken.
    CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default()
}

/// What is cloned as a whole: `/usr` with its links, and the package database.
fn trees(root: BorrowedFd, host: BorrowedFd, mut layers: Layers) -> Result<Layers> {
    let step = || "clone usr of the host";
    let directory = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let usr = match open(host, c"usr", directory) {
        Err(Errno::ELOOP) => {
            return Err(Error::unsupported("clone usr of the host: it is a link, which can lead to anything"));
        }
        found => found.doing(step)?,
    };
    make_directory(root, c"usr", 0o755)?;
    layers.cover(root, c"usr", &usr)?;
    // An overlay shows no other file system below its lower layer. /usr/local is the only one that hosts commonly
    // have there; any further one is not on the list, and stays outside.
    if let Some(local) = if_there(open(&usr, c"local", directory)).doing(step)?
        && fstat(&local).doing(step)?.st_dev != fstat(&usr).doing(step)?.st_dev
    {
        layers.cover(root, c"usr/local", &local)?;
    }
    for name in allow::MERGED {
        merged(root, host, &mut layers, name)?;
    }
    if let Some(database) =
        if_there(open(host, c"var/lib/dpkg", directory)).doing(|| "open var/lib/dpkg of the host")?
    {
        make_directory(root, c"var/lib/dpkg", 0o755)?;
        layers.cover(root, c"var/lib/dpkg", &database)?;
    }
    Ok(layers)
}

/// A word such as `/bin`: the same link as on the host, or the directory if the host's `/usr` is not merged.
fn merged(root: BorrowedFd, host: BorrowedFd, layers: &mut Layers, name: &CStr) -> Result<()> {
    let step = || format!("clone {} of the host", name.to_string_lossy());
    match readlinkat(host, name) {
        Ok(target) if stays_inside(b"", target.as_bytes()) => symlinkat(target.as_os_str(), root, name).doing(step),
        // Elsewhere than /usr: not on the list.
        Ok(_) | Err(Errno::ENOENT) => Ok(()),
        // No link.
        Err(Errno::EINVAL) => {
            let Some(lower) = if_there(open(host, name, OFlag::O_PATH | OFlag::O_DIRECTORY)).doing(step)? else {
                return Ok(());
            };
            make_directory(root, name, 0o755)?;
            layers.cover(root, name, &lower)
        }
        Err(errno) => Err(errno).doing(step),
    }
}

/// The jail's own `/etc`, and what apt keeps beside dpkg's database: which packages were installed by themselves.
fn etc(root: BorrowedFd, host: BorrowedFd, layers: Layers) -> Result<()> {
    let place = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let to = open(root, c"etc", place).doing(|| "open etc of the clone")?;
    let from = Public::directory(host, c"etc")?;
    for (name, text) in allow::FRESH {
        write_new(to.as_fd(), name, 0o644, text)?;
    }
    accounts(from.as_ref().map(AsFd::as_fd), to.as_fd())?;
    let mut copier = Copier { layers, text: Vec::new(), bytes: BYTES, entries: ENTRIES };
    if let Some(from) = from {
        for group in allow::ETC {
            copier.group(from.as_fd(), to.as_fd(), group)?;
        }
        copier.patterns(from, to.as_fd())?;
    }
    if let Some(from) = Public::directory(host, c"var/lib/apt")? {
        let to = open(root, c"var/lib/apt", place).doing(|| "open var/lib/apt of the clone")?;
        copier.entry(from.as_fd(), to.as_fd(), c"extended_states", b"var/lib/apt", 0)?;
    }
    Ok(())
}

/// passwd and group: copied without hashes, or made anew.
fn accounts(from: Option<BorrowedFd>, to: BorrowedFd) -> Result<()> {
    let mut text = Vec::new();
    for (name, fallback) in allow::ACCOUNTS {
        let found = match from {
            Some(from) if kind_of(from, name)? == Some(Type::File) => Public::file(from, name)?,
            _ => None,
        };
        match found {
            Some(found) => {
                found.read(name, &mut text)?;
                write_new(to, name, 0o644, &without_hashes(&text))?;
            }
            None => write_new(to, name, 0o644, fallback)?,
        }
    }
    Ok(())
}

/// The lines of passwd(5) or group(5), with `*` for every password that is not a mere mark: nobody logs in by it.
fn without_hashes(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for line in text.split(|byte| *byte == b'\n') {
        let mut fields = line.splitn(3, |byte| *byte == b':');
        let (Some(name), Some(password), Some(rest)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let mark = if matches!(password, b"x" | b"*" | b"!") { password } else { b"*" };
        for part in [name, b":", mark, b":", rest, b"\n"] {
            out.extend_from_slice(part);
        }
    }
    out
}

/// Something of the host that everybody may read there, as seen on the open descriptor and not on its name.
struct Public {
    fd: OwnedFd,
    stat: FileStat,
}

impl Public {
    /// The directory `path` beneath `at`, or `None` where it is none or not public.
    fn directory(at: BorrowedFd, path: &CStr) -> Result<Option<OwnedFd>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        Ok(Self::open(at, path, flags)?.filter(|found| found.stat.st_mode & 0o005 == 0o005).map(|found| found.fd))
    }

    /// The regular file `name` of `at`, or `None` where it is none, not public or too large.
    ///
    /// To be called for what [`kind_of`] or the directory calls a regular file: opening a device can have effects.
    fn file(at: BorrowedFd, name: &CStr) -> Result<Option<Self>> {
        // The callers saw a regular file. Should it be another one by now, O_NONBLOCK keeps a FIFO from blocking.
        let found = Self::open(at, name, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)?;
        Ok(found.filter(|found| {
            let stat = &found.stat;
            SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG
                && stat.st_mode & 0o6004 == 0o004
                && u64::try_from(stat.st_size).is_ok_and(|size| size <= FILE_LIMIT)
        }))
    }

    fn open(at: BorrowedFd, path: &CStr, flags: OFlag) -> Result<Option<Self>> {
        let step = || format!("open {} of the host", path.to_string_lossy());
        let found = match open(at, path, flags) {
            // Who is not root of the host sees that it is not public before he could look at it.
            Err(Errno::EACCES) => return Ok(None),
            found => if_there(found).doing(step)?,
        };
        let Some(fd) = found else { return Ok(None) };
        let stat = fstat(&fd).doing(step)?;
        Ok(Some(Self { fd, stat }))
    }

    /// The size as it was on opening, which is at most `FILE_LIMIT`.
    fn size(&self) -> u64 {
        self.stat.st_size.unsigned_abs()
    }

    /// Reads a file into `text`, which is emptied first.
    fn read(self, name: &CStr, text: &mut Vec<u8>) -> Result<()> {
        let size = self.size();
        text.clear();
        text.reserve(size as usize);
        let read = std::fs::File::from(self.fd).take(size).read_to_end(text);
        read.map(drop).doing(|| format!("read {} of the host", name.to_string_lossy()))
    }
}

/// What `name` of `at` is; `None` where nothing is there, or a device, socket or FIFO.
fn kind_of(at: BorrowedFd, name: &CStr) -> Result<Option<Type>> {
    let stat = if_there(fstatat(at, name, AtFlags::AT_SYMLINK_NOFOLLOW));
    let stat = stat.doing(|| format!("look at {} of the host", name.to_string_lossy()))?;
    Ok(stat.and_then(|stat| match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => Some(Type::File),
        SFlag::S_IFDIR => Some(Type::Directory),
        SFlag::S_IFLNK => Some(Type::Symlink),
        _ => None,
    }))
}

/// What is in a directory: names, and their kinds where the file system says.
type Names = Vec<(CString, Option<Type>)>;

fn list(directory: OwnedFd, place: &[u8]) -> Result<(Dir, Names)> {
    let step = || format!("list {} of the host", String::from_utf8_lossy(place));
    let mut listing = Dir::from_fd(directory).doing(step)?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let entry = entry.doing(step)?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    Ok((listing, names))
}

/// Copies what is public, until it is more than any `/etc` is.
struct Copier {
    layers: Layers,
    text: Vec<u8>,
    bytes: u64,
    entries: u32,
}

impl Copier {
    fn spend(&mut self, bytes: u64) -> Result<()> {
        match (self.bytes.checked_sub(bytes), self.entries.checked_sub(1)) {
            (Some(bytes), Some(entries)) => (self.bytes, self.entries) = (bytes, entries),
            _ => {
                let limit = BYTES >> 20;
                return Err(Error::unsupported(format!(
                    "clone etc of the host: what is allowed of it is over {limit} MiB or {ENTRIES} entries"
                )));
            }
        }
        Ok(())
    }

    fn group(&mut self, from: BorrowedFd, to: BorrowedFd, group: &allow::Group) -> Result<()> {
        if group.under.is_empty() {
            return group.names.iter().try_for_each(|name| self.entry(from, to, name, b"etc", DEPTH));
        }
        let Some(from) = Public::directory(from, group.under)? else {
            return Ok(());
        };
        // One directory can have several groups.
        match mkdirat(to, group.under, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno).doing(|| format!("make {:?} in etc of the clone", group.under)),
        }
        let to = open(to, group.under, OFlag::O_PATH | OFlag::O_DIRECTORY)
            .doing(|| format!("open {:?} in etc of the clone", group.under))?;
        let place = [b"etc/", group.under.to_bytes()].concat();
        group.names.iter().try_for_each(|name| self.entry(from.as_fd(), to.as_fd(), name, &place, DEPTH))
    }

    /// Names with a version in them: for these, the whole directory is read.
    fn patterns(&mut self, from: OwnedFd, to: BorrowedFd) -> Result<()> {
        let (from, names) = list(from, b"etc")?;
        for (name, _) in names {
            let word = name.to_bytes();
            if allow::PATTERNS.iter().any(|(head, tail)| word.starts_with(head) && word.ends_with(tail)) {
                self.entry(from.as_fd(), to, &name, b"etc", DEPTH)?;
            }
        }
        Ok(())
    }

    /// Copies `name` of `from` to `to`, whatever it is; what may not be copied is left out. `place` is the directory's
    /// path as seen inside, for links.
    fn entry(&mut self, from: BorrowedFd, to: BorrowedFd, name: &CStr, place: &[u8], depth: u32) -> Result<()> {
        match kind_of(from, name)? {
            Some(Type::File) => self.file(from, to, name),
            Some(Type::Directory) => self.tree(from, to, name, place, depth),
            Some(Type::Symlink) => self.link(from, to, name, place),
            _ => Ok(()),
        }
    }

    fn file(&mut self, from: BorrowedFd, to: BorrowedFd, name: &CStr) -> Result<()> {
        let Some(file) = Public::file(from, name)? else {
            return Ok(());
        };
        self.spend(file.size())?;
        let mode = file.stat.st_mode & 0o755;
        file.read(name, &mut self.text)?;
        if holds_secret(&self.text) {
            return Ok(());
        }
        write_new(to, name, mode, &self.text)
    }

    fn link(&mut self, from: BorrowedFd, to: BorrowedFd, name: &CStr, place: &[u8]) -> Result<()> {
        let step = || format!("copy link {} of the host", name.to_string_lossy());
        let target = match readlinkat(from, name) {
            Ok(target) => target,
            // Gone, or no link any more.
            Err(Errno::ENOENT | Errno::EINVAL) => return Ok(()),
            Err(errno) => return Err(errno).doing(step),
        };
        if !stays_inside(place, target.as_bytes()) {
            return Ok(());
        }
        self.spend(0)?;
        symlinkat(target.as_os_str(), to, name).doing(step)
    }

    fn tree(&mut self, from: BorrowedFd, to: BorrowedFd, name: &CStr, place: &[u8], depth: u32) -> Result<()> {
        let Some(depth) = depth.checked_sub(1) else {
            return Ok(());
        };
        let Some(from) = Public::directory(from, name)? else {
            return Ok(());
        };
        self.spend(0)?;
        make_directory(to, name, 0o755)?;
        let place = [place, b"/", name.to_bytes()].concat();
        let (from, names) = list(from, &place)?;
        if names.len() >= MANY && allow::LIVE.contains(&&*place) && self.all_public(from.as_fd(), &names, depth)? {
            return self.layers.cover(to, name, from);
        }
        let to = open(to, name, OFlag::O_PATH | OFlag::O_DIRECTORY)
            .doing(|| format!("open {} of the clone", name.to_string_lossy()))?;
        for (name, kind) in names {
            match kind {
                Some(Type::Symlink) => self.link(from.as_fd(), to.as_fd(), &name, &place)?,
                Some(Type::File) => self.file(from.as_fd(), to.as_fd(), &name)?,
                _ => self.entry(from.as_fd(), to.as_fd(), &name, &place, depth)?,
            }
        }
        Ok(())
    }

    /// Whether every file and directory of these would be copied. Links count as such: they show nothing but a name.
    fn all_public(&mut self, at: BorrowedFd, names: &Names, depth: u32) -> Result<bool> {
        for (name, kind) in names {
            let kind = match kind {
                Some(Type::Symlink) => continue,
                Some(Type::File) => Some(Type::File),
                _ => kind_of(at, name)?,
            };
            let public = match kind {
                Some(Type::Symlink) => true,
                Some(Type::File) => match Public::file(at, name)? {
                    Some(file) => {
                        file.read(name, &mut self.text)?;
                        !holds_secret(&self.text)
                    }
                    None => false,
                },
                Some(Type::Directory) => match (depth.checked_sub(1), Public::directory(at, name)?) {
                    (Some(depth), Some(below)) => {
                        let (below, names) = list(below, name.to_bytes())?;
                        self.all_public(below.as_fd(), &names, depth)?
                    }
                    _ => false,
                },
                _ => false,
            };
            if !public {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Whether a link in directory `place` to `target` names something of `/etc` or `/usr`. By the words alone: whatever it
/// leads to inside, it leads to nothing of the host.
fn stays_inside(place: &[u8], target: &[u8]) -> bool {
    let mut path: Vec<&[u8]> = Vec::new();
    let start: &[u8] = if target.starts_with(b"/") { b"" } else { place };
    for word in start.split(|byte| *byte == b'/').chain(target.split(|byte| *byte == b'/')) {
        match word {
            b"" | b"." => {}
            b".." => drop(path.pop()),
            word => path.push(word),
        }
    }
    matches!(path.first(), Some(&(b"etc" | b"usr")))
}

/// Whether `text` has what should never have been public: a private key, or a password in a URL.
fn holds_secret(text: &[u8]) -> bool {
    const KEY: &str = "PRIVATE KEY-----";
    /// How much of a URL is looked at before its `@`.
    const URL: usize = 512;
    let key = match std::str::from_utf8(text) {
        Ok(text) => text.contains(KEY),
        // Not text as a whole, but a key could still be in it as text.
        Err(_) => text.windows(KEY.len()).any(|part| part[0] == b'P' && part == KEY.as_bytes()),
    };
    // The search for one byte alone is the fast one, and most files have none.
    let ats = || text.iter().enumerate().filter(|(_, byte)| **byte == b'@');
    key || (text.contains(&b'@') && ats().any(|(at, _)| ends_in_user_of_url(&text[at.saturating_sub(URL)..at])))
}

/// Whether `text`, which an `@` follows, ends in `://` and what can be a user and a password.
fn ends_in_user_of_url(text: &[u8]) -> bool {
    let stop = |byte: &u8| *byte == b'/' || byte.is_ascii_whitespace() || matches!(byte, b'"' | b'\'' | b'<' | b'>');
    text.iter().rposition(stop).is_some_and(|at| text[..=at].ends_with(b"://"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_stays_inside_only_in_etc_or_usr() {
        assert!(stays_inside(b"", b"usr/bin"));
        assert!(stays_inside(b"", b"/usr/lib64"));
        assert!(stays_inside(b"etc", b"../usr/lib/os-release"));
        assert!(stays_inside(b"etc/ssl/certs", b"a.pem"));
        assert!(!stays_inside(b"etc", b"../root/key"));
        assert!(!stays_inside(b"etc", b"/usr/../root/key"));
        assert!(!stays_inside(b"etc", b"../../../run/x"));
        assert!(!stays_inside(b"etc", b"/usrx/a"));
        assert!(!stays_inside(b"", b"/"));
    }

    #[test]
    fn accounts_lose_their_hashes_and_nothing_else() {
        let text = b"root:x:0:0:root:/root:/bin/bash\neve:$6$salt$hash:1:1::/:/bin/sh\nopen::2:2::/:\nbroken\n";
        let expected = b"root:x:0:0:root:/root:/bin/bash\neve:*:1:1::/:/bin/sh\nopen:*:2:2::/:\n";
        assert_eq!(without_hashes(text), expected);
    }

    #[test]
    fn a_secret_in_a_public_file_is_seen() {
        assert!(holds_secret(b"deb https://user:word@repo.example/debian stable main"));
        assert!(holds_secret(b"-----BEGIN RSA PRIVATE KEY-----\n"));
        assert!(holds_secret(b"\xff export http_proxy=\"http://me:pw@proxy:3128\""));
        assert!(!holds_secret(b"# see https://example.org/a@b, mail someone@example.org"));
        assert!(!holds_secret(b"-----BEGIN CERTIFICATE-----\n"));
    }
}
