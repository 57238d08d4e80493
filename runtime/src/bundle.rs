//! A bundle on disk: the configuration, read, checked, and turned into what the plan needs.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid};
use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};
use serde_json::value::RawValue;
use sys::{Doing, Error, Kind, Result};

use crate::{check, document, namespace};

/// The annotation of parameter `root`.
const ROOT: &str = "org.jail.root";
/// The value that asks for a clone of the tree that /root/path names, by the allow list.
const CLONE: &str = "clone:host";

/// A configuration that was read.
#[derive(Debug)]
pub struct Bundle {
    /// Its folder, absolute.
    pub path: PathBuf,
    /// What it says, checked.
    pub spec: Spec,
    /// The same to the letter.
    pub config: Box<RawValue>,
}

/// Reads `config.json` of the bundle in `folder`.
///
/// # Errors
/// With the file, the JSON pointer, line and column.
pub fn read(folder: &Path) -> Result<Bundle> {
    let path = std::fs::canonicalize(folder).doing(|| format!("use bundle {}", folder.display()))?;
    let file = path.join("config.json");
    let text = document::read(&file)?;
    parse(path, text, &file.to_string_lossy())
}

/// Checks a configuration that is in memory.
///
/// # Errors
/// As [`read`].
pub fn parse(path: PathBuf, text: String, name: &str) -> Result<Bundle> {
    let (spec, mut warnings) = document::parse::<Spec>(&text, name)?;
    // The library has them here too; the specification has them in /linux and in mounts only.
    for (set, key) in [(spec.uid_mappings().is_some(), "uidMappings"), (spec.gid_mappings().is_some(), "gidMappings")] {
        warnings.extend(set.then(|| format!("{name}: unknown property /{key} is ignored")));
    }
    check::spec(&spec).map_err(|error| document::locate(error, name, &text))?;
    for warning in warnings {
        crate::log::warn(&warning);
    }
    let config =
        RawValue::from_string(text).map_err(|error| Error::new(Kind::Invalid, format!("use {name}: {error}")))?;
    Ok(Bundle { path, spec, config })
}

/// Reads the document of a process for `exec`.
///
/// # Errors
/// As [`read`].
pub fn process(path: &Path) -> Result<Process> {
    parse_process(&document::read(path)?, &path.to_string_lossy())
}

/// Checks the document of a process that is in memory.
///
/// # Errors
/// As [`read`].
pub fn parse_process(text: &str, name: &str) -> Result<Process> {
    let (process, warnings) = document::parse::<Process>(text, name)?;
    check::process(&process, "").map_err(|error| document::locate(error, name, text))?;
    for warning in warnings {
        crate::log::warn(&warning);
    }
    Ok(process)
}

/// Whether the root is to be a clone of the host's by the allow list.
pub fn is_clone(spec: &Spec) -> bool {
    spec.annotations().as_ref().and_then(|annotations| annotations.get(ROOT)).is_some_and(|value| value == CLONE)
}

/// The annotation that asks for it.
pub(crate) fn clone_annotation() -> (String, String) {
    (ROOT.to_owned(), CLONE.to_owned())
}

/// What confines a process: its user, its capabilities, and the filter of the specification, compiled.
///
/// # Errors
/// `Unsupported` or `Invalid`, with the JSON pointer.
pub fn confinement(
    process: &Process,
    spec: &Spec,
    cache: Option<&OwnedFd>,
    mut reach: secmodel::Reach,
) -> Result<secmodel::Confinement> {
    if namespace::has(spec, LinuxNamespaceType::User) {
        reach = reach.in_user_namespace();
    }
    let (caps, warnings) = secmodel::caps::within(process.capabilities().as_ref(), &reach);
    for warning in warnings {
        crate::log::warn(&warning);
    }
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let filter = match (profile, cache) {
        (Some(profile), Some(cache)) => Some(secmodel::cache::cached(profile, cache.as_fd())?),
        (Some(profile), None) => Some(secmodel::seccomp::compile(profile)?),
        (None, _) => None,
    };
    let user = process.user();
    Ok(secmodel::Confinement {
        uid: Uid::from_raw(user.uid()),
        gid: Gid::from_raw(user.gid()),
        groups: user.additional_gids().iter().flatten().map(|gid| Gid::from_raw(*gid)).collect(),
        setgroups: true,
        // Process 1 works with an empty mask; the program gets what is asked, or what a shell is started with.
        umask: Some(user.umask().unwrap_or(0o022)),
        caps,
        no_new_privs: process.no_new_privileges().unwrap_or(false),
        filter,
    })
}

/// Whether this process, which reaches that far, may raise a hard limit: has CAP_SYS_RESOURCE on the host itself.
pub fn may_raise_limits(reach: &secmodel::Reach) -> bool {
    reach.permitted.contains(&::caps::Capability::CAP_SYS_RESOURCE) && sys::user::is_host_root()
}
