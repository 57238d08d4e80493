//! One verb in one mode, from its first system call to its last.

use std::collections::BTreeSet;
use std::fmt;
use std::io::IsTerminal;

use nix::sched::{CloneFlags, unshare};
use serde_json::json;
use tests::view::View;
use tests::{Bundle, Runtime, processes, spec};

use crate::point;
use crate::report::Report;

/// What is interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Create,
    Start,
    Exec,
    /// `delete` of a jail that has stopped.
    Delete,
    /// `delete --force` of one that runs.
    Force,
    Run,
}

impl Verb {
    pub(crate) const ALL: &[Verb] = &[Verb::Create, Verb::Start, Verb::Exec, Verb::Delete, Verb::Force, Verb::Run];

    pub(crate) fn named(word: &str) -> Option<Verb> {
        Verb::ALL.iter().copied().find(|verb| verb.to_string() == word)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Verb::Create => "create",
            Verb::Start => "start",
            Verb::Exec => "exec",
            Verb::Delete => "delete",
            Verb::Force => "force",
            Verb::Run => "run",
        })
    }
}

/// What happens at the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// SIGKILL of the process that is about to make the call, alone.
    Main,
    /// SIGKILL of the runtime and everything below it.
    Tree,
    /// The call returns an error.
    Error(&'static str, i32),
}

impl Mode {
    pub(crate) const ALL: &[Mode] = &[
        Mode::Main,
        Mode::Tree,
        Mode::Error("EIO", libc::EIO),
        Mode::Error("ENOMEM", libc::ENOMEM),
        Mode::Error("ENOSPC", libc::ENOSPC),
        Mode::Error("EMFILE", libc::EMFILE),
        Mode::Error("EINTR", libc::EINTR),
    ];

    pub(crate) fn named(word: &str) -> Option<Mode> {
        Mode::ALL.iter().copied().find(|mode| mode.to_string() == word)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Mode::Main => "main",
            Mode::Tree => "tree",
            Mode::Error(name, _) => name,
        })
    }
}

/// Whose calls are the points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The process that was called.
    Main,
    /// Everything below it: the jail's init. For `start` that is the init that waits already.
    Child,
}

impl Side {
    pub(crate) fn named(word: &str) -> Option<Side> {
        match word {
            "main" => Some(Side::Main),
            "child" => Some(Side::Child),
            _ => None,
        }
    }
}

/// What the jail is asked to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Minimal,
    /// What a container manager asks for.
    Full,
    /// That, and what else the kernel can be told of a process.
    Process,
    /// Mounts that take more than one call: idmapped, copied up, by a link, changed again.
    Mounts,
}

impl Asked {
    pub(crate) fn named(word: &str) -> Option<Asked> {
        match word {
            "minimal" => Some(Asked::Minimal),
            "full" => Some(Asked::Full),
            "process" => Some(Asked::Process),
            "mounts" => Some(Asked::Mounts),
            _ => None,
        }
    }

    fn ask(self, bundle: &mut Bundle) {
        match self {
            Asked::Minimal => {}
            Asked::Full => drop(bundle.full()),
            Asked::Process => {
                bundle.full();
                bundle.set("/linux/namespaces/-", json!({"type": "time"}));
                bundle.set("/linux/timeOffsets", json!({"boottime": {"secs": 1000}}));
                bundle.set("/linux/personality", json!({"domain": "LINUX32"}));
                bundle.set("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "0"}));
                bundle.set("/process/scheduler", json!({"policy": "SCHED_BATCH", "nice": 1}));
                bundle.set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 5}));
                bundle.set("/process/execCPUAffinity", json!({"initial": "0", "final": "0"}));
            }
            Asked::Mounts => {
                let map = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
                let etc = bundle.rootfs().join("etc");
                bundle.set("/mounts/-", spec::tmpfs("/etc", &["tmpcopyup"]));
                for (target, options) in
                    [("/mnt/map", &["rbind", "ridmap"][..]), ("/mnt/link", &["bind", "copy-symlink"])]
                {
                    let mut mount = json!({"destination": target, "type": "bind", "source": etc, "options": options});
                    (mount["uidMappings"], mount["gidMappings"]) = (map.clone(), map.clone());
                    bundle.set("/mounts/-", mount);
                }
                bundle.set("/mounts/-", json!({"destination": "/mnt/map", "options": ["remount", "ro"]}));
            }
        }
    }
}

/// What is swept.
#[derive(Clone, Debug)]
pub(crate) struct Sweep {
    pub(crate) runtime: Runtime,
    pub(crate) verb: Verb,
    pub(crate) mode: Mode,
    pub(crate) side: Side,
    pub(crate) spec: Asked,
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) every: usize,
}

impl fmt::Display for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.side == Side::Child { " of the child" } else { "" };
        write!(f, "{} {}, {}{side}", self.runtime.name(), self.verb, self.mode)
    }
}

/// Gives this process a mount and a network name space of its own, so that every mount and link in them is the
/// runtime's, and makes it the parent of orphans.
pub(crate) fn isolate(view: View) -> nix::Result<()> {
    view.enter()?;
    unshare(CloneFlags::CLONE_NEWNET)?;
    processes::adopt_orphans();
    Ok(())
}

impl Sweep {
    /// Every point in turn. The number of calls differs a little from run to run, so it ends at the second number in
    /// a row that the verb did not come to.
    pub(crate) fn run(&self) -> Result<Report, String> {
        let usual = self.left_by_a_clean_life()?;
        let mut report = Report::new(self.to_string());
        let mut missed = 0;
        let mut number = self.from;
        while number <= self.to && missed < 2 {
            if std::io::stderr().is_terminal() {
                eprint!("\r{self}: {number} ");
            }
            match point::run(self, number, &usual)? {
                Some(point) => {
                    missed = 0;
                    report.add(point);
                }
                None => missed += 1,
            }
            number += self.every;
        }
        Ok(report)
    }

    /// A bundle in the state that the verb starts from is made by [`Sweep::prepare`]; this is the bundle before that.
    pub(crate) fn bundle(&self) -> Bundle {
        let mut bundle = Bundle::of(self.runtime.clone());
        self.spec.ask(&mut bundle);
        let ends = matches!(self.verb, Verb::Delete | Verb::Run);
        bundle.args(if ends { &["true"] } else { &["sleep", "1000"] });
        bundle
    }

    /// Brings the jail to where the verb begins.
    pub(crate) fn prepare(&self, bundle: &Bundle) -> Result<(), String> {
        bundle.write();
        let fine = |done: tests::Done| if done.is_ok() { Ok(()) } else { Err(format!("without a fault: {done}")) };
        if !matches!(self.verb, Verb::Create | Verb::Run) {
            fine(bundle.create())?;
        }
        if matches!(self.verb, Verb::Exec | Verb::Force | Verb::Delete) {
            fine(bundle.start())?;
        }
        if self.verb == Verb::Delete {
            bundle.becomes("stopped");
        }
        Ok(())
    }

    /// The words of the verb.
    pub(crate) fn words(&self, bundle: &Bundle) -> Vec<String> {
        let dir = bundle.dir.to_string_lossy();
        let words: &[&str] = match self.verb {
            Verb::Create => &["create", "--bundle", &dir, &bundle.id],
            Verb::Start => &["start", &bundle.id],
            Verb::Exec => &["exec", &bundle.id, "true"],
            Verb::Delete => &["delete", &bundle.id],
            Verb::Force => &["delete", "--force", &bundle.id],
            Verb::Run => &["run", "--bundle", &dir, &bundle.id],
        };
        words.iter().map(ToString::to_string).collect()
    }

    /// What a life without faults leaves in the store (a lock, an index): no fault is to blame for that.
    fn left_by_a_clean_life(&self) -> Result<BTreeSet<String>, String> {
        let bundle = self.bundle();
        self.prepare(&bundle)?;
        let words = self.words(&bundle);
        let done = bundle.call(&words.iter().map(String::as_str).collect::<Vec<_>>());
        if !done.is_ok() {
            return Err(format!("without a fault: {done}"));
        }
        bundle.delete_force();
        Ok(point::stored(&bundle))
    }
}
