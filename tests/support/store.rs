//! The store of a bundle: what is in it, and what `list` says of it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Bundle, walk};

/// The names of jails in a store; what starts with a dot is the store's own.
pub fn entries(store: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(store) else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
}

/// The status of each jail as `list` shows it; `list` must succeed, and change nothing.
///
/// # Panics
/// If it fails, changes the store, contradicts itself or gives no reason why a jail is broken.
#[track_caller]
pub fn listed(bundle: &Bundle) -> BTreeMap<String, String> {
    let before = contents(&bundle.root);
    let text = bundle.call(&["list", "--format", "json"]).ok();
    let table = bundle.list().ok();
    let names = bundle.call(&["list", "--quiet"]).ok();
    assert!(contents(&bundle.root) == before, "list has changed the store");
    let all: Vec<Value> = serde_json::from_str(&text).expect("a list");
    assert_eq!((table.lines().count(), names.lines().count()), (all.len() + 1, all.len()));
    let word = |jail: &Value, key: &str| jail[key].as_str().unwrap_or_default().to_string();
    for jail in all.iter().filter(|jail| jail["status"] == "broken") {
        let reason = word(jail, "reason");
        assert!(!reason.is_empty() && table.contains(&reason), "no reason: {jail} in {table}");
    }
    all.iter().map(|jail| (word(jail, "id"), word(jail, "status"))).collect()
}

/// Asserts that `list` shows the jail of this bundle with this status.
///
/// # Panics
/// If it shows another or none.
#[track_caller]
pub fn is_listed_as(bundle: &Bundle, status: &str) {
    assert_eq!(listed(bundle).get(&bundle.id).map(String::as_str), Some(status));
}

/// All that is in a store, each with what would tell of a change. Access times are no change.
fn contents(store: &Path) -> BTreeMap<PathBuf, (u32, i64, i64, u64, Vec<u8>)> {
    let of = |path: PathBuf| {
        let data = path.symlink_metadata().expect("what was just listed");
        let text = if data.is_file() { fs::read(&path).expect("a file that root may read") } else { Vec::new() };
        (path, (data.mode(), data.mtime(), data.mtime_nsec(), data.ino(), text))
    };
    walk(store).into_iter().map(of).collect()
}
