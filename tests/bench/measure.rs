//! Taking the times, the system calls and the memory.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tests::trace::{self, Act, Follow};
use tests::{LIMIT, processes};

use crate::subject::Subject;
use crate::table::Row;

/// The verbs of one life, in their order.
const LIFE: [&str; 6] = ["create", "state", "list", "start", "exec", "delete"];

/// `run true`, each subject once per round; who begins changes from round to round.
pub(crate) fn run(subjects: &mut [Subject], rounds: usize) -> Vec<Row> {
    let mut rows: Vec<Row> = subjects.iter().map(|subject| Row::new("run", subject.kind)).collect();
    for round in 0..=rounds {
        for turn in 0..subjects.len() {
            let at = (round + turn) % subjects.len();
            let subject = &mut subjects[at];
            if subject.failure.is_some() {
                continue;
            }
            let mut command = subject.run();
            match time(&mut command) {
                // The first round fills the caches of the kernel and of the runtimes.
                Ok(_) if round == 0 => (rows[at].calls, rows[at].peak) = weigh(&mut subject.run()),
                Ok(ms) => rows[at].times.push(ms),
                Err(error) => fail(subject, &mut rows[at], error),
            }
        }
    }
    rows
}

/// Create, state, list, start, exec, delete of a jail that sleeps.
pub(crate) fn life(subjects: &mut [Subject], rounds: usize) -> Vec<Row> {
    let mut rows: Vec<Vec<Row>> =
        subjects.iter().map(|subject| LIFE.iter().map(|verb| Row::new(verb, subject.kind)).collect()).collect();
    for subject in subjects.iter_mut() {
        subject.failure = None;
        subject.bundle.args(&["sleep", "1000"]);
        subject.bundle.write();
    }
    for round in 0..=rounds {
        for turn in 0..subjects.len() {
            let at = (round + turn) % subjects.len();
            if subjects[at].failure.is_none() {
                one_life(&mut subjects[at], &mut rows[at], round == 0);
            }
        }
    }
    // By verb, so that those who are compared stand together.
    let verbs = 0..LIFE.len();
    verbs.flat_map(|verb| rows.iter().map(move |rows| rows[verb].clone()).collect::<Vec<_>>()).collect()
}

fn one_life(subject: &mut Subject, rows: &mut [Row], weighed: bool) {
    subject.rename();
    let (dir, id) = (subject.bundle.dir.to_string_lossy().into_owned(), subject.bundle.id.clone());
    for row in rows {
        let words: Vec<&str> = match row.verb {
            "create" => vec!["create", "--bundle", &dir, &id],
            "list" => vec!["list"],
            "exec" => vec!["exec", &id, "true"],
            verb => vec![verb, &id],
        };
        if row.verb == "delete" {
            subject.bundle.kill("KILL");
            // The jail is stopped when its init has been waited for, and that is us.
            processes::end_all();
        }
        let mut command = subject.verb(&words);
        if weighed {
            (row.calls, row.peak) = weigh(&mut command);
            continue;
        }
        match time(&mut command) {
            Ok(ms) => row.times.push(ms),
            Err(error) => return fail(subject, row, error),
        }
    }
}

fn fail(subject: &mut Subject, row: &mut Row, error: String) {
    subject.bundle.delete_force();
    processes::end_all();
    row.failure = Some(error.clone());
    subject.failure = Some(error);
}

/// Milliseconds from before the spawn (posix_spawn(3)) until the program was waited for.
pub(crate) fn time(command: &mut Command) -> Result<f64, String> {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let begin = Instant::now();
    let mut child = command.spawn().map_err(|error| format!("{}: {error}", command.get_program().to_string_lossy()))?;
    let status = wait(&mut child);
    let taken = begin.elapsed();
    match status {
        Some(status) if status.success() => Ok(taken.as_secs_f64() * 1000.0),
        Some(status) => Err(format!("{status}: {}", said(command))),
        None => Err("hung".to_string()),
    }
}

/// Blocks without polling, which would round the times up; a watchdog ends what hangs.
fn wait(child: &mut std::process::Child) -> Option<std::process::ExitStatus> {
    static PENDING: std::sync::Mutex<Option<(i32, Instant)>> = std::sync::Mutex::new(None);
    static WATCHDOG: std::sync::Once = std::sync::Once::new();
    WATCHDOG.call_once(|| {
        std::thread::spawn(|| {
            loop {
                std::thread::sleep(Duration::from_secs(1));
                if let Ok(Some((pid, since))) = PENDING.lock().as_deref()
                    && since.elapsed() > LIMIT
                {
                    processes::below(*pid).into_iter().chain([*pid]).for_each(processes::kill);
                }
            }
        });
    });
    let begin = Instant::now();
    let pid = i32::try_from(child.id()).ok()?;
    if let Ok(mut pending) = PENDING.lock() {
        *pending = Some((pid, begin));
    }
    let status = child.wait().ok();
    if let Ok(mut pending) = PENDING.lock() {
        *pending = None;
    }
    status.filter(|_| begin.elapsed() < LIMIT)
}

/// The words of a command that failed: it is run once more, to be heard.
fn said(command: &mut Command) -> String {
    command.stderr(Stdio::piped());
    let output = command.output().map(|output| output.stderr).unwrap_or_default();
    String::from_utf8_lossy(&output).lines().next_back().unwrap_or_default().to_string()
}

/// System calls of a command and everything below it, and the highest sum of the resident memory (kB, by
/// /proc/PID/smaps_rollup) of all its processes that lived at the same time, looked at before each system call. Pages
/// that two of them share count twice, as they do in `ps`; the program that was run counts for everybody alike.
fn weigh(command: &mut Command) -> (usize, usize) {
    let mut alive = BTreeSet::new();
    let mut peak = 0;
    let traced = trace::run(command, Follow::All, None, LIMIT, &mut |call| {
        alive.insert(call.process);
        alive.retain(|pid| resident(*pid).is_some());
        peak = peak.max(alive.iter().filter_map(|pid| resident(*pid)).sum());
        Act::Go
    });
    (traced.main + traced.below, peak)
}

/// None for a process that has no memory any more.
fn resident(pid: i32) -> Option<usize> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:"))?;
    line.split_whitespace().next()?.parse().ok()
}
