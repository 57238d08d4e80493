//! The hooks of the specification: programs of the caller that run at fixed places of the life cycle.
//!
//! A hook gets the environment that the specification gives it and nothing else, `/` as its working directory, the state
//! on its standard input, and no descriptor of ours.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

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

/// Runs one hook and waits for it, at most its timeout.
///
/// # Errors
/// Naming the hook: that it could not be started, its exit code, or that its time was over.
pub fn run(at: &str, hook: &Hook, state: &Value) -> Result<()> {
    let step = || format!("run hook {at} {}", hook.path().display());
    let mut command = Command::new(hook.path());
    command.env_clear().current_dir("/").stdin(Stdio::piped());
    if let Some((name, rest)) = hook.args().as_ref().and_then(|args| args.split_first()) {
        command.arg0(name).args(rest);
    }
    for word in hook.env().iter().flatten() {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        command.env(name, value);
    }
    sys::process::die_together(&mut command);
    let mut child = command.spawn().doing(step)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook that does not read its state is not wrong.
        let _ = stdin.write_all(state.to_string().as_bytes());
    }
    let pidfd = sys::process::pidfd_open(Pid::from_raw(child.id() as i32)).doing(step)?;
    let limit = hook.timeout().map(|seconds| Duration::from_secs(seconds.unsigned_abs()));
    if !crate::process::ended(&pidfd, limit)? {
        child.kill().doing(step)?;
        child.wait().doing(step)?;
        return Err(Error::new(Kind::Kernel, format!("{}: it ran longer than its timeout", step())));
    }
    let status = child.wait().doing(step)?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::new(Kind::Kernel, format!("{}: {status}", step()))),
    }
}
