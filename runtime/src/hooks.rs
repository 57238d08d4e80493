//! The hooks of the specification: programs of the caller that run at fixed places of the life cycle.
//!
//! A hook gets the environment that the specification gives it and nothing else, `/` as its working directory, the state
//! on its standard input, and no descriptor of ours.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStderr, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use oci_spec::runtime::{Hook, Spec};
use serde_json::{Value, json};
use sys::{Doing, Error, Kind, Result};

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// On the host, when the name spaces are there. Deprecated by the specification, and still what docker uses.
    Prestart,
    /// On the host, when the name spaces are there.
    CreateRuntime,
    /// Inside, before the root changes.
    CreateContainer,
    /// Inside, before the program starts.
    StartContainer,
    /// On the host, when the program has started.
    Poststart,
    /// On the host, when the jail is gone.
    Poststop,
}

impl Moment {
    /// All of them, in their order in the life of a jail.
    pub const ALL: [Self; 6] = [
        Self::Prestart,
        Self::CreateRuntime,
        Self::CreateContainer,
        Self::StartContainer,
        Self::Poststart,
        Self::Poststop,
    ];

    /// The specification's word.
    pub fn key(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }
}

/// Every hook of a specification: its JSON pointer, itself, its moment.
#[allow(deprecated)] // `prestart`: callers still send it.
pub fn all(spec: &Spec) -> Vec<(String, &Hook, Moment)> {
    let Some(hooks) = spec.hooks() else { return Vec::new() };
    [
        (hooks.prestart(), Moment::Prestart),
        (hooks.create_runtime(), Moment::CreateRuntime),
        (hooks.create_container(), Moment::CreateContainer),
        (hooks.start_container(), Moment::StartContainer),
        (hooks.poststart(), Moment::Poststart),
        (hooks.poststop(), Moment::Poststop),
    ]
    .into_iter()
    .flat_map(|(list, moment)| {
        let named = move |(index, hook)| (format!("/hooks/{}/{index}", moment.key()), hook, moment);
        list.iter().flatten().enumerate().map(named)
    })
    .collect()
}

/// What a hook is told of the jail. Source: OCI runtime, State.
pub fn state(id: &str, status: &str, pid: Option<Pid>, bundle: &Path, spec: &Spec) -> Value {
    let mut state = json!({
        "ociVersion": spec.version(),
        "id": id,
        "status": status,
        "bundle": bundle,
        "annotations": spec.annotations().clone().unwrap_or_default(),
    });
    if let Some(pid) = pid {
        state["pid"] = pid.as_raw().into();
    }
    state
}

/// How much of what a hook says on its standard error is kept, in bytes, the last of it.
const KEPT: usize = 64 * 1024;
/// How much of that an error shows: some lines, and letters of them.
const SHOWN: (usize, usize) = (5, 1000);

/// Runs one hook and waits for it, at most its timeout. What it says on its standard error is part of the error where it
/// fails, and is shown as it is where it does not.
///
/// # Errors
/// Naming the hook: that it could not be started, its exit code, or that its time was over.
pub fn run(at: &str, hook: &Hook, state: &Value) -> Result<()> {
    let step = || format!("run hook {at} {}", hook.path().display());
    let mut command = Command::new(hook.path());
    command.env_clear().current_dir("/").stdin(Stdio::piped()).stderr(Stdio::piped());
    if let Some((name, rest)) = hook.args().as_ref().and_then(|args| args.split_first()) {
        command.arg0(name).args(rest);
    }
    for word in hook.env().iter().flatten() {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        command.env(name, value);
    }
    sys::process::die_together(&mut command);
    let mut child = command.spawn().doing(step)?;
    let pidfd = sys::process::pidfd_open(Pid::from_raw(child.id() as i32)).doing(step)?;
    let limit = hook.timeout().map(|seconds| Duration::from_secs(seconds.unsigned_abs()));
    let state = state.to_string();
    let mut talk =
        Talk { stdin: child.stdin.take(), state: state.as_bytes(), stderr: child.stderr.take(), said: vec![] };
    let in_time = talk.attend(&pidfd, limit).doing(step)?;
    if !in_time {
        child.kill().doing(step)?;
    }
    let status = child.wait().doing(step)?;
    let why = match in_time {
        true if status.success() => {
            // There is nobody to tell where it cannot be shown.
            let _ = std::io::stderr().write_all(&talk.said);
            return Ok(());
        }
        true => status.to_string(),
        false => "it ran longer than its timeout".to_owned(),
    };
    let said = talk.shown().map(|said| format!(": {said}")).unwrap_or_default();
    Err(Error::new(Kind::Kernel, format!("{}: {why}{said}", step())))
}

/// What is told to a hook, and what it says.
struct Talk<'a> {
    stdin: Option<ChildStdin>,
    /// What is still to be written.
    state: &'a [u8],
    stderr: Option<ChildStderr>,
    said: Vec<u8>,
}

impl Talk<'_> {
    /// Until the process of `pidfd` ends; `false` where it is longer than `limit`. A hook that does not read its state, or
    /// leaves a process with its standard error open, keeps nobody waiting.
    fn attend(&mut self, pidfd: &OwnedFd, limit: Option<Duration>) -> nix::Result<bool> {
        for fd in [self.stdin.as_ref().map(AsFd::as_fd), self.stderr.as_ref().map(AsFd::as_fd)].into_iter().flatten() {
            // Of our end alone: the other one of a pipe has flags of its own.
            fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        // One that no clock reaches is none.
        let end = limit.and_then(|limit| Instant::now().checked_add(limit));
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let timeout =
                left.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
            let mut fds = vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
            fds.extend(self.stderr.iter().map(|stderr| PollFd::new(stderr.as_fd(), PollFlags::POLLIN)));
            fds.extend(self.stdin.iter().map(|stdin| PollFd::new(stdin.as_fd(), PollFlags::POLLOUT)));
            match poll(&mut fds, timeout) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            let ended = fds[0].any().unwrap_or(false);
            self.tell();
            self.listen();
            if ended || left.is_some_and(|left| left.is_zero()) {
                return Ok(ended);
            }
        }
    }

    fn tell(&mut self) {
        let Some(stdin) = &mut self.stdin else { return };
        match stdin.write(self.state) {
            Ok(len) if len < self.state.len() => self.state = &self.state[len..],
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            // All is told, or nobody reads it, which is not wrong.
            _ => self.stdin = None,
        }
    }

    /// What is there now: as much as a pipe holds, since one who never stops must not keep the timeout from being seen.
    fn listen(&mut self) {
        let mut bytes = [0; KEPT];
        let Some(stderr) = &mut self.stderr else { return };
        match stderr.read(&mut bytes) {
            Ok(len) if len > 0 => {
                self.said.extend_from_slice(&bytes[..len]);
                self.said.drain(..self.said.len().saturating_sub(KEPT));
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            _ => self.stderr = None,
        }
    }

    /// The last lines, in one.
    fn shown(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.said);
        let mut lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        lines.drain(..lines.len().saturating_sub(SHOWN.0));
        let line = lines.join("; ");
        let skipped = line.chars().count().saturating_sub(SHOWN.1);
        (!line.is_empty()).then(|| line.chars().skip(skipped).collect())
    }
}
