//! The order of a confinement, against the rules of capabilities(7) and seccomp(2) as a small model of a process.
#![allow(clippy::unwrap_used)]

use caps::{Capability, CapsHashSet};
use nix::unistd::{Gid, Uid};
use secmodel::{Caps, Confinement, Filter, Step, plan};

const ADMIN: Capability = Capability::CAP_SYS_ADMIN;

/// A process of the kernel's, as far as a confinement touches it.
#[derive(Debug)]
struct Process {
    root: bool,
    keep: bool,
    no_new_privs: bool,
    filtered: bool,
    bounding: CapsHashSet,
    effective: CapsHashSet,
    permitted: CapsHashSet,
    inheritable: CapsHashSet,
    ambient: CapsHashSet,
}

impl Process {
    fn new() -> Self {
        let all = caps::all();
        let (bounding, effective, permitted) = (all.clone(), all.clone(), all);
        // A caller with an inheritable and an ambient set, which must not reach the jail (CVE-2022-24769).
        let stray = CapsHashSet::from([Capability::CAP_SYS_TIME]);
        Self {
            root: true,
            keep: false,
            no_new_privs: false,
            filtered: false,
            bounding,
            effective,
            permitted,
            inheritable: stray.clone(),
            ambient: stray,
        }
    }

    fn needs(&self, cap: Capability) {
        assert!(self.effective.contains(&cap), "{cap} is needed");
    }

    fn run(&mut self, step: &Step) {
        // Behind a filter nothing may come but capset and the exec.
        assert!(!self.filtered || matches!(step, Step::Capabilities { .. }), "{step} is behind the filter");
        match step {
            Step::Umask(_) => {}
            Step::Bounding(dropped) => {
                self.needs(Capability::CAP_SETPCAP);
                dropped.iter().for_each(|cap| assert!(self.bounding.remove(cap)));
            }
            Step::KeepCaps => self.keep = true,
            Step::Groups(_) | Step::Group(_) => self.needs(Capability::CAP_SETGID),
            Step::User(uid) => {
                self.needs(Capability::CAP_SETUID);
                if self.root && !uid.is_root() {
                    self.root = false;
                    self.effective.clear();
                    self.ambient.clear();
                    if !self.keep {
                        self.permitted.clear();
                    }
                }
            }
            Step::Capabilities { inheritable, effective, permitted } => {
                assert!(permitted.is_subset(&self.permitted), "permitted can only shrink");
                assert!(effective.is_subset(permitted));
                let inheritable_before: CapsHashSet = self.inheritable.union(&self.bounding).copied().collect();
                assert!(inheritable.is_subset(&inheritable_before));
                let unprivileged: CapsHashSet = self.inheritable.union(&self.permitted).copied().collect();
                assert!(self.effective.contains(&Capability::CAP_SETPCAP) || inheritable.is_subset(&unprivileged));
                self.inheritable.clone_from(inheritable);
                self.effective.clone_from(effective);
                self.permitted.clone_from(permitted);
                self.ambient.retain(|cap| inheritable.contains(cap) && permitted.contains(cap));
            }
            Step::Ambient(ambient) => {
                for cap in ambient {
                    assert!(self.permitted.contains(cap) && self.inheritable.contains(cap));
                }
                self.ambient = ambient.iter().copied().collect();
            }
            Step::NoNewPrivs => self.no_new_privs = true,
            Step::Seccomp(_) => {
                assert!(self.no_new_privs || self.effective.contains(&ADMIN), "a filter needs SYS_ADMIN");
                self.filtered = true;
            }
        }
    }
}

/// Every combination of small sets that the spec's side can hand over.
fn sets() -> Vec<Caps> {
    let few = [Capability::CAP_CHOWN, Capability::CAP_SETPCAP, ADMIN];
    let subsets = |of: &CapsHashSet| -> Vec<CapsHashSet> {
        let of: Vec<_> = of.iter().copied().collect();
        let chosen = |bits: usize| of.iter().enumerate().filter(move |(n, _)| bits >> n & 1 == 1).map(|(_, cap)| *cap);
        (0..1 << of.len()).map(|bits| chosen(bits).collect()).collect()
    };
    let mut all = Vec::new();
    let few = CapsHashSet::from(few);
    for bounding in subsets(&few) {
        let dropped: Vec<_> = caps::all().difference(&bounding).copied().collect();
        for permitted in subsets(&few) {
            for effective in subsets(&permitted) {
                for inheritable in subsets(&bounding) {
                    let both = inheritable.intersection(&permitted).copied().collect();
                    for ambient in subsets(&both) {
                        let (bounding, permitted, effective) = (bounding.clone(), permitted.clone(), effective.clone());
                        let (inheritable, dropped) = (inheritable.clone(), dropped.clone());
                        all.push(Caps { bounding, effective, permitted, inheritable, ambient, dropped });
                    }
                }
            }
        }
    }
    all
}

#[test]
fn every_confinement_is_reached_and_no_step_is_refused() {
    let filter = Filter { program: vec![0; 8], flags: 0 };
    for caps in sets() {
        for bits in 0..16 {
            let bit = |n: u32| bits >> n & 1 == 1;
            let asked = Confinement {
                uid: Uid::from_raw(if bit(0) { 1000 } else { 0 }),
                gid: Gid::from_raw(5),
                groups: Vec::new(),
                setgroups: bit(3),
                umask: bit(3).then_some(0o22),
                caps: caps.clone(),
                no_new_privs: bit(1),
                filter: bit(2).then(|| filter.clone()),
            };
            let steps = plan(asked.clone());
            let mut process = Process::new();
            steps.iter().for_each(|step| process.run(step));
            assert_eq!(process.bounding, asked.caps.bounding);
            assert_eq!(process.effective, asked.caps.effective);
            assert_eq!(process.permitted, asked.caps.permitted);
            assert_eq!(process.inheritable, asked.caps.inheritable);
            assert_eq!(process.ambient, asked.caps.ambient);
            assert_eq!(process.no_new_privs, asked.no_new_privs);
            assert_eq!(process.filtered, asked.filter.is_some());
            assert_eq!(steps.contains(&Step::Groups(Vec::new())), asked.setgroups);
            // Nothing at all is needed of a filter that is loaded with no_new_privs.
            let last = matches!(steps.last(), Some(Step::Seccomp(_)));
            assert!(last || asked.filter.is_none() || !asked.no_new_privs);
        }
    }
}
