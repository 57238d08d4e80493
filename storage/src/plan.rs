//! From the specification's root and mounts to steps. Nothing here touches the machine.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use base::{Rank, Side};
use nix::libc;
use nix::sys::stat::SFlag;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};
use sys::mount::MountAttr;
use sys::{Error, Result};

use crate::bind::{Bind, Source};
use crate::idmap::Users;
use crate::option;
use crate::step::{Device, Step, node_attr};

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
    /// Whether the jail's side can make device nodes: not in a user name space.
    pub may_make_nodes: bool,
    /// An empty directory of the host; given where the root is to be a clone of the host's root.
    pub clone: Option<CString>,
    /// Whether this host has SELinux.
    pub selinux: bool,
    /// The first slot that is free.
    pub slot: usize,
}

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
    let label = request.spec.linux().as_ref().and_then(|linux| linux.mount_label().as_deref());
    if label.is_some_and(|label| !label.is_empty()) && !request.selinux {
        let way = "SELinux is not enabled on this host; leave it out";
        return Err(Error::unsupported(format!("use /linux/mountLabel: {way}")));
    }
    let mut planner = Planner { request, steps: Vec::new(), slot: request.slot, seals: Vec::new(), users: Vec::new() };
    planner.root()?;
    for (index, mount) in request.spec.mounts().iter().flatten().enumerate() {
        planner.mount(mount, &format!("/mounts/{index}"))?;
    }
    planner.devices()?;
    planner.masks()?;
    Ok(planner.steps)
}

pub(crate) struct Planner<'a> {
    pub(crate) request: &'a Request<'a>,
    pub(crate) steps: Steps,
    slot: usize,
    /// Mounts that turn read-only once all that is below them is made.
    pub(crate) seals: Vec<CString>,
    /// The user name spaces that map owners, by the slots that they are kept in.
    pub(crate) users: Vec<(usize, Users)>,
}

pub(crate) fn text(text: impl AsRef<OsStr>, at: &str) -> Result<CString> {
    CString::new(text.as_ref().as_bytes()).map_err(|_| Error::invalid(format!("use {at}: it contains NUL")))
}

/// `path` with `.` and `..` taken out as the jail's root directory would.
pub(crate) fn clean(path: &Path) -> PathBuf {
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
    pub(crate) fn jail(&mut self, rank: Rank, step: Step) {
        self.steps.push((rank, Side::Jail, step));
    }

    pub(crate) fn next_slot(&mut self) -> usize {
        self.slot += 1;
        self.slot - 1
    }

    /// Plans to open a source; the answer is its slot.
    pub(crate) fn source(&mut self, source: Source) -> usize {
        let slot = self.next_slot();
        self.steps.push((Rank::Source, Side::Host, Step::Source(Source { slot, ..source })));
        slot
    }

    fn root(&mut self) -> Result<()> {
        self.jail(Rank::Root, Step::Private);
        let Some(root) = self.request.spec.root() else {
            return Err(Error::invalid("use /root: it is missing"));
        };
        let path = text(self.request.bundle.join(root.path()), "/root/path")?;
        let wanted = self.propagation()?;
        match &self.request.clone {
            Some(scratch) => {
                let name = self.request.spec.hostname().clone().unwrap_or_default();
                self.jail(Rank::Root, Step::Clone { tree: path, scratch: scratch.clone(), name });
            }
            None => {
                // What is mounted below must not travel to the host, whatever the root is to be in the end; but only what
                // was never private hears of what the host mounts.
                let flag = wanted.map(|(flag, _)| flag).filter(|flag| *flag == libc::MS_SLAVE);
                let (mut attr, mut below) = Default::default();
                propagate(flag.unwrap_or(libc::MS_PRIVATE), true, &mut attr, &mut below);
                let root = Source { path, recursive: true, directory: true, attr, below, ..Source::default() };
                let slot = self.source(root);
                self.jail(Rank::Root, Step::Root { slot });
            }
        }
        if root.readonly().unwrap_or(false) {
            self.jail(Rank::Mask, Step::SealRoot);
        }
        if let Some((flag, recursive)) = wanted {
            self.jail(Rank::Setting, Step::Propagation { flag, recursive });
        }
        self.jail(Rank::Pivot, Step::Pivot);
        Ok(())
    }

    /// What `linux.rootfsPropagation` asks for, and whether for all below too.
    fn propagation(&self) -> Result<Option<(u64, bool)>> {
        let wanted = self.request.spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref());
        let Some(word) = wanted.filter(|word| !word.is_empty()) else { return Ok(None) };
        option::propagation(word).map(Some).ok_or_else(|| {
            let known = "shared, slave, private and unbindable are known";
            Error::invalid(format!("use /linux/rootfsPropagation {word:?}: {known}"))
        })
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
        if self.request.may_make_nodes {
            self.jail(Rank::Device, Step::Node(device));
            return Ok(());
        }
        let attr = MountAttr { propagation: libc::MS_PRIVATE, ..node_attr() };
        let slot = self.source(Source { path: device.path.clone(), attr, ..Source::default() });
        self.jail(Rank::Device, Step::Bind(Bind { slot, target: device.path, ..Bind::default() }));
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

/// Sets the propagation of a tree, or of its first mount while all below is private.
pub(crate) fn propagate(flag: u64, recursive: bool, attr: &mut MountAttr, below: &mut MountAttr) {
    // A slave that was private for a moment hears of nothing any more, so that those below are slaves too.
    if recursive || flag == libc::MS_SLAVE {
        below.propagation = flag;
    } else {
        below.propagation = libc::MS_PRIVATE;
        attr.propagation = flag;
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
