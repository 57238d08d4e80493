//! The program's entry point, before libc: a verb that enters a jail starts again from a read-only clone of its own file.
//!
//! Why it is done is in `runtime/src/protect.rs`, which also refuses to go on where it was not done. Why it is done here:
//! the start of libc costs a third of a millisecond on a virtual machine, since it asks the processor for its caches some
//! hundred times (CPUID), and each answer comes from the hypervisor. The first of the two starts can do without.
//!
//! Nothing of libc works yet: no thread-local storage (so no errno), and no memcpy(3) or strlen(3), whose variants libc has
//! still to choose. The compiler makes such calls out of plain loops, so bytes are read by volatile reads. Source of what
//! lies on the stack: the System V ABI for x86-64, 3.4.1, and execve(2).

use std::ffi::{CStr, CString, c_char};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStringExt;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;

/// Makes a function that returns the exit code the whole of the program.
///
/// libc calls it without the start of Rust's library, which looks for the guard page of the stack in /proc/self/maps and
/// prepares to tell of an overflow: 17 system calls. [`begin`] does what of it matters.
#[macro_export]
macro_rules! program {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn main(_count: i32, _words: *const *const std::ffi::c_char) -> i32 {
            $crate::entry::begin();
            let code: u8 = $main();
            // Nothing is left to be done for what nobody reads any more.
            let _ = std::io::Write::flush(&mut std::io::stdout());
            code.into()
        }
    };
}

/// Sees to it that 0, 1 and 2 are open, so that no other file gets these numbers; that a reader who has gone away is an
/// error of write(2) and no death in the middle of a jail's making; and that children wait until they are waited for, also
/// where the caller ignores SIGCHLD.
pub fn begin() {
    for fd in 0..=2 {
        // SAFETY: no memory of ours is passed but a C string; a new descriptor takes the lowest number, which is this one.
        unsafe {
            let is_closed = libc::fcntl(fd, libc::F_GETFD) < 0 && Errno::last() == Errno::EBADF;
            if is_closed && libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) != fd {
                libc::abort();
            }
        }
    }
    // SAFETY: neither runs code of ours.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
    }
}

/// In the environment of the second start only. A caller who sets it gains nothing: the mount is looked at as well.
const MARK: &CStr = c"_JAIL_READ_ONLY=1";
/// Its name.
const NAME: &str = "_JAIL_READ_ONLY";

/// What of the caller's environment the runtime itself uses. The rest, which may hold secrets, does not come along.
const KEPT: [&CStr; 8] = [
    c"TERM=",
    c"LISTEN_FDS=",
    c"LISTEN_FDNAMES=",
    c"LISTEN_PID=",
    c"NOTIFY_SOCKET=",
    c"WATCHDOG_PID=",
    c"WATCHDOG_USEC=",
    c"XDG_RUNTIME_DIR=",
];

/// The verbs that enter a jail. As a word at any place: said too often it costs half a millisecond.
const VERBS: [&CStr; 3] = [c"create", c"run", c"exec"];

/// Why the second start did not come about: an errno, or 0.
static REFUSED: AtomicI32 = AtomicI32::new(0);

/// In the environment of a start in a user name space that this program made for a caller who is not root
/// (`runtime/src/prelude.rs`). A caller who sets it has only his own numbers read in another way.
const MAPPED: &CStr = c"_JAIL_MAPPED=1";

/// Whether this is such a start.
pub fn is_mapped() -> bool {
    std::env::var_os("_JAIL_MAPPED").is_some()
}

/// Starts the program again from a read-only clone of its own file, as the entry point does, where that was refused and
/// may be allowed by now; `mapped` where the user name space was made for it. Comes back with the reason only.
pub fn again(mapped: bool) -> nix::Error {
    const EXE: &str = "/proc/self/exe";
    let text = |bytes: Vec<u8>| CString::new(bytes).map_err(|_| Errno::EINVAL);
    let start = || -> nix::Result<std::convert::Infallible> {
        // The file that runs is on a mount of the name space that was left, of which nothing can be cloned.
        let (here, running) = (text(nix::fcntl::readlink(EXE)?.into_vec())?, nix::sys::stat::stat(EXE)?);
        let tree = crate::mount::clone_tree(nix::fcntl::AT_FDCWD, &here, false)?;
        let found = nix::sys::stat::fstat(&tree)?;
        if (found.st_dev, found.st_ino) != (running.st_dev, running.st_ino) {
            return Err(Errno::ESTALE);
        }
        let attr = crate::mount::MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..Default::default() };
        crate::mount::mount_setattr(&tree, false, &attr)?;
        let words = std::env::args_os().map(|word| text(word.into_vec())).collect::<nix::Result<Vec<_>>>()?;
        let kept = KEPT.iter().filter_map(|name| {
            let value = std::env::var_os(name.to_str().ok()?.trim_end_matches('='))?;
            Some(text([name.to_bytes(), value.as_encoded_bytes()].concat()))
        });
        let marks = std::iter::once(MARK).chain(mapped.then_some(MAPPED)).map(|mark| Ok(mark.to_owned()));
        let environment = marks.chain(kept).collect::<nix::Result<Vec<_>>>()?;
        nix::unistd::execveat(&tree, c"", &words, &environment, nix::fcntl::AtFlags::AT_EMPTY_PATH)
    };
    match start() {
        Ok(never) => match never {},
        Err(errno) => errno,
    }
}

/// Whether this is the second start, from the clone.
///
/// # Errors
/// Why there is none.
pub fn is_second_start() -> nix::Result<bool> {
    match REFUSED.load(Ordering::Relaxed) {
        0 => Ok(std::env::var_os(NAME).is_some()),
        errno => Err(Errno::from_raw(errno)),
    }
}

#[cfg(not(target_arch = "x86_64"))]
compile_error!("the entry point is written for x86-64; another processor needs its own `jail_entry` and `call`");

// The kernel's first instruction of ours; cli/build.rs tells the linker. The stack pointer is 16-aligned and leads to the
// words; libc's own entry point gets it as it was, and zero in rdx, which is a function to call at exit.
core::arch::global_asm!(
    ".globl jail_entry",
    ".type jail_entry, @function",
    "jail_entry:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "call {start_again}",
    "xor edx, edx",
    "jmp _start",
    start_again = sym start_again,
);

/// One system call; the answer is the kernel's own, a negative errno where it refuses.
///
/// # Safety
/// As the system call.
unsafe fn call(number: i64, args: [usize; 5]) -> isize {
    let answer;
    // SAFETY: the caller's; the kernel changes no register but rax, rcx and r11.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => answer,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2], in("r10") args[3], in("r8") args[4],
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    answer
}

/// Comes back where there is nothing to do, and where it was refused.
unsafe extern "C" fn start_again(stack: *const usize) {
    // SAFETY: the stack of a new program, as the ABI has it: the count of the words, the words, null, the environment,
    // null. All of it lives as long as the program.
    let refused = unsafe {
        let words = stack.add(1).cast::<*const c_char>();
        let environment = words.add(*stack + 1);
        if find(environment, MARK, false).is_some() || !VERBS.iter().any(|verb| find(words, verb, true).is_some()) {
            return;
        }
        clone_and_execute(words, environment)
    };
    REFUSED.store(-refused as i32, Ordering::Relaxed);
}

/// open_tree(2), mount_setattr(2), execveat(2). Comes back with a negative errno only.
///
/// # Safety
/// Both lists end with null.
unsafe fn clone_and_execute(words: *const *const c_char, environment: *const *const c_char) -> isize {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    let address = |text: &CStr| text.as_ptr() as usize;
    // What is set, what is cleared, propagation, user name space: struct mount_attr.
    let attr = [libc::MOUNT_ATTR_RDONLY, 0, 0, 0];
    // The mark, what is kept, and null: written one by one, since a list that begins as anything is a call of memcpy(3).
    let mut list = MaybeUninit::<[*const c_char; KEPT.len() + 2]>::uninit();
    let kept = list.as_mut_ptr().cast::<*const c_char>();
    let mut next = 1;
    // SAFETY: every string and array outlives its call, and each array has the length that the kernel is told.
    unsafe {
        kept.write_volatile(MARK.as_ptr());
        for name in &KEPT {
            if let Some(line) = find(environment, name, false) {
                kept.add(next).write_volatile(line);
                next += 1;
            }
        }
        kept.add(next).write_volatile(std::ptr::null());
        let file = address(c"/proc/self/exe");
        let tree = call(libc::SYS_open_tree, [libc::AT_FDCWD as usize, file, flags as usize, 0, 0]);
        if tree < 0 {
            return tree;
        }
        let (tree, empty) = (tree as usize, libc::AT_EMPTY_PATH as usize);
        let here = address(c"");
        let set = call(libc::SYS_mount_setattr, [tree, here, empty, (&raw const attr) as usize, size_of_val(&attr)]);
        if set < 0 {
            return set;
        }
        call(libc::SYS_execveat, [tree, here, words as usize, kept as usize, empty])
    }
}

/// The first string of `list` that begins with `text`, or is `text` where it must be the `whole`.
///
/// # Safety
/// The list ends with null.
unsafe fn find(list: *const *const c_char, text: &CStr, whole: bool) -> Option<*const c_char> {
    let text = text.as_ptr();
    let mut at = 0;
    loop {
        // SAFETY: not beyond the null of the list, and in the strings not beyond the first that differs or ends.
        unsafe {
            let line = *list.add(at);
            if line.is_null() {
                return None;
            }
            let mut byte = 0;
            loop {
                let (ours, theirs) = (text.add(byte).read_volatile(), line.add(byte).read_volatile());
                if ours == 0 && (!whole || theirs == 0) {
                    return Some(line);
                }
                if ours == 0 || ours != theirs {
                    break;
                }
                byte += 1;
            }
        }
        at += 1;
    }
}
