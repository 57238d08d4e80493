//! The mounts of a jail, as it sees them itself.

use crate::Bundle;

/// One line of mountinfo.
#[derive(Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Its place.
    pub target: String,
    /// Of the mount, sorted.
    pub options: Vec<String>,
    /// `shared:`, `master:` and their kin.
    pub propagation: Vec<String>,
    /// Of which kind the file system is.
    pub kind: String,
    /// Of the file system.
    pub superblock: String,
}

/// Every mount as the jail sees it.
///
/// # Panics
/// If the jail does not run, or what it shows is no mountinfo.
#[track_caller]
pub fn mounted(bundle: &mut Bundle) -> Vec<Mounted> {
    let text = bundle.args(&["cat", "/proc/self/mountinfo"]).run().ok();
    let line = |line: &str| {
        let (left, right) = line.split_once(" - ").expect("a line of mountinfo");
        let (left, right): (Vec<&str>, Vec<&str>) = (left.split(' ').collect(), right.split(' ').collect());
        let mut options: Vec<String> = left[5].split(',').map(str::to_string).collect();
        options.sort();
        Mounted {
            target: left[4].to_string(),
            options,
            propagation: left[6..].iter().map(ToString::to_string).collect(),
            kind: right[0].to_string(),
            superblock: right[2].to_string(),
        }
    };
    text.lines().map(line).collect()
}

/// What is mounted at a place, the latest of several.
///
/// # Panics
/// If nothing is.
#[track_caller]
pub fn at<'a>(mounts: &'a [Mounted], target: &str) -> &'a Mounted {
    let found = mounts.iter().rev().find(|mount| mount.target == target);
    found.unwrap_or_else(|| panic!("nothing at {target} in {mounts:?}"))
}
