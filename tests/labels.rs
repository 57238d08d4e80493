//! Labels of security modules. This is what hosts without them do, which all runtimes do alike; with them,
//! `runtime/src/label.rs` has the test of the plan.

use std::fs;
use std::path::Path;

use serde_json::json;
use tests::{left_nothing, require_root, running, runtimes, stage, stage_of};

fn apparmor() -> bool {
    fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"))
}

fn selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

#[test]
fn a_profile_or_label_that_the_host_cannot_enforce_is_refused() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        for (key, value, on) in [("apparmorProfile", "no-such-profile", false), ("selinuxLabel", "a:b:c:d", selinux())]
        {
            let (mut bundle, host) = stage_of(runtime.clone());
            if on {
                continue;
            }
            let line = bundle.set(&format!("/process/{key}"), value).run().fails();
            assert!(line.to_lowercase().contains(&key[..7].to_lowercase()), "{line}");
            left_nothing(&bundle, &host);
        }
    }
}

#[test]
fn the_refusal_names_the_property_and_the_way_out_before_anything_was_made() {
    if !require_root() || apparmor() || selinux() {
        return;
    }
    for (key, module) in [("apparmorProfile", "AppArmor"), ("selinuxLabel", "SELinux")] {
        let (mut bundle, host) = stage();
        bundle.set(&format!("/process/{key}"), "x");
        for done in [bundle.create(), bundle.run_with(&["--dry-run"])] {
            let line = done.fails();
            assert!(line.contains(&format!("/process/{key}: {module} is not on")), "{line}");
            assert!(line.contains("config.json:1:"), "{line}");
        }
        left_nothing(&bundle, &host);
    }
}

/// What managers send to say that there is none.
#[test]
fn an_empty_label_is_none() {
    if !require_root() {
        return;
    }
    for runtime in runtimes() {
        let (mut bundle, host) = stage_of(runtime);
        bundle.set("/process/apparmorProfile", "").set("/process/selinuxLabel", "");
        bundle.run().ok();
        left_nothing(&bundle, &host);
    }
}

#[test]
fn exec_refuses_a_label_as_create_does() {
    if !require_root() || apparmor() {
        return;
    }
    let (bundle, host) = running();
    let mut process = bundle.spec["process"].clone();
    process["args"] = json!(["true"]);
    process["apparmorProfile"] = json!("x");
    let document = bundle.dir.join("process.json");
    fs::write(&document, process.to_string()).unwrap();
    let line = bundle.call(&["exec", "--process", &document.to_string_lossy(), &bundle.id]).fails();
    assert!(line.contains("AppArmor is not on"), "{line}");
    bundle.delete_force().ok();
    left_nothing(&bundle, &host);
}
