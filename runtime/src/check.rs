//! What of a specification is not carried out: refused by name, never ignored.

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, Process, Spec};
use sys::{Error, Result};

use crate::namespace::{CLOCKS, word};
use crate::scheduling;

/// The newest version of the specification whose words this program knows.
pub const VERSION: &str = "1.2.1";

/// The kinds of name spaces that a jail can have.
pub const NAMESPACES: [LinuxNamespaceType; 8] = [
    LinuxNamespaceType::Cgroup,
    LinuxNamespaceType::Ipc,
    LinuxNamespaceType::Mount,
    LinuxNamespaceType::Network,
    LinuxNamespaceType::Pid,
    LinuxNamespaceType::Time,
    LinuxNamespaceType::User,
    LinuxNamespaceType::Uts,
];

/// Checks everything that needs no host to be judged.
///
/// # Errors
/// `Invalid` for what makes no sense, `Unsupported` for what is not carried out yet; with the JSON pointer.
pub fn spec(spec: &Spec) -> Result<()> {
    version(spec.version())?;
    for (set, place) in [
        (spec.solaris().is_some(), "/solaris"),
        (spec.windows().is_some(), "/windows"),
        (spec.vm().is_some(), "/vm"),
        (spec.zos().is_some(), "/zos"),
    ] {
        if set {
            return Err(Error::unsupported(format!("use {place}: this is a runtime for Linux")));
        }
    }
    match spec.root() {
        None => return Err(Error::invalid("use /root: it is missing")),
        Some(root) if root.path().as_os_str().is_empty() => {
            return Err(Error::invalid("use /root/path: it is missing or empty"));
        }
        Some(_) => {}
    }
    if let Some(process) = spec.process() {
        self::process(process, "/process")?;
    }
    for (at, hook, _) in crate::hooks::all(spec) {
        if !hook.path().is_absolute() {
            return Err(Error::invalid(format!("use {at}/path {}: it is not absolute", hook.path().display())));
        }
        if hook.timeout().is_some_and(|timeout| timeout <= 0) {
            return Err(Error::invalid(format!("use {at}/timeout: it is not above 0")));
        }
    }
    linux(spec)
}

fn version(version: &str) -> Result<()> {
    match version.strip_prefix("1.") {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_digit()) => Ok(()),
        _ => Err(Error::unsupported(format!("use /ociVersion {version:?}: versions 1.x are known"))),
    }
}

/// Checks the document of a process, that of the specification or that of `exec`.
///
/// # Errors
/// As [`spec`].
pub fn process(process: &Process, at: &str) -> Result<()> {
    let filled = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    for (set, place) in
        [(filled(process.command_line()), "commandLine"), (filled(process.user().username()), "user/username")]
    {
        if set {
            return Err(Error::unsupported(format!(
                "use {at}/{place}: it is for Windows, this is a runtime for Linux"
            )));
        }
    }
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(Error::invalid(format!("use {at}/args: it is empty; a program is needed")));
    }
    let user = process.user();
    let groups = user.additional_gids().iter().flatten().map(|gid| ("additionalGids", *gid));
    for (key, id) in [("uid", user.uid()), ("gid", user.gid())].into_iter().chain(groups) {
        // The kernel takes it for "leave as it is", which here would be root.
        if id == u32::MAX {
            return Err(Error::invalid(format!("use {at}/user/{key} {id}: it is no user or group")));
        }
    }
    if let Some(umask) = user.umask().filter(|umask| *umask > 0o777) {
        return Err(Error::invalid(format!("use {at}/user/umask {umask:05o}: it has other bits than those of a mode")));
    }
    if process.console_size().is_some_and(|size| size.height().max(size.width()) > u64::from(u16::MAX)) {
        return Err(Error::invalid(format!(
            "use {at}/consoleSize: a terminal has at most {} rows or columns",
            u16::MAX
        )));
    }
    if !process.cwd().is_absolute() {
        return Err(Error::invalid(format!("use {at}/cwd {:?}: it is not absolute", process.cwd())));
    }
    for (index, word) in process.env().iter().flatten().enumerate() {
        if !word.contains('=') || word.starts_with('=') {
            return Err(Error::invalid(format!("use {at}/env/{index} {word:?}: it is not of the form NAME=value")));
        }
    }
    let mut seen = Vec::new();
    for (index, limit) in process.rlimits().iter().flatten().enumerate() {
        if limit.soft() > limit.hard() {
            return Err(Error::invalid(format!("use {at}/rlimits/{index}: soft is above hard")));
        }
        if seen.contains(&limit.typ()) {
            return Err(Error::invalid(format!("use {at}/rlimits/{index}: {} is given twice", limit.typ())));
        }
        seen.push(limit.typ());
    }
    if let Some(score) = process.oom_score_adj().filter(|score| !(-1000..=1000).contains(score)) {
        return Err(Error::invalid(format!("use {at}/oomScoreAdj {score}: -1000 to 1000 are known")));
    }
    if let Some(scheduler) = process.scheduler() {
        scheduling::policy(scheduler, &format!("{at}/scheduler"))?;
    }
    if let Some(priority) = process.io_priority() {
        scheduling::io_priority(priority, &format!("{at}/ioPriority"))?;
    }
    if let Some(affinity) = process.exec_cpu_affinity() {
        for (list, key) in [(affinity.initial(), "initial"), (affinity.cpu_affinity_final(), "final")] {
            if let Some(list) = list {
                scheduling::cpus(list, &format!("{at}/execCPUAffinity/{key}"))?;
            }
        }
    }
    Ok(())
}

fn linux(spec: &Spec) -> Result<()> {
    let Some(linux) = spec.linux() else {
        return Err(Error::invalid("use /linux: it is missing; a jail needs name spaces"));
    };
    let mut seen = Vec::new();
    for (index, namespace) in linux.namespaces().iter().flatten().enumerate() {
        let at = format!("/linux/namespaces/{index}");
        if seen.contains(&namespace.typ()) {
            return Err(Error::invalid(format!("use {at}: {} is given twice", word(namespace.typ()))));
        }
        seen.push(namespace.typ());
        if namespace.typ() == LinuxNamespaceType::Mount && namespace.path().is_some() {
            let why = "the jail would mount and change the root for all who are in it";
            return Err(Error::unsupported(format!("use {at}/path: a mount name space is not joined, since {why}")));
        }
    }
    if !seen.contains(&LinuxNamespaceType::Mount) {
        let why = "the mounts of the jail would be made on the host";
        return Err(Error::unsupported(format!(
            "use /linux/namespaces: it lacks one of type mount, without which {why}"
        )));
    }
    if let Some(rdt) = linux.intel_rdt() {
        crate::resctrl::check(rdt)?;
    }
    if let Some(policy) = linux.memory_policy() {
        scheduling::memory(policy, "/linux/memoryPolicy")?;
    }
    if let Some(personality) = linux.personality() {
        scheduling::personality(personality, "/linux/personality")?;
    }
    if let Some(profile) = linux.seccomp() {
        secmodel::seccomp::check(profile)?;
    }
    clocks(linux)?;
    maps(spec, &seen)?;
    settings(spec, &seen)
}

fn clocks(linux: &Linux) -> Result<()> {
    let Some(offsets) = linux.time_offsets().as_ref().filter(|offsets| !offsets.is_empty()) else { return Ok(()) };
    let time = |path| {
        let mut list = linux.namespaces().iter().flatten();
        list.any(|namespace| namespace.typ() == LinuxNamespaceType::Time && namespace.path().is_some() == path)
    };
    if !time(false) {
        let why = if time(true) { "one that is joined keeps its own" } else { "it needs a name space of type time" };
        return Err(Error::invalid(format!("use /linux/timeOffsets: {why}")));
    }
    for (clock, offset) in offsets {
        if !CLOCKS.contains(&clock.as_str()) {
            return Err(Error::invalid(format!("use /linux/timeOffsets/{clock}: {} are known", CLOCKS.join(" and "))));
        }
        if offset.nanosecs().is_some_and(|nanoseconds| nanoseconds >= 1_000_000_000) {
            return Err(Error::invalid(format!("use /linux/timeOffsets/{clock}/nanosecs: it is a second or more")));
        }
    }
    Ok(())
}

fn maps(spec: &Spec, seen: &[LinuxNamespaceType]) -> Result<()> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    let user = seen.contains(&LinuxNamespaceType::User);
    for (list, key) in [(linux.uid_mappings(), "uidMappings"), (linux.gid_mappings(), "gidMappings")] {
        let list = list.as_deref().unwrap_or_default();
        if !list.is_empty() && !user {
            return Err(Error::invalid(format!("use /linux/{key}: it needs a name space of type user")));
        }
        ranges(list, &format!("/linux/{key}"))?;
    }
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        let at = format!("/mounts/{index}");
        let lists = [mount.uid_mappings(), mount.gid_mappings()].map(|list| list.as_deref().unwrap_or_default());
        ranges(lists[0], &format!("{at}/uidMappings"))?;
        ranges(lists[1], &format!("{at}/gidMappings"))?;
        if lists[0].is_empty() != lists[1].is_empty() {
            return Err(Error::invalid(format!("use {at}/uidMappings and gidMappings: one of them is missing")));
        }
    }
    let own = linux.namespaces().iter().flatten().any(|ns| ns.typ() == LinuxNamespaceType::User && ns.path().is_none());
    if own && linux.uid_mappings().as_ref().is_none_or(Vec::is_empty) {
        return Err(Error::invalid("use /linux/uidMappings: a new name space of type user needs it"));
    }
    Ok(())
}

fn ranges(list: &[LinuxIdMapping], at: &str) -> Result<()> {
    for (index, map) in list.iter().enumerate() {
        let end = |from: u32| u64::from(from) + u64::from(map.size()) <= u64::from(u32::MAX);
        if map.size() == 0 || !end(map.host_id()) || !end(map.container_id()) {
            return Err(Error::invalid(format!("use {at}/{index}: the range is empty or ends above 2^32")));
        }
    }
    Ok(())
}

fn settings(spec: &Spec, seen: &[LinuxNamespaceType]) -> Result<()> {
    let uts = seen.contains(&LinuxNamespaceType::Uts);
    for (name, key) in [(spec.hostname(), "hostname"), (spec.domainname(), "domainname")] {
        let Some(name) = name.as_ref().filter(|name| !name.is_empty()) else { continue };
        if !uts {
            return Err(Error::invalid(format!("use /{key}: it needs a name space of type uts")));
        }
        if name.len() > 64 {
            return Err(Error::invalid(format!(
                "use /{key}: it has {} characters, at most 64 are allowed",
                name.len()
            )));
        }
    }
    let devices = spec.linux().as_ref().and_then(|linux| linux.net_devices().as_ref());
    if devices.is_some_and(|devices| !devices.is_empty()) && !seen.contains(&LinuxNamespaceType::Network) {
        return Err(Error::invalid("use /linux/netDevices: it needs a name space of type network"));
    }
    let Some(sysctls) = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref()) else { return Ok(()) };
    for (key, value) in sysctls {
        sysctl(key, value, seen)?;
    }
    Ok(())
}

/// The settings of the kernel that belong to a name space; any other would change the host.
const IPC: &[&str] = &[
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

fn sysctl(key: &str, value: &str, seen: &[LinuxNamespaceType]) -> Result<()> {
    let refuse = |reason: &str| Err(Error::invalid(format!("use /linux/sysctl/{key}: {reason}")));
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    if key.is_empty() || !key.chars().all(plain) || key.split(['.', '/']).any(str::is_empty) {
        return refuse("it is no name of a sysctl");
    }
    if value.contains('\n') {
        return refuse("its value has more than one line");
    }
    let dotted = key.replace('/', ".");
    let owner = if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
        LinuxNamespaceType::Ipc
    } else if dotted.starts_with("net.") {
        LinuxNamespaceType::Network
    } else if dotted == "kernel.domainname" {
        LinuxNamespaceType::Uts
    } else if dotted == "kernel.hostname" {
        return refuse("/hostname is the place for it");
    } else {
        return refuse("it belongs to no name space and would change the host");
    };
    match seen.contains(&owner) {
        true => Ok(()),
        false => refuse(&format!("it needs a name space of type {}", word(owner))),
    }
}
