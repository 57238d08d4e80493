//! The program begins at `jail_entry` of sys/src/entry.rs instead of libc's `_start`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bins=-Wl,--entry=jail_entry");
}
