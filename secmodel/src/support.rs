//! What of seccomp can be asked for: the specification's words, each tried on the code that carries it out.

use libseccomp::{ScmpAction, ScmpFilterContext, ScmpVersion};
use oci_spec::runtime::{Arch, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator};

use crate::seccomp::{ARCHITECTURES, action};

/// Every action of the specification.
const ACTIONS: [LinuxSeccompAction; 9] = [
    LinuxSeccompAction::ScmpActAllow,
    LinuxSeccompAction::ScmpActErrno,
    LinuxSeccompAction::ScmpActKill,
    LinuxSeccompAction::ScmpActKillProcess,
    LinuxSeccompAction::ScmpActKillThread,
    LinuxSeccompAction::ScmpActLog,
    LinuxSeccompAction::ScmpActNotify,
    LinuxSeccompAction::ScmpActTrace,
    LinuxSeccompAction::ScmpActTrap,
];

/// Every operator of the specification; all are carried out.
pub const OPERATORS: [LinuxSeccompOperator; 7] = [
    LinuxSeccompOperator::ScmpCmpEq,
    LinuxSeccompOperator::ScmpCmpGe,
    LinuxSeccompOperator::ScmpCmpGt,
    LinuxSeccompOperator::ScmpCmpLe,
    LinuxSeccompOperator::ScmpCmpLt,
    LinuxSeccompOperator::ScmpCmpMaskedEq,
    LinuxSeccompOperator::ScmpCmpNe,
];

/// Every flag of the specification; all are carried out.
pub const FLAGS: [LinuxSeccompFilterFlag; 4] = [
    LinuxSeccompFilterFlag::SeccompFilterFlagLog,
    LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow,
    LinuxSeccompFilterFlag::SeccompFilterFlagTsync,
    LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv,
];

/// The actions that are carried out.
pub fn actions() -> Vec<LinuxSeccompAction> {
    ACTIONS.into_iter().filter(|one| action(*one, None, "").is_ok()).collect()
}

/// The architectures that this libseccomp takes beside the native one: not those of the other byte order, nor newer ones.
pub fn architectures() -> Vec<Arch> {
    let taken = |scmp| {
        let context = ScmpFilterContext::new(ScmpAction::Allow);
        context.is_ok_and(|mut context| context.add_arch(scmp).is_ok())
    };
    ARCHITECTURES.iter().filter(|(_, scmp)| taken(*scmp)).map(|(oci, _)| *oci).collect()
}

/// The version of libseccomp.
pub fn version() -> Option<String> {
    ScmpVersion::current().ok().map(|version| version.to_string())
}
