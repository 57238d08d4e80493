//! The plan of a jail: every step, in order, before anything is touched.

use std::fmt;
use std::path::{Path, PathBuf};

use base::{Ctx, JailId, Object, Rank, Side};
use nix::sched::CloneFlags;
use oci_spec::runtime::{Hook, Spec};
use sys::Result;

use crate::hooks::Moment;
use crate::program::Program;
use crate::{console, hooks, label, listener, namespace, resctrl, scheduling, setting};

/// One kernel effect, of whichever leaf.
#[derive(Clone, Debug)]
pub enum Step {
    /// Control groups.
    Cgroup(cgroup::Step),
    /// Root and mounts.
    Storage(storage::Step),
    /// Network stack.
    Netstack(netstack::Step),
    /// Confinement.
    Secmodel(secmodel::Step),
    /// Name spaces.
    Namespace(namespace::Step),
    /// Settings of the process and its name spaces.
    Setting(setting::Step),
    /// The terminal.
    Console(console::Step),
    /// Scheduling.
    Scheduling(scheduling::Step),
    /// Groups of resctrl.
    Resctrl(resctrl::Step),
    /// Labels of security modules.
    Label(label::Step),
    /// The listener of the filter.
    Listener(listener::Step),
    /// A hook: its JSON pointer, itself, when.
    Hook(String, Hook, Moment),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroup(step) => step.fmt(f),
            Self::Storage(step) => step.fmt(f),
            Self::Netstack(step) => step.fmt(f),
            Self::Secmodel(step) => step.fmt(f),
            Self::Namespace(step) => step.fmt(f),
            Self::Setting(step) => step.fmt(f),
            Self::Console(step) => step.fmt(f),
            Self::Scheduling(step) => step.fmt(f),
            Self::Resctrl(step) => step.fmt(f),
            Self::Label(step) => step.fmt(f),
            Self::Listener(step) => step.fmt(f),
            Self::Hook(at, hook, _) => write!(f, "run hook {at} {}", hook.path().display()),
        }
    }
}

impl Step {
    /// What it makes that must be written down before.
    pub fn makes(&self) -> Option<Object> {
        match self {
            Self::Cgroup(step) => step.makes(),
            Self::Resctrl(step) => step.makes(),
            _ => None,
        }
    }

    fn run(&self, plan: &Plan, ctx: &mut Ctx) -> Result<()> {
        match self {
            Self::Cgroup(step) => step.run(ctx),
            Self::Storage(step) => step.run(ctx),
            Self::Netstack(step) => step.run(ctx),
            Self::Secmodel(step) => step.run().map(|listener| ctx.listener = ctx.listener.take().or(listener)),
            Self::Namespace(step) => step.run(ctx),
            Self::Setting(step) => step.run(ctx),
            Self::Console(step) => step.run(ctx),
            Self::Scheduling(step) => step.run(ctx),
            Self::Resctrl(step) => step.run(ctx),
            Self::Label(step) => step.run(ctx),
            Self::Listener(step) => step.run(plan, ctx),
            Self::Hook(at, hook, moment) => {
                let status = if *moment == Moment::StartContainer { "created" } else { "creating" };
                let state = hooks::state(plan.id.as_str(), status, ctx.pid, &plan.bundle, &plan.spec);
                hooks::run(at, hook, &state)
            }
        }
    }
}

/// A step at its place.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Where in the order.
    pub rank: Rank,
    /// Who does it.
    pub side: Side,
    /// What.
    pub step: Step,
}

impl Planned {
    /// Does the step, saying so first where `--debug` asks for it.
    ///
    /// # Errors
    /// That of the step.
    pub fn run(&self, plan: &Plan, ctx: &mut Ctx) -> Result<()> {
        if self.side == Side::Host {
            crate::log::debug(|| self.step.to_string());
        }
        self.step.run(plan, ctx)
    }
}

/// The ordered steps, and what the clone and the execution at its end need.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The jail.
    pub id: JailId,
    /// Its bundle.
    pub bundle: PathBuf,
    /// What was asked.
    pub spec: Spec,
    /// The name spaces that the clone makes.
    pub flags: CloneFlags,
    /// In the order in which they are done.
    pub steps: Vec<Planned>,
    /// What comes after the last.
    pub program: Program,
}

impl Plan {
    /// What is left for the host's side when a created jail is started.
    pub fn rest(id: &JailId, bundle: &Path, spec: &Spec) -> Self {
        let send = listener::step(spec, "created").map(Step::Listener);
        let planned = |step| Planned { rank: Rank::Confine, side: Side::Host, step };
        Self {
            id: id.clone(),
            bundle: bundle.to_owned(),
            spec: spec.clone(),
            flags: CloneFlags::empty(),
            steps: send.into_iter().map(planned).collect(),
            program: Program::default(),
        }
    }

    /// Whether process 1 waits for `Go`: the host's side has something to do for it right after the clone, or a hook that
    /// it runs is told its number on the host.
    pub fn waits_for_go(&self) -> bool {
        let mut jail = self.steps.iter().filter(|planned| planned.side == Side::Jail);
        !self.of(Rank::Map).is_empty() || jail.any(|planned| matches!(planned.step, Step::Hook(..)))
    }

    /// How many steps come before a rank.
    pub fn before(&self, rank: Rank) -> usize {
        self.steps.partition_point(|planned| planned.rank < rank)
    }

    /// The steps of one rank.
    pub fn of(&self, rank: Rank) -> &[Planned] {
        let to = self.steps.partition_point(|planned| planned.rank <= rank);
        &self.steps[self.before(rank)..to]
    }

    /// The steps that both sides walk together, from the clone until the jail is made.
    pub fn walk(&self) -> &[Planned] {
        &self.steps[self.before(Rank::Attach)..self.before(Rank::Ready)]
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = Rank::Cgroup;
        for planned in &self.steps {
            if last < Rank::Clone && planned.rank > Rank::Clone {
                writeln!(f, "host  clone process 1")?;
            }
            if last < Rank::Ready && planned.rank > Rank::Ready {
                writeln!(f, "jail  wait for start")?;
            }
            last = planned.rank;
            let side = if planned.side == Side::Host { "host" } else { "jail" };
            writeln!(f, "{side}  {}", planned.step)?;
        }
        writeln!(
            f,
            "jail  execute {}",
            self.program.args.first().map_or_else(Default::default, |arg| arg.to_string_lossy())
        )
    }
}
