//! The verb `update`: the limits of a jail that lives.

use std::path::PathBuf;

use base::JailId;
use clap::Args as Group;
use runtime::update::{Change, Wish, update as change};
use sys::{Error, Result};

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
    /// Kernel memory, where the kernel limits it on its own
    #[arg(long, value_name = "BYTES", value_parser = bytes, allow_negative_numbers = true)]
    kernel_memory: Option<i64>,
    /// The buffers of TCP in kernel memory
    #[arg(long, value_name = "BYTES", value_parser = bytes, allow_negative_numbers = true)]
    kernel_memory_tcp: Option<i64>,
    /// CPU time in each period; -1 for no limit
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    cpu_quota: Option<i64>,
    /// That period
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<u64>,
    /// What may be saved up of the CPU time
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_burst: Option<u64>,
    /// Real-time scheduling in each of its periods
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    cpu_rt_runtime: Option<i64>,
    /// That period
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_rt_period: Option<u64>,
    /// Run only when nobody else wants to: 1, or 0
    #[arg(long, value_name = "N")]
    cpu_idle: Option<i64>,
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
    /// The part of what block devices can do beside others, 10 to 1000
    #[arg(long, value_name = "N")]
    blkio_weight: Option<u16>,
    /// Refused: not carried out yet
    #[arg(long, hide = true, value_name = "SCHEMA")]
    l3_cache_schema: Option<String>,
    /// Refused: not carried out yet
    #[arg(long, hide = true, value_name = "SCHEMA")]
    mem_bw_schema: Option<String>,
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
        None => Change::of(wish(verb.options)?),
    };
    change(&globals.root(), &id, &asked).map(|()| 0)
}

fn wish(options: Options) -> Result<Wish> {
    for (option, schema) in
        [("--l3-cache-schema", &options.l3_cache_schema), ("--mem-bw-schema", &options.mem_bw_schema)]
    {
        if schema.is_some() {
            return Err(Error::unsupported(format!("use {option}: intelRdt is not carried out yet")));
        }
    }
    Ok(Wish {
        memory: options.memory,
        memory_reservation: options.memory_reservation,
        memory_swap: options.memory_swap,
        cpu_quota: options.cpu_quota,
        cpu_period: options.cpu_period,
        cpu_shares: options.cpu_share,
        cpus: options.cpuset_cpus,
        mems: options.cpuset_mems,
        pids: options.pids_limit,
        block_weight: options.blkio_weight,
        kernel_memory: options.kernel_memory,
        kernel_memory_tcp: options.kernel_memory_tcp,
        cpu_burst: options.cpu_burst,
        cpu_realtime_runtime: options.cpu_rt_runtime,
        cpu_realtime_period: options.cpu_rt_period,
        cpu_idle: options.cpu_idle,
    })
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
