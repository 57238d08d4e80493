//! Limits: from `linux.resources` of the specification to the files of v1 and v2.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};
use sys::{Error, Result};

/// A file of a controller and what is written to it.
type File = Option<(&'static str, String)>;

/// One limit, in the words of both versions; `None` where a version has it in the file of another limit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    /// Its place below `/linux/resources/`.
    pub(crate) key: &'static str,
    pub(crate) controller: &'static str,
    pub(crate) v1: File,
    pub(crate) v2: File,
}

impl Limit {
    /// Whether it only says that there is no limit, so that a host without the controller does as it says.
    pub(crate) fn is_none(&self) -> bool {
        self.v2.as_ref().is_none_or(|(_, value)| value.starts_with("max"))
    }
}

/// What a cgroup has already and a change of its limits must fit; -1 is no limit. A new one has nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Now {
    /// Of memory, in bytes.
    pub(crate) memory: Option<i64>,
    /// Of swap, in bytes: v1 counts memory in it, v2 does not.
    pub(crate) swap: Option<i64>,
    /// Of CPU time in each period, in microseconds.
    pub(crate) quota: Option<i64>,
    /// That period, in microseconds.
    pub(crate) period: Option<u64>,
}

/// The limits of `resources`, each checked, in the order in which the kernel takes them where `now` is what there is.
/// Devices are not among them.
///
/// # Errors
/// `Invalid` for a value that means nothing, `Unsupported` for what is not carried out, both with the JSON pointer.
pub(crate) fn limits(resources: &LinuxResources, now: &Now) -> Result<Vec<Limit>> {
    refuse_the_rest(resources)?;
    let mut limits = Vec::new();
    if let Some(of) = resources.cpu() {
        cpu(of, now, &mut limits)?;
    }
    if let Some(of) = resources.memory() {
        memory(of, now, &mut limits)?;
    }
    if let Some(of) = resources.pids() {
        pids(of, &mut limits)?;
    }
    Ok(limits)
}

/// A number of the specification. Zero is not set, as callers written in Go mean it; -1 is no limit.
fn number(key: &str, value: Option<i64>) -> Result<Option<i64>> {
    match value {
        Some(n) if n < -1 => {
            Err(Error::invalid(format!("use /linux/resources/{key}: {n} is neither a limit nor -1, which is none")))
        }
        Some(0) => Ok(None),
        other => Ok(other),
    }
}

/// How v2 writes a number: -1 is `max`.
fn v2_number(n: i64) -> String {
    if n < 0 { "max".to_owned() } else { n.to_string() }
}

fn memory(of: &LinuxMemory, now: &Now, limits: &mut Vec<Limit>) -> Result<()> {
    let limit = number("memory/limit", of.limit())?;
    let reservation = number("memory/reservation", of.reservation())?;
    let mut swap = number("memory/swap", of.swap())?;
    // The sum of memory and swap cannot stay below memory: with no limit of the one, the other has none, as with runc.
    if limit == Some(-1) && now.swap.is_some_and(|n| n != -1) {
        swap = swap.or(Some(-1));
    }
    let entry = |key, v1, v1_value: i64, v2, v2_value| {
        let (v1, v2) = (Some((v1, v1_value.to_string())), Some((v2, v2_value)));
        Limit { key, controller: "memory", v1, v2 }
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
    let wrong = |why: String| Error::invalid(format!("use /linux/resources/memory/swap: {why}"));
    match limit {
        _ if swap == -1 => Ok(-1),
        None | Some(-1) => Err(wrong("it counts memory and swap, so it needs a limit of memory beside it".to_owned())),
        Some(limit) if swap < limit => {
            Err(wrong(format!("it counts memory and swap, and {swap} is less than the limit {limit} of memory")))
        }
        Some(limit) => Ok(swap - limit),
    }
}

fn cpu(of: &LinuxCpu, now: &Now, limits: &mut Vec<Limit>) -> Result<()> {
    let quota = number("cpu/quota", of.quota())?;
    let period = of.period().filter(|n| *n != 0);
    let mut put = |key, controller, v1: File, v2: File| limits.push(Limit { key, controller, v1, v2 });
    if let Some(n) = of.shares().filter(|n| *n != 0) {
        let v2 = Some(("cpu.weight", weight(n).to_string()));
        put("cpu/shares", "cpu", Some(("cpu.shares", n.to_string())), v2);
    }
    if quota.is_some() || period.is_some() {
        let max_quota = quota.or(now.quota).unwrap_or(-1);
        let max = format!("{} {}", v2_number(max_quota), period.or(now.period).unwrap_or(100_000));
        let key = if quota.is_some() { "cpu/quota" } else { "cpu/period" };
        let mut v1 =
            [period.map(|n| ("cpu.cfs_period_us", n.to_string())), quota.map(|n| ("cpu.cfs_quota_us", n.to_string()))];
        // The kernel holds their ratio against that of the parent at every moment, so that a period which shrinks goes
        // last: with the old quota it could be too much.
        if period.zip(now.period).is_some_and(|(period, now)| period < now) {
            v1.reverse();
        }
        let [first, second] = v1;
        put(key, "cpu", first, Some(("cpu.max", max)));
        put(key, "cpu", second, None);
    }
    if let Some(n) = of.burst() {
        put("cpu/burst", "cpu", Some(("cpu.cfs_burst_us", n.to_string())), Some(("cpu.max.burst", n.to_string())));
    }
    match of.idle() {
        None => {}
        // After the shares: an idle cgroup takes none.
        Some(n @ (0 | 1)) => {
            put("cpu/idle", "cpu", Some(("cpu.idle", n.to_string())), Some(("cpu.idle", n.to_string())))
        }
        Some(n) => return Err(Error::invalid(format!("use /linux/resources/cpu/idle: {n} is neither 0 nor 1"))),
    }
    for (key, file, list) in [("cpu/cpus", "cpuset.cpus", of.cpus()), ("cpu/mems", "cpuset.mems", of.mems())] {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            put(key, "cpuset", Some((file, list.clone())), Some((file, list.clone())));
        }
    }
    Ok(())
}

/// The weight of v2 (1 to 10,000, usually 100) for the shares of v1 (2 to 262,144, usually 1,024).
///
/// A curve through both ends and the usual value, the one that runc and crun have used since 2025: with the straight
/// line of before, the usual 1,024 became 39, less than a neighbour that asked for nothing.
fn weight(shares: u64) -> u64 {
    match shares {
        ..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            10_f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

fn pids(of: &LinuxPids, limits: &mut Vec<Limit>) -> Result<()> {
    let max = v2_number(number("pids/limit", Some(of.limit()))?.unwrap_or(-1));
    let file = Some(("pids.max", max));
    limits.push(Limit { key: "pids/limit", controller: "pids", v1: file.clone(), v2: file });
    Ok(())
}

/// Refuses what is set and not carried out; what is set to nothing is nothing.
///
/// `kernel` and `kernelTCP` are deprecated by the specification and by the kernel, and are passed over. So is
/// `checkBeforeUpdate`: a new cgroup uses nothing that a limit could be below of, and [`crate::change`] heeds it.
fn refuse_the_rest(resources: &LinuxResources) -> Result<()> {
    let memory = resources.memory().unwrap_or_default();
    let cpu = resources.cpu().clone().unwrap_or_default();
    let network = resources.network().clone().unwrap_or_default();
    let set = [
        ("blockIO", resources.block_io().as_ref().is_some_and(is_set)),
        ("hugepageLimits", resources.hugepage_limits().as_ref().is_some_and(|list| !list.is_empty())),
        ("network/classID", network.class_id().is_some_and(|n| n != 0)),
        ("network/priorities", network.priorities().as_ref().is_some_and(|list| !list.is_empty())),
        ("rdma", resources.rdma().as_ref().is_some_and(|map| !map.is_empty())),
        ("unified", resources.unified().as_ref().is_some_and(|map| !map.is_empty())),
        ("memory/swappiness", memory.swappiness().is_some()),
        // Docker always sends `false`.
        ("memory/disableOOMKiller", memory.disable_oom_killer() == Some(true)),
        ("memory/useHierarchy", memory.use_hierarchy() == Some(false)),
        ("cpu/realtimeRuntime", cpu.realtime_runtime().is_some_and(|n| n != 0)),
        ("cpu/realtimePeriod", cpu.realtime_period().is_some_and(|n| n != 0)),
    ];
    match set.iter().find(|(_, set)| *set) {
        Some((key, _)) => Err(Error::unsupported(format!("apply /linux/resources/{key}: not carried out yet"))),
        None => Ok(()),
    }
}

fn is_set(io: &LinuxBlockIo) -> bool {
    let throttles = [
        io.throttle_read_bps_device(),
        io.throttle_write_bps_device(),
        io.throttle_read_iops_device(),
        io.throttle_write_iops_device(),
    ];
    io.weight().is_some_and(|n| n != 0)
        || io.leaf_weight().is_some_and(|n| n != 0)
        || io.weight_device().as_ref().is_some_and(|list| !list.is_empty())
        || throttles.into_iter().flatten().any(|list| !list.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> Result<Vec<Limit>> {
        limits(&serde_json::from_str(json).unwrap(), &Now::default())
    }

    /// Every limit as `file=value` of v1, then of v2.
    fn both(json: &str) -> (Vec<String>, Vec<String>) {
        both_with(&Now::default(), json)
    }

    /// The same for a cgroup that has limits.
    fn both_with(now: &Now, json: &str) -> (Vec<String>, Vec<String>) {
        let limits = limits(&serde_json::from_str(json).unwrap(), now).unwrap();
        let text = |file: &File| file.as_ref().map(|(name, value)| format!("{name}={value}"));
        (limits.iter().filter_map(|l| text(&l.v1)).collect(), limits.iter().filter_map(|l| text(&l.v2)).collect())
    }

    #[test]
    fn shares_become_weights() {
        for (shares, expected) in [(1, 1), (2, 1), (1024, 100), (262_144, 10_000), (u64::MAX, 10_000)] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
        assert!((2..262_144).step_by(97).all(|n| weight(n) <= weight(n + 97)));
    }

    #[test]
    fn swap_counts_memory_on_v1_and_does_not_on_v2() {
        let (v1, v2) = both(r#"{"memory":{"limit":100,"swap":150,"reservation":50}}"#);
        assert_eq!(
            v1,
            ["memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=150", "memory.soft_limit_in_bytes=50"]
        );
        assert_eq!(v2, ["memory.max=100", "memory.swap.max=50", "memory.low=50"]);
        assert_eq!(both(r#"{"memory":{"limit":-1,"swap":-1}}"#).1, ["memory.max=max", "memory.swap.max=max"]);
    }

    #[test]
    fn quota_and_period_are_one_file_on_v2() {
        let (v1, v2) = both(r#"{"cpu":{"quota":5000,"period":10000,"burst":100,"idle":1,"shares":1024,"cpus":"0"}}"#);
        assert_eq!(
            v1,
            [
                "cpu.shares=1024",
                "cpu.cfs_period_us=10000",
                "cpu.cfs_quota_us=5000",
                "cpu.cfs_burst_us=100",
                "cpu.idle=1",
                "cpuset.cpus=0"
            ]
        );
        assert_eq!(v2, ["cpu.weight=100", "cpu.max=5000 10000", "cpu.max.burst=100", "cpu.idle=1", "cpuset.cpus=0"]);
        assert_eq!(both(r#"{"cpu":{"quota":5000}}"#).1, ["cpu.max=5000 100000"]);
        assert_eq!(both(r#"{"cpu":{"period":5000}}"#).1, ["cpu.max=max 5000"]);
    }

    #[test]
    fn what_grows_together_grows_in_the_order_of_the_kernel() {
        let now = Now { memory: Some(100), swap: Some(150), quota: Some(1000), period: Some(10_000) };
        let (v1, _) = both_with(&now, r#"{"memory":{"limit":200,"swap":250}}"#);
        assert_eq!(v1, ["memory.memsw.limit_in_bytes=250", "memory.limit_in_bytes=200"]);
        let (v1, _) = both_with(&now, r#"{"memory":{"limit":50,"swap":90}}"#);
        assert_eq!(v1, ["memory.limit_in_bytes=50", "memory.memsw.limit_in_bytes=90"]);
        let (v1, v2) = both_with(&now, r#"{"memory":{"limit":-1}}"#);
        assert_eq!(v1, ["memory.memsw.limit_in_bytes=-1", "memory.limit_in_bytes=-1"]);
        assert_eq!(v2, ["memory.swap.max=max", "memory.max=max"]);
        let (v1, _) = both_with(&now, r#"{"cpu":{"quota":500,"period":5000}}"#);
        assert_eq!(v1, ["cpu.cfs_quota_us=500", "cpu.cfs_period_us=5000"]);
    }

    #[test]
    fn half_of_a_file_of_v2_keeps_the_other_half() {
        let now = Now { memory: Some(100), swap: Some(50), quota: Some(1000), period: Some(10_000) };
        assert_eq!(both_with(&now, r#"{"cpu":{"quota":500}}"#).1, ["cpu.max=500 10000"]);
        assert_eq!(both_with(&now, r#"{"cpu":{"period":5000}}"#).1, ["cpu.max=1000 5000"]);
        assert_eq!(both_with(&now, r#"{"memory":{"swap":170}}"#).1, ["memory.swap.max=70"]);
    }

    #[test]
    fn no_limit_of_pids_is_max() {
        for n in ["0", "-1"] {
            assert_eq!(both(&format!(r#"{{"pids":{{"limit":{n}}}}}"#)).1, ["pids.max=max"]);
        }
    }

    #[test]
    fn nonsense_is_refused_with_its_pointer() {
        for (json, pointer) in [
            (r#"{"memory":{"limit":-5}}"#, "memory/limit: -5"),
            (r#"{"memory":{"swap":5}}"#, "memory/swap: "),
            (r#"{"memory":{"limit":9,"swap":5}}"#, "memory/swap: "),
            (r#"{"cpu":{"quota":-7}}"#, "cpu/quota: -7"),
            (r#"{"cpu":{"idle":2}}"#, "cpu/idle: 2"),
            (r#"{"pids":{"limit":-3}}"#, "pids/limit: -3"),
        ] {
            let error = of(json).unwrap_err();
            assert_eq!(error.kind, sys::Kind::Invalid);
            assert!(error.what.starts_with(&format!("use /linux/resources/{pointer}")), "{error}");
        }
    }

    #[test]
    fn what_is_not_carried_out_is_refused_by_name_and_nothing_is_nothing() {
        for (json, key) in [
            (r#"{"blockIO":{"weight":10}}"#, "blockIO"),
            (r#"{"hugepageLimits":[{"pageSize":"2MB","limit":0}]}"#, "hugepageLimits"),
            (r#"{"network":{"classID":1}}"#, "network/classID"),
            (r#"{"rdma":{"a":{"hcaHandles":1}}}"#, "rdma"),
            (r#"{"unified":{"memory.high":"1"}}"#, "unified"),
            (r#"{"memory":{"swappiness":1}}"#, "memory/swappiness"),
            (r#"{"memory":{"disableOOMKiller":true}}"#, "memory/disableOOMKiller"),
            (r#"{"cpu":{"realtimePeriod":1}}"#, "cpu/realtimePeriod"),
        ] {
            let error = of(json).unwrap_err();
            assert_eq!(error.kind, sys::Kind::Unsupported);
            assert_eq!(error.what, format!("apply /linux/resources/{key}: not carried out yet"));
        }
        let nothing = r#"{"blockIO":{},"hugepageLimits":[],"network":{},"rdma":{},"unified":{},"cpu":{},
            "memory":{"disableOOMKiller":false,"kernel":5,"kernelTCP":6,"useHierarchy":true,"limit":0}}"#;
        assert_eq!(of(nothing).unwrap(), []);
    }
}
