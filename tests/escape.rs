//! Ways out of a jail: the runtime's own program, descriptors, its sockets, and whoever joins the jail.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::Duration;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use tests::{Bundle, Runtime, jail, require_root, tree};

#[test]
fn the_program_file_of_the_runtime_cannot_be_opened_for_writing() {
    if !require_root() {
        return;
    }
    // A copy that only this test runs: a file that is running cannot be written to by anybody.
    let place = Bundle::new();
    let copy = place.dir.join("copy");
    fs::copy(jail(), &copy).unwrap();
    let mut bundle = Bundle::of(Runtime::of(&copy.to_string_lossy()));
    bundle.args(&["sleep", "1000"]).create().ok();
    let exe = format!("/proc/{}/exe", bundle.pid().unwrap());
    let held = open(exe.as_str(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
    assert_eq!(fs::metadata(&exe).unwrap().ino(), fs::metadata(&copy).unwrap().ino());
    bundle.delete_force().ok();
    // The file itself can be written to by now, by its own name.
    drop(fs::OpenOptions::new().append(true).open(&copy).unwrap());
    let again = format!("/proc/self/fd/{}", held.as_raw_fd());
    for flags in [OFlag::O_WRONLY, OFlag::O_RDWR, OFlag::O_WRONLY | OFlag::O_TRUNC] {
        assert_eq!(open(again.as_str(), flags, Mode::empty()).unwrap_err(), nix::Error::EROFS);
    }
}

/// CVE-2019-5736: what runs is the runtime itself, because the image says so; some process of the jail writes to it.
#[test]
fn a_program_that_is_the_runtime_itself_gives_no_way_to_write_to_it() {
    if !require_root() {
        return;
    }
    let place = Bundle::new();
    let copy = place.dir.join("copy");
    fs::copy(jail(), &copy).unwrap();
    let before = tree(&place.dir).into_iter().find(|line| line.contains("/copy")).unwrap();
    let again = |bundle: &Bundle| {
        let script = bundle.rootfs().join("bin/again");
        fs::write(&script, "#!/proc/self/exe\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let mut bundle = Bundle::of(Runtime::of(&copy.to_string_lossy()));
    again(&bundle);
    // Holds what runs and is not busybox, and writes to it when it has ended.
    let watch = "while :; do for p in /proc/[0-9]*; do case $(readlink $p/exe) in */busybox|'') ;; *) \
        (exec 9<$p/exe && echo >> /tmp/held && sleep 1 && echo x > /proc/self/fd/9 && echo >> /tmp/written) & ;; \
        esac; done; done 2>/dev/null";
    bundle.args(&["sh", "-c", watch]).create().ok();
    bundle.start().ok();
    let held = bundle.rootfs().join("tmp/held");
    for _ in 0..200 {
        bundle.exec(&["again"]);
        bundle.exec(&["/proc/self/exe", "list"]);
        if held.exists() {
            break;
        }
    }
    std::thread::sleep(Duration::from_millis(1500));
    bundle.delete_force().ok();
    println!("held while it ran: {}", held.exists());
    assert!(!bundle.rootfs().join("tmp/written").exists());
    for words in [&["again"][..], &["/proc/self/exe", "list"]] {
        assert!(!bundle.args(words).run().hung());
    }
    assert_eq!(tree(&place.dir).into_iter().find(|line| line.contains("/copy")).unwrap(), before);
}

/// CVE-2024-21626.
#[test]
fn a_working_directory_by_descriptor_is_inside_or_refused() {
    if !require_root() {
        return;
    }
    let mut bundle = Bundle::new();
    fs::write(bundle.rootfs().join("inside"), "").unwrap();
    let dir = bundle.dir.to_string_lossy().into_owned();
    for number in 3..64 {
        let cwd = format!("/proc/self/fd/{number}");
        bundle.set("/process/cwd", cwd).args(&["ls"]).write();
        let done = bundle.careless(&["run", "--bundle", &dir, &bundle.id]);
        assert!(!done.is_ok() || done.out.lines().any(|line| line == "inside"), "{number}: {done}");
    }
    bundle.set("/process/cwd", "/").start_sleeper();
    for number in 3..64 {
        let done = bundle.careless(&["exec", "--cwd", &format!("/proc/self/fd/{number}"), &bundle.id, "ls"]);
        assert!(!done.is_ok() || done.out.lines().any(|line| line == "inside"), "{number}: {done}");
    }
    // The same by a link of the image.
    symlink("/proc/self/fd/3/..", bundle.rootfs().join("way")).unwrap();
    let done = bundle.exec(&["true"]);
    assert!(done.is_ok(), "{done}");
    let done = bundle.call(&["exec", "--cwd", "/way", &bundle.id, "ls"]);
    assert!(!done.is_ok() || done.out.lines().any(|line| line == "inside"), "{done}");
}

/// The same class by the program's path: a link of the image through a descriptor that process 1 still has. What would
/// run is a file of the host, which the jail could then open for writing by /proc/PID/exe.
#[test]
fn no_program_of_the_host_runs_by_way_of_a_descriptor() {
    if !require_root() {
        return;
    }
    let mut bundle = Bundle::new();
    let host = bundle.dir.join("host");
    fs::create_dir(&host).unwrap();
    fs::copy("/bin/busybox", host.join("busybox")).unwrap();
    let dir = bundle.dir.to_string_lossy().into_owned();
    let mut ran = Vec::new();
    let mut running = Bundle::new();
    running.start_sleeper();
    for number in 3..30 {
        for up in ["host", "../host", "../../host"] {
            let path = format!("/proc/self/fd/{number}/{up}/busybox");
            bundle.args(&[&path, "readlink", "/proc/self/exe"]).write();
            let done = bundle.careless(&["run", "--bundle", &dir, &bundle.id]);
            if done.out.contains("host") {
                ran.push(format!("run {path}"));
            }
        }
        // The image's own link, and exec.
        let folder = running.rootfs().join(format!("way{number}"));
        fs::create_dir(&folder).unwrap();
        symlink(format!("/proc/self/fd/{number}/../host/busybox"), folder.join("busybox")).unwrap();
        fs::create_dir_all(running.dir.join("host")).unwrap();
        fs::copy("/bin/busybox", running.dir.join("host/busybox")).unwrap();
        let path = format!("/way{number}/busybox");
        let done = running.careless(&["exec", &running.id, &path, "readlink", "/proc/self/exe"]);
        if done.out.contains("host") {
            ran.push(format!("exec {path}"));
        }
    }
    assert!(ran.is_empty(), "ran: {ran:#?}");
}

#[test]
fn a_created_jail_holds_no_folder_of_the_host() {
    if !require_root() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.args(&["sleep", "1000"]).write();
    let dir = bundle.dir.to_string_lossy().into_owned();
    bundle.careless(&["create", "--bundle", &dir, &bundle.id]).ok();
    let pid = bundle.pid().unwrap();
    let root = fs::metadata(format!("/proc/{pid}/root")).unwrap();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        let data = fs::metadata(entry.path());
        let folder =
            data.as_ref().is_ok_and(|data| data.is_dir() && (data.dev(), data.ino()) != (root.dev(), root.ino()));
        assert!(!folder, "{} -> {}", entry.path().display(), fs::read_link(entry.path()).unwrap().display());
    }
}

#[test]
fn a_jail_in_the_network_of_the_host_sees_no_abstract_socket_of_the_runtime() {
    if !require_root() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|space| space["type"] != "network");
    let abstracts = || -> Vec<String> {
        let text = fs::read_to_string("/proc/net/unix").unwrap();
        let names = text.lines().filter_map(|line| line.split_whitespace().nth(7));
        names.filter(|name| name.starts_with('@')).map(str::to_string).collect()
    };
    let before = abstracts();
    bundle.args(&["sleep", "1000"]).create().ok();
    let new: Vec<String> = abstracts().into_iter().filter(|name| !before.contains(name)).collect();
    assert!(!new.iter().any(|name| name.contains("jail") || name.contains(&bundle.id)), "{new:?}");
    assert_eq!(fs::metadata(bundle.root.join(&bundle.id)).unwrap().mode() & 0o777, 0o700);
}

/// Seizes every process of the jail that comes after it, and looks what that one has of the host.
const TRACER: &str = r#"
my ($last, $mine, $end) = ($$, 0, time + 6);
open(my $s, '<', '/proc/self/status'); while (<$s>) { $mine = hex($1) if /^CapEff:\s*(\S+)/; }
$| = 1; print "ready\n";
while (time < $end) {
    for my $p ($last + 1 .. $last + 12) {
        if (open(my $f, '<', "/proc/$p/root$ENV{SENTINEL}")) { print "ROOT ", scalar <$f>, "\n"; }
        if (syscall(101, 0x4206, $p, 0, 0) == 0) {
            if (open(my $f, '<', "/proc/$p/environ")) { local $/; my $e = <$f>; print "ENV\n" if $e =~ /OF_THE_HOST/; }
            if (open(my $f, '<', "/proc/$p/status")) { while (<$f>) { print "CAPS $_" if /^CapEff:\s*(\S+)/ && hex($1) & ~$mine; } }
            if (open(my $f, '<', "/proc/$p/root$ENV{SENTINEL}")) { print "ROOT ", scalar <$f>, "\n"; }
            syscall(101, 0x4207, $p, 0, 0); waitpid($p, 0x40000000); syscall(101, 17, $p, 0, 0);
        }
        $last = $p - 1 if kill(0, $p) && $p > $last + 6;
    }
    if (opendir(my $d, '/proc')) { for (readdir $d) { $last = $_ - 1 if /^\d+$/ && $_ > $last + 1; } }
}
print "end\n";
"#;

/// What the tracer met while as many programs as possible were started by `exec`.
fn trace_execs(caps: &[&str]) -> String {
    let mut bundle = Bundle::new();
    let secret = bundle.sentinel().join("file");
    bundle.perl(TRACER);
    bundle.capabilities(caps);
    bundle.set("/process/env/-", format!("SENTINEL={}", secret.display())).write();
    let dir = bundle.dir.to_string_lossy().into_owned();
    let traced = std::thread::scope(|scope| {
        let run = scope.spawn(|| bundle.call(&["run", "--bundle", &dir, &bundle.id]));
        bundle.becomes("running");
        let mut execs = 0;
        while !run.is_finished() {
            execs += usize::from(bundle.careless(&["exec", &bundle.id, "true"]).is_ok());
        }
        println!("{execs} execs");
        run.join().unwrap()
    });
    let out = traced.ok();
    assert!(out.ends_with("end\n"), "{out}");
    out
}

/// CVE-2016-9962.
#[test]
fn a_tracer_in_the_jail_cannot_look_into_what_joins_it() {
    if !require_root() {
        return;
    }
    let caps = ["CAP_KILL", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_SETUID", "CAP_SYS_ADMIN", "CAP_NET_ADMIN"];
    let out = trace_execs(&caps);
    assert!(!out.contains("ROOT") && !out.contains("ENV") && !out.contains("CAPS"), "{out}");
}

/// With CAP_SYS_PTRACE in the host's own user name space a process may look into any that it sees. So it must see none
/// that has more than the program of `exec` has.
#[test]
fn a_tracer_with_sys_ptrace_meets_nothing_of_the_host_either() {
    if !require_root() {
        return;
    }
    let out = trace_execs(&["CAP_SYS_PTRACE", "CAP_KILL", "CAP_DAC_OVERRIDE", "CAP_SETUID"]);
    assert!(!out.contains("ROOT") && !out.contains("ENV") && !out.contains("CAPS"), "{out}");
}
