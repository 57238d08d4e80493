//! config.json: refused in one line, or planned on every kind of host.
#![no_main]

#[path = "../../runtime/tests/invented/mod.rs"]
mod invented;
#[path = "../one_line.rs"]
mod one_line;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let read = runtime::bundle::parse("/bundle".into(), text.to_owned(), "config.json");
    let Some(bundle) = one_line::checked(read) else { return };
    for layout in [invented::v2(), invented::hybrid()] {
        one_line::checked(invented::planned(&bundle.spec, &layout, secmodel::Caps::default()));
    }
});
