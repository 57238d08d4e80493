//! The verb `update`: the limits of a jail that lives.

use std::path::PathBuf;

use base::JailId;
use clap::Args as Group;
use runtime::update::{Change, Wish, update as change};
use sys::Result;

use crate::args::Globals;

#[derive(Debug, Group)]
pub(crate) struct Update {
    /// Name of the jail
    pub(crate) id: String,
    /// File with the OCI document of the resources, `-` for the standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "options")]
    pub(crate) resources: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) options: Options,
}

#[derive(Debug, Group)]
#[group(id = "options", multiple = true)]
pub(crate) struct Options {
    /// Memory, with k, m, g or t behind the number; -1 for no limit
    #[arg(long, value_name = "BYTES", value_parser = bytes, allow_negative_numbers = true)]
    memory: Option<i64>,
    /// What memory is kept down to when the host has little
    #[arg(long, value_name = "BYTES", value_parser = bytes, allow_negative_numbers = true)]
    memory_reservation: Option<i64>,
    /// Memory and swap together
    #[arg(long, value_name = "BYTES", value_parser = bytes, allow_negative_numbers = true)]
    memory_swap: Option<i64>,
    /// CPU time in each period; -1 for no limit
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    cpu_quota: Option<i64>,
    /// That period
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<u64>,
    /// The part of the CPU time beside others; usually 1024
    #[arg(long, value_name = "N")]
    cpu_share: Option<u64>,
    /// CPUs, as 0-2,4
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes, as 0-2,4
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Processes and threads; -1 for no limit
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pids_limit: Option<i64>,
}

/// A number of bytes, with the units of 1024 that runc takes.
fn bytes(word: &str) -> std::result::Result<i64, String> {
    let lower = word.to_ascii_lowercase();
    let number = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let units = ['k', 'm', 'g', 't'].into_iter().zip([10, 20, 30, 40]);
    let unit = units.into_iter().find_map(|(unit, shift)| Some((number.strip_suffix(unit)?, shift)));
    let (number, shift) = unit.unwrap_or((number, 0));
    let number: i64 = number.parse().map_err(|_| "it is no number of bytes".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "it is too large".to_owned())
}

/// `update`.
pub(crate) fn update(globals: &Globals, verb: Update) -> Result<i32> {
    let id = JailId::new(&verb.id)?;
    let asked = match &verb.resources {
        Some(path) => Change::read(path)?,
        None => Change::of(wish(verb.options)),
    };
    change(&globals.root, &id, &asked).map(|()| 0)
}

fn wish(options: Options) -> Wish {
    Wish {
        memory: options.memory,
        memory_reservation: options.memory_reservation,
        memory_swap: options.memory_swap,
        cpu_quota: options.cpu_quota,
        cpu_period: options.cpu_period,
        cpu_shares: options.cpu_share,
        cpus: options.cpuset_cpus,
        mems: options.cpuset_mems,
        pids: options.pids_limit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        for (word, expected) in
            [("-1", -1), ("4096", 4096), ("1k", 1024), ("2M", 2 << 20), ("3GiB", 3 << 30), ("1tb", 1 << 40)]
        {
            assert_eq!(bytes(word), Ok(expected), "{word}");
        }
        for word in ["", "k", "1.5", "one", "9223372036854775807k"] {
            assert!(bytes(word).is_err(), "{word}");
        }
    }
}
