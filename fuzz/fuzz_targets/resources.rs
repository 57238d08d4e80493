//! The document of limits, as `update` reads it: refused in one line, or planned on every kind of host.
#![no_main]

#[path = "../../runtime/tests/invented/mod.rs"]
#[allow(dead_code, reason = "the hosts alone are needed here")]
mod invented;
#[path = "../one_line.rs"]
mod one_line;

use runtime::update::Change;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let read = Change::parse(text.to_owned(), "resources.json".to_owned());
    let Some(change) = one_line::checked(read) else { return };
    for layout in [invented::v2(), invented::hybrid()] {
        one_line::checked(cgroup::plan(None, "x", "hash-1", Some(change.resources()), &layout));
    }
});
