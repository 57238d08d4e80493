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
    /// `Some(recursive)` for `idmap` and `ridmap`.
    pub idmap: Option<bool>,
    /// Whether it is no new mount, but changes the one that is there.
    pub remount: bool,
    /// Whether what is in the directory beneath is copied into the new tmpfs.
    pub copy_up: bool,
    /// What is done where the source is a link.
    pub source_link: SourceLink,
    /// Whether a link at the destination is covered itself, and not what it leads to.
    pub target_itself: bool,
    /// Options of the file system itself: key and, behind `=`, value.
    pub data: Vec<(CString, Option<CString>)>,
}

/// What a bind mount does where its source is a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceLink {
    /// What it leads to is bound.
    #[default]
    Follow,
    /// The link itself is bound.
    Bind,
    /// The link is made anew at the destination, and nothing is bound.
    Copy,
}

/// What makes a bind mount, and whether of all below too.
const BIND: &[(&str, bool)] = &[("bind", false), ("rbind", true)];

/// What maps the owners, and whether of all below too.
const IDMAP: &[(&str, bool)] = &[("idmap", false), ("ridmap", true)];

/// What changes the way in which a mount comes about.
const WAYS: &[&str] = &["remount", "tmpcopyup", "src-nofollow", "dest-nofollow", "copy-symlink"];

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
const PROPAGATION: &[(&str, u64)] = &[
    ("private", libc::MS_PRIVATE),
    ("shared", libc::MS_SHARED),
    ("slave", libc::MS_SLAVE),
    ("unbindable", libc::MS_UNBINDABLE),
];

/// Words that the kernel keeps in the superblock, whatever the file system.
const SUPERBLOCK: &[&str] = &["sync", "async", "dirsync", "lazytime", "nolazytime"];

/// Words that are accepted and mean nothing to today's kernels. fsconfig(2) refuses `silent`, which only kept messages of
/// the kernel away. Every file system that has access control lists has them without being told by `acl`; `noacl` is left
/// to those that know it.
const NOTHING: &[&str] = &["defaults", "acl", "mand", "nomand", "iversion", "noiversion", "loud", "silent"];

/// Every word that [`Options::parse`] knows by itself, sorted; any other is the file system's own.
pub fn words() -> Vec<String> {
    // These have a form with `r` before it, for all below.
    let mut words: Vec<String> =
        ATTRIBUTES.iter().flat_map(|(set, clear, _)| [*set, *clear]).map(str::to_owned).collect();
    words.extend(ATIME.iter().chain(PROPAGATION).map(|(word, _)| (*word).to_owned()));
    words.extend(words.iter().map(|word| format!("r{word}")).collect::<Vec<_>>());
    let alone = BIND.iter().chain(IDMAP).map(|(word, _)| word).chain(WAYS).chain(SUPERBLOCK).chain(NOTHING);
    words.extend(alone.map(|word| (*word).to_owned()));
    words.sort();
    words
}

/// How mount events travel, and whether for all below too, by the word for it.
pub(crate) fn propagation(word: &str) -> Option<(u64, bool)> {
    let find = |name: &str| PROPAGATION.iter().find(|(known, _)| *known == name).map(|(_, flag)| *flag);
    let below = || word.strip_prefix('r').and_then(find).map(|flag| (flag, true));
    find(word).map(|flag| (flag, false)).or_else(below)
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
        if options.source_link == SourceLink::Copy && options.target_itself {
            return Err(Error::invalid(format!("use option dest-nofollow of {at}: copy-symlink covers nothing")));
        }
        Ok(options)
    }

    /// The first word that only a bind mount can have.
    pub fn of_binds(&self) -> Option<&'static str> {
        match (self.idmap, self.source_link) {
            (Some(false), _) => Some("idmap"),
            (Some(true), _) => Some("ridmap"),
            (None, SourceLink::Bind) => Some("src-nofollow"),
            (None, SourceLink::Copy) => Some("copy-symlink"),
            (None, SourceLink::Follow) => self.target_itself.then_some("dest-nofollow"),
        }
    }

    fn word(&mut self, word: &str, at: &str) -> Result<()> {
        let below = word.strip_prefix('r');
        let recursive =
            |table: &[(&str, bool)]| table.iter().find(|(known, _)| *known == word).map(|(_, below)| *below);
        if let Some(below) = recursive(BIND) {
            self.bind = Some(below);
            return Ok(());
        }
        if let Some(below) = recursive(IDMAP) {
            self.idmap = Some(below);
            return Ok(());
        }
        match word {
            "remount" => self.remount = true,
            "tmpcopyup" => self.copy_up = true,
            "dest-nofollow" => self.target_itself = true,
            "src-nofollow" => self.link(SourceLink::Bind, at)?,
            "copy-symlink" => self.link(SourceLink::Copy, at)?,
            _ if IDMAP.iter().any(|(name, _)| word.split_once('=').is_some_and(|(key, _)| key == *name)) => {
                let way = "the maps of a mount are its uidMappings and gidMappings";
                return Err(Error::unsupported(format!("use option {word} of {at}: {way}")));
            }
            _ if NOTHING.contains(&word) => {}
            _ if attribute(word, &mut self.attr) => {}
            _ if below.is_some_and(|name| attribute(name, &mut self.attr_below)) => {}
            _ if SUPERBLOCK.contains(&word) => self.superblock.push(text(word, at)?),
            _ => {
                if let Some(found) = propagation(word) {
                    self.propagation = Some(found);
                } else {
                    let (key, value) = word.split_once('=').map_or((word, None), |(key, value)| (key, Some(value)));
                    let value = value.map(|value| text(value, at)).transpose()?;
                    self.data.push((text(key, at)?, value));
                }
            }
        }
        Ok(())
    }

    fn link(&mut self, what: SourceLink, at: &str) -> Result<()> {
        if !matches!(self.source_link, SourceLink::Follow) && self.source_link != what {
            return Err(Error::invalid(format!("use {at}: src-nofollow and copy-symlink exclude each other")));
        }
        self.source_link = what;
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
        for word in &words {
            assert_eq!(Options::parse(&[word], "/mounts/0").unwrap().data, [], "{word}");
        }
    }

    #[test]
    fn what_excludes_each_other_is_refused_by_name() {
        let refusal = |words: &[&str]| Options::parse(words, "/mounts/3").unwrap_err().to_string();
        let both = "cannot use /mounts/3: src-nofollow and copy-symlink exclude each other";
        assert_eq!(refusal(&["src-nofollow", "copy-symlink"]), both);
        assert_eq!(refusal(&["copy-symlink", "src-nofollow"]), both);
        let covers = "cannot use option dest-nofollow of /mounts/3: copy-symlink covers nothing";
        assert_eq!(refusal(&["copy-symlink", "dest-nofollow"]), covers);
    }

    #[test]
    fn maps_in_an_option_are_refused_with_the_way_out() {
        let refusal = Options::parse(&["idmap=uids=0-1-10"], "/mounts/3").unwrap_err().to_string();
        let way = "the maps of a mount are its uidMappings and gidMappings";
        assert_eq!(refusal, format!("cannot use option idmap=uids=0-1-10 of /mounts/3: {way}"));
    }
}
