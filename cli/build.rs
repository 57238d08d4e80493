//! Words for the linker: where the program begins, and what lies together in it.
//!
//! The program begins at `jail_entry` of sys/src/entry.rs instead of libc's `_start`.
//!
//! Of its text of 2.7 MB a `run` executes a quarter, which was scattered over all of it. The kernel maps 16 pages around
//! each one that is touched (`fault_around_bytes`), so nearly all of it was resident, twice. A release build puts first
//! what order.txt names. The names there are without hashes, so they stay as they are with the next compiler, and one
//! that matches nothing is passed over. lld, which is rustc's own, and GNU ld both understand the script.

use std::fmt::Write;
use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bins=-Wl,--entry=jail_entry");
    println!("cargo::rerun-if-changed=order.txt");
    if env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        let script = Path::new(&env::var("OUT_DIR").map_err(io::Error::other)?).join("order.ld");
        fs::write(&script, order(&fs::read_to_string("order.txt")?))?;
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{}", script.display());
    }
    Ok(())
}

/// The linker script: `INSERT` adds it to the linker's own.
fn order(list: &str) -> String {
    let (mut text, mut tables) = (String::new(), String::new());
    let lines = list.lines().filter(|line| !line.starts_with('#'));
    for (group, last) in lines.filter_map(|line| line.split_once(": ")) {
        for word in last.split(' ') {
            let _ = match group {
                // libc's start is no member of an archive; its first instructions are ours too.
                "c" => {
                    let _ = writeln!(tables, "*:{word}.o(.rodata .rodata.*)");
                    writeln!(text, "*:{word}.o(.text .text.*)")
                }
                "plain" => writeln!(text, "*(.text.{word})"),
                _ => {
                    // A section is named by its function, and a cold function's section has a word before that.
                    let name: String =
                        group.split(' ').chain([word]).map(|word| format!("*{}", mangled(word))).collect();
                    let _ = writeln!(tables, "*(.rodata*_R{name}*)");
                    writeln!(text, "*(.text*_R{name}*)")
                }
            };
        }
    }
    // Constants have no names that last. Most of what is aligned to 4 are the tables of a regular expression that no
    // run evaluates, and texts, aligned to 1, are used by all: sorted, those are in the midst and these at the end. It
    // begins on a page of its own, since GNU ld would put it into the executable segment.
    format!(
        "SECTIONS {{ . = ALIGN(CONSTANT(MAXPAGESIZE)); .rodata.hot : {{ {tables}\
         *(.rodata._R*10serde_json*6ESCAPE* .rodata._R*4zmij* .rodata.cst*)\n\
         *(SORT_BY_ALIGNMENT(.rodata..Lanon.*)) *(.rodata.str*) }} }} INSERT BEFORE .rodata;\n\
         SECTIONS {{ .text.hot : {{ *crt1.o(.text) *(.iplt)\n{text}}} }} INSERT BEFORE .text;\n"
    )
}

/// One identifier as a mangled name has it.
fn mangled(word: &str) -> String {
    let apart = if word.starts_with(|letter: char| letter == '_' || letter.is_ascii_digit()) { "_" } else { "" };
    format!("{}{apart}{word}", word.len())
}
