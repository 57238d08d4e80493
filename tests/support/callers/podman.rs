//! podman, which needs no daemon.

use std::process::Command;

use crate::command::Done;
use crate::{Named, Room, image};

/// Without CAP_SYS_RESOURCE nobody can raise a limit, as podman does by default.
const CONFIG: &str = r#"[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
"#;

/// A podman of root with the image of busybox.
#[derive(Debug)]
pub struct Podman {
    /// Where it is.
    pub room: Room,
}

impl Podman {
    /// Makes one; `None` where it is not installed, or this is not root.
    pub fn new() -> Option<Podman> {
        let room = Room::open(&["podman", "conmon", "catatonit"])?;
        room.write("containers.conf", CONFIG);
        let podman = Podman { room };
        let archive = image::archive(&podman.room);
        podman.room.finish(podman.plain("podman", &["load", "--input", &archive])).ok();
        Some(podman)
    }

    /// A command of PROGRAM, podman or buildah, which share a store; not yet run.
    fn plain(&self, program: &str, words: &[&str]) -> Command {
        let (root, run) = (self.room.path("storage"), self.room.path("run"));
        let fixed = [program, "--root", &root, "--runroot", &run, "--storage-driver", "overlay"];
        let mut command = self.room.command(&[&fixed, words].concat());
        command
            .env("CONTAINERS_CONF", self.room.path("containers.conf"))
            .env("CONTAINERS_REGISTRIES_CONF", "/dev/null");
        command
    }

    /// A command of podman, not yet run.
    pub fn command(&self, runtime: &Named, words: &[&str]) -> Command {
        let (state, net) = (self.room.path("state"), self.room.path("net"));
        let fixed = ["--tmpdir", &state, "--network-config-dir", &net, "--events-backend", "file"];
        let how = ["--cgroup-manager", "cgroupfs", "--runtime", &runtime.path];
        self.plain("podman", &[&fixed[..], &how, words].concat())
    }

    /// Runs podman with these words.
    pub fn call(&self, runtime: &Named, words: &[&str]) -> Done {
        self.room.finish(self.command(runtime, words))
    }

    /// `podman run` or another VERB that makes a container of the image: without a network, below the cgroup that has
    /// the room's name; not yet run.
    pub fn making(&self, runtime: &Named, verb: &str, flags: &[&str], words: &[&str]) -> Command {
        let parent = format!("/{}", self.room.id);
        let fixed = [verb, "--network", "none", "--cgroup-parent", &parent];
        self.command(runtime, &[&fixed, flags, &[image::BUSYBOX], words].concat())
    }

    /// `podman run` to its end.
    pub fn run(&self, runtime: &Named, flags: &[&str], words: &[&str]) -> Done {
        self.room.finish(self.making(runtime, "run", flags, words))
    }

    /// A command of buildah, which has the same images; not yet run.
    pub fn buildah(&self, runtime: &Named, words: &[&str]) -> Command {
        let mut command = self.plain("buildah", words);
        command.env("BUILDAH_ISOLATION", "oci").env("BUILDAH_RUNTIME", &runtime.path);
        command
    }

    /// The folder where a runtime keeps containers, if nobody says where.
    pub fn store(runtime: &Named) -> String {
        format!("/run/{}", runtime.name)
    }
}
