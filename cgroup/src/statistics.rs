//! What a jail uses, from the files of its cgroups, in the words of the document that `runc events` prints.
//!
//! What a host does not count is left out, or 0 where that document has no way to leave it out.

use std::collections::BTreeMap;
use std::fs;

use base::Object;
use serde::Serialize;
use sys::Result;

use crate::layout::Layout;
use crate::machine::page_size;
use crate::seat::{Seat, Seats};

/// All of it.
#[derive(Debug, Default, Serialize)]
pub struct Statistics {
    cpu: Cpu,
    cpuset: Cpuset,
    memory: Memory,
    pids: Pids,
    blkio: BTreeMap<&'static str, Vec<Io>>,
    hugetlb: BTreeMap<String, Pages>,
    /// Always empty: no jail has a part of the processor's cache of its own yet.
    intel_rdt: BTreeMap<(), ()>,
    /// Always nothing, as with runc: a bundle brings its network.
    network_interfaces: Option<()>,
}

#[derive(Debug, Default, Serialize)]
struct Cpu {
    usage: CpuUsage,
    throttling: Throttling,
}

/// In nanoseconds.
#[derive(Debug, Default, Serialize)]
struct CpuUsage {
    #[serde(skip_serializing_if = "is_zero")]
    total: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu_kernel: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu_user: Vec<u64>,
    kernel: u64,
    user: u64,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Throttling {
    #[serde(skip_serializing_if = "is_zero")]
    periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    throttled_periods: u64,
    /// In nanoseconds.
    #[serde(skip_serializing_if = "is_zero")]
    throttled_time: u64,
}

#[derive(Debug, Default, Serialize)]
struct Cpuset {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cpus: Vec<u32>,
    cpu_exclusive: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mems: Vec<u32>,
    mem_hardwall: u64,
    mem_exclusive: u64,
    memory_migrate: u64,
    memory_spread_page: u64,
    memory_spread_slab: u64,
    memory_pressure: u64,
    sched_load_balance: u64,
    sched_relax_domain_level: i64,
}

/// In bytes.
#[derive(Debug, Default, Serialize)]
struct Memory {
    #[serde(skip_serializing_if = "is_zero")]
    cache: u64,
    usage: Amount,
    /// With memory, as v1 counts it.
    swap: Amount,
    kernel: Amount,
    #[serde(rename = "kernelTCP")]
    kernel_tcp: Amount,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    raw: BTreeMap<String, u64>,
}

#[derive(Debug, Default, Serialize)]
struct Amount {
    limit: u64,
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max: u64,
    failcnt: u64,
}

#[derive(Debug, Default, Serialize)]
struct Pids {
    #[serde(skip_serializing_if = "is_zero")]
    current: u64,
    #[serde(skip_serializing_if = "is_zero")]
    limit: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Io {
    #[serde(skip_serializing_if = "is_zero")]
    major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    minor: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    op: String,
    #[serde(skip_serializing_if = "is_zero")]
    value: u64,
}

#[derive(Debug, Default, Serialize)]
struct Pages {
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max: u64,
    failcnt: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Reads what the jail whose cgroups `objects` name uses.
///
/// # Errors
/// As read(2); a file that is not there is none.
pub fn read(objects: &[Object], layout: &Layout) -> Result<Statistics> {
    let seats = Seats { objects, layout };
    let mut all = Statistics::default();
    // v2 counts CPU time in every directory, with the controller or without.
    if let Some(seat) = seats.of("cpu").or_else(|| seats.of("")) {
        all.cpu.throttling = throttling(&seat)?;
    }
    if let Some(seat) = seats.of("cpuacct").or_else(|| seats.of("")) {
        all.cpu.usage = usage(&seat)?;
    }
    if let Some(seat) = seats.of("cpuset") {
        all.cpuset = cpuset(&seat)?;
    }
    if let Some(seat) = seats.of("memory") {
        all.memory = if seat.is_v1 { memory_v1(&seat)? } else { memory_v2(&seat)? };
    }
    if let Some(seat) = seats.of("pids") {
        all.pids = Pids { current: count(&seat, "pids.current")?, limit: count(&seat, "pids.max")? };
    }
    if let Some(seat) = seats.of("io") {
        all.blkio = if seat.is_v1 { io_v1(&seat)? } else { io_v2(&seat.text("io.stat")?) };
    }
    if let Some(seat) = seats.of("hugetlb") {
        all.hugetlb = hugetlb(&seat)?;
    }
    Ok(all)
}

/// The one number in a file; 0 where it is not there, and for `max`.
fn count(seat: &Seat<'_>, file: &str) -> Result<u64> {
    Ok(seat.text(file)?.trim().parse().unwrap_or(0))
}

/// The numbers of a file with a name and a number in each line.
fn table(text: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let (name, n) = line.split_once(' ')?;
        Some((name.to_owned(), n.trim().parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

fn of(table: &BTreeMap<String, u64>, name: &str) -> u64 {
    table.get(name).copied().unwrap_or(0)
}

fn throttling(seat: &Seat<'_>) -> Result<Throttling> {
    let stat = table(&seat.text("cpu.stat")?);
    let throttled_time = if seat.is_v1 { of(&stat, "throttled_time") } else { of(&stat, "throttled_usec") * 1000 };
    Ok(Throttling { periods: of(&stat, "nr_periods"), throttled_periods: of(&stat, "nr_throttled"), throttled_time })
}

fn usage(seat: &Seat<'_>) -> Result<CpuUsage> {
    /// What cpuacct.stat counts in: USER_HZ, which is 100 on every architecture of today.
    const TICK: u64 = 1_000_000_000 / 100;
    if !seat.is_v1 {
        let stat = table(&seat.text("cpu.stat")?);
        let [total, user, kernel] = ["usage_usec", "user_usec", "system_usec"].map(|name| of(&stat, name) * 1000);
        return Ok(CpuUsage { total, kernel, user, ..CpuUsage::default() });
    }
    let stat = table(&seat.text("cpuacct.stat")?);
    let percpu = seat.text("cpuacct.usage_percpu")?;
    // Behind a line with their names: the CPU, user, system.
    let all = seat.text("cpuacct.usage_all")?;
    let column = |n| all.lines().skip(1).filter_map(|line| line.split(' ').nth(n)?.parse().ok()).collect();
    Ok(CpuUsage {
        total: count(seat, "cpuacct.usage")?,
        percpu: percpu.split_whitespace().filter_map(|word| word.parse().ok()).collect(),
        percpu_kernel: column(2),
        percpu_user: column(1),
        kernel: of(&stat, "system") * TICK,
        user: of(&stat, "user") * TICK,
    })
}

fn cpuset(seat: &Seat<'_>) -> Result<Cpuset> {
    let list = |v1, v2| Ok(numbers(&seat.either(v1, v2)?));
    let flag = |name: &str| count(seat, &format!("cpuset.{name}"));
    Ok(Cpuset {
        cpus: list("cpuset.cpus", "cpuset.cpus.effective")?,
        cpu_exclusive: flag("cpu_exclusive")?,
        mems: list("cpuset.mems", "cpuset.mems.effective")?,
        mem_hardwall: flag("mem_hardwall")?,
        mem_exclusive: flag("mem_exclusive")?,
        memory_migrate: flag("memory_migrate")?,
        memory_spread_page: flag("memory_spread_page")?,
        memory_spread_slab: flag("memory_spread_slab")?,
        memory_pressure: flag("memory_pressure")?,
        sched_load_balance: flag("sched_load_balance")?,
        sched_relax_domain_level: seat.text("cpuset.sched_relax_domain_level")?.trim().parse().unwrap_or(0),
    })
}

/// Each number of a list such as 0-2,4.
fn numbers(list: &str) -> Vec<u32> {
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some(from.parse().ok()?..=to.parse().ok()?)
    };
    list.trim().split(',').filter_map(range).flatten().collect()
}

fn memory_v1(seat: &Seat<'_>) -> Result<Memory> {
    let amount = |part: &str| {
        let file = |name| count(seat, &format!("memory.{part}{name}"));
        Ok(Amount {
            limit: file("limit_in_bytes")?,
            usage: file("usage_in_bytes")?,
            max: file("max_usage_in_bytes")?,
            failcnt: file("failcnt")?,
        })
    };
    let raw = table(&seat.text("memory.stat")?);
    Ok(Memory {
        cache: of(&raw, "cache"),
        usage: amount("")?,
        swap: amount("memsw.")?,
        kernel: amount("kmem.")?,
        kernel_tcp: amount("kmem.tcp.")?,
        raw,
    })
}

fn memory_v2(seat: &Seat<'_>) -> Result<Memory> {
    let amount = |part: &str| {
        let file = |name| seat.text(&format!("memory.{part}{name}"));
        Ok(Amount {
            limit: file("max")?.trim().parse().unwrap_or(u64::MAX),
            usage: file("current")?.trim().parse().unwrap_or(0),
            max: file("peak")?.trim().parse().unwrap_or(0),
            failcnt: of(&table(&file("events")?), "max"),
        })
    };
    let (usage, mut swap): (Amount, Amount) = (amount("")?, amount("swap.")?);
    // Together, as readers know it from v1. When each was largest need not be the same moment.
    swap.limit = swap.limit.saturating_add(usage.limit);
    swap.usage += usage.usage;
    swap.max = 0;
    let raw = table(&seat.text("memory.stat")?);
    let kernel = Amount { usage: of(&raw, "kernel"), ..Amount::default() };
    Ok(Memory { cache: of(&raw, "file"), usage, swap, kernel, kernel_tcp: Amount::default(), raw })
}

/// The names of v1, and of the document.
const IO: [(&str, &str); 8] = [
    ("io_service_bytes", "ioServiceBytesRecursive"),
    ("io_serviced", "ioServicedRecursive"),
    ("io_queued", "ioQueuedRecursive"),
    ("io_service_time", "ioServiceTimeRecursive"),
    ("io_wait_time", "ioWaitTimeRecursive"),
    ("io_merged", "ioMergedRecursive"),
    ("time", "ioTimeRecursive"),
    ("sectors", "sectorsRecursive"),
];

fn io_v1(seat: &Seat<'_>) -> Result<BTreeMap<&'static str, Vec<Io>>> {
    let mut all = BTreeMap::new();
    for (file, key) in IO {
        // What counts is the scheduler of the disk; what it does not see is seen by the throttle.
        for prefix in ["bfq.", "", "throttle."] {
            let found = lines_v1(&seat.text(&format!("blkio.{prefix}{file}_recursive"))?);
            if !found.is_empty() {
                all.insert(key, found);
                break;
            }
        }
    }
    Ok(all)
}

/// `8:0 Read 12` or `8:0 12`; the last line, `Total 12`, is of no device.
fn lines_v1(text: &str) -> Vec<Io> {
    let line = |line: &str| {
        let mut words = line.split(' ');
        let (major, minor) = words.next()?.split_once(':')?;
        let (op, value) = match (words.next()?, words.next()) {
            (op, Some(value)) => (op, value),
            (value, None) => ("", value),
        };
        let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
        Some(Io { major, minor, op: op.to_owned(), value: value.parse().ok()? })
    };
    text.lines().filter_map(line).collect()
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …`, of which v1 has names for the first four.
fn io_v2(text: &str) -> BTreeMap<&'static str, Vec<Io>> {
    let mut all = BTreeMap::<_, Vec<_>>::new();
    for (device, numbers) in text.lines().filter_map(|line| line.split_once(' ')) {
        let Some((Ok(major), Ok(minor))) = device.split_once(':').map(|(a, b)| (a.parse(), b.parse())) else {
            continue;
        };
        for (name, n) in numbers.split(' ').filter_map(|word| word.split_once('=')) {
            let (key, op) = match name {
                "rbytes" => (IO[0].1, "Read"),
                "wbytes" => (IO[0].1, "Write"),
                "rios" => (IO[1].1, "Read"),
                "wios" => (IO[1].1, "Write"),
                _ => continue,
            };
            let Ok(value) = n.parse() else { continue };
            all.entry(key).or_default().push(Io { major, minor, op: op.to_owned(), value });
        }
    }
    all
}

fn hugetlb(seat: &Seat<'_>) -> Result<BTreeMap<String, Pages>> {
    let Ok(sizes) = fs::read_dir("/sys/kernel/mm/hugepages") else { return Ok(BTreeMap::new()) };
    let mut all = BTreeMap::new();
    for size in sizes.flatten().filter_map(|entry| page_size(entry.file_name().to_str()?)) {
        // What is reserved, where the kernel counts that on its own.
        let rsvd = format!("hugetlb.{size}.rsvd.");
        let used = if seat.is_v1 { "usage_in_bytes" } else { "current" };
        let prefix = if seat.dir.join(format!("{rsvd}{used}")).exists() { rsvd } else { format!("hugetlb.{size}.") };
        if !seat.dir.join(format!("{prefix}{used}")).exists() {
            continue;
        }
        let file = |name: &str| count(seat, &format!("{prefix}{name}"));
        let events = || Ok(of(&table(&seat.text(&format!("hugetlb.{size}.events"))?), "max"));
        let pages = Pages {
            usage: file(used)?,
            max: if seat.is_v1 { file("max_usage_in_bytes")? } else { 0 },
            failcnt: if seat.is_v1 { file("failcnt")? } else { events()? },
        };
        all.insert(size, pages);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_count_the_same_of_a_disk() {
        let v1 = lines_v1("8:0 Read 5\n8:16 Total 7\n8:16 9\nTotal 12\n");
        let io = |minor, op: &str, value| Io { major: 8, minor, op: op.to_owned(), value };
        assert_eq!(v1, [io(0, "Read", 5), io(16, "Total", 7), io(16, "", 9)]);
        let v2 = io_v2("8:0 rbytes=5 wbytes=6 rios=1 wios=2 dbytes=0 dios=0\n8:16 \n(unknown) rbytes=1\n");
        assert_eq!(v2["ioServiceBytesRecursive"], [io(0, "Read", 5), io(0, "Write", 6)]);
        assert_eq!(v2["ioServicedRecursive"], [io(0, "Read", 1), io(0, "Write", 2)]);
    }

    #[test]
    fn a_list_is_each_of_its_numbers() {
        assert_eq!(numbers("0-2,4\n"), [0, 1, 2, 4]);
        assert_eq!(numbers("\n"), [0; 0]);
    }
}
