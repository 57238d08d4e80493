//! From the mounts of the specification to steps.

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use base::{Rank, Side};
use nix::libc;
use oci_spec::runtime::{LinuxNamespaceType, Mount};
use sys::mount::MountAttr;
use sys::{Error, Result};

use crate::bind::{Bind, Source};
use crate::filesystem::{Cover, FileSystem};
use crate::idmap::Users;
use crate::option::{Options, SourceLink};
use crate::plan::{Planner, clean, propagate, text};
use crate::step::Step;

/// A file below /proc that a mount may cover; containers are given their own view of these by LXCFS and others.
const COVERABLE: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// Words for a superblock that ask for what is no default.
const DEMANDS: &[&CStr] = &[c"sync", c"dirsync", c"lazytime"];

impl Planner<'_> {
    pub(crate) fn mount(&mut self, mount: &Mount, at: &str) -> Result<()> {
        let options = Options::parse(mount.options().as_deref().unwrap_or_default(), &format!("{at}/options"))?;
        let kind = mount.typ().as_deref().unwrap_or("none");
        let bind = options.bind.or((kind == "bind").then_some(false)).or((kind == "rbind").then_some(true));
        let target = clean(mount.destination());
        if options.remount {
            return self.remount(mount, target, &options, at);
        }
        if target == Path::new("/") {
            return Err(Error::invalid(format!("use {at}/destination: a mount on / would hide the root")));
        }
        let on_proc = self.check_proc(&target, kind, bind.is_some(), at)?;
        let target = text(&target, at)?;
        if options.copy_up && (bind.is_some() || kind != "tmpfs") {
            return Err(Error::invalid(format!("use {at}/options \"tmpcopyup\": only a tmpfs can have it")));
        }
        if let Some(recursive) = bind {
            return self.bind(mount, target, options, recursive, on_proc, at);
        }
        if let Some(word) = options.of_binds() {
            return Err(Error::invalid(format!("use {at}/options {word:?}: only a bind mount can have it")));
        }
        if maps(mount) {
            return Err(Error::invalid(format!("use {at}/uidMappings: only a bind mount can have it")));
        }
        match kind {
            "cgroup" | "cgroup2" => self.cgroups(target, &options, at),
            _ => self.file_system(mount, kind, target, options, at),
        }
    }

    /// `remount`: the attributes of a mount that is there. Those that are not named stay, and so does its file system,
    /// which others may show too.
    fn remount(&mut self, mount: &Mount, target: PathBuf, options: &Options, at: &str) -> Result<()> {
        let refuse = |what: &str, why: &str| Err(Error::invalid(format!("use {at}/{what}: {why}")));
        let word = options.data.first().map(|(key, _)| key).or(options.superblock.first());
        if let Some(word) = word {
            let why = "remount changes the mount alone; options of its file system belong where that is mounted";
            return refuse(&format!("options {word:?}"), why);
        }
        if let Some(word) = options.of_binds().or(options.copy_up.then_some("tmpcopyup")) {
            return refuse(&format!("options {word:?}"), "a mount that is there already cannot get it");
        }
        if maps(mount) {
            return refuse("uidMappings", "a mount that is there already cannot get it");
        }
        if target.starts_with("/proc") && target != Path::new("/proc") {
            return refuse("destination", "it is inside /proc");
        }
        let target = text(&target, at)?;
        let (mut attr, mut below) = (options.attr, options.attr_below);
        match options.propagation {
            Some((flag, true)) => below.propagation = flag,
            Some((flag, false)) => attr.propagation = flag,
            None => {}
        }
        if attr.set & libc::MOUNT_ATTR_RDONLY != 0 {
            // Others still make their mount points in it.
            attr.set &= !libc::MOUNT_ATTR_RDONLY;
            self.seals.push(target.clone());
        } else if attr.clear & libc::MOUNT_ATTR_RDONLY != 0 {
            self.seals.retain(|sealed| *sealed != target);
        }
        self.jail(Rank::Mount, Step::Remount { target, attr, below });
        Ok(())
    }

    /// The slot of the user name space that maps the owners of a mount, and whether of all below too.
    fn users(&mut self, mount: &Mount, options: &Options, at: &str) -> Result<Option<(usize, bool)>> {
        let recursive = match (options.idmap, maps(mount)) {
            (None, false) => return Ok(None),
            (asked, _) => asked.unwrap_or(false),
        };
        let users = if maps(mount) {
            Users::maps(mount.uid_mappings().as_ref(), mount.gid_mappings().as_ref())
        } else {
            self.jail_users().ok_or_else(|| {
                let way = "without uidMappings and gidMappings it takes a jail with a user name space";
                Error::invalid(format!("use {at}/options \"idmap\": {way}"))
            })?
        };
        if let Some((slot, _)) = self.users.iter().find(|(_, known)| *known == users) {
            return Ok(Some((*slot, recursive)));
        }
        let slot = self.next_slot();
        self.users.push((slot, users.clone()));
        self.steps.push((Rank::Source, Side::Host, Step::Users { slot, users }));
        Ok(Some((slot, recursive)))
    }

    /// The user name space of the jail: for a new one, which is not there yet, one with the same maps does as well.
    fn jail_users(&self) -> Option<Users> {
        let linux = self.request.spec.linux().as_ref()?;
        let mut spaces = linux.namespaces().iter().flatten();
        let users = spaces.find(|space| space.typ() == LinuxNamespaceType::User)?;
        Some(match users.path() {
            Some(path) => Users::Joined(path.clone()),
            None => Users::maps(linux.uid_mappings().as_ref(), linux.gid_mappings().as_ref()),
        })
    }

    /// Only procfs may be mounted on /proc, and below it only a few files may be covered (CVE-2019-19921 and its kin).
    /// The answer is whether the target is one of these.
    fn check_proc(&self, target: &Path, kind: &str, bind: bool, at: &str) -> Result<bool> {
        if !target.starts_with("/proc") {
            return Ok(false);
        }
        let fits = if target == Path::new("/proc") {
            kind == "proc" || bind
        } else {
            bind && COVERABLE.iter().any(|known| Path::new(known) == target)
        };
        match fits {
            true => Ok(true),
            false => Err(Error::invalid(format!("use {at}/destination {}: it is inside /proc", target.display()))),
        }
    }

    fn bind(
        &mut self,
        mount: &Mount,
        target: CString,
        options: Options,
        recursive: bool,
        on_proc: bool,
        at: &str,
    ) -> Result<()> {
        let Some(source) = mount.source() else {
            return Err(Error::invalid(format!("use {at}/source: a bind mount needs one")));
        };
        if let Some((key, _)) = options.data.first() {
            let key = key.to_string_lossy();
            return Err(Error::invalid(format!("use {at}/options {key:?}: no such option of a bind mount")));
        }
        if let Some(word) = options.superblock.iter().find(|word| DEMANDS.contains(&word.as_c_str())) {
            let why = "a bind mount shows the file system of the host as that is mounted";
            return Err(Error::invalid(format!("use {at}/options {word:?}: {why}")));
        }
        let path = text(self.request.bundle.join(source), at)?;
        let users = self.users(mount, &options, at)?;
        let mut attr = options.attr;
        let mut below = options.attr_below;
        let (flag, all) = options.propagation.unwrap_or((libc::MS_PRIVATE, true));
        propagate(flag, all, &mut attr, &mut below);
        let itself = options.source_link != SourceLink::Follow;
        let slot = self.source(Source { path, recursive, itself, attr, below, users, ..Source::default() });
        let copy_link = options.source_link == SourceLink::Copy;
        self.jail(Rank::Mount, Step::Bind(Bind { slot, target, on_proc, itself: options.target_itself, copy_link }));
        Ok(())
    }

    fn file_system(&mut self, mount: &Mount, kind: &str, target: CString, options: Options, at: &str) -> Result<()> {
        let mut attr = options.attr.set | options.attr_below.set;
        let mut words = Vec::new();
        if let Some(source) = mount.source() {
            words.push((c"source".to_owned(), Some(text(source, at)?)));
        }
        if attr & libc::MOUNT_ATTR_RDONLY != 0 {
            if kind == "tmpfs" {
                // Others still make their mount points in it.
                attr &= !libc::MOUNT_ATTR_RDONLY;
                self.seals.push(target.clone());
            } else if mount.source().as_ref().is_some_and(|source| source.is_absolute()) {
                // A file system on a device must not replay its journal: read-only has to reach the superblock.
                words.push((c"ro".to_owned(), None));
            }
        }
        words.extend(options.superblock.into_iter().map(|word| (word, None)));
        words.extend(options.data);
        self.label(kind, &mut words)?;
        let propagation = options.propagation.map_or(0, |(flag, _)| flag);
        let has = |key: &CStr| words.iter().any(|(word, _)| word.as_c_str() == key);
        let cover = Cover {
            mode: kind == "tmpfs" && !has(c"mode"),
            owner: options.copy_up && !has(c"uid") && !has(c"gid"),
            contents: options.copy_up,
        };
        let kind = text(kind, at)?;
        self.jail(Rank::Mount, Step::Mount(FileSystem { kind, target, options: words, attr, propagation, cover }));
        Ok(())
    }

    /// The label of SELinux for all files of a new file system. Those of the kernel itself have labels of their own.
    fn label(&self, kind: &str, words: &mut Vec<(CString, Option<CString>)>) -> Result<()> {
        const LABELS: [&CStr; 4] = [c"context", c"fscontext", c"defcontext", c"rootcontext"];
        let label = self.request.spec.linux().as_ref().and_then(|linux| linux.mount_label().as_deref());
        let has_its_own = words.iter().any(|(key, _)| LABELS.contains(&key.as_c_str()));
        if let Some(label) = label.filter(|label| !label.is_empty())
            && !matches!(kind, "proc" | "sysfs" | "cgroup" | "cgroup2")
            && !has_its_own
        {
            words.push((c"context".to_owned(), Some(text(label, "/linux/mountLabel")?)));
        }
        Ok(())
    }

    /// A mount of type `cgroup`: the whole of v2, or a tmpfs with each hierarchy of v1 in it.
    fn cgroups(&mut self, target: CString, options: &Options, at: &str) -> Result<()> {
        let attr = options.attr.set | options.attr_below.set;
        let single = matches!(self.request.hierarchies, [only] if only.name.is_empty());
        let word = options.data.first().map(|(key, _)| key).or(options.superblock.first());
        if let Some(word) = word {
            let why = "how the host has mounted its control groups is not changed for a jail";
            return Err(Error::invalid(format!("use {at}/options {word:?}: {why}")));
        }
        if !single {
            let words = [(c"source", c"tmpfs"), (c"mode", c"755")];
            let mut words = words.map(|(key, value)| (key.to_owned(), Some(value.to_owned()))).to_vec();
            self.label("tmpfs", &mut words)?;
            self.jail(
                Rank::Mount,
                Step::Mount(FileSystem {
                    kind: c"tmpfs".to_owned(),
                    target: target.clone(),
                    options: words,
                    attr: attr & !libc::MOUNT_ATTR_RDONLY,
                    ..FileSystem::default()
                }),
            );
            if attr & libc::MOUNT_ATTR_RDONLY != 0 {
                self.seals.push(target.clone());
            }
        }
        for hierarchy in self.request.hierarchies {
            let mut path = PathBuf::from(OsStr::from_bytes(target.to_bytes()));
            path.extend((!hierarchy.name.is_empty()).then_some(&hierarchy.name));
            let target = text(&path, "/mounts")?;
            if !self.request.cgroup_namespace {
                let attr = MountAttr { set: attr, propagation: libc::MS_PRIVATE, ..MountAttr::default() };
                let path = text(&hierarchy.host, "/mounts")?;
                let slot = self.source(Source { path, attr, ..Source::default() });
                self.jail(Rank::Mount, Step::Bind(Bind { slot, target, ..Bind::default() }));
                continue;
            }
            let mut words = vec![(c"source".to_owned(), Some(c"cgroup".to_owned()))];
            for option in &hierarchy.options {
                let (key, value) = option.split_once('=').map_or((option.as_str(), None), |(k, v)| (k, Some(v)));
                words.push((text(key, "/mounts")?, value.map(|value| text(value, "/mounts")).transpose()?));
            }
            let kind = text(hierarchy.kind, "/mounts")?;
            let new = FileSystem { kind, target, options: words, attr, ..FileSystem::default() };
            self.jail(Rank::Mount, Step::Mount(new));
            // Co-mounted controllers are looked for under each of their names.
            if hierarchy.name.contains(',') {
                for word in hierarchy.name.split(',') {
                    let link = text(path.with_file_name(word), "/mounts")?;
                    self.jail(Rank::Mount, Step::Link { path: link, to: text(&hierarchy.name, "/mounts")? });
                }
            }
        }
        Ok(())
    }
}

/// Whether a mount has maps of its own.
fn maps(mount: &Mount) -> bool {
    [mount.uid_mappings(), mount.gid_mappings()].into_iter().flatten().any(|list| !list.is_empty())
}
