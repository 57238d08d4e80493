//! The bare floor of the benchmark: the kernel calls that no correct runtime can leave out for `run true`, in order.
//!
//! `floor minimal|full ROOTFS [--seccomp FILE]`, with FILE a compiled BPF program (`struct sock_filter` after another).
//!
//! It reads no configuration, keeps no state, resolves nothing, checks nothing and undoes nothing: it is no runtime.
//! Two choices keep it as low as it can be: it pivots first and mounts afterwards by plain mount(2), since a path
//! cannot leave the new root then; and on cgroup v1 it enters the hierarchies while the child mounts.

use std::ffi::CStr;
use std::io::Error;

use libc::c_long;

/// The cgroup v1 hierarchies of the machines we measure on; one that is not mounted is passed over.
const HIERARCHIES: [&str; 9] = ["cpuset", "cpu", "cpuacct", "memory", "devices", "freezer", "blkio", "pids", "systemd"];

/// The device rules of every default container: all denied, then these.
const DEVICES: [&str; 10] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

/// `/dev/NAME`, major, minor.
const NODES: [(&CStr, u32, u32); 6] = [
    (c"/dev/null", 1, 3),
    (c"/dev/zero", 1, 5),
    (c"/dev/full", 1, 7),
    (c"/dev/random", 1, 8),
    (c"/dev/urandom", 1, 9),
    (c"/dev/tty", 5, 0),
];

const LINKS: [(&CStr, &CStr); 5] = [
    (c"/proc/self/fd", c"/dev/fd"),
    (c"/proc/self/fd/0", c"/dev/stdin"),
    (c"/proc/self/fd/1", c"/dev/stdout"),
    (c"/proc/self/fd/2", c"/dev/stderr"),
    (c"pts/ptmx", c"/dev/ptmx"),
];

const MASKED: [&CStr; 10] = [
    c"/proc/asound",
    c"/proc/acpi",
    c"/proc/kcore",
    c"/proc/keys",
    c"/proc/latency_stats",
    c"/proc/timer_list",
    c"/proc/timer_stats",
    c"/proc/sched_debug",
    c"/proc/scsi",
    c"/sys/firmware",
];

const READ_ONLY: [&CStr; 5] = [c"/proc/bus", c"/proc/fs", c"/proc/irq", c"/proc/sys", c"/proc/sysrq-trigger"];

/// The 14 capabilities of a default container, as bits.
const KEPT: u64 = 0xa804_25fb;

const NOTHING: usize = 0;
const HERE: usize = libc::AT_FDCWD as usize;
const NO_SUID: u64 = libc::MS_NOSUID;
const QUIET: u64 = libc::MS_NOSUID | libc::MS_NOEXEC | libc::MS_NODEV;

/// One kernel call. An error in IGNORED gives none; any other ends the program with the name of the call.
fn call(what: &str, number: c_long, args: &[usize], ignored: &[i32]) -> Option<usize> {
    let arg = |at: usize| args.get(at).copied().unwrap_or(NOTHING);
    // SAFETY: every pointer passed is to memory that lives during the call: literals and locals of the callers.
    let result = unsafe { libc::syscall(number, arg(0), arg(1), arg(2), arg(3), arg(4), arg(5)) };
    if let Ok(value) = usize::try_from(result) {
        return Some(value);
    }
    let error = Error::last_os_error();
    if ignored.contains(&error.raw_os_error().unwrap_or(0)) {
        return None;
    }
    eprintln!("floor: {what}: {error}");
    std::process::exit(1)
}

fn must(what: &str, number: c_long, args: &[usize]) -> usize {
    call(what, number, args, &[]).unwrap_or(NOTHING)
}

fn at(text: &CStr) -> usize {
    text.as_ptr() as usize
}

fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: u64, data: &CStr) {
    let args = [at(source), at(target), at(kind), flags as usize, at(data)];
    must(&format!("mount {}", target.to_string_lossy()), libc::SYS_mount, &args);
}

struct Asked {
    full: bool,
    root: std::ffi::CString,
    filter: Vec<u8>,
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let (kind, root) = match &words[..] {
        [_, kind, root, ..] => (kind, root),
        _ => return eprintln!("usage: floor minimal|full ROOTFS [--seccomp FILE]"),
    };
    // open, fstat, read, close: a runtime reads its compiled filter too.
    let filter = words.get(4).map(|file| std::fs::read(file).expect("the compiled filter")).unwrap_or_default();
    let asked = Asked { full: kind == "full", root: std::ffi::CString::new(root.as_str()).expect("a path"), filter };
    // statfs: which cgroup layout this is.
    if nix::sys::statfs::statfs("/sys/fs/cgroup")
        .is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::CGROUP2_SUPER_MAGIC)
    {
        on_v2(&asked)
    } else {
        on_v1(&asked)
    }
}

fn on_v2(asked: &Asked) {
    let folder = cgroup("/sys/fs/cgroup");
    must("mkdir cgroup", libc::SYS_mkdir, &[at(&folder), 0o755]);
    let flags = libc::O_DIRECTORY | libc::O_CLOEXEC;
    let cgroup = must("open cgroup", libc::SYS_open, &[at(&folder), flags as usize]);
    if asked.full {
        restrict_devices_v2(cgroup);
    }
    let pidfd = clone(asked, Some(cgroup), &[]);
    end(pidfd, &[folder]);
}

fn on_v1(asked: &Asked) {
    let mut folders = Vec::new();
    for hierarchy in HIERARCHIES {
        let folder = cgroup(&format!("/sys/fs/cgroup/{hierarchy}"));
        // mkdir in each hierarchy
        if call("mkdir cgroup", libc::SYS_mkdir, &[at(&folder), 0o755], &[libc::ENOENT]).is_some() {
            if hierarchy == "cpuset" {
                // A new cpuset has no processor and no memory, and nothing can enter it so.
                copy("/sys/fs/cgroup/cpuset/cpuset.cpus", &folder, "cpuset.cpus");
                copy("/sys/fs/cgroup/cpuset/cpuset.mems", &folder, "cpuset.mems");
            }
            if hierarchy == "devices" && asked.full {
                write(&folder, "devices.deny", &["a"]);
                write(&folder, "devices.allow", &DEVICES);
            }
            folders.push(folder);
        }
    }
    // open tasks of each: the child moves itself, since a write of another's number waits for all processors.
    let tasks: Vec<usize> = folders
        .iter()
        .map(|folder| {
            let path = format!("{}/tasks\0", folder.to_string_lossy());
            let flags = libc::O_WRONLY | libc::O_CLOEXEC;
            must(&path, libc::SYS_open, &[path.as_ptr() as usize, flags as usize])
        })
        .collect();
    let pidfd = clone(asked, None, &tasks);
    end(pidfd, &folders);
}

fn cgroup(parent: &str) -> std::ffi::CString {
    std::ffi::CString::new(format!("{parent}/jail-floor-{}", std::process::id())).expect("a path")
}

/// open, write each text, close.
fn write(folder: &CStr, file: &str, texts: &[&str]) {
    let path = format!("{}/{file}\0", folder.to_string_lossy());
    let flags = libc::O_WRONLY | libc::O_CLOEXEC;
    let file = must(&path, libc::SYS_open, &[path.as_ptr() as usize, flags as usize]);
    for text in texts {
        must(&path, libc::SYS_write, &[file, text.as_ptr() as usize, text.len()]);
    }
    must(&path, libc::SYS_close, &[file]);
}

/// open, read, close, and the same to write it again.
fn copy(from: &str, folder: &CStr, file: &str) {
    let text = std::fs::read_to_string(from).unwrap_or_default();
    write(folder, file, &[&text]);
}

/// Loads a device program and attaches it. It allows everything: the cost is in the two calls, not in the rules.
fn restrict_devices_v2(cgroup: usize) {
    const BPF_PROG_LOAD: usize = 5;
    const BPF_PROG_ATTACH: usize = 8;
    const CGROUP_DEVICE_PROGRAM: u32 = 15;
    const CGROUP_DEVICE_ATTACH: u32 = 6;
    // r0 = 1; exit
    let program: [u64; 2] = [0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];
    let mut load = [0_u64; 16];
    load[0] = u64::from(CGROUP_DEVICE_PROGRAM) | (program.len() as u64) << 32;
    load[1] = program.as_ptr() as u64;
    load[2] = c"GPL".as_ptr() as u64;
    let program = must("bpf load", libc::SYS_bpf, &[BPF_PROG_LOAD, load.as_ptr() as usize, size_of_val(&load)]);
    let attach = [cgroup as u32, program as u32, CGROUP_DEVICE_ATTACH, 0];
    must("bpf attach", libc::SYS_bpf, &[BPF_PROG_ATTACH, attach.as_ptr() as usize, size_of_val(&attach)]);
}

/// One clone3 with every name space; gives the child's pidfd.
fn clone(asked: &Asked, cgroup: Option<usize>, tasks: &[usize]) -> i32 {
    const INTO_CGROUP: u64 = 0x2_0000_0000;
    const SPACES: i32 =
        libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWNET;
    let mut pidfd = -1_i32;
    let mut flags = SPACES as u64 | libc::CLONE_PIDFD as u64;
    let mut args = [0_u64; 11];
    if let Some(cgroup) = cgroup {
        flags |= INTO_CGROUP;
        args[10] = cgroup as u64;
        if asked.full {
            flags |= libc::CLONE_NEWCGROUP as u64;
        }
    }
    args[0] = flags;
    args[1] = &raw mut pidfd as u64;
    args[4] = libc::SIGCHLD as u64;
    let pid = must("clone3", libc::SYS_clone3, &[args.as_ptr() as usize, size_of_val(&args)]);
    if pid == 0 {
        child(asked, tasks);
    }
    pidfd
}

/// waitid on the pidfd, then rmdir of every cgroup.
fn end(pidfd: i32, folders: &[std::ffi::CString]) {
    let mut info = [0_u64; 16];
    let args = [libc::P_PIDFD as usize, pidfd as usize, info.as_mut_ptr() as usize, libc::WEXITED as usize];
    must("waitid", libc::SYS_waitid, &args);
    for folder in folders {
        must("rmdir cgroup", libc::SYS_rmdir, &[at(folder)]);
    }
    // si_status lies behind signo, errno, code, padding, pid and uid.
    let code = (info[3] & 0xffff_ffff) as i32;
    std::process::exit(code);
}

fn child(asked: &Asked, tasks: &[usize]) -> ! {
    must("prctl pdeathsig", libc::SYS_prctl, &[libc::PR_SET_PDEATHSIG as usize, libc::SIGKILL as usize]);
    must("prctl dumpable", libc::SYS_prctl, &[libc::PR_SET_DUMPABLE as usize, 0]);
    must("setsid", libc::SYS_setsid, &[]);
    must("keyctl", libc::SYS_keyctl, &[1, at(c"floor")]);
    must("sethostname", libc::SYS_sethostname, &[at(c"jail"), 4]);
    must("umask", libc::SYS_umask, &[0]);
    pivot(&asked.root);
    mount(c"proc", c"/proc", c"proc", 0, c"");
    mount(c"tmpfs", c"/dev", c"tmpfs", NO_SUID, c"mode=755");
    if asked.full {
        default_mounts();
    }
    devices();
    for file in tasks {
        // 0 is the writer.
        must("enter a cgroup", libc::SYS_write, &[*file, at(c"0"), 1]);
    }
    if asked.full && !tasks.is_empty() {
        // On v1 the name space can only be made once the process is where its root is to be.
        must("unshare", libc::SYS_unshare, &[libc::CLONE_NEWCGROUP as usize]);
    }
    if asked.full {
        if !tasks.is_empty() {
            cgroup_mounts_v1()
        } else {
            mount(c"cgroup", c"/sys/fs/cgroup", c"cgroup2", QUIET | libc::MS_RDONLY, c"")
        }
        hide();
        confine(asked);
    }
    must("close_range", libc::SYS_close_range, &[3, u32::MAX as usize, libc::CLOSE_RANGE_CLOEXEC as usize]);
    if !asked.filter.is_empty() {
        filter(&asked.filter);
    }
    let args = [at(c"true"), NOTHING];
    let env = [at(c"PATH=/usr/sbin:/usr/bin:/sbin:/bin"), NOTHING];
    must("execve", libc::SYS_execve, &[at(c"/bin/true"), args.as_ptr() as usize, env.as_ptr() as usize]);
    std::process::exit(1)
}

/// The root by descriptor: mounts private, open_tree, move_mount onto itself, fchdir, pivot_root, umount, and the
/// work folder is inside.
fn pivot(root: &CStr) {
    let private = libc::MS_REC | libc::MS_PRIVATE;
    must("mounts private", libc::SYS_mount, &[NOTHING, at(c"/"), NOTHING, private as usize, NOTHING]);
    let copy = libc::OPEN_TREE_CLONE as usize | libc::OPEN_TREE_CLOEXEC as usize | libc::AT_RECURSIVE as usize;
    let tree = must("open_tree", libc::SYS_open_tree, &[HERE, at(root), copy]);
    let from_fd = libc::MOVE_MOUNT_F_EMPTY_PATH as usize;
    must("move_mount", libc::SYS_move_mount, &[tree, at(c""), HERE, at(root), from_fd]);
    must("fchdir", libc::SYS_fchdir, &[tree]);
    must("pivot_root", libc::SYS_pivot_root, &[at(c"."), at(c".")]);
    must("umount", libc::SYS_umount2, &[at(c"."), libc::MNT_DETACH as usize]);
    must("chdir", libc::SYS_chdir, &[at(c"/")]);
}

fn default_mounts() {
    for folder in [c"/dev/pts", c"/dev/shm", c"/dev/mqueue"] {
        must("mkdir", libc::SYS_mkdir, &[at(folder), 0o755]);
    }
    let no_exec = libc::MS_NOSUID | libc::MS_NOEXEC;
    mount(c"devpts", c"/dev/pts", c"devpts", no_exec, c"newinstance,ptmxmode=0666,mode=0620,gid=5");
    mount(c"shm", c"/dev/shm", c"tmpfs", QUIET, c"mode=1777,size=65536k");
    mount(c"mqueue", c"/dev/mqueue", c"mqueue", QUIET, c"");
    mount(c"sysfs", c"/sys", c"sysfs", QUIET | libc::MS_RDONLY, c"");
}

fn devices() {
    for (path, major, minor) in NODES {
        let device = libc::makedev(major, minor) as usize;
        must("mknod", libc::SYS_mknod, &[at(path), (libc::S_IFCHR | 0o666) as usize, device]);
    }
    for (target, path) in LINKS {
        must("symlink", libc::SYS_symlink, &[at(target), at(path)]);
    }
}

/// A tmpfs, a folder and a mount per hierarchy, and the tmpfs read-only.
fn cgroup_mounts_v1() {
    mount(c"cgroup", c"/sys/fs/cgroup", c"tmpfs", QUIET, c"mode=755");
    for hierarchy in HIERARCHIES {
        let folder = std::ffi::CString::new(format!("/sys/fs/cgroup/{hierarchy}")).expect("a path");
        let data = if hierarchy == "systemd" { "none,name=systemd" } else { hierarchy };
        let data = std::ffi::CString::new(data).expect("options");
        must("mkdir", libc::SYS_mkdir, &[at(&folder), 0o755]);
        let args = [at(c"cgroup"), at(&folder), at(c"cgroup"), (QUIET | libc::MS_RDONLY) as usize, at(&data)];
        call("mount cgroup", libc::SYS_mount, &args, &[libc::ENOENT, libc::EINVAL]);
    }
    mount(c"", c"/sys/fs/cgroup", c"", QUIET | libc::MS_RDONLY | libc::MS_REMOUNT | libc::MS_BIND, c"");
}

/// Masked paths, read-only paths, read-only root. A path that this kernel does not have is passed over.
fn hide() {
    for path in MASKED {
        let bind = [at(c"/dev/null"), at(path), NOTHING, libc::MS_BIND as usize, NOTHING];
        if call("mask", libc::SYS_mount, &bind, &[libc::ENOENT, libc::ENOTDIR]).is_none() {
            // A folder, if it is there at all: an empty one lies over it.
            let args = [at(c"tmpfs"), at(path), at(c"tmpfs"), libc::MS_RDONLY as usize, NOTHING];
            call("mask", libc::SYS_mount, &args, &[libc::ENOENT]);
        }
    }
    let read_only: [u64; 4] = [libc::MOUNT_ATTR_RDONLY, 0, 0, 0];
    let attributes = [read_only.as_ptr() as usize, size_of_val(&read_only)];
    for path in READ_ONLY {
        let bind = [at(path), at(path), NOTHING, (libc::MS_BIND | libc::MS_REC) as usize, NOTHING];
        if call("bind", libc::SYS_mount, &bind, &[libc::ENOENT]).is_some() {
            let args = [HERE, at(path), libc::AT_RECURSIVE as usize, attributes[0], attributes[1]];
            must("read-only", libc::SYS_mount_setattr, &args);
        }
    }
    must("read-only root", libc::SYS_mount_setattr, &[HERE, at(c"/"), NOTHING, attributes[0], attributes[1]]);
}

/// rlimit, groups, the bounding set one by one, the other sets at once, no_new_privs.
fn confine(asked: &Asked) {
    let limit = [1024_u64, 1024];
    must("prlimit", libc::SYS_prlimit64, &[0, libc::RLIMIT_NOFILE as usize, limit.as_ptr() as usize]);
    must("setgroups", libc::SYS_setgroups, &[0]);
    for capability in (0..41).filter(|capability| KEPT >> capability & 1 == 0) {
        must("capbset", libc::SYS_prctl, &[libc::PR_CAPBSET_DROP as usize, capability]);
    }
    let header = [0x2008_0522_u32, 0];
    let kept = KEPT as u32;
    let sets = [kept, kept, 0, 0, 0, 0];
    must("capset", libc::SYS_capset, &[header.as_ptr() as usize, sets.as_ptr() as usize]);
    if !asked.filter.is_empty() {
        must("no_new_privs", libc::SYS_prctl, &[libc::PR_SET_NO_NEW_PRIVS as usize, 1]);
    }
}

fn filter(program: &[u8]) {
    let length = program.len() / 8;
    let descriptor = [length, program.as_ptr() as usize];
    must("seccomp", libc::SYS_seccomp, &[libc::SECCOMP_SET_MODE_FILTER as usize, 0, descriptor.as_ptr() as usize]);
}
