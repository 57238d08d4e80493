//! A ptrace(2) tracer that shows every system call before it is made, and can kill or replace it there.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::command::{Capture, Done, line};
use crate::processes;

/// A system call about to be made.
#[derive(Clone, Debug)]
pub struct Call {
    /// The thread that makes it.
    pub thread: i32,
    /// Its process.
    pub process: i32,
    /// Whether that is the command itself and not something below it.
    pub main: bool,
    /// Which one it is: counted from 1, for the command itself and for everything below it apart.
    pub count: usize,
    /// Its number.
    pub number: u64,
    /// Its arguments.
    pub args: [u64; 6],
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// It is made.
    Go,
    /// Its process gets SIGKILL instead.
    Kill,
    /// The command and everything below it get SIGKILL instead.
    KillTree,
    /// It is not made, and returns this errno.
    Fail(i32),
}

/// Whose calls are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// Those of the command's threads only: what it forks runs freely, at its own speed.
    Main,
    /// Those of everything below it too.
    All,
}

/// How a traced command ended.
#[derive(Debug)]
pub struct Traced {
    /// As for an untraced one.
    pub done: Done,
    /// System calls of the command itself.
    pub main: usize,
    /// System calls of everything below it, as far as they were followed.
    pub below: usize,
}

/// Runs COMMAND under the tracer, at most for LIMIT. ALSO is a process that exists already and is to be followed as if
/// it were below the command. When the command has ended, whatever else is traced is let go and runs on.
///
/// # Panics
/// If the program cannot be started or ptrace is not permitted.
pub fn run(
    command: &mut Command,
    follow: Follow,
    also: Option<i32>,
    limit: Duration,
    act: &mut (dyn FnMut(&Call) -> Act + Send),
) -> Traced {
    // The kernel lets all tracees of a thread go when the thread ends: no stop has to be waited for.
    std::thread::scope(|scope| {
        let tracer = scope.spawn(|| trace(command, follow, also, limit, act));
        while !tracer.is_finished() {
            processes::reap_orphans(0);
            std::thread::sleep(Duration::from_millis(1));
        }
        tracer.join().expect("the tracer")
    })
}

fn trace(
    command: &mut Command,
    follow: Follow,
    also: Option<i32>,
    limit: Duration,
    act: &mut (dyn FnMut(&Call) -> Act + Send),
) -> Traced {
    let (out, err) = (Capture::new(), Capture::new());
    let line = line(command);
    command.stdout(out.end()).stderr(err.end());
    let main = spawn(command);
    let options = options(follow);
    waitpid(Pid::from_raw(main), None).expect("the stop at the first exec");
    ptrace::setoptions(Pid::from_raw(main), options).expect("the options of the trace");
    let mut tracer =
        Tracer { main, follow, threads: HashMap::from([(main, main)]), calls: (0, 0), answers: HashMap::new() };
    if let Some(pid) = also {
        ptrace::seize(Pid::from_raw(pid), options).expect("a process of ours");
        ptrace::interrupt(Pid::from_raw(pid)).expect("a process just seized");
        tracer.threads.insert(pid, pid);
    }
    let hung = AtomicBool::new(false);
    let (ended, end) = channel::<()>();
    let status = std::thread::scope(|scope| {
        let hung = &hung;
        scope.spawn(move || {
            if end.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                hung.store(true, Ordering::Relaxed);
                // Not yet waited for, so the number is still its own.
                kill_tree(main);
            }
        });
        let status = tracer.follow(act);
        drop(ended);
        status
    });
    let status = (!hung.load(Ordering::Relaxed)).then_some(status);
    Traced {
        done: Done { line, status, out: out.text(), err: err.text() },
        main: tracer.calls.0,
        below: tracer.calls.1,
    }
}

/// Starts the command, stopped at its first exec; it is waited for by its number.
///
/// # Panics
/// If the program cannot be started.
pub fn spawn(command: &mut Command) -> i32 {
    // SAFETY: between fork and exec the child makes only this one system call, and touches no memory of others.
    unsafe { command.pre_exec(|| ptrace::traceme().map_err(Into::into)) };
    #[expect(clippy::zombie_processes, reason = "the tracer waits for every process by its number")]
    let child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", line(command)));
    i32::try_from(child.id()).expect("a pid")
}

fn options(follow: Follow) -> Options {
    // Threads of the command are followed in any case: a runtime may be one that has many.
    let own = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACEEXEC | Options::PTRACE_O_TRACECLONE;
    match follow {
        Follow::Main => own,
        Follow::All => own | Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK,
    }
}

struct Tracer {
    main: i32,
    follow: Follow,
    /// The process of each followed thread.
    threads: HashMap<i32, i32>,
    /// What the call that a thread is in is to answer.
    answers: HashMap<i32, i32>,
    /// Calls of the command, and of everything below it.
    calls: (usize, usize),
}

impl Tracer {
    /// Lets everything run from stop to stop until the command has ended.
    fn follow(&mut self, act: &mut (dyn FnMut(&Call) -> Act + Send)) -> std::process::ExitStatus {
        let main = Pid::from_raw(self.main);
        let _ = ptrace::syscall(main, None);
        loop {
            // Only this thread's children: others may have theirs.
            let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
            let stop = waitpid(None, Some(flags)).expect("the command is not waited for yet");
            match stop {
                WaitStatus::Exited(pid, code) if pid == main => return exit_status(code << 8),
                WaitStatus::Signaled(pid, signal, _) if pid == main => return exit_status(signal as i32),
                WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) => drop(self.threads.remove(&pid.as_raw())),
                WaitStatus::PtraceSyscall(pid) => self.call(pid, act),
                WaitStatus::PtraceEvent(pid, ..) => go_on(pid, None),
                WaitStatus::Stopped(pid, signal) => self.stopped(pid, signal),
                _ => (),
            }
        }
    }

    /// A thread stopped for a signal; the first one of a new thread is the tracer's own.
    fn stopped(&mut self, pid: Pid, signal: Signal) {
        if self.threads.contains_key(&pid.as_raw()) {
            return go_on(pid, Some(signal));
        }
        let process = process_of(pid.as_raw());
        if self.follow == Follow::Main && process != self.main {
            let _ = ptrace::detach(pid, None);
            return;
        }
        self.threads.insert(pid.as_raw(), process);
        go_on(pid, (signal != Signal::SIGSTOP).then_some(signal));
    }

    fn call(&mut self, pid: Pid, act: &mut (dyn FnMut(&Call) -> Act + Send)) {
        const ENTRY: u8 = 1; // PTRACE_SYSCALL_INFO_ENTRY
        let info = match ptrace::syscall_info(pid) {
            Ok(info) if info.op == ENTRY => info,
            _ => {
                if let Some(errno) = self.answers.remove(&pid.as_raw()) {
                    answer(pid, errno, |_| ());
                }
                return go_on(pid, None);
            }
        };
        // SAFETY: the kernel says with op which member of the union it has filled: this is a stop at an entry.
        let entry = unsafe { info.u.entry };
        let process = *self.threads.entry(pid.as_raw()).or_insert_with(|| process_of(pid.as_raw()));
        let main = process == self.main;
        let count = if main { &mut self.calls.0 } else { &mut self.calls.1 };
        *count += 1;
        let (count, thread) = (*count, pid.as_raw());
        match act(&Call { thread, process, main, count, number: entry.nr, args: entry.args }) {
            Act::Go => (),
            Act::Kill => processes::kill(process),
            Act::KillTree => kill_tree(self.main),
            // The kernel closes the descriptor, whatever it answers. Source: close(2), "Dealing with error returns".
            Act::Fail(errno) if entry.nr == libc::SYS_close as u64 => _ = self.answers.insert(thread, errno),
            Act::Fail(errno) => answer(pid, errno, |registers| registers.orig_rax = u64::MAX),
        }
        go_on(pid, None);
    }
}

fn exit_status(raw: i32) -> std::process::ExitStatus {
    std::os::unix::process::ExitStatusExt::from_raw(raw)
}

/// A thread that was killed meanwhile cannot go on, which is no error: its end is reported next.
fn go_on(pid: Pid, signal: Option<Signal>) {
    let _ = ptrace::syscall(pid, signal);
}

/// The leaves first: the command itself stands at a stop and cannot notice.
fn kill_tree(main: i32) {
    processes::below(main).into_iter().rev().for_each(processes::kill);
    processes::kill(main);
}

/// Puts ERRNO in the place of the kernel's answer. At the entry of a call `skip` gives it no number, so that nothing is
/// done; at its exit it has been done.
fn answer(pid: Pid, errno: i32, skip: impl FnOnce(&mut libc::user_regs_struct)) {
    if let Ok(mut registers) = ptrace::getregs(pid) {
        skip(&mut registers);
        registers.rax = i64::from(-errno) as u64;
        let _ = ptrace::setregs(pid, registers);
    }
}

fn process_of(thread: i32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let group = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    group.and_then(|group| group.trim().parse().ok()).unwrap_or(thread)
}

/// The name of a system call of x86-64.
pub fn name(number: u64) -> String {
    const TABLE: &str = include_str!("syscalls.txt");
    let rows = TABLE.lines().filter_map(|row| row.split_once(' '));
    let mut found = rows.filter(|(row, _)| row.parse() == Ok(number));
    found.next().map_or_else(|| format!("syscall {number}"), |(_, name)| name.to_string())
}

/// The call as one reads it: its name and arguments, with the text that they point to. Only while it stands there.
pub fn describe(call: &Call) -> String {
    let memory = fs::File::open(format!("/proc/{}/mem", call.thread)).ok();
    let show = |arg: &u64| match memory.as_ref().and_then(|memory| text_at(memory, *arg)) {
        Some(text) => format!("{text:?}"),
        None if *arg < 4096 => arg.to_string(),
        None => format!("{arg:#x}"),
    };
    let args: Vec<String> = call.args.iter().take(5).map(show).collect();
    format!("{}({})", name(call.number), args.join(", "))
}

/// Readable text of at least two letters at an address.
fn text_at(memory: &fs::File, address: u64) -> Option<String> {
    let mut bytes = [0; 72];
    let read = memory.read_at(&mut bytes, address).ok()?;
    let end = bytes[..read].iter().position(|byte| *byte == 0).unwrap_or(read);
    let text = std::str::from_utf8(&bytes[..end]).ok()?;
    let readable = text.len() > 1 && text.chars().all(|letter| letter == '\n' || !letter.is_control());
    readable.then(|| text.to_string())
}
