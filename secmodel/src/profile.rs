//! The filter of a jail that names none: a list of what is allowed.
//!
//! What is not listed does not exist: ENOSYS, also for calls that the kernel gets after this was written, so that a libc
//! tries what it used before. EPERM is kept for well-known calls that need a privilege, whose callers expect it. Made
//! for [`crate::caps::DEFAULT`]; a jail with more capabilities wants a profile of its own.
//!
//! Only the native architecture: on i386, socketcall(2) passes a socket's family in memory, where no filter can see it.

use nix::errno::Errno;
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall,
};

/// Calls that are allowed whatever their arguments, by subject.
const ALLOWED: &[&str] = &[
    // Files by descriptor.
    "read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek close close_range dup dup2 dup3",
    "fcntl flock fsync fdatasync sync syncfs sync_file_range ftruncate fallocate fadvise64 readahead sendfile",
    "splice tee vmsplice copy_file_range getdents getdents64 pipe pipe2 fstat fstatfs fchmod fchown fchdir",
    // Files by name.
    "open openat openat2 creat stat lstat newfstatat fstatat64 statx statfs access faccessat faccessat2 truncate",
    "rename renameat renameat2 link linkat symlink symlinkat unlink unlinkat readlink readlinkat mkdir mkdirat rmdir",
    "mknod mknodat chmod fchmodat fchmodat2 chown lchown fchownat utime utimes utimensat futimesat umask getcwd chdir",
    "chroot cachestat",
    "getxattr lgetxattr fgetxattr setxattr lsetxattr fsetxattr listxattr llistxattr flistxattr removexattr",
    "lremovexattr fremovexattr getxattrat setxattrat listxattrat removexattrat",
    "inotify_init inotify_init1 inotify_add_watch inotify_rm_watch fanotify_mark",
    // Waiting for descriptors.
    "poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2",
    "eventfd eventfd2 signalfd signalfd4 timerfd_create timerfd_settime timerfd_gettime",
    "io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents",
    // Memory.
    "brk mmap munmap mremap mprotect madvise msync mincore mlock mlock2 munlock mlockall munlockall memfd_create",
    "memfd_secret remap_file_pages membarrier pkey_alloc pkey_free pkey_mprotect map_shadow_stack mseal",
    // Processes and threads. ptrace(2) and its like end at the jail's pid name space, and since Linux 4.8 a tracer can
    // no longer get round a filter.
    "fork vfork execve execveat exit exit_group wait4 waitid kill tkill tgkill pidfd_open pidfd_send_signal",
    "ptrace process_vm_readv process_vm_writev process_mrelease arch_prctl prctl seccomp",
    "landlock_create_ruleset landlock_add_rule landlock_restrict_self",
    "set_tid_address set_robust_list get_robust_list rseq restart_syscall futex futex_waitv futex_wait futex_wake",
    "futex_requeue set_thread_area get_thread_area riscv_flush_icache",
    "getpid getppid gettid getpgid getpgrp setpgid getsid setsid getcpu getrlimit setrlimit prlimit64 getrusage",
    "getpriority setpriority ioprio_get ioprio_set sched_yield sched_getaffinity sched_setaffinity sched_getattr",
    "sched_setattr sched_getparam sched_setparam sched_getscheduler sched_setscheduler sched_get_priority_max",
    "sched_get_priority_min sched_rr_get_interval",
    // Users and capabilities.
    "getuid geteuid getgid getegid getresuid getresgid getgroups setuid setgid setreuid setregid setresuid setresgid",
    "setfsuid setfsgid setgroups capget capset",
    // Signals.
    "rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_sigsuspend",
    "rt_tgsigqueueinfo sigaltstack pause alarm",
    // Time. To set a clock by the two adjtime needs a capability.
    "time gettimeofday clock_gettime clock_getres clock_nanosleep nanosleep times getitimer setitimer timer_create",
    "timer_settime timer_gettime timer_getoverrun timer_delete adjtimex clock_adjtime",
    // Sockets that exist already.
    "bind connect listen accept accept4 shutdown getsockname getpeername getsockopt setsockopt sendto sendmsg sendmmsg",
    "recvfrom recvmsg recvmmsg",
    // System V and POSIX communication, in the jail's own ipc name space.
    "shmget shmat shmdt shmctl semget semop semtimedop semctl msgget msgsnd msgrcv msgctl",
    "mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr",
    // The system.
    "uname sysinfo getrandom",
];

/// Calls that get EPERM: each needs a privilege that a jail does not have, and has callers that know EPERM as that.
const PRIVILEGED: &[&str] = &[
    // Mounts.
    "mount umount umount2 pivot_root mount_setattr open_tree open_tree_attr move_mount fsopen fsconfig fsmount fspick",
    // Name spaces, and what reaches across them.
    "unshare setns open_by_handle_at name_to_handle_at pidfd_getfd kcmp process_madvise",
    // The kernel and the machine.
    "bpf perf_event_open userfaultfd fanotify_init init_module finit_module delete_module kexec_load kexec_file_load",
    "reboot swapon swapoff acct quotactl quotactl_fd syslog lookup_dcookie iopl ioperm vhangup sethostname",
    "setdomainname settimeofday clock_settime",
    // Keys have no name space: one sees those of the same user outside.
    "add_key request_key keyctl",
    // Placement of memory, which needs SYS_NICE for others and shows the machine's nodes.
    "mbind set_mempolicy get_mempolicy set_mempolicy_home_node migrate_pages move_pages",
];

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET of linux/sched.h.
const CLONE_NEW: &[u64] = &[0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];

/// Address families of linux/socket.h: unix, inet, inet6, netlink, in rising order.
const FAMILIES: &[u64] = &[1, 2, 10, 16];

/// PER_LINUX, PER_LINUX32, each also with UNAME26, and the question what it is. Source: personality(2).
const PERSONALITIES: &[u64] = &[0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Requests of ioctl(2) that are refused, as (value, mask): TIOCSTI types into the terminal that the jail shares with
/// its caller, TIOCLINUX pastes there, and all of nsfs (type 0xb7) gives handles of name spaces. The kernel takes 32 bits
/// of the request: whatever stands above must not make a difference (CVE-2019-10063). A request with other bits of
/// direction or size is none that exists.
const REQUESTS: &[(u64, u64)] = &[(0x5412, 0xffff), (0x541c, 0xffff), (0xb700, 0xff00)];

/// The filter of a jail that names none, as an OCI profile that any runtime can use.
#[allow(clippy::should_implement_trait)]
pub fn default() -> LinuxSeccomp {
    let mut rules = vec![rule(ALLOWED, None, Vec::new()), rule(PRIVILEGED, Some(Errno::EPERM), Vec::new())];
    rules.extend(clone());
    rules.extend(sockets());
    rules.extend(PERSONALITIES.iter().map(|persona| rule(&["personality"], None, vec![is(*persona)])));
    rules.extend(ioctl());
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(LinuxSeccompAction::ScmpActErrno);
    profile.set_default_errno_ret(Some(Errno::ENOSYS as u32));
    profile.set_syscalls(Some(rules));
    profile
}

/// clone(2) without new name spaces. clone3(2) is missing altogether, since its flags are in memory, where no filter can
/// see them: every libc then uses clone.
fn clone() -> Vec<LinuxSyscall> {
    let any = CLONE_NEW.iter().fold(0, |all, flag| all | flag);
    let refused = CLONE_NEW.iter().map(|flag| rule(&["clone"], Some(Errno::EPERM), vec![masked(0, *flag, *flag)]));
    refused.chain([rule(&["clone"], None, vec![masked(0, any, 0)])]).collect()
}

/// socket(2) for the families of [`FAMILIES`], socketpair(2) for the first, AF_UNIX; all others are unknown.
fn sockets() -> Vec<LinuxSyscall> {
    let unknown = Some(Errno::EAFNOSUPPORT);
    [("socket", FAMILIES), ("socketpair", &FAMILIES[..1])]
        .into_iter()
        .flat_map(|(call, allowed)| {
            let last = allowed.last().copied().unwrap_or_default();
            let answer = |family| if allowed.contains(&family) { None } else { unknown };
            let above = arg(0, LinuxSeccompOperator::ScmpCmpGt, last, None);
            let listed = (0..=last).map(move |family| rule(&[call], answer(family), vec![is(family)]));
            listed.chain([rule(&[call], unknown, vec![above])]).collect::<Vec<_>>()
        })
        .collect()
}

fn ioctl() -> Vec<LinuxSyscall> {
    let refused =
        REQUESTS.iter().map(|(value, mask)| rule(&["ioctl"], Some(Errno::EPERM), vec![masked(1, *mask, *value)]));
    let allowed =
        others(REQUESTS, 0, 0).into_iter().map(|(value, mask)| rule(&["ioctl"], None, vec![masked(1, mask, value)]));
    refused.chain(allowed).collect()
}

/// What is left of the 16-bit numbers that are `value` under `mask`, a prefix, without `refused`, as such prefixes: a
/// profile can say "is equal under a mask", but not "is different".
fn others(refused: &[(u64, u64)], value: u64, mask: u64) -> Vec<(u64, u64)> {
    let meets = |other: &&(u64, u64)| (other.0 ^ value) & other.1 & mask == 0;
    match refused.iter().filter(meets).collect::<Vec<_>>()[..] {
        [] => vec![(value, mask)],
        // All of the prefix is refused.
        [..] if refused.iter().filter(meets).any(|other| other.1 & !mask == 0) => Vec::new(),
        [..] => {
            let bit = ((mask >> 1) | 0x8000) & !mask;
            [value, value | bit].into_iter().flat_map(|half| others(refused, half, mask | bit)).collect()
        }
    }
}

/// A rule for the calls in `names`, each a list of words: allowed, or refused with an errno.
fn rule(names: &[&str], refused: Option<Errno>, args: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    let action = if refused.is_some() { LinuxSeccompAction::ScmpActErrno } else { LinuxSeccompAction::ScmpActAllow };
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().flat_map(|line| line.split(' ')).map(str::to_owned).collect());
    rule.set_action(action);
    rule.set_errno_ret(refused.map(|errno| errno as u32));
    rule.set_args((!args.is_empty()).then_some(args));
    rule
}

/// Argument 0 is `value`.
fn is(value: u64) -> LinuxSeccompArg {
    arg(0, LinuxSeccompOperator::ScmpCmpEq, value, None)
}

/// Argument `index` is `value` under `mask`.
fn masked(index: usize, mask: u64, value: u64) -> LinuxSeccompArg {
    arg(index, LinuxSeccompOperator::ScmpCmpMaskedEq, mask, Some(value))
}

fn arg(index: usize, op: LinuxSeccompOperator, value: u64, second: Option<u64>) -> LinuxSeccompArg {
    let arg = LinuxSeccompArgBuilder::default().index(index).op(op).value(value);
    let arg = if let Some(second) = second { arg.value_two(second) } else { arg };
    // Every field has a default, so that the builder cannot refuse.
    arg.build().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn words(lists: &[&'static str]) -> Vec<&'static str> {
        lists.iter().flat_map(|line| line.split(' ')).collect()
    }

    #[test]
    fn no_call_is_listed_twice_and_every_name_is_one() {
        let all: Vec<_> = words(ALLOWED).into_iter().chain(words(PRIVILEGED)).collect();
        assert_eq!(all.len(), all.iter().collect::<HashSet<_>>().len());
        for name in all {
            let known = libseccomp::ScmpSyscall::from_name(name).is_ok() || crate::newcall::number(name).is_some();
            assert!(known, "{name}");
        }
    }

    #[test]
    fn every_ioctl_request_is_either_refused_or_allowed() {
        let allowed = others(REQUESTS, 0, 0);
        for request in 0..0x1_0000 {
            let refused = REQUESTS.iter().any(|(value, mask)| request & mask == *value);
            let fits = allowed.iter().filter(|(value, mask)| request & mask == *value).count();
            assert_eq!(fits, usize::from(!refused), "{request:#x}");
        }
    }
}
