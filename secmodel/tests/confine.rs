//! The steps for real: each case in a child of its own, which confines itself and compares what the kernel says then.
//! Needs root; says so and passes without.
#![allow(clippy::unwrap_used)]

use std::os::fd::AsRawFd;

use caps::{Capability, CapsHashSet};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Gid, Uid, getegid, geteuid, getgroups, getresuid};
use secmodel::{Caps, Confinement, Reach, plan};
use sys::process::{Fork, clone3, exit_now};

/// A hexadecimal set of /proc/self/status.
fn status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    u64::from_str_radix(line[field.len()..].trim_start_matches([':', '\t']), 16).unwrap()
}

fn bits(set: &CapsHashSet) -> u64 {
    set.iter().fold(0, |bits, cap| bits | cap.bitmask())
}

fn sets(caps: &[Capability], ambient: &[Capability]) -> Caps {
    let bounding: CapsHashSet = caps.iter().copied().collect();
    let dropped = Reach::of_caller().unwrap().bounding.difference(&bounding).copied().collect();
    let ambient: CapsHashSet = ambient.iter().copied().collect();
    let (effective, permitted) = (bounding.clone(), bounding.clone());
    Caps { bounding, effective, permitted, inheritable: ambient.clone(), ambient, dropped }
}

fn check(asked: &Confinement) {
    for step in plan(asked.clone()) {
        step.run().unwrap_or_else(|error| panic!("{error}"));
    }
    assert_eq!((geteuid(), getresuid().unwrap().saved, getegid()), (asked.uid, asked.uid, asked.gid));
    assert_eq!(getgroups().unwrap(), asked.groups);
    for (field, set) in [
        ("CapBnd", &asked.caps.bounding),
        ("CapEff", &asked.caps.effective),
        ("CapPrm", &asked.caps.permitted),
        ("CapInh", &asked.caps.inheritable),
        ("CapAmb", &asked.caps.ambient),
    ] {
        assert_eq!(status(field), bits(set), "{field}");
    }
    assert_eq!(status("NoNewPrivs"), u64::from(asked.no_new_privs));
    assert_eq!(status("Seccomp"), if asked.filter.is_some() { 2 } else { 0 });
}

/// The text of what went wrong in a child, or that it went well.
fn case(asked: &Confinement) -> bool {
    match clone3(0, None).unwrap() {
        Fork::Child => {
            check(asked);
            exit_now(0)
        }
        Fork::Parent(child) => {
            assert!(child.pidfd.as_raw_fd() > 2);
            waitpid(child.pid, None) == Ok(WaitStatus::Exited(child.pid, 0))
        }
    }
}

fn main() {
    if !geteuid().is_root() {
        println!("confine: skipped, it needs root");
        return;
    }
    let filter = secmodel::seccomp::compile(&secmodel::profile::default()).unwrap();
    let chown = [Capability::CAP_CHOWN, Capability::CAP_NET_BIND_SERVICE];
    let mut failed = 0;
    let mut cases = 0;
    for uid in [0, 1000] {
        for caps in [Caps::default(), sets(&[], &[]), sets(secmodel::caps::DEFAULT, &[]), sets(&chown, &chown[1..])] {
            for (no_new_privs, filter) in
                [(true, Some(filter.clone())), (false, Some(filter.clone())), (true, None), (false, None)]
            {
                // Without a list of what to drop the bounding set stays.
                let mut caps = caps.clone();
                if caps.dropped.is_empty() {
                    caps.bounding = Reach::of_caller().unwrap().bounding;
                }
                let (uid, gid, groups) =
                    (Uid::from_raw(uid), Gid::from_raw(7), vec![Gid::from_raw(8), Gid::from_raw(9)]);
                let umask = Some(0o27);
                let asked = Confinement { uid, gid, groups, setgroups: true, umask, caps, no_new_privs, filter };
                cases += 1;
                if !case(&asked) {
                    eprintln!("failed: uid {uid}, no_new_privs {no_new_privs}, {:?}", asked.caps.ambient);
                    failed += 1;
                }
            }
        }
    }
    println!("confine: {cases} cases, {failed} failed");
    assert_eq!(failed, 0);
}
