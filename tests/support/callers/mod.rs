//! Real callers of runtimes, each in a room of its own. The tests and the benchmark drive them alike.

mod containerd;
mod docker;
mod podman;

pub use containerd::Containerd;
pub use docker::Docker;
pub use podman::Podman;
