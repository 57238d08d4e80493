//! The plan of a jail: every step, in order, before anything is touched.

use std::ffi::CString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use base::{Ctx, JailId, Object, Rank, Side};
use nix::sched::CloneFlags;
use oci_spec::runtime::{Hook, LinuxNamespaceType, Process, Spec};
use sys::{Error, Result};

use crate::hooks::Moment;
use crate::{console, hooks, namespace, setting};

/// One kernel effect, of whichever leaf.
#[derive(Clone, Debug)]
pub enum Step {
    /// Control groups.
    Cgroup(cgroup::Step),
    /// Root and mounts.
    Storage(storage::Step),
    /// Network stack.
    Netstack(netstack::Step),
    /// Confinement.
    Secmodel(secmodel::Step),
    /// Name spaces.
    Namespace(namespace::Step),
    /// Settings of the process and its name spaces.
    Setting(setting::Step),
    /// The terminal.
    Console(console::Step),
    /// A hook: its JSON pointer, itself, when.
    Hook(String, Hook, Moment),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroup(step) => step.fmt(f),
            Self::Storage(step) => step.fmt(f),
            Self::Netstack(step) => step.fmt(f),
            Self::Secmodel(step) => step.fmt(f),
            Self::Namespace(step) => step.fmt(f),
            Self::Setting(step) => step.fmt(f),
            Self::Console(step) => step.fmt(f),
            Self::Hook(at, hook, _) => write!(f, "run hook {at} {}", hook.path().display()),
        }
    }
}

impl Step {
    /// What it makes that must be written down before.
    pub fn makes(&self) -> Option<Object> {
        match self {
            Self::Cgroup(step) => step.makes(),
            _ => None,
        }
    }

    fn run(&self, plan: &Plan, ctx: &mut Ctx) -> Result<()> {
        match self {
            Self::Cgroup(step) => step.run(ctx),
            Self::Storage(step) => step.run(ctx),
            Self::Netstack(step) => step.run(),
            Self::Secmodel(step) => step.run(),
            Self::Namespace(step) => step.run(ctx),
            Self::Setting(step) => step.run(ctx),
            Self::Console(step) => step.run(ctx),
            Self::Hook(at, hook, moment) => {
                let status = if *moment == Moment::StartContainer { "created" } else { "creating" };
                hooks::run(at, hook, &hooks::state(plan.id.as_str(), status, ctx.pid, &plan.bundle, &plan.spec))
            }
        }
    }
}

/// A step at its place.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Where in the order.
    pub rank: Rank,
    /// Who does it.
    pub side: Side,
    /// What.
    pub step: Step,
}

impl Planned {
    /// Does the step, saying so first where `--debug` asks for it.
    ///
    /// # Errors
    /// That of the step.
    pub fn run(&self, plan: &Plan, ctx: &mut Ctx) -> Result<()> {
        if self.side == Side::Host {
            crate::log::debug(|| self.step.to_string());
        }
        self.step.run(plan, ctx)
    }
}

/// The program that process 1 becomes.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its arguments; the first is what is looked for.
    pub args: Vec<CString>,
    /// Its environment.
    pub env: Vec<CString>,
    /// Where it is looked for when the first argument is no path.
    pub search: Vec<PathBuf>,
    /// Whose home directory `HOME` is to be, where the environment has none.
    pub home_of: Option<u32>,
}

/// The ordered steps, and what the clone and the execution at its end need.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The jail.
    pub id: JailId,
    /// Its bundle.
    pub bundle: PathBuf,
    /// What was asked.
    pub spec: Spec,
    /// The name spaces that the clone makes.
    pub flags: CloneFlags,
    /// In the order in which they are done.
    pub steps: Vec<Planned>,
    /// What comes after the last.
    pub program: Program,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = Rank::Cgroup;
        for planned in &self.steps {
            if last < Rank::Clone && planned.rank > Rank::Clone {
                writeln!(f, "host  clone process 1")?;
            }
            if last < Rank::Ready && planned.rank > Rank::Ready {
                writeln!(f, "jail  wait for start")?;
            }
            last = planned.rank;
            let side = if planned.side == Side::Host { "host" } else { "jail" };
            writeln!(f, "{side}  {}", planned.step)?;
        }
        writeln!(
            f,
            "jail  execute {}",
            self.program.args.first().map_or_else(Default::default, |arg| arg.to_string_lossy())
        )
    }
}

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
    /// The mark on the jail's objects.
    pub mark: &'a str,
    /// Who gets the terminal; `None` for the caller of `run`.
    pub console_socket: Option<&'a Path>,
    /// The size of the caller's terminal, where it has one.
    pub terminal_size: Option<(u16, u16)>,
    /// Whether the jail gets a session keyring of its own.
    pub new_keyring: bool,
    /// What confines the program, compiled.
    pub confinement: secmodel::Confinement,
    /// Whether hard limits may be raised, as CAP_SYS_RESOURCE allows.
    pub may_raise: bool,
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

    let resources = linux.resources().as_ref();
    let path = linux.cgroups_path().as_deref();
    let cgroups = cgroup::plan(path, input.id.as_str(), input.mark, resources, input.layout)?;
    let hierarchies = hierarchies(&cgroups, input.layout);
    planner.steps.extend(cgroups.into_iter().map(|(rank, side, step)| Planned {
        rank,
        side,
        step: Step::Cgroup(step),
    }));

    let flags = planner.namespaces(spec, input.layout);
    planner.storage(input, &hierarchies)?;
    planner.process(process, input)?;
    if process.terminal().unwrap_or(false) {
        planner.console(process, input);
    }
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
    Ok(Plan {
        id: input.id.clone(),
        bundle: input.bundle.to_owned(),
        spec: spec.clone(),
        flags,
        steps: planner.steps,
        program: program(process)?,
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
        let mut joins = Vec::new();
        for namespace in list {
            let kind = namespace.typ();
            match namespace.path() {
                // On v1 the jail enters its cgroups only after the clone, and a cgroup name space starts where one is.
                None if kind == LinuxNamespaceType::Cgroup && !layout.is_pure_v2() => {
                    self.push(Rank::Namespace, Side::Jail, Step::Namespace(namespace::Step::Cgroup));
                }
                None => flags |= namespace::flag(kind),
                Some(path) => joins.push((kind, path.clone())),
            }
        }
        // The user name space first: it is what gives the right to join the others.
        joins.sort_by_key(|(kind, _)| *kind != LinuxNamespaceType::User);
        for (kind, path) in joins {
            let slot = self.next_slot();
            let step = namespace::Step::Open { kind, path: path.clone(), slot };
            self.push(Rank::Source, Side::Host, Step::Namespace(step));
            if kind == LinuxNamespaceType::Pid {
                // A process cannot change its own; its children are born into it.
                self.push(Rank::Source, Side::Host, Step::Namespace(namespace::Step::JoinPid { slot }));
                self.push(Rank::Map, Side::Host, Step::Namespace(namespace::Step::LeavePid));
            } else {
                let step = namespace::Step::Join { kind, path, slot };
                self.push(Rank::Namespace, Side::Jail, Step::Namespace(step));
            }
        }
        if flags.contains(CloneFlags::CLONE_NEWUSER)
            && let Some(linux) = spec.linux()
        {
            let uid = namespace::map(linux.uid_mappings().as_ref());
            let gid = namespace::map(linux.gid_mappings().as_ref());
            self.push(Rank::Map, Side::Host, Step::Namespace(namespace::Step::Map { uid, gid }));
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
            user_namespace: has(input.spec, LinuxNamespaceType::User),
            clone: input.clone.clone(),
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

    fn process(&mut self, process: &Process, input: &Input<'_>) -> Result<()> {
        self.push(Rank::Session, Side::Jail, Step::Setting(setting::Step::Session));
        if input.new_keyring {
            self.push(Rank::Session, Side::Jail, Step::Setting(setting::Step::Keyring));
        }
        if let Some(score) = process.oom_score_adj() {
            self.push(Rank::Map, Side::Host, Step::Setting(setting::Step::OomScore(score)));
        }
        self.limits(process, input);
        let cwd = text(process.cwd().as_os_str().as_bytes(), "/process/cwd")?;
        self.push(Rank::Check, Side::Jail, Step::Setting(setting::Step::Directory(cwd)));
        Ok(())
    }

    fn limits(&mut self, process: &Process, input: &Input<'_>) {
        let user = has(input.spec, LinuxNamespaceType::User);
        for limit in process.rlimits().iter().flatten() {
            let kind = setting::resource(limit.typ());
            let (name, resource) = (limit.typ().to_string(), kind as u32);
            let (mut soft, mut hard) = (limit.soft(), limit.hard());
            let most = setting::hard_limit(kind);
            if hard > most && !input.may_raise {
                crate::log::warn(&format!("{name} stays at {most}: raising it to {hard} needs CAP_SYS_RESOURCE"));
                (soft, hard) = (soft.min(most), most);
            }
            match user {
                // Inside a user name space nobody may raise a limit.
                true => {
                    let step = setting::Step::LimitFrom { name, resource, soft, hard };
                    self.push(Rank::Map, Side::Host, Step::Setting(step));
                }
                false => {
                    let step = setting::Step::Limit { name, resource, soft, hard };
                    self.push(Rank::Limit, Side::Jail, Step::Setting(step));
                }
            }
        }
    }

    fn console(&mut self, process: &Process, input: &Input<'_>) {
        let size =
            process.console_size().map(|size| (size.height() as u16, size.width() as u16)).or(input.terminal_size);
        let slot = input.console_socket.map(|path| {
            let slot = self.next_slot();
            let step = console::Step::Connect { path: path.to_owned(), slot };
            self.push(Rank::Source, Side::Host, Step::Console(step));
            slot
        });
        let make = console::Step::Make { slot, size, uid: process.user().uid(), console: true };
        self.push(Rank::Console, Side::Jail, Step::Console(make));
        if slot.is_none() {
            self.push(Rank::Console, Side::Host, Step::Console(console::Step::Take));
        }
    }

    /// The confinement, and in it the hooks of startContainer: their programs come from the image, so that they get no
    /// more than the jail's own. The filter is made for that one alone and is loaded behind them, where it can be.
    fn confinement(&mut self, input: &Input<'_>) {
        let mut steps: Vec<Step> = secmodel::plan(input.confinement.clone()).into_iter().map(Step::Secmodel).collect();
        let filter = steps.iter().position(|step| matches!(step, Step::Secmodel(secmodel::Step::Seccomp(_))));
        let at = filter.filter(|_| input.confinement.no_new_privs).unwrap_or(steps.len());
        let hooks = hooks::all(input.spec).into_iter().filter(|(.., moment)| *moment == Moment::StartContainer);
        steps.splice(at..at, hooks.map(|(at, hook, moment)| Step::Hook(at, hook.clone(), moment)));
        for step in steps {
            self.push(Rank::Confine, Side::Jail, step);
        }
    }

    fn settings(&mut self, spec: &Spec) -> Result<()> {
        if namespace::is_new(spec, LinuxNamespaceType::Network) {
            self.push(Rank::Setting, Side::Jail, Step::Netstack(netstack::Step::loopback()));
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

/// How a mount of type `cgroup` shows the hierarchies: each in a directory of its own, v2 alone as the whole.
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
    let v1 = layout.v1.iter().map(|hierarchy| (hierarchy, "cgroup"));
    v1.chain(layout.v2.iter().map(|hierarchy| (hierarchy, "cgroup2"))).filter_map(show).collect()
}

/// `net.ipv4.ip_forward` as a path. With `/` in it, a dot belongs to a name, as in `net/ipv4/conf/eth0.1/forwarding`.
fn path_of_sysctl(key: &str) -> String {
    match key.contains('/') {
        true => key.to_owned(),
        false => key.replace('.', "/"),
    }
}

/// Whether a specification gives the jail a name space other than the caller's of this kind.
pub fn has(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    let list = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    list.iter().any(|namespace| namespace.typ() == kind)
}

fn text(bytes: &[u8], at: &str) -> Result<CString> {
    CString::new(bytes).map_err(|_| Error::invalid(format!("use {at}: it contains NUL")))
}

/// What a process document says of the program.
///
/// # Errors
/// `Invalid` for a string with NUL.
pub fn program(process: &Process) -> Result<Program> {
    let strings = |list: &Option<Vec<String>>, at| {
        list.iter().flatten().map(|word| text(word.as_bytes(), at)).collect::<Result<Vec<_>>>()
    };
    let env = strings(process.env(), "/process/env")?;
    let value = |name: &str| {
        process
            .env()
            .iter()
            .flatten()
            .rev()
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
    };
    let search = value("PATH").unwrap_or_else(|| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    Ok(Program {
        args: strings(process.args(), "/process/args")?,
        env,
        search: search.split(':').map(PathBuf::from).collect(),
        home_of: value("HOME").is_none().then_some(process.user().uid()),
    })
}
