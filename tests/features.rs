//! The features document is true: what it lists is accepted, and what it does not list is refused.

use serde_json::{Value, json};
use tests::{Bundle, jail, left_nothing, require_root, runtimes, stage};

/// The document of the binary under test.
fn document() -> Value {
    let out = std::process::Command::new(jail()).arg("features").output().unwrap();
    assert!(out.status.success());
    serde_json::from_slice(&out.stdout).unwrap()
}

#[track_caller]
fn words(document: &Value, pointer: &str) -> Vec<String> {
    let list = document.pointer(pointer).and_then(Value::as_array).unwrap_or_else(|| panic!("no {pointer}"));
    let words: Vec<_> = list.iter().map(|word| word.as_str().unwrap().to_owned()).collect();
    assert!(!words.is_empty(), "{pointer} is empty");
    words
}

/// Runs the bundle, and says under which name it was refused.
fn refusal(bundle: &Bundle, name: &str) -> Option<String> {
    let done = bundle.run();
    (!done.is_ok()).then(|| format!("{name}: {}", done.err.trim_end()))
}

#[test]
fn the_features_have_the_form_that_callers_read() {
    for runtime in runtimes() {
        let out = runtime.command(std::path::Path::new("/run/none")).arg("features").output().unwrap();
        let document: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(document["ociVersionMin"], "1.0.0");
        assert!(document["ociVersionMax"].as_str().unwrap().starts_with("1."));
        assert_eq!(words(&document, "/hooks").len(), 6);
        for pointer in ["/mountOptions", "/linux/namespaces", "/linux/capabilities", "/linux/seccomp/actions"] {
            words(&document, pointer);
        }
        for place in ["v1", "v2", "systemd", "systemdUser"] {
            assert!(document["linux"]["cgroup"][place].is_boolean(), "{place}");
        }
        for place in ["seccomp", "apparmor", "selinux"] {
            assert!(document["linux"][place]["enabled"].is_boolean(), "{place}");
        }
        assert!(!out.stdout.windows(4).any(|bytes| bytes == b"null"), "a place without a value");
    }
}

#[test]
fn every_mount_option_of_the_features_is_accepted() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let good = bundle.spec.clone();
    let mut wrong = Vec::new();
    for word in words(&document(), "/mountOptions") {
        bundle.spec.clone_from(&good);
        bundle.set(
            "/mounts/-",
            match &word[..] {
                "bind" | "rbind" | "src-nofollow" | "dest-nofollow" | "copy-symlink" => {
                    json!({"destination": "/mnt", "type": "bind", "source": "/etc", "options": [&word]})
                }
                "idmap" | "ridmap" => {
                    json!({"destination": "/mnt", "type": "bind", "source": "/etc", "options": [&word],
                    "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}],
                    "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}]})
                }
                "remount" => json!({"destination": "/dev", "options": [&word]}),
                _ => json!({"destination": "/mnt", "type": "tmpfs", "source": "none", "options": [&word]}),
            },
        );
        wrong.extend(refusal(&bundle, &word));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    left_nothing(&bundle, &host);
}

/// Whoever comes from them finds every word that they know, but for one that no kernel carries out.
#[test]
fn every_mount_option_of_runc_is_known() {
    let listed = words(&document(), "/mountOptions");
    for runtime in runtimes().into_iter().filter(|runtime| runtime.name() == "runc") {
        let out = runtime.command(std::path::Path::new("/run/none")).arg("features").output().unwrap();
        let theirs = words(&serde_json::from_slice(&out.stdout).unwrap(), "/mountOptions");
        let missing: Vec<_> = theirs.iter().filter(|word| !listed.contains(word)).collect();
        assert_eq!(missing, ["noacl"]);
    }
}

#[test]
fn a_mount_option_that_the_features_lack_is_refused() {
    if !require_root() {
        return;
    }
    let listed = words(&document(), "/mountOptions");
    let (mut bundle, host) = stage();
    let good = bundle.spec.clone();
    for word in ["noacl", "idmap=uids=0-1-2", "rbindable", "nosuchword"] {
        assert!(!listed.iter().any(|known| known == word), "{word}");
        bundle.spec.clone_from(&good);
        bundle.set("/mounts/-", json!({"destination": "/mnt", "type": "tmpfs", "source": "none", "options": [word]}));
        let line = bundle.run().fails();
        assert!(line.contains(word), "{word}: {line}");
    }
    left_nothing(&bundle, &host);
}

#[test]
fn the_name_spaces_of_the_features_are_accepted_and_no_others() {
    if !require_root() {
        return;
    }
    let listed = words(&document(), "/linux/namespaces");
    let (mut bundle, host) = stage();
    let all = ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"];
    for kind in all {
        let mut list = vec![json!({"type": kind})];
        list.extend((kind != "mount").then(|| json!({"type": "mount"})));
        bundle.remove("/hostname").set("/linux/namespaces", list);
        bundle.remove("/linux/uidMappings").remove("/linux/gidMappings");
        if kind == "user" {
            let map = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
            bundle.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
        }
        // /proc needs its own pid name space in a user name space; the kind is the subject here.
        bundle.set("/mounts", json!([]));
        let known = listed.iter().any(|word| word == kind);
        assert_eq!(refusal(&bundle, kind).is_none(), known, "{kind}: {:?}", refusal(&bundle, kind));
    }
    left_nothing(&bundle, &host);
}

#[test]
fn the_capabilities_of_the_features_are_given() {
    if !require_root() {
        return;
    }
    let known = words(&document(), "/linux/capabilities");
    let last = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap();
    assert_eq!(known.len(), last.trim().parse::<usize>().unwrap() + 1);
    let (mut bundle, host) = stage();
    let names: Vec<&str> = known.iter().map(String::as_str).collect();
    bundle.capabilities(&names).run().ok();
    left_nothing(&bundle, &host);
}

#[test]
fn the_words_of_seccomp_in_the_features_are_accepted_and_no_others() {
    if !require_root() {
        return;
    }
    let document = document();
    let (mut bundle, host) = stage();
    let mut wrong = Vec::new();
    let mut each = |name: &str, profile: Value, known: bool| {
        let done = bundle.set("/linux/seccomp", profile).run();
        wrong.extend((done.is_ok() != known).then(|| format!("{name}: {done}")));
    };
    let rule = |action: &str, op: &str| json!([{"names": ["getpgid"], "action": action, "args": [{"index": 0, "value": 77, "op": op}]}]);
    let actions = words(&document, "/linux/seccomp/actions");
    assert_eq!(actions.len(), 9);
    // That one needs an agent: tests/listener.rs.
    for action in actions.iter().filter(|action| *action != "SCMP_ACT_NOTIFY") {
        let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rule(action, "SCMP_CMP_EQ")});
        each(action, profile, true);
    }
    for op in words(&document, "/linux/seccomp/operators") {
        each(&op, json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rule("SCMP_ACT_LOG", &op)}), true);
    }
    for arch in words(&document, "/linux/seccomp/archs") {
        let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": [arch], "syscalls": rule("SCMP_ACT_LOG", "SCMP_CMP_EQ")});
        each(&arch, profile, true);
    }
    let supported = words(&document, "/linux/seccomp/supportedFlags");
    for flag in words(&document, "/linux/seccomp/knownFlags") {
        let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": [flag]});
        each(&flag, profile, supported.contains(&flag));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    left_nothing(&bundle, &host);
}

#[test]
fn the_memory_policies_of_the_features_are_known_and_the_labels_are_the_programs_own_matter() {
    if !require_root() {
        return;
    }
    let document = document();
    let (mut bundle, host) = stage();
    for mode in words(&document, "/linux/memoryPolicy/modes") {
        let mut policy = json!({"mode": &mode});
        if !["MPOL_DEFAULT", "MPOL_LOCAL"].contains(&mode.as_str()) {
            policy["nodes"] = json!("0");
        }
        bundle.set("/linux/memoryPolicy", policy).run().ok();
    }
    for flag in words(&document, "/linux/memoryPolicy/flags") {
        bundle.set("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "0", "flags": [flag]})).run().ok();
    }
    for module in ["apparmor", "selinux"] {
        assert_eq!(document["linux"][module]["enabled"], true, "{module}");
    }
    for key in ["enabled", "schemata", "monitoring"] {
        assert_eq!(document["linux"]["intelRdt"][key], true, "{key}");
    }
    left_nothing(&bundle, &host);
}
