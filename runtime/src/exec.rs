//! Another program in a running jail: the same process 1's side with a shorter list.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use base::{Ctx, JailId, Rank, Side};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, LinuxNamespaceType, Process, Spec};
use sys::process::{Birth, Fork};
use sys::{Child, Doing, Error, Kind, Result};

use crate::channel::{Channel, Message};
use crate::create::started;
use crate::inherit::Inherited;
use crate::init::{self, Starter};
use crate::jail::{Jail, Status, not_running};
use crate::namespace::{self, has, is_new};
use crate::pid_file::PidFile;
use crate::plan::{Plan, Planned, Step};
use crate::prelude::{self, Way};
use crate::program::{self, Ask};
use crate::store::Store;
use crate::{bundle, label, listener, process, resctrl, setting};

/// What `exec` is asked for.
#[derive(Debug)]
pub struct Request {
    /// The store.
    pub root: PathBuf,
    /// The jail.
    pub id: JailId,
    /// Where the terminal goes.
    pub console_socket: Option<PathBuf>,
    /// Where the number of the process is written.
    pub pid_file: Option<PathBuf>,
    /// What of the caller's comes in.
    pub inherited: Inherited,
}

/// A program that runs in a jail.
#[derive(Debug)]
pub struct Running {
    /// Its process.
    pub child: Child,
    /// Its terminal, where it has one and no socket took it.
    pub terminal: Option<OwnedFd>,
}

/// How one who is not root of the host gets to where a jail of his can be entered.
///
/// # Errors
/// As [`exec`].
pub fn way(root: &Path, id: &JailId) -> Result<Way> {
    let jail = Jail::open(Store::open(root)?.as_ref(), id)?;
    match jail.status()? {
        (Status::Created | Status::Running, Some(pid)) => {
            prelude::of_jail(pid, is_new(&jail.spec()?, LinuxNamespaceType::User))
        }
        _ => Err(not_running(format!("exec in {id}"))),
    }
}

/// Starts a program in a running jail. `process` makes its document from the jail's specification.
///
/// The process that joins the jail stays out of its pid name space, where nothing of the jail sees it, and gives up all
/// that it has. Only then, and last, is the program's own process made there: a jail that may trace (CAP_SYS_PTRACE)
/// never meets one that can do more than the program.
///
/// # Errors
/// `WrongState` where the jail does not run or is paused; why the program could not be started. Nothing of it is left
/// then.
pub fn exec(request: &Request, process: impl FnOnce(&Spec) -> Result<Process>) -> Result<Running> {
    let store = Store::open(&request.root)?;
    let jail = Jail::open(store.as_ref(), &request.id)?;
    let step = || format!("exec in {}", request.id);
    let pidfd = match jail.open_with_status()? {
        (Some(pidfd), Status::Created | Status::Running) => pidfd,
        // Its process would be born frozen, and nobody would be told until the jail is resumed.
        (Some(_), Status::Paused) => {
            let why = format!("the container is paused (`jail resume {}` lets it run)", request.id);
            return Err(Error::new(Kind::WrongState, format!("{}: {why}", step())));
        }
        _ => return Err(not_running(step())),
    };
    let spec = jail.spec()?;
    let cache = store.as_ref().map(Store::cache).transpose()?;
    let document = process(&spec)?;
    let plan = plan(request, &jail, spec, &document, cache.as_ref())?;
    let pid_file = request.pid_file.as_deref().map(PidFile::begin).transpose()?;
    let mut ctx = Ctx { birth: Some(Birth::new().doing(step)?), ..Ctx::default() };
    for planned in &plan.steps[..plan.before(Rank::Clone)] {
        planned.run(&plan, &mut ctx)?;
    }
    let (channel, joining) = clone(&plan, &mut ctx, &pidfd)?;
    let started = go(&plan, &mut ctx, &channel, joining.pid);
    // It has made the program's process, or never will.
    let ended = process::end(&joining);
    let child = ctx.birth.as_ref().and_then(Birth::pid).map(process::adopt).transpose()?;
    let done = started.and(ended);
    let Some(child) = child else {
        let nobody = || Error::new(Kind::Kernel, format!("{}: no process was made", step()));
        return Err(done.err().unwrap_or_else(nobody));
    };
    match done.and_then(|()| pid_file.map_or(Ok(()), |file| file.finish(child.pid))) {
        Ok(()) => Ok(Running { child, terminal: ctx.pass }),
        Err(error) => Err(process::end_after(&child, error)),
    }
}

fn go(plan: &Plan, ctx: &mut Ctx, channel: &Channel, joining: Pid) -> Result<()> {
    for planned in plan.of(Rank::Map) {
        planned.run(plan, ctx)?;
    }
    if plan.waits_for_go() {
        channel.say(&Message::Go(joining), None)?;
    }
    init::walk(Side::Host, plan, plan.walk(), ctx, channel)?;
    // Nothing has to be written down before, so that it need not wait.
    channel.say(&Message::Start, None)?;
    channel.expect(&Message::Ready)?;
    started(plan, ctx, channel)
}

/// The name spaces that differ from the caller's: joining one's own is refused by the kernel for some.
fn namespaces(spec: &Spec) -> CloneFlags {
    let list = spec.linux().as_ref().and_then(|linux| linux.namespaces().clone()).unwrap_or_default();
    list.iter().fold(CloneFlags::empty(), |flags, namespace| flags | crate::namespace::flag(namespace.typ()))
}

/// Makes the process that joins the jail: born into its cgroup, it joins the name spaces itself.
fn clone(plan: &Plan, ctx: &mut Ctx, pidfd: &OwnedFd) -> Result<(Channel, Child)> {
    let (mine, theirs) = Channel::pair("the process of exec")?;
    let cgroup = ctx.cgroup.take();
    let cloned = sys::process::clone3(0, cgroup.as_ref().map(std::os::fd::AsFd::as_fd));
    let cloned = cloned.map_err(|errno| match errno {
        Errno::EACCES if !sys::user::is_host_root() => {
            let way = "the caller's cgroup is not below the one that was delegated with the jail's";
            Error::new(Kind::Denied, format!("clone a process into the jail: {way}"))
        }
        other => Error::kernel("clone a process into the jail", other),
    });
    match cloned? {
        Fork::Child => {
            drop(mine);
            match enter(pidfd, namespaces(&plan.spec)) {
                Ok(root) => ctx.root = Some(root),
                Err(error) => theirs.give_up(error),
            }
            init::become_program(plan, std::mem::take(ctx), theirs, Starter::Maker, None)
        }
        Fork::Parent(child) => {
            ctx.pid = Some(child.pid);
            ctx.forget();
            Ok((mine, child))
        }
    }
}

/// Joins the jail's name spaces, all in one call, and opens what is its root from now on. Into the pid name space come
/// only the children of this process.
fn enter(pidfd: &OwnedFd, flags: CloneFlags) -> Result<OwnedFd> {
    if flags.contains(CloneFlags::CLONE_NEWUSER) {
        namespace::leave_groups()?;
    }
    setns(pidfd, flags).doing(|| "join the name spaces of the jail")?;
    open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).doing(|| "open the jail's root")
}

fn plan(request: &Request, jail: &Jail, spec: Spec, document: &Process, cache: Option<&OwnedFd>) -> Result<Plan> {
    let mut steps = Vec::new();
    let mut push = |rank, side, step| steps.push(Planned { rank, side, step });
    for (rank, side, step) in cgroup::join(&jail.objects())? {
        push(rank, side, Step::Cgroup(step));
    }
    for (rank, side, step) in resctrl::join(&spec, request.id.as_str(), resctrl::mount_for(&spec).as_deref())? {
        push(rank, side, Step::Resctrl(step));
    }
    if has(&spec, LinuxNamespaceType::User) {
        push(Rank::Namespace, Side::Jail, Step::Namespace(namespace::Step::Root));
    }
    push(Rank::Program, Side::Jail, Step::Namespace(namespace::Step::Program));
    if request.inherited.count() > 0 {
        push(Rank::Limit, Side::Jail, Step::Setting(setting::Step::Inherit(request.inherited.count())));
    }
    let reach = secmodel::Reach::of_caller()?;
    let ask = Ask {
        process: document,
        is_first: false,
        user_namespace: has(&spec, LinuxNamespaceType::User),
        new_keyring: true,
        console_socket: request.console_socket.as_deref(),
        terminal_size: sys::file::terminal_size(std::io::stdin()).ok(),
        may_raise: bundle::may_raise_limits(&reach),
        modules: label::Modules::read_for(document, None),
    };
    let linux = spec.linux().as_ref().ok_or_else(|| Error::invalid("use /linux: it is missing"))?;
    let (early, late) = confinement(bundle::confinement(document, &spec, cache, reach)?, &spec)?;
    steps.extend(early);
    steps.extend(ask.steps(0, linux)?);
    steps.extend(late);
    steps.sort_by_key(|planned| planned.rank);
    let bundle = jail.state()?.bundle.clone();
    let mut program = program::program(document)?;
    program.inherit(&request.inherited)?;
    Ok(Plan { id: request.id.clone(), bundle, spec, flags: CloneFlags::empty(), steps, program })
}

/// The filter is made for the program alone and allows what that needs, so that its own process loads it. Without
/// no_new_privs this takes SYS_ADMIN, and one who may trace could take the process over, unless that is of a user name
/// space which the runtime's memory is not: there the filter comes before the clone, and has to allow it.
///
/// The answer is what comes before the settings of the program's own process, and what comes behind them. The listener of
/// a filter goes to its agent when that process is there, whose number the agent is told.
fn confinement(confinement: secmodel::Confinement, spec: &Spec) -> Result<(Vec<Planned>, Vec<Planned>)> {
    let late = confinement.no_new_privs || has(spec, LinuxNamespaceType::User);
    if !late {
        listener::refuse_early(spec)?;
    }
    let mut early = listener::confine(confinement, spec, "running");
    let at = early.iter().position(listener::is_filter).filter(|_| late).unwrap_or(early.len());
    let mut behind = early.split_off(at);
    let sending = early.iter_mut().filter(|planned| planned.side == Side::Host);
    behind.iter_mut().chain(sending).for_each(|planned| planned.rank = Rank::Program);
    Ok((early, behind))
}

/// What words on the command line ask for, in the place of a document.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Program and arguments.
    pub args: Vec<String>,
    /// Whether it gets a terminal.
    pub terminal: bool,
    /// Its working directory, where it differs from that of the jail's program.
    pub cwd: Option<PathBuf>,
    /// Added to the environment of the jail's program.
    pub env: Vec<String>,
    /// User and group, where they differ.
    pub user: Option<(u32, Option<u32>)>,
    /// Additional groups.
    pub groups: Vec<u32>,
    /// Capabilities more than the jail's program has.
    pub capabilities: Vec<String>,
    /// Whether it may gain no privileges, even where the jail's program may.
    pub no_new_privileges: bool,
    /// AppArmor profile, where it differs.
    pub apparmor: Option<String>,
    /// SELinux label, where it differs.
    pub label: Option<String>,
}

/// The document of a process like the jail's own program, but for what is wished.
///
/// # Errors
/// `Invalid` for what is no capability, and as the check of any document.
pub fn document(spec: &Spec, wish: Wish) -> Result<Process> {
    let Some(mut process) = spec.process().clone() else {
        return Err(Error::invalid("use /process: it is missing"));
    };
    process.set_args(Some(wish.args)).set_terminal(Some(wish.terminal));
    if let Some(cwd) = wish.cwd {
        process.set_cwd(cwd);
    }
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(wish.env);
    process.set_env(Some(env));
    let mut user = process.user().clone();
    if let Some((uid, gid)) = wish.user {
        let gid = gid.unwrap_or(user.gid());
        user.set_uid(uid).set_gid(gid);
        // Those of the jail's program belong to another user.
        user.set_additional_gids(None);
    }
    if !wish.groups.is_empty() {
        user.set_additional_gids(Some(wish.groups));
    }
    process.set_user(user);
    if wish.no_new_privileges {
        process.set_no_new_privileges(Some(true));
    }
    if let Some(profile) = wish.apparmor {
        process.set_apparmor_profile(Some(profile));
    }
    if let Some(label) = wish.label {
        process.set_selinux_label(Some(label));
    }
    if !wish.capabilities.is_empty() {
        let caps = process.capabilities().clone().unwrap_or_else(none);
        process.set_capabilities(Some(more(caps, &wish.capabilities)?));
    }
    crate::check::process(&process, "/process")?;
    Ok(process)
}

/// No capabilities; the default of the type has some.
fn none() -> LinuxCapabilities {
    let mut caps = LinuxCapabilities::default();
    caps.set_bounding(None).set_effective(None).set_permitted(None).set_inheritable(None).set_ambient(None);
    caps
}

fn more(mut caps: LinuxCapabilities, names: &[String]) -> Result<LinuxCapabilities> {
    for name in names {
        let upper = name.to_ascii_uppercase();
        let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
        let cap: Capability = serde_json::from_value(serde_json::Value::String(full))
            .map_err(|_| Error::invalid(format!("use --cap {name}: no such capability")))?;
        let with = |set: &Option<Capabilities>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(cap);
            Some(set)
        };
        let (bounding, effective, permitted) = (with(caps.bounding()), with(caps.effective()), with(caps.permitted()));
        caps.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
    }
    Ok(caps)
}
