//! What a jail has made, written down before it was made.
//!
//! One record a line. A line is appended by one write(2), so that a kill leaves whole lines or a torn last one, which
//! was then not acted upon. An append costs a microsecond; there is no fsync, as the objects do not outlive the boot.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use base::Object;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};
use sys::{Doing, Error, Kind, Result};

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Record {
    /// Is about to be made.
    Object(Object),
    /// Process 1 is there, and may go on without the runtime; not all of the jail is made yet.
    Process(Process),
    /// The jail is created; its process 1.
    Created(Process),
}

/// A process that stays the same one when its number is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number on the host.
    pub pid: i32,
    /// When it started, in clock ticks after the boot, as in proc_pid_stat(5).
    pub start: u64,
}

/// The file's name in the folder of a jail.
pub const NAME: &str = "journal";

/// The open journal of a jail that is being made.
#[derive(Debug)]
pub struct Journal(File);

impl Journal {
    /// Opens the journal in `folder`, making it where it is not there.
    ///
    /// # Errors
    /// As open(2).
    pub fn open(folder: impl AsFd) -> Result<Self> {
        let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(folder, NAME, flags, Mode::from_bits_truncate(0o600)).doing(|| "open the journal")?;
        Ok(Self(File::from(fd)))
    }

    /// Appends a record.
    ///
    /// # Errors
    /// As write(2); what the record announces must not be made then.
    pub fn append(&mut self, record: &Record) -> Result<()> {
        let line = serde_json::to_string(record)
            .map_err(|error| Error::new(Kind::Kernel, format!("write the journal: {error}")))?;
        self.0.write_all(format!("{line}\n").as_bytes()).doing(|| "write the journal")
    }
}

/// Reads the records in `folder`: those that can be read, and what is wrong with the others.
///
/// # Errors
/// As open(2) and read(2); a journal that is not there is empty.
pub fn read(folder: impl AsFd) -> Result<(Vec<Record>, Option<String>)> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let fd: OwnedFd = match openat(folder, NAME, flags, Mode::empty()) {
        Err(nix::errno::Errno::ENOENT) => return Ok((Vec::new(), None)),
        other => other.doing(|| "open the journal")?,
    };
    let mut bytes = Vec::new();
    File::from(fd).take(1 << 20).read_to_end(&mut bytes).doing(|| "read the journal")?;
    Ok(parse(&bytes))
}

fn parse(bytes: &[u8]) -> (Vec<Record>, Option<String>) {
    let (mut records, mut wrong) = (Vec::new(), None);
    let mut lines = bytes.split(|byte| *byte == b'\n').enumerate().peekable();
    while let Some((index, line)) = lines.next() {
        // What stands behind the last newline was torn by a kill before it was acted upon.
        if lines.peek().is_none() {
            break;
        }
        match serde_json::from_slice(line) {
            Ok(record) => records.push(record),
            Err(error) => wrong = wrong.or(Some(format!("line {} of its journal is damaged: {error}", index + 1))),
        }
    }
    (records, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_last_line_is_not_there() {
        let made = r#"{"object":{"kind":"cgroup","name":"/a","unique":"x"}}"#;
        let (records, wrong) = parse(format!("{made}\n{{\"object\":{{\"ki").as_bytes());
        assert_eq!(records.len(), 1);
        assert_eq!(wrong, None);
    }

    #[test]
    fn a_damaged_line_hides_no_other() {
        let made = r#"{"created":{"pid":1,"start":2}}"#;
        let (records, wrong) = parse(format!("garbage\n{made}\n").as_bytes());
        assert_eq!(records, [Record::Created(Process { pid: 1, start: 2 })]);
        assert!(wrong.unwrap().starts_with("line 1 of its journal is damaged"));
    }
}
