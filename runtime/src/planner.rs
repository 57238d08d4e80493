//! The planner: a specification and what is known of the host become the plan of a jail.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use base::{JailId, Rank, Side};
use cgroup::scope::{self, Systemd};
use nix::sched::CloneFlags;
use oci_spec::runtime::{LinuxNamespaceType, Mount, Process, Spec};
use sys::{Error, Result};

use crate::hooks::Moment;
use crate::inherit::Inherited;
pub use crate::label::Modules;
use crate::namespace::{self, Joined, has};
use crate::plan::{Plan, Planned, Step};
use crate::program::{self, Ask, text};
use crate::{hooks, listener, resctrl, setting};

/// What a plan is made from.
#[derive(Debug)]
pub struct Input<'a> {
    /// The jail.
    pub id: &'a JailId,
    /// The folder of its bundle.
    pub bundle: &'a Path,
    /// What is asked, checked.
    pub spec: &'a Spec,
    /// The cgroups of this machine.
    pub layout: &'a cgroup::Layout,
    /// Its systemd, where that makes the jail's.
    pub systemd: Option<&'a Systemd>,
    /// The mark on the jail's objects.
    pub mark: &'a str,
    /// Who gets the terminal; `None` for the caller of `run`.
    pub console_socket: Option<&'a Path>,
    /// The size of the caller's terminal, where it has one.
    pub terminal_size: Option<(u16, u16)>,
    /// Whether the jail gets a session keyring of its own.
    pub new_keyring: bool,
    /// The security modules of this host.
    pub modules: Modules,
    /// What confines the program, compiled.
    pub confinement: secmodel::Confinement,
    /// Whether hard limits may be raised, as CAP_SYS_RESOURCE allows.
    pub may_raise: bool,
    /// Where resctrl is mounted, if it is asked for.
    pub resctrl: Option<PathBuf>,
    /// What of the caller's comes in.
    pub inherited: &'a Inherited,
    /// An empty folder of the host, where the root is to be a clone of the host's.
    pub clone: Option<CString>,
}

/// Orders everything that makes a jail.
///
/// # Errors
/// What the specification asks for that makes no sense or that this host cannot do; nothing was touched.
pub fn plan(input: &Input<'_>) -> Result<Plan> {
    let spec = input.spec;
    let process = spec.process().as_ref().ok_or_else(|| Error::invalid("use /process: it is missing"))?;
    let linux = spec.linux().as_ref().ok_or_else(|| Error::invalid("use /linux: it is missing"))?;
    let mut planner = Planner { steps: Vec::new(), slot: 0 };

    // Before the cgroups, and so undone after them: a group is removed when nobody is in it any more.
    for (rank, side, step) in resctrl::plan(spec, input.id.as_str(), input.resctrl.as_deref())? {
        planner.push(rank, side, Step::Resctrl(step));
    }
    let resources = linux.resources().as_ref();
    let path = linux.cgroups_path().as_deref();
    let id = input.id.as_str();
    let cgroups = match input.systemd {
        None => cgroup::plan(path, id, input.mark, resources, input.layout)?,
        Some(systemd) => {
            let annotations = spec.annotations().as_ref();
            scope::plan(&scope::Ask { id, mark: input.mark, resources, annotations }, systemd, input.layout)?
        }
    };
    let hierarchies = hierarchies(&cgroups, input.layout);
    planner.steps.extend(cgroups.into_iter().map(|(rank, side, step)| Planned {
        rank,
        side,
        step: Step::Cgroup(step),
    }));

    if let Some((dir, uid)) = hierarchies.first().map(|tree| tree.host.clone()).zip(owner(spec, process, input.layout))
    {
        planner.push(Rank::Meanwhile, Side::Host, Step::Cgroup(cgroup::Step::Own { dir, uid }));
    }
    let flags = planner.namespaces(spec, input.layout);
    planner.storage(input, &hierarchies)?;
    let ask = Ask {
        process,
        is_first: true,
        user_namespace: has(spec, LinuxNamespaceType::User),
        new_keyring: input.new_keyring,
        modules: input.modules,
        console_socket: input.console_socket,
        terminal_size: input.terminal_size,
        may_raise: input.may_raise,
    };
    planner.steps.extend(ask.steps(planner.slot, linux)?);
    planner.settings(spec)?;
    for (at, hook, moment) in hooks::all(spec) {
        let (rank, side) = match moment {
            Moment::Prestart | Moment::CreateRuntime => (Rank::HookRuntime, Side::Host),
            Moment::CreateContainer => (Rank::HookContainer, Side::Jail),
            // `start` and `delete` run these, and those of startContainer come with the confinement.
            Moment::StartContainer | Moment::Poststart | Moment::Poststop => continue,
        };
        planner.push(rank, side, Step::Hook(at, hook.clone(), moment));
    }
    planner.confinement(input);
    // Stable: within a rank the order of the leaf stays.
    planner.steps.sort_by_key(|planned| planned.rank);
    let mut program = program::program(process)?;
    program.inherit(input.inherited)?;
    Ok(Plan {
        id: input.id.clone(),
        bundle: input.bundle.to_owned(),
        spec: spec.clone(),
        flags,
        steps: planner.steps,
        program,
    })
}

struct Planner {
    steps: Vec<Planned>,
    /// The next free slot for a descriptor.
    slot: usize,
}

impl Planner {
    fn push(&mut self, rank: Rank, side: Side, step: Step) {
        self.steps.push(Planned { rank, side, step });
    }

    fn next_slot(&mut self) -> usize {
        self.slot += 1;
        self.slot - 1
    }

    /// Plans the joins and tells which name spaces the clone makes.
    fn namespaces(&mut self, spec: &Spec, layout: &cgroup::Layout) -> CloneFlags {
        let mut flags = CloneFlags::empty();
        let list = spec.linux().as_ref().and_then(|linux| linux.namespaces().clone()).unwrap_or_default();
        let (mut joined, mut time) = (Vec::new(), None);
        for namespace in list {
            let kind = namespace.typ();
            match namespace.path() {
                // On v1 the jail enters its cgroups only after the clone, and a cgroup name space starts where one is.
                None if kind == LinuxNamespaceType::Cgroup && !layout.is_pure_v2() => {
                    self.push(Rank::Namespace, Side::Jail, Step::Namespace(namespace::Step::Cgroup));
                }
                // Its offsets can be written before the first process is in it only, and clone(2) has no flag for it.
                None if kind == LinuxNamespaceType::Time => {
                    let offsets = spec.linux().as_ref().and_then(|linux| linux.time_offsets().as_ref());
                    time = Some(namespace::Step::Time { offsets: namespace::offsets(offsets) });
                }
                None => flags |= namespace::flag(kind),
                Some(path) => {
                    let slot = self.next_slot();
                    let step = namespace::Step::Open { kind, path: path.clone(), slot };
                    self.push(Rank::Source, Side::Host, Step::Namespace(step));
                    joined.push(Joined { kind, path: path.clone(), slot });
                }
            }
        }
        if !joined.is_empty() {
            // A process cannot change its own pid name space, its children are born into it; and what process 1 may
            // join is another thing once it is in a user name space.
            let pid = joined.iter().any(|one| one.kind == LinuxNamespaceType::Pid);
            let before = pid || has(spec, LinuxNamespaceType::User);
            let rank = if before { Rank::Join } else { Rank::Namespace };
            self.push(rank, Side::Jail, Step::Namespace(namespace::Step::Join(joined)));
        }
        if let Some(step) = time {
            // Behind the joins: a user name space among them is to own it.
            self.push(Rank::Join, Side::Jail, Step::Namespace(step));
        }
        if has(spec, LinuxNamespaceType::User)
            && let Some(linux) = spec.linux()
        {
            let uid = storage::idmap::map(linux.uid_mappings().as_ref());
            let gid = storage::idmap::map(linux.gid_mappings().as_ref());
            if flags.contains(CloneFlags::CLONE_NEWUSER) {
                self.push(Rank::Map, Side::Host, Step::Namespace(namespace::Step::Map { uid, gid }));
            } else if !uid.is_empty() || !gid.is_empty() {
                self.push(Rank::Map, Side::Host, Step::Namespace(namespace::Step::Compare { uid, gid }));
            }
            self.push(Rank::Namespace, Side::Jail, Step::Namespace(namespace::Step::Root));
        }
        flags
    }

    fn storage(&mut self, input: &Input<'_>, hierarchies: &[storage::Hierarchy]) -> Result<()> {
        let steps = storage::plan(&storage::Request {
            spec: input.spec,
            bundle: input.bundle,
            hierarchies,
            cgroup_namespace: namespace::is_new(input.spec, LinuxNamespaceType::Cgroup),
            may_make_nodes: !has(input.spec, LinuxNamespaceType::User) && input.layout.delegated.is_none(),
            clone: input.clone.clone(),
            selinux: input.modules.selinux,
            slot: self.slot,
        })?;
        let sources = steps.iter().filter(|(rank, ..)| *rank == Rank::Source).count();
        // The masks take two more: the null device and the empty directory.
        self.slot += sources + 2;
        self.steps.extend(steps.into_iter().map(|(rank, side, step)| Planned {
            rank,
            side,
            step: Step::Storage(step),
        }));
        Ok(())
    }

    /// The confinement, and in it the hooks of startContainer: their programs come from the image, so that they get no
    /// more than the jail's own. The filter is made for that one alone and is loaded behind them, where it can be.
    fn confinement(&mut self, input: &Input<'_>) {
        let mut steps = listener::confine(input.confinement.clone(), input.spec, "creating");
        let filter = steps.iter().position(listener::is_filter);
        let at = filter.filter(|_| input.confinement.no_new_privs).unwrap_or(steps.len());
        let hooks = hooks::all(input.spec).into_iter().filter(|(.., moment)| *moment == Moment::StartContainer);
        let planned = |step| Planned { rank: Rank::Confine, side: Side::Jail, step };
        let hooks: Vec<_> = hooks.map(|(at, hook, moment)| planned(Step::Hook(at, hook.clone(), moment))).collect();
        // No hook gets the descriptors; with none, they come before a filter that could forbid it.
        let (behind, count) = (at + hooks.len(), input.inherited.count());
        let inherit = if hooks.is_empty() { filter.unwrap_or(behind) } else { behind };
        steps.splice(at..at, hooks);
        if count > 0 {
            steps.insert(inherit, planned(Step::Setting(setting::Step::Inherit(count))));
        }
        self.steps.extend(steps);
    }

    fn settings(&mut self, spec: &Spec) -> Result<()> {
        if namespace::is_new(spec, LinuxNamespaceType::Network) {
            self.push(Rank::Setting, Side::Jail, Step::Netstack(netstack::Step::loopback()));
        }
        let devices = spec.linux().as_ref().and_then(|linux| linux.net_devices().as_ref());
        for device in devices.map(netstack::device::plan).transpose()?.into_iter().flatten() {
            self.push(Rank::Network, Side::Host, Step::Netstack(netstack::Step::Move(device)));
        }
        let filled = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
        if let Some(name) = filled(spec.hostname()) {
            self.push(Rank::Setting, Side::Jail, Step::Setting(setting::Step::Hostname(name)));
        }
        if let Some(name) = filled(spec.domainname()) {
            self.push(Rank::Setting, Side::Jail, Step::Setting(setting::Step::Domainname(name)));
        }
        let sysctls = spec.linux().as_ref().and_then(|linux| linux.sysctl().clone()).unwrap_or_default();
        // Sorted: a map of JSON has no order, and a plan must be the same each time.
        let mut sysctls: Vec<_> = sysctls.into_iter().collect();
        sysctls.sort();
        for (key, value) in sysctls {
            let path = text(format!("sys/{}", path_of_sysctl(&key)).as_bytes(), "/linux/sysctl")?;
            self.push(Rank::Setting, Side::Jail, Step::Setting(setting::Step::Sysctl { path, value }));
        }
        Ok(())
    }
}

/// How a mount of type `cgroup` shows the hierarchies: each in a directory of its own, v2 alone as the whole. The tree of
/// v2 that a hybrid host has beside the others stays out, as with runc: a systemd inside that finds it takes it for its
/// own, cannot use it, and gives up.
fn hierarchies(cgroups: &[(Rank, Side, cgroup::Step)], layout: &cgroup::Layout) -> Vec<storage::Hierarchy> {
    let leaf = |mount: &Path| {
        cgroups.iter().find_map(|(.., step)| match step {
            cgroup::Step::Leaf(leaf) if leaf.below == mount => Some(leaf.path.clone()),
            _ => None,
        })
    };
    let show = |(hierarchy, kind): (&cgroup::Hierarchy, &'static str)| {
        let name = hierarchy.mount.file_name().filter(|_| !layout.is_pure_v2()).unwrap_or_default();
        let options = if kind == "cgroup" { hierarchy.controllers.clone() } else { Vec::new() };
        let host = leaf(&hierarchy.mount)?;
        Some(storage::Hierarchy { name: name.to_string_lossy().into_owned(), kind, options, host })
    };
    let v2 = layout.v2.iter().filter(|_| layout.is_pure_v2()).map(|hierarchy| (hierarchy, "cgroup2"));
    layout.v1.iter().map(|hierarchy| (hierarchy, "cgroup")).chain(v2).filter_map(show).collect()
}

/// Who is to own the jail's cgroup, as the host counts: the user of its program, where that sees nothing of the tree but
/// the jail's own part and may write to it. Only v2 can be given away, and to root there is nothing to give.
/// Source: the OCI runtime specification's config-linux, "Cgroup ownership".
fn owner(spec: &Spec, process: &Process, layout: &cgroup::Layout) -> Option<u32> {
    let writable = |mount: &Mount| {
        mount.destination() == Path::new("/sys/fs/cgroup")
            && mount.typ().as_deref().is_some_and(|kind| kind.starts_with("cgroup"))
            && !mount.options().iter().flatten().any(|word| word == "ro" || word == "rro")
    };
    let inside = namespace::is_new(spec, LinuxNamespaceType::Cgroup) && layout.is_pure_v2();
    if !inside || !spec.mounts().iter().flatten().any(writable) {
        return None;
    }
    let uid = process.user().uid();
    let owner = match has(spec, LinuxNamespaceType::User) {
        false => uid,
        true => spec.linux().as_ref()?.uid_mappings().iter().flatten().find_map(|map| {
            let offset = uid.checked_sub(map.container_id()).filter(|offset| *offset < map.size())?;
            map.host_id().checked_add(offset)
        })?,
    };
    (owner != 0).then_some(owner)
}

/// `net.ipv4.ip_forward` as a path. With `/` in it, a dot belongs to a name, as in `net/ipv4/conf/eth0.1/forwarding`.
fn path_of_sysctl(key: &str) -> String {
    match key.contains('/') {
        true => key.to_owned(),
        false => key.replace('.', "/"),
    }
}
