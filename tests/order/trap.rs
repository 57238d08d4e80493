//! Which functions a command enters.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::process::Command;

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tests::trace;

/// The instruction `int3`, which stops its process.
const TRAP: u8 = 0xcc;

/// The addresses of the functions that were entered.
#[derive(Debug, Default)]
pub(crate) struct Entered {
    /// By the command.
    pub(crate) main: BTreeSet<u64>,
    /// By what it cloned, until that became another program.
    pub(crate) below: BTreeSet<u64>,
}

/// Runs COMMAND to its end with a trap at each of FUNCTIONS, and adds to ENTERED. Nothing that it clones may outlive it
/// with the program in its memory.
pub(crate) fn run(command: &mut Command, functions: &BTreeSet<u64>, entered: &mut Entered) {
    let main = Pid::from_raw(trace::spawn(command));
    waitpid(main, None).expect("the stop at the first exec");
    let clones = Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK;
    let all = clones | Options::PTRACE_O_TRACEEXEC | Options::PTRACE_O_EXITKILL;
    ptrace::setoptions(main, all).expect("the options of the trace");
    let mut replaced = read(main, functions);
    set(main, &replaced);
    // What was cloned has only the traps that the command had not run into yet.
    let mut known = BTreeSet::from([main]);
    ptrace::cont(main, None).expect("a process of ours");
    loop {
        let stop = waitpid(None, Some(WaitPidFlag::__WALL)).expect("the command is not waited for yet");
        let (pid, signal) = match stop {
            WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) if pid == main => return,
            WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_EXEC) if pid != main => {
                let _ = ptrace::detach(pid, None);
                continue;
            }
            // It is the same program again, from its read-only clone.
            WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_EXEC) => {
                replaced = read(pid, functions);
                set(pid, &replaced);
                (pid, None)
            }
            WaitStatus::Stopped(pid, Signal::SIGSTOP) if known.insert(pid) => {
                set(pid, &replaced);
                (pid, None)
            }
            WaitStatus::PtraceEvent(pid, ..) => (pid, None),
            WaitStatus::Stopped(pid, Signal::SIGTRAP) => {
                if let Some(address) = go_back(pid, &replaced) {
                    if pid == main { &mut entered.main } else { &mut entered.below }.insert(address);
                }
                (pid, None)
            }
            WaitStatus::Stopped(pid, signal) => (pid, Some(signal)),
            _ => continue,
        };
        // One that was killed meanwhile cannot go on; its end is reported next.
        let _ = ptrace::cont(pid, signal);
    }
}

fn memory(pid: Pid) -> File {
    OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem")).expect("the memory of a process of ours")
}

/// The first byte of each of FUNCTIONS.
fn read(pid: Pid, functions: &BTreeSet<u64>) -> BTreeMap<u64, u8> {
    let memory = memory(pid);
    let first = |address: &u64| {
        let mut byte = [0];
        memory.read_exact_at(&mut byte, *address).expect("a function of the program");
        (*address, byte[0])
    };
    functions.iter().map(first).collect()
}

/// Puts a trap in the place of each of these bytes.
fn set(pid: Pid, first: &BTreeMap<u64, u8>) {
    let memory = memory(pid);
    first.keys().for_each(|address| memory.write_all_at(&[TRAP], *address).expect("a function of the program"));
}

/// Removes the trap that PID has just run into, so that it goes on with the function, and says which one it was.
fn go_back(pid: Pid, replaced: &BTreeMap<u64, u8>) -> Option<u64> {
    let mut registers = ptrace::getregs(pid).ok()?;
    registers.rip -= 1;
    let byte = replaced.get(&registers.rip)?;
    memory(pid).write_all_at(&[*byte], registers.rip).ok()?;
    ptrace::setregs(pid, registers).ok()?;
    Some(registers.rip)
}
