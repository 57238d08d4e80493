//! `fault`: stops a runtime before each of its system calls and looks at what is left.
//!
//! `fault sweep --runtime 'CMD …' --verb VERBS --mode MODES [--side main|child] [--spec minimal|full|process|mounts]
//! [--view host|v1|v2] [--systemd host|v1|v2] [--from N] [--to N] [--every N]`
//!
//! With `--systemd` all of it is done on a machine with systemd and these cgroups, and the jails are scopes.
//!
//! VERBS: create, start, exec, delete, force (`delete --force` of a running jail), run; MODES: main, tree (SIGKILL),
//! EIO, ENOMEM, ENOSPC, EMFILE, EINTR; each a list with commas, or `all`. Exit code 1 if any point was not clean.

mod point;
mod report;
mod sweep;

use std::process::ExitCode;

use sweep::{Asked, Mode, Side, Sweep, Verb};
use tests::Runtime;
use tests::machine::{Cgroups, Machine, scoped_jail};
use tests::view::View;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let plan = match parse(&words) {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("fault: {error}");
            return ExitCode::from(2);
        }
    };
    if let Some(cgroups) = plan.systemd {
        return on_machine(cgroups, &words);
    }
    if let Err(error) = sweep::isolate(plan.view) {
        eprintln!("fault: cannot make private name spaces: {error} (needs root)");
        return ExitCode::from(2);
    }
    let mut clean = true;
    for verb in &plan.verbs {
        for mode in &plan.modes {
            let sweep = Sweep { verb: *verb, mode: *mode, ..plan.sweep.clone() };
            match sweep.run() {
                Ok(report) => {
                    print!("{report}");
                    clean &= report.is_clean();
                }
                Err(error) => {
                    println!("{sweep}: {error}");
                    clean = false;
                }
            }
        }
    }
    if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The same words on a machine, and after that no scope but that of systemd itself.
fn on_machine(cgroups: Cgroups, words: &[String]) -> ExitCode {
    let (Some(machine), Ok(own)) = (Machine::start(cgroups), std::env::current_exe()) else {
        return ExitCode::from(2);
    };
    let at = words.iter().position(|word| word == "--systemd").unwrap_or(words.len());
    let rest = words.iter().enumerate().filter(|(index, _)| *index != at && *index != at + 1).map(|(_, word)| word);
    let done = machine.command(own).args(rest).args(["--runtime", &scoped_jail()]).status();
    let left = machine.sh("systemctl list-units --all --plain --no-legend '*.scope'").out;
    let left: Vec<_> = left.lines().filter(|line| !line.starts_with("init.scope ")).collect();
    left.iter().for_each(|line| println!("left behind: {line}"));
    match done.is_ok_and(|status| status.success()) && left.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

struct Plan {
    verbs: Vec<Verb>,
    modes: Vec<Mode>,
    view: View,
    systemd: Option<Cgroups>,
    sweep: Sweep,
}

fn parse(words: &[String]) -> Result<Plan, String> {
    if words.first().map(String::as_str) != Some("sweep") || words.len() % 2 == 0 {
        return Err("usage: fault sweep [--runtime 'CMD …'] [--verb VERBS] [--mode MODES] [--side main|child] \
                    [--spec minimal|full|process|mounts] [--view host|v1|v2] [--from N] [--to N] [--every N]"
            .to_string());
    }
    let (mut verbs, mut modes, mut view) = ("create".to_string(), "main".to_string(), View::Host);
    let mut systemd = None;
    let mut sweep = Sweep {
        runtime: Runtime::jail(),
        verb: Verb::Create,
        mode: Mode::Main,
        side: Side::Main,
        spec: Asked::Minimal,
        from: 1,
        to: usize::MAX,
        every: 1,
    };
    for pair in words[1..].chunks(2) {
        let value = &pair[1];
        let number = || value.parse::<usize>().ok().filter(|n| *n > 0).ok_or(format!("{value} is no count"));
        match pair[0].as_str() {
            "--runtime" => sweep.runtime = Runtime::of(value),
            "--verb" => verbs = value.clone(),
            "--mode" => modes = value.clone(),
            "--side" => sweep.side = Side::named(value).ok_or(format!("no side {value}"))?,
            "--spec" => sweep.spec = Asked::named(value).ok_or(format!("{value} is no spec"))?,
            "--view" => view = View::named(value).ok_or(format!("no view {value}"))?,
            "--systemd" => systemd = Some(Cgroups::named(value).ok_or(format!("no view {value}"))?),
            "--from" => sweep.from = number()?,
            "--to" => sweep.to = number()?,
            "--every" => sweep.every = number()?,
            // One after the other: two runtimes under one tracer would disturb each other's counts.
            "--jobs" if value == "1" => (),
            other => return Err(format!("no option {other}")),
        }
    }
    Ok(Plan {
        verbs: list(&verbs, Verb::ALL, Verb::named)?,
        modes: list(&modes, Mode::ALL, Mode::named)?,
        view,
        systemd,
        sweep,
    })
}

fn list<T: Copy>(words: &str, all: &[T], named: fn(&str) -> Option<T>) -> Result<Vec<T>, String> {
    if words == "all" {
        return Ok(all.to_vec());
    }
    words.split(',').map(|word| named(word).ok_or(format!("there is no {word}"))).collect()
}
