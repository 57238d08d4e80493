//! Real callers of runtimes, each in a room of its own. The tests and the benchmark drive them alike.

mod containerd;
mod docker;
mod podman;

pub use containerd::Containerd;
pub use docker::Docker;
pub use podman::Podman;

/// What a container runs to show the limit of its memory, as it sees it on v1 or on v2.
pub const LIMIT_OF_MEMORY: [&str; 3] =
    ["sh", "-c", "cd /sys/fs/cgroup; cat memory.max 2> /dev/null || cat memory/memory.limit_in_bytes"];

/// What takes all memory that it is given.
pub const EATER: [&str; 3] = ["sh", "-c", "x=x; while :; do x=$x$x; done"];

/// What shows its terminal and waits until this has the size of that of the test, which some callers give only after
/// the start; then it ends with the code that is typed.
pub const ON_TERMINAL: [&str; 3] =
    ["sh", "-c", "tty; until [ \"$(stty size)\" = '33 77' ]; do sleep 0.05; done; read code; exit $code"];
