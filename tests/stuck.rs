//! A process that not even SIGKILL ends: it waits for a file system that does not answer (state D of proc(5)).

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::mount::{MntFlags, MsFlags};
use serde_json::json;
use tests::{Bundle, left_nothing, require_root, stage, wait_for};

/// A file system in user space that never says whether there is a file `hang`; see linux/fuse.h.
struct Hanging {
    folder: PathBuf,
    asked: Arc<AtomicBool>,
}

impl Hanging {
    fn mount(bundle: &Bundle) -> Hanging {
        let folder = bundle.dir.join("hanging");
        std::fs::create_dir(&folder).unwrap();
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        nix::mount::mount(Some("hanging"), &folder, Some("fuse"), MsFlags::empty(), Some(&options[..])).unwrap();
        let asked = Arc::new(AtomicBool::new(false));
        let flag = asked.clone();
        std::thread::spawn(move || serve(device, &flag));
        Hanging { folder, asked }
    }

    /// Ends the connection: whoever waits gets an error.
    fn give_up(&self) {
        nix::mount::umount2(&self.folder, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH).unwrap();
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.folder, MntFlags::MNT_DETACH);
    }
}

fn serve(mut device: File, asked: &AtomicBool) {
    let mut request = vec![0; 1 << 20];
    // Ends with an error when the file system is gone.
    while let Ok(len) = device.read(&mut request) {
        let word = |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().unwrap());
        let (operation, name) = (word(4), &request[40..len]);
        let mut attributes = vec![0; 104];
        attributes[0..8].copy_from_slice(&1000_u64.to_le_bytes());
        attributes[76..80].copy_from_slice(&0o40_755_u32.to_le_bytes());
        let (error, body) = match operation {
            // LOOKUP: no answer at all.
            1 if name == b"hang\0" => {
                asked.store(true, Ordering::SeqCst);
                continue;
            }
            1 => (libc::ENOENT, Vec::new()),
            // FORGET, INTERRUPT, BATCH_FORGET have none.
            2 | 36 | 42 => continue,
            // GETATTR of the root.
            3 => (0, attributes),
            // INIT: version 7.31, 4096 bytes a write.
            26 => {
                let mut init = vec![0; 64];
                init[0..4].copy_from_slice(&7_u32.to_le_bytes());
                init[4..8].copy_from_slice(&31_u32.to_le_bytes());
                init[20..24].copy_from_slice(&4096_u32.to_le_bytes());
                (0, init)
            }
            _ => (libc::ENOSYS, Vec::new()),
        };
        let mut answer = (16 + body.len() as u32).to_le_bytes().to_vec();
        answer.extend((-error).to_le_bytes());
        answer.extend(&request[8..16]);
        answer.extend(body);
        let _ = device.write_all(&answer);
    }
}

fn is_stuck(pid: i32) -> bool {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"));
    status.is_ok_and(|status| status.contains("State:\tD"))
}

#[test]
fn kill_tells_of_a_process_that_does_not_die_and_delete_names_what_it_waits_for() {
    if !require_root() {
        return;
    }
    let (mut bundle, host) = stage();
    let hanging = Hanging::mount(&bundle);
    let source = hanging.folder.to_string_lossy().into_owned();
    bundle.set("/mounts/-", json!({"destination": "/mnt", "type": "bind", "source": source, "options": ["bind"]}));
    bundle.args(&["cat", "/mnt/hang"]).create().ok();
    bundle.start().ok();
    wait_for("the question", || hanging.asked.load(Ordering::SeqCst));
    let pid = bundle.pid().unwrap();
    for words in [&["kill", &bundle.id, "KILL"][..], &["kill", "--all", &bundle.id, "9"]] {
        let done = bundle.call(words);
        // What was asked for is done: the signal is sent.
        assert!(done.is_ok() && is_stuck(pid), "{done}");
        assert!(done.err.contains(&format!("lives on: {pid} (cat) waits in ")), "{done}");
    }
    let begin = std::time::Instant::now();
    let line = bundle.delete_force().fails();
    assert!(begin.elapsed().as_secs() >= 9, "it is not given up too soon");
    let expected = format!("cannot end {}: {pid} (cat) waits in ", bundle.id);
    assert!(line.contains(&expected) && line.contains("no signal reaches it"), "{line}");
    // It is there as long as its process is, and every other verb still works on it.
    assert!(bundle.list().ok().contains(&bundle.id));
    hanging.give_up();
    bundle.becomes("stopped");
    bundle.delete_force().ok();
    drop(hanging);
    left_nothing(&bundle, &host);
}
