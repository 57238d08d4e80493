//! The two commands of bpf(2) that a device rule of cgroup v2 needs.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// The head of `union bpf_attr` for BPF_PROG_LOAD; the kernel takes what is not passed for zero.
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
}

/// The head of `union bpf_attr` for BPF_PROG_ATTACH.
#[repr(C)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// Loads a program of type BPF_PROG_TYPE_CGROUP_DEVICE, one `u64` for each instruction. Source: bpf(2).
///
/// # Errors
/// `EINVAL` or `EACCES` where the verifier refuses it, `EPERM` without `CAP_BPF` and `CAP_NET_ADMIN`.
pub fn load_device_program(instructions: &[u64]) -> nix::Result<OwnedFd> {
    let attr = Load {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(instructions.len()).map_err(|_| Errno::E2BIG)?,
        insns: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
    };
    // SAFETY: `attr` and what it points to outlive the call, and its true size is passed.
    // A result that is not an error is a new descriptor that nobody else owns.
    unsafe {
        let fd = Errno::result(libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attr, size_of::<Load>()))?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// Attaches a device program to a cgroup, beside those that are there. It goes when the cgroup goes. Source: bpf(2).
///
/// # Errors
/// `EINVAL` where `cgroup` is no directory of cgroup v2.
pub fn attach_device_program(cgroup: impl AsFd, program: impl AsFd) -> nix::Result<()> {
    let attr = Attach {
        target_fd: cgroup.as_fd().as_raw_fd() as u32,
        attach_bpf_fd: program.as_fd().as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: `attr` outlives the call, and its true size is passed.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attr, size_of::<Attach>()) };
    Errno::result(ret).map(drop)
}
