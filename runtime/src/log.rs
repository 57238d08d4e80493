//! Warnings, and the log file that OCI callers read the reason of a failure from.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::SystemTime;

use serde_json::json;
use sys::{Doing, Error, Result};

/// How a line of the log file looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `key=value`, as logrus writes it.
    #[default]
    Text,
    /// One JSON object a line; containerd and podman parse this.
    Json,
}

struct Log {
    file: Option<File>,
    format: Format,
    debug: bool,
}

/// The only global state: where words go, which is the same for the whole program.
static LOG: OnceLock<Log> = OnceLock::new();

/// Says where the log goes, once, before anything is logged.
///
/// # Errors
/// Where the file cannot be opened for appending.
pub fn open(path: Option<&Path>, format: Format, debug: bool) -> Result<()> {
    let file = match path {
        // Not blocking: a FIFO that nobody reads must not hang the runtime.
        Some(path) => Some(
            OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .custom_flags(nix::libc::O_NONBLOCK)
                .open(path)
                .doing(|| format!("open the log {}", path.display()))?,
        ),
        None => None,
    };
    let _ = LOG.set(Log { file, format, debug });
    Ok(())
}

/// One warning: in the log, or on stderr where there is none. A caller that has a log wants nothing of this on stderr,
/// which it has made that of the container.
pub fn warn(text: &str) {
    match has_file() {
        true => write("warning", text),
        false => eprintln!("jail: warning: {}", sys::error::one_line(text)),
    }
}

/// The error that ends the program: in the log; the caller prints it.
pub fn error(error: &Error) {
    write("error", &error.to_string());
}

/// What is being done, where `--debug` asks for it.
pub fn debug(text: impl FnOnce() -> String) {
    if LOG.get().is_some_and(|log| log.debug) {
        let text = text();
        match has_file() {
            true => write("debug", &text),
            false => eprintln!("jail: {text}"),
        }
    }
}

fn has_file() -> bool {
    LOG.get().is_some_and(|log| log.file.is_some())
}

fn write(level: &str, text: &str) {
    let Some(Log { file: Some(file), format, .. }) = LOG.get() else { return };
    let time = humantime::format_rfc3339_seconds(SystemTime::now());
    let line = match format {
        Format::Json => json!({ "level": level, "msg": text, "time": time.to_string() }).to_string(),
        Format::Text => format!("time=\"{time}\" level={level} msg={text:?}"),
    };
    // There is nobody left to tell where the log itself cannot be written.
    let _ = (&*file).write_all(format!("{line}\n").as_bytes());
}
