//! The verbs that change a jail.

use std::path::{Path, PathBuf};

use base::JailId;
use runtime::bundle::{self, Bundle};
use runtime::create::{self, Request};
use runtime::foreground::{self, Signals};
use runtime::inherit::Inherited;
use runtime::notify::Notify;
use runtime::prelude::{self, Users, Way};
use runtime::{exec, friendly, jail, pause, process, protect};
use sys::{Error, Result};

use crate::args::{self, Create, Delete, Exec, Globals, Kill, Named, Run};

/// `create`.
pub(crate) fn create(globals: &Globals, verb: &Create, inherited: Inherited) -> Result<i32> {
    let request = request(globals, verb, false, inherited)?;
    if verb.dry_run {
        return dry_run(&request);
    }
    terminal_has_a_taker(&request)?;
    protect::ensure(|| way_of(&request))?;
    create::make(&request, true).map(|_| 0)
}

/// `run`.
pub(crate) fn run(globals: &Globals, verb: &Run, inherited: Inherited) -> Result<i32> {
    let request = request(globals, &verb.create, !verb.detach, inherited)?;
    if verb.create.dry_run {
        return dry_run(&request);
    }
    if verb.detach {
        terminal_has_a_taker(&request)?;
    }
    protect::ensure(|| way_of(&request))?;
    runtime::start::run(&request, verb.detach, verb.keep)
}

/// How one who is not root gets to where the jail can be made.
fn way_of(request: &Request) -> Result<Way> {
    Users::of(&request.spec).map(|users| Way::New(Box::new(users)))
}

fn dry_run(request: &Request) -> Result<i32> {
    crate::show::print(&create::plan(request, None)?.0.to_string())
}

/// With nobody left to hold it, the terminal of a detached jail would hang up at once.
fn terminal_has_a_taker(request: &Request) -> Result<()> {
    let wants = request.spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false);
    match wants && request.console_socket.is_none() {
        true => Err(Error::invalid("use /process/terminal: a detached jail needs --console-socket for it")),
        false => Ok(()),
    }
}

/// Which door was taken decides only where the specification comes from. A jail that nobody attends gets no terminal, and
/// nobody passes on what it says to a service manager.
fn request(globals: &Globals, verb: &Create, attended: bool, mut inherited: Inherited) -> Result<Request> {
    if verb.no_pivot {
        return Err(Error::unsupported("use --no-pivot: without pivot_root(2) the host's tree stays in reach"));
    }
    let id = JailId::new(&verb.id)?;
    let Bundle { path, mut spec, config } = match &verb.bundle {
        Some(folder) => bundle::read(folder)?,
        None if args::is_oci_name() => bundle::read(Path::new("."))?,
        None => default_bundle(verb, attended)?,
    };
    prelude::translate(&mut spec)?;
    inherited.notify = Notify::find(&spec, attended)?;
    Ok(Request {
        root: globals.root(),
        id,
        bundle: path,
        spec,
        config,
        console_socket: verb.console_socket.clone(),
        pid_file: verb.pid_file.clone(),
        no_new_keyring: verb.no_new_keyring,
        systemd_cgroup: globals.systemd_cgroup,
        inherited,
    })
}

fn default_bundle(verb: &Create, attended: bool) -> Result<Bundle> {
    let terminal = attended && nix::unistd::isatty(std::io::stdin()).unwrap_or(false);
    let tree = verb.from.to_str().ok_or_else(|| Error::invalid("use --from: it is not UTF-8"))?;
    let text = friendly::spec(&verb.id, tree, &verb.command, terminal)?;
    bundle::parse(PathBuf::from("/"), text, "the default specification")
}

/// `start`.
pub(crate) fn start(globals: &Globals, verb: &Named) -> Result<i32> {
    runtime::start::start(&globals.root(), &JailId::new(&verb.id)?).map(|()| 0)
}

/// `exec`.
pub(crate) fn exec(globals: &Globals, verb: Exec, inherited: Inherited) -> Result<i32> {
    if let Some(path) = verb.cgroup.first() {
        return Err(Error::unsupported(format!("use --cgroup {path}: exec joins the cgroup of the jail itself")));
    }
    if verb.ignore_paused {
        let why = "the process would be born frozen; `jail resume` comes first";
        return Err(Error::unsupported(format!("use --ignore-paused: {why}")));
    }
    let id = JailId::new(&verb.id)?;
    protect::ensure(|| exec::way(&globals.root(), &id))?;
    let request = exec::Request {
        root: globals.root(),
        id,
        console_socket: verb.console_socket.clone(),
        pid_file: verb.pid_file.clone(),
        inherited,
    };
    let signals = if verb.detach { None } else { Some(Signals::block()?) };
    let running = exec::exec(&request, |spec| match &verb.process {
        Some(path) => bundle::process(path),
        None => exec::document(spec, wish(&verb)?),
    })?;
    match signals {
        Some(signals) => foreground::attend(&running.child, running.terminal, signals, None),
        None => Ok(0),
    }
}

fn wish(verb: &Exec) -> Result<exec::Wish> {
    let user = verb.user.as_deref().map(|user| {
        let number = |word: &str| {
            word.parse::<u32>().map_err(|_| Error::invalid(format!("use --user {user:?}: it is not UID or UID:GID")))
        };
        match user.split_once(':') {
            Some((uid, gid)) => Ok((number(uid)?, Some(number(gid)?))),
            None => Ok((number(user)?, None)),
        }
    });
    Ok(exec::Wish {
        args: verb.command.clone(),
        terminal: verb.tty,
        cwd: verb.cwd.clone(),
        env: verb.env.clone(),
        user: user.transpose()?,
        groups: verb.additional_gids.clone(),
        capabilities: verb.cap.clone(),
        no_new_privileges: verb.no_new_privs,
        apparmor: verb.apparmor.clone(),
        label: verb.process_label.clone(),
    })
}

/// `kill`.
pub(crate) fn kill(globals: &Globals, verb: &Kill) -> Result<i32> {
    let signal = process::signal(&verb.signal)?;
    let store = runtime::store::Store::open(&globals.root())?;
    jail::Jail::open(store.as_ref(), &JailId::new(&verb.id)?)?.kill(signal, verb.all).map(|()| 0)
}

/// `pause`.
pub(crate) fn pause(globals: &Globals, verb: &Named) -> Result<i32> {
    pause::pause(&globals.root(), &JailId::new(&verb.id)?).map(|()| 0)
}

/// `resume`.
pub(crate) fn resume(globals: &Globals, verb: &Named) -> Result<i32> {
    pause::resume(&globals.root(), &JailId::new(&verb.id)?).map(|()| 0)
}

/// `delete`.
pub(crate) fn delete(globals: &Globals, verb: &Delete) -> Result<i32> {
    jail::delete(&globals.root(), &JailId::new(&verb.id)?, verb.force).map(|()| 0)
}

/// `cleanup`: what is broken is removed, what runs is left alone.
pub(crate) fn cleanup(globals: &Globals) -> Result<i32> {
    jail::cleanup(&globals.root())?.iter().for_each(|id| println!("{id}"));
    Ok(0)
}
