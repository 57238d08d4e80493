//! Limits of CPU time, and the CPUs themselves.

use oci_spec::runtime::{LinuxCpu, LinuxResources};
use sys::Result;

use super::{Limit, Now, Way, number, v2_number, wrong};

/// The period of real-time scheduling of a new cgroup, in microseconds.
const REALTIME_PERIOD: u64 = 1_000_000;

/// Those of `of`, behind `limits`.
pub(super) fn limits(of: &LinuxCpu, now: &Now, limits: &mut Vec<Limit>) -> Result<()> {
    let mut put = |key, v1, v2| limits.push(Limit::new(key, "cpu", v1, v2));
    let idle = match of.idle() {
        Some(n) if n != 0 && n != 1 => return Err(wrong("cpu/idle", format!("{n} is neither 0 nor 1"))),
        idle => idle.map(|n| ("cpu/idle", Way::file("cpu.idle", n), Way::file("cpu.idle", n))),
    };
    // An idle cgroup takes no shares: before them where it ceases to be one, else behind.
    let (ceases, becomes) = if of.idle() == Some(0) { (idle, None) } else { (None, idle) };
    if let Some((key, v1, v2)) = ceases {
        put(key, v1, v2);
    }
    if let Some(n) = of.shares().filter(|n| *n != 0) {
        put("cpu/shares", Way::file("cpu.shares", n), Way::file("cpu.weight", weight(n)));
    }
    bandwidth(of, now, limits)?;
    real_time(of, now, limits)?;
    if let Some((key, v1, v2)) = becomes {
        limits.push(Limit::new(key, "cpu", v1, v2));
    }
    for (key, file, list) in [("cpu/cpus", "cpuset.cpus", of.cpus()), ("cpu/mems", "cpuset.mems", of.mems())] {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            limits.push(Limit::new(key, "cpuset", Way::file(file, list), Way::file(file, list)));
        }
    }
    Ok(())
}

fn bandwidth(of: &LinuxCpu, now: &Now, limits: &mut Vec<Limit>) -> Result<()> {
    let quota = number("cpu/quota", of.quota())?;
    let period = of.period().filter(|n| *n != 0);
    let begin = limits.len();
    let mut put = |key, v1, v2| limits.push(Limit::new(key, "cpu", v1, v2));
    if quota.is_some() || period.is_some() {
        let max_quota = quota.or(now.quota).unwrap_or(-1);
        let max = format!("{} {}", v2_number(max_quota), period.or(now.period).unwrap_or(100_000));
        let key = if quota.is_some() { "cpu/quota" } else { "cpu/period" };
        let mut v1 =
            [period.map(|n| Way::file("cpu.cfs_period_us", n)), quota.map(|n| Way::file("cpu.cfs_quota_us", n))];
        // The kernel holds their ratio against that of the parent at every moment, so that a period which shrinks goes
        // last: with the old quota it could be too much.
        if period.zip(now.period).is_some_and(|(period, now)| period < now) {
            v1.reverse();
        }
        let [first, second] = v1.map(|way| way.unwrap_or(Way::Nothing));
        put(key, first, Way::file("cpu.max", max));
        put(key, second, Way::Nothing);
    }
    if let Some(n) = of.burst() {
        let burst = Limit::new("cpu/burst", "cpu", Way::file("cpu.cfs_burst_us", n), Way::file("cpu.max.burst", n));
        // At every moment it may be no more than the quota.
        let shrinks = now.burst.is_some_and(|now| n < now);
        limits.insert(if shrinks { begin } else { limits.len() }, burst);
    }
    Ok(())
}

/// What `resources` ask of real-time scheduling, in microseconds, and in which period; `None` where they do not.
pub(crate) fn realtime(resources: &LinuxResources, now: &Now) -> Option<(i64, u64)> {
    let cpu = resources.cpu().as_ref()?;
    let runtime = cpu.realtime_runtime().filter(|n| *n != 0);
    let period = cpu.realtime_period().filter(|n| *n != 0);
    if runtime.is_none() && period.is_none() {
        return None;
    }
    let period = period.or(now.realtime_period).unwrap_or(REALTIME_PERIOD);
    Some((runtime.or(now.realtime).unwrap_or(0), period))
}

fn real_time(of: &LinuxCpu, now: &Now, limits: &mut Vec<Limit>) -> Result<()> {
    const NEVER: &str = "cgroup v2 has no real-time scheduling by cgroups (process/scheduler may be what is meant)";
    let runtime = number("cpu/realtimeRuntime", of.realtime_runtime())?;
    let period = of.realtime_period().filter(|n| *n != 0);
    let (old, old_period) = (now.realtime.unwrap_or(0), now.realtime_period.unwrap_or(REALTIME_PERIOD));
    let (new, new_period) = (runtime.unwrap_or(old), period.unwrap_or(old_period));
    if new > 0 && new as u64 > new_period {
        return Err(wrong("cpu/realtimeRuntime", format!("{new} is more than the period of {new_period}")));
    }
    let mut both = [
        ("cpu/realtimePeriod", period.map(|n| Way::file("cpu.rt_period_us", n))),
        ("cpu/realtimeRuntime", runtime.map(|n| Way::file("cpu.rt_runtime_us", n))),
    ];
    // At every moment it must fit into the cgroup above, so that the first of the two is the one that asks for less.
    let ratio = |runtime: i64, period: u64| {
        i128::from(runtime) * i128::from(old_period) * i128::from(new_period) / i128::from(period.max(1))
    };
    if ratio(new, old_period) < ratio(old, new_period) {
        both.reverse();
    }
    let wanted = both.into_iter().filter_map(|(key, way)| Some((key, way?)));
    limits.extend(wanted.map(|(key, way)| Limit::new(key, "cpu", way, Way::Never(NEVER))));
    Ok(())
}

/// The weight of v2 (1 to 10,000, usually 100) for the shares of v1 (2 to 262,144, usually 1,024).
///
/// A curve through both ends and the usual value, the one that runc and crun have used since 2025: with the straight
/// line of before, the usual 1,024 became 39, less than a neighbour that asked for nothing.
pub(super) fn weight(shares: u64) -> u64 {
    match shares {
        ..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            10_f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}
