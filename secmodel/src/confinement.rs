//! What the jail's side does to itself last, and in which order.

use std::fmt;
use std::os::fd::OwnedFd;

use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::sys::prctl::{set_keepcaps, set_no_new_privs};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use sys::{Doing, Result};

use crate::caps::{Caps, refused};
use crate::seccomp::Filter;

/// Who a program in the jail is and what it may do; compiled outside, so that nothing is parsed inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confinement {
    /// The user, as the jail counts.
    pub uid: Uid,
    /// The group, as the jail counts.
    pub gid: Gid,
    /// The supplementary groups, as the jail counts.
    pub groups: Vec<Gid>,
    /// Whether the supplementary groups are set, even to none. False only where /proc/self/setgroups says `deny`, which
    /// the kernel asks of an unprivileged user name space; `groups` cannot be given then. See user_namespaces(7).
    pub setgroups: bool,
    /// The file mode creation mask, or the one that the caller had.
    pub umask: Option<u32>,
    /// The capability sets.
    pub caps: Caps,
    /// Whether no exec gives more privilege than before: PR_SET_NO_NEW_PRIVS.
    pub no_new_privs: bool,
    /// The system call filter.
    pub filter: Option<Filter>,
}

/// One kernel effect. Its text is its clause in errors and in a dry run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// umask(2).
    Umask(u32),
    /// PR_CAPBSET_DROP for each.
    Bounding(Vec<Capability>),
    /// PR_SET_KEEPCAPS; the exec undoes it.
    KeepCaps,
    /// setgroups(2).
    Groups(Vec<Gid>),
    /// setresgid(2).
    Group(Gid),
    /// setresuid(2).
    User(Uid),
    /// capset(2).
    Capabilities {
        /// The inheritable set.
        inheritable: CapsHashSet,
        /// The effective set.
        effective: CapsHashSet,
        /// The permitted set.
        permitted: CapsHashSet,
    },
    /// PR_CAP_AMBIENT: none but these.
    Ambient(Vec<Capability>),
    /// PR_SET_NO_NEW_PRIVS.
    NoNewPrivs,
    /// seccomp(2).
    Seccomp(Filter),
}

/// The steps of a confinement, in the one order that works. The next thing to do is execve(2).
///
/// - The bounding set shrinks first: that needs SETPCAP, which the next steps take away.
/// - Groups, group, user: each needs a privilege that the change of user takes. That change empties the effective set,
///   and without PR_SET_KEEPCAPS the permitted one too, from which the sets of the spec are to be made.
/// - The inheritable set comes with the others and the ambient one after them: it is a part of both.
/// - With no_new_privs the filter is last, and needs to allow nothing but what the caller does from there: execve, and
///   what reports that it failed.
/// - Without it the kernel asks for SYS_ADMIN to load a filter. So the sets are made with SYS_ADMIN added, the filter is
///   loaded, and SYS_ADMIN is taken away behind it. Nothing else comes after the filter, so that it needs to allow
///   capget and capset in addition. (The jail's program gains nothing if it does not: then the start fails.)
pub fn plan(confinement: Confinement) -> Vec<Step> {
    let Confinement { uid, gid, groups, setgroups, umask, caps, no_new_privs, filter } = confinement;
    let Caps { effective, permitted, inheritable, ambient, dropped, .. } = caps;
    let privileged = filter.is_some() && !no_new_privs;
    let with = |set: &CapsHashSet| {
        let admin = privileged.then_some(Capability::CAP_SYS_ADMIN);
        set.iter().copied().chain(admin).collect::<CapsHashSet>()
    };
    let first = (with(&effective), with(&permitted));
    let again = first != (effective.clone(), permitted.clone());

    let mut steps = Vec::with_capacity(10);
    steps.extend(umask.map(Step::Umask));
    if !dropped.is_empty() {
        steps.push(Step::Bounding(dropped));
    }
    if !uid.is_root() {
        steps.push(Step::KeepCaps);
    }
    if setgroups {
        steps.push(Step::Groups(groups));
    }
    steps.extend([Step::Group(gid), Step::User(uid)]);
    steps.push(Step::Capabilities { inheritable: inheritable.clone(), effective: first.0, permitted: first.1 });
    steps.push(Step::Ambient(sorted(&ambient)));
    if no_new_privs {
        steps.push(Step::NoNewPrivs);
    }
    steps.extend(filter.map(Step::Seccomp));
    if again {
        steps.push(Step::Capabilities { inheritable, effective, permitted });
    }
    steps
}

fn sorted(set: &CapsHashSet) -> Vec<Capability> {
    let mut caps: Vec<_> = set.iter().copied().collect();
    caps.sort_unstable_by_key(Capability::index);
    caps
}

impl Step {
    /// Does the step to the calling process, which has one thread. The answer is the listener of a filter that notifies.
    ///
    /// # Errors
    /// The kernel's refusal, with the step.
    pub fn run(&self) -> Result<Option<OwnedFd>> {
        match self {
            Self::Umask(mask) => _ = umask(Mode::from_bits_truncate(*mask)),
            Self::Bounding(dropped) => {
                for cap in dropped {
                    caps::drop(None, CapSet::Bounding, *cap)
                        .map_err(|error| refused(format_args!("take {cap} from the bounding set"), &error))?;
                }
            }
            Self::KeepCaps => set_keepcaps(true).doing(|| self)?,
            Self::Groups(groups) => match setgroups(groups) {
                // Denied in this user name space for ever, and left before it was joined. See user_namespaces(7).
                Err(Errno::EPERM) if groups.is_empty() => {}
                set => set.doing(|| self)?,
            },
            Self::Group(gid) => setresgid(*gid, *gid, *gid).doing(|| self)?,
            Self::User(uid) => setresuid(*uid, *uid, *uid).doing(|| self)?,
            Self::Capabilities { inheritable, effective, permitted } => {
                // The effective set before the permitted one, of which it must stay a part.
                caps::set(None, CapSet::Inheritable, inheritable)
                    .and_then(|()| caps::set(None, CapSet::Effective, effective))
                    .and_then(|()| caps::set(None, CapSet::Permitted, permitted))
                    .map_err(|error| refused(self, &error))?;
            }
            Self::Ambient(ambient) => {
                caps::clear(None, CapSet::Ambient).map_err(|error| refused(self, &error))?;
                for cap in ambient {
                    caps::raise(None, CapSet::Ambient, *cap)
                        .map_err(|error| refused(format_args!("make {cap} ambient"), &error))?;
                }
            }
            Self::NoNewPrivs => set_no_new_privs().doing(|| self)?,
            Self::Seccomp(filter) => {
                return sys::process::seccomp_load(&filter.program, filter.flags).doing(|| self);
            }
        }
        Ok(None)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Umask(mask) => write!(f, "set the umask to {mask:04o}"),
            Self::Bounding(dropped) => write!(f, "take {} from the bounding set", names(dropped)),
            Self::KeepCaps => f.write_str("keep capabilities across the change of user"),
            Self::Groups(groups) if groups.is_empty() => f.write_str("leave all supplementary groups"),
            Self::Groups(groups) => {
                let groups: Vec<_> = groups.iter().map(Gid::to_string).collect();
                write!(f, "set the supplementary groups to {}", groups.join(", "))
            }
            Self::Group(gid) => write!(f, "become group {gid}"),
            Self::User(uid) => write!(f, "become user {uid}"),
            Self::Capabilities { inheritable, effective, permitted } => {
                let [i, e, p] = [inheritable, effective, permitted].map(|set| names(&sorted(set)));
                write!(f, "set the capabilities to permitted {p}, effective {e}, inheritable {i}")
            }
            Self::Ambient(ambient) => write!(f, "set the ambient capabilities to {}", names(ambient)),
            Self::NoNewPrivs => f.write_str("forbid new privileges"),
            Self::Seccomp(filter) => {
                write!(f, "load a system call filter of {} instructions", filter.program.len() / 8)
            }
        }
    }
}

fn names(caps: &[Capability]) -> String {
    if caps.is_empty() {
        return "none".to_owned();
    }
    let names: Vec<_> = caps.iter().map(Capability::to_string).collect();
    names.join(", ")
}
