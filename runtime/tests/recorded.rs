//! The configurations that real callers were recorded to send, and the specification's own example: each parses and
//! plans on every kind of host, to the letter of the plan that stands beside it.
//!
//! After a change of the plan on purpose: `BLESS=1 cargo test -p runtime --test recorded`, and read the difference.
// clippy.toml allows it in functions with #[test] only, not in those that they share.
#![allow(clippy::unwrap_used)]

mod invented;

use std::fs;
use std::path::{Path, PathBuf};

use runtime::bundle;
use secmodel::{Reach, caps, seccomp};

/// The folder, and the names in it of the files with one of the endings.
fn files(ending: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded");
    let mut found: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == ending));
    found.sort();
    found
}

/// A caller that has and may have everything.
fn all() -> Reach {
    let known: ::caps::CapsHashSet = ::caps::all();
    Reach { known: known.clone(), bounding: known.clone(), permitted: known }
}

/// What this program makes of a configuration on a host: its warnings and its plan, or why not.
fn planned(file: &Path, layout: &cgroup::Layout) -> String {
    let text = fs::read_to_string(file).unwrap();
    let bundle = match bundle::parse("/bundle".into(), text, "config.json") {
        Ok(bundle) => bundle,
        Err(error) => return format!("{error}\n"),
    };
    let asked = bundle.spec.process().as_ref().and_then(|process| process.capabilities().clone());
    let (caps, left_out) = caps::within(asked.as_ref(), &all());
    let warnings: String = left_out.iter().map(|warning| format!("warning: {warning}\n")).collect();
    // Not a part of the plan's text: how long a filter is depends on the library.
    for filter in bundle.spec.linux().iter().flat_map(|linux| linux.seccomp()) {
        seccomp::compile(filter).unwrap();
    }
    match invented::planned(&bundle.spec, layout, caps) {
        Ok(plan) => format!("{warnings}{plan}"),
        Err(error) => format!("{error}\n"),
    }
}

#[test]
fn every_recorded_configuration_has_its_plan_on_every_kind_of_host() {
    let mut differ = Vec::new();
    let mut seen = Vec::new();
    for (host, layout) in [("v2", invented::v2()), ("hybrid", invented::hybrid())] {
        for file in files("json") {
            let golden = file.with_extension(format!("{host}.plan"));
            let plan = planned(&file, &layout);
            if std::env::var_os("BLESS").is_some() {
                fs::write(&golden, &plan).unwrap();
            }
            let expected = fs::read_to_string(&golden).unwrap_or_default();
            if let Some(line) = first_difference(&expected, &plan) {
                differ.push(format!("{}: {line}", golden.display()));
            }
            seen.push(golden);
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    seen.sort();
    assert_eq!(files("plan"), seen, "a plan without a configuration");
    assert!(seen.len() >= 16, "{seen:?}");
}

fn first_difference(expected: &str, found: &str) -> Option<String> {
    let (mut expected, mut found) = (expected.lines(), found.lines());
    (1..).find_map(|number| match (expected.next(), found.next()) {
        (None, None) => Some(None),
        (one, other) if one == other => None,
        (one, other) => Some(Some(format!("line {number}: expected {one:?}, found {other:?}"))),
    })?
}
