//! Limits of block devices.

use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDevice};
use sys::Result;

use super::{Limit, Way, once, wrong};

/// The largest numbers of a device: dev_t has 12 and 20 bits for them.
const LARGEST: (i64, i64) = ((1 << 12) - 1, (1 << 20) - 1);

const NO_LEAVES: &str = "cgroup v2 has no processes beside cgroups that they would be weighed against; use weight";

/// Those of `of`, behind `limits`.
pub(super) fn limits(of: &LinuxBlockIo, limits: &mut Vec<Limit>) -> Result<()> {
    let mut put = |key: String, v1, v2| limits.push(Limit::new(key, "io", v1, v2));
    if let Some(n) = weight("blockIO/weight", of.weight())? {
        put("blockIO/weight".to_owned(), weight_v1("weight", "", n), weight_v2("", n));
    }
    if let Some(n) = weight("blockIO/leafWeight", of.leaf_weight())? {
        put("blockIO/leafWeight".to_owned(), Way::file("blkio.leaf_weight", n), Way::Never(NO_LEAVES));
    }
    let mut seen = Vec::new();
    for (index, one) in of.weight_device().iter().flatten().enumerate() {
        let at = format!("blockIO/weightDevice/{index}");
        let device = device(&at, one.major(), one.minor(), &mut seen)?;
        let key = format!("{at}/weight");
        if let Some(n) = weight(&key, one.weight())? {
            put(key, weight_v1("weight_device", &device, n), weight_v2(&device, n));
        }
        let key = format!("{at}/leafWeight");
        if let Some(n) = weight(&key, one.leaf_weight())? {
            put(key, Way::file("blkio.leaf_weight_device", format!("{device} {n}")), Way::Never(NO_LEAVES));
        }
    }
    throttle("throttleReadBpsDevice", ("read_bps", "rbps"), of.throttle_read_bps_device(), limits)?;
    throttle("throttleWriteBpsDevice", ("write_bps", "wbps"), of.throttle_write_bps_device(), limits)?;
    throttle("throttleReadIOPSDevice", ("read_iops", "riops"), of.throttle_read_iops_device(), limits)?;
    throttle("throttleWriteIOPSDevice", ("write_iops", "wiops"), of.throttle_write_iops_device(), limits)
}

/// One list of rates; a rate of 0 is no limit, as v1 has it.
fn throttle(
    list: &str,
    (v1, v2): (&str, &str),
    devices: &Option<Vec<LinuxThrottleDevice>>,
    limits: &mut Vec<Limit>,
) -> Result<()> {
    let mut seen = Vec::new();
    for (index, one) in devices.iter().flatten().enumerate() {
        let key = format!("blockIO/{list}/{index}");
        let device = device(&key, one.major(), one.minor(), &mut seen)?;
        let rate = one.rate();
        // The kernel keeps 32 bits of them, on v1 without a word.
        if v2.ends_with("iops") && rate > u64::from(u32::MAX) {
            return Err(wrong(&format!("{key}/rate"), format!("{rate} is more than {}", u32::MAX)));
        }
        let max = if rate == 0 { "max".to_owned() } else { rate.to_string() };
        let file = format!("blkio.throttle.{v1}_device");
        let v1 = Way::file(file, format!("{device} {rate}"));
        limits.push(Limit::new(key, "io", v1, Way::file("io.max", format!("{device} {v2}={max}"))));
    }
    Ok(())
}

/// A device as the kernel writes it, of a list in which each may be once.
fn device(key: &str, major: i64, minor: i64, seen: &mut Vec<String>) -> Result<String> {
    for (part, n, largest) in [("major", major, LARGEST.0), ("minor", minor, LARGEST.1)] {
        if !(0..=largest).contains(&n) {
            return Err(wrong(&format!("{key}/{part}"), format!("{n} is not between 0 and {largest}")));
        }
    }
    let device = format!("{major}:{minor}");
    once(key, seen, device.clone())?;
    Ok(device)
}

fn weight(key: &str, value: Option<u16>) -> Result<Option<u16>> {
    match value.filter(|n| *n != 0) {
        Some(n) if !(10..=1000).contains(&n) => Err(wrong(key, format!("{n} is not between 10 and 1000"))),
        other => Ok(other),
    }
}

/// Until Linux 5.0 a scheduler called cfq had these files; since then it is bfq, with names of its own.
fn weight_v1(file: &str, device: &str, n: u16) -> Way {
    let value = format!("{device} {n}").trim_start().to_owned();
    Way::Files(vec![(format!("blkio.bfq.{file}").into(), value.clone()), (format!("blkio.{file}").into(), value)])
}

/// bfq has the numbers of v1; the controller's own file goes from 1 to 10,000.
fn weight_v2(device: &str, n: u16) -> Way {
    let value = |n: u64| format!("{device} {n}").trim_start().to_owned();
    let stretched = 1 + (u64::from(n) - 10) * 9999 / 990;
    Way::Files(vec![("io.bfq.weight".into(), value(n.into())), ("io.weight".into(), value(stretched))])
}
