//! Real-time scheduling of v1: what a cgroup may have comes out of what the one above has, and a new one has nothing.
//! Source: the kernel's scheduler/sched-rt-group.

use std::path::{Path, PathBuf};

use sys::{Error, Kind, Result};

use crate::object::Mark;
use crate::process;
use crate::step::{above, read};

pub(crate) const RUNTIME: &str = "cpu.rt_runtime_us";
pub(crate) const PERIOD: &str = "cpu.rt_period_us";

/// What is written above `dir`, from the top, so that it can have `runtime` in each `period`, both in microseconds. What
/// jails have made above them gets what the jails below it need together; of all else there must be enough.
///
/// # Errors
/// `WrongState` where there is not; `Unsupported` where the kernel does not know it.
pub(crate) fn above_needs(dir: &Path, below: &Path, (runtime, period): (i64, u64)) -> Result<Vec<(PathBuf, String)>> {
    let wanted = share(runtime, period);
    let mut writes = Vec::new();
    for parent in above(dir, below) {
        let (had, within) = has(parent)?;
        let others = process::below(parent).into_iter().filter(|child| !dir.starts_with(child));
        let mut needed = wanted;
        for child in others {
            let (runtime, period) = has(&child)?;
            needed += share(runtime, period);
        }
        if had < 0 || share(had, within) >= needed {
            continue;
        }
        if !matches!(Mark::of(parent), Ok(Mark::Parent(_))) {
            let parent = parent.display();
            return Err(Error::new(
                Kind::WrongState,
                format!(
                    "apply /linux/resources/cpu/realtimeRuntime: the cgroups below {parent} would have more than its \
                     {had} in {within} microseconds together; write more to its {RUNTIME}, or ask for less"
                ),
            ));
        }
        let raised = (needed * u128::from(within)).div_ceil(UNIT);
        writes.push((parent.to_owned(), raised.to_string()));
    }
    Ok(writes)
}

/// What `dir` may have, and in which period.
fn has(dir: &Path) -> Result<(i64, u64)> {
    let unknown = |_| {
        let why = format!("{} has no {RUNTIME}: this kernel has no real-time scheduling by cgroups", dir.display());
        Error::unsupported(format!("apply /linux/resources/cpu/realtimeRuntime: {why}"))
    };
    let number = |file| read(&dir.join(file)).map_err(unknown);
    Ok((number(RUNTIME)?.trim().parse().unwrap_or(0), number(PERIOD)?.trim().parse().unwrap_or(1)))
}

/// The kernel counts in parts of 2^20.
const UNIT: u128 = 1 << 20;

fn share(runtime: i64, period: u64) -> u128 {
    u128::try_from(runtime).unwrap_or(0) * UNIT / u128::from(period.max(1))
}
