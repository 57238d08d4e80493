//! Who the program is to the kernel: capabilities, no new privileges, and numbers of users.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;
use tests::processes::field;
use tests::view::View;
use tests::{Bundle, Dice, Runtime, installed, left_nothing, require_root, runtimes, stage, stage_of};

/// A capability set as /proc shows it.
fn caps(numbers: &[u32]) -> String {
    format!("{:016x}", numbers.iter().fold(0_u64, |set, number| set | 1 << number))
}

const CHOWN: u32 = 0;
const KILL: u32 = 5;

/// Such as one of a kernel that is newer than this program.
#[test]
fn a_capability_that_nobody_knows_is_one_warning_and_the_others_are_given() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime.clone());
        bundle.capabilities(&["CAP_OF_THE_FUTURE", "CAP_KILL"]);
        let done = bundle.args(&["cat", "/proc/self/status"]).run();
        assert!(done.is_ok() && done.err.contains("CAP_OF_THE_FUTURE"), "{done}");
        assert_eq!(field(&done.out, "CapBnd"), caps(&[KILL]));
        bundle.start_sleeper();
        assert_eq!(field(&bundle.exec(&["cat", "/proc/self/status"]).out, "CapEff"), caps(&[KILL]));
        bundle.delete_force().ok();
        left_nothing(&bundle, &host);
    }
    let done = Bundle::new().capabilities(&["CAP_OF_THE_FUTURE"]).run();
    // One in each of three sets.
    assert_eq!(done.err.lines().count(), 3, "{done}");
    assert!(done.err.contains("unknown capability \"CAP_OF_THE_FUTURE\" at /process/capabilities/"), "{done}");
}

#[test]
fn every_capability_set_is_the_one_that_was_asked_for() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        let (both, one) = (json!(["CAP_CHOWN", "CAP_KILL"]), json!(["CAP_KILL"]));
        let sets = json!({"bounding": both, "permitted": both, "effective": both, "inheritable": one, "ambient": one});
        bundle.set("/process/capabilities", sets);
        // Root gets at exec(2) all that is in the bounding set; another user what is ambient.
        let text = bundle.set("/process/user/uid", 1000).own_status();
        assert_eq!(field(&text, "CapBnd"), caps(&[CHOWN, KILL]));
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(field(&text, set), caps(&[KILL]), "{set}");
        }
        let text = bundle.set("/process/user/uid", 0).capabilities(&["CAP_CHOWN", "CAP_KILL"]).own_status();
        for set in ["CapBnd", "CapPrm", "CapEff"] {
            assert_eq!(field(&text, set), caps(&[CHOWN, KILL]), "{set}");
        }
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(field(&text, set), caps(&[]), "{set}");
        }
        left_nothing(&bundle, &host);
    }
}

/// Without a list there is none; runc then leaves all that the caller has.
#[test]
fn a_jail_without_a_capability_list_has_no_capability() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let text = bundle.own_status();
    for set in ["CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"] {
        assert_eq!(field(&text, set), caps(&[]), "{set}");
    }
    left_nothing(&bundle, &host);
}

#[test]
fn no_new_privileges_is_set_where_it_is_asked_for() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        for (asked, seen) in [(true, "1"), (false, "0")] {
            let text = bundle.set("/process/noNewPrivileges", asked).own_status();
            assert_eq!(field(&text, "NoNewPrivs"), seen);
        }
        left_nothing(&bundle, &host);
    }
}

const CAPS: &[(&str, u32)] = &[
    ("CAP_CHOWN", 0),
    ("CAP_DAC_OVERRIDE", 1),
    ("CAP_FOWNER", 3),
    ("CAP_KILL", 5),
    ("CAP_SETGID", 6),
    ("CAP_SETUID", 7),
    ("CAP_NET_ADMIN", 12),
    ("CAP_SYS_PTRACE", 19),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_AUDIT_READ", 37),
    ("CAP_BPF", 39),
];

#[test]
fn a_process_is_exactly_who_the_specification_says() {
    if !require_root() {
        return;
    }
    let mut dice = Dice(7);
    for _ in 0..25 {
        let mut bundle = Bundle::new();
        let ids = [0, 1, 1000, 65_534, 4_000_000_000];
        let (uid, gid) = (ids[dice.roll(5) as usize], ids[dice.roll(5) as usize]);
        let groups: Vec<u64> = (0..dice.roll(4)).map(|n| n * 100 + 7).collect();
        let all: Vec<_> = CAPS.iter().filter(|_| dice.roll(2) == 0).collect();
        let some: Vec<_> = all.iter().filter(|_| dice.roll(2) == 0).collect();
        let mask = |caps: &[u32]| caps.iter().fold(0_u64, |bits, cap| bits | 1 << cap);
        let (bounding, held) = (
            mask(&all.iter().map(|(_, bit)| *bit).collect::<Vec<_>>()),
            mask(&some.iter().map(|(_, bit)| *bit).collect::<Vec<_>>()),
        );
        let names = |caps: Vec<&str>| json!(caps);
        let bounding_names = names(all.iter().map(|(name, _)| *name).collect());
        let held_names = names(some.iter().map(|(name, _)| *name).collect());
        let nnp = dice.roll(2) == 0;
        bundle.set("/process/user", json!({"uid": uid, "gid": gid, "additionalGids": groups}));
        bundle.set(
            "/process/capabilities",
            json!({
                "bounding": bounding_names, "effective": held_names, "permitted": held_names,
                "inheritable": held_names, "ambient": held_names,
            }),
        );
        bundle.set("/process/noNewPrivileges", nnp);
        let status = bundle.own_status();
        let number = |name: &str| u64::from_str_radix(&field(&status, name), 16).unwrap();
        let ids =
            |name: &str| field(&status, name).split_whitespace().map(|id| id.parse().unwrap()).collect::<Vec<u64>>();
        assert_eq!((ids("Uid"), ids("Gid"), ids("Groups")), (vec![uid; 4], vec![gid; 4], groups));
        // Ambient ones keep all of them across the exec, whoever the user is; root has its own by the bounding set.
        let root = if uid == 0 { bounding } else { held };
        assert_eq!((number("CapBnd"), number("CapInh"), number("CapAmb")), (bounding, held, held), "{}", bundle.spec);
        assert_eq!(number("CapPrm") & !root, 0, "{}", bundle.spec);
        assert_eq!(number("CapPrm") & held, held, "{}", bundle.spec);
        assert_eq!(field(&status, "NoNewPrivs"), if nnp { "1" } else { "0" });
    }
}

/// CVE-2022-24769 and its kin.
#[test]
fn nothing_is_inheritable_or_ambient_by_default() {
    if !require_root() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.full();
    let friend = Bundle::new();
    for status in [bundle.own_status(), friend.friendly(&["cat", "/proc/self/status"]).ok()] {
        assert_eq!(
            (field(&status, "CapInh"), field(&status, "CapAmb")),
            ("0000000000000000".to_string(), "0000000000000000".to_string())
        );
        assert_eq!(field(&status, "NoNewPrivs"), "1");
    }
}

#[test]
fn the_default_capabilities_are_eleven() {
    if !require_root() {
        return;
    }
    let bundle = Bundle::new();
    let status = bundle.friendly(&["cat", "/proc/self/status"]).ok();
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        // chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service sys_chroot setfcap
        assert_eq!(field(&status, set), "00000000800405fb");
    }
    assert_eq!(field(&status, "Seccomp"), "2");
}

#[test]
fn a_user_that_is_no_number_is_nobody_at_all() {
    if !require_root() {
        return;
    }
    for user in ["nobody", "root", "-1", "4294967296", "0x0", "1:", ":1", ""] {
        let mut bundle = Bundle::new();
        bundle.start_sleeper();
        let done = bundle.call(&["exec", "--user", user, &bundle.id, "id"]);
        assert!(!done.is_ok() && done.out.is_empty(), "{user}: {done}");
    }
    for uid in [json!("nobody"), json!(-1), json!(4_294_967_296_u64), json!(1.5), json!("0"), json!([0])] {
        let mut bundle = Bundle::new();
        bundle.set("/process/user/uid", uid).run().fails();
    }
}

#[test]
fn a_hook_inside_has_no_more_privilege_than_the_program() {
    if !require_root() {
        return;
    }
    let controls = ["crun", "runc"].into_iter().filter(|name| installed(name)).map(Runtime::of);
    for runtime in std::iter::once(Runtime::jail()).chain(controls) {
        let name = runtime.name();
        View::V1.enter().unwrap();
        let mut bundle = Bundle::of(runtime);
        let hook = bundle.rootfs().join("bin/hook");
        fs::write(&hook, "#!/bin/sh\ncat /proc/self/status > /seen\n").unwrap();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
        bundle.capabilities(&[]);
        bundle.set("/process/noNewPrivileges", true).set("/hooks/startContainer", json!([{"path": "/bin/hook"}]));
        bundle.run().ok();
        let status = fs::read_to_string(bundle.rootfs().join("seen")).unwrap();
        assert_eq!(field(&status, "CapEff"), "0000000000000000", "{name}");
        assert_eq!(field(&status, "CapBnd"), "0000000000000000", "{name}");
        assert_eq!(field(&status, "NoNewPrivs"), "1", "{name}");
    }
}
