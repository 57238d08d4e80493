//! The effects on cgroups, one each.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use base::{Ctx, Object};
use nix::errno::Errno;
use nix::unistd::Pid;
use sys::{Doing, Error, Kind, Result};

use crate::holder::Release;
use crate::object::{self, KIND, Mark};
use crate::scope::{Change, Scope};
use crate::{freezer, owner, process, realtime};

/// How often a directory is tried again whose parent another jail has just removed, because it was empty: each try
/// makes the parent again, and to lose this often against others needs as many jails that end at this moment.
const TRIES: usize = 16;

/// A directory that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// Where.
    pub path: PathBuf,
    /// What is put on it.
    pub mark: String,
    /// The mount point of its hierarchy, which is above every directory of ours.
    pub below: PathBuf,
    /// The controllers of v2 that it needs from those above it.
    pub enable: Vec<String>,
}

/// One effect on cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make a directory above the jail's, if it is missing.
    Parent(Directory),
    /// Make the jail's own directory, or take one in which no process is.
    Leaf(Directory),
    /// v2: enable those of `controllers` for the children of `dir` that are not yet.
    Enable {
        /// The parent.
        dir: PathBuf,
        /// Their names.
        controllers: Vec<String>,
    },
    /// v1: give a cpuset the CPUs and memory nodes of its parent. A new one has none, and takes no process.
    Inherit {
        /// The jail's directory.
        dir: PathBuf,
        /// The mount point.
        below: PathBuf,
    },
    /// v1: let the directories above, as far as jails made them, have enough of real-time scheduling.
    Reserve {
        /// The jail's directory.
        dir: PathBuf,
        /// The mount point.
        below: PathBuf,
        /// How much of how much, in microseconds.
        realtime: (i64, u64),
    },
    /// Write a limit.
    Set {
        /// The jail's directory.
        dir: PathBuf,
        /// Its place below `/linux/resources/`.
        key: String,
        /// The controller's files, and the text for each that is there; one must be.
        files: Vec<(String, String)>,
    },
    /// v1: write device rules, `true` to devices.allow, `false` to devices.deny.
    Devices {
        /// The jail's directory.
        dir: PathBuf,
        /// The rules in order.
        lines: Vec<(bool, String)>,
    },
    /// v2: load and attach a device program.
    Program {
        /// The jail's directory.
        dir: PathBuf,
        /// Its instructions.
        program: Vec<u64>,
    },
    /// v2: give the directory to the user of the program, who may then make others in it.
    Own {
        /// The jail's directory.
        dir: PathBuf,
        /// As the host counts.
        uid: u32,
    },
    /// v2: open the directory that the process will be born into.
    Open {
        /// The jail's directory.
        dir: PathBuf,
    },
    /// v1: open the directory's `tasks`, through which the process will move itself.
    Tasks {
        /// The jail's directory.
        dir: PathBuf,
    },
    /// v1, on the jail's side: the process moves itself into every directory whose `tasks` was opened.
    ///
    /// Measured: a write of another process's number takes a lock that waits for all CPUs (5 to 20 ms). A thread that
    /// moves itself needs no such lock.
    Enter,
    /// With systemd: start the scope, with a process in it that only waits.
    Scope(Scope),
    /// With systemd: process 1 is in the scope, and who waited there ends.
    Release(Release),
    /// With systemd: change properties of a scope, before the files are written that systemd writes too.
    Properties(Change),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parent(of) | Self::Leaf(of) => write!(f, "make cgroup {}", of.path.display()),
            Self::Enable { dir, controllers } => {
                write!(f, "enable {} for the children of {}", controllers.join(" and "), dir.display())
            }
            Self::Inherit { dir, .. } => write!(f, "copy the parent's CPUs and memory nodes to {}", dir.display()),
            Self::Reserve { dir, realtime: (runtime, period), .. } => {
                write!(f, "reserve {runtime} of {period} microseconds above {}", dir.display())
            }
            Self::Set { dir, files, .. } => f.write_str(&setting(dir, files)),
            Self::Devices { dir, lines } => write!(f, "write {} device rules in {}", lines.len(), dir.display()),
            Self::Program { dir, program } => {
                write!(f, "attach a device program of {} instructions to {}", program.len(), dir.display())
            }
            Self::Own { dir, uid } => write!(f, "give {} to user {uid}", dir.display()),
            Self::Open { dir } => write!(f, "open cgroup {}", dir.display()),
            Self::Tasks { dir } => write!(f, "open tasks of {}", dir.display()),
            Self::Enter => f.write_str("enter the cgroups"),
            Self::Scope(scope) => scope.fmt(f),
            Self::Release(release) => release.fmt(f),
            Self::Properties(change) => change.fmt(f),
        }
    }
}

impl Step {
    /// What must be gone when the jail is gone.
    ///
    /// For a parent this looks at the host: one that was there before and is not marked as a jail's parent belongs to
    /// somebody else, who may want it empty.
    pub fn makes(&self) -> Option<Object> {
        let object = |of: &Directory, unique| {
            Some(Object { kind: KIND.to_owned(), name: of.path.to_string_lossy().into_owned(), unique })
        };
        match self {
            Self::Leaf(of) => object(of, of.mark.clone()),
            Self::Parent(of) => match Mark::of(&of.path) {
                Ok(Mark::Missing | Mark::Parent(_)) | Err(_) => object(of, object::parent_mark(&of.mark)),
                Ok(Mark::None | Mark::Jail(_)) => None,
            },
            Self::Scope(scope) => Some(scope.object()),
            _ => None,
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// The kernel's refusal with the step's clause; `Exists` where the jail's directory is in use already.
    pub fn run(&self, ctx: &mut Ctx) -> Result<()> {
        match self {
            Self::Parent(of) => make(of, self, None),
            Self::Leaf(of) => make(of, self, Some(ctx.holder.as_ref().map(|holder| holder.pid))),
            Self::Enable { dir, controllers } => enable(dir, controllers),
            Self::Inherit { dir, below } => {
                ["cpuset.cpus", "cpuset.mems"].into_iter().try_for_each(|file| inherit(dir, file, below).map(drop))
            }
            Self::Reserve { dir, below, realtime } => {
                let writes = realtime::above_needs(dir, below, *realtime)?;
                writes.iter().try_for_each(|(dir, value)| {
                    let file = [(realtime::RUNTIME.to_owned(), value.clone())];
                    write(&dir.join(realtime::RUNTIME), value).doing(|| setting(dir, &file))
                })
            }
            Self::Set { dir, key, files } => set(dir, key, files),
            Self::Devices { dir, lines } => devices(dir, lines),
            Self::Program { dir, program } => {
                let cgroup = File::open(dir).doing(|| self)?;
                let program = sys::bpf::load_device_program(program).doing(|| self)?;
                sys::bpf::attach_device_program(&cgroup, &program).doing(|| self)
            }
            Self::Own { dir, uid } => owner::change(dir, (*uid).into()),
            Self::Open { dir } => {
                ctx.cgroup = Some(File::open(dir).doing(|| self)?.into());
                Ok(())
            }
            Self::Tasks { dir } => {
                let file = OpenOptions::new().write(true).open(dir.join("tasks")).doing(|| self)?;
                ctx.tasks.push(file.into());
                Ok(())
            }
            // 0 is the writer itself.
            Self::Enter => std::mem::take(&mut ctx.tasks)
                .into_iter()
                .try_for_each(|tasks| File::from(tasks).write_all(b"0").doing(|| self)),
            Self::Scope(scope) => {
                ctx.holder = Some(scope.start()?);
                Ok(())
            }
            Self::Release(release) => release.run(ctx),
            Self::Properties(change) => change.apply(),
        }
    }
}

impl Directory {
    /// Every directory above this one, from the mount point downwards.
    pub(crate) fn above(&self) -> Vec<&Path> {
        above(&self.path, &self.below)
    }
}

/// Every directory above `dir`, from the mount point `below` downwards.
pub(crate) fn above<'a>(dir: &'a Path, below: &Path) -> Vec<&'a Path> {
    let mut above: Vec<_> = dir.ancestors().skip(1).take_while(|dir| dir.starts_with(below)).collect();
    above.reverse();
    above
}

/// The text of a file.
pub(crate) fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).doing(|| format!("read {}", file.display()))
}

/// Writes without creating: on a cgroup file system that is what tells a missing file from a forbidden one.
pub(crate) fn write(file: &Path, text: &str) -> std::io::Result<()> {
    OpenOptions::new().write(true).open(file)?.write_all(text.as_bytes())
}

/// Makes `of`, with those above it where another jail removed them meanwhile. As the jail's own it may be there already,
/// with nobody in it but the holder of the scope, where there is one.
fn make(of: &Directory, step: &Step, leaf: Option<Option<Pid>>) -> Result<()> {
    let mark = if leaf.is_some() { of.mark.clone() } else { object::parent_mark(&of.mark) };
    for _ in 0..TRIES {
        let made = match mkdir(&of.path, &mark) {
            Err(error) if error.raw_os_error() == Some(Errno::EEXIST as i32) => match leaf {
                Some(holder) => adopt(of, step, holder)?,
                None => true,
            },
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => false,
            made => made.map(|()| true).doing(|| step)?,
        };
        if made {
            return Ok(());
        }
        for above in of.above().into_iter().filter(|dir| *dir != of.below) {
            match mkdir(above, &object::parent_mark(&of.mark)) {
                Err(error) if error.raw_os_error() == Some(Errno::EEXIST as i32) => {}
                // Gone again.
                Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => break,
                made => made.doing(|| format!("make cgroup {}", above.display()))?,
            }
            enable(above, &of.enable)?;
        }
    }
    Err(Error::kernel(step, Errno::ENOENT))
}

fn mkdir(dir: &Path, mark: &str) -> std::io::Result<()> {
    fs::create_dir(dir)?;
    Ok(object::set_mark(dir, mark)?)
}

/// Takes a directory that exists, if nobody is in it but `holder`; `false` where it went away meanwhile.
fn adopt(of: &Directory, step: &Step, holder: Option<Pid>) -> Result<bool> {
    let taken = |why: String| Err(Error::new(Kind::Exists, format!("{step}: it exists already, and {why}")));
    match Mark::of(&of.path).doing(|| step)? {
        Mark::Missing => return Ok(false),
        Mark::Parent(_) => return taken("jails are below it".to_owned()),
        // One of the same jail was not deleted to the end.
        Mark::Jail(old) if object::same_jail(&old, &of.mark) => {}
        Mark::Jail(_) => return taken("it is another jail's".to_owned()),
        // They would be removed with ours.
        Mark::None if process::tree(&of.path).len() > 1 => return taken("other cgroups are below it".to_owned()),
        Mark::None => {}
    }
    if let Some(first) = process::others_in(&of.path, holder) {
        return taken(format!("process {first} is in it"));
    }
    // A process that enters a frozen one would not come as far as saying why it hangs.
    freezer::thaw_directory(&of.path);
    object::set_mark(&of.path, &of.mark).doing(|| step)?;
    Ok(true)
}

fn enable(dir: &Path, controllers: &[String]) -> Result<()> {
    if controllers.is_empty() {
        return Ok(());
    }
    let file = dir.join("cgroup.subtree_control");
    let enabled = read(&file)?;
    for controller in controllers.iter().filter(|c| !enabled.split_whitespace().any(|e| e == c.as_str())) {
        let step = || format!("enable {controller} for the children of {}", dir.display());
        match write(&file, &format!("+{controller}")) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => {
                return Err(Error::unsupported(format!("{}: its parent does not have it", step())));
            }
            Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) => {
                let why = "processes are in it itself, which cgroup v2 does not allow";
                return Err(Error::new(Kind::Kernel, format!("{}: {why}", step())));
            }
            written => written.doing(step)?,
        }
    }
    Ok(())
}

/// The value of a cpuset's `file`, taken from above where it has none yet.
fn inherit(dir: &Path, file: &str, below: &Path) -> Result<String> {
    let path = dir.join(file);
    let own = read(&path)?;
    match dir.parent() {
        Some(parent) if own.trim().is_empty() && dir != below => {
            let value = inherit(parent, file, below)?;
            write(&path, &value).doing(|| format!("set {file} to {} in {}", value.trim(), dir.display()))?;
            Ok(value)
        }
        _ => Ok(own),
    }
}

/// The clause of a limit.
fn setting(dir: &Path, files: &[(String, String)]) -> String {
    let each: Vec<_> = files.iter().map(|(file, value)| format!("{file} to {}", value.trim())).collect();
    format!("set {} in {}", each.join(" or "), dir.display())
}

/// Writes a limit to each of `files` that is there.
fn set(dir: &Path, key: &str, files: &[(String, String)]) -> Result<()> {
    let mut written = false;
    for file in files {
        match write(&dir.join(&file.0), &file.1) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => continue,
            done => done.map_err(|error| refused(dir, file, &error))?,
        }
        written = true;
    }
    match written {
        true => Ok(()),
        false => {
            let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
            let why = format!("{} has no {}: this kernel does not know it", dir.display(), names.join(" and no "));
            Err(Error::unsupported(format!("apply /linux/resources/{key}: {why}")))
        }
    }
}

/// The kernel's refusal of a value, with what it means where that is not what it says.
fn refused(dir: &Path, file: &(String, String), error: &std::io::Error) -> Error {
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
    let advice = match (file.0.as_str(), errno) {
        ("cpuset.cpus" | "cpuset.mems", Errno::EACCES) => "the cgroup above it does not have all of these",
        ("cpuset.cpus" | "cpuset.mems", Errno::ERANGE) => "this host does not have all of these",
        ("memory.limit_in_bytes" | "memory.memsw.limit_in_bytes", Errno::EBUSY) => {
            "more than that is in use, and cannot be given up now"
        }
        ("cpu.shares" | "cpu.weight", Errno::EINVAL) => "an idle cgroup has none; set cpu/idle to 0 too",
        ("memory.use_hierarchy", Errno::EINVAL) => "this kernel counts what is below a cgroup to it, always",
        (name, Errno::EOPNOTSUPP) if name.contains("weight") => "the scheduler of this device is not bfq",
        (name, Errno::ENODEV) if name.contains("io.") => "there is no such block device",
        ("net_prio.ifpriomap", Errno::ENODEV) => "the host has no such network interface",
        ("rdma.max", Errno::ENODEV) => "the host has no such RDMA device",
        _ => return Error::kernel(setting(dir, std::slice::from_ref(file)), errno),
    };
    Error::new(Kind::Kernel, format!("{}: {advice}", setting(dir, std::slice::from_ref(file))))
}

fn devices(dir: &Path, lines: &[(bool, String)]) -> Result<()> {
    let open = |name| OpenOptions::new().write(true).open(dir.join(name));
    let mut files: [Option<File>; 2] = [None, None];
    for (allow, line) in lines {
        let name = if *allow { "devices.allow" } else { "devices.deny" };
        let step = || format!("write {line:?} to {}", dir.join(name).display());
        let slot = &mut files[usize::from(*allow)];
        let file = match slot {
            Some(file) => file,
            None => slot.insert(open(name).doing(step)?),
        };
        file.write_all(line.as_bytes()).doing(step)?;
    }
    Ok(())
}
