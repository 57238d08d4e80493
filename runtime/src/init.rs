//! Process 1 of a jail until it becomes the program, and the walk over the plan that both sides share.

use std::borrow::Cow;
use std::ffi::{CString, OsStr};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use base::{Ctx, Rank, Side};
use nix::errno::Errno;
use nix::fcntl::{OFlag, ResolveFlag, open};
use nix::sys::prctl::{set_dumpable, set_pdeathsig};
use nix::sys::signal::Signal;
use nix::sys::socket::{SockFlag, accept4};
use nix::sys::stat::{Mode, SFlag, stat, umask};
use nix::unistd::{AccessFlags, access, execve, getpid};
use sys::{Doing, Error, Kind, Result};

use crate::channel::{Channel, Message};
use crate::plan::{Plan, Planned};
use crate::program::Program;
use crate::setting;

/// Who tells process 1 to start.
#[derive(Debug)]
pub enum Starter {
    /// The runtime that made it: `run` and `exec`.
    Maker,
    /// Whoever connects to this socket: `start`, after `create`.
    Socket(OwnedFd),
}

/// Hides this process from those of the jail, and asks the kernel to end it when the runtime dies: until the jail is
/// created it must not outlive it. A change of user undoes both.
///
/// # Errors
/// As prctl(2).
pub fn hide_and_tie() -> Result<()> {
    set_pdeathsig(Signal::SIGKILL).doing(|| "tie this process to the runtime")?;
    set_dumpable(false).doing(|| "make this process not dumpable")
}

/// Does the steps of one side. At each change of side, the one who is done says `Here`.
///
/// # Errors
/// That of a step, or what the other side reported.
pub fn walk(mine: Side, plan: &Plan, steps: &[Planned], ctx: &mut Ctx, channel: &Channel) -> Result<()> {
    let mut turn = Side::Jail;
    for planned in steps {
        hand_over(mine, &mut turn, planned.side, ctx, channel)?;
        if planned.side == mine {
            planned.run(plan, ctx)?;
        }
    }
    hand_over(mine, &mut turn, Side::Jail, ctx, channel)
}

fn hand_over(mine: Side, turn: &mut Side, next: Side, ctx: &mut Ctx, channel: &Channel) -> Result<()> {
    if *turn == next {
        return Ok(());
    }
    if *turn == mine {
        let fd = if mine == Side::Jail { ctx.pass.take() } else { None };
        channel.say(&Message::Here, fd.as_ref())?;
    } else if let Some(fd) = channel.expect(&Message::Here)? {
        ctx.pass = Some(fd);
    }
    *turn = next;
    Ok(())
}

/// Is process 1: makes the inside of the jail, waits, and becomes the program. Never returns.
///
/// `held` is the descriptor of the jail's state: open until the program runs, and closed by that.
pub fn become_program(plan: &Plan, mut ctx: Ctx, channel: Channel, starter: Starter, held: Option<RawFd>) -> ! {
    let mut speaker = channel;
    let error = match prepare(plan, &mut ctx, &mut speaker, starter, held) {
        Ok(image) => finish(plan, &mut ctx, &speaker, &image),
        Err(error) => error,
    };
    speaker.give_up(error)
}

/// What execve(2) takes, found while nothing but the jail was in reach.
struct Image {
    path: CString,
    env: Vec<CString>,
}

fn prepare(plan: &Plan, ctx: &mut Ctx, channel: &mut Channel, starter: Starter, held: Option<RawFd>) -> Result<Image> {
    hide_and_tie()?;
    sys::process::reset_signals();
    umask(Mode::empty());
    if plan.waits_for_go() {
        match channel.receive().doing(|| "hear from the runtime")? {
            Some((Message::Go(pid), _)) => ctx.pid = Some(pid),
            // The runtime died before it could be told to take this process with it.
            _ => sys::process::exit_now(1),
        }
    }
    let steps = plan.walk();
    let (made, check) = steps.split_at(steps.partition_point(|planned| planned.rank < Rank::Check));
    walk(Side::Jail, plan, made, ctx, channel)?;
    let env = environment(plan, ctx);
    forget_the_host(ctx, channel, &starter, held, plan.program.inherited)?;
    walk(Side::Jail, plan, check, ctx, channel)?;
    let image = Image { path: find(&plan.program)?, env };
    channel.send(&Message::Ready, None).doing(|| "report that the jail is ready")?;
    let untie = || set_pdeathsig(None).doing(|| "untie this process from the runtime");
    match starter {
        // Comes as soon as the jail is written down, and the maker stays until it has heard Exec.
        Starter::Maker => {
            channel.expect(&Message::Start)?;
            untie()?;
        }
        Starter::Socket(listener) => {
            // Written down: from here on it lives without the runtime.
            channel.expect(&Message::Here)?;
            untie()?;
            // Only now may the runtime end: before, its end would be this process's too.
            channel.send(&Message::Here, None).doing(|| "report that process 1 is untied")?;
            *channel = wait_for_start(&listener)?;
        }
    }
    Ok(image)
}

/// Closes every descriptor of the host, before a path is looked up that a link of the image may lead anywhere: through
/// /proc/self/fd it would lead to whatever is still open (CVE-2024-21626). Close-on-exec is too late for that.
///
/// What the caller asks to pass on stays, whatever it leads to.
fn forget_the_host(
    ctx: &mut Ctx,
    channel: &Channel,
    starter: &Starter,
    held: Option<RawFd>,
    inherited: u32,
) -> Result<()> {
    ctx.forget();
    ctx.root = None;
    let mut keep = vec![channel.as_raw_fd()];
    if let Starter::Socket(listener) = starter {
        keep.push(listener.as_raw_fd());
    }
    keep.extend(held);
    keep.extend(setting::inherited(inherited));
    sys::file::close_all_but(&keep).doing(|| "close the descriptors of the host")
}

fn environment(plan: &Plan, ctx: &Ctx) -> Vec<CString> {
    let mut env = plan.program.env.clone();
    env.extend(plan.program.home_of.map(|uid| home(ctx, uid)));
    env
}

/// Waits for a caller that says `Start`. One that leaves without a word was killed; the next may come.
fn wait_for_start(listener: &OwnedFd) -> Result<Channel> {
    loop {
        let fd = match accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            // A caller that left before it was answered, or a stop and continue of this process.
            Err(Errno::EINTR | Errno::ECONNABORTED) => continue,
            other => other.doing(|| "wait for start")?,
        };
        let channel = Channel::new(sys::file::received(fd), "the caller of start");
        if let Ok(Some((Message::Start, _))) = channel.receive() {
            return Ok(channel);
        }
    }
}

/// The last steps; comes back only with the reason why the program did not start.
fn finish(plan: &Plan, ctx: &mut Ctx, channel: &Channel, image: &Image) -> Error {
    let done = (|| {
        let (before, confine) = (plan.before(Rank::Ready)..plan.before(Rank::Confine), plan.before(Rank::Confine)..);
        walk(Side::Jail, plan, &plan.steps[before], ctx, channel)?;
        // Before the filter, which may forbid to speak. A fault can still follow.
        channel.send(&Message::Exec, None).doing(|| "report that the program starts")?;
        walk(Side::Jail, plan, &plan.steps[confine], ctx, channel)?;
        let env = numbered(plan, image);
        let Err(errno) = execve(&image.path, &plan.program.args, &env);
        Err(Error::kernel(format!("execute {}", image.path.to_string_lossy()), errno))
    })();
    match done {
        Ok(()) => Error::new(Kind::Kernel, "execute the program: execve returned"),
        Err(error) => error,
    }
}

/// The environment, with the number of this process where a variable is to have it. In `exec` it is known only now, when
/// a filter may be at work; that forbids getpid(2) to nobody.
fn numbered<'a>(plan: &Plan, image: &'a Image) -> Cow<'a, [CString]> {
    if plan.program.numbered.is_empty() {
        return Cow::Borrowed(&image.env);
    }
    let number = getpid();
    let lines = plan.program.numbered.iter().filter_map(|name| CString::new(format!("{name}={number}")).ok());
    Cow::Owned(image.env.iter().cloned().chain(lines).collect())
}

/// Finds the program as execvp(3) does, but says what is wrong with it.
fn find(program: &Program) -> Result<CString> {
    let Some(name) = program.args.first() else {
        return Err(Error::invalid("use /process/args: it is empty"));
    };
    let shown = name.to_string_lossy();
    if name.as_bytes().contains(&b'/') {
        return usable(name).map(|()| name.clone()).map_err(|errno| refused(&shown, name, errno));
    }
    let mut denied = None;
    for folder in &program.search {
        let path = folder.join(OsStr::from_bytes(name.as_bytes()));
        let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { continue };
        match usable(&path) {
            Ok(()) => return Ok(path),
            Err(Errno::EACCES) => denied = Some(path),
            Err(_) => {}
        }
    }
    match denied {
        Some(path) => Err(refused(&path.to_string_lossy(), &path, Errno::EACCES)),
        // The words that docker and podman turn into exit code 127.
        None => Err(Error::new(Kind::NotFound, format!("execute {shown}: executable file not found in $PATH"))),
    }
}

/// Why a program cannot be one. `permission denied` are the words that docker and podman turn into exit code 126.
fn refused(shown: &str, path: &CString, errno: Errno) -> Error {
    let is_folder =
        errno == Errno::EACCES && open(path.as_c_str(), OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).is_ok();
    let why = if is_folder { ": it is a directory" } else { "" };
    Error::kernel(format!("execute {shown}{why}"), errno)
}

fn usable(path: &CString) -> nix::Result<()> {
    let found = stat(path.as_c_str())?;
    if SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Err(Errno::EACCES);
    }
    access(path.as_c_str(), AccessFlags::X_OK)
}

/// The largest /etc/passwd that is read, in bytes: it belongs to the image, which is not trusted.
const LARGEST_PASSWD: u64 = 1 << 20;

/// `HOME=` with what the jail's own passwd(5) says of the user, or `/`.
fn home(ctx: &Ctx, uid: u32) -> CString {
    let home = ctx.root.as_ref().and_then(|root| {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = storage::beneath::open_with(root, c"/etc/passwd", flags, ResolveFlag::empty()).ok()?;
        let mode = SFlag::from_bits_truncate(nix::sys::stat::fstat(&file).ok()?.st_mode) & SFlag::S_IFMT;
        let mut text = Vec::new();
        if mode == SFlag::S_IFREG {
            std::fs::File::from(file).take(LARGEST_PASSWD).read_to_end(&mut text).ok()?;
        }
        home_in(&text, uid)
    });
    let mut line = b"HOME=".to_vec();
    line.extend(home.filter(|home| Path::new(OsStr::from_bytes(home)).is_absolute()).unwrap_or_else(|| b"/".to_vec()));
    CString::new(line).unwrap_or_else(|_| c"HOME=/".to_owned())
}

fn home_in(passwd: &[u8], uid: u32) -> Option<Vec<u8>> {
    passwd.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let found: u32 = std::str::from_utf8(fields.nth(2)?).ok()?.parse().ok()?;
        (found == uid).then(|| fields.nth(2).map(<[u8]>::to_vec))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_home_is_that_of_the_number_not_of_the_name() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\n5:x:7:7::/wrong:/bin/sh\nfive:x:5:5::/home/five:/bin/sh\n";
        assert_eq!(home_in(passwd, 5).as_deref(), Some(&b"/home/five"[..]));
        assert_eq!(home_in(passwd, 6), None);
    }
}
