//! Capability sets: what the spec asks for, and what of it can be had.

use std::fmt;
use std::str::FromStr;

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use oci_spec::runtime::{Capabilities, LinuxCapabilities};
use sys::{Error, Kind, Result};

/// The capabilities of a jail that asks for none by name: what the programs of a distribution need to install packages,
/// to change user, and to serve below port 1024.
///
/// These are Docker's fourteen but for three. NET_RAW forges packets of other jails on the same bridge, and ping works
/// without it (net.ipv4.ping_group_range). MKNOD makes nodes of devices, of which the jail has all that it needs, and is
/// not asked for FIFOs and sockets. AUDIT_WRITE fills the host's audit log, which knows no jails.
pub const DEFAULT: &[Capability] = &[
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_KILL,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
    Capability::CAP_SETPCAP,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_SETFCAP,
];

/// The five sets that a jail's program starts with, and what that takes. Source: capabilities(7).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// The most that an exec can ever give.
    pub bounding: CapsHashSet,
    /// What is checked.
    pub effective: CapsHashSet,
    /// What may be made effective.
    pub permitted: CapsHashSet,
    /// What an exec keeps where the file says so too.
    pub inheritable: CapsHashSet,
    /// What an exec keeps for a user that is not root.
    pub ambient: CapsHashSet,
    /// What must be taken from the bounding set to get `bounding`, in the kernel's order.
    pub dropped: Vec<Capability>,
}

/// How far a process's capabilities reach: a fact of this machine, to be read once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// What the kernel knows.
    pub known: CapsHashSet,
    /// What can be in a bounding set, and so in an inheritable one.
    pub bounding: CapsHashSet,
    /// What can be permitted, effective and ambient.
    pub permitted: CapsHashSet,
}

impl Reach {
    /// The reach of the calling process, for a jail without a user name space.
    ///
    /// # Errors
    /// Only where capget(2) itself is refused.
    pub fn of_caller() -> Result<Self> {
        let (mut known, mut bounding) = (CapsHashSet::new(), CapsHashSet::new());
        for cap in caps::all() {
            // prctl(2) refuses to answer for a capability that this kernel does not know.
            if let Ok(held) = caps::has_cap(None, CapSet::Bounding, cap) {
                known.insert(cap);
                if held {
                    bounding.insert(cap);
                }
            }
        }
        let permitted =
            caps::read(None, CapSet::Permitted).map_err(|error| refused("read the caller's capabilities", &error))?;
        Ok(Self { known, bounding, permitted })
    }

    /// The reach in a user name space that one has just made or joined: everything. Source: user_namespaces(7).
    #[must_use]
    pub fn in_user_namespace(self) -> Self {
        Self { bounding: self.known.clone(), permitted: self.known.clone(), known: self.known }
    }
}

/// The capabilities that this program and the running kernel know, in the kernel's order.
pub fn known() -> Vec<Capability> {
    let known = |cap: &Capability| caps::has_cap(None, CapSet::Bounding, *cap).is_ok();
    let mut all: Vec<_> = caps::all().into_iter().filter(known).collect();
    all.sort_unstable_by_key(Capability::index);
    all
}

/// The sets of a spec as far as `reach` goes, and one sentence for each reason why some of a
/// set are left out: buildah asks for fourteen ambient ones that are not inheritable, in each RUN.
///
/// Left out is what the kernel would refuse with EPERM: effective beyond permitted, ambient beyond permitted or
/// inheritable, inheritable beyond bounding.
pub fn within(spec: Option<&LinuxCapabilities>, reach: &Reach) -> (Caps, Vec<String>) {
    let mut warnings = Vec::new();
    let mut take = |set, asked: Option<&Option<Capabilities>>, limits: &[(&CapsHashSet, &str)]| {
        let mut taken = CapsHashSet::new();
        let mut left = vec![Vec::new(); limits.len()];
        for cap in sorted(asked) {
            match limits.iter().position(|(limit, _)| !limit.contains(&cap)) {
                None => _ = taken.insert(cap),
                Some(at) => left[at].push(cap.to_string()),
            }
        }
        for (caps, (_, why)) in left.iter().zip(limits).filter(|(caps, _)| !caps.is_empty()) {
            warnings.push(format!("/process/capabilities/{set}: {} left out: {why}", caps.join(", ")));
        }
        taken
    };
    let known = (&reach.known, "unknown to this kernel");
    let held = (&reach.permitted, "not held by the caller");
    let bounded = (&reach.bounding, "not in the caller's bounding set");
    let bounding = take("bounding", spec.map(LinuxCapabilities::bounding), &[known, bounded]);
    let permitted = take("permitted", spec.map(LinuxCapabilities::permitted), &[known, held]);
    let inside = (&permitted, "not in the permitted set");
    let effective = take("effective", spec.map(LinuxCapabilities::effective), &[known, held, inside]);
    let below = (&bounding, "not in the bounding set");
    let inheritable = take("inheritable", spec.map(LinuxCapabilities::inheritable), &[known, bounded, below]);
    let inherited = (&inheritable, "not in the inheritable set");
    let ambient = take("ambient", spec.map(LinuxCapabilities::ambient), &[known, held, inside, inherited]);
    let mut dropped: Vec<_> = reach.bounding.difference(&bounding).copied().collect();
    dropped.sort_unstable_by_key(Capability::index);
    (Caps { bounding, effective, permitted, inheritable, ambient, dropped }, warnings)
}

/// An error of the crate `caps`, which is text only, with the kernel's reason taken out of it again.
pub(crate) fn refused(step: impl fmt::Display, error: &CapsError) -> Error {
    let text = error.to_string();
    // As std prints an error of the system: `…: Operation not permitted (os error 1)`.
    let number = text.rsplit_once("(os error ").and_then(|(_, rest)| rest.strip_suffix(')')?.parse().ok());
    match number {
        Some(number) => Error::kernel(step, Errno::from_raw(number)),
        None => Error::new(Kind::Kernel, format!("{step}: {text}")),
    }
}

/// The capabilities of one set of the spec, in the kernel's order, so that the warnings have an order too.
fn sorted(asked: Option<&Option<Capabilities>>) -> Vec<Capability> {
    let names = asked.and_then(Option::as_ref).into_iter().flatten();
    let mut caps: Vec<_> = names.filter_map(|name| Capability::from_str(&format!("CAP_{name}")).ok()).collect();
    caps.sort_unstable_by_key(Capability::index);
    caps
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::Capability as Oci;

    use super::*;

    fn reach(without: Capability) -> Reach {
        let all: CapsHashSet = caps::all();
        let held: CapsHashSet = all.iter().copied().filter(|cap| *cap != without).collect();
        Reach { known: all, bounding: held.clone(), permitted: held }
    }

    fn set(caps: &[Oci]) -> Option<Capabilities> {
        Some(caps.iter().copied().collect())
    }

    #[test]
    fn every_capability_of_libcaps_has_its_name_in_a_spec() {
        for cap in caps::all() {
            let json = format!("{{\"bounding\":[\"{cap}\"]}}");
            let spec: LinuxCapabilities = serde_json::from_str(&json).unwrap();
            assert_eq!(sorted(Some(spec.bounding())), [cap]);
        }
    }

    #[test]
    fn an_error_of_the_kernel_keeps_its_number() {
        // Only a set of the calling thread can be changed.
        let refusal = caps::set(Some(1), CapSet::Effective, &CapsHashSet::new()).unwrap_err();
        let error = refused("do it", &refusal);
        assert_eq!((error.kind, error.errno(), error.what.as_str()), (Kind::Denied, Some(Errno::EPERM), "do it"));
    }

    #[test]
    fn no_spec_means_no_capability_and_drops_all() {
        let (caps, warnings) = within(None, &reach(Capability::CAP_SYS_TIME));
        assert!(warnings.is_empty());
        assert_eq!(caps, Caps { dropped: caps.dropped.clone(), ..Caps::default() });
        assert_eq!(caps.dropped.len(), caps::all().len() - 1);
        assert!(caps.dropped.is_sorted_by_key(Capability::index));
    }

    #[test]
    fn what_cannot_be_given_is_left_out_with_its_place() {
        let mut spec: LinuxCapabilities = serde_json::from_str("{}").unwrap();
        spec.set_bounding(set(&[Oci::Chown, Oci::SysTime]));
        spec.set_permitted(set(&[Oci::Chown]));
        spec.set_effective(set(&[Oci::Chown, Oci::Kill]));
        spec.set_inheritable(set(&[Oci::Chown, Oci::Kill]));
        spec.set_ambient(set(&[Oci::Chown, Oci::Fowner, Oci::Kill]));
        let (caps, warnings) = within(Some(&spec), &reach(Capability::CAP_SYS_TIME));
        let chown = CapsHashSet::from([Capability::CAP_CHOWN]);
        for set in [&caps.bounding, &caps.permitted, &caps.effective, &caps.inheritable, &caps.ambient] {
            assert_eq!(set, &chown);
        }
        assert_eq!(warnings.len(), 4);
        let first = "/process/capabilities/bounding: CAP_SYS_TIME left out: not in the caller's bounding set";
        assert_eq!(warnings[0], first);
        let ambient = "/process/capabilities/ambient: CAP_FOWNER, CAP_KILL left out: not in the permitted set";
        assert_eq!(warnings[3], ambient);
        let (caps, warnings) = within(Some(&spec), &reach(Capability::CAP_SYS_TIME).in_user_namespace());
        assert!(caps.bounding.contains(&Capability::CAP_SYS_TIME));
        assert_eq!(warnings.len(), 3);
    }
}
