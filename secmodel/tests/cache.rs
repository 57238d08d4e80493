//! The cache of compiled filters, in a directory of its own.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use secmodel::cache::{MOST, cached};
use secmodel::seccomp::compile;

struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("secmodel-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn entries(&self) -> Vec<PathBuf> {
        fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn open(path: &Path) -> File {
    File::open(path).unwrap()
}

#[test]
fn an_entry_is_made_once_and_is_what_compiling_gives() {
    let directory = Directory::new("once");
    let profile = secmodel::profile::default();
    let fresh = compile(&profile).unwrap();
    for _ in 0..3 {
        assert_eq!(cached(&profile, open(&directory.0).as_fd()).unwrap(), fresh);
        assert_eq!(directory.entries().len(), 1);
    }
    let meta = fs::metadata(&directory.entries()[0]).unwrap();
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    let mut other = profile;
    other.set_default_errno_ret(Some(1));
    assert_ne!(cached(&other, open(&directory.0).as_fd()).unwrap(), fresh);
    assert_eq!(directory.entries().len(), 2);
}

#[test]
fn the_oldest_entries_make_room_for_new_ones() {
    let directory = Directory::new("room");
    fs::write(directory.0.join("of-somebody-else"), "").unwrap();
    let mut profile = secmodel::profile::default();
    let mut first = None;
    for errno in 1..=MOST as u32 + 3 {
        profile.set_default_errno_ret(Some(errno));
        cached(&profile, open(&directory.0).as_fd()).unwrap();
        first.get_or_insert_with(|| directory.entries().into_iter().find(|path| path.extension().is_some()).unwrap());
    }
    assert_eq!(directory.entries().len(), MOST + 1);
    assert!(!first.unwrap().exists());
}

#[test]
fn a_damaged_entry_is_made_again() {
    let directory = Directory::new("damaged");
    let profile = secmodel::profile::default();
    let fresh = cached(&profile, open(&directory.0).as_fd()).unwrap();
    let entry = directory.entries().remove(0);
    let good = fs::read(&entry).unwrap();
    let damages: [&dyn Fn(); 7] = [
        &|| fs::write(&entry, &good[..good.len() - 8]).unwrap(),
        &|| fs::write(&entry, []).unwrap(),
        &|| fs::write(&entry, vec![0; 1 << 20]).unwrap(),
        &|| {
            let mut bad = good.clone();
            *bad.last_mut().unwrap() ^= 1;
            fs::write(&entry, bad).unwrap();
        },
        &|| fs::set_permissions(&entry, PermissionsExt::from_mode(0o622)).unwrap(),
        &|| {
            fs::remove_file(&entry).unwrap();
            symlink("/etc/passwd", &entry).unwrap();
        },
        &|| {
            fs::remove_file(&entry).unwrap();
            nix::unistd::mkfifo(&entry, nix::sys::stat::Mode::S_IRWXU).unwrap();
        },
    ];
    for damage in damages {
        damage();
        assert_eq!(cached(&profile, open(&directory.0).as_fd()).unwrap(), fresh);
        assert_eq!(fs::read(&entry).unwrap(), good);
        assert!(fs::symlink_metadata(&entry).unwrap().is_file());
    }
}

#[test]
fn a_directory_without_room_for_files_is_no_error() {
    let profile = secmodel::profile::default();
    assert_eq!(cached(&profile, open(Path::new("/proc")).as_fd()).unwrap(), compile(&profile).unwrap());
}
