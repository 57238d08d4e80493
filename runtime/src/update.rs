//! Changing the limits of a jail that lives.

use std::path::Path;

use base::JailId;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};
use sys::{Error, Kind, Result};

use crate::document;
use crate::jail::{Jail, Status, not_running};
use crate::store::Store;
use crate::unfinished;

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
    /// Of it, kernel memory, in bytes; old kernels only, as the next.
    pub kernel_memory: Option<i64>,
    /// And of that the buffers of TCP, in bytes.
    pub kernel_memory_tcp: Option<i64>,
    /// CPU time in each period, in microseconds.
    pub cpu_quota: Option<i64>,
    /// That period, in microseconds.
    pub cpu_period: Option<u64>,
    /// What may be saved up of the CPU time, in microseconds.
    pub cpu_burst: Option<u64>,
    /// Real-time scheduling in each of its periods, in microseconds.
    pub cpu_realtime_runtime: Option<i64>,
    /// That period, in microseconds.
    pub cpu_realtime_period: Option<u64>,
    /// Whether it runs only when nobody else wants to: 1 or 0.
    pub cpu_idle: Option<i64>,
    /// The part of the CPU time beside others.
    pub cpu_shares: Option<u64>,
    /// CPUs, as `0-2,4`.
    pub cpus: Option<String>,
    /// Memory nodes, in the same form.
    pub mems: Option<String>,
    /// Processes and threads; -1 is no limit.
    pub pids: Option<i64>,
    /// The part of what block devices can do beside others, 10 to 1000.
    pub block_weight: Option<u16>,
}

/// Where a wish is in the document, below its root, and its option.
const OPTIONS: &[(&str, &str)] = &[
    ("/memory/limit", "--memory"),
    ("/memory/reservation", "--memory-reservation"),
    ("/memory/swap", "--memory-swap"),
    ("/memory/kernel", "--kernel-memory"),
    ("/memory/kernelTCP", "--kernel-memory-tcp"),
    ("/cpu/quota", "--cpu-quota"),
    ("/cpu/period", "--cpu-period"),
    ("/cpu/burst", "--cpu-burst"),
    ("/cpu/realtimeRuntime", "--cpu-rt-runtime"),
    ("/cpu/realtimePeriod", "--cpu-rt-period"),
    ("/cpu/idle", "--cpu-idle"),
    ("/cpu/shares", "--cpu-share"),
    ("/cpu/cpus", "--cpuset-cpus"),
    ("/cpu/mems", "--cpuset-mems"),
    ("/pids/limit", "--pids-limit"),
    ("/blockIO/weight", "--blkio-weight"),
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
        Self::parse(text, name)
    }

    /// The same from a document that is in memory.
    ///
    /// # Errors
    /// As [`Change::read`].
    pub fn parse(text: String, name: String) -> Result<Self> {
        let (resources, warnings) = document::parse::<LinuxResources>(&text, &name)?;
        for warning in warnings {
            crate::log::warn(&warning);
        }
        Ok(Self { resources, source: Source::Document { name, text } })
    }

    /// What is to be changed, as a part of the specification.
    pub fn resources(&self) -> &LinuxResources {
        &self.resources
    }

    /// The same from options.
    pub fn of(wish: Wish) -> Self {
        let mut memory = LinuxMemory::default();
        memory.set_limit(wish.memory).set_reservation(wish.memory_reservation).set_swap(wish.memory_swap);
        memory.set_kernel(wish.kernel_memory).set_kernel_tcp(wish.kernel_memory_tcp);
        let mut cpu = LinuxCpu::default();
        cpu.set_quota(wish.cpu_quota).set_period(wish.cpu_period).set_shares(wish.cpu_shares);
        cpu.set_burst(wish.cpu_burst).set_idle(wish.cpu_idle).set_cpus(wish.cpus).set_mems(wish.mems);
        cpu.set_realtime_runtime(wish.cpu_realtime_runtime).set_realtime_period(wish.cpu_realtime_period);
        let mut resources = LinuxResources::default();
        resources.set_memory(Some(memory)).set_cpu(Some(cpu));
        resources.set_block_io(wish.block_weight.map(|weight| {
            let mut io = LinuxBlockIo::default();
            io.set_weight(Some(weight));
            io
        }));
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
    match jail.status()? {
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
    carry_out(&jail, &steps).map_err(|error| change.place(error))
}

fn carry_out(jail: &Jail, steps: &[cgroup::Step]) -> Result<()> {
    cgroup::change::enable(steps)?;
    let old = cgroup::change::before(steps)?;
    unfinished::begin(&jail.entry, &old)?;
    let done = cgroup::change::apply(steps, &old);
    match (done, unfinished::end(&jail.entry)) {
        (Err(error), Err(other)) => Err(error.and(other)),
        (done, ended) => done.and(ended),
    }
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
