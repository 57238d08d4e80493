//! The names of units, and where they are among the cgroups.
//!
//! Source: systemd.unit(5), systemd.slice(5).

use std::path::{Path, PathBuf};

use sys::{Error, Result};

/// Where a jail is among systemd's units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) slice: String,
    pub(crate) unit: String,
    /// Below the cgroup of systemd itself.
    pub(crate) path: PathBuf,
}

impl Name {
    /// Reads `linux.cgroupsPath`, which is `slice:prefix:name` here. Where there is none, the scope is `jail-ID.scope`.
    pub(crate) fn of(path: Option<&Path>, id: &str) -> Result<Self> {
        let text = path.map(Path::to_string_lossy).unwrap_or_default();
        let wrong = |why: String| Err(Error::invalid(format!("use /linux/cgroupsPath {text:?}: {why}")));
        let mut parts = text.split(':');
        let (slice, prefix, name) = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(""), None, ..) => ("", "jail", id),
            (Some(slice), Some(prefix), Some(name), None) => (slice, prefix, name),
            _ => return wrong("with --systemd-cgroup it is slice:prefix:name".to_owned()),
        };
        if name.is_empty() {
            return wrong("the name is empty".to_owned());
        }
        if name.ends_with(".slice") {
            return wrong(format!("{name} is a slice, and processes are in scopes only"));
        }
        let unit = format!("{prefix}-{name}.scope");
        if let Some(bad) = unit.chars().find(|c| !(c.is_ascii_alphanumeric() || ":-_.\\".contains(*c))) {
            return wrong(format!(
                "{unit} contains {bad:?}; a unit's name has letters, digits, ':', '-', '_', '.' and '\\'"
            ));
        }
        if unit.len() > LONGEST {
            return wrong(format!("the unit's name has {} characters, at most {LONGEST} are allowed", unit.len()));
        }
        let slice = if slice.is_empty() { "system.slice" } else { slice };
        match expand(slice) {
            Some(path) => Ok(Self { slice: slice.to_owned(), path: path.join(&unit), unit }),
            None => wrong(format!("{slice} is no slice; one is called system.slice, or a-b.slice for b below a")),
        }
    }
}

/// The longest name of a unit, in bytes.
const LONGEST: usize = 255;

/// The directory of a slice: `a-b.slice` is in `a.slice`.
fn expand(slice: &str) -> Option<PathBuf> {
    let stem = slice.strip_suffix(".slice")?;
    if stem == "-" {
        return Some(PathBuf::new());
    }
    let valid = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || ":_.\\".contains(c));
    if slice.len() > LONGEST || !stem.split('-').all(valid) {
        return None;
    }
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    Some(ends.map(|end| format!("{}.slice", &stem[..end])).collect())
}

#[cfg(test)]
mod tests {
    use sys::Kind;

    use super::*;

    fn name(path: &str) -> Result<Name> {
        Name::of(Some(Path::new(path)), "id")
    }

    #[test]
    fn a_path_is_a_slice_a_prefix_and_a_name() {
        for (path, slice, unit, dir) in [
            ("", "system.slice", "jail-id.scope", "system.slice/jail-id.scope"),
            (":runc:a", "system.slice", "runc-a.scope", "system.slice/runc-a.scope"),
            ("machine.slice:libpod:7f", "machine.slice", "libpod-7f.scope", "machine.slice/libpod-7f.scope"),
            ("a-b-c.slice:p:n", "a-b-c.slice", "p-n.scope", "a.slice/a-b.slice/a-b-c.slice/p-n.scope"),
            ("-.slice:p:n", "-.slice", "p-n.scope", "p-n.scope"),
            ("a.slice::n", "a.slice", "-n.scope", "a.slice/-n.scope"),
        ] {
            let found = name(path).unwrap();
            assert_eq!((found.slice.as_str(), found.unit.as_str(), found.path), (slice, unit, dir.into()), "{path}");
        }
        assert_eq!(Name::of(None, "web").unwrap().unit, "jail-web.scope");
    }

    #[test]
    fn a_path_that_is_none_is_refused() {
        for (path, words) in [
            ("/a/b", "it is slice:prefix:name"),
            ("a.slice:b", "it is slice:prefix:name"),
            ("a.slice:b:c:d", "it is slice:prefix:name"),
            ("a.slice:b:", "the name is empty"),
            ("a.slice:b:c.slice", "processes are in scopes only"),
            ("a.slice:b:c/d", "contains '/'"),
            ("a.slice:b:c+d", "contains '+'"),
            ("a:b:c", "a is no slice"),
            ("a--b.slice:b:c", "is no slice"),
            ("-a.slice:b:c", "is no slice"),
            ("../a.slice:b:c", "is no slice"),
            (".slice:b:c", "is no slice"),
        ] {
            let error = name(path).unwrap_err();
            assert!(error.kind == Kind::Invalid && error.what.contains(words), "{path}: {error}");
        }
        assert!(Name::of(Some(Path::new(&format!(":p:{}", "n".repeat(300)))), "id").unwrap_err().what.contains("255"));
    }
}
