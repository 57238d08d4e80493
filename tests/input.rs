//! Bad input: refused in one line that names the place, before anything is touched.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::stat::Mode;
use serde_json::{Value, json};
use tests::{Bundle, Done, Host, LIMIT, entries, finish, installed, left_nothing, require_root, stage};

/// A bundle, and a host whose tree of the bundle's root is looked at too: not even a mount point may be made.
fn stage_with_root() -> (Bundle, Host) {
    let bundle = Bundle::new();
    let host = Host::snapshot(&bundle.id, &[&bundle.rootfs()]);
    (bundle, host)
}

/// What is wrong with a refusal: it must be one line with these words in it, and nothing may have been touched.
fn complaints(done: Done, bundle: &Bundle, host: &Host, words: &[&str]) -> Vec<String> {
    let line = done.err.trim_end().to_string();
    let mut found = Vec::new();
    if done.is_ok() {
        bundle.delete_force();
        return vec!["it was not refused".to_string()];
    }
    let mut expect = |holds: bool, what: &str| found.extend((!holds).then(|| format!("{what}: {line}")));
    expect(done.code().is_some(), "it hung or died");
    expect(line.starts_with("jail: cannot "), "it does not begin with `jail: cannot`");
    expect(line.lines().count() == 1 && line.len() < 1000, "it is not one line of some length");
    for word in words {
        expect(line.contains(word), &format!("no {word:?} in it"));
    }
    expect(entries(&bundle.root).is_empty(), "a jail is in the store");
    for what in host.leaked() {
        expect(false, &format!("left behind {what}"));
    }
    found
}

#[track_caller]
fn refused(done: Done, bundle: &Bundle, host: &Host, words: &[&str]) {
    let found = complaints(done, bundle, host, words);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

fn create_as_it_is(bundle: &Bundle) -> Done {
    bundle.call(&["create", "--bundle", &bundle.dir.to_string_lossy(), &bundle.id])
}

/// Each row is set in a configuration that works: the place, the value, words of the refusal.
#[track_caller]
fn all_refused(rows: &[(&str, Value, &[&str])]) {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage_with_root();
    let good = bundle.spec.clone();
    let mut found = Vec::new();
    for (pointer, value, words) in rows {
        bundle.spec.clone_from(&good);
        bundle.set(pointer, value.clone());
        let of_row = complaints(bundle.create(), &bundle, &host, words);
        found.extend(of_row.into_iter().map(|what| format!("{pointer} {value}: {what}")));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    // The control: it is the row that is refused, not the rest.
    bundle.spec = good;
    bundle.run().ok();
}

/// Each text is the whole of config.json.
#[track_caller]
fn all_texts_refused(rows: &[(&[u8], &str)]) {
    if !require_root() {
        return;
    }
    let (bundle, host) = stage_with_root();
    for (text, word) in rows {
        fs::write(bundle.dir.join("config.json"), text).unwrap();
        refused(create_as_it_is(&bundle), &bundle, &host, &[word]);
    }
}

#[test]
fn a_text_that_is_no_document_is_refused() {
    all_texts_refused(&[
        (b"", ":1:0"),
        (b"{", ":1:1"),
        (b"{\"ociVersion\": \"1.0.2\",\n\"process\": {\"cwd\": ", ":2:"),
        (b"[]", ":1:"),
        (b"null", ":1:"),
        (b"\"a string\"", ":1:"),
        (b"4711", ":1:"),
        (b"{\"ociVersion\": \"1.0.2\"} {}", "follows"),
        (b"{\"ociVersion\": \"1.0.2\"}\0", "follows"),
        (b"{\"ociVersion\": \"\xff\xfe\"}", "UTF-8"),
        (b"{\"ociVersion\": 1}", "/ociVersion"),
        (b"{}", "/ociVersion"),
        (b"\x7fELF\x02\x01\x01", "config.json"),
    ]);
}

#[test]
fn a_document_of_a_million_brackets_is_refused() {
    let text = b"[".repeat(1_000_000);
    all_texts_refused(&[(&text, ":1:")]);
}

#[test]
fn a_configuration_of_17_mib_is_refused() {
    if !require_root() {
        return;
    }
    let (bundle, host) = stage_with_root();
    let mut text = bundle.spec.to_string();
    text.push_str(&" ".repeat((17 << 20) - text.len()));
    fs::write(bundle.dir.join("config.json"), text).unwrap();
    refused(create_as_it_is(&bundle), &bundle, &host, &["config.json", "16 MiB"]);
}

#[test]
fn what_is_no_file_in_the_place_of_the_configuration_is_refused() {
    if !require_root() {
        return;
    }
    let (bundle, host) = stage_with_root();
    let file = bundle.dir.join("config.json");
    refused(create_as_it_is(&bundle), &bundle, &host, &["config.json", "no such file"]);
    // Opening a FIFO that nobody writes to would wait for ever.
    nix::unistd::mkfifo(&file, Mode::S_IRWXU).unwrap();
    refused(create_as_it_is(&bundle), &bundle, &host, &["config.json", "no regular file"]);
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    refused(create_as_it_is(&bundle), &bundle, &host, &["config.json", "no regular file"]);
    fs::remove_dir(&file).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &file).unwrap();
    refused(create_as_it_is(&bundle), &bundle, &host, &["config.json", "no regular file"]);
}

#[test]
fn a_bundle_that_is_no_folder_is_refused() {
    if !require_root() {
        return;
    }
    let (bundle, host) = stage_with_root();
    bundle.write();
    for path in [bundle.dir.join("nowhere"), bundle.dir.join("config.json")] {
        let path = path.to_string_lossy();
        refused(bundle.call(&["create", "--bundle", &path, &bundle.id]), &bundle, &host, &[&path]);
    }
}

#[test]
fn a_wrong_type_is_refused_with_its_place_and_line_and_column() {
    all_refused(&[
        ("/process/user/uid", json!("nobody"), &["config.json:1:", "/process/user/uid", "nobody"]),
        ("/process/user/gid", json!(-1), &["config.json:1:", "/process/user/gid"]),
        ("/process/user/uid", json!(4_294_967_296_u64), &["config.json:1:", "/process/user/uid"]),
        ("/process/user/uid", json!(1.5), &["config.json:1:", "/process/user/uid"]),
        ("/process/user/additionalGids", json!([0, -7]), &["config.json:1:", "/process/user/additionalGids/1"]),
        ("/process/args", json!("true"), &["config.json:1:", "/process/args"]),
        ("/process/args", json!(["true", 7]), &["config.json:1:", "/process/args/1"]),
        ("/process/terminal", json!("no"), &["config.json:1:", "/process/terminal"]),
        ("/process/oomScoreAdj", json!("low"), &["config.json:1:", "/process/oomScoreAdj"]),
        ("/process/rlimits", json!([{"type": "RLIMIT_CORE", "soft": -1, "hard": 0}]), &["/process/rlimits/0/soft"]),
        ("/linux/resources", json!({"pids": {"limit": "x"}}), &["config.json:1:", "/linux/resources/pids/limit"]),
        ("/linux/resources", json!({"cpu": {"shares": -1}}), &["config.json:1:", "/linux/resources/cpu/shares"]),
        ("/linux/resources", json!({"memory": {"limit": 1e30}}), &["config.json:1:", "/linux/resources/memory/limit"]),
        ("/mounts", json!({}), &["config.json:1:", "/mounts"]),
        ("/root", json!("rootfs"), &["config.json:1:", "/root"]),
        ("/hostname", json!(["a"]), &["config.json:1:", "/hostname"]),
    ]);
}

/// A list of the members in their order is not the object, whatever a parser makes of it; nor is an object with one key
/// the name that is its key.
#[test]
fn what_only_a_parser_takes_for_an_object_or_a_name_is_refused_with_its_place() {
    let list = "invalid type: sequence, expected struct";
    all_refused(&[
        ("/process/user", json!([0, 0]), &["config.json:1:", " /process/user: ", list]),
        ("/root", json!(["rootfs"]), &["config.json:1:", " /root: ", list]),
        ("/root", json!(["rootfs", true]), &["config.json:1:", " /root: ", list]),
        ("/process/capabilities", json!([[], [], [], [], []]), &["config.json:1:", " /process/capabilities: ", list]),
        ("/process/rlimits", json!([["RLIMIT_CORE", 1, 1]]), &["config.json:1:", " /process/rlimits/0: ", list]),
        ("/mounts/-", json!(["/tmp", "tmpfs"]), &["config.json:1:", " /mounts/2: ", list]),
        ("/hooks", json!({"poststop": [["/bin/true"]]}), &["config.json:1:", " /hooks/poststop/0: ", list]),
        ("/linux/namespaces/0", json!(["pid"]), &["config.json:1:", " /linux/namespaces/0: ", list]),
        ("/linux/resources", json!({"pids": [5]}), &["config.json:1:", " /linux/resources/pids: ", list]),
        (
            "/linux/namespaces/0/type",
            json!({"pid": null}),
            &["config.json:1:", " /linux/namespaces/0/type: ", "invalid type: map, expected enum"],
        ),
    ]);
}

#[test]
fn a_list_in_the_place_of_the_process_is_refused_where_it_begins() {
    let refusal = ":2:12: /process: invalid type: sequence, expected struct Process";
    all_texts_refused(&[
        (b"{\"ociVersion\": \"1.0.2\",\n\"process\": [false, null, [0, 0], [\"true\"], null, [], \"/\"]}", refusal),
        (b"{\"ociVersion\": \"1.0.2\",\n\"process\": [\n]}", refusal),
        (b"[\"1.0.2\", [\"rootfs\"]]", ":1:1: /: invalid type: sequence, expected struct Spec"),
    ]);
}

#[test]
fn a_value_that_nobody_knows_is_refused_with_its_place() {
    let filter = |key: &str, value: Value| {
        let mut filter = json!({"defaultAction": "SCMP_ACT_ALLOW"});
        filter[key] = value;
        filter
    };
    let call = |action: &str, op: &str| json!([{"names": ["mkdir"], "action": action, "args": [{"index": 0, "value": 0, "op": op}]}]);
    all_refused(&[
        ("/ociVersion", json!("2.0.0"), &["/ociVersion", "2.0.0"]),
        ("/ociVersion", json!("one"), &["/ociVersion"]),
        ("/linux/namespaces/0/type", json!("nope"), &["/linux/namespaces/0/type", "nope"]),
        ("/process/rlimits", json!([{"type": "RLIMIT_NOPE", "soft": 1, "hard": 1}]), &["/process/rlimits/0/type"]),
        ("/linux/seccomp", filter("defaultAction", json!("SCMP_ACT_NOPE")), &["/linux/seccomp/defaultAction"]),
        ("/linux/seccomp", filter("architectures", json!(["SCMP_ARCH_NOPE"])), &["/linux/seccomp/architectures/0"]),
        (
            "/linux/seccomp",
            filter("syscalls", call("SCMP_ACT_NOPE", "SCMP_CMP_EQ")),
            &["/linux/seccomp/syscalls/0/action"],
        ),
        (
            "/linux/seccomp",
            filter("syscalls", call("SCMP_ACT_ERRNO", "SCMP_CMP_NOPE")),
            &["/linux/seccomp/syscalls/0/args/0/op"],
        ),
        ("/linux/rootfsPropagation", json!("nope"), &["/linux/rootfsPropagation", "nope"]),
        (
            "/linux/devices",
            json!([{"path": "/dev/x", "type": "x", "major": 1, "minor": 3}]),
            &["/linux/devices/0/type"],
        ),
        ("/linux/resources", json!({"devices": [{"allow": true, "access": "q"}]}), &["/linux/resources/devices/0"]),
        ("/linux/resources", json!({"devices": [{"allow": true, "type": "x"}]}), &["/linux/resources/devices/0"]),
    ]);
}

#[test]
fn a_string_with_nul_is_refused_with_its_place() {
    all_refused(&[
        ("/process/args", json!(["true", "a\0b"]), &["config.json:1:", "/process/args/1", "NUL"]),
        ("/process/env", json!(["A=\0"]), &["config.json:1:", "/process/env/0", "NUL"]),
        ("/process/cwd", json!("/\0tmp"), &["config.json:1:", "/process/cwd", "NUL"]),
        ("/mounts/0/destination", json!("/proc\0/x"), &["config.json:1:", "/mounts/0/destination", "NUL"]),
        ("/hostname", json!("a\0b"), &["config.json:1:", "/hostname", "NUL"]),
        ("/root/path", json!("rootfs\0"), &["config.json:1:", "/root/path", "NUL"]),
        ("/linux/cgroupsPath", json!("/a\0b"), &["config.json:1:", "/linux/cgroupsPath", "NUL"]),
    ]);
}

#[test]
fn what_makes_no_sense_is_refused_with_its_place() {
    let limit = |name: &str, soft: u64, hard: u64| json!({"type": name, "soft": soft, "hard": hard});
    all_refused(&[
        ("/process/args", json!([]), &["/process/args"]),
        ("/process/args", Value::Null, &["/process/args"]),
        ("/process/cwd", json!("tmp"), &["/process/cwd"]),
        ("/process/cwd", json!(""), &["/process/cwd"]),
        ("/process/env", json!(["PATH=/bin", "NOVALUE"]), &["/process/env/1"]),
        ("/process/env", json!(["=x"]), &["/process/env/0"]),
        ("/process/terminal", json!(true), &["/process/terminal"]),
        ("/process/oomScoreAdj", json!(1001), &["/process/oomScoreAdj"]),
        ("/process/oomScoreAdj", json!(-1001), &["/process/oomScoreAdj"]),
        ("/process/rlimits", json!([limit("RLIMIT_CORE", 2, 1)]), &["/process/rlimits/0"]),
        ("/process/rlimits", json!([limit("RLIMIT_CORE", 1, 1), limit("RLIMIT_CORE", 1, 1)]), &["/process/rlimits/1"]),
        ("/hostname", json!("x".repeat(65)), &["/hostname"]),
        ("/domainname", json!("x".repeat(65)), &["/domainname"]),
        ("/linux/cgroupsPath", json!("/a/../../b"), &["/linux/cgroupsPath"]),
        ("/linux/cgroupsPath", json!("/"), &["/linux/cgroupsPath"]),
        ("/linux/namespaces/-", json!({"type": "ipc"}), &["/linux/namespaces/5"]),
        ("/linux/namespaces/1", json!({"type": "cgroup"}), &["/linux/namespaces"]),
        ("/linux/uidMappings", json!([{"containerID": 0, "hostID": 0, "size": 1}]), &["/linux/uidMappings"]),
        ("/linux/resources", json!({"memory": {"limit": -5}}), &["/linux/resources/memory/limit"]),
        ("/linux/resources", json!({"pids": {"limit": -5}}), &["/linux/resources/pids/limit"]),
        ("/linux/devices", json!([{"path": "/dev/x", "type": "a", "major": 1, "minor": 3}]), &["/linux/devices/0"]),
        (
            "/linux/devices",
            json!([{"path": "/dev/x", "type": "c", "major": -1, "minor": 3}]),
            &["/linux/devices/0/major"],
        ),
        ("/linux/devices", json!([{"path": "dev/x", "type": "c", "major": 1, "minor": 3}]), &["/linux/devices/0/path"]),
        ("/hooks", json!({"prestart": [{"path": "bin/true"}]}), &["/hooks/prestart/0/path"]),
        ("/hooks", json!({"poststop": [{"path": "/bin/true", "timeout": 0}]}), &["/hooks/poststop/0/timeout"]),
        (
            "/hooks",
            json!({"createRuntime": [{"path": "/bin/true", "timeout": -1}]}),
            &["/hooks/createRuntime/0/timeout"],
        ),
        ("/mounts/0/destination", json!("/"), &["/mounts/0/destination"]),
        ("/mounts/-", json!({"destination": "/x", "type": "bind"}), &["/mounts/2/source"]),
        ("/mounts/-", json!({"destination": "/proc/sys", "type": "tmpfs"}), &["/mounts/2/destination"]),
    ]);
}

/// For the kernel this number means "as it is", so a jail that asks for it would run as root (CVE-2024-40635's kin).
#[test]
fn the_user_and_the_group_of_minus_one_are_refused() {
    let all = u32::MAX;
    all_refused(&[
        ("/process/user/uid", json!(all), &["/process/user/uid"]),
        ("/process/user/gid", json!(all), &["/process/user/gid"]),
        ("/process/user/additionalGids", json!([all]), &["/process/user/additionalGids"]),
    ]);
}

#[test]
fn what_the_host_would_share_is_no_setting_of_a_jail() {
    all_refused(&[
        ("/linux/sysctl", json!({"kernel.panic": "1"}), &["/linux/sysctl/kernel.panic"]),
        ("/linux/sysctl", json!({"vm.swappiness": "1"}), &["/linux/sysctl/vm.swappiness"]),
        ("/linux/sysctl", json!({"kernel.hostname": "x"}), &["/linux/sysctl/kernel.hostname"]),
        ("/linux/sysctl", json!({"net/../kernel/panic": "1"}), &["/linux/sysctl/"]),
        ("/linux/sysctl", json!({"net..ipv4": "1"}), &["/linux/sysctl/"]),
        ("/linux/sysctl", json!({"": "1"}), &["/linux/sysctl/"]),
        ("/linux/sysctl", json!({"net.ipv4.ip_forward": "1\nkernel.panic=1"}), &["/linux/sysctl/net.ipv4.ip_forward"]),
    ]);
}

#[test]
fn a_setting_needs_its_name_space() {
    if !require_root() {
        return;
    }
    for (kind, pointer, value) in [
        ("network", "/linux/sysctl", json!({"net.ipv4.ip_forward": "1"})),
        ("ipc", "/linux/sysctl", json!({"kernel.msgmax": "8192"})),
        ("uts", "/domainname", json!("x")),
        ("uts", "/hostname", json!("x")),
    ] {
        let (mut bundle, host) = stage_with_root();
        let spaces = bundle.spec["linux"]["namespaces"].as_array_mut().unwrap();
        spaces.retain(|space| space["type"] != kind);
        bundle.remove("/hostname").set(pointer, value);
        refused(bundle.create(), &bundle, &host, &[pointer, kind]);
    }
}

#[test]
fn what_only_the_kernel_can_refuse_leaves_nothing_too() {
    all_refused(&[
        ("/mounts/-", json!({"destination": "/tmp", "type": "nosuchfs", "source": "x"}), &["nosuchfs", "/tmp"]),
        (
            "/mounts/-",
            json!({"destination": "/tmp", "type": "tmpfs", "source": "x", "options": ["nosuchoption"]}),
            &["nosuchoption", "/tmp"],
        ),
        (
            "/mounts/-",
            json!({"destination": "/tmp", "type": "tmpfs", "source": "x", "options": ["size=huge"]}),
            &["size", "/tmp"],
        ),
        (
            "/mounts/-",
            json!({"destination": "/tmp", "type": "bind", "source": "/no/such/source", "options": ["bind"]}),
            &["/no/such/source"],
        ),
        ("/root/path", json!("nowhere"), &["nowhere"]),
        ("/root/path", json!("config.json"), &["config.json"]),
        ("/linux/namespaces/4/path", json!("/no/such/netns"), &["/no/such/netns"]),
        ("/linux/namespaces/4/path", json!("/proc/self/ns/uts"), &["/proc/self/ns/uts"]),
        ("/linux/namespaces/4/path", json!("/etc/passwd"), &["/etc/passwd"]),
    ]);
}

#[test]
fn a_missing_part_is_refused_with_its_place() {
    if !require_root() {
        return;
    }
    let mut found = Vec::new();
    for pointer in ["/process", "/process/cwd", "/process/args", "/root", "/root/path", "/linux"] {
        let (mut bundle, host) = stage_with_root();
        bundle.remove(pointer);
        let of_row = complaints(bundle.create(), &bundle, &host, &[pointer.rsplit('/').next().unwrap()]);
        found.extend(of_row.into_iter().map(|what| format!("{pointer}: {what}")));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// The place is what a person needs in a file of a thousand lines, whoever finds the fault: the parser or the checks.
#[test]
fn what_makes_no_sense_is_refused_with_line_and_column() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage_with_root();
    bundle.args(&[]);
    fs::write(bundle.dir.join("config.json"), format!("{:#}", bundle.spec)).unwrap();
    let line = 1 + format!("{:#}", bundle.spec).lines().position(|line| line.contains("\"args\"")).unwrap();
    refused(create_as_it_is(&bundle), &bundle, &host, &["/process/args", &format!("config.json:{line}:")]);
}

#[test]
fn what_is_for_another_system_is_refused_by_name() {
    all_refused(&[
        ("/solaris", json!({}), &["/solaris", "Linux"]),
        ("/windows", json!({"layerFolders": ["x"]}), &["/windows", "Linux"]),
        ("/vm", json!({"kernel": {"path": "/x"}}), &["/vm", "Linux"]),
        ("/zos", json!({}), &["/zos", "Linux"]),
        ("/process/commandLine", json!("x"), &["/process/commandLine", "Windows"]),
        ("/process/user/username", json!("x"), &["/process/user/username", "Windows"]),
    ]);
}

#[test]
fn what_this_host_lacks_is_refused_by_name() {
    all_refused(&[
        ("/linux/mountLabel", json!("mine"), &["/linux/mountLabel", "SELinux is not enabled"]),
        ("/linux/netDevices", json!({"nosuchlink0": {}}), &["/linux/netDevices/nosuchlink0", "no such link"]),
    ]);
}

#[test]
fn a_name_that_is_none_is_refused_by_every_verb() {
    let (bundle, host) = stage_with_root();
    bundle.write();
    let (dir, long) = (bundle.dir.to_string_lossy().into_owned(), "x".repeat(5000));
    for id in ["", ".", "..", "../x", "/etc", "a/b", ".hidden", "a b", "a\nb", "\u{1f512}", "ümlaut", "a:b", &long] {
        for verb in [
            &["create", "--bundle", &dir, id][..],
            &["run", "--bundle", &dir, id],
            &["start", id],
            &["state", id],
            &["kill", id, "KILL"],
            &["delete", id],
            &["delete", "--force", id],
            &["exec", id, "true"],
        ] {
            refused(bundle.call(verb), &bundle, &host, &["as a name"]);
        }
    }
    assert!(fs::read_dir(&bundle.root).unwrap().next().is_none(), "the store was not even opened");
}

#[test]
fn a_name_that_is_no_text_is_refused() {
    let (bundle, host) = stage_with_root();
    let mut state = bundle.command(&["state"]);
    state.arg(std::ffi::OsStr::from_bytes(b"a\xffb"));
    let done = finish(&mut state, LIMIT);
    assert!(done.code().is_some_and(|code| code != 0), "{done}");
    host.assert_unchanged();
}

#[test]
fn the_names_that_runc_takes_are_taken() {
    if !require_root() {
        return;
    }
    for tail in ["a.b", "_x", "x+1", "0", "A-Z"] {
        let (mut bundle, host) = stage();
        bundle.id = format!("{}{tail}", bundle.id);
        bundle.run().ok();
        host.assert_unchanged();
    }
}

#[test]
fn an_unknown_property_is_one_warning_and_the_jail_runs() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let log = bundle.dir.join("log.json");
    bundle.set("/linux/maskedPathz", json!(["/x"])).write();
    let (dir, log_name) = (bundle.dir.to_string_lossy(), log.to_string_lossy());
    let done = bundle.call(&["--log", &log_name, "--log-format", "json", "run", "--bundle", &dir, &bundle.id]);
    assert!(done.is_ok() && done.err.is_empty(), "{done}");
    let lines = logged(&log);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0]["level"], "warning");
    assert!(lines[0]["msg"].as_str().unwrap().contains("/linux/maskedPathz"));
    bundle.set("/process/nope", 1);
    let done = bundle.run();
    assert!(done.err.lines().all(|line| line.starts_with("jail: warning: ")), "{done}");
    assert_eq!(done.err.lines().count(), 2, "one for each");
    // Known to oci-spec at this place, and to nobody else.
    bundle.set("/uidMappings", json!([{"containerID": 0, "hostID": 0, "size": 1}])).set("/gidMappings", json!([]));
    assert_eq!(bundle.run().err.lines().count(), 4, "one for each");
    host.assert_unchanged();
}

/// The specification wants a warning; a program that needs it will say so itself.
#[test]
fn a_capability_that_cannot_be_granted_is_one_warning() {
    if !require_root() || !installed("setpriv") {
        return;
    }
    let (mut bundle, host) = stage();
    let kill = json!(["CAP_KILL"]);
    let caps = json!({"bounding": ["CAP_KILL", "CAP_SYS_RESOURCE"], "permitted": kill, "effective": kill});
    bundle.set("/process/capabilities", caps);
    bundle.args(&["grep", "Cap[PEB]", "/proc/self/status"]).write();
    let mut run = Command::new("setpriv");
    run.args(["--bounding-set", "-sys_resource"]).arg(tests::jail()).arg("--root").arg(&bundle.root);
    run.args(["run", "--bundle"]).arg(&bundle.dir).arg(&bundle.id).stdin(Stdio::null());
    let done = finish(&mut run, LIMIT);
    assert!(done.is_ok() && done.out.lines().all(|line| line.ends_with("0000000000000020")), "{done}");
    assert!(done.err.contains("CAP_SYS_RESOURCE") && done.err.contains("/process/capabilities/bounding"), "{done}");
    assert_eq!(done.err.lines().count(), 1, "{done}");
    host.assert_unchanged();
}

fn logged(log: &Path) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

/// containerd and podman show their users what stands there.
#[test]
fn the_log_has_the_error_that_was_printed() {
    let (bundle, host) = stage();
    let log = bundle.dir.join("log.json");
    let log_name = log.to_string_lossy();
    let line = bundle.call(&["--log", &log_name, "--log-format", "json", "state", &bundle.id]).fails();
    let lines = logged(&log);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0]["level"], "error");
    assert_eq!(format!("jail: {}", lines[0]["msg"].as_str().unwrap()), line);
    assert!(lines[0]["time"].is_string());
    // Appended, never replaced; and as text where nobody says otherwise.
    bundle.call(&["--log", &log_name, "state", &bundle.id]).fails();
    let text = fs::read_to_string(&log).unwrap();
    let second = text.lines().nth(1).unwrap();
    assert!(second.starts_with("time=") && second.contains(" level=error msg="), "{second}");
    host.assert_unchanged();
}

#[test]
fn a_name_with_control_letters_makes_no_second_line() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let line = bundle.set("/linux/namespaces/0/type", "pid\n\u{1b}[2J").run().fails();
    assert!(line.contains("pid\\n\\u{1b}[2J"), "{line}");
    bundle.set("/linux/namespaces/0/type", "pid").set("/linux/of\nnobody", "x");
    let done = bundle.run();
    assert!(done.err.contains("/linux/of\\nnobody is ignored") && done.is_ok(), "{done}");
    left_nothing(&bundle, &host);
}

#[test]
fn a_log_that_cannot_be_written_is_one_line_of_error() {
    let (bundle, host) = stage();
    let line = bundle.call(&["--log", "/no/such/folder/log", "list"]).fails();
    assert!(line.starts_with("jail: cannot ") && line.contains("/no/such/folder/log"), "{line}");
    host.assert_unchanged();
}
