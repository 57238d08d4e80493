//! Every part of the recorded configurations, dropped, of another type, or too large: refused in one line, or a plan.
#![allow(clippy::unwrap_used)]

mod invented;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use runtime::bundle;
use secmodel::Caps;
use serde_json::Value;
use tests::mutations;

fn recorded(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/recorded/{name}.json"));
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// What is wrong with the answer to a document.
fn complaint(document: &Value) -> Option<String> {
    let answer = catch_unwind(AssertUnwindSafe(|| {
        let bundle = bundle::parse("/bundle".into(), document.to_string(), "config.json")?;
        for layout in [invented::v2(), invented::hybrid()] {
            invented::planned(&bundle.spec, &layout, Caps::default())?;
        }
        Ok::<(), sys::Error>(())
    }));
    let refusal = match answer {
        Err(_) => return Some("it panics".to_owned()),
        Ok(Ok(())) => return None,
        Ok(Err(error)) => error.to_string(),
    };
    let one_line =
        refusal.starts_with("cannot ") && !refusal.chars().any(char::is_control) && refusal.chars().count() < 1500;
    (!one_line).then(|| format!("the refusal is not one short line: {}", refusal.chars().take(300).collect::<String>()))
}

fn all_mutations_of(name: &str) {
    let document = recorded(name);
    assert_eq!(complaint(&document), None, "{name} itself");
    let (mut tried, mut found) = (0, Vec::new());
    mutations(&document, &mut |what, mutated| {
        tried += 1;
        found.extend(complaint(mutated).map(|complaint| format!("{name} {what}: {complaint}")));
    });
    println!("{name}: {tried} documents");
    assert!(found.is_empty(), "{} complaints:\n{}", found.len(), found.join("\n"));
    assert!(tried > 1000, "{name}: {tried} documents");
}

#[test]
fn no_change_of_dockers_configuration_is_answered_by_anything_but_a_plan_or_one_line() {
    all_mutations_of("docker-20.10");
}

#[test]
fn no_change_of_podmans_configuration_is_answered_by_anything_but_a_plan_or_one_line() {
    all_mutations_of("podman-4.3");
}

#[test]
fn no_change_of_the_kubelets_configuration_is_answered_by_anything_but_a_plan_or_one_line() {
    all_mutations_of("cri-2.1");
}

#[test]
fn no_change_of_containerds_configuration_is_answered_by_anything_but_a_plan_or_one_line() {
    all_mutations_of("containerd-2.1");
}

#[test]
fn no_change_of_buildahs_configuration_is_answered_by_anything_but_a_plan_or_one_line() {
    all_mutations_of("buildah-1.28");
}

#[test]
fn no_change_of_the_specifications_example_is_answered_by_anything_but_a_plan_or_one_line() {
    all_mutations_of("specification");
}
