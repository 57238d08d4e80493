//! A configuration with a part dropped, of another type, or too large: a jail, or one line and nothing on the host.

use tests::{Bundle, Host, entries, mutations, require_root};

/// How many of the changes are tried; all of them are by `runtime/tests/mutation.rs`, up to the plan.
const EVERY: usize = 23;

#[test]
fn a_changed_configuration_gives_a_jail_or_one_line_and_leaves_nothing() {
    if !require_root() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.full();
    let host = Host::snapshot(&bundle.id, &[]);
    let good = bundle.spec.clone();
    let (mut number, mut made, mut found) = (0, 0, Vec::new());
    mutations(&good, &mut |what, mutated| {
        number += 1;
        // Without these the jail would run in the host's cgroups, or where the test does not look.
        if number % EVERY != 0 || what.contains("/linux/cgroupsPath") {
            return;
        }
        bundle.spec.clone_from(mutated);
        let done = bundle.create();
        let line = done.err.trim_end();
        let errors: Vec<&str> = line.lines().filter(|line| !line.starts_with("jail: warning: ")).collect();
        if done.is_ok() {
            made += 1;
        } else if errors.len() != 1 || !errors[0].starts_with("jail: cannot ") || done.code() != Some(1) {
            found.push(format!("{what}: code {:?}, {:.300}", done.code(), line));
        }
        bundle.delete_force();
        found.extend(host.leaked().into_iter().map(|thing| format!("{what}: left {thing}")));
        found.extend(entries(&bundle.root).into_iter().map(|name| format!("{what}: {name} is in the store")));
    });
    bundle.spec = good;
    bundle.run().ok();
    println!("{made} jails were made");
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert!(made > 0);
}
