//! What is at an address, by names that outlive a compiler.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// The archives whose objects are a part of the program; what libm.a names is in a file of its own.
const ARCHIVES: [&str; 4] = ["libc.a", "libm.a", "libgcc_eh.a", "libseccomp.a"];

/// One entry of the list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// All words but the last.
    pub(crate) group: String,
    /// The last one.
    pub(crate) word: String,
}

/// The functions of a program.
#[derive(Debug)]
pub(crate) struct Names {
    /// By the address at which each begins: its names.
    functions: BTreeMap<u64, Vec<String>>,
    /// The objects of the archives that have a function of this name; no more than one where it is global.
    objects: BTreeMap<String, BTreeSet<String>>,
}

impl Names {
    /// Reads them with nm(1).
    pub(crate) fn of(program: &str) -> Result<Names, String> {
        let mut functions: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for line in nm(program)?.lines() {
            if let [address, kind, name] = *line.split_whitespace().collect::<Vec<_>>()
                && "tTwWi".contains(kind)
                && let Ok(address) = u64::from_str_radix(address, 16)
            {
                functions.entry(address).or_default().push(name.to_string());
            }
        }
        if !functions.values().flatten().any(|name| name.starts_with("_R")) {
            return Err(format!("{program} has no symbols"));
        }
        let mut objects: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for archive in ARCHIVES {
            let mut object = String::new();
            for line in nm(&found(archive)?)?.lines() {
                match *line.split_whitespace().collect::<Vec<_>>() {
                    [header] => object = header.trim_end_matches(".o:").to_string(),
                    [_, kind, name] if "tTwWi".contains(kind) => {
                        objects.entry(name.to_string()).or_default().insert(object.clone());
                    }
                    _ => (),
                }
            }
        }
        Ok(Names { functions, objects })
    }

    /// Where they begin.
    pub(crate) fn functions(&self) -> BTreeSet<u64> {
        self.functions.keys().copied().collect()
    }

    /// What begins at ADDRESS.
    pub(crate) fn at(&self, address: u64) -> Option<Place> {
        let names = self.functions.get(&address)?;
        if let Some(name) = names.iter().find(|name| name.starts_with("_R")) {
            let mut words = words(name);
            let word = words.pop()?;
            return Some(Place { group: words.join(" "), word });
        }
        let mut known = names.iter().filter_map(|name| self.objects.get(name));
        match known.find(|objects| objects.len() == 1) {
            Some(objects) => Some(Place { group: "c".to_string(), word: objects.first()?.clone() }),
            // A name that many objects have leads to none of them.
            None if names.iter().any(|name| self.objects.contains_key(name)) => None,
            None => Some(Place { group: "plain".to_string(), word: names.first()?.clone() }),
        }
    }
}

/// Where the linker finds an archive.
fn found(archive: &str) -> Result<String, String> {
    let path = said("cc", &format!("-print-file-name={archive}"))?.trim().to_string();
    // libm.a of glibc is a script: GROUP ( /usr/lib/x86_64-linux-gnu/libm-2.36.a … ).
    let bytes = std::fs::read(&path).map_err(|error| format!("{path}: {error}"))?;
    let text = if bytes.starts_with(b"!<arch>") { String::new() } else { String::from_utf8_lossy(&bytes).into_owned() };
    Ok(text.split_whitespace().find(|word| word.contains("/libm-")).map_or(path, str::to_string))
}

fn nm(file: &str) -> Result<String, String> {
    said("nm", file)
}

fn said(program: &str, word: &str) -> Result<String, String> {
    let output = Command::new(program).arg(word).output().map_err(|error| format!("cannot run {program}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{program} {word}: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The identifiers of a mangled name in their order, without that of the crate that asked for the instance. Source: "v0
/// Symbol Format" of the rustc book: a number and that many bytes; what stands between is tags of one letter, of which
/// some are followed by a number of base 62 or 16 and an underscore.
fn words(mangled: &str) -> Vec<String> {
    let mut words = Vec::new();
    // An instance is asked for by the crate that the name ends with, after the path of the function.
    let mut asked_by = false;
    let mut rest = mangled.trim_start_matches("_R");
    while let Some(first) = rest.chars().next() {
        let number = |rest: &str| rest.find(|letter: char| !letter.is_ascii_alphanumeric());
        match first {
            '.' => break,
            // The kind of a name.
            'N' => rest = rest.get(2..).unwrap_or_default(),
            'B' | 'L' | 'G' | 's' | 'K' | 'a'..='z' => {
                let end = number(&rest[1..]).filter(|end| rest[1 + end..].starts_with('_'));
                rest = end.map_or(&rest[1..], |end| &rest[end + 2..]);
            }
            '0'..='9' => {
                let digits = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
                let length: usize = rest[..digits].parse().unwrap_or(0);
                let text = rest[digits..].strip_prefix('_').filter(|_| length > 0).unwrap_or(&rest[digits..]);
                let Some((word, after)) = text.split_at_checked(length) else { break };
                if length > 0 && !(asked_by && after.is_empty() && words.len() > 1) {
                    words.push(word.to_string());
                }
                asked_by = false;
                rest = after;
                continue;
            }
            _ => rest = &rest[1..],
        }
        asked_by = first == 'C' || (asked_by && first == 's');
    }
    words
}
