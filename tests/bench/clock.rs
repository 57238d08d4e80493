//! `clock`: stands in the place of a runtime, runs it, and writes down how long it took. Beside the path PATH that it is
//! called by, `PATH.runtime` has the path of the runtime, and a line with the nanoseconds goes to `PATH.times`.

use std::ffi::OsString;
use std::io::Write;
use std::process::{Command, ExitCode};
use std::time::Instant;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let own = words.next().unwrap_or_default();
    match run(&own, words) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("clock: {}: {error}", own.to_string_lossy());
            ExitCode::FAILURE
        }
    }
}

fn run(own: &OsString, words: impl Iterator<Item = OsString>) -> std::io::Result<u8> {
    let beside = |name: &str| {
        let mut path = own.clone();
        path.push(name);
        path
    };
    let runtime = std::fs::read_to_string(beside(".runtime"))?;
    let begin = Instant::now();
    let status = Command::new(runtime.trim_end()).args(words).status()?;
    let taken = begin.elapsed().as_nanos();
    let mut times = std::fs::File::options().create(true).append(true).open(beside(".times"))?;
    writeln!(times, "{taken}")?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
