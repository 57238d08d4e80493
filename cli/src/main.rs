//! The `jail` command: words in, words out.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), no_main)]

mod args;
mod events;
mod life;
mod look;
mod show;
mod update;

use args::{Command, Globals};
use clap::Parser;
use runtime::log;
use sys::{Error, Result};

#[cfg(not(test))]
sys::program!(program);

/// The program; the answer is its exit code.
#[cfg_attr(test, expect(dead_code, reason = "the tests have an entry point of their own"))]
fn program() -> u8 {
    let args = args::Args::parse_from(args::tolerant(std::env::args_os()));
    match log::open(args.globals.log.as_deref(), args.globals.format(), args.globals.debug)
        .and_then(|()| run(&args.globals, args.command))
    {
        Ok(code) => u8::try_from(code).unwrap_or(u8::MAX),
        Err(error) => {
            log::error(&error);
            eprintln!("jail: {error}");
            1
        }
    }
}

fn run(globals: &Globals, command: Command) -> Result<i32> {
    if globals.systemd_cgroup {
        return Err(Error::unsupported("use --systemd-cgroup: the systemd driver is not carried out yet"));
    }
    match command {
        Command::Create(verb) => life::create(globals, &verb),
        Command::Start(verb) => life::start(globals, &verb),
        Command::Run(verb) => life::run(globals, &verb),
        Command::Exec(verb) => life::exec(globals, verb),
        Command::Kill(verb) => life::kill(globals, &verb),
        Command::Pause(verb) => life::pause(globals, &verb),
        Command::Resume(verb) => life::resume(globals, &verb),
        Command::Update(verb) => update::update(globals, verb),
        Command::Events(verb) => events::events(globals, &verb),
        Command::Delete(verb) => life::delete(globals, &verb),
        Command::Cleanup => life::cleanup(globals),
        Command::State(verb) => look::state(globals, &verb),
        Command::List(verb) => look::list(globals, &verb),
        Command::Ps(verb) => look::ps(globals, &verb),
        Command::Spec(verb) => look::spec(&verb),
        Command::Features => look::features(),
    }
}
