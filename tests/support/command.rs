//! Calling a program with a time limit, and what came of it.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};

/// How long a command may take before it counts as hung. Generous: a loaded two-core machine is not a bug.
pub const LIMIT: Duration = Duration::from_secs(20);

/// A runtime under test: the words before the verb.
#[derive(Clone, Debug)]
pub struct Runtime {
    words: Vec<String>,
}

impl Runtime {
    /// The runtime called by these words, such as `crun` or `jail --debug`.
    ///
    /// # Panics
    /// Without a word there is nothing to call.
    pub fn of(words: &str) -> Runtime {
        let words: Vec<String> = words.split_whitespace().map(str::to_string).collect();
        assert!(!words.is_empty(), "a runtime needs a name");
        Runtime { words }
    }

    /// The binary under test.
    pub fn jail() -> Runtime {
        Runtime { words: vec![jail().to_string_lossy().into_owned()] }
    }

    /// A command of it that keeps its state beneath ROOT.
    pub fn command(&self, root: &Path) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).arg("--root").arg(root);
        command
    }

    /// The words it is called by, for messages.
    pub fn name(&self) -> String {
        self.words.join(" ")
    }
}

/// The path of the binary under test: `JAIL_BIN`, or the `jail` that was built beside this test.
pub fn jail() -> PathBuf {
    if let Some(path) = std::env::var_os("JAIL_BIN") {
        return path.into();
    }
    let own = std::env::current_exe().expect("/proc/self/exe names the test");
    let beside = own.ancestors().skip(1).take(2).map(|folder| folder.join("jail")).find(|path| path.is_file());
    beside
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/x86_64-unknown-linux-gnu/debug/jail"))
}

/// How a command ended.
#[derive(Debug)]
pub struct Done {
    /// The command line, for messages.
    pub line: String,
    /// Its exit status; none if it hung and was killed.
    pub status: Option<ExitStatus>,
    /// What it wrote on stdout.
    pub out: String,
    /// What it wrote on stderr.
    pub err: String,
}

impl Done {
    /// It ended by itself with exit code 0.
    pub fn is_ok(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// Its exit code; none for a signal or a hang.
    pub fn code(&self) -> Option<i32> {
        self.status.and_then(|status| status.code())
    }

    /// The signal that ended it.
    pub fn signal(&self) -> Option<i32> {
        self.status.and_then(|status| status.signal())
    }

    /// It did not end within its time limit.
    pub fn hung(&self) -> bool {
        self.status.is_none()
    }

    /// Asserts success, and gives its stdout.
    ///
    /// # Panics
    /// If it failed or hung.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.is_ok(), "{self}");
        self.out
    }

    /// Asserts that it failed by itself with exactly one line of error, and gives that line.
    ///
    /// # Panics
    /// If it succeeded, hung, died by a signal or wrote no or several lines.
    #[track_caller]
    pub fn fails(self) -> String {
        assert!(self.code().is_some_and(|code| code != 0), "should have failed: {self}");
        assert!(self.err.lines().count() == 1, "should have written one line of error: {self}");
        self.err.trim_end().to_string()
    }
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.status {
            Some(status) => write!(f, "{}: {status}", self.line)?,
            None => write!(f, "{}: hung", self.line)?,
        }
        write!(f, "\n  stdout: {}\n  stderr: {}", self.out.trim_end(), self.err.trim_end())
    }
}

/// Runs COMMAND to its end, at most for LIMIT; then it is killed and counts as hung. Processes that it leaves behind
/// may keep its stdout and stderr open, so these are files, not pipes that would have to be read to their end.
///
/// # Panics
/// If the program cannot be started at all.
pub fn finish(command: &mut Command, limit: Duration) -> Done {
    let (out, err) = (Capture::new(), Capture::new());
    let line = line(command);
    command.stdout(out.end()).stderr(err.end());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{line}: {error}"));
    let status = wait(&mut child, limit);
    if status.is_none() {
        // The child is still ours: it was not waited for, so its number cannot be another's.
        let _ = child.kill();
        let _ = child.wait();
    }
    Done { line, status, out: out.text(), err: err.text() }
}

/// Waits for the end of CHILD, at most for LIMIT.
pub(crate) fn wait(child: &mut std::process::Child, limit: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + limit;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if Instant::now() > end {
            return None;
        }
        crate::processes::reap_orphans(i32::try_from(child.id()).unwrap_or(0));
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The words of a command, for messages.
pub(crate) fn line(command: &Command) -> String {
    let words: Vec<_> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(OsStr::to_string_lossy).collect();
    words.join(" ")
}

/// One output stream, caught in a file without a name.
pub(crate) struct Capture(File);

impl Capture {
    pub(crate) fn new() -> Capture {
        Capture(memfd_create(c"output", MFdFlags::MFD_CLOEXEC).expect("memory for the output").into())
    }

    pub(crate) fn end(&self) -> Stdio {
        self.0.try_clone().expect("a descriptor for the output").into()
    }

    /// What was written so far. The position is shared with the writers, so it is left alone.
    pub(crate) fn text(&self) -> String {
        let mut bytes = vec![0; self.0.metadata().map_or(0, |data| data.len()) as usize];
        let read = self.0.read_at(&mut bytes, 0).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..read]).into_owned()
    }
}
