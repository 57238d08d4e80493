//! Changing the limits of a jail that lives.

use std::path::Path;

use base::JailId;
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};
use sys::{Error, Kind, Result};

use crate::document;
use crate::jail::{Jail, Status, not_running};
use crate::store::Store;

/// How the planner of limits names its documents, which it knows as a part of the specification.
const WITHIN: &str = "/linux/resources";

/// What is to be changed.
#[derive(Debug)]
pub struct Change {
    resources: LinuxResources,
    source: Source,
}

/// Where a change comes from, for the place in a refusal.
#[derive(Debug)]
enum Source {
    Document { name: String, text: String },
    Options,
}

/// What was asked by options; what is absent stays.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Memory, in bytes; -1 is no limit, as for the next three.
    pub memory: Option<i64>,
    /// What memory is kept down to when the host has little, in bytes.
    pub memory_reservation: Option<i64>,
    /// Memory and swap together, in bytes.
    pub memory_swap: Option<i64>,
    /// CPU time in each period, in microseconds.
    pub cpu_quota: Option<i64>,
    /// That period, in microseconds.
    pub cpu_period: Option<u64>,
    /// The part of the CPU time beside others.
    pub cpu_shares: Option<u64>,
    /// CPUs, as `0-2,4`.
    pub cpus: Option<String>,
    /// Memory nodes, in the same form.
    pub mems: Option<String>,
    /// Processes and threads; -1 is no limit.
    pub pids: Option<i64>,
}

/// Where a wish is in the document, below its root, and its option.
const OPTIONS: &[(&str, &str)] = &[
    ("/memory/limit", "--memory"),
    ("/memory/reservation", "--memory-reservation"),
    ("/memory/swap", "--memory-swap"),
    ("/cpu/quota", "--cpu-quota"),
    ("/cpu/period", "--cpu-period"),
    ("/cpu/shares", "--cpu-share"),
    ("/cpu/cpus", "--cpuset-cpus"),
    ("/cpu/mems", "--cpuset-mems"),
    ("/pids/limit", "--pids-limit"),
];

impl Change {
    /// Reads the document of `linux.resources` in the file at `path`, or for `-` on the standard input.
    ///
    /// # Errors
    /// With the JSON pointer, line and column.
    pub fn read(path: &Path) -> Result<Self> {
        let (name, text) = match path.as_os_str() == "-" {
            true => ("the standard input".to_owned(), document::read_input()?),
            false => (path.to_string_lossy().into_owned(), document::read(path)?),
        };
        let (resources, warnings) = document::parse::<LinuxResources>(&text, &name)?;
        for warning in warnings {
            crate::log::warn(&warning);
        }
        Ok(Self { resources, source: Source::Document { name, text } })
    }

    /// The same from options.
    pub fn of(wish: Wish) -> Self {
        let mut memory = LinuxMemory::default();
        memory.set_limit(wish.memory).set_reservation(wish.memory_reservation).set_swap(wish.memory_swap);
        let mut cpu = LinuxCpu::default();
        cpu.set_quota(wish.cpu_quota).set_period(wish.cpu_period).set_shares(wish.cpu_shares);
        cpu.set_cpus(wish.cpus).set_mems(wish.mems);
        let mut resources = LinuxResources::default();
        resources.set_memory(Some(memory)).set_cpu(Some(cpu));
        resources.set_pids(wish.pids.map(|limit| {
            let mut pids = LinuxPids::default();
            pids.set_limit(limit);
            pids
        }));
        Self { resources, source: Source::Options }
    }

    /// Puts the place in the document, or the option, in the place of a pointer into the specification.
    fn place(&self, mut error: Error) -> Error {
        let Some((verb, pointer)) = error.what.split_once(' ') else { return error };
        let Some(below) = pointer.strip_prefix(WITHIN) else { return error };
        match &self.source {
            Source::Document { name, text } => {
                error.what = format!("{verb} {below}");
                document::locate(error, name, text)
            }
            Source::Options => {
                let (pointer, why) = below.split_once(':').unwrap_or((below, ""));
                // A value may stand behind the pointer.
                let key = pointer.split(' ').next().unwrap_or(pointer);
                if let Some((_, option)) = OPTIONS.iter().find(|(known, _)| *known == key) {
                    error.what = format!("{verb} {option}:{why}");
                }
                error
            }
        }
    }
}

/// Changes the limits of a jail, all or none. What the change does not name stays.
///
/// # Errors
/// `WrongState` where the jail has ended; what of the change makes no sense or is not carried out, before anything is
/// written; what the kernel refused, after the old values were written back.
pub fn update(root: &Path, id: &JailId, change: &Change) -> Result<()> {
    let store = Store::open(root)?;
    let (jail, _lock) = Jail::open_locked(store.as_ref(), id)?;
    let step = || format!("update {id}");
    match jail.status() {
        (Status::Stopped, _) => return Err(not_running(step())),
        (Status::Broken(reason), _) => {
            return Err(Error::new(Kind::WrongState, format!("{}: it is broken: {reason}", step())));
        }
        _ => {}
    }
    let planned = devices_are_the_same(&jail, &change.resources)
        .and_then(|()| cgroup::change::plan(&jail.objects(), &change.resources, &cgroup::Layout::read()?));
    let steps = planned.map_err(|error| change.place(error))?;
    for step in &steps {
        crate::log::debug(|| step.to_string());
    }
    cgroup::change::apply(&steps)
}

/// containerd sends the jail's own rules along with what it changes; others would have to be carried out.
fn devices_are_the_same(jail: &Jail, resources: &LinuxResources) -> Result<()> {
    let Some(rules) = resources.devices().as_ref().filter(|rules| !rules.is_empty()) else { return Ok(()) };
    let spec = jail.spec()?;
    let own = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()).and_then(|own| own.devices().as_ref());
    match own == Some(rules) {
        true => Ok(()),
        false => Err(Error::unsupported(format!("apply {WITHIN}/devices: they cannot be changed yet"))),
    }
}
