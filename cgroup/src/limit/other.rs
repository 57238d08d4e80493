//! Limits of processes, huge pages, network classes and RDMA, and the files of v2 by their names.

use std::borrow::Cow;

use oci_spec::runtime::{LinuxHugepageLimit, LinuxNetwork, LinuxPids, LinuxRdma};
use sys::Result;

use super::{Limit, Way, number, once, v2_number, wrong};

/// The longest name of a network interface, in bytes: IFNAMSIZ without the NUL.
const INTERFACE: usize = 15;

pub(super) fn pids(of: &LinuxPids, limits: &mut Vec<Limit>) -> Result<()> {
    let max = v2_number(number("pids/limit", Some(of.limit()))?.unwrap_or(-1));
    limits.push(Limit::new("pids/limit", "pids", Way::file("pids.max", &max), Way::file("pids.max", &max)));
    Ok(())
}

pub(super) fn hugepages<'a>(list: impl Iterator<Item = &'a LinuxHugepageLimit>, limits: &mut Vec<Limit>) -> Result<()> {
    let mut seen = Vec::new();
    for (index, one) in list.enumerate() {
        let key = format!("hugepageLimits/{index}");
        let (size, n) = (one.page_size(), one.limit());
        let number = ["KB", "MB", "GB"].iter().find_map(|unit| size.strip_suffix(unit)).unwrap_or_default();
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong(&format!("{key}/pageSize"), format!("{size:?} is no size such as 2MB, 64KB or 1GB")));
        }
        once(&key, &mut seen, size.clone())?;
        if n < -1 {
            return Err(wrong(&format!("{key}/limit"), format!("{n} is neither a limit nor -1, which is none")));
        }
        // What is reserved by mmap(2) and not touched yet counts on its own, since Linux 5.7.
        let files = |name: &str, value: String| {
            let file = |part: &str| (format!("hugetlb.{size}.{part}{name}").into(), value.clone());
            Way::Files(vec![file(""), file("rsvd.")])
        };
        limits.push(Limit::new(key, "hugetlb", files("limit_in_bytes", n.to_string()), files("max", v2_number(n))));
    }
    Ok(())
}

pub(super) fn network(of: &LinuxNetwork, limits: &mut Vec<Limit>) -> Result<()> {
    const CLASS: &str = "cgroup v2 has no classes; nft can match `socket cgroupv2` in their place";
    const PRIORITY: &str = "cgroup v2 has no priorities; nft can set `meta priority` in their place";
    if let Some(n) = of.class_id().filter(|n| *n != 0) {
        limits.push(Limit::new("network/classID", "net_cls", Way::file("net_cls.classid", n), Way::Never(CLASS)));
    }
    let mut seen = Vec::new();
    for (index, one) in of.priorities().iter().flatten().enumerate() {
        let key = format!("network/priorities/{index}");
        let (name, n) = (word(&format!("{key}/name"), one.name())?, one.priority());
        if name.len() > INTERFACE {
            return Err(wrong(&format!("{key}/name"), format!("{name:?} is longer than {INTERFACE} bytes")));
        }
        once(&key, &mut seen, name.to_owned())?;
        let v1 = Way::file("net_prio.ifpriomap", format!("{name} {n}"));
        limits.push(Limit::new(key, "net_prio", v1, Way::Never(PRIORITY)));
    }
    Ok(())
}

pub(super) fn rdma<'a>(
    devices: impl Iterator<Item = (&'a String, &'a LinuxRdma)>,
    limits: &mut Vec<Limit>,
) -> Result<()> {
    let begin = limits.len();
    for (name, of) in devices {
        let key = format!("rdma/{}", pointer(name));
        let name = word(&key, name)?;
        let part = |word: &str, n: Option<u32>| n.map(|n| format!(" {word}={n}")).unwrap_or_default();
        let value = part("hca_handle", of.hca_handles()) + &part("hca_object", of.hca_objects());
        if !value.is_empty() {
            let line = format!("{name}{value}");
            limits.push(Limit::new(key, "rdma", Way::file("rdma.max", &line), Way::file("rdma.max", &line)));
        }
    }
    // The map has no order, and a plan is the same each time.
    limits[begin..].sort_by(|one, other| one.key.cmp(&other.key));
    Ok(())
}

/// Files of v2 by their names. What is no setting but moves, kills or freezes is not taken.
pub(super) fn unified<'a>(
    files: impl Iterator<Item = (&'a String, &'a String)>,
    limits: &mut Vec<Limit>,
) -> Result<()> {
    const ON_V1: Way = Way::Never("it names a file of cgroup v2, and this host has that controller on v1");
    let begin = limits.len();
    for (name, value) in files {
        let key = format!("unified/{}", pointer(name));
        let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        let Some((controller, rest)) =
            name.split_once('.').filter(|(controller, rest)| is_plain && !controller.is_empty() && !rest.is_empty())
        else {
            return Err(wrong(&key, "it is no name of a file such as memory.high"));
        };
        let controller: Cow<'static, str> = match controller {
            "cgroup" if rest.starts_with("max.") || rest == "pressure" => "".into(),
            "cgroup" => return Err(wrong(&key, "it is no limit, but a matter of this program")),
            other => other.to_owned().into(),
        };
        // The kernel takes one line at a time. To write nothing at all would not empty a list.
        let lines = if value.trim().is_empty() { vec!["\n"] } else { value.lines().collect() };
        for line in lines {
            let way = Way::file(name.clone(), line);
            limits.push(Limit::new(key.clone(), controller.clone(), ON_V1, way));
        }
    }
    // As above; stable, so that the lines of one file keep their order.
    limits[begin..].sort_by(|one, other| one.key.cmp(&other.key));
    Ok(())
}

/// A name that is a word of its own in a line of the kernel.
fn word<'a>(key: &str, name: &'a str) -> Result<&'a str> {
    match name.is_empty() || name.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
        true => Err(wrong(key, format!("{name:?} is no name"))),
        false => Ok(name),
    }
}

/// A key as a JSON pointer has it.
fn pointer(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}
