//! What the compiler takes, refuses and makes.
#![allow(clippy::unwrap_used)]

use nix::errno::Errno;
use nix::sys::prctl::set_no_new_privs;
use oci_spec::runtime::LinuxSeccomp;
use secmodel::seccomp::{check, compile};
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
fn what_makes_no_sense_is_refused_with_its_place() {
    for (json, place) in [
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO",
                "args":[{"index":6,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#,
            "syscalls/0/args/0/index:",
        ),
        (r#"{"defaultAction":"SCMP_ACT_KILL","defaultErrnoRet":1}"#, "defaultAction: SCMP_ACT_KILL returns no"),
        (
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_TRAP","errnoRet":7}]}"#,
            "syscalls/0/action: SCMP_ACT_TRAP returns no",
        ),
        (r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":65536}"#, "defaultAction:"),
    ] {
        let error = compile(&profile(json)).unwrap_err();
        assert_eq!(error.kind, Kind::Invalid, "{error}");
        assert!(error.to_string().starts_with(&format!("cannot compile /linux/seccomp/{place}")), "{error}");
    }
    let new = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mseal"],"action":"SCMP_ACT_ERRNO",
        "args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#;
    let error = compile(&profile(new)).unwrap_err();
    assert_eq!(error.kind, Kind::Unsupported, "{error}");
    assert!(error.to_string().starts_with("cannot compile /linux/seccomp/syscalls/0:"), "{error}");
}

#[test]
fn a_profile_that_notifies_asks_for_a_listener_and_any_other_for_none() {
    let flags = r#""flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV","SECCOMP_FILTER_FLAG_LOG"]"#;
    let notify = r#""syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]"#;
    let of = |rest: &str| compile(&profile(&format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW",{rest}}}"#))).unwrap().flags;
    assert_eq!(of(flags), 2);
    assert_eq!(of(notify), 8);
    assert_eq!(of(&format!("{flags},{notify}")), 2 | 8 | 32);
}

#[test]
fn an_agent_and_what_it_is_told_are_checked_with_their_place() {
    let rule = |call: &str| format!(r#""syscalls":[{{"names":["{call}"],"action":"SCMP_ACT_NOTIFY"}}]"#);
    for (rest, place) in [
        (rule("mkdir"), "syscalls/0/action: "),
        (format!(r#""listenerPath":"/x",{}"#, rule("write")), "syscalls/0: "),
        (r#""listenerMetadata":"x""#.to_owned(), "listenerMetadata: "),
        (r#""listenerPath":"x""#.to_owned(), "listenerPath: "),
    ] {
        let error = check(&profile(&format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW",{rest}}}"#))).unwrap_err();
        assert!(error.to_string().starts_with(&format!("cannot use /linux/seccomp/{place}")), "{error}");
    }
    assert!(check(&profile(r#"{"defaultAction":"SCMP_ACT_NOTIFY","listenerPath":"/x"}"#)).is_err());
    assert!(check(&profile(r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x"}"#)).is_ok());
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
