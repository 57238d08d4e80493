//! A document with one part of it dropped, of another type, or too large.

use serde_json::{Value, json};

/// Calls `visit` with every such document, after some words that tell what was done to it.
///
/// # Panics
/// If the document has no parts.
pub fn mutations(document: &Value, visit: &mut dyn FnMut(&str, &Value)) {
    let mut all = Vec::new();
    pointers(document, "", &mut all);
    assert!(!all.is_empty(), "a document of no parts");
    for pointer in &all {
        let mut mutated = document.clone();
        drop_part(&mut mutated, pointer);
        visit(&format!("without {pointer}"), &mutated);
        let original = document.pointer(pointer).expect("a pointer of this document");
        let mut mutated = document.clone();
        for value in strangers().into_iter().chain(enlarged(original)) {
            let what = format!("{pointer} = {:.60}", value.to_string());
            *mutated.pointer_mut(pointer).expect("a pointer of this document") = value;
            visit(&what, &mutated);
        }
    }
}

/// The longest list of which every item is changed; of a longer one, only the first ones are, which are like the rest.
const ITEMS: usize = 3;

/// The pointers of a document's parts, each after those that it is in.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let at = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
                found.push(at.clone());
                pointers(value, &at, found);
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().take(ITEMS).enumerate() {
                let at = format!("{at}/{index}");
                found.push(at.clone());
                pointers(value, &at, found);
            }
        }
        _ => {}
    }
}

fn drop_part(document: &mut Value, pointer: &str) {
    let (way, last) = pointer.rsplit_once('/').expect("a pointer of this document");
    match document.pointer_mut(way).expect("a pointer of this document") {
        Value::Object(map) => drop(map.remove(&last.replace("~1", "/").replace("~0", "~"))),
        Value::Array(list) => drop(list.remove(last.parse().expect("a pointer of this document"))),
        other => unreachable!("{other}"),
    }
}

/// What stands in the place of a part, whatever that was.
fn strangers() -> Vec<Value> {
    vec![
        Value::Null,
        json!(true),
        json!(0),
        json!(-1),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1e300),
        json!(""),
        json!("x"),
        json!("../../.."),
        json!("/"),
        json!("a\0b"),
        json!("a\nb\u{1b}[31m"),
        json!("ä".repeat(5000)),
        json!([]),
        json!([[]]),
        json!(["x", "x"]),
        json!({}),
        json!({"": {}}),
    ]
}

/// The same, only larger.
fn enlarged(value: &Value) -> Option<Value> {
    match value {
        Value::String(text) => Some(json!(text.repeat(5000))),
        Value::Array(list) => Some(json!(list.iter().cycle().take(list.len() * 40).collect::<Vec<_>>())),
        Value::Object(map) => {
            let (_, value) = map.iter().next()?;
            Some((0..2000).map(|number| (format!("x{number}"), value.clone())).collect())
        }
        Value::Number(number) => Some(json!(number.as_u64()?.saturating_mul(1 << 40))),
        Value::Bool(_) | Value::Null => None,
    }
}
