//! Where the controllers of a jail that lives are, and what their files say.

use std::fs;
use std::path::{Path, PathBuf};

use base::Object;
use nix::errno::Errno;
use sys::{Doing, Result};

use crate::layout::{Hierarchy, Layout};
use crate::object;

/// The directories of a jail.
pub(crate) struct Seats<'a> {
    /// Those that its journal names; may hold others.
    pub(crate) objects: &'a [Object],
    pub(crate) layout: &'a Layout,
}

/// The directory of a jail for one controller.
pub(crate) struct Seat<'a> {
    pub(crate) dir: PathBuf,
    pub(crate) hierarchy: &'a Hierarchy,
    pub(crate) is_v1: bool,
}

impl Seats<'_> {
    /// The jail's directory in the hierarchy that has `controller`; one without the jail's mark is not the jail's.
    pub(crate) fn of(&self, controller: &str) -> Option<Seat<'_>> {
        let (hierarchy, is_v1) = self.layout.home(controller)?;
        let here = |object: &&Object| Path::new(&object.name).starts_with(&hierarchy.mount) && object::is_ours(object);
        let dir = PathBuf::from(&self.objects.iter().find(here)?.name);
        Some(Seat { dir, hierarchy, is_v1 })
    }
}

impl Seat<'_> {
    /// The text of a file; empty where it is not there: another kernel, or a controller that is not enabled yet. So is
    /// one that cannot be asked now, such as those of a directory that is just removed.
    pub(crate) fn text(&self, file: &str) -> Result<String> {
        let path = self.dir.join(file);
        match fs::read_to_string(&path) {
            Err(error) if matches!(error.raw_os_error().map(Errno::from_raw), Some(ABSENT)) => Ok(String::new()),
            Err(error) if matches!(error.raw_os_error().map(Errno::from_raw), Some(MUTE)) => Ok(String::new()),
            text => text.doing(|| format!("read {}", path.display())),
        }
    }

    /// The text of the file that this version has.
    pub(crate) fn either(&self, v1: &str, v2: &str) -> Result<String> {
        self.text(if self.is_v1 { v1 } else { v2 })
    }

    /// The number at the beginning of a file, -1 for no limit.
    pub(crate) fn number(&self, v1: &str, v2: &str) -> Result<Option<i64>> {
        Ok(self.either(v1, v2)?.split_whitespace().next().and_then(number))
    }

    /// The number at the end of a file.
    pub(crate) fn last(&self, v1: &str, v2: &str) -> Result<Option<u64>> {
        Ok(self.either(v1, v2)?.split_whitespace().last().and_then(|word| word.parse().ok()))
    }
}

const ABSENT: Errno = Errno::ENOENT;
/// What files of a directory that was removed answer, and some of a kernel that was built without what they count.
const MUTE: Errno = Errno::ENODEV;

/// A number as the kernel writes it: v2 says `max` where there is no limit, v1 the largest number of whole pages.
fn number(word: &str) -> Option<i64> {
    const LARGEST_PAGE: i64 = 64 << 10;
    match word.parse::<i64>() {
        Ok(n) if n > i64::MAX - LARGEST_PAGE => Some(-1),
        Ok(n) => Some(n),
        Err(_) => (word == "max").then_some(-1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_have_a_word_for_no_limit() {
        for (word, expected) in
            [("max", Some(-1)), ("-1", Some(-1)), ("9223372036854771712", Some(-1)), ("4096", Some(4096)), ("x", None)]
        {
            assert_eq!(number(word), expected, "{word}");
        }
    }
}
