//! What a step makes, as it is written down before it is made.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Something outside the jail's own processes that must be gone when the jail is gone.
///
/// An object is enough to undo it: no plan and no spec is needed. `undo` and `holders` belong to the leaf that owns the
/// kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// What it is, in the words of the leaf that owns it, such as `cgroup`. Text, so that an older program can read and
    /// name what a newer one has written.
    pub kind: String,
    /// Where it is: a path, a name.
    pub name: String,
    /// What tells it from another one of the same name: a mark that was put on it. Empty where the name is enough.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unique: String,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}
