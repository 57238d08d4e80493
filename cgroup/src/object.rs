//! The directories that jails have made: how they are told from others, found, and removed.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use base::Object;
use nix::errno::Errno;
use sys::{Doing, Error, Kind, Result};

use crate::layout::{self, Layout};
use crate::process;

/// The kind of every object of this crate. Its name is the directory's absolute path, its `unique` the mark on it.
pub const KIND: &str = "cgroup";

/// The extended attribute with the mark. `trusted.*` works on v1 and v2 of every kernel, and nobody without
/// `CAP_SYS_ADMIN` on the host, so no jail, can forge or even see it. One who is not root of the host cannot either, and
/// takes `user.*` (since Linux 5.7): whoever may write to the directory can change that, which makes it a stranger's.
fn attribute() -> &'static std::ffi::CStr {
    if sys::user::is_host_root() { c"trusted.jail" } else { c"user.jail" }
}

/// What a mark begins with on a directory that is only above jails: any jail may remove it when it is empty.
const PARENT: &str = "parent:";

/// How deep [`find`] looks below a mount point.
const DEPTH: usize = 6;

/// What is written on a directory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// There is no such directory.
    Missing,
    /// Nothing.
    None,
    /// It is above jails, made by the jail with the mark inside.
    Parent(String),
    /// It is a jail's.
    Jail(String),
}

impl Mark {
    /// Reads the mark on `dir`.
    pub(crate) fn of(dir: &Path) -> nix::Result<Self> {
        let bytes = match sys::file::get_xattr(dir, attribute()) {
            Err(Errno::ENOENT) => return Ok(Self::Missing),
            bytes => bytes?,
        };
        Ok(match bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()) {
            None => Self::None,
            Some(text) => match text.strip_prefix(PARENT) {
                Some(mark) => Self::Parent(mark.to_owned()),
                None => Self::Jail(text),
            },
        })
    }
}

/// What is put on a directory above the jail with `mark`.
pub(crate) fn parent_mark(mark: &str) -> String {
    format!("{PARENT}{mark}")
}

pub(crate) fn set_mark(dir: &Path, mark: &str) -> nix::Result<()> {
    sys::file::set_xattr(dir, attribute(), mark.as_bytes())
}

/// Whether two marks are of the same jail: only the nonce after the last '-' may differ.
pub(crate) fn same_jail(one: &str, other: &str) -> bool {
    let jail = |mark| str::rsplit_once(mark, '-').map_or(mark, |(jail, _)| jail);
    jail(one) == jail(other)
}

/// Whether `object` is a directory that processes of the jail are in, not one above it.
pub fn is_leaf(object: &Object) -> bool {
    object.kind == KIND && !object.unique.starts_with(PARENT)
}

/// Whether `object` is a directory of a jail that carries the object's mark: whatever is inside belongs to that jail.
pub(crate) fn is_ours(object: &Object) -> bool {
    is_leaf(object) && matches!(Mark::of(Path::new(&object.name)), Ok(Mark::Jail(mark)) if mark == object.unique)
}

/// Removes the directory of `object`, its processes killed and the directories below it removed first; a parent only
/// where it is empty. Objects are undone newest first: of v1, `freezer` comes first then, so that nothing stays frozen.
///
/// What does not carry the object's mark is somebody else's, and stays: nothing in it is killed. Only an empty directory
/// without any mark goes, since a crash between its making and its marking leaves such a one.
///
/// # Errors
/// `Kernel` with the holders, where it is still busy at `deadline`.
pub fn undo(object: &Object, deadline: Instant) -> Result<()> {
    let dir = Path::new(&object.name);
    match Mark::of(dir).doing(|| format!("read the mark of {object}"))? {
        Mark::Missing => Ok(()),
        Mark::Jail(mark) if mark == object.unique => {
            remove(dir, deadline)?;
            remove_parents(dir);
            Ok(())
        }
        Mark::Jail(_) => Ok(()),
        // A parent that another jail has marked: whichever is the last to go takes it away.
        Mark::Parent(_) if is_leaf(object) => Ok(()),
        // A damaged journal can name any directory.
        _ if !layout::is_cgroup(dir)? => Ok(()),
        Mark::Parent(_) | Mark::None => match rmdir(dir) {
            Ok(()) | Err(Errno::EBUSY | Errno::ENOTEMPTY | Errno::ENOENT) => Ok(()),
            gone => gone.doing(|| format!("remove {object}")),
        },
    }
}

/// The processes that hold `object`, as `123 (sleep)`.
pub fn holders(object: &Object) -> Vec<String> {
    if is_leaf(object) { process::holders_of(Path::new(&object.name)) } else { Vec::new() }
}

/// The cgroups of the jail whose mark starts with `id_hash`, without any journal, each after the parents that jails have
/// made for it. It looks at most six levels deep.
pub fn find(layout: &Layout, id_hash: &str) -> Vec<Object> {
    let mut found = Vec::new();
    for hierarchy in layout.hierarchies() {
        look(&hierarchy.mount, id_hash, DEPTH, &mut Vec::new(), &mut found);
    }
    found
}

/// Looks for marks below `dir`; `parents` are the marked directories on the way to it.
fn look(dir: &Path, id_hash: &str, depth: usize, parents: &mut Vec<Object>, found: &mut Vec<Object>) {
    for path in process::below(dir) {
        let object = |unique| Object { kind: KIND.to_owned(), name: path.to_string_lossy().into_owned(), unique };
        let mark = Mark::of(&path).unwrap_or(Mark::None);
        let depth = depth - 1;
        match mark {
            Mark::Jail(mark) if mark.starts_with(id_hash) => {
                found.extend(parents.iter().filter(|parent| !found.contains(parent)).cloned().collect::<Vec<_>>());
                found.push(object(mark));
            }
            // A parent is reported for itself where it is this jail's, since the leaf can be gone already.
            Mark::Parent(mark) => {
                let parent = object(parent_mark(&mark));
                if mark.starts_with(id_hash) && !found.contains(&parent) {
                    found.push(parent.clone());
                }
                parents.push(parent);
                if depth > 0 {
                    look(&path, id_hash, depth, parents, found);
                }
                parents.pop();
            }
            _ if depth > 0 => look(&path, id_hash, depth, parents, found),
            _ => {}
        }
    }
}

fn rmdir(dir: &Path) -> nix::Result<()> {
    fs::remove_dir(dir).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))
}

/// Removes the empty parents of jails above `dir`. They are objects of the jail that made them; but a jail that came in
/// the moment between their making and their marking took them for somebody else's, and can be the last to go.
fn remove_parents(dir: &Path) {
    for above in dir.ancestors().skip(1) {
        if !matches!(Mark::of(above), Ok(Mark::Parent(_))) || rmdir(above).is_err() {
            break;
        }
    }
}

/// Removes a directory of ours, whatever is in it.
fn remove(dir: &Path, deadline: Instant) -> Result<()> {
    let step = || format!("remove cgroup {}", dir.display());
    // The usual case: everything has ended, and nobody has made a directory below.
    match rmdir(dir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EBUSY | Errno::ENOTEMPTY) => {}
        refused => return refused.doing(step),
    }
    let mut pause = Duration::from_millis(1);
    loop {
        process::kill_tree(dir, deadline)?;
        let mut dirs = process::tree(dir);
        dirs.reverse();
        let busy = dirs.iter().map(|dir| rmdir(dir)).find(|done| !matches!(done, Ok(()) | Err(Errno::ENOENT)));
        match busy {
            None => return Ok(()),
            Some(Err(Errno::EBUSY | Errno::ENOTEMPTY)) if Instant::now() < deadline => {}
            Some(Err(Errno::EBUSY | Errno::ENOTEMPTY)) => {
                let who = process::holders_of(dir);
                let who = if who.is_empty() { "the kernel".to_owned() } else { who.join(", ") };
                return Err(Error::new(Kind::Kernel, format!("{}: it is still held by {who}", step())));
            }
            Some(refused) => return refused.doing(step),
        }
        // A process is seen to have ended a moment before its cgroup is told, and of that moment there is no event.
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
