//! The `jail` command: words in, words out.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), no_main)]

mod args;
mod events;
mod life;
mod look;
mod show;
mod update;

use std::ffi::OsString;

use args::{Command, Globals};
use clap::Parser;
use runtime::inherit::Inherited;
use runtime::log;
use sys::{Error, Result};

#[cfg(not(test))]
sys::program!(program);

/// The program; the answer is its exit code.
#[cfg_attr(test, expect(dead_code, reason = "the tests have an entry point of their own"))]
fn program() -> u8 {
    let words: Vec<_> = args::tolerant(std::env::args_os()).collect();
    let args = match args::Args::try_parse_from(&words) {
        Ok(args) => args,
        Err(error) => {
            if error.use_stderr() {
                tell_the_log(&words, &error.to_string());
            }
            error.exit();
        }
    };
    // Before the log: it would take the number of a descriptor that is missing.
    let inherited = args.command.descriptors().map_or_else(|| Ok(Inherited::default()), Inherited::find);
    match log::open(args.globals.log.as_deref(), args.globals.format(), args.globals.debug)
        .and(inherited)
        .and_then(|inherited| run(&args.globals, args.command, inherited))
    {
        Ok(code) => u8::try_from(code).unwrap_or(u8::MAX),
        Err(error) => {
            log::error(&error);
            eprintln!("jail: {error}");
            1
        }
    }
}

/// What callers send and this program does not know: they show what is in their log, and nobody sees the rest.
fn tell_the_log(words: &[OsString], text: &str) {
    let line = text.lines().next().unwrap_or_default();
    let error = Error::invalid(format!("understand the words: {}", line.trim_start_matches("error: ")));
    let (file, format) = args::log(words);
    // Where that does not work either, clap tells on the standard error.
    if log::open(file.as_deref(), format, false).is_ok() {
        log::error(&error);
    }
}

fn run(globals: &Globals, command: Command, inherited: Inherited) -> Result<i32> {
    match command {
        Command::Create(verb) => life::create(globals, &verb, inherited),
        Command::Start(verb) => life::start(globals, &verb),
        Command::Run(verb) => life::run(globals, &verb, inherited),
        Command::Exec(verb) => life::exec(globals, verb, inherited),
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
        Command::Checkpoint(_) => refuse("checkpoint a container"),
        Command::Restore(_) => refuse("restore a container"),
        Command::Spec(verb) => look::spec(&verb),
        Command::Features => look::features(),
    }
}

/// What podman and others take for "this runtime cannot".
fn refuse(step: &str) -> Result<i32> {
    Err(Error::unsupported(format!("{step}: unsupported: this version neither writes nor reads images of processes")))
}
