//! What most tests begin and end with: a bundle, the host before it, and the proof that nothing is left of it.

use crate::{Bundle, Host, Runtime, entries, installed};

/// A bundle for the binary under test, and what the host was before anything was done with it.
pub fn stage() -> (Bundle, Host) {
    stage_of(Runtime::jail())
}

/// The same for another runtime.
pub fn stage_of(runtime: Runtime) -> (Bundle, Host) {
    let bundle = Bundle::of(runtime);
    let host = Host::snapshot(&bundle.id, &[]);
    (bundle, host)
}

/// A jail whose program sleeps, and the host before it.
pub fn running() -> (Bundle, Host) {
    running_of(Runtime::jail())
}

/// The same for another runtime.
pub fn running_of(runtime: Runtime) -> (Bundle, Host) {
    let (mut bundle, host) = stage_of(runtime);
    bundle.start_sleeper();
    (bundle, host)
}

/// The binary under test, and runc as the control: a test that runc fails too is a wrong test.
pub fn runtimes() -> Vec<Runtime> {
    let mut all = vec![Runtime::jail()];
    all.extend(installed("runc").then(|| Runtime::of("runc")));
    all
}

/// Asserts that no jail is in the store and that the host is as before.
///
/// # Panics
/// With the name of what is left.
#[track_caller]
pub fn left_nothing(bundle: &Bundle, host: &Host) {
    assert_eq!(entries(&bundle.root), [""; 0], "the store is not empty");
    host.assert_unchanged();
}
