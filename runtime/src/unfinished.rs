//! A change of limits that is under way: what was before it is in a file of the jail's folder as long as it lasts. Where
//! the file is still there, the change was interrupted, and whoever has the jail's lock next takes it back.

use std::fs::File;
use std::io::{Read, Write};

use cgroup::change::{self, Old};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use sys::{Doing, Error, Kind, Result};

use crate::jail::Jail;
use crate::log;
use crate::store::Entry;

/// The file's name in the folder of a jail.
const NAME: &str = "update";

/// The longest record, in bytes.
const LONGEST: usize = 1 << 20;

/// Writes down what is there, before anything of it is changed.
///
/// # Errors
/// As open(2) and write(2); nothing may be changed then.
pub fn begin(entry: &Entry, old: &[Old]) -> Result<()> {
    let step = || format!("write down the limits of {}", entry.id);
    let text = serde_json::to_string(old).map_err(|error| Error::new(Kind::Kernel, format!("{}: {error}", step())))?;
    if text.len() >= LONGEST {
        return Err(Error::invalid(format!("{}: more than {LONGEST} bytes; change less at once", step())));
    }
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let file = openat(entry, NAME, flags, Mode::from_bits_truncate(0o600)).doing(step)?;
    // The newline says that it is whole.
    File::from(file).write_all(format!("{text}\n").as_bytes()).doing(step)
}

/// Says that the change is done, or was taken back.
///
/// # Errors
/// As unlink(2).
pub fn end(entry: &Entry) -> Result<()> {
    match unlinkat(entry, NAME, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::ENOENT) => Ok(()),
        removed => removed.doing(|| format!("remove {NAME} of {}", entry.id)),
    }
}

/// Takes back what was interrupted, if anything was, and warns of it. The caller has the lock.
///
/// # Errors
/// Where the file can be neither read nor removed.
pub fn take_back(jail: &Jail) -> Result<()> {
    let entry = &jail.entry;
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = match openat(entry, NAME, flags, Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(()),
        file => file.doing(|| format!("open {NAME} of {}", entry.id))?,
    };
    let mut text = String::new();
    let read = File::from(file).take(LONGEST as u64).read_to_string(&mut text);
    // A torn one was not acted upon yet.
    if read.is_ok() && text.ends_with('\n') {
        let done = match serde_json::from_str::<Vec<Old>>(&text) {
            Ok(old) => change::take_back(&old, &jail.objects()).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let id = &entry.id;
        match done {
            Ok(()) => log::warn(&format!("an update of {id} was interrupted: its limits are again what they were")),
            Err(why) => log::warn(&format!("an update of {id} was interrupted, and not all of it taken back: {why}")),
        }
    }
    end(entry)
}
