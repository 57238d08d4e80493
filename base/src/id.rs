//! Names of jails.

use std::fmt;

use sys::{Error, Result};

/// A checked name of a jail; the only way to form a path in the store.
///
/// It is what runc and crun accept: letters, digits, `_`, `+`, `-` and `.`, not `.` or `..`, and no longer than a file
/// name. A leading `.` is refused, since the store keeps its own files under such names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JailId(String);

/// The longest name, in bytes: NAME_MAX of every file system that a store lives on, less room for a suffix.
pub const LONGEST: usize = 200;

impl JailId {
    /// Checks a name.
    ///
    /// # Errors
    /// `Invalid`, with what is wrong with it.
    pub fn new(name: &str) -> Result<Self> {
        let reason = if name.is_empty() {
            "it is empty".to_owned()
        } else if name.len() > LONGEST {
            format!("it has {} characters, at most {LONGEST} are allowed", name.len())
        } else if name.starts_with('.') {
            "it starts with '.'".to_owned()
        } else if let Some(bad) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || "_+-.".contains(*c))) {
            format!("it contains {bad:?}; letters, digits, '_', '+', '-' and '.' are allowed")
        } else {
            return Ok(Self(name.to_owned()));
        };
        let shown: String = name.chars().take(40).collect();
        let dots = if shown.len() < name.len() { "…" } else { "" };
        Err(Error::invalid(format!("use {:?} as a name: {reason}", shown + dots)))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JailId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
