//! What a compiled program answers, by running it over system calls that nobody makes.
#![allow(clippy::unwrap_used)]

#[path = "kernel/mod.rs"]
mod kernel;

use kernel::{Call, run};
use libseccomp::ScmpSyscall;
use nix::errno::Errno;
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction};
use secmodel::seccomp::compile;

const NATIVE: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const ALLOW: u32 = 0x7fff_0000;

fn refused(errno: Errno) -> u32 {
    0x0005_0000 | errno as u32
}

/// Answers of the default filter to a native call.
fn native() -> impl Fn(&str, [u64; 3]) -> u32 {
    let program = compile(&secmodel::profile::default()).unwrap().program;
    move |name, [a, b, c]| {
        let number = i32::from(ScmpSyscall::from_name(name).unwrap()) as u32;
        run(&program, &Call { number, architecture: NATIVE, args: [a, b, c, 0, 0, 0] }).unwrap()
    }
}

#[test]
fn a_number_that_the_default_filter_does_not_name_does_not_exist() {
    let profile = secmodel::profile::default();
    let program = compile(&profile).unwrap().program;
    let named: Vec<_> = profile.syscalls().iter().flatten().flat_map(|rule| rule.names().clone()).collect();
    let mut allowed = 0;
    for number in (0..1024).chain([u32::MAX]) {
        let answer = |architecture, number| run(&program, &Call { number, architecture, args: [0; 6] }).unwrap();
        let name = ScmpSyscall::from(number as i32).get_name().unwrap_or_default();
        let fresh = (457..=470).contains(&number);
        if !fresh && !named.contains(&name) {
            assert_eq!(answer(NATIVE, number), refused(Errno::ENOSYS), "{number} {name}");
        }
        allowed += u32::from(answer(NATIVE, number) == ALLOW);
        assert_eq!(answer(I386, number), refused(Errno::ENOSYS));
        assert_eq!(answer(NATIVE, number | 0x4000_0000), refused(Errno::ENOSYS));
    }
    // mseal, setxattrat, getxattrat, listxattrat, removexattrat; statmount, listmount, listns are not for jails.
    for (number, expected) in [(457, false), (458, false), (462, true), (463, true), (466, true), (470, false)] {
        let answer = run(&program, &Call { number, architecture: NATIVE, args: [0; 6] }).unwrap();
        assert_eq!(answer == ALLOW, expected, "{number}");
    }
    assert!((250..330).contains(&allowed), "{allowed} calls are allowed");
}

#[test]
fn an_ioctl_cannot_be_smuggled_past_the_filter_in_the_upper_half() {
    let answer = native();
    for above in [0, 1 << 32, 1 << 63, 0xffff_ffff << 32] {
        for request in [0x5412, 0x541c, 0xb701, 0xb70a] {
            assert_eq!(answer("ioctl", [0, above | request, 0]), refused(Errno::EPERM), "{request:#x}");
        }
        // TCGETS, TIOCSCTTY, TIOCGWINSZ, FIONREAD, TIOCGPTN, BLKGETSIZE64, FICLONE.
        for request in [0x5401, 0x540e, 0x5413, 0x541b, 0x8004_5430, 0x8008_1272, 0x4004_9409] {
            assert_eq!(answer("ioctl", [0, above | request, 0]), ALLOW, "{request:#x}");
        }
    }
}

#[test]
fn a_clone_makes_processes_and_threads_but_no_name_spaces() {
    let answer = native();
    let thread = 0x3d_0f00;
    for flags in [17, 0x0120_0011, thread, 0x4111] {
        assert_eq!(answer("clone", [flags, 0, 0]), ALLOW);
        for space in [0x2_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
            assert_eq!(answer("clone", [flags | space, 0, 0]), refused(Errno::EPERM));
            assert_eq!(answer("clone", [flags | space | 1 << 32, 0, 0]), refused(Errno::EPERM));
        }
    }
    assert_eq!(answer("clone3", [0, 0, 0]), refused(Errno::ENOSYS));
    assert_eq!(answer("io_uring_setup", [0, 0, 0]), refused(Errno::ENOSYS));
}

#[test]
fn sockets_and_personalities_are_those_of_the_list() {
    let answer = native();
    for family in (0..64).chain([1 << 31, 1 << 32 | 1, u64::MAX]) {
        let expected = if [1, 2, 10, 16].contains(&family) { ALLOW } else { refused(Errno::EAFNOSUPPORT) };
        assert_eq!(answer("socket", [family, 1, 0]), expected, "{family}");
        let expected = if family == 1 { ALLOW } else { refused(Errno::EAFNOSUPPORT) };
        assert_eq!(answer("socketpair", [family, 1, 0]), expected, "{family}");
    }
    for persona in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        assert_eq!(answer("personality", [persona, 0, 0]), ALLOW);
        assert_eq!(answer("personality", [persona ^ 0x4_0000, 0, 0]), refused(Errno::ENOSYS));
    }
}

#[test]
fn every_operator_compares_all_64_bits() {
    let values = [0, 1, 6, 7, 8, 0xffff_ffff, 1 << 32, 1 << 32 | 7, 7 << 32, 7 << 32 | 7, 8 << 32, u64::MAX];
    type Truth = fn(u64, u64) -> bool;
    let operators: [(&str, Truth); 6] = [
        ("NE", |a, b| a != b),
        ("LT", |a, b| a < b),
        ("LE", |a, b| a <= b),
        ("EQ", |a, b| a == b),
        ("GE", |a, b| a >= b),
        ("GT", |a, b| a > b),
    ];
    let program = |arg: &str| {
        let json = format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["kill"],"action":"SCMP_ACT_ERRNO",
            "errnoRet":5,"args":[{arg}]}}]}}"#
        );
        compile(&serde_json::from_str::<LinuxSeccomp>(&json).unwrap()).unwrap().program
    };
    let kill = |program: &[u8], arg| {
        let number = i32::from(ScmpSyscall::from_name("kill").unwrap()) as u32;
        run(program, &Call { number, architecture: NATIVE, args: [0, arg, 0, 0, 0, 0] }).unwrap()
    };
    let answer = |yes| if yes { refused(Errno::EIO) } else { ALLOW };
    for with in values {
        for (operator, holds) in operators {
            let program = program(&format!(r#"{{"index":1,"value":{with},"op":"SCMP_CMP_{operator}"}}"#));
            values
                .iter()
                .for_each(|arg| assert_eq!(kill(&program, *arg), answer(holds(*arg, with)), "{arg} {operator} {with}"));
        }
        for mask in values {
            let arg = format!(r#"{{"index":1,"value":{mask},"valueTwo":{},"op":"SCMP_CMP_MASKED_EQ"}}"#, with & mask);
            let program = program(&arg);
            values.iter().for_each(|arg| assert_eq!(kill(&program, *arg), answer(arg & mask == with & mask)));
        }
    }
}

#[test]
fn every_action_returns_what_the_kernel_calls_it() {
    for (action, value) in [
        (LinuxSeccompAction::ScmpActKill, 0),
        (LinuxSeccompAction::ScmpActKillThread, 0),
        (LinuxSeccompAction::ScmpActKillProcess, 0x8000_0000),
        (LinuxSeccompAction::ScmpActTrap, 0x0003_0000),
        (LinuxSeccompAction::ScmpActErrno, 0x0005_0021),
        (LinuxSeccompAction::ScmpActTrace, 0x7ff0_0021),
        (LinuxSeccompAction::ScmpActLog, 0x7ffc_0000),
    ] {
        let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getpid","listns"],
            "action":"SCMP_ACT_ERRNO","errnoRet":33}]}"#;
        let mut profile: LinuxSeccomp = serde_json::from_str(json).unwrap();
        let mut rules = profile.syscalls().clone().unwrap();
        rules[0].set_action(action);
        if !matches!(action, LinuxSeccompAction::ScmpActErrno | LinuxSeccompAction::ScmpActTrace) {
            // The specification wants a number refused that an action does not return.
            rules[0].set_errno_ret(None);
        }
        profile.set_syscalls(Some(rules));
        let program = compile(&profile).unwrap().program;
        // By libseccomp, and by our own table of numbers.
        for number in [i32::from(ScmpSyscall::from_name("getpid").unwrap()) as u32, 470] {
            let answer = run(&program, &Call { number, architecture: NATIVE, args: [0; 6] });
            assert_eq!(answer, Some(value), "{action:?} {number}");
        }
    }
}
