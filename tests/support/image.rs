//! An image made here, for callers that want one: no registry is asked.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::{Room, rootfs};

/// The name of the image of busybox.
pub const BUSYBOX: &str = "localhost/busybox:1";

/// The name of the same as the pause container of a pod, whose program only has to be there.
pub const PAUSE: &str = "localhost/pause:1";

/// Writes both images as an archive that every caller can load, and gives its path as the room has it.
/// Source: the OCI image specification, config.md, and Docker's image specification, "Combined Image JSON + Filesystem
/// Changeset Format", whose manifest.json names the parts.
///
/// # Panics
/// If it cannot be made.
pub fn archive(room: &Room) -> String {
    let folder = room.seen(&room.path("image"));
    rootfs(&folder.join("rootfs"));
    run("tar", &["-cf", "layer.tar", "-C", "rootfs", "."], &folder);
    let sum = run("sha256sum", &["layer.tar"], &folder);
    let layer = format!("sha256:{}", sum.split(' ').next().unwrap_or_default());
    let entry = |name: &str, file: &str, program: &[&str]| {
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": program, "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [layer]}
        });
        fs::write(folder.join(file), config.to_string()).expect("a file of the room");
        json!({"Config": file, "RepoTags": [name], "Layers": ["layer.tar"]})
    };
    let manifest = json!([entry(BUSYBOX, "busybox.json", &["sh"]), entry(PAUSE, "pause.json", &["sleep", "1000000"])]);
    fs::write(folder.join("manifest.json"), manifest.to_string()).expect("a file of the room");
    run("tar", &["-cf", "image.tar", "manifest.json", "busybox.json", "pause.json", "layer.tar"], &folder);
    room.path("image/image.tar")
}

fn run(program: &str, words: &[&str], folder: &Path) -> String {
    let done = Command::new(program).args(words).current_dir(folder).output().expect("a program of every Debian");
    assert!(done.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}
