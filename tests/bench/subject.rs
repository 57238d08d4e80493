//! Who is measured.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tests::view::View;
use tests::{Bundle, Runtime, unique};

/// A kind of program that can run `true` in a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Jail,
    Crun,
    Runc,
    Bwrap,
    Floor,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Jail => "jail",
            Kind::Crun => "crun",
            Kind::Runc => "runc",
            Kind::Bwrap => "bwrap",
            Kind::Floor => "floor",
        }
    }
}

/// Those who can express the spec on this view. Debian's crun cannot run on a v2 tree without controllers; bubblewrap
/// knows no cgroups, device rules or masked paths.
pub(crate) fn all(view: View, full: bool) -> Vec<Kind> {
    let peers: &[Kind] = match (view, full) {
        (View::V2, _) => &[Kind::Runc],
        (_, false) => &[Kind::Crun, Kind::Runc, Kind::Bwrap],
        (_, true) => &[Kind::Crun, Kind::Runc],
    };
    let installed = peers.iter().copied().filter(|kind| tests::installed(kind.name()));
    [Kind::Jail].into_iter().chain(installed).chain([Kind::Floor]).collect()
}

/// One of them with its bundle.
pub(crate) struct Subject {
    pub(crate) kind: Kind,
    pub(crate) bundle: Bundle,
    full: bool,
    program: PathBuf,
    /// Why it is out of the race.
    pub(crate) failure: Option<String>,
}

impl Subject {
    pub(crate) fn new(kind: Kind, full: bool, profile: &Value, program: &Path) -> Subject {
        let runtime = match kind {
            Kind::Jail => Runtime::jail(),
            other => Runtime::of(other.name()),
        };
        let bundle = crate::bundle(runtime, full, profile);
        if kind == Kind::Floor || kind == Kind::Bwrap {
            // It takes no bundle, and leaves no store that would have to be emptied.
            let _ = std::fs::remove_dir(&bundle.root);
        }
        bundle.write();
        let mut subject = Subject { kind, bundle, full, program: program.to_path_buf(), failure: None };
        if subject.has_life() {
            subject.failure = on_tmpfs(&subject.bundle.root).err();
        }
        subject
    }

    /// It has the verbs of a life cycle.
    pub(crate) fn has_life(&self) -> bool {
        matches!(self.kind, Kind::Jail | Kind::Crun | Kind::Runc)
    }

    /// The command that runs `true` to its end.
    pub(crate) fn run(&mut self) -> Command {
        let root = self.bundle.rootfs();
        match self.kind {
            Kind::Floor => {
                let mut command = Command::new(floor());
                command.arg(if self.full { "full" } else { "minimal" }).arg(root);
                if self.full {
                    command.arg("--seccomp").arg(&self.program);
                }
                command
            }
            Kind::Bwrap => {
                let mut command = Command::new("bwrap");
                command.args(["--unshare-pid", "--unshare-uts", "--unshare-ipc", "--unshare-net", "--as-pid-1"]);
                command
                    .args(["--hostname", "jail", "--bind"])
                    .arg(root)
                    .args(["/", "--proc", "/proc", "--dev", "/dev"]);
                if self.full {
                    // Its filter comes by a descriptor: there is none but stdin that needs no help.
                    command.args(["--seccomp", "0"]);
                    if let Ok(file) = File::open(&self.program) {
                        command.stdin(file);
                    }
                }
                command.arg("true");
                command
            }
            _ => {
                self.rename();
                self.verb(&["run", "--bundle", &self.bundle.dir.to_string_lossy(), &self.bundle.id])
            }
        }
    }

    /// A command of the runtime.
    pub(crate) fn verb(&self, words: &[&str]) -> Command {
        self.bundle.command(words)
    }

    /// A name that was never used: what a name leaves behind must not make the next round faster or slower. The word
    /// by which the bundle finds its leftovers stays a part of it.
    pub(crate) fn rename(&mut self) {
        let first = self.bundle.id.split('-').next().unwrap_or_default().to_string();
        self.bundle.id = format!("{first}-{}", unique());
    }
}

/// The state is on a tmpfs for all alike, as it is in /run wherever systemd runs: to remove a folder of ext4 alone takes
/// 0.2 ms. The mount name space is that of the view, which belongs to this process.
fn on_tmpfs(root: &Path) -> Result<(), String> {
    let flags = nix::mount::MsFlags::empty();
    let mounted = nix::mount::mount(Some("none"), root, Some("tmpfs"), flags, Some("mode=700"));
    mounted.map_err(|errno| format!("cannot mount a tmpfs on {}: {errno}", root.display()))
}

/// The floor is built beside the benchmark.
fn floor() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.with_file_name("floor")
}
