//! man/oci-conformance.md has a row for every property of the specification's types, and each row names a test.
#![allow(clippy::unwrap_used)]

mod properties;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

/// The parts for other systems: each is refused as a whole, and its properties have no rows.
const OTHERS: [&str; 4] = ["solaris", "vm", "windows", "zos"];

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The cells of every row.
fn rows() -> Vec<Vec<String>> {
    let text = fs::read_to_string(project().join("man/oci-conformance.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// `a.{b,c}` as `a.b` and `a.c`.
fn spelled_out(words: &str) -> Vec<String> {
    let Some((before, rest)) = words.split_once('{') else { return vec![words.to_owned()] };
    let (choices, after) = rest.split_once('}').unwrap();
    choices.split(',').flat_map(|choice| spelled_out(&format!("{before}{choice}{after}"))).collect()
}

#[test]
fn every_property_has_one_row_and_every_row_is_of_a_property() {
    let mut counted: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows() {
        for property in row[0].split('`').skip(1).step_by(2).flat_map(spelled_out) {
            *counted.entry(property).or_default() += 1;
        }
    }
    let below_others = |name: &str| OTHERS.iter().any(|other| name.starts_with(&format!("{other}.")));
    let known: Vec<String> = properties::of::<Spec>().into_keys().filter(|name| !below_others(name)).collect();
    let missing: Vec<_> = known.iter().filter(|name| !counted.contains_key(*name)).collect();
    let strange: Vec<_> = counted.keys().filter(|name| !known.contains(name)).collect();
    let double: Vec<_> = counted.iter().filter(|(_, count)| **count > 1).collect();
    assert!(missing.is_empty() && strange.is_empty() && double.is_empty(), "{missing:?} {strange:?} {double:?}");
    assert!(known.len() > 200, "{}", known.len());
}

#[test]
fn every_row_has_an_answer_and_a_test_that_is_there() {
    let answers =
        ["carried out", "carried out on version 1", "carried out on version 2", "ignored, with a warning", "refused"];
    for row in rows() {
        let [_, answer, _, test] = row.as_slice() else { panic!("{row:?}") };
        assert!(answers.contains(&answer.as_str()), "{row:?}");
        let (file, name) = test.trim_matches('`').split_once("::").unwrap_or_else(|| panic!("{row:?}"));
        let text = fs::read_to_string(project().join(format!("tests/{file}.rs"))).unwrap();
        assert!(text.contains(&format!("#[test]\nfn {name}() {{")), "{test} is not there");
    }
}
