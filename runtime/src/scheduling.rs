//! When and where a program runs: its scheduler, its CPUs, its I/O priority, its memory nodes; and its personality.
//!
//! Each property is read by one function, which `check` calls for the refusal and the planner for the step.

use std::fmt;

use base::Ctx;
use nix::errno::Errno;
use nix::libc;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use oci_spec::runtime::{
    IOPriorityClass, LinuxIOPriority, LinuxMemoryPolicy, LinuxPersonality, LinuxPersonalityDomain, LinuxSchedulerFlag,
    LinuxSchedulerPolicy, MemoryPolicyFlagType, MemoryPolicyModeType, Scheduler,
};
use sys::{Doing, Error, Kind, Result, schedule};

/// One effect. Those of the host's side need a privilege that a user name space does not give.
#[derive(Clone, Debug)]
pub enum Step {
    /// Host: the policy of the program's process, and its parameters.
    Policy { name: String, attributes: libc::sched_attr },
    /// Host: the class of the program's process and the level in it.
    IoPriority { class: IOPriorityClass, level: u32 },
    /// Host: the CPUs of the runtime itself, which its children inherit until they are moved to another cgroup.
    Runtime { list: String, cpus: CpuSet },
    /// Jail: the CPUs of the program.
    Cpus { list: String, cpus: CpuSet },
    /// Jail: the nodes that memory comes from.
    Memory { name: String, mode: i32, nodes: Vec<u64> },
    /// Jail: what the kernel shows of itself.
    Personality(LinuxPersonalityDomain),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy { name, .. } => write!(f, "set the scheduler {name}"),
            Self::IoPriority { class, level } => write!(f, "set the I/O priority {class}:{level}"),
            Self::Runtime { list, .. } => write!(f, "move the runtime to CPUs {list}"),
            Self::Cpus { list, .. } => write!(f, "move the program to CPUs {list}"),
            Self::Memory { name, .. } => write!(f, "set the memory policy {name}"),
            Self::Personality(domain) => write!(f, "set the personality {domain}"),
        }
    }
}

impl Step {
    /// Does the step.
    ///
    /// # Errors
    /// What the kernel refused, with the reason where its own word misleads.
    pub fn run(&self, ctx: &mut Ctx) -> Result<()> {
        let program = || ctx.program().ok_or_else(|| Error::kernel(self, Errno::ESRCH));
        let refused = |kind, why: &str| Err(Error::new(kind, format!("{self}: {why}")));
        match self {
            Self::Policy { attributes, .. } => match schedule::set_policy(program()?, attributes) {
                Err(Errno::EPERM) => refused(Kind::Denied, NO_SCHEDULER),
                Err(Errno::EBUSY) => refused(Kind::Denied, "the CPUs have no room left for its deadline"),
                set => set.doing(|| self),
            },
            Self::IoPriority { class, level } => {
                match schedule::set_io_priority(program()?, *class as u32 + 1, *level) {
                    Err(Errno::EPERM) => refused(Kind::Denied, "the runtime lacks CAP_SYS_NICE"),
                    set => set.doing(|| self),
                }
            }
            Self::Runtime { cpus, .. } | Self::Cpus { cpus, .. } => match sched_setaffinity(Pid::from_raw(0), cpus) {
                Err(Errno::EINVAL) => refused(Kind::Unsupported, "this host, or the jail's cpuset, has none of them"),
                set => set.doing(|| self),
            },
            Self::Memory { mode, nodes, .. } => match schedule::set_memory_policy(*mode, nodes) {
                Err(Errno::EINVAL) => refused(Kind::Unsupported, NO_NODES),
                Err(Errno::ENOSYS) => refused(Kind::Unsupported, "this kernel knows no memory nodes"),
                set => set.doing(|| self),
            },
            Self::Personality(domain) => {
                // PER_LINUX and PER_LINUX32 of linux/personality.h.
                let persona = match domain {
                    LinuxPersonalityDomain::PerLinux => 0,
                    LinuxPersonalityDomain::PerLinux32 => 8,
                };
                schedule::set_personality(persona).doing(|| self)
            }
        }
    }
}

const NO_SCHEDULER: &str = "the runtime lacks CAP_SYS_NICE, or the jail's cgroup has no real-time budget \
                            (/linux/resources/cpu/realtimeRuntime)";
const NO_NODES: &str = "this kernel does not know the mode, or this host, or the jail's cpuset, has none of the nodes";

/// Reads `scheduler` at the pointer `at`.
///
/// # Errors
/// `Invalid` for what the policy does not take, `Unsupported` for what Linux does not have.
pub fn policy(asked: &Scheduler, at: &str) -> Result<Step> {
    use LinuxSchedulerPolicy as Policy;
    let wrong = |key: &str, why: &str| Err(Error::invalid(format!("use {at}/{key}: {why}")));
    let policy = *asked.policy();
    let number = match policy {
        Policy::SchedOther => libc::SCHED_OTHER,
        Policy::SchedFifo => libc::SCHED_FIFO,
        Policy::SchedRr => libc::SCHED_RR,
        Policy::SchedBatch => libc::SCHED_BATCH,
        Policy::SchedIdle => libc::SCHED_IDLE,
        Policy::SchedDeadline => libc::SCHED_DEADLINE,
        Policy::SchedIso => {
            return Err(Error::unsupported(format!("use {at}/policy: no kernel of Linux has SCHED_ISO")));
        }
    };
    let nice = asked.nice().unwrap_or(0);
    if !(-20..=19).contains(&nice) {
        return wrong("nice", "-20 to 19 are known");
    }
    let priority = asked.priority().unwrap_or(0);
    match policy {
        Policy::SchedFifo | Policy::SchedRr if !(1..=99).contains(&priority) => {
            return wrong("priority", &format!("{policy} takes 1 to 99"));
        }
        Policy::SchedFifo | Policy::SchedRr => {}
        _ if priority != 0 => return wrong("priority", &format!("{policy} takes none")),
        _ => {}
    }
    let [runtime, deadline, period] =
        [asked.runtime(), asked.deadline(), asked.period()].map(|time| time.unwrap_or_default());
    match policy {
        Policy::SchedDeadline if runtime < 1024 => return wrong("runtime", "SCHED_DEADLINE takes 1024 or more"),
        Policy::SchedDeadline if deadline < runtime => return wrong("deadline", "it is below the runtime"),
        Policy::SchedDeadline if period != 0 && period < deadline => {
            return wrong("period", "it is below the deadline");
        }
        Policy::SchedDeadline => {}
        _ if [runtime, deadline, period] != [0; 3] => {
            let all = [("runtime", runtime), ("deadline", deadline), ("period", period)];
            let key = all.iter().find(|(_, time)| *time != 0).map_or("runtime", |(key, _)| *key);
            return wrong(key, &format!("{policy} takes none"));
        }
        _ => {}
    }
    let mut flags = 0;
    for (index, flag) in asked.flags().iter().flatten().enumerate() {
        flags |= match flag {
            LinuxSchedulerFlag::SchedResetOnFork => libc::SCHED_FLAG_RESET_ON_FORK,
            LinuxSchedulerFlag::SchedFlagReclaim => libc::SCHED_FLAG_RECLAIM,
            LinuxSchedulerFlag::SchedFlagDLOverrun => libc::SCHED_FLAG_DL_OVERRUN,
            LinuxSchedulerFlag::SchedFlagKeepPolicy => libc::SCHED_FLAG_KEEP_POLICY,
            LinuxSchedulerFlag::SchedFlagKeepParams => libc::SCHED_FLAG_KEEP_PARAMS,
            LinuxSchedulerFlag::SchedFlagUtilClampMin | LinuxSchedulerFlag::SchedFlagUtilClampMax => {
                let why = "the specification has no place for the value that it needs";
                return Err(Error::unsupported(format!("use {at}/flags/{index}: {why}")));
            }
        };
    }
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: number as u32,
        sched_flags: flags as u64,
        sched_nice: nice,
        sched_priority: priority as u32,
        sched_runtime: runtime,
        sched_deadline: deadline,
        sched_period: period,
    };
    Ok(Step::Policy { name: policy.to_string(), attributes })
}

/// Reads `ioPriority` at the pointer `at`.
///
/// # Errors
/// `Invalid` for a level that no class has.
pub fn io_priority(asked: &LinuxIOPriority, at: &str) -> Result<Step> {
    let (class, level) = (asked.class(), asked.priority());
    match u32::try_from(level) {
        // The idle class has no levels: the kernel refuses any but 0, and runc and crun pass it on.
        Ok(level) if level <= 7 => {
            let level = if class == IOPriorityClass::IoprioClassIdle { 0 } else { level };
            Ok(Step::IoPriority { class, level })
        }
        _ => Err(Error::invalid(format!("use {at}/priority {level}: 0 to 7 are known"))),
    }
}

/// Reads a list of CPUs such as `0-3,7` at the pointer `at`.
///
/// # Errors
/// `Invalid` for what is no such list, or names a CPU that no host has.
pub fn cpus(list: &str, at: &str) -> Result<CpuSet> {
    let mut set = CpuSet::new();
    for number in numbers(list, CpuSet::count(), at)? {
        set.set(number).doing(|| format!("use {at} {list:?}"))?;
    }
    Ok(set)
}

/// The most memory nodes that Linux can be built for: MAX_NUMNODES.
const NODES: usize = 1024;

/// The modes of a memory policy that are known, whatever this kernel knows.
pub const MODES: [MemoryPolicyModeType; 7] = [
    MemoryPolicyModeType::MpolDefault,
    MemoryPolicyModeType::MpolBind,
    MemoryPolicyModeType::MpolInterleave,
    MemoryPolicyModeType::MpolWeightedInterleave,
    MemoryPolicyModeType::MpolPreferred,
    MemoryPolicyModeType::MpolPreferredMany,
    MemoryPolicyModeType::MpolLocal,
];

/// The flags of a memory policy that are known.
pub const FLAGS: [MemoryPolicyFlagType; 3] = [
    MemoryPolicyFlagType::MpolFNumaBalancing,
    MemoryPolicyFlagType::MpolFRelativeNodes,
    MemoryPolicyFlagType::MpolFStaticNodes,
];

/// Reads `memoryPolicy` at the pointer `at`.
///
/// # Errors
/// `Invalid` for nodes or flags that the mode does not take.
pub fn memory(asked: &LinuxMemoryPolicy, at: &str) -> Result<Step> {
    use MemoryPolicyModeType as Mode;
    let wrong = |key: &str, why: &str| Err(Error::invalid(format!("use {at}/{key}: {why}")));
    let mode = asked.mode();
    let list = asked.nodes().as_deref().map(str::trim).unwrap_or_default();
    match mode {
        Mode::MpolDefault | Mode::MpolLocal if !list.is_empty() => {
            return wrong("nodes", &format!("{mode} takes none"));
        }
        Mode::MpolDefault | Mode::MpolLocal | Mode::MpolPreferred => {}
        _ if list.is_empty() => return wrong("nodes", &format!("{mode} needs some")),
        _ => {}
    }
    let number = match mode {
        Mode::MpolDefault => libc::MPOL_DEFAULT,
        Mode::MpolPreferred => libc::MPOL_PREFERRED,
        Mode::MpolBind => libc::MPOL_BIND,
        Mode::MpolInterleave => libc::MPOL_INTERLEAVE,
        Mode::MpolLocal => libc::MPOL_LOCAL,
        Mode::MpolPreferredMany => PREFERRED_MANY,
        Mode::MpolWeightedInterleave => WEIGHTED_INTERLEAVE,
    };
    let flags = asked.flags().as_deref().unwrap_or_default();
    let has = |flag| flags.contains(&flag);
    if has(MemoryPolicyFlagType::MpolFStaticNodes) && has(MemoryPolicyFlagType::MpolFRelativeNodes) {
        return wrong("flags", "MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other");
    }
    if list.is_empty() && !flags.is_empty() {
        return wrong("flags", &format!("{mode} without nodes takes none"));
    }
    let flags = flags.iter().fold(0, |all, flag| {
        all | match flag {
            MemoryPolicyFlagType::MpolFNumaBalancing => libc::MPOL_F_NUMA_BALANCING,
            MemoryPolicyFlagType::MpolFRelativeNodes => libc::MPOL_F_RELATIVE_NODES,
            MemoryPolicyFlagType::MpolFStaticNodes => libc::MPOL_F_STATIC_NODES,
        }
    });
    let numbers = if list.is_empty() { Vec::new() } else { numbers(list, NODES, &format!("{at}/nodes"))? };
    let words = numbers.iter().max().map_or(0, |highest| highest / 64 + 1);
    let mut nodes = vec![0_u64; words];
    for number in numbers {
        nodes[number / 64] |= 1 << (number % 64);
    }
    let name = if list.is_empty() { mode.to_string() } else { format!("{mode}:{list}") };
    Ok(Step::Memory { name, mode: number | flags, nodes })
}

/// Source: linux/mempolicy.h; since Linux 5.15 and 6.9, and newer than the constants of libc.
const PREFERRED_MANY: i32 = 5;
const WEIGHTED_INTERLEAVE: i32 = 6;

/// Reads `personality` at the pointer `at`.
///
/// # Errors
/// `Invalid` for a flag, since the specification has none.
pub fn personality(asked: &LinuxPersonality, at: &str) -> Result<Step> {
    match asked.flags().as_ref().is_none_or(Vec::is_empty) {
        true => Ok(Step::Personality(asked.domain())),
        false => Err(Error::invalid(format!("use {at}/flags: the specification has no flags yet"))),
    }
}

/// The numbers below `limit` of a list such as `0-3,7`.
fn numbers(list: &str, limit: usize, at: &str) -> Result<Vec<usize>> {
    let wrong = |why: String| Err(Error::invalid(format!("use {at} {list:?}: {why}")));
    let mut all = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.trim().parse::<usize>(), last.trim().parse::<usize>()) else {
            return wrong(format!("{part:?} is neither a number nor a range"));
        };
        if last < first {
            return wrong(format!("{part:?} ends before it begins"));
        }
        if last >= limit {
            return wrong(format!("0 to {} are known", limit - 1));
        }
        all.extend(first..=last);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn refusal<T: fmt::Debug>(read: Result<T>) -> String {
        read.unwrap_err().to_string()
    }

    #[test]
    fn a_list_of_cpus_is_numbers_and_ranges() {
        assert_eq!(numbers("0-2,7", 8, "/x").unwrap(), [0, 1, 2, 7]);
        for (list, why) in [
            ("", "\"\" is neither"),
            ("3-1", "ends before"),
            ("0-8", "0 to 7 are known"),
            ("1,", "\"\" is neither"),
            ("-1", "\"-1\" is neither"),
        ] {
            let line = refusal(numbers(list, 8, "/x"));
            assert!(line.starts_with("cannot use /x ") && line.contains(why), "{line}");
        }
    }

    #[test]
    fn a_policy_takes_its_own_parameters_only() {
        let read = |value: Value| policy(&from_value(value).unwrap(), "/s");
        for good in [
            json!({"policy": "SCHED_OTHER", "nice": -20}),
            json!({"policy": "SCHED_RR", "priority": 99}),
            json!({"policy": "SCHED_DEADLINE", "runtime": 1024, "deadline": 2000, "period": 2000}),
        ] {
            assert!(read(good.clone()).is_ok(), "{good}");
        }
        for (bad, place) in [
            (json!({"policy": "SCHED_OTHER", "nice": 20}), "/s/nice"),
            (json!({"policy": "SCHED_OTHER", "priority": 1}), "/s/priority"),
            (json!({"policy": "SCHED_FIFO"}), "/s/priority"),
            (json!({"policy": "SCHED_FIFO", "priority": 1, "period": 4}), "/s/period"),
            (json!({"policy": "SCHED_DEADLINE", "runtime": 9}), "/s/runtime"),
            (json!({"policy": "SCHED_DEADLINE", "runtime": 2000, "deadline": 1999}), "/s/deadline"),
            (json!({"policy": "SCHED_DEADLINE", "runtime": 2000, "deadline": 2000, "period": 1}), "/s/period"),
            (json!({"policy": "SCHED_ISO"}), "/s/policy"),
            (json!({"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_UTIL_CLAMP_MIN"]}), "/s/flags/0"),
        ] {
            let line = refusal(read(bad));
            assert!(line.starts_with(&format!("cannot use {place}: ")), "{line}");
        }
    }

    #[test]
    fn a_memory_policy_has_the_nodes_that_its_mode_takes() {
        let read = |value: Value| memory(&from_value(value).unwrap(), "/m");
        let Ok(Step::Memory { mode, nodes, .. }) =
            read(json!({"mode": "MPOL_BIND", "nodes": "0,64-65", "flags": ["MPOL_F_STATIC_NODES"]}))
        else {
            panic!()
        };
        assert_eq!((mode, nodes), (2 | 1 << 15, vec![1, 3]));
        for (bad, place) in [
            (json!({"mode": "MPOL_BIND"}), "/m/nodes"),
            (json!({"mode": "MPOL_LOCAL", "nodes": "0"}), "/m/nodes"),
            (json!({"mode": "MPOL_INTERLEAVE", "nodes": "9999"}), "/m/nodes"),
            (json!({"mode": "MPOL_DEFAULT", "flags": ["MPOL_F_STATIC_NODES"]}), "/m/flags"),
        ] {
            let line = refusal(read(bad));
            assert!(line.starts_with(&format!("cannot use {place}")), "{line}");
        }
    }
}
