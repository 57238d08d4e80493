//! `true` in a container of podman, ctr and docker, by each runtime.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use tests::callers::{Containerd, Docker, Podman};
use tests::view::View;
use tests::{Named, Room};

use crate::measure::time;
use crate::subject::Kind;
use crate::table::{number, quantile};

/// One caller with one runtime.
struct Row {
    caller: &'static str,
    kind: Kind,
    /// Milliseconds of the whole command, one per round.
    times: Vec<f64>,
    /// Milliseconds of the runtime in another command of the same round, and which part of that command they were.
    own: Vec<f64>,
    shares: Vec<f64>,
    failure: Option<String>,
}

/// A runtime, and the same with a clock.
struct Pair {
    kind: Kind,
    plain: Named,
    clocked: Named,
}

/// How a caller runs `true` with a runtime; the number makes names of it that were never used.
type Run<'a> = &'a dyn Fn(&Named, usize) -> Command;

/// Measures every caller that is installed, on the view where crun runs, and prints the table. A caller without a table
/// says that it is not installed.
pub(crate) fn measure(rounds: usize) -> ExitCode {
    if let Err(error) = View::V1.enter() {
        eprintln!("bench: cannot enter the view V1: {error} (needs root)");
        return ExitCode::from(2);
    }
    let mut rows = Vec::new();
    if let Some(podman) = Podman::new() {
        let pairs = pairs(&podman.room);
        let run: Run = &|runtime, _| podman.making(runtime, "run", &["--rm"], &["true"]);
        rows.extend(alternate("podman run", &podman.room, &pairs, run, rounds));
    }
    if let Some(containerd) = Containerd::start() {
        let pairs = pairs(&containerd.room);
        let run: Run = &|runtime, at| containerd.run(runtime, &["--rm"], &format!("run{at}"), &["true"]);
        rows.extend(alternate("ctr run", &containerd.room, &pairs, run, rounds));
    }
    if let Some(room) = Room::open(&["dockerd"]) {
        let pairs = pairs(&room);
        let all: Vec<Named> = pairs.iter().flat_map(|pair| [pair.plain.clone(), pair.clocked.clone()]).collect();
        let docker = Docker::start_in(room, &all);
        let run: Run = &|runtime, _| docker.running(runtime, &["--rm"], &["true"]);
        rows.extend(alternate("docker run", &docker.room, &pairs, run, rounds));
    }
    print!("{}", markdown(&rows));
    if rows.iter().all(|row| row.failure.is_none()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The runtimes that are installed, each also with the clock in its place.
fn pairs(room: &Room) -> Vec<Pair> {
    let clock = std::env::current_exe().map(|own| own.with_file_name("clock")).unwrap_or_default();
    let program = fs::read(&clock).unwrap_or_else(|error| panic!("{}: {error}", clock.display()));
    let peers = [(Kind::Crun, "/usr/bin/crun"), (Kind::Runc, "/usr/sbin/runc")];
    let peers = peers.into_iter().filter(|(_, path)| PathBuf::from(path).is_file());
    let all =
        [(Kind::Jail, room.path("jail-oci"))].into_iter().chain(peers.map(|(kind, path)| (kind, path.to_string())));
    all.map(|(kind, path)| {
        let name = kind.name().to_string();
        let stand_in = room.write(&format!("clock-{name}"), &program);
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(room.seen(&stand_in), executable).expect("the mode of a file of the room");
        room.write(&format!("clock-{name}.runtime"), &path);
        let clocked = Named { name: format!("clock-{name}"), path: stand_in };
        Pair { kind, plain: Named { name, path }, clocked }
    })
    .collect()
}

/// Each runtime once per round, without a clock and with one; who begins changes from round to round. The first round
/// fills the caches.
fn alternate(caller: &'static str, room: &Room, pairs: &[Pair], run: Run, rounds: usize) -> Vec<Row> {
    let row = |pair: &Pair| Row {
        caller,
        kind: pair.kind,
        times: Vec::new(),
        own: Vec::new(),
        shares: Vec::new(),
        failure: None,
    };
    let mut rows: Vec<Row> = pairs.iter().map(row).collect();
    let mut count = 0;
    for round in 0..=rounds {
        for turn in 0..pairs.len() {
            let at = (round + turn) % pairs.len();
            if rows[at].failure.is_some() {
                continue;
            }
            count += 2;
            let times = format!("clock-{}.times", pairs[at].plain.name);
            room.write(&times, "");
            let plain = time(&mut run(&pairs[at].plain, count));
            let whole = time(&mut run(&pairs[at].clocked, count + 1));
            let own: f64 = room.read(&times).lines().filter_map(|line| line.parse::<f64>().ok()).sum::<f64>() / 1e6;
            match (plain, whole) {
                _ if round == 0 => (),
                (Ok(plain), Ok(whole)) => {
                    rows[at].times.push(plain);
                    rows[at].own.push(own);
                    rows[at].shares.push(own / whole);
                }
                (Err(error), _) | (_, Err(error)) => rows[at].failure = Some(error),
            }
        }
    }
    rows
}

/// For BENCHMARKS.md, and readable on a terminal.
fn markdown(rows: &[Row]) -> String {
    let head = ["command", "of", "min", "median", "p95", "× runc", "runtime", "share"];
    let mut text = format!("### Real callers, cgroup v1\n\n| {} |\n|---|---|{}\n", head.join(" | "), "--:|".repeat(6));
    for row in rows {
        let median = quantile(&row.times, 0.5);
        let reference = rows.iter().find(|other| other.caller == row.caller && other.kind == Kind::Runc);
        let reference = reference.and_then(|reference| quantile(&reference.times, 0.5));
        let cells = [
            row.caller.to_string(),
            row.kind.name().to_string(),
            number(quantile(&row.times, 0.0)),
            number(median),
            number(quantile(&row.times, 0.95)),
            number(median.zip(reference).map(|(median, reference)| median / reference)),
            number(quantile(&row.own, 0.5)),
            quantile(&row.shares, 0.5).map_or("–".to_string(), |share| format!("{:.0} %", share * 100.0)),
        ];
        text += &format!("| {} |\n", cells.join(" | "));
    }
    text.push('\n');
    for (row, why) in rows.iter().filter_map(|row| Some((row, row.failure.as_ref()?))) {
        text += &format!("{} with {} failed: {why}\n", row.caller, row.kind.name());
    }
    text
}
