//! Starting a created jail, and running one from its making to its end.

use std::path::Path;

use base::{Ctx, JailId, Object};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use serde_json::Value;
use std::os::fd::AsRawFd;
use sys::{Doing, Error, Kind, Result};

use crate::channel::{Channel, Message};
use crate::create::{self, Request};
use crate::foreground::{self, Signals};
use crate::jail::{self, Jail, Status};
use crate::notify::{self, Notify};
use crate::plan::Plan;
use crate::relay::Relay;
use crate::store::{Entry, Store};
use crate::{hooks, listener};

/// Starts the program of a created jail.
///
/// # Errors
/// `WrongState` where it is not created; why the program could not be started.
pub fn start(root: &Path, id: &JailId) -> Result<()> {
    let store = Store::open(root)?;
    let (jail, lock) = Jail::open_locked(store.as_ref(), id)?;
    let step = || format!("start {id}");
    let pid = match jail.status()? {
        (Status::Created, pid) => pid,
        (Status::Broken(reason), _) => {
            return Err(Error::new(Kind::WrongState, format!("{}: it is broken: {reason}", step())));
        }
        (other, _) => {
            return Err(Error::new(Kind::WrongState, format!("{}: it is {other}, not created", step())));
        }
    };
    let spec = jail.spec()?;
    let bundle = jail.state()?.bundle.clone();
    let rest = Plan::rest(id, &bundle, &spec);
    let mut ctx = Ctx { pid, ..Ctx::default() };
    // Before process 1 has heard anything: without its agent the jail stays as it is.
    ctx.agent = listener::step(&spec, "created").map(|step| step.connect()).transpose()?;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).doing(step)?;
    let address = UnixAddr::new(&jail::control(&jail.entry)).doing(step)?;
    connect(fd.as_raw_fd(), &address).doing(step)?;
    let channel = Channel::new(fd, "process 1");
    channel.say(&Message::Start, None)?;
    if let Err(error) = create::started(&rest, &mut ctx, &channel) {
        // It may wait for an agent that does not have the listener.
        let killed = if rest.steps.is_empty() { Ok(()) } else { jail.kill(nix::libc::SIGKILL, false) };
        return Err(killed.err().map_or(error.clone(), |other| error.and(other)));
    }
    drop(lock);
    after_start(&spec, &hooks::state(id.as_str(), "running", pid, &bundle, &spec));
    Ok(())
}

/// The hooks of `poststart`. The specification wants a warning where one fails: the program runs already.
fn after_start(spec: &oci_spec::runtime::Spec, state: &Value) {
    for (at, hook, _) in hooks::all(spec).iter().filter(|(.., moment)| *moment == hooks::Moment::Poststart) {
        if let Err(error) = hooks::run(at, hook, state) {
            crate::log::warn(&error.to_string());
        }
    }
}

/// Makes a jail, starts it, and unless it is to be detached waits for its end and removes it.
///
/// The answer is the program's exit code, 0 where it was detached.
///
/// # Errors
/// As `create`, `start` and `delete`. A jail that could not be started is gone again.
pub fn run(request: &Request, detach: bool, keep: bool) -> Result<i32> {
    let signals = if detach { None } else { Some(Signals::block()?) };
    // Before anything is made: one that does not listen is refused.
    let manager = request.inherited.notify.as_ref().map(Notify::connect).transpose()?.flatten();
    let made = create::make(request, false)?;
    let pid = Some(made.child.pid);
    after_start(&request.spec, &hooks::state(request.id.as_str(), "running", pid, &request.bundle, &request.spec));
    let Some(signals) = signals else { return Ok(0) };
    let ways = made.notify.zip(manager);
    let relay = ways.map(|(inside, manager)| Relay::new(inside, manager, made.objects.clone(), made.child.pid));
    let relayed = relay.is_some();
    let code = foreground::attend(&made.child, made.terminal, signals, relay)?;
    if relayed {
        notify::forget(&made.entry.path());
    }
    if !keep {
        remove(&made.store, &made.entry, &made.objects, request)?;
    }
    Ok(code)
}

/// Removes a jail of which everything is known, since this process has made it: nothing is read again.
fn remove(store: &Store, entry: &Entry, objects: &[Object], request: &Request) -> Result<()> {
    let _lock = entry.lock()?;
    // Somebody else may have deleted it by force, and even have made another one of the name.
    if !entry.is_current(store)? {
        return Ok(());
    }
    jail::undo(objects)?;
    jail::after(&request.id, &request.bundle, &request.spec);
    store.remove(entry)
}
