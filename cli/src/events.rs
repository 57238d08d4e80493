//! The verb `events`: what happens to a jail, and what it uses.

use std::io::Write;
use std::time::Duration;

use base::JailId;
use clap::Args as Group;
use runtime::events::{Event, Watched};
use sys::{Doing, Error, Kind, Result};

use crate::args::Globals;

#[derive(Debug, Group)]
pub(crate) struct Events {
    /// Name of the jail
    pub(crate) id: String,
    /// How often to show what it uses
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = interval)]
    pub(crate) interval: Duration,
    /// Show what it uses now, and no more
    #[arg(long)]
    pub(crate) stats: bool,
}

/// A time such as 5s, 500ms or 1m30s.
fn interval(word: &str) -> std::result::Result<Duration, String> {
    match humantime::parse_duration(word) {
        Ok(Duration::ZERO) => Err("it must be above 0".to_owned()),
        Ok(time) => Ok(time),
        Err(_) => Err("it is no time such as 5s, 500ms or 1m30s".to_owned()),
    }
}

/// `events`.
pub(crate) fn events(globals: &Globals, verb: &Events) -> Result<i32> {
    let id = JailId::new(&verb.id)?;
    let watched = Watched::open(&globals.root(), &id)?;
    match verb.stats {
        true => tell(&watched.statistics()?).map(|_| 0),
        false => watched.follow(verb.interval, tell).map(|()| 0),
    }
}

/// Prints one line; `false` where nobody reads any more.
fn tell(event: &Event) -> Result<bool> {
    let line =
        serde_json::to_string(event).map_err(|error| Error::new(Kind::Kernel, format!("write the event: {error}")))?;
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        written => written.doing(|| "write to standard output").map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_a_time_above_zero() {
        for (word, millis) in [("5s", 5000), ("500ms", 500), ("1m30s", 90_000)] {
            assert_eq!(interval(word), Ok(Duration::from_millis(millis)));
        }
        for word in ["0s", "", "5", "-1s", "x", "99999999999999999999s"] {
            assert!(interval(word).is_err(), "{word}");
        }
    }
}
