//! The listener of a filter that notifies: handed to the agent whose socket the specification names.
//!
//! Process 1 loads the filter and can then say nothing but `Here`, by one write(2); the runtime takes the listener out of
//! its table of descriptors. So nothing of the jail ever holds a socket that leads to the agent.

use std::fmt;
use std::io::{IoSlice, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use base::{Ctx, Rank, Side};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::Pid;
use oci_spec::runtime::Spec;
use serde_json::{Value, json};
use sys::{Doing, Error, Kind, Result};

use crate::hooks;
use crate::plan::{self, Plan, Planned};

/// How long an agent may take to take what it is sent, in seconds: the jail is locked meanwhile.
const PATIENCE: i64 = 5;

/// Host: the listener goes to the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The agent's socket.
    path: PathBuf,
    /// What is told to it and to nobody else.
    metadata: Option<String>,
    /// The jail's status at that time.
    status: &'static str,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "send the seccomp listener to {}", self.path.display())
    }
}

/// The step of a specification whose filter notifies.
pub fn step(spec: &Spec, status: &'static str) -> Option<Step> {
    let profile = spec.linux().as_ref()?.seccomp().as_ref()?;
    let path = profile.listener_path().clone().filter(|_| secmodel::seccomp::notifies(profile))?;
    Some(Step { path, metadata: profile.listener_metadata().clone(), status })
}

/// The steps of a confinement, with the step that sends the listener behind the one that loads its filter.
pub fn confine(confinement: secmodel::Confinement, spec: &Spec, status: &'static str) -> Vec<Planned> {
    let planned = |side, step| Planned { rank: Rank::Confine, side, step };
    let confine = secmodel::plan(confinement).into_iter();
    let mut steps: Vec<_> = confine.map(|step| planned(Side::Jail, plan::Step::Secmodel(step))).collect();
    if let (Some(at), Some(send)) = (steps.iter().position(is_filter), step(spec, status)) {
        steps.insert(at + 1, planned(Side::Host, plan::Step::Listener(send)));
    }
    steps
}

/// Whether a step loads a filter.
pub fn is_filter(planned: &Planned) -> bool {
    matches!(planned.step, plan::Step::Secmodel(secmodel::Step::Seccomp(_)))
}

/// What `exec` calls between a filter that is loaded before the clone and the sending of its listener.
const EARLY: &[&str] = &["capget", "capset", "madvise", "clone"];

/// Refuses an exec that would wait for an agent which does not have the listener yet.
///
/// # Errors
/// `Unsupported`, with the way out.
pub fn refuse_early(spec: &Spec) -> Result<()> {
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    match profile.and_then(|profile| secmodel::seccomp::notified(profile, EARLY)) {
        None => Ok(()),
        Some(call) => Err(Error::unsupported(format!(
            "exec under /linux/seccomp: it notifies of {call}, which is called before the agent has the listener; \
             with /process/noNewPrivileges it is not"
        ))),
    }
}

impl Step {
    /// Connects to the agent.
    ///
    /// # Errors
    /// As connect(2).
    pub fn connect(&self) -> Result<OwnedFd> {
        let step = || format!("connect to the seccomp agent of /linux/seccomp/listenerPath {}", self.path.display());
        let agent = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).doing(step)?;
        // Of connect(2) too, where nobody accepts.
        setsockopt(&agent, sockopt::SendTimeout, &TimeVal::seconds(PATIENCE)).doing(step)?;
        let connected = UnixAddr::new(&self.path).and_then(|address| connect(agent.as_raw_fd(), &address));
        connected.map_err(|errno| slow(step(), errno))?;
        Ok(agent)
    }

    /// Does the step.
    ///
    /// # Errors
    /// Where the listener cannot be taken, or the agent does not take it.
    pub fn run(&self, plan: &Plan, ctx: &mut Ctx) -> Result<()> {
        let pid = ctx.program().ok_or_else(|| Error::kernel(self, Errno::ESRCH))?;
        let agent = ctx.agent.take().map_or_else(|| self.connect(), Ok)?;
        let pidfd = sys::process::pidfd_open(pid).doing(|| self)?;
        let number = number(pid).doing(|| self)?;
        let number = number.ok_or_else(|| Error::new(Kind::Kernel, format!("{self}: process {pid} has none")))?;
        let listener = match sys::process::pidfd_getfd(&pidfd, number) {
            Err(Errno::EPERM) => {
                return Err(Error::new(Kind::Denied, format!("{self}: the runtime lacks CAP_SYS_PTRACE to take it")));
            }
            taken => taken.doing(|| self)?,
        };
        let sent = send(agent, self.state(plan, pid).to_string().as_bytes(), &listener);
        sent.map_err(|errno| slow(self.to_string(), errno))
    }

    /// Source: OCI runtime, The Container Process State.
    fn state(&self, plan: &Plan, pid: Pid) -> Value {
        let state = hooks::state(plan.id.as_str(), self.status, Some(pid), &plan.bundle, &plan.spec);
        let mut whole = json!({
            "ociVersion": plan.spec.version(),
            "fds": ["seccompFd"],
            "pid": pid.as_raw(),
            "state": state,
        });
        if let Some(metadata) = &self.metadata {
            whole["metadata"] = metadata.as_str().into();
        }
        whole
    }
}

/// What is wrong with the agent.
fn slow(step: String, errno: Errno) -> Error {
    match errno {
        Errno::EAGAIN => Error::new(Kind::Kernel, format!("{step}: it takes nothing for {PATIENCE} seconds")),
        other => Error::kernel(step, other),
    }
}

/// The number of the listener in a process that has one.
fn number(pid: Pid) -> std::io::Result<Option<RawFd>> {
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        let target = std::fs::read_link(entry.path());
        if target.is_ok_and(|target| target.as_os_str() == "anon_inode:seccomp notify")
            && let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok())
            && closes_on_exec(pid, number)?
        {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

/// What the kernel makes does; a listener that the caller passes on is none of this filter, and does not.
///
/// Source: proc_pid_fdinfo(5).
fn closes_on_exec(pid: Pid, number: RawFd) -> std::io::Result<bool> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}"))?;
    let flags = text.lines().find_map(|line| i32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
    Ok(flags.is_some_and(|flags| OFlag::from_bits_retain(flags).contains(OFlag::O_CLOEXEC)))
}

/// The descriptor goes with the first byte, as the specification wants it.
fn send(agent: OwnedFd, text: &[u8], listener: &OwnedFd) -> nix::Result<()> {
    let fds = [listener.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    let sent = sendmsg::<UnixAddr>(agent.as_raw_fd(), &[IoSlice::new(text)], &rights, flags, None)?;
    let rest = UnixStream::from(agent).write_all(&text[sent..]);
    rest.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
}
