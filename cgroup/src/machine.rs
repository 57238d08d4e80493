//! What limits can name of this machine: CPUs, memory nodes, block devices, sizes of huge pages. A name that is not there
//! is refused with those that are, before anything is touched: of the kernel's answers none says as much.

use std::fs;
use std::path::Path;

use oci_spec::runtime::LinuxResources;
use sys::{Doing, Error, Result};

use crate::layout::Layout;
use crate::limit::{KERNEL_MEMORY, Limit, Now, limits};

/// The first kernel whose v1 has no limit of kernel memory any more.
const NO_KERNEL_MEMORY: (u32, u32) = (5, 16);

/// Refuses limits that name what this machine does not have. [`crate::plan`] is about the layout alone, which a test can
/// invent; this looks, and touches nothing.
///
/// # Errors
/// `Unsupported` with the JSON pointer and what there is; `Invalid` as [`crate::plan`].
pub fn look(resources: Option<&LinuxResources>, layout: &Layout) -> Result<()> {
    match resources {
        Some(resources) => check(&limits(resources, &Now::default())?, layout),
        None => Ok(()),
    }
}

/// Refuses what this machine does not have.
pub(crate) fn check(limits: &[Limit], layout: &Layout) -> Result<()> {
    for limit in limits {
        let refuse = |why: String| Err(Error::unsupported(format!("apply /linux/resources/{}: {why}", limit.key)));
        let Some((hierarchy, is_v1)) = limit.home(layout) else { continue };
        let Some((file, value)) = limit.files(is_v1).first() else { continue };
        let missing = match &*limit.controller {
            "cpuset" if matches!(&**file, "cpuset.cpus" | "cpuset.mems") => {
                let kind = file.trim_start_matches("cpuset.");
                let all = if is_v1 { format!("cpuset.effective_{kind}") } else { format!("cpuset.{kind}.effective") };
                let all = fs::read_to_string(hierarchy.mount.join(all)).unwrap_or_default();
                let what = if kind == "cpus" { "CPU" } else { "memory node" };
                outside(value, all.trim(), what)
            }
            "io" => value.split_whitespace().next().and_then(device),
            "hugetlb" => file.split('.').nth(1).and_then(|size| pages(size, Path::new(PAGES))),
            "memory" if file.ends_with("kmem.limit_in_bytes") && *value != "-1" && release()? >= NO_KERNEL_MEMORY => {
                Some(KERNEL_MEMORY.to_owned())
            }
            _ => None,
        };
        if let Some(why) = missing {
            return refuse(why);
        }
    }
    Ok(())
}

/// What is wrong with a list of numbers, as cpuset(7) has it, of which not all are among `all`.
fn outside(list: &str, all: &str, what: &str) -> Option<String> {
    let list = list.trim();
    let there = ranges(all)?;
    let Some(wanted) = ranges(list) else {
        return (!list.is_empty()).then(|| format!("{list:?} is no list such as 0-2,4"));
    };
    let has = |n: u32| there.iter().any(|(from, to)| (*from..=*to).contains(&n));
    // The first that is not there is a begin, or it comes right behind a range that is.
    let first = |(from, to): (u32, u32)| {
        let behind = there.iter().map(|(_, end)| end.saturating_add(1)).filter(move |n| (from..=to).contains(n));
        std::iter::once(from).chain(behind).filter(|n| !has(*n)).min()
    };
    let lacks = wanted.into_iter().filter_map(first).min()?;
    Some(format!("{what} {lacks} is not there; this host has {all}"))
}

/// The ranges of such a list; `None` where it is none. Of `0-9:2/5` they are 0-1 and 5-6.
fn ranges(list: &str) -> Option<Vec<(u32, u32)>> {
    const LARGEST: u32 = 1 << 16;
    let mut all = Vec::new();
    for part in list.split(',').map(str::trim) {
        let (range, group) = part.split_once(':').map_or((part, None), |(range, group)| (range, Some(group)));
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        let (from, to): (u32, u32) = (from.parse().ok()?, to.parse().ok()?);
        if from > to {
            return None;
        }
        match group {
            None => all.push((from, to)),
            Some(group) => {
                let (used, size) = group.split_once('/')?;
                let (used, size): (u32, u32) = (used.parse().ok()?, size.parse().ok()?);
                if used == 0 || used > size || to > LARGEST {
                    return None;
                }
                all.extend((from..=to).step_by(size as usize).map(|first| (first, to.min(first + used - 1))));
            }
        }
    }
    Some(all)
}

/// What is wrong with a block device `MAJOR:MINOR`; a word that is none, such as a weight for all, is not looked at.
fn device(word: &str) -> Option<String> {
    let known = Path::new("/sys/dev/block");
    if !word.contains(':') || word.contains('/') || !known.exists() {
        return None;
    }
    let here = known.join(word);
    if here.join("partition").exists() {
        let disk = fs::read_to_string(here.join("../dev")).unwrap_or_default();
        return Some(format!("{word} is a partition; name its disk {}", disk.trim()));
    }
    (!here.exists()).then(|| format!("this host has no block device {word} (lsblk shows which it has)"))
}

const PAGES: &str = "/sys/kernel/mm/hugepages";

/// What is wrong with a size of huge pages that is none of the folders in `known`.
fn pages(size: &str, known: &Path) -> Option<String> {
    let sizes: Vec<_> =
        fs::read_dir(known).ok()?.flatten().filter_map(|entry| page_size(entry.file_name().to_str()?)).collect();
    let lacks = !sizes.is_empty() && !sizes.iter().any(|known| known == size);
    lacks.then(|| format!("this host has no huge pages of {size}, but of {}", sizes.join(" and ")))
}

/// The size in a name such as `hugepages-2048kB`, as the controller writes it: 2MB.
pub(crate) fn page_size(name: &str) -> Option<String> {
    let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    Some(match kib {
        n if n >= 1 << 20 => format!("{}GB", n >> 20),
        n if n >= 1 << 10 => format!("{}MB", n >> 10),
        n => format!("{n}KB"),
    })
}

/// The first two numbers of the kernel's version.
fn release() -> Result<(u32, u32)> {
    let uname = nix::sys::utsname::uname().doing(|| "ask for the version of the kernel")?;
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    Ok((numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_named_with_what_is() {
        for (list, lacks) in
            [("0-9", Some(4)), ("9999", Some(9999)), ("0,7,5", Some(5)), ("0-3", None), ("1-7:1/2", None)]
        {
            let expected = lacks.map(|n| format!("CPU {n} is not there; this host has 0-3,6"));
            let all = if list.contains(':') { "0-7" } else { "0-3,6" };
            assert_eq!(outside(list, all, "CPU"), expected, "{list}");
        }
        for list in ["x", "3-1", "1,,2", "-1", "0-1:0/0", "99999999999"] {
            assert_eq!(outside(list, "0", "CPU").unwrap(), format!("{list:?} is no list such as 0-2,4"));
        }
        assert_eq!(outside("\n", "0", "CPU"), None, "nothing empties it");
    }

    #[test]
    fn huge_pages_are_named_as_the_controller_does() {
        for (name, size) in [("hugepages-2048kB", "2MB"), ("hugepages-1048576kB", "1GB"), ("hugepages-64kB", "64KB")] {
            assert_eq!(page_size(name).as_deref(), Some(size));
        }
    }
}
