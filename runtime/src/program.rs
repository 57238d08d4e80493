//! A program in a jail, the jail's own or that of `exec`: what its process document asks for.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use base::{Rank, Side};
use nix::sys::resource::Resource;
use oci_spec::runtime::{Linux, PosixRlimit, Process};
use sys::{Error, Result};

use crate::inherit::Inherited;
use crate::plan::{Planned, Step};
use crate::{console, label, scheduling, setting};

/// What a process becomes.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// Its arguments; the first is what is looked for.
    pub args: Vec<CString>,
    /// Its environment.
    pub env: Vec<CString>,
    /// Where it is looked for when the first argument is no path.
    pub search: Vec<PathBuf>,
    /// How many descriptors of the caller it gets.
    pub inherited: u32,
    /// Variables whose value is its own number, as it counts itself.
    pub numbered: Vec<&'static str>,
    /// Whose home directory `HOME` is to be, where the environment has none.
    pub home_of: Option<u32>,
}

/// A process that is asked for, and what its steps depend on.
#[derive(Debug)]
pub(crate) struct Ask<'a> {
    /// Its document.
    pub process: &'a Process,
    /// Whether it is the jail's own: it gets /dev/console, and is the process that makes the jail. That of `exec` is
    /// made last, of rank [`Rank::Program`].
    pub is_first: bool,
    /// Whether the jail has a user name space, in which nobody may raise a limit.
    pub user_namespace: bool,
    /// Whether it gets a session keyring of its own.
    pub new_keyring: bool,
    /// Who gets the terminal; `None` for the caller.
    pub console_socket: Option<&'a Path>,
    /// The size of the caller's terminal, where it has one.
    pub terminal_size: Option<(u16, u16)>,
    /// The security modules of this host.
    pub modules: label::Modules,
    /// Whether hard limits may be raised, as CAP_SYS_RESOURCE allows.
    pub may_raise: bool,
}

impl Ask<'_> {
    /// Everything but the confinement; `slot` and the next one are free for descriptors.
    ///
    /// # Errors
    /// `Invalid` for a string with NUL, `Unsupported` for a label of a security module that is not on.
    pub(crate) fn steps(&self, slot: usize, linux: &Linux) -> Result<Vec<Planned>> {
        let mut steps = Vec::new();
        let mut push = |rank, side, step| steps.push(Planned { rank, side, step });
        push(Rank::Session, Side::Jail, Step::Setting(setting::Step::Session));
        if !self.is_first {
            // The first leaves the caller's session and terminal before anything of the jail sees this one.
            push(Rank::Program, Side::Jail, Step::Setting(setting::Step::Session));
        }
        for (rank, side, step) in label::steps(self.process, self.modules, slot + 1)? {
            push(rank, side, Step::Label(step));
        }
        if self.new_keyring {
            push(Rank::Session, Side::Jail, Step::Setting(setting::Step::Keyring));
        }
        if let Some(score) = self.process.oom_score_adj() {
            push(Rank::Map, Side::Host, Step::Setting(setting::Step::OomScore(score)));
        }
        let path = text(self.process.cwd().as_os_str().as_bytes(), "/process/cwd")?;
        push(Rank::Check, Side::Jail, Step::Setting(setting::Step::Directory { path, make: self.is_first }));
        for (rank, side, step) in self.scheduling(linux)? {
            push(rank, side, Step::Scheduling(step));
        }
        if self.process.terminal().unwrap_or(false) {
            steps.extend(self.console(slot));
        }
        steps.extend(self.process.rlimits().iter().flatten().flat_map(|limit| self.limit(limit)));
        Ok(steps)
    }

    /// What the host's side does is done to the program's own process: a deadline is not inherited, and a policy can be
    /// told not to be.
    fn scheduling(&self, linux: &Linux) -> Result<Vec<(Rank, Side, scheduling::Step)>> {
        let (mut steps, last) = (Vec::new(), self.rank(Rank::Check));
        if let Some(policy) = self.process.scheduler() {
            steps.push((last, Side::Host, scheduling::policy(policy, "/process/scheduler")?));
        }
        if let Some(priority) = self.process.io_priority() {
            steps.push((last, Side::Host, scheduling::io_priority(priority, "/process/ioPriority")?));
        }
        if let Some(policy) = linux.memory_policy() {
            steps.push((Rank::Limit, Side::Jail, scheduling::memory(policy, "/linux/memoryPolicy")?));
        }
        if let Some(personality) = linux.personality() {
            steps.push((Rank::Limit, Side::Jail, scheduling::personality(personality, "/linux/personality")?));
        }
        // As the specification wants it, not of the jail's own program.
        if let Some(affinity) = self.process.exec_cpu_affinity().as_ref().filter(|_| !self.is_first) {
            let at = |key| format!("/process/execCPUAffinity/{key}");
            if let Some(list) = affinity.initial().clone() {
                let cpus = scheduling::cpus(&list, &at("initial"))?;
                steps.push((Rank::Source, Side::Host, scheduling::Step::Runtime { list, cpus }));
            }
            if let Some(list) = affinity.cpu_affinity_final().clone() {
                let cpus = scheduling::cpus(&list, &at("final"))?;
                steps.push((Rank::Limit, Side::Jail, scheduling::Step::Cpus { list, cpus }));
            }
        }
        Ok(steps)
    }

    /// The place of what only the program's own process can do.
    fn rank(&self, rank: Rank) -> Rank {
        if self.is_first { rank } else { Rank::Program }
    }

    fn console(&self, slot: usize) -> Vec<Planned> {
        let of_document = self.process.console_size().map(|size| (size.height() as u16, size.width() as u16));
        let size = of_document.or(self.terminal_size);
        let socket = self.console_socket.map(|path| console::Step::Connect { path: path.to_owned(), slot });
        let slot = socket.is_some().then_some(slot);
        let make = console::Step::Make { slot, size, uid: self.process.user().uid(), console: self.is_first };
        let take = slot.is_none().then_some(console::Step::Take);
        let planned = |rank, side, step| Planned { rank, side, step: Step::Console(step) };
        let mut steps = vec![planned(Rank::Console, Side::Jail, make)];
        steps.extend(socket.map(|step| planned(Rank::Source, Side::Host, step)));
        steps.extend(take.map(|step| planned(Rank::Console, Side::Host, step)));
        steps.push(planned(self.rank(Rank::Console), Side::Jail, console::Step::Control));
        steps
    }

    fn limit(&self, limit: &PosixRlimit) -> Vec<Planned> {
        let kind = setting::resource(limit.typ());
        let (name, resource) = (limit.typ().to_string(), kind as u32);
        let (mut soft, mut hard) = (limit.soft(), limit.hard());
        let (now, most) = setting::limit(kind);
        if hard > most && !self.may_raise {
            crate::log::warn(&format!("{name} stays at {most}: raising it to {hard} needs CAP_SYS_RESOURCE"));
            (soft, hard) = (soft.min(most), most);
        }
        let planned = |rank, side, step| Planned { rank, side, step: Step::Setting(step) };
        let usual = |soft| match self.user_namespace {
            true => {
                let step = setting::Step::LimitFrom { name: name.clone(), resource, soft, hard };
                planned(Rank::Map, Side::Host, step)
            }
            false => {
                let step = setting::Step::Limit { name: name.clone(), resource, soft, hard };
                planned(Rank::Limit, Side::Jail, step)
            }
        };
        if self.is_first || kind != Resource::RLIMIT_NPROC {
            return vec![usual(soft)];
        }
        // The clone of the last process is counted, and so is the one that makes it: what is lower comes after that.
        let last = setting::Step::Limit { name: name.clone(), resource, soft, hard };
        let raise = (hard > most || soft > now).then(|| usual(hard));
        raise.into_iter().chain([planned(Rank::Program, Side::Jail, last)]).collect()
    }
}

/// What a process document says of the program.
///
/// # Errors
/// `Invalid` for a string with NUL.
pub fn program(process: &Process) -> Result<Program> {
    let strings = |list: &Option<Vec<String>>, at| {
        list.iter().flatten().map(|word| text(word.as_bytes(), at)).collect::<Result<Vec<_>>>()
    };
    let env = strings(process.env(), "/process/env")?;
    let value = |name: &str| {
        process
            .env()
            .iter()
            .flatten()
            .rev()
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
    };
    let search = value("PATH").unwrap_or_else(|| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    Ok(Program {
        args: strings(process.args(), "/process/args")?,
        env,
        search: search.split(':').map(PathBuf::from).collect(),
        inherited: 0,
        numbered: Vec::new(),
        home_of: value("HOME").is_none().then_some(process.user().uid()),
    })
}

impl Program {
    /// Adds what of the caller's comes in.
    ///
    /// # Errors
    /// `Invalid` for a string with NUL.
    pub(crate) fn inherit(&mut self, inherited: &Inherited) -> Result<()> {
        self.inherited = inherited.count();
        for variable in inherited.variables() {
            self.forget(variable.split_once('=').map_or(&variable[..], |(name, _)| name));
            self.env.push(text(variable.as_bytes(), "the environment")?);
        }
        for name in inherited.numbers() {
            self.forget(name);
            self.numbered.push(name);
        }
        Ok(())
    }

    /// What the specification says of a variable is about another one.
    fn forget(&mut self, name: &str) {
        let has_it =
            |line: &CString| line.to_bytes().strip_prefix(name.as_bytes()).is_some_and(|rest| rest.starts_with(b"="));
        self.env.retain(|line| !has_it(line));
    }
}

pub(crate) fn text(bytes: &[u8], at: &str) -> Result<CString> {
    CString::new(bytes).map_err(|_| Error::invalid(format!("use {at}: it contains NUL")))
}
