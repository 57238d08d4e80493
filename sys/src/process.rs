//! Processes by descriptor: `clone3`, pidfds, and the per-process settings that nix has no wrapper for.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;
use nix::unistd::{ForkResult, Pid};

/// Source: linux/sched.h. libc's own constant is of a type that is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A child process: its number and a descriptor that stays true when the number is used again.
#[derive(Debug)]
pub struct Child {
    /// The process number, as the caller's pid name space counts.
    pub pid: Pid,
    /// See pidfd_open(2). Waiting polls this, never SIGCHLD.
    pub pidfd: OwnedFd,
}

/// Which side of [`clone3`] one is on.
#[derive(Debug)]
pub enum Fork {
    /// The caller, with its new child.
    Parent(Child),
    /// The new process.
    Child,
}

/// Makes a child in the name spaces that `flags` (`CLONE_NEW*`) name, inside `cgroup` where one is given.
///
/// The child shares no memory and no descriptor table with the caller. Source: clone(2).
///
/// The caller must have one thread: the child has only that one, and whatever others held would stay locked.
///
/// # Errors
/// As clone3(2).
pub fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> nix::Result<Fork> {
    let mut pidfd: RawFd = -1;
    let into = if cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 };
    let args = libc::clone_args {
        flags: flags | libc::CLONE_PIDFD as u64 | into,
        pidfd: std::ptr::from_mut(&mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // SAFETY: without CLONE_VM and with no new stack this is fork(2): the child runs on its own copy of everything.
    // `args` and `pidfd` outlive the call. glibc's fork handlers are skipped, which is sound as there is one thread.
    let ret = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    match Errno::result(ret)? {
        0 => Ok(Fork::Child),
        pid => {
            // SAFETY: the kernel put a new descriptor there, and nobody else owns it.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Fork::Parent(Child { pid: Pid::from_raw(pid as i32), pidfd }))
        }
    }
}

/// The number of a process that a child of ours makes in our place: a page of memory that we share with that child, and
/// with nobody else: not with the process that is made, which others may be able to write into.
#[derive(Debug)]
pub struct Birth(NonNull<AtomicI32>);

impl Birth {
    /// Maps the page; to be called before the clone of the child.
    ///
    /// # Errors
    /// As mmap(2).
    pub fn new() -> nix::Result<Self> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at a place of the kernel's choice touches no memory that is in use.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), size_of::<AtomicI32>(), protection, flags, -1, 0) };
        if page == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let birth = NonNull::new(page.cast()).map(Self).ok_or(Errno::ENOMEM)?;
        // Touched here: the kernel drops the number where there is no memory for it.
        // SAFETY: just mapped, and zeroed, which is a number like any other.
        unsafe { birth.0.as_ref() }.store(0, Ordering::Release);
        Ok(birth)
    }

    /// Which process was made, as its maker's pid name space counts; `None` before.
    pub fn pid(&self) -> Option<Pid> {
        // SAFETY: the page is mapped as long as this lives, zeroed at first, and aligned for any type.
        let pid = unsafe { self.0.as_ref() }.load(Ordering::Acquire);
        (pid > 0).then(|| Pid::from_raw(pid))
    }
}

impl Drop for Birth {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and nobody else has the address.
        unsafe { libc::munmap(self.0.as_ptr().cast(), size_of::<AtomicI32>()) };
    }
}

/// Makes a child of the caller's parent, in the name spaces that `flags` (`CLONE_NEW*`) name and where the caller's own
/// children are born. Source: clone(2), CLONE_PARENT.
///
/// Otherwise as [`clone3`]. It is the older call, since filters of containers let that one through.
///
/// # Errors
/// As clone(2).
pub fn clone_sibling(flags: u64, birth: &Birth) -> nix::Result<ForkResult> {
    let flags = flags | (libc::CLONE_PARENT | libc::CLONE_PARENT_SETTID | libc::SIGCHLD) as u64;
    let nothing = std::ptr::null::<libc::c_void>();
    // SAFETY: the page stays as it is for this process; its children do not get it.
    let kept = unsafe { libc::madvise(birth.0.as_ptr().cast(), size_of::<AtomicI32>(), libc::MADV_DONTFORK) };
    Errno::result(kept)?;
    // SAFETY: as in `clone3`; the kernel writes one int to the shared page, before the new process runs.
    let ret = unsafe { libc::syscall(libc::SYS_clone, flags, nothing, birth.0.as_ptr(), nothing, nothing) };
    match Errno::result(ret)? {
        0 => Ok(ForkResult::Child),
        pid => Ok(ForkResult::Parent { child: Pid::from_raw(pid as i32) }),
    }
}

/// Opens a descriptor of a process. Source: pidfd_open(2).
///
/// # Errors
/// `ESRCH` where there is no such process.
pub fn pidfd_open(pid: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: no memory is passed; a result that is not an error is a new descriptor that nobody else owns.
    unsafe {
        let fd = Errno::result(libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0))?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// Sends signal number `signal` to a process; 0 asks only whether it is there. Source: pidfd_send_signal(2).
///
/// # Errors
/// `ESRCH` where the process has ended and was waited for, `EINVAL` for a signal that does not exist.
pub fn pidfd_send_signal(pidfd: impl AsFd, signal: i32) -> nix::Result<()> {
    // SAFETY: a null siginfo is allowed; no other memory is passed.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    Errno::result(ret).map(drop)
}

/// Sets one resource limit of a process; 0 is the caller itself. Source: prlimit(2).
///
/// # Errors
/// `EPERM` where the hard limit would rise without `CAP_SYS_RESOURCE`, `EINVAL` where soft is above hard.
pub fn prlimit(pid: Pid, resource: u32, soft: u64, hard: u64) -> nix::Result<()> {
    let new = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `new` outlives the call; a null old limit is allowed.
    let ret = unsafe { libc::prlimit64(pid.as_raw(), resource, &raw const new, std::ptr::null_mut()) };
    Errno::result(ret).map(drop)
}

/// Leaves the caller's session keyring for a new, empty one. Source: keyctl(2), KEYCTL_JOIN_SESSION_KEYRING.
///
/// # Errors
/// `ENOSYS` where the kernel has no keyrings, `EDQUOT` where the user's quota of keys is spent.
pub fn new_session_keyring() -> nix::Result<()> {
    // SAFETY: a null name asks for an anonymous keyring; no memory is passed.
    let ret =
        unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) };
    Errno::result(ret).map(drop)
}

/// Sets the NIS domain name of the caller's uts name space. Source: setdomainname(2).
///
/// # Errors
/// `EINVAL` over 64 bytes, `EPERM` without `CAP_SYS_ADMIN` over the name space.
pub fn set_domain_name(name: &str) -> nix::Result<()> {
    // SAFETY: the name is passed with its length and outlives the call.
    Errno::result(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// Gives every signal its default action again and lets all through, since exec(2) inherits what is ignored or blocked.
///
/// Rust's own start-up code ignores SIGPIPE, which a program must not inherit.
pub fn reset_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL runs no code of ours. SIGKILL, SIGSTOP and those that libc keeps are refused, harmlessly.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // An empty set is always accepted.
    let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
}

/// Lets the kernel end what `command` starts when this process dies. Source: prctl(2), PR_SET_PDEATHSIG.
pub fn die_together(command: &mut std::process::Command) {
    let parent = nix::unistd::getpid();
    let tie = move || {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        // It may have died before it could be tied to.
        if nix::unistd::getppid() == parent { Ok(()) } else { Err(std::io::Error::from(Errno::ESRCH)) }
    };
    // SAFETY: between fork and exec only prctl(2) and getppid(2) are called, which are async-signal-safe.
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, tie) };
}

/// Ends this process without running destructors or flushing: for the child of [`clone3`] only.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) ends the process and touches no memory of ours.
    unsafe { libc::_exit(code) }
}

/// Takes a copy of descriptor number `number` of another process. Source: pidfd_getfd(2).
///
/// # Errors
/// `EPERM` without the right to trace it (`CAP_SYS_PTRACE`), `EBADF` where it has no such descriptor.
pub fn pidfd_getfd(pidfd: impl AsFd, number: RawFd) -> nix::Result<OwnedFd> {
    // SAFETY: no memory is passed; a result that is not an error is a new descriptor that nobody else owns.
    unsafe {
        let fd = Errno::result(libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_fd().as_raw_fd(), number, 0))?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// Loads a seccomp filter into the calling thread, and gives its listener where SECCOMP_FILTER_FLAG_NEW_LISTENER is
/// among the flags. Source: seccomp(2), SECCOMP_SET_MODE_FILTER.
///
/// `program` is an array of `struct sock_filter` as bytes, eight each.
///
/// # Errors
/// `EACCES` without `no_new_privs` or `CAP_SYS_ADMIN`, `EINVAL` for a program that the kernel's checker refuses, `EBUSY`
/// where a filter with a listener is there already.
pub fn seccomp_load(program: &[u8], flags: u32) -> nix::Result<Option<OwnedFd>> {
    let len = u16::try_from(program.len() / size_of::<libc::sock_filter>()).map_err(|_| Errno::EINVAL)?;
    let fprog = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: `fprog` points to `len` whole instructions that outlive the call; the kernel copies them byte by byte.
    let ret = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const fprog) };
    let ret = Errno::result(ret)?;
    let listens = flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32 != 0;
    // SAFETY: with this flag the result is a new descriptor that nobody else owns.
    Ok(listens.then(|| unsafe { OwnedFd::from_raw_fd(ret as RawFd) }))
}
