//! Limits of memory.

use oci_spec::runtime::LinuxMemory;
use sys::Result;

use super::{Limit, Now, Way, number, v2_number, wrong};

/// Those of `of`, behind `limits`.
pub(super) fn limits(of: &LinuxMemory, now: &Now, limits: &mut Vec<Limit>) -> Result<()> {
    let mut put = |key, v1, v2| limits.push(Limit::new(key, "memory", v1, v2));
    if let Some(yes) = of.use_hierarchy() {
        let v2 = if yes { Way::Nothing } else { Way::Never("cgroup v2 counts what is below a cgroup to it, always") };
        // Before all others: the kernel takes it only where nothing is in use and below.
        put("memory/useHierarchy", Way::file("memory.use_hierarchy", u8::from(yes)), v2);
    }
    for (key, file, value) in [
        ("memory/kernel", "memory.kmem.limit_in_bytes", of.kernel()),
        ("memory/kernelTCP", "memory.kmem.tcp.limit_in_bytes", of.kernel_tcp()),
    ] {
        if let Some(n) = number(key, value)? {
            let v2 = if n < 0 { Way::Nothing } else { Way::Never(KERNEL) };
            put(key, Way::file(file, n), v2);
        }
    }
    sizes(of, now, limits)?;
    let mut put = |key, v1, v2| limits.push(Limit::new(key, "memory", v1, v2));
    if let Some(n) = of.swappiness() {
        if n > 100 {
            return Err(wrong("memory/swappiness", format!("{n} is not between 0 and 100")));
        }
        let never = "cgroup v2 has one for the whole host only (vm.swappiness); memory/swap limits swap";
        put("memory/swappiness", Way::file("memory.swappiness", n), Way::Never(never));
    }
    // Docker always sends `false`, which is what a new cgroup and every one of v2 does.
    let off = of.disable_oom_killer().filter(|off| *off || now.waits_for_memory);
    if let Some(off) = off {
        let never = "cgroup v2 cannot switch it off; unified/memory.high holds processes back before it comes";
        put("memory/disableOOMKiller", Way::file("memory.oom_control", u8::from(off)), Way::Never(never));
    }
    Ok(())
}

/// Why a host has no limit of kernel memory alone.
pub(crate) const KERNEL: &str = "kernel memory counts as memory here, and has no limit of its own; leave it out";

fn sizes(of: &LinuxMemory, now: &Now, limits: &mut Vec<Limit>) -> Result<()> {
    let limit = number("memory/limit", of.limit())?;
    let reservation = number("memory/reservation", of.reservation())?;
    let mut swap = number("memory/swap", of.swap())?;
    // The sum of memory and swap cannot stay below memory: with no limit of the one, the other has none, as with runc.
    if limit == Some(-1) && now.swap.is_some_and(|n| n != -1) {
        swap = swap.or(Some(-1));
    }
    let entry = |key, v1, v1_value: i64, v2, v2_value: String| {
        Limit::new(key, "memory", Way::file(v1, v1_value), Way::file(v2, v2_value))
    };
    if let Some(n) = limit {
        limits.push(entry("memory/limit", "memory.limit_in_bytes", n, "memory.max", v2_number(n)));
    }
    if let Some(n) = swap {
        let alone = v2_number(swap_alone(n, limit.or(now.memory))?);
        let swap = entry("memory/swap", "memory.memsw.limit_in_bytes", n, "memory.swap.max", alone);
        // v1 wants swap, which counts memory too, to be no less than it at every moment: the larger one goes first
        // where they grow, and last where they shrink. In a new cgroup they shrink, from no limit.
        let grows = now.swap.is_some_and(|now| now != -1 && (n == -1 || n > now));
        limits.insert(if grows { limits.len() - usize::from(limit.is_some()) } else { limits.len() }, swap);
    }
    if let Some(n) = reservation {
        limits.push(entry("memory/reservation", "memory.soft_limit_in_bytes", n, "memory.low", v2_number(n)));
    }
    Ok(())
}

/// Swap without memory, as v2 counts it, from the sum that the specification and v1 mean by swap.
fn swap_alone(swap: i64, limit: Option<i64>) -> Result<i64> {
    let wrong = |why: &str| wrong("memory/swap", format!("it counts memory and swap, {why}"));
    match limit {
        _ if swap == -1 => Ok(-1),
        None | Some(-1) => Err(wrong("so it needs a limit of memory beside it")),
        Some(limit) if swap < limit => Err(wrong(&format!("and {swap} is less than the limit {limit} of memory"))),
        Some(limit) => Ok(swap - limit),
    }
}
