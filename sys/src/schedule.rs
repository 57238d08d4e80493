//! What the kernel's schedulers and its allocator are told of a process.

use nix::errno::Errno;
use nix::unistd::Pid;

/// Gives a process a scheduling policy with its parameters. Source: sched_setattr(2).
///
/// # Errors
/// `EPERM` without `CAP_SYS_NICE`, or where the group of the process has no real-time budget; `EINVAL` for parameters
/// that the policy does not take; `EBUSY` where the CPUs have no room for the deadline.
pub fn set_policy(pid: Pid, attributes: &libc::sched_attr) -> nix::Result<()> {
    // SAFETY: the structure says its own size and outlives the call.
    let ret = unsafe { libc::syscall(libc::SYS_sched_setattr, pid.as_raw(), std::ptr::from_ref(attributes), 0) };
    Errno::result(ret).map(drop)
}

/// IOPRIO_WHO_PROCESS of linux/ioprio.h.
const PROCESS: libc::c_int = 1;
/// IOPRIO_CLASS_SHIFT of linux/ioprio.h.
const CLASS_SHIFT: u32 = 13;

/// Gives a process a class of I/O priority and a level in it. Source: ioprio_set(2).
///
/// # Errors
/// `EPERM` for the real-time class without `CAP_SYS_NICE` or `CAP_SYS_ADMIN`.
pub fn set_io_priority(pid: Pid, class: u32, level: u32) -> nix::Result<()> {
    // SAFETY: no memory is passed.
    let ret = unsafe { libc::syscall(libc::SYS_ioprio_set, PROCESS, pid.as_raw(), class << CLASS_SHIFT | level) };
    Errno::result(ret).map(drop)
}

/// Sets from which memory nodes the caller's pages come; `nodes` are bits, the lowest first. Source: set_mempolicy(2).
///
/// # Errors
/// `EINVAL` where no node of the mask is online and allowed, or the kernel does not know the mode.
pub fn set_memory_policy(mode: i32, nodes: &[u64]) -> nix::Result<()> {
    // The kernel reads one bit less than it is told of, and no mask is none at all.
    let (mask, bits) = match nodes.len() {
        0 => (std::ptr::null(), 0),
        words => (nodes.as_ptr(), words * u64::BITS as usize + 1),
    };
    // SAFETY: the mask has as many bits as are read of it, and outlives the call.
    let ret = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) };
    Errno::result(ret).map(drop)
}

/// Sets the caller's execution domain, which exec(2) keeps. Source: personality(2).
///
/// # Errors
/// `EINVAL` for a domain that the kernel does not know.
pub fn set_personality(persona: libc::c_ulong) -> nix::Result<()> {
    // SAFETY: no memory is passed.
    Errno::result(unsafe { libc::personality(persona) }).map(drop)
}
