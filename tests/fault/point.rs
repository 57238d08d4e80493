//! One point: the state before, the fault, and what is asked of the runtime afterwards.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use tests::trace::{self, Act, Call, Follow, Traced};
use tests::{Bundle, Done, Host, processes, walk};

use crate::sweep::{Mode, Side, Sweep, Verb};

/// A runtime that takes longer than this hangs.
const LIMIT: Duration = Duration::from_secs(10);

/// What was found at one point.
#[derive(Debug)]
pub(crate) struct Point {
    pub(crate) number: usize,
    /// The call, as it stood there.
    pub(crate) call: String,
    /// What is wrong, each in a few words.
    pub(crate) faults: Vec<String>,
    pub(crate) hung: bool,
    /// It failed without a word.
    pub(crate) silent: bool,
    /// The verb succeeded in spite of the error.
    pub(crate) tolerated: bool,
}

/// Sweeps over one point; none if the verb made fewer calls.
pub(crate) fn run(sweep: &Sweep, number: usize, usual: &BTreeSet<String>) -> Result<Option<Point>, String> {
    let bundle = sweep.bundle();
    let host = Host::alone(&bundle.id, &[]);
    sweep.prepare(&bundle)?;
    let (hit, traced) = inject(sweep, &bundle, number);
    let point = hit.map(|(call, described)| {
        let mut point =
            Point { number, call: described, faults: Vec::new(), hung: false, silent: false, tolerated: false };
        let look = Look { sweep, bundle: &bundle, host: &host, usual };
        look.at_once(&mut point, &traced.done, is_beyond_help(&call));
        look.afterwards(&mut point);
        point
    });
    // Whatever this point left must not be found at the next one.
    processes::end_all();
    drop(bundle);
    Ok(point)
}

/// Runs the verb; gives the call that the fault struck, if the verb came to it.
fn inject(sweep: &Sweep, bundle: &Bundle, number: usize) -> (Option<(Call, String)>, Traced) {
    let words = sweep.words(bundle);
    let mut command = bundle.command(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let follow = if sweep.side == Side::Main { Follow::Main } else { Follow::All };
    let init = if sweep.side == Side::Child && sweep.verb == Verb::Start { bundle.pid() } else { None };
    let mut hit = None;
    let traced = trace::run(&mut command, follow, init, LIMIT, &mut |call| {
        if call.main != (sweep.side == Side::Main) || call.count != number || hit.is_some() {
            return Act::Go;
        }
        hit = Some((call.clone(), trace::describe(call)));
        match sweep.mode {
            Mode::Main => Act::Kill,
            Mode::Tree => Act::KillTree,
            Mode::Error(..) if cannot_fail(call) => Act::Go,
            Mode::Error(_, errno) => Act::Fail(errno),
        }
    });
    (hit, traced)
}

struct Look<'a> {
    sweep: &'a Sweep,
    bundle: &'a Bundle,
    host: &'a Host,
    usual: &'a BTreeSet<String>,
}

impl Look<'_> {
    /// What must hold before any other command. After a kill nothing need; nor where the error is beyond help.
    fn at_once(&self, point: &mut Point, done: &Done, beyond_help: bool) {
        if done.hung() {
            point.hung = true;
            point.faults.push("hung".to_string());
            return;
        }
        if !matches!(self.sweep.mode, Mode::Error(..)) {
            return;
        }
        point.tolerated = done.is_ok();
        if done.is_ok() || beyond_help {
            return;
        }
        if let Some(signal) = done.signal() {
            point.faults.push(format!("died by signal {signal}"));
        }
        match done.err.lines().count() {
            1 => (),
            0 => {
                point.silent = true;
                point.faults.push("no message".to_string());
            }
            lines => point.faults.push(format!("{lines} lines of error: {:?}", done.err)),
        }
        // What `run` cannot remove once its program has run is as after a delete that failed: the next one ends it.
        let ran = || {
            matches!(self.bundle.status().as_deref(), Some("running" | "stopped"))
                || done.err.contains("cannot remove ")
        };
        if self.sweep.verb == Verb::Create || (self.sweep.verb == Verb::Run && !ran()) {
            point.faults.extend(self.left().into_iter().map(|what| format!("at once: {what}")));
        }
    }

    /// What must hold after any fault: the others are listed, one forced delete ends it, the name is free again.
    fn afterwards(&self, point: &mut Point) {
        let state = self.bundle.state();
        if state.hung() || state.signal().is_some() {
            point.faults.push(format!("state: {state}"));
        }
        point.hung |= state.hung();
        self.must_work(point, "list", &self.bundle.list());
        self.must_work(point, "delete --force", &self.bundle.delete_force());
        point.faults.extend(self.left());
        self.must_work(point, "create again", &self.bundle.create());
        self.must_work(point, "delete --force again", &self.bundle.delete_force());
    }

    fn must_work(&self, point: &mut Point, what: &str, done: &Done) {
        point.hung |= done.hung();
        if !done.is_ok() {
            let status = done.status.map_or("hung".to_string(), |status| status.to_string());
            point.faults.push(format!("{what}: {status}: {}", done.err.trim_end()));
        }
    }

    /// Everything that is there now and was not before, or that a clean life would not have left in the store.
    fn left(&self) -> Vec<String> {
        let mut left = self.host.leaked();
        let stored = stored(self.bundle);
        left.extend(stored.difference(self.usual).map(|path| format!("file {path}")));
        left
    }
}

/// What is in a bundle's store, by the path from there, with the jail's name written `ID`.
pub(crate) fn stored(bundle: &Bundle) -> BTreeSet<String> {
    let root = bundle.root.to_string_lossy();
    let name = |path: PathBuf| path.to_string_lossy()[root.len() + 1..].replace(&bundle.id, "ID");
    walk(&bundle.root).into_iter().map(name).collect()
}

/// Calls whose failure no program can know of, because the kernel has none for them.
fn cannot_fail(call: &Call) -> bool {
    const NEVER: &[i64] = &[
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_rt_sigreturn,
        libc::SYS_restart_syscall,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_getppid,
        libc::SYS_getuid,
        libc::SYS_geteuid,
        libc::SYS_getgid,
        libc::SYS_getegid,
        libc::SYS_umask,
        libc::SYS_set_tid_address,
        libc::SYS_arch_prctl,
        libc::SYS_sched_yield,
    ];
    NEVER.contains(&(call.number as i64))
}

/// Where the error strikes the allocator or the message itself, the runtime can do no more than if it were killed. Nor
/// where Rust's own library ends the program: when it asks for the seed of its hash tables (getrandom).
fn is_beyond_help(call: &Call) -> bool {
    const MEMORY: &[i64] = &[
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_futex,
        libc::SYS_set_robust_list,
        libc::SYS_sigaltstack,
    ];
    let number = call.number as i64;
    let seed = number == libc::SYS_getrandom;
    seed || MEMORY.contains(&number) || (matches!(number, libc::SYS_write | libc::SYS_writev) && call.args[0] == 2)
}
