//! A folder with all that is below it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The path of everything below a folder; no link is followed, and a folder that is not there has nothing below it.
pub fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        found.push(entry.path());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(walk(&entry.path()));
        }
    }
    found
}

/// Everything of a tree that a jail could change: names, kinds, modes, owners, contents.
///
/// # Panics
/// If something of it cannot be read.
pub fn tree(folder: &Path) -> Vec<String> {
    let line = |path: &PathBuf| {
        let data = path.symlink_metadata().expect("what was just listed");
        let text = if data.is_file() { fs::read(path).expect("a file that root may read") } else { Vec::new() };
        let line = (path, data.mode(), data.uid(), data.gid(), data.rdev(), String::from_utf8_lossy(&text).len());
        format!("{line:?} {}", String::from_utf8_lossy(&text[..text.len().min(64)]))
    };
    let mut found: Vec<String> = walk(folder).iter().map(line).collect();
    found.sort();
    found
}
