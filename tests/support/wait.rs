//! Waiting, never for longer than the usual limit.

use std::process::Child;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::LIMIT;

/// Waits until a condition holds.
///
/// # Panics
/// If it never does.
#[track_caller]
pub fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < end, "never seen: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The exit code of a child that must end by itself.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn code(child: &mut Child) -> Option<i32> {
    let mut status = None;
    wait_for("the end of the command", || {
        status = child.try_wait().expect("a child of this process");
        status.is_some()
    });
    status.and_then(|status| status.code())
}

/// Gives what ACT does on a thread of its own: nothing there may block for ever.
///
/// # Panics
/// If it does.
pub fn within_limit<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wait) = mpsc::channel();
    std::thread::spawn(move || done.send(act()));
    wait.recv_timeout(LIMIT).expect("it ended in time")
}
