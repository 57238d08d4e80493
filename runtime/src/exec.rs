//! Another program in a running jail: the same process 1's side with a shorter list.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use base::{Ctx, JailId, Rank, Side};
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, LinuxNamespaceType, Process, Spec};
use sys::process::Fork;
use sys::{Child, Doing, Error, Kind, Result};

use crate::channel::{Channel, Message};
use crate::create::{start, write_pid};
use crate::init::{self, Starter};
use crate::jail::Jail;
use crate::plan::{self, Plan, Planned, Step};
use crate::store::Store;
use crate::{bundle, console, process, setting};

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
}

/// A program that runs in a jail.
#[derive(Debug)]
pub struct Running {
    /// Its process.
    pub child: Child,
    /// Its terminal, where it has one and no socket took it.
    pub terminal: Option<OwnedFd>,
}

/// Starts a program in a running jail. `process` makes its document from the jail's specification.
///
/// # Errors
/// `WrongState` where the jail does not run; why the program could not be started. Nothing of it is left then.
pub fn exec(request: &Request, process: impl FnOnce(&Spec) -> Result<Process>) -> Result<Running> {
    let store = Store::open(&request.root)?;
    let jail = Jail::open(store.as_ref(), &request.id)?;
    let step = || format!("exec in {}", request.id);
    let Some(pidfd) = jail.open_process()? else {
        return Err(Error::new(Kind::WrongState, format!("{}: container not running", step())));
    };
    let spec = jail.spec()?;
    let cache = store.as_ref().map(Store::cache).transpose()?;
    let document = process(&spec)?;
    let plan = plan(request, &jail, spec, &document, cache.as_ref())?;
    let mut ctx = Ctx::default();
    let cloned = plan.steps.partition_point(|planned| planned.rank < Rank::Clone);
    for planned in &plan.steps[..cloned] {
        planned.run(&plan, &mut ctx)?;
    }
    let (channel, child) = clone(&plan, &mut ctx, &pidfd)?;
    match go(&plan, &mut ctx, &channel, &child, cloned, request) {
        Ok(()) => Ok(Running { child, terminal: ctx.pass }),
        Err(error) => Err(match process::end(&child) {
            Ok(()) => error,
            Err(other) => error.and(other),
        }),
    }
}

fn go(plan: &Plan, ctx: &mut Ctx, channel: &Channel, child: &Child, from: usize, request: &Request) -> Result<()> {
    let rest = plan.steps[from..].iter().take_while(|planned| planned.side == Side::Host).count();
    for planned in &plan.steps[from..from + rest] {
        planned.run(plan, ctx)?;
    }
    channel.send(&Message::Go(child.pid), None).doing(|| "speak to the new process")?;
    let ready = plan.steps.partition_point(|planned| planned.rank <= Rank::Ready);
    init::walk(Side::Host, plan, &plan.steps[from + rest..ready], ctx, channel)?;
    channel.expect(&Message::Ready)?;
    if let Some(path) = &request.pid_file {
        write_pid(path, child.pid)?;
    }
    start(channel)
}

/// The name spaces that differ from the caller's: joining one's own is refused by the kernel for some.
fn namespaces(spec: &Spec) -> CloneFlags {
    let list = spec.linux().as_ref().and_then(|linux| linux.namespaces().clone()).unwrap_or_default();
    list.iter().fold(CloneFlags::empty(), |flags, namespace| flags | crate::namespace::flag(namespace.typ()))
}

/// Makes the child: born into the jail's pid name space and cgroup; the other name spaces it joins itself.
fn clone(plan: &Plan, ctx: &mut Ctx, pidfd: &OwnedFd) -> Result<(Channel, Child)> {
    let (mine, theirs) = Channel::pair()?;
    let flags = namespaces(&plan.spec);
    let pid = flags & CloneFlags::CLONE_NEWPID;
    if !pid.is_empty() {
        setns(pidfd, pid).doing(|| "join the pid name space of the jail")?;
    }
    let cgroup = ctx.cgroup.take();
    let cloned = sys::process::clone3(0, cgroup.as_ref().map(std::os::fd::AsFd::as_fd));
    match cloned.doing(|| "clone a process into the jail")? {
        Fork::Child => {
            drop(mine);
            let others = flags & !CloneFlags::CLONE_NEWPID;
            let joined = enter(pidfd, others);
            match joined {
                Ok(root) => ctx.root = Some(root),
                Err(error) => {
                    let _ = theirs.send(&Message::Fault(error), None);
                    sys::process::exit_now(1);
                }
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

/// Joins the jail's name spaces, all in one call, and opens what is its root from now on.
fn enter(pidfd: &OwnedFd, flags: CloneFlags) -> Result<OwnedFd> {
    // First of all: from the moment of joining, the jail can see this process.
    nix::sys::prctl::set_dumpable(false).doing(|| "make the process not dumpable")?;
    setns(pidfd, flags).doing(|| "join the name spaces of the jail")?;
    open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).doing(|| "open the jail's root")
}

fn plan(request: &Request, jail: &Jail, spec: Spec, document: &Process, cache: Option<&OwnedFd>) -> Result<Plan> {
    let mut steps = Vec::new();
    let mut push = |rank, side, step| steps.push(Planned { rank, side, step });
    for (rank, side, step) in cgroup::join(&jail.objects())? {
        push(rank, side, Step::Cgroup(step));
    }
    if let Some(score) = document.oom_score_adj() {
        push(Rank::Map, Side::Host, Step::Setting(setting::Step::OomScore(score)));
    }
    if plan::has(&spec, LinuxNamespaceType::User) {
        push(Rank::Namespace, Side::Jail, Step::Namespace(crate::namespace::Step::Root));
    }
    push(Rank::Session, Side::Jail, Step::Setting(setting::Step::Session));
    push(Rank::Session, Side::Jail, Step::Setting(setting::Step::Keyring));
    if document.terminal().unwrap_or(false) {
        let slot = request.console_socket.as_ref().map(|path| {
            push(Rank::Source, Side::Host, Step::Console(console::Step::Connect { path: path.clone(), slot: 0 }));
            0
        });
        let size = document.console_size().map(|size| (size.height() as u16, size.width() as u16));
        let size = size.or_else(|| sys::file::terminal_size(std::io::stdin()).ok());
        let make = console::Step::Make { slot, size, uid: document.user().uid(), console: false };
        push(Rank::Console, Side::Jail, Step::Console(make));
        if slot.is_none() {
            push(Rank::Console, Side::Host, Step::Console(console::Step::Take));
        }
    }
    for limit in document.rlimits().iter().flatten() {
        let (name, resource) = (limit.typ().to_string(), setting::resource(limit.typ()) as u32);
        let step = setting::Step::Limit { name, resource, soft: limit.soft(), hard: limit.hard() };
        push(Rank::Limit, Side::Jail, Step::Setting(step));
    }
    let cwd = std::ffi::CString::new(document.cwd().as_os_str().as_encoded_bytes())
        .map_err(|_| Error::invalid("use /cwd: it contains NUL"))?;
    push(Rank::Check, Side::Jail, Step::Setting(setting::Step::Directory(cwd)));
    for step in secmodel::plan(bundle::confinement(document, &spec, cache)?) {
        push(Rank::Confine, Side::Jail, Step::Secmodel(step));
    }
    steps.sort_by_key(|planned| planned.rank);
    let bundle = jail.state()?.bundle.clone();
    let program = plan::program(document)?;
    Ok(Plan { id: request.id.clone(), bundle, spec, flags: CloneFlags::empty(), steps, program })
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
