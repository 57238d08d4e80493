//! JSON documents from outside: read with care, and refused with the place of what is wrong.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat};
use serde::de::DeserializeOwned;
use sys::{Doing, Error, Result};

use crate::strict;

/// The largest document, in bytes.
const LARGEST: u64 = 16 << 20;

/// Reads a file that must be a regular one: opening a FIFO does not block, a directory and a device are refused.
///
/// # Errors
/// Naming the file and what is wrong with it.
pub fn read(path: &Path) -> Result<String> {
    let step = || format!("read {}", path.display());
    let fd: OwnedFd = open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty()).doing(step)?;
    let stat = fstat(&fd).doing(step)?;
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Err(Error::invalid(format!("{}: it is no regular file", step())));
    }
    all(File::from(fd), stat.st_size.clamp(0, LARGEST as i64 + 1) as usize, step)
}

/// Reads the standard input to its end, whatever it is.
///
/// # Errors
/// As [`read`].
pub fn read_input() -> Result<String> {
    all(std::io::stdin(), 0, || "read the standard input".to_owned())
}

/// Reads what is not too large; `expected` is its size in bytes as far as it is known.
fn all(from: impl Read, expected: usize, step: impl Fn() -> String) -> Result<String> {
    let mut text = String::with_capacity(expected + 1);
    let read = from.take(LARGEST + 1).read_to_string(&mut text);
    if expected as u64 > LARGEST || text.len() as u64 > LARGEST {
        return Err(Error::invalid(format!("{}: it is larger than {} MiB", step(), LARGEST >> 20)));
    }
    match read {
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            Err(Error::invalid(format!("{}: it is not UTF-8", step())))
        }
        other => other.doing(step).map(|_| text),
    }
}

/// Turns text into a document. `name` is for people: the file's path.
///
/// The answer also holds one warning for each property that nobody knows, with its place.
///
/// # Errors
/// `Invalid` with the JSON pointer, line and column.
pub fn parse<T: DeserializeOwned>(text: &str, name: &str) -> Result<(T, Vec<String>)> {
    let (parsed, mut unknown) =
        strict::from_str(text).map_err(|wrong| Error::invalid(format!("use {name}:{wrong}")))?;
    refuse_nul(text, name)?;
    unknown.sort();
    let warnings = unknown.into_iter().map(|what| format!("{name}: unknown {what} is ignored")).collect();
    Ok((parsed, warnings))
}

/// Puts file, line and column into a refusal that names a JSON pointer: `use /process/args: …`.
pub fn locate(mut error: Error, name: &str, text: &str) -> Error {
    let (verb, rest) = error.what.split_once(' ').unwrap_or_default();
    let pointer = rest.split([' ', ':']).next().unwrap_or_default();
    if !matches!(verb, "use" | "apply" | "mount") || !pointer.starts_with('/') {
        return error;
    }
    let keys: Vec<String> = pointer.split('/').skip(1).map(|key| key.replace("~1", "/").replace("~0", "~")).collect();
    if let Some((line, column)) = position(text, &keys) {
        error.what = format!("{verb} {name}:{line}:{column}: {rest}");
    }
    error
}

/// Where the value of a pointer begins, or of as much of it as there is.
fn position(text: &str, keys: &[String]) -> Option<(usize, usize)> {
    (0..=keys.len()).rev().find_map(|len| {
        let mut json = serde_json::Deserializer::from_str(text);
        let found = serde::de::DeserializeSeed::deserialize(Seek(&keys[..len]), &mut json).err()?;
        // Any other error means that there is no such place.
        let text = found.to_string();
        let there = text.starts_with(Seek::FOUND) || text.contains("expected found");
        there.then(|| (found.line(), found.column()))
    })
}

/// Follows the keys through a document and stops at their end with an error, since that is what has a position.
struct Seek<'a>(&'a [String]);

impl Seek<'_> {
    const FOUND: &'static str = "found";
}

impl<'de> serde::de::DeserializeSeed<'de> for Seek<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> serde::de::Visitor<'de> for Seek<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Said of a text, a number or nothing: it is the place where there are no more keys.
        f.write_str(if self.0.is_empty() { Self::FOUND } else { "more" })
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((first, rest)) = self.0.split_first() else { return Err(serde::de::Error::custom(Self::FOUND)) };
        while let Some(key) = map.next_key::<String>()? {
            match key == *first {
                true => return map.next_value_seed(Seek(rest)),
                false => map.next_value::<serde::de::IgnoredAny>().map(drop)?,
            }
        }
        Ok(())
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Some((first, rest)) = self.0.split_first() else { return Err(serde::de::Error::custom(Self::FOUND)) };
        for _ in 0..first.parse::<usize>().unwrap_or(usize::MAX) {
            if list.next_element::<serde::de::IgnoredAny>()?.is_none() {
                return Ok(());
            }
        }
        list.next_element_seed(Seek(rest)).map(drop)
    }
}

/// The kernel ends every string at NUL, so one in a document would silently cut what was asked for.
fn refuse_nul(text: &str, name: &str) -> Result<()> {
    if !text.contains("\\u0000") {
        return Ok(());
    }
    let value: serde_json::Value =
        serde_json::from_str(text).map_err(|error| Error::invalid(format!("use {name}: {error}")))?;
    match find_nul(&value) {
        Some(place) => {
            let line = text.lines().position(|line| line.contains("\\u0000")).unwrap_or_default();
            let column = text.lines().nth(line).and_then(|line| line.find("\\u0000")).unwrap_or_default();
            Err(Error::invalid(format!("use {name}:{}:{}: {place}: it contains NUL", line + 1, column + 1)))
        }
        None => Ok(()),
    }
}

fn find_nul(value: &serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::String(text) => text.contains('\0').then(String::new),
        serde_json::Value::Array(list) => {
            list.iter().enumerate().find_map(|(index, item)| Some(format!("/{index}{}", find_nul(item)?)))
        }
        serde_json::Value::Object(map) => map.iter().find_map(|(key, item)| match key.contains('\0') {
            true => Some("/a key".to_owned()),
            false => Some(format!("/{key}{}", find_nul(item)?)),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::Spec;

    fn refusal(text: &str) -> String {
        parse::<Spec>(text, "config.json").unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_type_is_refused_with_its_place() {
        let text = r#"{"ociVersion":"1.2.0",
"process":{"cwd":"/","user":{"uid":"nobody","gid":0}}}"#;
        assert_eq!(
            refusal(text),
            "cannot use config.json:2:43: /process/user/uid: invalid type: string \"nobody\", expected u32"
        );
    }

    #[test]
    fn a_string_with_nul_is_refused_with_its_place() {
        let text = r#"{"ociVersion":"1.2.0","hostname":"a\u0000b"}"#;
        assert_eq!(refusal(text), "cannot use config.json:1:36: /hostname: it contains NUL");
    }

    #[test]
    fn a_refusal_that_names_a_pointer_gets_the_place() {
        let text = "{\"process\":\n {\"args\": [], \"cwd\": \"x\",\n \"rlimits\": [1, {\"soft\": 2}]}}";
        let place = |pointer: &str| locate(Error::invalid(format!("use {pointer}: no")), "c", text).what;
        assert_eq!(place("/process/args"), "use c:2:12: /process/args: no");
        assert_eq!(place("/process/rlimits/1/soft"), "use c:3:26: /process/rlimits/1/soft: no");
        // As much of it as there is.
        assert_eq!(place("/process/user/uid"), "use c:2:2: /process/user/uid: no");
        assert_eq!(place("nothing"), "use nothing: no");
    }

    #[test]
    fn an_unknown_property_is_one_warning_with_its_place() {
        let text = r#"{"ociVersion":"1.2.0","linux":{"maskedPathz":[]}}"#;
        let (_, warnings) = parse::<Spec>(text, "config.json").unwrap();
        assert_eq!(warnings, ["config.json: unknown property /linux/maskedPathz is ignored"]);
    }
}
