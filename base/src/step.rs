//! The order of a plan, and what its steps share while they run.

use std::os::fd::OwnedFd;

use nix::unistd::Pid;
use sys::Child;
use sys::process::Birth;

/// Who does a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The runtime, outside.
    Host,
    /// The jail's process 1, inside, before it becomes the program.
    Jail,
}

/// The place of a step in the plan. The order of the variants is the order of the plan, and each says why it is where
/// it is. Steps of one rank keep the order in which their leaf gave them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Directories of cgroups and their limits: before the clone, so that v2 can be born into them.
    Cgroup,
    /// Descriptors of the host's files (mount sources, name spaces): before the clone, which inherits them, since the
    /// jail's side can be too small to open them.
    Source,
    /// Name spaces that are joined by the process that clones: where a user name space is among the jail's, the others
    /// may belong to the host, or to it.
    Join,
    /// The clone itself.
    Clone,
    /// Id maps, the out-of-memory score: need the pid; the jail's side has no privilege before it is mapped.
    Map,
    /// What must be there before the program starts and not sooner: the host's side does it while the other goes on.
    Meanwhile,
    /// Into the cgroups of v1: before anything that is charged to them.
    Attach,
    /// Name spaces that cannot be made by the clone: after the cgroups, since a cgroup name space starts where one is.
    Namespace,
    /// A session and a keyring of its own: before anything can be asked for either.
    Session,
    /// The root of the jail: everything below is resolved beneath it.
    Root,
    /// Mounts, in the order of the spec: the specification promises that.
    Mount,
    /// Device nodes and links: into the /dev that the mounts brought.
    Device,
    /// The terminal: from the devpts that the mounts brought.
    Console,
    /// Links of the host become the jail's: as late as it can be, since there is no way back once the jail has died; but
    /// hooks expect them.
    Network,
    /// Hooks that see the name spaces, before the root changes.
    HookRuntime,
    /// Hooks inside them, before the root changes.
    HookContainer,
    /// Masks and read-only remounts: after all that must still be written below them.
    Mask,
    /// The change of root: after the last use of a host path.
    Pivot,
    /// Host name, loopback, sysctls: settings of the new name spaces.
    Setting,
    /// What must be known before the jail counts as created: the working directory, the program.
    Check,
    /// The jail is created, and waits for `start`.
    Ready,
    /// Limits: after the last descriptor was opened.
    Limit,
    /// Capabilities, user, hooks of `start`, seccomp: last, and in the order that `secmodel` gives them.
    Confine,
    /// Only of `exec`: the clone of the program's own process into the pid name space, where the jail's processes see it
    /// and some may trace it. So everything is done and given up by then but what no process can do for another.
    Program,
}

/// What exists only at run time; everything else is in the plan.
#[derive(Debug, Default)]
pub struct Ctx {
    /// The number of process 1 as the host counts, in `exec` that of the process that joins: known to the host's side
    /// after the clone, and to the other after `Go`.
    pub pid: Option<Pid>,
    /// Where the process in between, if there is one, leaves the number of the one that it makes.
    pub birth: Option<Birth>,
    /// With systemd: who is in the jail's scope while process 1 is not yet, since there is no scope without a process.
    pub holder: Option<Child>,
    /// The cgroup that the clone is born into, on v2.
    pub cgroup: Option<OwnedFd>,
    /// The `tasks` files of v1 through which process 1 enters its cgroups.
    pub tasks: Vec<OwnedFd>,
    /// The jail's root: everything inside is opened beneath it.
    pub root: Option<OwnedFd>,
    /// Descriptors that steps of the rank `Source` opened, by the slot that the plan gave them.
    pub sources: Vec<Option<OwnedFd>>,
    /// The listener of the filter that was loaded, open until the runtime has its own copy.
    pub listener: Option<OwnedFd>,
    /// The socket of the agent that gets the listener, where it was connected to before.
    pub agent: Option<OwnedFd>,
    /// A descriptor that the next change of side carries over, such as the jail's terminal.
    pub pass: Option<OwnedFd>,
    /// Links of the host that are in the jail's network by now, or on the way, and go back where the jail is not made
    /// after all.
    pub guests: Option<Guests>,
}

/// The links of the host that a jail has got.
#[derive(Debug)]
pub struct Guests {
    /// The network that they are in: it must not end with process 1, or they would too.
    pub network: OwnedFd,
    /// In the order in which they came.
    pub links: Vec<Guest>,
}

/// A link of the host in another network, and what it takes to put it back as it was.
#[derive(Debug)]
pub struct Guest {
    /// Its name on the host.
    pub name: String,
    /// Its name in the other network when it came.
    pub inside: String,
    /// Its number there, once it is known: a hook may have given it another name.
    pub index: Option<u32>,
    /// Whether it was up on the host.
    pub was_up: bool,
    /// The addresses that it keeps, as rtnetlink(7) has them.
    pub addresses: Vec<Vec<u8>>,
}

impl Ctx {
    /// Closes what was opened for the jail's side, which has its own copies since the clone.
    pub fn forget(&mut self) {
        self.tasks.clear();
        self.sources.clear();
    }

    /// The number of the process that becomes the program, as the host counts.
    pub fn program(&self) -> Option<Pid> {
        self.birth.as_ref().and_then(Birth::pid).or(self.pid)
    }

    /// Keeps `fd` in `slot`.
    pub fn keep(&mut self, slot: usize, fd: OwnedFd) {
        if self.sources.len() <= slot {
            self.sources.resize_with(slot + 1, || None);
        }
        self.sources[slot] = Some(fd);
    }

    /// Takes what was kept in `slot`.
    pub fn take(&mut self, slot: usize) -> Option<OwnedFd> {
        self.sources.get_mut(slot).and_then(Option::take)
    }
}
