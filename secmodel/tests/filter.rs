//! The default filter, loaded for real: a filter belongs to a thread, so each test has one.
#![allow(clippy::unwrap_used)]

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_no_new_privs;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket, socketpair};

/// Runs `test` under the default filter.
fn confined<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let filter = secmodel::seccomp::compile(&secmodel::profile::default()).unwrap();
    let thread = std::thread::spawn(move || {
        set_no_new_privs().unwrap();
        sys::process::seccomp_load(&filter.program, filter.flags).unwrap();
        test()
    });
    thread.join().unwrap()
}

fn open(family: AddressFamily, kind: SockType) -> nix::Result<OwnedFd> {
    socket(family, kind, SockFlag::SOCK_CLOEXEC, None)
}

#[test]
fn files_processes_and_threads_work() {
    confined(|| {
        assert!(!std::fs::read("/proc/self/status").unwrap().is_empty());
        assert!(std::process::Command::new("/bin/true").status().unwrap().success());
        assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
    });
}

#[test]
fn name_spaces_and_mounts_are_not_permitted() {
    confined(|| {
        for flag in [CloneFlags::CLONE_NEWUSER, CloneFlags::CLONE_NEWNS, CloneFlags::CLONE_NEWNET] {
            assert_eq!(unshare(flag), Err(Errno::EPERM));
        }
        let none = None::<&str>;
        let flags = nix::mount::MsFlags::empty();
        assert_eq!(nix::mount::mount(none, "/nowhere", Some("tmpfs"), flags, none), Err(Errno::EPERM));
        let tree = sys::mount::clone_tree(File::open("/").unwrap(), &CString::default(), false);
        assert_eq!(tree.map(drop), Err(Errno::EPERM));
        assert_eq!(sys::process::new_session_keyring(), Err(Errno::EPERM));
    });
}

#[test]
fn only_four_address_families_exist() {
    confined(|| {
        assert!(open(AddressFamily::Unix, SockType::Stream).is_ok());
        assert!(open(AddressFamily::Inet, SockType::Stream).is_ok());
        assert_ne!(open(AddressFamily::Inet6, SockType::Stream).map(drop), Err(Errno::ENOSYS));
        assert!(open(AddressFamily::Netlink, SockType::Raw).is_ok());
        for family in [AddressFamily::Packet, AddressFamily::Vsock, AddressFamily::Alg, AddressFamily::Bluetooth] {
            assert_eq!(open(family, SockType::Raw).map(drop), Err(Errno::EAFNOSUPPORT), "{family:?}");
        }
        let pair = |family| socketpair(family, SockType::Stream, None, SockFlag::SOCK_CLOEXEC).map(drop);
        assert_eq!(pair(AddressFamily::Unix), Ok(()));
        assert_eq!(pair(AddressFamily::Tipc), Err(Errno::EAFNOSUPPORT));
    });
}

#[test]
fn terminals_work_but_their_input_cannot_be_forged() {
    let file = File::open("/dev/null").unwrap();
    confined(move || {
        assert_eq!(sys::file::terminal_size(file.as_fd()), Err(Errno::ENOTTY));
        assert_eq!(sys::file::take_terminal(file.as_fd()), Err(Errno::ENOTTY));
    });
}

#[test]
fn a_clone3_is_missing_so_that_libc_uses_clone() {
    confined(|| {
        // In a debug build the wrapper refuses a process of several threads before it asks the kernel.
        let refused = sys::process::clone3(0, None).err();
        assert!(refused == Some(Errno::ENOSYS) || refused == Some(Errno::EDEADLK));
    });
}
