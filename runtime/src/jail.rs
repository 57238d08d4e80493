//! A jail that is there, or what is left of one: its status, and how it is ended.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base::{JailId, Object};
use nix::sys::stat::fstat;
use nix::unistd::Pid;
use oci_spec::runtime::Spec;
use sys::{Doing, Error, Kind, Result};

use crate::journal::{self, Process, Record};
use crate::store::{self, Entry, State, Store};
use crate::{hooks, members, process, resctrl, strict, unfinished};

/// How often what looks half-made is looked at again, a millisecond apart.
const MOMENTS: usize = 3;
/// The same where its folder is new and empty: whoever made that may wait for a CPU before it can lock it.
const MOMENTS_OF_A_NEW_ONE: usize = 200;

/// How long a killed process may take to end before anybody is told.
const MOMENT: Duration = Duration::from_secs(1);

/// How long the objects of a jail may take to go, together: a process in the middle of a system call dies after it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a jail is in its life: computed from the kernel's own facts, never stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Is being made.
    Creating,
    /// Made; process 1 waits for `start`.
    Created,
    /// Its program runs.
    Running,
    /// It is frozen, its program started or not yet.
    Paused,
    /// Its program has ended.
    Stopped,
    /// It cannot be told, for this reason.
    Broken(String),
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Broken(_) => "broken",
        })
    }
}

/// What is known of a jail, whatever state it is in.
#[derive(Debug)]
pub struct Jail {
    /// Its folder.
    pub entry: Entry,
    state: Result<State, String>,
    held: bool,
    records: Vec<Record>,
    damaged: Option<String>,
    busy: bool,
}

impl Jail {
    /// Reads a jail. Changes nothing.
    ///
    /// # Errors
    /// `NotFound` where there is none; what is wrong with one that is there is part of its [`Status`].
    pub fn open(store: Option<&Store>, id: &JailId) -> Result<Self> {
        let Some(store) = store else {
            return Err(store::not_found(&format!("find jail {id}")));
        };
        Self::read(store.entry(id)?)
    }

    /// Reads the jail in an open folder.
    ///
    /// # Errors
    /// Where the journal cannot be read at all.
    pub fn read(entry: Entry) -> Result<Self> {
        let mut jail = Self::look(entry)?;
        for moment in 0..MOMENTS_OF_A_NEW_ONE {
            let looks_made = jail.busy || (jail.state.is_ok() && jail.is_made());
            let is_empty = jail.state.is_err() && jail.records.is_empty();
            if looks_made || (moment >= MOMENTS && !(is_empty && is_new(&jail.entry)?)) {
                break;
            }
            // It looks half-made. So it does for microseconds between the making of a folder and its lock, and to one
            // who read the journal just before the last line and asked for the lock just after.
            std::thread::sleep(Duration::from_millis(1));
            jail = Self::look(jail.entry)?;
        }
        Ok(jail)
    }

    fn look(entry: Entry) -> Result<Self> {
        let (state, held) = match entry.read() {
            Ok((state, fd)) => (Ok(state), sys::file::is_held(&fd).doing(|| format!("look at {}", entry.id))?),
            Err(reason) => (Err(reason), false),
        };
        let (records, damaged) = match journal::read(&entry) {
            Ok(read) => read,
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        let made = is_made(&records);
        if state.is_err() && fstat(&entry).doing(|| format!("look at {}", entry.id))?.st_nlink == 0 {
            // Deleted since its folder was opened.
            return Err(store::not_found(&format!("find jail {}", entry.id)));
        }
        // Whoever makes or deletes it keeps the folder locked; only then can it rightly be without these.
        let busy = (!made || state.is_err()) && entry.is_busy()?;
        Ok(Self { entry, state, held, records, damaged, busy })
    }

    /// Reads a jail that no other verb changes until the lock that comes with it is dropped. A change of limits that was
    /// interrupted is taken back.
    ///
    /// # Errors
    /// As [`Jail::open`], and where the lock cannot be had.
    pub fn open_locked(store: Option<&Store>, id: &JailId) -> Result<(Self, OwnedFd)> {
        let lock = Self::open(store, id)?.entry.lock()?;
        // Read again under the lock: what was read before may be old.
        let jail = Self::open(store, id)?.locked();
        unfinished::take_back(&jail)?;
        Ok((jail, lock))
    }

    /// The same, known by a caller who has the lock himself: nobody is making it any more.
    #[must_use]
    pub fn locked(mut self) -> Self {
        self.busy = false;
        self
    }

    /// What never changes in its life.
    ///
    /// # Errors
    /// `WrongState` where it is broken.
    pub fn state(&self) -> Result<&State> {
        self.state.as_ref().map_err(|reason| {
            let id = &self.entry.id;
            Error::new(Kind::WrongState, format!("use jail {id}: {reason} (`jail delete --force {id}` removes it)"))
        })
    }

    /// Its specification.
    ///
    /// # Errors
    /// As [`Jail::state`].
    pub fn spec(&self) -> Result<Spec> {
        let text = self.state()?.config.get();
        // It was warned of unknown properties when the jail was made.
        strict::from_str(text).map(|(spec, _)| spec).map_err(|wrong| {
            Error::new(Kind::WrongState, format!("read the specification of {}: {wrong}", self.entry.id))
        })
    }

    /// Its process 1, if one was ever written down.
    pub fn process(&self) -> Option<Process> {
        self.records.iter().rev().find_map(|record| match record {
            Record::Created(process) | Record::Process(process) => Some(*process),
            Record::Object(_) => None,
        })
    }

    /// Whether all of it was made.
    fn is_made(&self) -> bool {
        is_made(&self.records)
    }

    /// Its objects, in the order in which they were made.
    pub fn objects(&self) -> Vec<Object> {
        let object = |record: &Record| match record {
            Record::Object(object) => Some(object.clone()),
            Record::Created(_) | Record::Process(_) => None,
        };
        self.records.iter().filter_map(object).collect()
    }

    /// Where it is in its life, and its process 1 as long as that is alive.
    ///
    /// # Errors
    /// Where nobody knows whether that is alive: a jail that cannot be looked at has not ended.
    pub fn status(&self) -> Result<(Status, Option<Pid>)> {
        let state = match &self.state {
            Ok(state) => state,
            // Its deletion removes the state last but one.
            Err(_) if self.busy && self.process().is_some() => return Ok((Status::Stopped, None)),
            Err(_) if self.busy => return Ok((Status::Creating, None)),
            Err(reason) => return Ok((Status::Broken(reason.clone()), None)),
        };
        if store::boot().is_ok_and(|boot| boot != state.boot) {
            return Ok((Status::Stopped, None));
        }
        if let Some(reason) = &self.damaged {
            return Ok((Status::Broken(reason.clone()), None));
        }
        let process = match self.process() {
            Some(process) if process.is_alive()? && self.is_inside(process)? => Some(process),
            _ => None,
        };
        Ok(match process.map(|process| Pid::from_raw(process.pid)) {
            Some(pid) if self.is_made() && self.is_paused() => (Status::Paused, Some(pid)),
            // The state is held until process 1 becomes the program.
            Some(pid) if !self.held => (Status::Running, Some(pid)),
            Some(pid) if self.is_made() => (Status::Created, Some(pid)),
            None if self.is_made() => (Status::Stopped, None),
            _ if self.busy => (Status::Creating, None),
            _ => (Status::Broken("its creation was interrupted".to_owned()), None),
        })
    }

    /// Whether its cgroups are frozen.
    pub fn is_paused(&self) -> bool {
        cgroup::freezer::is_frozen(&self.objects())
    }

    /// Every process of it, as the caller's pid name space counts, in ascending order.
    ///
    /// # Errors
    /// As [`Jail::status`].
    pub fn processes(&self) -> Result<Vec<Pid>> {
        let objects = self.objects();
        if !members::has_cgroups(&objects)
            && let (Ok(spec), Some(first)) = (self.spec(), self.status()?.1)
        {
            return Ok(members::of(first, &spec));
        }
        Ok(cgroup::processes(&objects))
    }

    /// Whether a process is in the jail's cgroups: its number and start time alone could be another's after a reboot,
    /// or be written by somebody else. Where the host has no cgroups there is nothing to ask.
    ///
    /// One who is not root of the host relies on his own journal: he may have no cgroups, and the jail may write to those
    /// that he has.
    fn is_inside(&self, process: Process) -> Result<bool> {
        if !sys::user::is_host_root() {
            return Ok(true);
        }
        let objects = self.objects();
        match objects.is_empty() {
            true => Ok(cgroup::Layout::read()?.hierarchies().next().is_none()),
            false => cgroup::contain(&objects, Pid::from_raw(process.pid)),
        }
    }

    /// A descriptor of process 1, where it is alive and the jail's.
    ///
    /// # Errors
    /// As pidfd_open(2).
    pub fn open_process(&self) -> Result<Option<OwnedFd>> {
        let Some(process) = self.process() else { return Ok(None) };
        match process.open()? {
            // Asked after it was opened: the answer is about what the descriptor holds.
            Some(pidfd) if self.is_inside(process)? => Ok(Some(pidfd)),
            _ => Ok(None),
        }
    }

    /// A descriptor of process 1, and where the jail is in its life: one that is being made has still the host's root.
    ///
    /// # Errors
    /// As pidfd_open(2).
    pub fn open_with_status(&self) -> Result<(Option<OwnedFd>, Status)> {
        let pidfd = self.process().map(|process| process.open()).transpose()?.flatten();
        // As above: asked after it was opened.
        Ok((pidfd, self.status()?.0))
    }

    /// Sends a signal to process 1, or to all. To a paused jail it comes when that is resumed; SIGKILL resumes it, since
    /// on v1 a frozen process does not even die.
    ///
    /// # Errors
    /// `WrongState` where it does not run.
    pub fn kill(&self, signal: i32, all: bool) -> Result<()> {
        self.signal(signal, all)?;
        if signal == nix::libc::SIGKILL {
            let objects = self.objects();
            cgroup::freezer::release(&objects)?;
            self.tell_of_survivors(&objects)?;
        }
        Ok(())
    }

    /// SIGKILL was sent, which is all that was asked for; who waits for the end learns here why it does not come.
    fn tell_of_survivors(&self, objects: &[Object]) -> Result<()> {
        let Some(pidfd) = self.open_process()? else { return Ok(()) };
        if !process::ended(&pidfd, Some(MOMENT))? {
            let stuck = cgroup::unreachable(objects);
            if !stuck.is_empty() {
                crate::log::warn(&format!("{} was killed and lives on: {}", self.entry.id, stuck.join(", ")));
            }
        }
        Ok(())
    }

    fn signal(&self, signal: i32, all: bool) -> Result<()> {
        let step = || format!("kill {}", self.entry.id);
        if all {
            let objects = self.objects();
            if !members::has_cgroups(&objects)
                && let Some(first) = self.status()?.1
            {
                return members::kill(first, &self.spec()?, signal);
            }
            return cgroup::kill_all(&objects, signal);
        }
        match self.open_process()? {
            Some(pidfd) => match sys::process::pidfd_send_signal(pidfd, signal) {
                // It ended between the look and the signal.
                Err(nix::errno::Errno::ESRCH) => Err(not_running(step())),
                other => other.doing(step),
            },
            None => Err(not_running(step())),
        }
    }

    /// Ends and removes a jail, and everything that it has made.
    ///
    /// # Errors
    /// `WrongState` where it runs and `force` is off; what could not be undone, with its holders: the jail stays then.
    pub fn delete(self, store: &Store, path: &Path, force: bool) -> Result<()> {
        self.remove(store, path, force, false)
    }

    /// Removes it if it is broken, and leaves it alone otherwise.
    ///
    /// # Errors
    /// As [`Jail::delete`].
    pub fn mend(self, store: &Store, path: &Path) -> Result<()> {
        self.remove(store, path, true, true)
    }

    fn remove(self, store: &Store, path: &Path, force: bool, only_broken: bool) -> Result<()> {
        let id = self.entry.id.clone();
        let lock = match self.entry.lock() {
            // A folder that is gone cannot be opened anew.
            Err(error) if error.kind == Kind::NotFound => return missing(&id, force),
            other => other?,
        };
        if !self.entry.is_current(store)? {
            return missing(&id, force);
        }
        // Read again under the lock: what was read before may be old.
        let jail = Self::read(store.entry(&id)?)?.locked();
        let (status, _) = jail.status()?;
        if only_broken && !matches!(status, Status::Broken(_)) {
            return Ok(());
        }
        // A created one has not begun to do anything; containerd deletes it as runc lets it.
        if !force && !matches!(status, Status::Stopped | Status::Created) {
            let reason = match &status {
                Status::Broken(reason) => format!("it is broken: {reason}"),
                other => format!("container is not stopped: it is {other}"),
            };
            return Err(Error::new(
                Kind::WrongState,
                format!("delete {id}: {reason} (`jail delete --force {id}` ends it)"),
            ));
        }
        let dying = jail.end()?;
        // Before the wait: a frozen process dies only when its cgroup is thawed, and undoing does that.
        undo(&jail.all_objects(path)).map_err(|error| jail.survived().unwrap_or(error))?;
        jail.wait(dying)?;
        if let (Ok(spec), Ok(state)) = (jail.spec(), jail.state()) {
            after(&id, &state.bundle, &spec);
        }
        store.remove(&jail.entry)?;
        drop(lock);
        Ok(())
    }

    /// Kills process 1; with its pid name space goes all that is in it.
    fn end(&self) -> Result<Option<OwnedFd>> {
        let Some(pidfd) = self.open_process()? else { return Ok(None) };
        match sys::process::pidfd_send_signal(&pidfd, nix::libc::SIGKILL) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(Some(pidfd)),
            Err(errno) => Err(Error::kernel(format!("kill {}", self.entry.id), errno)),
        }
    }

    fn wait(&self, pidfd: Option<OwnedFd>) -> Result<()> {
        let Some(pidfd) = pidfd else { return Ok(()) };
        match process::ended(&pidfd, Some(PATIENCE))? {
            true => Ok(()),
            false => {
                let pid = self.process().map_or(0, |process| process.pid);
                let unknown = || Error::new(Kind::Kernel, format!("end {}: process {pid} does not die", self.entry.id));
                Err(self.survived().unwrap_or_else(unknown))
            }
        }
    }

    /// Why a jail that was killed does not end: one reason for all of its objects that cannot be undone yet.
    fn survived(&self) -> Option<Error> {
        let stuck = cgroup::unreachable(&self.objects());
        let id = &self.entry.id;
        let way = format!("no signal reaches it there (`jail delete --force {id}` again, once that answers)");
        (!stuck.is_empty()).then(|| Error::new(Kind::Kernel, format!("end {id}: {}: {way}", stuck.join(", "))))
    }

    /// Its objects by the journal and by their marks: either alone may be incomplete.
    fn all_objects(&self, path: &Path) -> Vec<Object> {
        let mut objects = self.objects();
        if self.state.is_err() || self.damaged.is_some() || !self.is_made() {
            let Ok(layout) = cgroup::Layout::read() else { return objects };
            let directories = cgroup::object::find(&layout, &Store::mark(path, &self.entry.id));
            for found in cgroup::scope::of_directories(&directories).into_iter().chain(directories) {
                if !objects.iter().any(|known| known.name == found.name) {
                    objects.push(found);
                }
            }
        }
        objects
    }
}

/// Whether a folder was touched last in this second or the one before.
fn is_new(entry: &Entry) -> Result<bool> {
    let changed = fstat(entry).doing(|| format!("look at {}", entry.id))?.st_ctime;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    Ok((0..=1).contains(&(now - changed)))
}

fn is_made(records: &[Record]) -> bool {
    records.iter().any(|record| matches!(record, Record::Created(_)))
}

/// Runs the hooks of `poststop`. The jail is gone by now, so that one that fails is told of and hides nothing.
pub fn after(id: &JailId, bundle: &Path, spec: &Spec) {
    let hooks = hooks::all(spec);
    let mut hooks = hooks.iter().filter(|(.., moment)| *moment == hooks::Moment::Poststop).peekable();
    if hooks.peek().is_none() {
        return;
    }
    let state = hooks::state(id.as_str(), "stopped", None, bundle, spec);
    for (at, hook, _) in hooks {
        if let Err(error) = hooks::run(at, hook, &state) {
            crate::log::warn(&error.to_string());
        }
    }
}

/// The words that containerd and CRI-O match; `tests/messages.rs` says where.
pub(crate) fn not_running(step: String) -> Error {
    Error::new(Kind::WrongState, format!("{step}: container not running"))
}

/// Undoes objects, newest first. One that resists keeps no other back.
///
/// # Errors
/// What is not gone, all of it.
pub fn undo(objects: &[Object]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut failed: Option<Error> = None;
    for object in objects.iter().rev() {
        let undone = match object.kind.as_str() {
            cgroup::object::KIND => cgroup::object::undo(object, deadline),
            cgroup::scope::KIND => cgroup::scope::undo(object, deadline),
            resctrl::KIND => resctrl::undo(object),
            // A newer program's: what is not known is not touched, and keeps nothing else back.
            other => {
                crate::log::warn(&format!("{object} is left alone: this program knows no {other}"));
                Ok(())
            }
        };
        if let Err(error) = undone {
            failed = Some(match failed {
                Some(first) => first.and(error),
                None => error,
            });
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Removes what stands under a jail's name, in whatever state; `false` where nothing does.
///
/// # Errors
/// As [`Jail::delete`].
pub fn delete(root: &Path, id: &JailId, force: bool) -> Result<()> {
    let Some(store) = Store::open(root)? else {
        return missing(id, force);
    };
    match store.entry(id).and_then(Jail::read) {
        Ok(jail) => jail.delete(&store, root, force),
        Err(error) if error.kind == Kind::NotFound => missing(id, force),
        // A file or a link in the place of the folder.
        Err(error) if force && matches!(error.errno(), Some(nix::errno::Errno::ENOTDIR | nix::errno::Errno::ELOOP)) => {
            store.remove_stray(id)
        }
        Err(error) => Err(error),
    }
}

/// Removes every broken jail, and tells which.
///
/// # Errors
/// What could not be removed, after all others were.
pub fn cleanup(root: &Path) -> Result<Vec<JailId>> {
    let (mut mended, mut failed) = (Vec::new(), None::<Error>);
    let Some(store) = Store::open(root)? else { return Ok(mended) };
    for summary in list(root)?.into_iter().filter(|summary| matches!(summary.status, Status::Broken(_))) {
        let done = match store.entry(&summary.id).and_then(Jail::read) {
            Ok(jail) => jail.mend(&store, root),
            Err(error) if error.kind == Kind::NotFound => continue,
            Err(_) => delete(root, &summary.id, true),
        };
        match done {
            Ok(()) => mended.push(summary.id),
            Err(error) => failed = Some(failed.map_or(error.clone(), |first| first.and(error))),
        }
    }
    failed.map_or(Ok(mended), Err)
}

fn missing(id: &JailId, force: bool) -> Result<()> {
    match force {
        // Callers delete again after the first time, and what they want is so.
        true => Ok(()),
        false => Err(store::not_found(&format!("delete {id}"))),
    }
}

/// One line of `list`, and the answer of `state`.
#[derive(Debug)]
pub struct Summary {
    /// The name.
    pub id: JailId,
    /// Where it is in its life.
    pub status: Status,
    /// Process 1, as long as it is alive.
    pub pid: Option<Pid>,
    /// The bundle, where the state can be read; so for all below.
    pub bundle: Option<PathBuf>,
    /// When it was made.
    pub created: Option<String>,
    /// Who made it.
    pub owner: Option<u32>,
    /// The version of its specification.
    pub version: Option<String>,
    /// Where its root is on the host.
    pub rootfs: Option<PathBuf>,
    /// Its annotations.
    pub annotations: std::collections::BTreeMap<String, String>,
}

impl Summary {
    /// Describes a jail.
    ///
    /// # Errors
    /// As [`Jail::status`].
    pub fn of(jail: &Jail) -> Result<Self> {
        let (status, pid) = jail.status()?;
        let state = jail.state.as_ref().ok();
        let spec = jail.spec().ok();
        let root = spec.as_ref().and_then(|spec| spec.root().as_ref()).map(|root| root.path().clone());
        Ok(Self {
            id: jail.entry.id.clone(),
            status,
            pid,
            bundle: state.map(|state| state.bundle.clone()),
            created: state.map(|state| state.created.clone()),
            owner: state.map(|state| state.owner),
            version: spec.as_ref().map(|spec| spec.version().clone()),
            rootfs: state.and_then(|state| root.map(|root| state.bundle.join(root))),
            annotations: spec.and_then(|spec| spec.annotations().clone()).unwrap_or_default().into_iter().collect(),
        })
    }

    fn broken(id: JailId, reason: String) -> Self {
        let status = Status::Broken(reason);
        let annotations = std::collections::BTreeMap::new();
        Self {
            id,
            status,
            pid: None,
            bundle: None,
            created: None,
            owner: None,
            version: None,
            rootfs: None,
            annotations,
        }
    }
}

/// Describes every jail of a store. A broken one is in it with its reason; nothing is changed.
///
/// # Errors
/// Where the store itself cannot be read.
pub fn list(root: &Path) -> Result<Vec<Summary>> {
    let Some(store) = Store::open(root)? else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    for id in store.ids()? {
        match store.entry(&id).and_then(Jail::read).and_then(|jail| Summary::of(&jail)) {
            Ok(summary) => all.push(summary),
            // Deleted since the names were read.
            Err(error) if error.kind == Kind::NotFound => {}
            Err(error) => all.push(Summary::broken(id, error.to_string())),
        }
    }
    Ok(all)
}

/// The socket on which a created jail waits.
pub fn control(entry: &Entry) -> PathBuf {
    entry.path().join(store::CONTROL)
}
