//! The cache of compiled filters: compiling takes milliseconds, reading a tenth of one.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;

use libseccomp::ScmpVersion;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};
use nix::sys::utsname::uname;
use nix::unistd::{UnlinkatFlags, geteuid, linkat, unlinkat};
use oci_spec::runtime::LinuxSeccomp;
use sys::{Doing, Error, Result};

use crate::seccomp::{Filter, LONGEST, compile};

/// Changes whenever [`compile`] makes another program of the same profile, or the file's layout changes.
const MAGIC: &[u8; 8] = b"jailbpf1";
/// The magic, the key, the checksum of what follows them, and the flags.
const HEAD: usize = 8 + 32 + 32 + 8;

/// How many entries are kept; each has some 10 kB.
pub const MOST: usize = 64;
const SUFFIX: &str = ".bpf";

/// What a cached program depends on, as one number that nobody can collide with: a person who chooses profiles must not
/// choose another jail's filter.
type Key = [u8; 32];

/// [`compile`], or what it made of the same profile before, under the same kernel and by the same libseccomp.
///
/// `cache` is a directory that only its owner can write to. A damaged entry is made again. That the cache cannot be read
/// or written is no error: the profile is compiled then.
///
/// # Errors
/// As [`compile`].
pub fn cached(profile: &LinuxSeccomp, cache: BorrowedFd<'_>) -> Result<Filter> {
    let key = key(profile)?;
    let name = name(&key);
    let found = read(cache, &name, &key);
    if let Ok(Some(filter)) = found {
        return Ok(filter);
    }
    let filter = compile(profile)?;
    if let Ok(None) = found {
        // Damaged, or not ours: linkat(2) does not replace.
        let _ = unlinkat(cache, name.as_str(), UnlinkatFlags::NoRemoveDir);
    }
    let _ = write(cache, &name, &encode(&key, &filter)).and_then(|()| prune(cache));
    Ok(filter)
}

fn key(profile: &LinuxSeccomp) -> Result<Key> {
    let json = serde_json::to_vec(&crate::seccomp::without_listener(profile))
        .map_err(|error| Error::invalid(format!("write /linux/seccomp: {error}")))?;
    let host = uname().doing(|| "read the name of this kernel")?;
    let version = ScmpVersion::current().map_err(|error| Error::unsupported(format!("use libseccomp: {error}")))?;
    let version = format!("{}.{}.{}", version.major, version.minor, version.micro);
    let mut hash = blake3::Hasher::new();
    for part in [MAGIC, host.release().as_encoded_bytes(), host.machine().as_encoded_bytes(), version.as_bytes(), &json]
    {
        // With its length, so that no two lists of parts are the same bytes.
        hash.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    Ok(hash.finalize().into())
}

fn name(key: &Key) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).chain([SUFFIX.to_owned()]).collect()
}

fn encode(key: &Key, filter: &Filter) -> Vec<u8> {
    let body = [&u64::from(filter.flags).to_le_bytes()[..], &filter.program].concat();
    [&MAGIC[..], key, blake3::hash(&body).as_bytes(), &body].concat()
}

fn decode(bytes: &[u8], key: &Key) -> Option<Filter> {
    let rest = bytes.strip_prefix(MAGIC)?.strip_prefix(key)?;
    let (checksum, body) = rest.split_first_chunk::<32>()?;
    let (flags, program) = body.split_first_chunk::<8>()?;
    let whole = blake3::hash(body) == *checksum && !program.is_empty() && program.len() % 8 == 0;
    let flags = u32::try_from(u64::from_le_bytes(*flags)).ok()?;
    whole.then(|| Filter { program: program.to_vec(), flags })
}

/// An entry; `None` if there is something by that name which is not to be trusted.
fn read(cache: BorrowedFd<'_>, name: &str, key: &Key) -> nix::Result<Option<Filter>> {
    // O_NONBLOCK: a FIFO by that name must not hold us up.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = match openat(cache, name, flags, Mode::empty()) {
        Err(Errno::ELOOP | Errno::ENXIO) => return Ok(None),
        opened => File::from(opened?),
    };
    let Ok(meta) = file.metadata() else { return Ok(None) };
    let longest = (HEAD + LONGEST * 8) as u64;
    let ours = meta.is_file() && meta.uid() == geteuid().as_raw() && meta.mode() & 0o022 == 0;
    if !ours || meta.len() > longest {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(meta.len() as usize + 1);
    Ok(file.take(longest).read_to_end(&mut bytes).ok().and_then(|_| decode(&bytes, key)))
}

/// Removes the oldest entries above [`MOST`]: a caller may give every jail a profile of its own.
fn prune(cache: BorrowedFd<'_>) -> nix::Result<()> {
    let mut entries = Vec::new();
    for entry in Dir::openat(cache, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?.iter()
    {
        let name = entry?.file_name().to_owned();
        if name.to_bytes().ends_with(SUFFIX.as_bytes()) {
            let written = fstatat(cache, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
            entries.push(((written.st_mtime, written.st_mtime_nsec), name));
        }
    }
    entries.sort_unstable();
    let above = entries.len().saturating_sub(MOST);
    entries[..above].iter().try_for_each(|(_, name)| unlinkat(cache, name.as_c_str(), UnlinkatFlags::NoRemoveDir))
}

/// Writes an entry that appears whole or not at all, also where this process is killed. Source: open(2), O_TMPFILE.
fn write(cache: BorrowedFd<'_>, name: &str, bytes: &[u8]) -> nix::Result<()> {
    let flags = OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(cache, ".", flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
    file.write_all(bytes).map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    linkat(AT_FDCWD, unnamed.as_str(), cache, name, AtFlags::AT_SYMLINK_FOLLOW)
}
