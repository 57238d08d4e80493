//! Limits: from `linux.resources` of the specification to the files of v1 and v2.

use std::borrow::Cow;

use oci_spec::runtime::LinuxResources;
use sys::{Error, Result};

use crate::layout::{Hierarchy, Layout};

mod block;
mod cpu;
mod memory;
mod other;

pub(crate) use cpu::realtime;
pub(crate) use memory::KERNEL as KERNEL_MEMORY;

/// A file of a controller and what is written to it.
pub(crate) type File = (Cow<'static, str>, String);

/// How a version of cgroups has a limit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// It is written to each of these files that is there, and one of them must be: kernels differ.
    Files(Vec<File>),
    /// It is in the file of another limit, or so in any case.
    Nothing,
    /// There is no such limit, for this reason.
    Never(&'static str),
}

impl Way {
    /// One file.
    fn file(name: impl Into<Cow<'static, str>>, value: impl ToString) -> Self {
        Self::Files(vec![(name.into(), value.to_string())])
    }
}

/// One limit, in the words of both versions.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    /// Its place below `/linux/resources/`.
    pub(crate) key: String,
    /// As v2 calls it; empty for what every directory of v2 has.
    pub(crate) controller: Cow<'static, str>,
    pub(crate) v1: Way,
    pub(crate) v2: Way,
}

impl Limit {
    fn new(key: impl Into<String>, controller: impl Into<Cow<'static, str>>, v1: Way, v2: Way) -> Self {
        Self { key: key.into(), controller: controller.into(), v1, v2 }
    }

    /// Whether it only says that there is no limit, so that a host without the controller does as it says.
    fn is_none(&self) -> bool {
        match &self.v2 {
            Way::Files(files) => files.iter().all(|(_, value)| value.starts_with("max")),
            Way::Nothing => true,
            Way::Never(_) => false,
        }
    }

    /// The hierarchy that enforces it, and whether that is one of v1.
    pub(crate) fn home<'a>(&self, layout: &'a Layout) -> Option<(&'a Hierarchy, bool)> {
        layout.home(&self.controller)
    }

    /// What has to be written for it; where it cannot be had there is nothing, see [`can_limit`].
    pub(crate) fn files(&self, is_v1: bool) -> &[File] {
        match if is_v1 { &self.v1 } else { &self.v2 } {
            Way::Files(files) => files,
            Way::Nothing | Way::Never(_) => &[],
        }
    }
}

/// What a cgroup has already and a change of its limits must fit; -1 is no limit. A new one has nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Now {
    /// Of memory, in bytes.
    pub(crate) memory: Option<i64>,
    /// Of swap, in bytes: v1 counts memory in it, v2 does not.
    pub(crate) swap: Option<i64>,
    /// v1: whether processes that need more memory wait, in the place of being killed.
    pub(crate) waits_for_memory: bool,
    /// Of CPU time in each period, in microseconds.
    pub(crate) quota: Option<i64>,
    /// That period, in microseconds.
    pub(crate) period: Option<u64>,
    /// What may be saved up of it, in microseconds.
    pub(crate) burst: Option<u64>,
    /// v1: of real-time scheduling in each of its periods, in microseconds.
    pub(crate) realtime: Option<i64>,
    /// v1: that period, in microseconds.
    pub(crate) realtime_period: Option<u64>,
}

/// The limits of `resources`, each checked, in the order in which the kernel takes them where `now` is what there is.
/// Devices are not among them.
///
/// # Errors
/// `Invalid` for a value that means nothing, with the JSON pointer.
pub(crate) fn limits(resources: &LinuxResources, now: &Now) -> Result<Vec<Limit>> {
    let mut limits = Vec::new();
    if let Some(of) = resources.cpu() {
        cpu::limits(of, now, &mut limits)?;
    }
    if let Some(of) = resources.memory() {
        memory::limits(of, now, &mut limits)?;
    }
    if let Some(of) = resources.pids() {
        other::pids(of, &mut limits)?;
    }
    if let Some(of) = resources.block_io() {
        block::limits(of, &mut limits)?;
    }
    other::hugepages(resources.hugepage_limits().iter().flatten(), &mut limits)?;
    if let Some(of) = resources.network() {
        other::network(of, &mut limits)?;
    }
    other::rdma(resources.rdma().iter().flatten(), &mut limits)?;
    // Last, as it may go into more detail than the others.
    other::unified(resources.unified().iter().flatten(), &mut limits)?;
    Ok(limits)
}

const NOT_DELEGATED: &str = "no cgroup with that controller is the caller's to make; `systemd-run --user --scope -p \
                             Delegate=yes` gives one on a host with cgroup v2, or leave the limit out";

/// Refuses a limit that no controller of this host can enforce.
pub(crate) fn can_limit(limits: &[Limit], layout: &Layout) -> Result<()> {
    for limit in limits.iter() {
        let (key, controller) = (&limit.key, &limit.controller);
        let lacks = match limit.home(layout) {
            Some((_, true)) => &limit.v1,
            Some((_, false)) => &limit.v2,
            None if limit.is_none() => continue,
            None if layout.v1.is_empty() && layout.v2.is_some() => &limit.v2,
            None => &Way::Nothing,
        };
        let why = match lacks {
            Way::Never(why) => (*why).to_owned(),
            _ if limit.home(layout).is_some() => continue,
            _ if layout.delegated.is_some() => NOT_DELEGATED.to_owned(),
            _ if controller.is_empty() => "this host has no cgroup v2".to_owned(),
            _ => format!("this host has no {controller} controller"),
        };
        return Err(Error::unsupported(format!("apply /linux/resources/{key}: {why}")));
    }
    Ok(())
}

/// A value that means nothing.
fn wrong(key: &str, why: impl std::fmt::Display) -> Error {
    Error::invalid(format!("use /linux/resources/{key}: {why}"))
}

/// A number of the specification. Zero is not set, as callers written in Go mean it; -1 is no limit.
fn number(key: &str, value: Option<i64>) -> Result<Option<i64>> {
    match value {
        Some(n) if n < -1 => Err(wrong(key, format!("{n} is neither a limit nor -1, which is none"))),
        Some(0) => Ok(None),
        other => Ok(other),
    }
}

/// How v2 writes a number: -1 is `max`.
fn v2_number(n: i64) -> String {
    if n < 0 { "max".to_owned() } else { n.to_string() }
}

/// Refuses what comes twice in a list, since the kernel would keep the last without a word.
fn once<T: PartialEq + std::fmt::Display>(key: &str, seen: &mut Vec<T>, what: T) -> Result<()> {
    if seen.contains(&what) {
        return Err(wrong(key, format!("{what} is given twice")));
    }
    seen.push(what);
    Ok(())
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
        let texts = |is_v1| {
            let files = limits.iter().flat_map(|limit| limit.files(is_v1));
            files.map(|(name, value)| format!("{name}={value}")).collect()
        };
        (texts(true), texts(false))
    }

    /// A host with these controllers on v1, and these on v2 where it has that.
    fn host(v1: &[&str], v2: Option<&[&str]>) -> Layout {
        let hierarchy = |names: &[&str]| Hierarchy {
            mount: "/nowhere".into(),
            controllers: names.iter().map(|name| (*name).to_owned()).collect(),
            own: "/".into(),
        };
        Layout { v2: v2.map(hierarchy), v1: v1.iter().map(|name| hierarchy(&[name])).collect(), delegated: None }
    }

    #[test]
    fn shares_become_weights() {
        for (shares, expected) in [(1, 1), (2, 1), (1024, 100), (262_144, 10_000), (u64::MAX, 10_000)] {
            assert_eq!(cpu::weight(shares), expected, "{shares}");
        }
        assert!((2..262_144).step_by(97).all(|n| cpu::weight(n) <= cpu::weight(n + 97)));
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
        let now = Now { memory: Some(100), swap: Some(150), quota: Some(1000), period: Some(10_000), ..Now::default() };
        let (v1, _) = both_with(&now, r#"{"memory":{"limit":200,"swap":250}}"#);
        assert_eq!(v1, ["memory.memsw.limit_in_bytes=250", "memory.limit_in_bytes=200"]);
        let (v1, _) = both_with(&now, r#"{"memory":{"limit":50,"swap":90}}"#);
        assert_eq!(v1, ["memory.limit_in_bytes=50", "memory.memsw.limit_in_bytes=90"]);
        let (v1, v2) = both_with(&now, r#"{"memory":{"limit":-1}}"#);
        assert_eq!(v1, ["memory.memsw.limit_in_bytes=-1", "memory.limit_in_bytes=-1"]);
        assert_eq!(v2, ["memory.swap.max=max", "memory.max=max"]);
        let (v1, _) = both_with(&now, r#"{"cpu":{"quota":500,"period":5000}}"#);
        assert_eq!(v1, ["cpu.cfs_quota_us=500", "cpu.cfs_period_us=5000"]);
        let now = Now { burst: Some(500), realtime: Some(100), realtime_period: Some(1000), ..now };
        let (v1, _) = both_with(&now, r#"{"cpu":{"quota":300,"burst":200,"idle":0,"shares":5}}"#);
        assert_eq!(v1, ["cpu.idle=0", "cpu.shares=5", "cpu.cfs_burst_us=200", "cpu.cfs_quota_us=300"]);
        let (v1, _) = both_with(&now, r#"{"cpu":{"realtimeRuntime":50,"realtimePeriod":500}}"#);
        assert_eq!(v1, ["cpu.rt_runtime_us=50", "cpu.rt_period_us=500"]);
        let (v1, _) = both_with(&now, r#"{"cpu":{"realtimeRuntime":300,"realtimePeriod":2000}}"#);
        assert_eq!(v1, ["cpu.rt_period_us=2000", "cpu.rt_runtime_us=300"]);
    }

    #[test]
    fn half_of_a_file_of_v2_keeps_the_other_half() {
        let now = Now { memory: Some(100), swap: Some(50), quota: Some(1000), period: Some(10_000), ..Now::default() };
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
            (r#"{"memory":{"swappiness":101}}"#, "memory/swappiness: 101"),
            (r#"{"memory":{"kernel":-9}}"#, "memory/kernel: -9"),
            (r#"{"cpu":{"realtimeRuntime":-2}}"#, "cpu/realtimeRuntime: -2"),
            (r#"{"cpu":{"realtimeRuntime":9,"realtimePeriod":8}}"#, "cpu/realtimeRuntime: 9 is more"),
            (r#"{"blockIO":{"weight":9}}"#, "blockIO/weight: 9"),
            (r#"{"blockIO":{"leafWeight":1001}}"#, "blockIO/leafWeight: 1001"),
            (r#"{"blockIO":{"weightDevice":[{"major":8,"minor":-1,"weight":9}]}}"#, "blockIO/weightDevice/0/minor: -1"),
            (
                r#"{"blockIO":{"throttleReadBpsDevice":[{"major":4096,"minor":0,"rate":1}]}}"#,
                "blockIO/throttleReadBpsDevice/0/major: 4096",
            ),
            (
                r#"{"blockIO":{"throttleWriteIOPSDevice":[{"major":8,"minor":0,"rate":4294967296}]}}"#,
                "blockIO/throttleWriteIOPSDevice/0/rate: 4294967296",
            ),
            (
                r#"{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1},{"major":8,"minor":0,"rate":2}]}}"#,
                "blockIO/throttleReadBpsDevice/1: 8:0 is given twice",
            ),
            (r#"{"hugepageLimits":[{"pageSize":"../x","limit":0}]}"#, "hugepageLimits/0/pageSize: \"../x\""),
            (r#"{"hugepageLimits":[{"pageSize":"2MB","limit":-2}]}"#, "hugepageLimits/0/limit: -2"),
            (
                r#"{"hugepageLimits":[{"pageSize":"2MB","limit":1},{"pageSize":"2MB","limit":1}]}"#,
                "hugepageLimits/1: 2MB is given twice",
            ),
            (r#"{"network":{"priorities":[{"name":"a b","priority":1}]}}"#, "network/priorities/0/name: \"a b\""),
            (r#"{"network":{"priorities":[{"name":"abcdefghijklmnop","priority":1}]}}"#, "network/priorities/0/name: "),
            (r#"{"rdma":{"":{"hcaHandles":1}}}"#, "rdma/: \"\""),
            (r#"{"unified":{"a/b.c":"1"}}"#, "unified/a~1b.c: "),
            (r#"{"unified":{"memory":"1"}}"#, "unified/memory: "),
            (r#"{"unified":{"..max":"1"}}"#, "unified/..max: "),
            (r#"{"unified":{"cgroup.procs":"0"}}"#, "unified/cgroup.procs: "),
        ] {
            let error = of(json).unwrap_err();
            assert_eq!(error.kind, sys::Kind::Invalid);
            assert!(error.what.starts_with(&format!("use /linux/resources/{pointer}")), "{error}");
        }
    }

    #[test]
    fn devices_pages_and_the_like_have_their_files() {
        let (v1, v2) = both(
            r#"{"blockIO":{"weight":10,"weightDevice":[{"major":8,"minor":0,"weight":1000}],
            "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":7}],"throttleWriteIOPSDevice":[{"major":8,"minor":0,"rate":0}]},
            "hugepageLimits":[{"pageSize":"2MB","limit":0}],"rdma":{"b":{"hcaObjects":2},"a":{"hcaHandles":1,"hcaObjects":3}}}"#,
        );
        let rdma = ["rdma.max=a hca_handle=1 hca_object=3", "rdma.max=b hca_object=2"];
        let [blkio, device] = ["blkio.throttle.read_bps_device=8:0 7", "blkio.throttle.write_iops_device=8:0 0"];
        let weights = [
            "blkio.bfq.weight=10",
            "blkio.weight=10",
            "blkio.bfq.weight_device=8:0 1000",
            "blkio.weight_device=8:0 1000",
        ];
        let pages = ["hugetlb.2MB.limit_in_bytes=0", "hugetlb.2MB.rsvd.limit_in_bytes=0"];
        assert_eq!(v1, [&weights[..], &[blkio, device], &pages, &rdma].concat());
        let weights = ["io.bfq.weight=10", "io.weight=1", "io.bfq.weight=8:0 1000", "io.weight=8:0 10000"];
        let rates = ["io.max=8:0 rbps=7", "io.max=8:0 wiops=max", "hugetlb.2MB.max=0", "hugetlb.2MB.rsvd.max=0"];
        assert_eq!(v2, [&weights[..], &rates, &rdma].concat());
    }

    #[test]
    fn files_of_v2_are_written_by_their_names_and_lines() {
        let (v1, v2) =
            both(r#"{"unified":{"io.max":"8:0 rbps=1\n8:16 rbps=2\n","cgroup.max.depth":"3","cpuset.mems":""}}"#);
        assert_eq!(v2, ["cgroup.max.depth=3", "cpuset.mems=\n", "io.max=8:0 rbps=1", "io.max=8:16 rbps=2"]);
        assert!(v1.is_empty());
    }

    #[test]
    fn what_a_host_cannot_do_is_refused_by_name_with_the_reason() {
        let on_v1 = host(&["memory", "cpu", "blkio"], None);
        let hybrid = host(&["memory"], Some(&["hugetlb"]));
        let on_v2 = host(&[], Some(&["memory", "cpu", "io"]));
        for (layout, json, why) in [
            (
                &on_v1,
                r#"{"hugepageLimits":[{"pageSize":"2MB","limit":0}]}"#,
                "hugepageLimits/0: this host has no hugetlb controller",
            ),
            (&on_v1, r#"{"network":{"classID":1}}"#, "network/classID: this host has no net_cls controller"),
            (&on_v1, r#"{"unified":{"memory.high":"1"}}"#, "unified/memory.high: it names a file of cgroup v2"),
            (&on_v1, r#"{"unified":{"cgroup.max.depth":"1"}}"#, "unified/cgroup.max.depth: this host has no cgroup v2"),
            (&on_v1, r#"{"unified":{"cpuset.cpus":"1"}}"#, "unified/cpuset.cpus: this host has no cpuset controller"),
            (&hybrid, r#"{"unified":{"memory.high":"1"}}"#, "unified/memory.high: it names a file of cgroup v2"),
            (&hybrid, r#"{"rdma":{"a":{"hcaHandles":1}}}"#, "rdma/a: this host has no rdma controller"),
            (&on_v2, r#"{"network":{"classID":1}}"#, "network/classID: cgroup v2 has no classes"),
            (
                &on_v2,
                r#"{"network":{"priorities":[{"name":"a","priority":1}]}}"#,
                "network/priorities/0: cgroup v2 has no",
            ),
            (&on_v2, r#"{"memory":{"swappiness":0}}"#, "memory/swappiness: cgroup v2 has one for the whole host"),
            (&on_v2, r#"{"memory":{"disableOOMKiller":true}}"#, "memory/disableOOMKiller: cgroup v2 cannot"),
            (&on_v2, r#"{"memory":{"useHierarchy":false}}"#, "memory/useHierarchy: cgroup v2 counts"),
            (&on_v2, r#"{"memory":{"kernel":5}}"#, "memory/kernel: kernel memory counts"),
            (&on_v2, r#"{"cpu":{"realtimePeriod":1}}"#, "cpu/realtimePeriod: cgroup v2 has no real-time"),
            (&on_v2, r#"{"blockIO":{"leafWeight":10}}"#, "blockIO/leafWeight: cgroup v2 has no"),
        ] {
            let error = can_limit(&of(json).unwrap(), layout).unwrap_err();
            assert_eq!(error.kind, sys::Kind::Unsupported);
            assert!(error.what.starts_with(&format!("apply /linux/resources/{why}")), "{error}");
        }
        for (layout, json) in [
            (&hybrid, r#"{"hugepageLimits":[{"pageSize":"2MB","limit":0}],"unified":{"hugetlb.2MB.max":"0"}}"#),
            (&on_v1, r#"{"memory":{"swappiness":0,"disableOOMKiller":true,"kernel":5},"blockIO":{"leafWeight":10}}"#),
            (&on_v2, r#"{"memory":{"kernel":-1,"useHierarchy":true},"unified":{"cgroup.max.depth":"1"}}"#),
            (&on_v2, r#"{"pids":{"limit":-1}}"#),
        ] {
            can_limit(&of(json).unwrap(), layout).unwrap();
        }
    }

    #[test]
    fn nothing_is_nothing() {
        let nothing = r#"{"blockIO":{"weight":0},"hugepageLimits":[],"network":{"classID":0},"rdma":{},"unified":{},
            "cpu":{"realtimePeriod":0,"realtimeRuntime":0},"memory":{"disableOOMKiller":false,"kernel":0,"limit":0}}"#;
        assert_eq!(of(nothing).unwrap(), []);
    }
}
