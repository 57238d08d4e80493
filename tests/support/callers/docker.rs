//! docker: a daemon that has a containerd of its own, and its client.

use std::process::Command;

use serde_json::{Map, Value, json};

use crate::command::Done;
use crate::{Named, Room, image, wait_for};

/// The client that belongs to the daemon, wherever another one is installed.
const CLIENT: &str = "/usr/bin/docker";

/// A dockerd with the image of busybox, without a bridge and rules of the firewall.
#[derive(Debug)]
pub struct Docker {
    /// Where it is.
    pub room: Room,
}

impl Docker {
    /// Starts one; `None` where it is not installed, or this is not root.
    pub fn start() -> Option<Docker> {
        let room = Room::open(&["dockerd"])?;
        let runtimes = room.runtimes();
        Some(Docker::start_in(room, &runtimes))
    }

    /// Starts one in a room, that knows these runtimes.
    pub fn start_in(mut room: Room, runtimes: &[Named]) -> Docker {
        // The name of runc is docker's own, for its default.
        let named = runtimes.iter().filter(|runtime| runtime.name != "runc");
        let named: Map<String, Value> =
            named.map(|Named { name, path }| (name.clone(), json!({"path": path}))).collect();
        // 0 as the score: without CAP_SYS_RESOURCE nobody can lower it.
        let config = json!({
            "runtimes": named,
            "hosts": [format!("unix://{}", room.path("docker.sock"))],
            "data-root": room.path("data"),
            "exec-root": room.path("exec"),
            "pidfile": room.path("docker.pid"),
            "cgroup-parent": format!("/{}", room.id),
            "storage-driver": "overlay2",
            "bridge": "none",
            "iptables": false,
            "ip6tables": false,
            "ip-forward": false,
            "ip-masq": false,
            "oom-score-adjust": 0
        });
        let config = room.write("daemon.json", config.to_string());
        room.daemon("dockerd", &["dockerd", "--config-file", &config]);
        let docker = Docker { room };
        wait_for("an answer of dockerd", || docker.call(&["version"]).is_ok());
        let archive = image::archive(&docker.room);
        docker.call(&["load", "--input", &archive]).ok();
        docker
    }

    /// A command of docker, not yet run.
    pub fn command(&self, words: &[&str]) -> Command {
        let socket = format!("unix://{}", self.room.path("docker.sock"));
        self.room.command(&[&[CLIENT, "--host", &socket], words].concat())
    }

    /// Runs docker with these words.
    pub fn call(&self, words: &[&str]) -> Done {
        self.room.finish(self.command(words))
    }

    /// `docker run` of the image without a network, not yet run.
    pub fn running(&self, runtime: &Named, flags: &[&str], words: &[&str]) -> Command {
        let fixed = ["run", "--network", "none", "--runtime", &runtime.name];
        self.command(&[&fixed, flags, &[image::BUSYBOX], words].concat())
    }

    /// `docker run` to its end.
    pub fn run(&self, runtime: &Named, flags: &[&str], words: &[&str]) -> Done {
        self.room.finish(self.running(runtime, flags, words))
    }

    /// The folder where runtimes keep its containers.
    pub fn store(&self, runtime: &Named) -> String {
        self.room.path(&format!("exec/runtime-{}/moby", runtime.name))
    }

    /// What the daemon wrote.
    pub fn log(&self) -> String {
        self.room.read("dockerd.log")
    }
}
