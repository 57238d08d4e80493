//! Labels of the security modules: an AppArmor profile or an SELinux context that the program is executed under.

use std::fmt;
use std::os::fd::AsFd;
use std::path::Path;

use base::{Ctx, Rank, Side};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use nix::unistd::write;
use oci_spec::runtime::{Linux, Process};
use sys::{Doing, Error, Kind, Result};

/// Which security modules this host has: a fact to be read once, where a label is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modules {
    /// AppArmor is on.
    pub apparmor: bool,
    /// SELinux is on, permissive or enforcing.
    pub selinux: bool,
}

impl Modules {
    /// The modules that the labels of a process and of the mounts depend on; nothing is looked at where there is none.
    pub fn read_for(process: &Process, linux: Option<&Linux>) -> Self {
        let labelled = selinux(process).is_some() || linux.is_some_and(|linux| filled(linux.mount_label()).is_some());
        let on = |path| std::fs::read(path).is_ok_and(|text| text.starts_with(b"Y"));
        Self {
            apparmor: apparmor(process).is_some() && on("/sys/module/apparmor/parameters/enabled"),
            selinux: labelled && Path::new("/sys/fs/selinux/enforce").exists(),
        }
    }
}

/// One effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Host: its own /proc is opened into `slot`. What an image has mounted there is not asked (CVE-2019-16884).
    Open { slot: usize },
    /// Jail: what the next exec does, by one of the files of /proc/self/attr, of which the first that there is counts.
    Write { files: &'static [&'static str], text: String, slot: usize },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { .. } => f.write_str("open /proc of the host"),
            Self::Write { files, text, .. } => {
                write!(f, "write {text:?} to /proc/{}", files.last().copied().unwrap_or_default())
            }
        }
    }
}

fn filled(label: &Option<String>) -> Option<&str> {
    label.as_deref().filter(|label| !label.is_empty())
}

fn apparmor(process: &Process) -> Option<&str> {
    filled(process.apparmor_profile())
}

fn selinux(process: &Process) -> Option<&str> {
    filled(process.selinux_label())
}

/// The steps for the labels of `process`; `slot` is free for a descriptor.
///
/// # Errors
/// `Unsupported` where this host has no such module: as with runc and crun, since a label that is not there protects
/// nobody.
pub fn steps(process: &Process, modules: Modules, slot: usize) -> Result<Vec<(Rank, Side, Step)>> {
    let mut steps = Vec::new();
    let write = |files, text| Step::Write { files, text, slot };
    if let Some(profile) = apparmor(process) {
        refuse_unless(modules.apparmor, "apparmorProfile", "AppArmor")?;
        // Since Linux 5.8 AppArmor has files of its own, which work beside another module too.
        let files = &["self/attr/apparmor/exec", "self/attr/exec"];
        steps.push((Rank::Setting, Side::Jail, write(files, format!("exec {profile}"))));
    }
    if let Some(label) = selinux(process) {
        refuse_unless(modules.selinux, "selinuxLabel", "SELinux")?;
        // The session keyring is made next, and the program is to reach it.
        steps.push((Rank::Session, Side::Jail, write(&["self/attr/keycreate"], label.to_owned())));
        steps.push((Rank::Setting, Side::Jail, write(&["self/attr/exec"], label.to_owned())));
    }
    if !steps.is_empty() {
        steps.push((Rank::Source, Side::Host, Step::Open { slot }));
    }
    Ok(steps)
}

fn refuse_unless(on: bool, key: &str, module: &str) -> Result<()> {
    match on {
        true => Ok(()),
        false => Err(Error::unsupported(format!(
            "use /process/{key}: {module} is not on, on this host; leave the property out"
        ))),
    }
}

impl Step {
    /// Does the step.
    ///
    /// # Errors
    /// What the kernel refused; `NotFound` for a profile that is not loaded.
    pub fn run(&self, ctx: &mut Ctx) -> Result<()> {
        match self {
            Self::Open { slot } => {
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                ctx.keep(*slot, open("/proc", flags, Mode::empty()).doing(|| self)?);
                Ok(())
            }
            Self::Write { files, text, slot } => {
                let proc = ctx.sources.get(*slot).and_then(Option::as_ref);
                let proc = proc.ok_or_else(|| Error::new(Kind::Kernel, format!("{self}: nobody opened it")))?;
                let open = |file: &&str| openat(proc.as_fd(), *file, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty());
                let mut opened = Err(Errno::ENOENT);
                for file in *files {
                    opened = open(file);
                    if !matches!(opened, Err(Errno::ENOENT)) {
                        break;
                    }
                }
                match write(&opened.doing(|| self)?, text.as_bytes()) {
                    Err(Errno::ENOENT) => {
                        Err(Error::new(Kind::NotFound, format!("{self}: the host has not loaded it")))
                    }
                    written => written.map(drop).doing(|| self),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asks(key: &str, value: &str) -> Process {
        let mut document = json!({"cwd": "/", "args": ["x"], "user": {"uid": 0, "gid": 0}});
        document[key] = value.into();
        serde_json::from_value(document).unwrap()
    }

    #[test]
    fn a_label_is_written_where_the_host_has_its_module_and_refused_elsewhere() {
        let all = Modules { apparmor: true, selinux: true };
        let texts = |key, modules| {
            let steps = steps(&asks(key, "a:b:c:d"), modules, 7)?;
            Ok::<_, Error>(
                steps.iter().map(|(rank, side, step)| format!("{rank:?} {side:?} {step}")).collect::<Vec<_>>(),
            )
        };
        assert_eq!(
            texts("apparmorProfile", Modules { selinux: false, ..all }).unwrap(),
            ["Setting Jail write \"exec a:b:c:d\" to /proc/self/attr/exec", "Source Host open /proc of the host"]
        );
        assert_eq!(
            texts("selinuxLabel", Modules { apparmor: false, ..all }).unwrap(),
            [
                "Session Jail write \"a:b:c:d\" to /proc/self/attr/keycreate",
                "Setting Jail write \"a:b:c:d\" to /proc/self/attr/exec",
                "Source Host open /proc of the host"
            ]
        );
        for (key, module, modules) in [
            ("apparmorProfile", "AppArmor", Modules { apparmor: false, ..all }),
            ("selinuxLabel", "SELinux", Modules { selinux: false, ..all }),
        ] {
            let line = texts(key, modules).unwrap_err().to_string();
            assert!(line.starts_with(&format!("cannot use /process/{key}: {module} is not on")), "{line}");
        }
    }

    #[test]
    fn an_empty_label_asks_for_nothing() {
        for key in ["apparmorProfile", "selinuxLabel"] {
            assert_eq!(steps(&asks(key, ""), Modules::default(), 0), Ok(Vec::new()));
        }
    }
}
