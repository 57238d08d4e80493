//! What the compiler takes, refuses and makes.
#![allow(clippy::unwrap_used)]

use nix::errno::Errno;
use nix::sys::prctl::set_no_new_privs;
use oci_spec::runtime::LinuxSeccomp;
use secmodel::seccomp::compile;
use sys::Kind;

fn profile(json: &str) -> LinuxSeccomp {
    serde_json::from_str(json).unwrap()
}

/// Runs `test` in a thread under the profile.
fn under<T: Send + 'static>(json: &str, test: impl FnOnce() -> T + Send + 'static) -> T {
    let filter = compile(&profile(json)).unwrap();
    let thread = std::thread::spawn(move || {
        set_no_new_privs().unwrap();
        sys::process::seccomp_load(&filter.program, filter.flags).unwrap();
        test()
    });
    thread.join().unwrap()
}

#[test]
fn what_is_not_supported_is_refused_with_its_place() {
    for (json, place) in [
        (r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#, "/linux/seccomp/defaultAction:"),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x"}"#, "/linux/seccomp/listenerPath:"),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerMetadata":"x"}"#, "/linux/seccomp/listenerMetadata:"),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_LOG",
                "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}"#,
            "/linux/seccomp/flags/1:",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"},
                {"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}"#,
            "/linux/seccomp/syscalls/1/action:",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mseal"],"action":"SCMP_ACT_ERRNO",
                "args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#,
            "/linux/seccomp/syscalls/0:",
        ),
    ] {
        let error = compile(&profile(json)).unwrap_err();
        assert_eq!(error.kind, Kind::Unsupported, "{error}");
        assert!(error.to_string().starts_with(&format!("cannot compile {place}")), "{error}");
    }
    let wrong = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO",
        "args":[{"index":6,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#;
    assert_eq!(compile(&profile(wrong)).unwrap_err().kind, Kind::Invalid);
}

#[test]
fn flags_reach_the_kernel_but_tsync_does_not() {
    let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_TSYNC","SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]}"#;
    assert_eq!(compile(&profile(json)).unwrap().flags, 2 | 4);
}

#[test]
fn unknown_names_and_rules_that_say_nothing_are_skipped() {
    let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["no_such_call"],"action":"SCMP_ACT_KILL"},
        {"names":["read","mseal"],"action":"SCMP_ACT_ALLOW"}]}"#;
    let bare = compile(&profile(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#)).unwrap();
    assert_eq!(compile(&profile(json)).unwrap(), bare);
}

#[test]
fn every_action_and_operator_compiles_for_several_architectures() {
    let actions = ["KILL", "KILL_THREAD", "KILL_PROCESS", "TRAP", "ERRNO", "TRACE", "LOG"];
    let operators = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];
    for (action, operator) in actions.iter().flat_map(|action| operators.map(|operator| (action, operator))) {
        let json = format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],
            "syscalls":[{{"names":["getpriority","listns"],"action":"SCMP_ACT_{action}"}},{{"names":["kill"],
            "action":"SCMP_ACT_{action}","args":[{{"index":1,"value":7,"valueTwo":3,"op":"SCMP_CMP_{operator}"}}]}}]}}"#
        );
        assert!(!compile(&profile(&json)).unwrap().program.is_empty());
    }
}

#[test]
fn several_conditions_on_one_argument_are_alternatives() {
    let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["socket"],"action":"SCMP_ACT_ERRNO",
        "errnoRet":77,"args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":0,"value":2,"op":"SCMP_CMP_EQ"}]}]}"#;
    under(json, || {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
        let open = |family| socket(family, SockType::Datagram, SockFlag::empty(), None).map(drop);
        assert_eq!(open(AddressFamily::Unix), Err(Errno::from_raw(77)));
        assert_eq!(open(AddressFamily::Inet), Err(Errno::from_raw(77)));
        assert_eq!(open(AddressFamily::Netlink), Ok(()));
    });
}

#[test]
fn a_call_newer_than_the_profile_does_not_exist_and_an_older_one_is_not_permitted() {
    // pidfd_open is 434, faccessat2 439, mount_setattr 442.
    let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["faccessat2","write","exit","munmap","madvise",
        "futex","sigaltstack","rt_sigprocmask","mprotect","mmap","brk","close"],"action":"SCMP_ACT_ALLOW"}]}"#;
    let (older, newer) = under(json, || {
        let older = sys::process::pidfd_open(nix::unistd::Pid::this()).map(drop);
        let newer = sys::mount::mount_setattr(std::io::stdout(), false, &sys::mount::MountAttr::default());
        (older, newer)
    });
    assert_eq!(older, Err(Errno::EPERM));
    assert_eq!(newer, Err(Errno::ENOSYS));
}
