//! `bench`: this runtime beside its peers and the bare floor, alternating in one run.
//!
//! `bench [--rounds N] [--views v1,v2] [--specs minimal,full] [--markdown] [--check]`
//! `bench --callers [--rounds N]`
//!
//! Only ratios mean anything: the peers are there so that the machine's mood cancels out. `--check` makes a missed bar
//! of the project the exit code 1. `--callers` measures podman, ctr and docker with each runtime, and how much of their
//! time is the runtime's.

mod callers;
mod filter;
mod measure;
mod subject;
mod table;

use std::process::ExitCode;

use subject::Subject;
use table::{Row, Table};
use tests::view::View;
use tests::{Bundle, processes};

struct Asked {
    rounds: usize,
    views: Vec<View>,
    specs: Vec<String>,
    markdown: bool,
    check: bool,
    callers: bool,
}

fn main() -> ExitCode {
    let asked = match parse(std::env::args().skip(1)) {
        Ok(asked) => asked,
        Err(error) => {
            eprintln!("bench: {error}");
            return ExitCode::from(2);
        }
    };
    processes::adopt_orphans();
    println!("{}", machine(asked.rounds));
    if asked.callers {
        return callers::measure(asked.rounds);
    }
    let mut met = true;
    for view in &asked.views {
        if let Err(error) = view.enter() {
            eprintln!("bench: cannot enter the view {view:?}: {error} (needs root)");
            return ExitCode::from(2);
        }
        for spec in &asked.specs {
            let table =
                Table { view: *view, spec: spec.clone(), rows: measure_all(*view, spec == "full", asked.rounds) };
            print!("{}", if asked.markdown { table.markdown() } else { table.text() });
            for bar in table.bars() {
                met &= bar.met;
                println!("{bar}");
            }
            println!();
        }
    }
    if met || !asked.check { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Asked, String> {
    let mut asked = Asked {
        rounds: 50,
        views: vec![View::V1, View::V2],
        specs: vec!["minimal".to_string(), "full".to_string()],
        markdown: false,
        check: false,
        callers: false,
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--markdown" => asked.markdown = true,
            "--check" => asked.check = true,
            "--callers" => asked.callers = true,
            "--rounds" => {
                let value = value()?;
                asked.rounds = value.parse().ok().filter(|n| *n > 0).ok_or(format!("{value} is no count"))?;
            }
            "--views" => {
                let named = |name: &str| View::named(name).ok_or(format!("no view {name}"));
                asked.views = value()?.split(',').map(named).collect::<Result<_, _>>()?;
            }
            "--specs" => asked.specs = value()?.split(',').map(str::to_string).collect(),
            other => return Err(format!("no option {other}")),
        }
    }
    if let Some(spec) = asked.specs.iter().find(|spec| !matches!(spec.as_str(), "minimal" | "full")) {
        return Err(format!("no spec {spec}"));
    }
    Ok(asked)
}

/// What the figures were taken on.
fn machine(rounds: usize) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_string();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "Linux {}, {processors} processors, load {}; {rounds} rounds, alternating; times in ms\n",
        read("/proc/sys/kernel/osrelease"),
        read("/proc/loadavg").split(' ').next().unwrap_or_default()
    )
}

/// Every verb of every subject that can express it.
fn measure_all(view: View, full: bool, rounds: usize) -> Vec<Row> {
    let profile = filter::profile();
    let program = filter::compiled(&profile);
    let mut subjects: Vec<Subject> =
        subject::all(view, full).into_iter().map(|kind| Subject::new(kind, full, &profile, &program)).collect();
    let mut rows = Vec::new();
    rows.extend(measure::run(&mut subjects, rounds));
    subjects.retain(Subject::has_life);
    rows.extend(measure::life(&mut subjects, rounds));
    rows
}

/// The bundle of a subject with the spec in question.
fn bundle(runtime: tests::Runtime, full: bool, profile: &serde_json::Value) -> Bundle {
    let mut bundle = Bundle::of(runtime);
    if full {
        bundle.full().set("/linux/seccomp", profile.clone());
    }
    bundle
}
