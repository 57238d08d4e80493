//! containerd and its client `ctr`.

use std::process::Command;

use crate::command::Done;
use crate::{Named, Room, image, wait_for};

/// What containerd would look for on this machine and must not. `restrict_oom_score_adj`: without CAP_SYS_RESOURCE
/// nobody can lower a score.
const CONFIG: &str = r#"version = 2
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.tracing.processor.v1.otlp"]
root = "@/root"
state = "@/state"
[grpc]
address = "@/sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "localhost/pause:1"
restrict_oom_score_adj = true
stream_server_address = "127.0.0.1"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "@/cni"
"#;

/// A network for pods: a pair of links of which one end stays in the room, which has a network of its own.
const NETWORK: &str = r#"{"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "ptp",
  "ipam": {"type": "host-local", "subnet": "10.77.0.0/24"}}]}"#;

/// A containerd with the image of busybox.
#[derive(Debug)]
pub struct Containerd {
    /// Where it is.
    pub room: Room,
}

impl Containerd {
    /// Starts one; `None` where it is not installed, or this is not root.
    pub fn start() -> Option<Containerd> {
        let mut room = Room::open(&["containerd", "ctr"])?;
        let mut config = CONFIG.replace('@', &room.path("containerd"));
        for Named { name, path } in room.runtimes() {
            let table = format!("[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.{name}");
            config += &format!("{table}]\nruntime_type = \"io.containerd.runc.v2\"\n");
            config += &format!("{table}.options]\nBinaryName = {path:?}\n");
        }
        room.write("containerd/config.toml", config);
        room.write("containerd/cni/pods.conflist", NETWORK);
        daemon(&mut room);
        let containerd = Containerd { room };
        containerd.answers();
        let archive = image::archive(&containerd.room);
        for space in [&containerd.room.id, "k8s.io"] {
            containerd.ctr(&["--namespace", space, "image", "import", &archive]).ok();
        }
        Some(containerd)
    }

    fn answers(&self) {
        wait_for("an answer of containerd", || self.ctr(&["version"]).is_ok());
    }

    /// Ends the daemon and starts another one; the shims of its containers live on.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn restart(&mut self) {
        self.room.end_daemon();
        daemon(&mut self.room);
        self.answers();
    }

    /// A command of `ctr`, in the name space, and so below the cgroup, that has the room's name.
    pub fn command(&self, words: &[&str]) -> Command {
        let (id, socket) = (&self.room.id, self.room.path("containerd/sock"));
        self.room.command(&[&["ctr", "--address", &socket, "--namespace", id], words].concat())
    }

    /// Runs `ctr` with these words.
    pub fn ctr(&self, words: &[&str]) -> Done {
        self.room.finish(self.command(words))
    }

    /// `ctr run` of the image with these flags, not yet run.
    pub fn run(&self, runtime: &Named, flags: &[&str], id: &str, words: &[&str]) -> Command {
        let fixed = ["run", "--runtime", "io.containerd.runc.v2", "--runc-binary", &runtime.path];
        self.command(&[&fixed, flags, &[image::BUSYBOX, id], words].concat())
    }

    /// The folder where runtimes keep the containers of `ctr`.
    pub fn store(&self) -> String {
        format!("/run/containerd/runc/{}", self.room.id)
    }

    /// What the daemon wrote.
    pub fn log(&self) -> String {
        self.room.read("containerd.log")
    }
}

fn daemon(room: &mut Room) {
    let config = room.path("containerd/config.toml");
    room.daemon("containerd", &["containerd", "--config", &config]);
}
