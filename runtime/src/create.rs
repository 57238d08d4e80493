//! Making a jail: reserve, write down, do the plan; on any error undo all of it.

use std::borrow::Cow;
use std::ffi::CString;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::SystemTime;

use base::{Ctx, JailId, Object, Rank, Side};
use cgroup::scope::Systemd;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use serde_json::value::RawValue;
use sys::process::Fork;
use sys::{Child, Doing, Error, Kind, Result};

use crate::channel::{Channel, Message};
use crate::inherit::Inherited;
use crate::init::{self, Starter};
use crate::journal::{Journal, Process, Record};
use crate::pid_file::PidFile;
use crate::plan::{Plan, Step};
use crate::planner::{self, Input};
use crate::store::{self, Entry, State, Store};
use crate::{birth, bundle, document, jail, label, members, namespace, prelude, process, resctrl};

/// What `create` and `run` are asked for.
#[derive(Debug)]
pub struct Request {
    /// The store.
    pub root: PathBuf,
    /// The jail's name.
    pub id: JailId,
    /// The bundle's folder, and what its configuration says.
    pub bundle: PathBuf,
    /// The specification, checked.
    pub spec: Spec,
    /// The same to the letter.
    pub config: Box<RawValue>,
    /// Where the terminal goes.
    pub console_socket: Option<PathBuf>,
    /// Where the number of process 1 is written.
    pub pid_file: Option<PathBuf>,
    /// Whether the caller's session keyring is kept.
    pub no_new_keyring: bool,
    /// Whether systemd makes the cgroups.
    pub systemd_cgroup: bool,
    /// What of the caller's comes in.
    pub inherited: Inherited,
}

/// A jail that has just been made.
#[derive(Debug)]
pub struct Made {
    /// The jail's folder.
    pub entry: Entry,
    /// Its process 1.
    pub child: Child,
    /// Its terminal, where the specification asks for one and no socket took it.
    pub terminal: Option<OwnedFd>,
    /// The store that it is in.
    pub store: Store,
    /// What it has made.
    pub objects: Vec<Object>,
    /// Where its program speaks to a service manager, if the runtime is to pass that on.
    pub notify: Option<OwnedFd>,
}

/// Plans without touching anything.
///
/// # Errors
/// As [`planner::plan`].
pub fn plan(request: &Request, cache: Option<&OwnedFd>) -> Result<(Plan, String)> {
    let mut layout = cgroup::Layout::read()?;
    if !sys::user::is_host_root() {
        let path = request.spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
        layout = layout.delegated_to_caller(path, request.id.as_str());
        if layout.hierarchies().next().is_none() && !namespace::is_new(&request.spec, LinuxNamespaceType::Pid) {
            crate::log::warn(members::UNKNOWN);
        }
    }
    let mark = format!("{}-{:08x}", Store::mark(&request.root, &request.id), nonce());
    let process = request.spec.process().as_ref().ok_or_else(|| Error::invalid("use /process: it is missing"))?;
    let linux = request.spec.linux().as_ref();
    let path = linux.and_then(|linux| linux.cgroups_path().as_deref());
    let systemd = request.systemd_cgroup.then(|| Systemd::look(path, request.id.as_str())).transpose()?;
    let scratch = CString::new(request.root.as_os_str().as_bytes()).map_err(|_| Error::invalid("use --root: NUL"))?;
    let size = sys::file::terminal_size(std::io::stdin()).ok();
    let spec = match &request.inherited.notify {
        Some(notify) => {
            let root = std::path::absolute(&request.root).doing(|| "use --root")?;
            Cow::Owned(notify.mounted(&request.spec, &root.join(request.id.as_str()))?)
        }
        None => Cow::Borrowed(&request.spec),
    };
    let reach = secmodel::Reach::of_caller()?;
    let plan = planner::plan(&Input {
        id: &request.id,
        bundle: &request.bundle,
        spec: &spec,
        layout: &layout,
        systemd: systemd.as_ref(),
        mark: &mark,
        console_socket: request.console_socket.as_deref(),
        terminal_size: size,
        new_keyring: !request.no_new_keyring,
        may_raise: bundle::may_raise_limits(&reach),
        confinement: bundle::confinement(process, &request.spec, cache, reach)?,
        resctrl: resctrl::mount_for(&request.spec),
        modules: label::Modules::read_for(process, request.spec.linux().as_ref()),
        inherited: &request.inherited,
        clone: bundle::is_clone(&request.spec).then_some(scratch),
    })
    .and_then(|plan| {
        cgroup::look(spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()), &layout)?;
        look_at_links(&plan)?;
        Ok(plan)
    })
    .map_err(|error| {
        let name = request.bundle.join("config.json");
        document::locate(error, &name.to_string_lossy(), request.config.get())
    })?;
    Ok((plan, mark))
}

/// Refuses what is known of the links that the jail is to get before anything is made: no move can be tried.
fn look_at_links(plan: &Plan) -> Result<()> {
    let devices = plan.of(Rank::Network).iter().filter_map(|planned| match &planned.step {
        Step::Netstack(netstack::Step::Move(device)) => Some(device),
        _ => None,
    });
    let devices: Vec<_> = devices.collect();
    match devices.is_empty() {
        true => Ok(()),
        false => netstack::device::look(&devices, namespace::path(&plan.spec, LinuxNamespaceType::Network)),
    }
}

/// Makes a jail: with `wait` up to where its process 1 waits for whoever starts it, else up to where its program runs.
///
/// # Errors
/// What did not work; everything that was made is gone again, or the error says what is not.
pub fn make(request: &Request, wait: bool) -> Result<Made> {
    let store = Store::make(&request.root)?;
    let cache = store.cache()?;
    let (plan, mark) = plan(request, Some(&cache))?;
    let (entry, lock) = reserve(&store, &request.id)?;
    let mut making = Making { request, plan, entry, objects: Vec::new(), child: None, notify: None };
    let mut ctx = Ctx::default();
    let made = making.go(&mark, wait, &mut ctx).map(|made| (made, lock));
    match made {
        Ok((terminal, _lock)) => {
            let Making { entry, child, objects, notify, .. } = making;
            let child = child.ok_or_else(|| Error::new(Kind::Kernel, "make the jail: it has no process 1"))?;
            Ok(Made { entry, child, terminal, store, objects, notify })
        }
        Err(error) => Err(making.undo(&store, &mut ctx, error)),
    }
}

/// How often the folder of a jail is made anew after a delete took it.
const RESERVATIONS: usize = 16;

/// Makes and locks the folder of a new jail.
fn reserve(store: &Store, id: &JailId) -> Result<(Entry, OwnedFd)> {
    for _ in 0..RESERVATIONS {
        let entry = match store.reserve(id) {
            // As below.
            Err(error) if error.kind == Kind::NotFound => continue,
            other => other?,
        };
        match entry.lock().and_then(|lock| Ok(entry.is_current(store)?.then_some(lock))) {
            Ok(Some(lock)) => return Ok((entry, lock)),
            // `delete --force` came between and took it for a half-made one: it is gone, and the name is free again.
            Ok(None) => {}
            Err(error) => return Err(store.remove(&entry).err().map_or(error.clone(), |other| error.and(other))),
        }
    }
    Err(Error::new(Kind::WrongState, format!("create {id}: its folder is deleted as often as it is made")))
}

struct Making<'a> {
    request: &'a Request,
    plan: Plan,
    entry: Entry,
    /// What was written down, and so may be there.
    objects: Vec<Object>,
    child: Option<Child>,
    notify: Option<OwnedFd>,
}

impl Making<'_> {
    fn go(&mut self, mark: &str, wait: bool, ctx: &mut Ctx) -> Result<Option<OwnedFd>> {
        let state = self.state(mark)?;
        // Held by process 1 too, until it becomes the program.
        let held = self.entry.write(&state)?;
        let mut journal = Journal::open(&self.entry)?;
        let listener = if wait { Some(self.listen()?) } else { None };
        if let Some(notify) = &self.request.inherited.notify {
            self.notify = notify.listen(&self.entry.path())?;
        }
        let pid_file = self.request.pid_file.as_deref().map(PidFile::begin).transpose()?;
        self.steps(0..self.plan.before(Rank::Join), ctx, &mut journal)?;
        let channel = self.clone(ctx, listener, held.as_raw_fd())?;
        let pid = self.pid()?;
        let meanwhile = self.plan.before(Rank::Meanwhile);
        self.steps(self.plan.before(Rank::Map)..meanwhile, ctx, &mut journal)?;
        if self.plan.waits_for_go() {
            channel.say(&Message::Go(pid), None)?;
        }
        self.steps(meanwhile..self.plan.before(Rank::Attach), ctx, &mut journal)?;
        init::walk(Side::Host, &self.plan, self.plan.walk(), ctx, &channel)?;
        let process = Process::of(pid)?;
        let write_pid = || pid_file.map_or(Ok(()), |file| file.finish(pid));
        if wait {
            channel.expect(&Message::Ready)?;
            write_pid()?;
            journal.append(&Record::Created(process))?;
            channel.say(&Message::Here, None)?;
            channel.expect(&Message::Here)?;
        } else {
            // Before process 1 may outlive the runtime, which is when it is told to go on.
            write_pid()?;
            journal.append(&Record::Process(process))?;
            channel.say(&Message::Start, None)?;
            channel.expect(&Message::Ready)?;
            started(&self.plan, ctx, &channel)?;
            journal.append(&Record::Created(process))?;
        }
        Ok(ctx.pass.take())
    }

    fn state(&self, mark: &str) -> Result<State> {
        Ok(State {
            version: store::VERSION,
            id: self.request.id.to_string(),
            bundle: self.request.bundle.clone(),
            created: humantime::format_rfc3339_nanos(SystemTime::now()).to_string(),
            boot: store::boot()?,
            owner: prelude::caller()?.0,
            mark: mark.to_owned(),
            config: self.request.config.clone(),
        })
    }

    /// Does steps of the host's side, each after what it makes was written down.
    fn steps(&mut self, range: Range<usize>, ctx: &mut Ctx, journal: &mut Journal) -> Result<()> {
        for planned in &self.plan.steps[range] {
            if let Some(object) = planned.step.makes() {
                journal.append(&Record::Object(object.clone()))?;
                self.objects.push(object);
            }
            planned.run(&self.plan, ctx)?;
        }
        Ok(())
    }

    fn listen(&self) -> Result<OwnedFd> {
        let step = || format!("make the control socket of {}", self.entry.id);
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).doing(step)?;
        let address = UnixAddr::new(&jail::control(&self.entry)).doing(step)?;
        bind(fd.as_raw_fd(), &address).doing(step)?;
        listen(&fd, Backlog::new(1).doing(step)?).doing(step)?;
        Ok(fd)
    }

    fn clone(&mut self, ctx: &mut Ctx, listener: Option<OwnedFd>, held: RawFd) -> Result<Channel> {
        match birth::process_1(&self.plan, ctx)? {
            (Fork::Child, channel) => {
                let starter = listener.map_or(Starter::Maker, Starter::Socket);
                init::become_program(&self.plan, std::mem::take(ctx), channel, starter, Some(held))
            }
            (Fork::Parent(child), channel) => {
                ctx.pid = Some(child.pid);
                self.child = Some(child);
                ctx.forget();
                Ok(channel)
            }
        }
    }

    fn pid(&self) -> Result<nix::unistd::Pid> {
        self.child.as_ref().map(|child| child.pid).ok_or_else(|| Error::new(Kind::Kernel, "find process 1"))
    }

    /// Takes everything back; the cause stays the first thing that the error says.
    fn undo(self, store: &Store, ctx: &mut Ctx, mut error: Error) -> Error {
        if let Err(other) = netstack::device::give_back(ctx) {
            error = error.and(other);
        }
        if let Some(child) = &self.child
            && let Err(other) = process::end(child)
        {
            error = error.and(other);
        }
        let undone = jail::undo(&self.objects).and_then(|()| {
            if self.child.is_some() {
                // Hooks may have run, and have made what only these take away.
                jail::after(&self.request.id, &self.request.bundle, &self.request.spec);
            }
            store.remove(&self.entry)
        });
        match undone {
            Ok(()) => error,
            Err(other) => error.and(other),
        }
    }
}

/// A number that no other jail of this name has had.
fn nonce() -> u32 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish() as u32
}

/// Waits until process 1, which was told to start, has become the program, and does the host's part of that.
///
/// # Errors
/// Why it could not, in the words of the jail's side.
pub fn started(plan: &Plan, ctx: &mut Ctx, channel: &Channel) -> Result<()> {
    channel.expect(&Message::Exec)?;
    init::walk(Side::Host, plan, &plan.steps[plan.before(Rank::Confine)..], ctx, channel)?;
    match channel.receive().doing(|| "hear from process 1")? {
        None => Ok(()),
        Some((Message::Fault(error), _)) => Err(error),
        Some((other, _)) => Err(Error::new(Kind::Kernel, format!("start the program: process 1 said {other:?}"))),
    }
}
