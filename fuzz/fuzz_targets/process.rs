//! The document of a process, as `exec` reads it: refused in one line, or known.
#![no_main]

#[path = "../one_line.rs"]
mod one_line;

libfuzzer_sys::fuzz_target!(|text: &str| {
    one_line::checked(runtime::bundle::parse_process(text, "process.json"));
});
