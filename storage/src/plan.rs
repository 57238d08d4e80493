//! From the specification's root and mounts to steps. Nothing here touches the machine.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use base::{Rank, Side};
use nix::libc;
use nix::sys::stat::SFlag;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Mount, Spec};
use sys::mount::MountAttr;
use sys::{Error, Result};

use crate::option::{Options, PROPAGATION};
use crate::step::{Device, FileSystem, Step, node_attr};

/// One hierarchy of cgroups as a mount of type `cgroup` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its directory below /sys/fs/cgroup; empty where it is that directory itself (pure v2).
    pub name: String,
    /// `cgroup` or `cgroup2`.
    pub kind: &'static str,
    /// Its mount options, such as `cpu` and `cpuacct`.
    pub options: Vec<String>,
    /// The jail's own directory on the host: what is bound where the jail has no cgroup name space of its own.
    pub host: PathBuf,
}

/// What the plan of the mounts is made from.
#[derive(Debug)]
pub struct Request<'a> {
    /// The specification.
    pub spec: &'a Spec,
    /// Relative sources are below it.
    pub bundle: &'a Path,
    /// The hierarchies that a mount of type `cgroup` brings.
    pub hierarchies: &'a [Hierarchy],
    /// Whether the jail has a cgroup name space of its own.
    pub cgroup_namespace: bool,
    /// Whether the jail has a user name space of its own: it cannot make device nodes then.
    pub user_namespace: bool,
    /// An empty directory of the host; given where the root is to be a clone of the host's root.
    pub clone: Option<CString>,
    /// The first slot that is free.
    pub slot: usize,
}

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

/// The devices that the specification promises. Source: OCI config-linux, Default Devices.
const DEVICES: &[(&str, u64, u64)] = &[
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// The links that every Linux program expects in /dev.
const LINKS: &[(&str, &str)] = &[
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
];

type Steps = Vec<(Rank, Side, Step)>;

/// The steps that give a jail its root and its mounts.
///
/// # Errors
/// `Invalid` or `Unsupported` with the JSON pointer of what is refused.
pub fn plan(request: &Request<'_>) -> Result<Steps> {
    let mut planner = Planner { request, steps: Vec::new(), slot: request.slot, seals: Vec::new() };
    planner.root()?;
    for (index, mount) in request.spec.mounts().iter().flatten().enumerate() {
        planner.mount(mount, &format!("/mounts/{index}"))?;
    }
    planner.devices()?;
    planner.masks()?;
    Ok(planner.steps)
}

struct Planner<'a> {
    request: &'a Request<'a>,
    steps: Steps,
    slot: usize,
    /// Mounts that turn read-only once all that is below them is made.
    seals: Vec<CString>,
}

fn text(text: impl AsRef<OsStr>, at: &str) -> Result<CString> {
    CString::new(text.as_ref().as_bytes()).map_err(|_| Error::invalid(format!("use {at}: it contains NUL")))
}

/// `path` with `.` and `..` taken out as the jail's root directory would.
fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => {
                cleaned.pop();
            }
            _ => {}
        }
    }
    cleaned
}

impl Planner<'_> {
    fn jail(&mut self, rank: Rank, step: Step) {
        self.steps.push((rank, Side::Jail, step));
    }

    fn source(&mut self, source: CString, recursive: bool, attr: MountAttr, below: MountAttr) -> usize {
        let slot = self.slot;
        self.slot += 1;
        let step = Step::Source { slot, source, recursive, attr, below, directory: false };
        self.steps.push((Rank::Source, Side::Host, step));
        slot
    }

    fn root(&mut self) -> Result<()> {
        self.jail(Rank::Root, Step::Private);
        let Some(root) = self.request.spec.root() else {
            return Err(Error::invalid("use /root: it is missing"));
        };
        let path = text(self.request.bundle.join(root.path()), "/root/path")?;
        match &self.request.clone {
            Some(scratch) => {
                let name = self.request.spec.hostname().clone().unwrap_or_default();
                self.jail(Rank::Root, Step::Clone { tree: path, scratch: scratch.clone(), name });
            }
            None => {
                // Private: what is mounted below must not travel to the host, whatever the root is to be in the end.
                let below = MountAttr { propagation: libc::MS_PRIVATE, ..MountAttr::default() };
                let (slot, attr) = (self.slot, MountAttr::default());
                self.slot += 1;
                let root = Step::Source { slot, source: path, recursive: true, attr, below, directory: true };
                self.steps.push((Rank::Source, Side::Host, root));
                self.jail(Rank::Root, Step::Root { slot });
            }
        }
        if root.readonly().unwrap_or(false) {
            self.jail(Rank::Mask, Step::SealRoot);
        }
        self.propagation()?;
        self.jail(Rank::Pivot, Step::Pivot);
        Ok(())
    }

    fn propagation(&mut self) -> Result<()> {
        let wanted = self.request.spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref());
        let Some(word) = wanted.filter(|word| !word.is_empty()) else { return Ok(()) };
        let find = |name: &str| PROPAGATION.iter().find(|(known, _)| *known == name).map(|(_, flag)| *flag);
        let (flag, recursive) = match (find(word), word.strip_prefix('r').and_then(find)) {
            (Some(flag), _) => (flag, false),
            (None, Some(flag)) => (flag, true),
            (None, None) => {
                return Err(Error::invalid(format!(
                    "use /linux/rootfsPropagation {word:?}: shared, slave, private and unbindable are known"
                )));
            }
        };
        self.jail(Rank::Setting, Step::Propagation { flag, recursive });
        Ok(())
    }

    fn mount(&mut self, mount: &Mount, at: &str) -> Result<()> {
        if mount.uid_mappings().as_ref().is_some_and(|list| !list.is_empty())
            || mount.gid_mappings().as_ref().is_some_and(|list| !list.is_empty())
        {
            return Err(Error::unsupported(format!("use {at}/uidMappings: idmapped mounts are not carried out yet")));
        }
        let options = Options::parse(mount.options().as_deref().unwrap_or_default(), &format!("{at}/options"))?;
        let kind = mount.typ().as_deref().unwrap_or("none");
        let bind = options.bind.or((kind == "bind").then_some(false)).or((kind == "rbind").then_some(true));
        let target = clean(mount.destination());
        if target == Path::new("/") {
            return Err(Error::invalid(format!("use {at}/destination: a mount on / would hide the root")));
        }
        let on_proc = self.check_proc(&target, kind, bind.is_some(), at)?;
        let target = text(&target, at)?;
        match (bind, kind) {
            (Some(recursive), _) => self.bind(mount, target, options, recursive, on_proc, at),
            (None, "cgroup" | "cgroup2") => self.cgroups(target, &options),
            (None, _) => self.file_system(mount, kind, target, options, at),
        }
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
        let source = text(self.request.bundle.join(source), at)?;
        let mut attr = options.attr;
        let mut below = options.attr_below;
        match options.propagation {
            Some((flag, true)) => below.propagation = flag,
            Some((flag, false)) => {
                below.propagation = libc::MS_PRIVATE;
                attr.propagation = flag;
            }
            None => below.propagation = libc::MS_PRIVATE,
        }
        let slot = self.source(source, recursive, attr, below);
        self.jail(Rank::Mount, Step::Bind { slot, target, on_proc });
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
        let propagation = options.propagation.map_or(0, |(flag, _)| flag);
        let kind = text(kind, at)?;
        self.jail(Rank::Mount, Step::Mount(FileSystem { kind, target, options: words, attr, propagation }));
        Ok(())
    }

    /// A mount of type `cgroup`: the whole of v2, or a tmpfs with each hierarchy of v1 in it.
    fn cgroups(&mut self, target: CString, options: &Options) -> Result<()> {
        let attr = options.attr.set;
        let single = matches!(self.request.hierarchies, [only] if only.name.is_empty());
        if !single {
            let words = [(c"source", c"tmpfs"), (c"mode", c"755")];
            self.jail(
                Rank::Mount,
                Step::Mount(FileSystem {
                    kind: c"tmpfs".to_owned(),
                    target: target.clone(),
                    options: words.map(|(key, value)| (key.to_owned(), Some(value.to_owned()))).to_vec(),
                    attr: attr & !libc::MOUNT_ATTR_RDONLY,
                    propagation: 0,
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
                let below = MountAttr { set: attr, propagation: libc::MS_PRIVATE, ..MountAttr::default() };
                let source = text(&hierarchy.host, "/mounts")?;
                let slot = self.source(source, false, below, MountAttr::default());
                self.jail(Rank::Mount, Step::Bind { slot, target, on_proc: false });
                continue;
            }
            let mut words = vec![(c"source".to_owned(), Some(c"cgroup".to_owned()))];
            for option in &hierarchy.options {
                let (key, value) = option.split_once('=').map_or((option.as_str(), None), |(k, v)| (k, Some(v)));
                words.push((text(key, "/mounts")?, value.map(|value| text(value, "/mounts")).transpose()?));
            }
            let kind = text(hierarchy.kind, "/mounts")?;
            self.jail(Rank::Mount, Step::Mount(FileSystem { kind, target, options: words, attr, propagation: 0 }));
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

    fn devices(&mut self) -> Result<()> {
        let linux = self.request.spec.linux().as_ref();
        let listed = linux.and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
        let listed = listed
            .iter()
            .enumerate()
            .map(|(index, device)| device_of(device, &format!("/linux/devices/{index}")))
            .collect::<Result<Vec<_>>>()?;
        for (path, major, minor) in DEVICES {
            let path = text(path, "/linux/devices")?;
            if listed.iter().any(|device| device.path == path) {
                continue;
            }
            let number = (*major, *minor);
            self.device(Device { path, kind: SFlag::S_IFCHR, mode: 0o666, number, owner: (0, 0) })?;
        }
        for device in listed {
            self.device(device)?;
        }
        for (path, to) in LINKS {
            let step = Step::Link { path: text(path, "/dev")?, to: text(to, "/dev")? };
            self.jail(Rank::Device, step);
        }
        Ok(())
    }

    /// A node, or where the jail may make none, a bind of the host's node of the same path.
    fn device(&mut self, device: Device) -> Result<()> {
        if !self.request.user_namespace {
            self.jail(Rank::Device, Step::Node(device));
            return Ok(());
        }
        let attr = MountAttr { propagation: libc::MS_PRIVATE, ..node_attr() };
        let slot = self.source(device.path.clone(), false, attr, MountAttr::default());
        self.jail(Rank::Device, Step::Bind { slot, target: device.path, on_proc: false });
        Ok(())
    }

    fn masks(&mut self) -> Result<()> {
        for path in std::mem::take(&mut self.seals) {
            self.jail(Rank::Mask, Step::Seal { path });
        }
        let Some(linux) = self.request.spec.linux() else { return Ok(()) };
        for path in linux.readonly_paths().iter().flatten() {
            let path = text(path, "/linux/readonlyPaths")?;
            self.jail(Rank::Mask, Step::ReadOnly { path });
        }
        let masked = linux.masked_paths().as_deref().unwrap_or_default();
        if masked.is_empty() {
            return Ok(());
        }
        let (slot, empty) = (self.slot, self.slot + 1);
        self.slot += 2;
        self.jail(Rank::Root, Step::Null { slot });
        for path in masked {
            let path = text(path, "/linux/maskedPaths")?;
            self.jail(Rank::Mask, Step::Mask { path, slot, empty });
        }
        Ok(())
    }
}

fn device_of(device: &LinuxDevice, at: &str) -> Result<Device> {
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => SFlag::S_IFCHR,
        LinuxDeviceType::B => SFlag::S_IFBLK,
        LinuxDeviceType::P => SFlag::S_IFIFO,
        LinuxDeviceType::A => return Err(Error::invalid(format!("use {at}/type \"a\": b, c, u and p are known"))),
    };
    let number = |value: i64, key: &str| {
        u32::try_from(value).map(u64::from).map_err(|_| Error::invalid(format!("use {at}/{key} {value}: out of range")))
    };
    let number = match kind {
        SFlag::S_IFIFO => (0, 0),
        _ => (number(device.major(), "major")?, number(device.minor(), "minor")?),
    };
    if !device.path().is_absolute() {
        return Err(Error::invalid(format!("use {at}/path {}: it is not absolute", device.path().display())));
    }
    Ok(Device {
        path: text(clean(device.path()), at)?,
        kind,
        mode: device.file_mode().unwrap_or(0o666) & 0o777,
        number,
        owner: (device.uid().unwrap_or(0), device.gid().unwrap_or(0)),
    })
}
