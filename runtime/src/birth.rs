//! How process 1 comes to be: by one clone, or by a process in between that first joins what the clone takes over.

use std::os::fd::AsFd;

use base::{Ctx, Rank};
use nix::unistd::ForkResult;
use sys::process::{Birth, Fork, clone_sibling, clone3, exit_now};
use sys::{Doing, Error, Kind, Result};

use crate::channel::{Channel, Message};
use crate::plan::Plan;
use crate::process;

/// Makes process 1 and the channel between it and this process. Comes back on both sides, each with its own end.
///
/// # Errors
/// As clone(2), or why a name space could not be joined. No process is left then.
pub fn process_1(plan: &Plan, ctx: &mut Ctx) -> Result<(Fork, Channel)> {
    let step = || "clone process 1 into its name spaces";
    let (mine, theirs) = Channel::pair("process 1")?;
    let flags = plan.flags.bits() as u64;
    let cgroup = ctx.cgroup.take();
    let cgroup = cgroup.as_ref().map(AsFd::as_fd);
    if plan.of(Rank::Join).is_empty() {
        return match clone3(flags, cgroup).doing(step)? {
            Fork::Child => Ok((Fork::Child, theirs)),
            parent => Ok((parent, mine)),
        };
    }
    let birth = Birth::new().doing(step)?;
    match clone3(0, cgroup).doing(step)? {
        Fork::Child => {
            drop(mine);
            let joined = plan.of(Rank::Join).iter().try_for_each(|planned| planned.run(plan, ctx));
            match joined.and_then(|()| clone_sibling(flags, &birth).doing(step)) {
                Ok(ForkResult::Child) => Ok((Fork::Child, theirs)),
                Ok(ForkResult::Parent { .. }) => exit_now(0),
                Err(error) => theirs.give_up(error),
            }
        }
        Fork::Parent(between) => {
            drop(theirs);
            let waited = process::exit_code(&between.pidfd);
            match (waited, birth.pid().map(process::adopt).transpose()?) {
                (Ok(_), Some(child)) => Ok((Fork::Parent(child), mine)),
                (Err(error), Some(child)) => Err(process::end_after(&child, error)),
                (Err(error), None) => Err(error),
                (Ok(_), None) => {
                    mine.expect(&Message::Here)?;
                    Err(Error::new(Kind::Kernel, format!("{}: nobody did", step())))
                }
            }
        }
    }
}
