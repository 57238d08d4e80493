//! The words of mount(8) and of the OCI specification for the options of a mount.

use std::ffi::CString;

use nix::libc;
use sys::mount::MountAttr;
use sys::{Error, Result};

/// What the options of one mount ask for, all together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `Some(recursive)` for `bind` and `rbind`.
    pub bind: Option<bool>,
    /// Attributes of the mount itself.
    pub attr: MountAttr,
    /// Attributes of the mount and of all below it (`rro` and its family).
    pub attr_below: MountAttr,
    /// Propagation, and whether it holds for all below.
    pub propagation: Option<(u64, bool)>,
    /// Words for the superblock that every file system knows, such as `sync`.
    pub superblock: Vec<CString>,
    /// Options of the file system itself: key and, behind `=`, value.
    pub data: Vec<(CString, Option<CString>)>,
}

/// What makes a bind mount, and whether of all below too.
const BIND: &[(&str, bool)] = &[("bind", false), ("rbind", true)];

/// The attributes that mount_setattr(2) has, with the word that sets and the word that clears each.
const ATTRIBUTES: &[(&str, &str, u64)] = &[
    ("ro", "rw", libc::MOUNT_ATTR_RDONLY),
    ("nosuid", "suid", libc::MOUNT_ATTR_NOSUID),
    ("nodev", "dev", libc::MOUNT_ATTR_NODEV),
    ("noexec", "exec", libc::MOUNT_ATTR_NOEXEC),
    ("nodiratime", "diratime", libc::MOUNT_ATTR_NODIRATIME),
    ("nosymfollow", "symfollow", libc::MOUNT_ATTR_NOSYMFOLLOW),
];

/// The ways to keep access times: one field of several values, so that setting one clears the others.
const ATIME: &[(&str, u64)] = &[
    ("relatime", libc::MOUNT_ATTR_RELATIME),
    ("noatime", libc::MOUNT_ATTR_NOATIME),
    ("strictatime", libc::MOUNT_ATTR_STRICTATIME),
    // The opposites fall back to the kernel's default.
    ("norelatime", libc::MOUNT_ATTR_RELATIME),
    ("atime", libc::MOUNT_ATTR_RELATIME),
    ("nostrictatime", libc::MOUNT_ATTR_RELATIME),
];

/// How mount events travel, as mount_namespaces(7) names it.
pub(crate) const PROPAGATION: &[(&str, u64)] = &[
    ("private", libc::MS_PRIVATE),
    ("shared", libc::MS_SHARED),
    ("slave", libc::MS_SLAVE),
    ("unbindable", libc::MS_UNBINDABLE),
];

/// Words that the kernel keeps in the superblock, whatever the file system.
const SUPERBLOCK: &[&str] = &["sync", "async", "dirsync", "lazytime", "nolazytime"];

/// Words that are accepted and mean nothing to today's kernels. fsconfig(2) refuses `silent`, which only kept messages of
/// the kernel away.
const NOTHING: &[&str] = &["defaults", "mand", "nomand", "iversion", "noiversion", "loud", "silent"];

/// Every word that [`Options::parse`] knows by itself, sorted; any other is the file system's own.
pub fn words() -> Vec<String> {
    // These have a form with `r` before it, for all below.
    let mut words: Vec<String> =
        ATTRIBUTES.iter().flat_map(|(set, clear, _)| [*set, *clear]).map(str::to_owned).collect();
    words.extend(ATIME.iter().chain(PROPAGATION).map(|(word, _)| (*word).to_owned()));
    words.extend(words.iter().map(|word| format!("r{word}")).collect::<Vec<_>>());
    let alone = BIND.iter().map(|(word, _)| word).chain(SUPERBLOCK).chain(NOTHING);
    words.extend(alone.map(|word| (*word).to_owned()));
    words.sort();
    words
}

fn attribute(word: &str, attr: &mut MountAttr) -> bool {
    for (set, clear, bit) in ATTRIBUTES {
        if word == *set {
            (attr.set, attr.clear) = (attr.set | bit, attr.clear & !bit);
            return true;
        }
        if word == *clear {
            (attr.set, attr.clear) = (attr.set & !bit, attr.clear | bit);
            return true;
        }
    }
    for (name, bits) in ATIME {
        if word == *name {
            attr.set = attr.set & !libc::MOUNT_ATTR__ATIME | bits;
            attr.clear |= libc::MOUNT_ATTR__ATIME;
            return true;
        }
    }
    false
}

impl Options {
    /// Reads the options of the mount that `at` (a JSON pointer) names.
    ///
    /// # Errors
    /// `Unsupported` for a word of the specification that is not carried out, `Invalid` for one with NUL in it.
    pub fn parse<S: AsRef<str>>(words: &[S], at: &str) -> Result<Self> {
        let mut options = Self::default();
        for word in words.iter().map(AsRef::as_ref) {
            options.word(word, at)?;
        }
        Ok(options)
    }

    fn word(&mut self, word: &str, at: &str) -> Result<()> {
        let below = word.strip_prefix('r');
        let propagation = |name: &str| PROPAGATION.iter().find(|(known, _)| *known == name).map(|(_, flag)| *flag);
        if let Some((_, recursive)) = BIND.iter().find(|(known, _)| *known == word) {
            self.bind = Some(*recursive);
            return Ok(());
        }
        match word {
            "remount" | "tmpcopyup" | "idmap" | "ridmap" => {
                return Err(Error::unsupported(format!("use option {word} of {at}: it is not carried out yet")));
            }
            _ if NOTHING.contains(&word) => {}
            _ if attribute(word, &mut self.attr) => {}
            _ if below.is_some_and(|name| attribute(name, &mut self.attr_below)) => {}
            _ if SUPERBLOCK.contains(&word) => self.superblock.push(text(word, at)?),
            _ => {
                if let Some(flag) = propagation(word) {
                    self.propagation = Some((flag, false));
                } else if let Some(flag) = below.and_then(propagation) {
                    self.propagation = Some((flag, true));
                } else {
                    let (key, value) = word.split_once('=').map_or((word, None), |(key, value)| (key, Some(value)));
                    let value = value.map(|value| text(value, at)).transpose()?;
                    self.data.push((text(key, at)?, value));
                }
            }
        }
        Ok(())
    }
}

fn text(word: &str, at: &str) -> Result<CString> {
    CString::new(word).map_err(|_| Error::invalid(format!("use {at}: it contains NUL")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_two_opposite_words_wins() {
        let options = Options::parse(&["ro", "nosuid", "rw"], "/mounts/0").unwrap();
        assert_eq!(options.attr.set, libc::MOUNT_ATTR_NOSUID);
        assert_eq!(options.attr.clear, libc::MOUNT_ATTR_RDONLY);
    }

    #[test]
    fn r_before_a_word_means_all_below() {
        let options = Options::parse(&["rbind", "rro", "rslave"], "/mounts/0").unwrap();
        assert_eq!(options.bind, Some(true));
        assert_eq!(options.attr, MountAttr::default());
        assert_eq!(options.attr_below.set, libc::MOUNT_ATTR_RDONLY);
        assert_eq!(options.propagation, Some((libc::MS_SLAVE, true)));
    }

    #[test]
    fn what_is_no_word_of_mount_8_goes_to_the_file_system() {
        let options = Options::parse(&["mode=755", "newinstance"], "/mounts/0").unwrap();
        let data: Vec<_> = options.data.iter().map(|(k, v)| (k.to_str().unwrap(), v.is_some())).collect();
        assert_eq!(data, [("mode", true), ("newinstance", false)]);
    }

    #[test]
    fn no_word_of_ours_goes_to_the_file_system() {
        let words = words();
        assert!(words.is_sorted_by(|one, next| one < next), "one is there twice: {words:?}");
        let options = Options::parse(&words, "/mounts/0").unwrap();
        assert_eq!(options.data, []);
    }

    #[test]
    fn a_word_that_is_not_carried_out_is_refused_by_name() {
        let refusal = Options::parse(&["tmpcopyup"], "/mounts/3").unwrap_err().to_string();
        assert_eq!(refusal, "cannot use option tmpcopyup of /mounts/3: it is not carried out yet");
    }
}
