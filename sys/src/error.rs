//! The one error of the whole program.
//!
//! An error is plain data, so that it crosses from the jail's side to the parent unchanged. Its sentence is made once,
//! where the object's name is known.

use std::borrow::Cow;
use std::fmt;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of refusal an [`Error`] is; callers branch on this, never on the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The input makes no sense, on any host.
    Invalid,
    /// The named thing does not exist.
    NotFound,
    /// The named thing exists already.
    Exists,
    /// The jail is not in the state that the verb needs.
    WrongState,
    /// This program or this host cannot do it.
    Unsupported,
    /// The caller may not do it.
    Denied,
    /// The kernel refused a call.
    Kernel,
}

/// A step that did not work, and why: printed as `cannot <what>: <reason>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// What kind of refusal this is.
    pub kind: Kind,
    /// The step that did not work; with no `errno` it carries the reason too.
    pub what: String,
    /// The kernel's reason, as in errno(3).
    pub errno: Option<i32>,
    /// What else went wrong on the way out, such as an undo; never the cause.
    pub also: Vec<Error>,
}

impl Error {
    /// An error of our own: `what` is the whole text after "cannot".
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), errno: None, also: Vec::new() }
    }

    /// The input makes no sense.
    pub fn invalid(what: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, what)
    }

    /// This program or this host cannot do it.
    pub fn unsupported(what: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, what)
    }

    /// The kernel refused `step` with `errno`.
    pub fn kernel(step: impl fmt::Display, errno: Errno) -> Self {
        let kind = match errno {
            Errno::ENOENT => Kind::NotFound,
            Errno::EEXIST => Kind::Exists,
            Errno::EPERM | Errno::EACCES => Kind::Denied,
            Errno::ENOSYS | Errno::EOPNOTSUPP => Kind::Unsupported,
            _ => Kind::Kernel,
        };
        Self { kind, what: step.to_string(), errno: Some(errno as i32), also: Vec::new() }
    }

    /// The same error with one more that it must not hide.
    #[must_use]
    pub fn and(mut self, other: Error) -> Self {
        self.also.push(other);
        self
    }

    /// The kernel's reason, if there was one.
    pub fn errno(&self) -> Option<Errno> {
        self.errno.map(Errno::from_raw)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", one_line(&self.what))?;
        if let Some(errno) = self.errno() {
            write!(f, ": {}", reason(errno))?;
        }
        for other in &self.also {
            write!(f, "; also, {other}")?;
        }
        Ok(())
    }
}

/// The longest text that is printed whole, in characters. Of a longer one both ends are: the step, and the reason.
const LONGEST: usize = 1200;

/// A text of ours in which names of others may stand, so that it is one line whatever those are, of a length that a
/// person reads, and no terminal takes a part of it for a command: what is not shown is escaped.
pub fn one_line(text: &str) -> Cow<'_, str> {
    let escaped = |letter: char| if letter.is_control() { letter.escape_default().to_string() } else { letter.into() };
    let line = match text.contains(char::is_control) {
        true => Cow::Owned(text.chars().map(escaped).collect()),
        false => Cow::Borrowed(text),
    };
    match shortened(&line) {
        Some(short) => Cow::Owned(short),
        None => line,
    }
}

fn shortened(text: &str) -> Option<String> {
    let count = text.chars().count();
    let left_out = count.checked_sub(LONGEST).filter(|count| *count > 0)?;
    let nth = |number: usize| text.char_indices().nth(number).map_or(text.len(), |(at, _)| at);
    let (head, tail) = (&text[..nth(LONGEST / 2)], &text[nth(count - LONGEST / 2)..]);
    Some(format!("{head}[… {left_out} more …]{tail}"))
}

/// The kernel's reason in lower case, as callers of a runtime match it ("no such file or directory").
fn reason(errno: Errno) -> String {
    let text = errno.desc();
    let mut letters = text.chars();
    match (letters.next(), letters.next()) {
        // An abbreviation, such as "I/O error", stays as it is.
        (Some(first), Some(second)) if second.is_lowercase() => {
            first.to_lowercase().to_string() + &text[first.len_utf8()..]
        }
        _ => text.to_owned(),
    }
}

impl std::error::Error for Error {}

/// Gives a kernel's refusal its sentence.
pub trait Doing<T> {
    /// Names the step that was being done, as in `open(…).doing(|| format!("open {path}"))`.
    ///
    /// # Errors
    /// The refusal, with `step` before it.
    fn doing<D: fmt::Display>(self, step: impl FnOnce() -> D) -> Result<T>;
}

impl<T> Doing<T> for nix::Result<T> {
    fn doing<D: fmt::Display>(self, step: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|errno| Error::kernel(step(), errno))
    }
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing<D: fmt::Display>(self, step: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| match error.raw_os_error() {
            Some(raw) => Error::kernel(step(), Errno::from_raw(raw)),
            None => Error::new(Kind::Kernel, format!("{}: {error}", step())),
        })
    }
}
