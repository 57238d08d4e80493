//! From a profile to a BPF program.

use std::borrow::Cow;
use std::fs::File;
use std::io::{Read, Seek};

use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
};
use sys::{Doing, Error, Result};

use crate::newcall;
use crate::prologue::{self, Block, X32_BIT};

/// The longest program that the kernel takes, in instructions: BPF_MAXINSNS of linux/bpf_common.h.
pub const LONGEST: usize = 4096;

/// SECCOMP_FILTER_FLAG_* of linux/seccomp.h.
const FLAG_LOG: u32 = 2;
const FLAG_SPEC_ALLOW: u32 = 4;
const FLAG_NEW_LISTENER: u32 = 8;
const FLAG_WAIT_KILLABLE_RECV: u32 = 32;

/// A compiled filter, ready for [`sys::process::seccomp_load`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// An array of `struct sock_filter`, eight bytes each.
    pub program: Vec<u8>,
    /// SECCOMP_FILTER_FLAG_*, as seccomp(2) takes them.
    pub flags: u32,
}

/// The architectures of OCI and of libseccomp. The number of an OCI one is AUDIT_ARCH_* of linux/audit.h, but for x32.
pub(crate) const ARCHITECTURES: &[(Arch, ScmpArch)] = &[
    (Arch::ScmpArchX86, ScmpArch::X86),
    (Arch::ScmpArchX86_64, ScmpArch::X8664),
    (Arch::ScmpArchX32, ScmpArch::X32),
    (Arch::ScmpArchArm, ScmpArch::Arm),
    (Arch::ScmpArchAarch64, ScmpArch::Aarch64),
    (Arch::ScmpArchMips, ScmpArch::Mips),
    (Arch::ScmpArchMips64, ScmpArch::Mips64),
    (Arch::ScmpArchMips64n32, ScmpArch::Mips64N32),
    (Arch::ScmpArchMipsel, ScmpArch::Mipsel),
    (Arch::ScmpArchMipsel64, ScmpArch::Mipsel64),
    (Arch::ScmpArchMipsel64n32, ScmpArch::Mipsel64N32),
    (Arch::ScmpArchPpc, ScmpArch::Ppc),
    (Arch::ScmpArchPpc64, ScmpArch::Ppc64),
    (Arch::ScmpArchPpc64le, ScmpArch::Ppc64Le),
    (Arch::ScmpArchS390, ScmpArch::S390),
    (Arch::ScmpArchS390x, ScmpArch::S390X),
    (Arch::ScmpArchParisc, ScmpArch::Parisc),
    (Arch::ScmpArchParisc64, ScmpArch::Parisc64),
    (Arch::ScmpArchRiscv64, ScmpArch::Riscv64),
    (Arch::ScmpArchLoongarch64, ScmpArch::Loongarch64),
    (Arch::ScmpArchM68k, ScmpArch::M68k),
    (Arch::ScmpArchSh, ScmpArch::Sh),
    (Arch::ScmpArchSheb, ScmpArch::Sheb),
];

/// Compiles a profile with libseccomp, as a binary tree, for the architectures that it names and the native one.
///
/// As with runc: a rule with the default action says nothing and is skipped; a name that neither libseccomp nor our own
/// table of new calls knows is skipped; several conditions on one argument are alternatives, conditions on different
/// arguments must all hold; where the default refuses, a call newer than all that the profile names gets ENOSYS, which
/// makes a libc try the older call. A call of an architecture that the profile does not name kills the thread, but gets
/// ENOSYS where that is the default.
///
/// # Errors
/// `Unsupported` for a program that is longer than [`LONGEST`]; `Invalid` with the JSON pointer for what libseccomp
/// refuses.
pub fn compile(profile: &LinuxSeccomp) -> Result<Filter> {
    let flags = flags(profile);
    let default = action(profile.default_action(), profile.default_errno_ret(), "defaultAction")?;
    let architectures = architectures(profile);
    let mut context = context(default, &architectures)?;
    let mut by_number = Vec::new();
    for (at, rule) in profile.syscalls().iter().flatten().enumerate() {
        let action = action(rule.action(), rule.errno_ret(), &format!("syscalls/{at}/action"))?;
        if action != default {
            add(&mut context, &mut by_number, at, rule, action)?;
        }
    }
    let mut program = prologue::program(&blocks(profile, default, &architectures, &by_number));
    program.extend(export(&context)?);
    let length = program.len() / 8;
    if length > LONGEST {
        let what = format!("compile /linux/seccomp: it needs {length} instructions, the kernel takes {LONGEST}");
        return Err(Error::unsupported(what));
    }
    Ok(Filter { program, flags })
}

/// Checks what libseccomp does not: what a profile that notifies an agent needs.
///
/// # Errors
/// `Invalid` with the JSON pointer. Notifying by default, or of write(2), is refused as with runc: the process that loads
/// the filter would wait for an agent that does not have the listener yet.
pub fn check(profile: &LinuxSeccomp) -> Result<()> {
    let wrong = |key: &str, why: &str| Err(Error::invalid(format!("use /linux/seccomp/{key}: {why}")));
    if profile.default_action() == LinuxSeccompAction::ScmpActNotify {
        return wrong("defaultAction", "SCMP_ACT_NOTIFY would stop the process that hands over the listener");
    }
    for (at, rule) in profile.syscalls().iter().flatten().enumerate().filter(|(_, rule)| is_notify(rule)) {
        if rule.names().iter().any(|name| name == "write") {
            let why = "SCMP_ACT_NOTIFY of write would stop the process that hands over the listener";
            return wrong(&format!("syscalls/{at}"), why);
        }
        if profile.listener_path().is_none() {
            return wrong(&format!("syscalls/{at}/action"), "SCMP_ACT_NOTIFY needs /linux/seccomp/listenerPath");
        }
    }
    match (profile.listener_path(), profile.listener_metadata()) {
        (None, Some(_)) => wrong("listenerMetadata", "it needs /linux/seccomp/listenerPath"),
        (Some(path), _) if !path.is_absolute() => wrong("listenerPath", "it is not absolute"),
        _ => Ok(()),
    }
}

fn is_notify(rule: &LinuxSyscall) -> bool {
    rule.action() == LinuxSeccompAction::ScmpActNotify
}

/// Whether a rule of a profile notifies an agent.
pub fn notifies(profile: &LinuxSeccomp) -> bool {
    profile.syscalls().iter().flatten().any(is_notify)
}

/// The first of `calls` of which a profile notifies an agent.
pub fn notified<'a>(profile: &LinuxSeccomp, calls: &[&'a str]) -> Option<&'a str> {
    let named = |call: &str| {
        let mut rules = profile.syscalls().iter().flatten().filter(|rule| is_notify(rule));
        rules.any(|rule| rule.names().iter().any(|name| name == call))
    };
    calls.iter().copied().find(|call| named(call))
}

/// A profile without what is told to the agent only, which changes no filter.
pub(crate) fn without_listener(profile: &LinuxSeccomp) -> Cow<'_, LinuxSeccomp> {
    if profile.listener_path().is_none() && profile.listener_metadata().is_none() {
        return Cow::Borrowed(profile);
    }
    let mut profile = profile.clone();
    profile.set_listener_path(None).set_listener_metadata(None);
    Cow::Owned(profile)
}

/// The flags for the kernel. TSYNC says nothing here, since there is one thread; how to wait for an agent says nothing
/// where none is notified.
pub(crate) fn flags(profile: &LinuxSeccomp) -> u32 {
    let listens = notifies(profile);
    let first = if listens { FLAG_NEW_LISTENER } else { 0 };
    profile.flags().iter().flatten().fold(first, |flags, flag| {
        flags
            | match flag {
                LinuxSeccompFilterFlag::SeccompFilterFlagLog => FLAG_LOG,
                LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => FLAG_SPEC_ALLOW,
                LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv if listens => FLAG_WAIT_KILLABLE_RECV,
                LinuxSeccompFilterFlag::SeccompFilterFlagTsync
                | LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
            }
    })
}

pub(crate) fn action(action: LinuxSeccompAction, value: Option<u32>, pointer: &str) -> Result<ScmpAction> {
    let returns = matches!(action, LinuxSeccompAction::ScmpActErrno | LinuxSeccompAction::ScmpActTrace);
    if value.is_some() && !returns {
        return Err(Error::invalid(format!("compile /linux/seccomp/{pointer}: {action} returns no error number")));
    }
    let value = u16::try_from(value.unwrap_or(Errno::EPERM as u32))
        .map_err(|_| Error::invalid(format!("compile /linux/seccomp/{pointer}: its return value is above 65535")))?;
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => ScmpAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(value.into()),
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(value),
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActNotify => ScmpAction::Notify,
    })
}

/// What the kernel's program returns for an action: SECCOMP_RET_* of linux/seccomp.h.
fn returned(action: ScmpAction) -> u32 {
    match action {
        ScmpAction::KillProcess => 0x8000_0000,
        ScmpAction::Trap => 0x0003_0000,
        ScmpAction::Errno(errno) => 0x0005_0000 | errno as u32 & 0xffff,
        ScmpAction::Notify => 0x7fc0_0000,
        ScmpAction::Trace(value) => 0x7ff0_0000 | u32::from(value),
        ScmpAction::Log => 0x7ffc_0000,
        ScmpAction::Allow => 0x7fff_0000,
        _ => 0,
    }
}

/// The native architecture and those of the profile, each once.
fn architectures(profile: &LinuxSeccomp) -> Vec<(Arch, ScmpArch)> {
    let native = ScmpArch::native();
    let asked = profile.architectures().as_deref().unwrap_or_default();
    ARCHITECTURES.iter().copied().filter(|(oci, scmp)| *scmp == native || asked.contains(oci)).collect()
}

fn context(default: ScmpAction, architectures: &[(Arch, ScmpArch)]) -> Result<ScmpFilterContext> {
    let refused = |error| Error::invalid(format!("compile /linux/seccomp: {error}"));
    let mut context = ScmpFilterContext::new(default).map_err(refused)?;
    context.set_ctl_optimize(2).map_err(refused)?;
    // A profile that takes what it does not know for missing takes a foreign architecture for that too.
    if default == ScmpAction::Errno(Errno::ENOSYS as i32) {
        context.set_act_badarch(default).map_err(refused)?;
    }
    for (oci, scmp) in architectures {
        context
            .add_arch(*scmp)
            .map_err(|error| Error::invalid(format!("compile /linux/seccomp/architectures: {oci:?}: {error}")))?;
    }
    Ok(context)
}

/// The number of `name` for libseccomp: native, or negative where only other architectures have the call.
fn known(name: &str) -> Option<ScmpSyscall> {
    ScmpSyscall::from_name(name).ok()
}

/// Adds one entry of `syscalls`: to libseccomp's `context`, or to `by_number` what libseccomp cannot name.
fn add(
    context: &mut ScmpFilterContext,
    by_number: &mut Vec<(u32, u32)>,
    at: usize,
    rule: &LinuxSyscall,
    action: ScmpAction,
) -> Result<()> {
    let args = rule.args().as_deref().unwrap_or_default();
    if let Some(wrong) = args.iter().position(|arg| arg.index() > 5) {
        let what = format!("compile /linux/seccomp/syscalls/{at}/args/{wrong}/index: a call has arguments 0 to 5");
        return Err(Error::invalid(what));
    }
    let conditions: Vec<_> = args.iter().map(condition).collect();
    let alternatives =
        args.iter().enumerate().any(|(n, arg)| args[..n].iter().any(|other| other.index() == arg.index()));
    for name in rule.names() {
        let refused = |error| Error::invalid(format!("compile /linux/seccomp/syscalls/{at}: {name}: {error}"));
        match (known(name), newcall::number(name)) {
            (Some(call), _) if alternatives => {
                for condition in &conditions {
                    context.add_rule_conditional(action, call, &[*condition]).map_err(refused)?;
                }
            }
            (Some(call), _) => {
                context.add_rule_conditional(action, call, &conditions).map_err(refused)?;
            }
            (None, Some(number)) if conditions.is_empty() => by_number.push((number, returned(action))),
            (None, Some(_)) => {
                let what = format!(
                    "compile /linux/seccomp/syscalls/{at}: this libseccomp does not know {name}, and so cannot compare its arguments"
                );
                return Err(Error::unsupported(what));
            }
            (None, None) => {}
        }
    }
    Ok(())
}

fn condition(arg: &LinuxSeccompArg) -> ScmpArgCompare {
    let (op, datum) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, arg.value()),
        LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, arg.value()),
        LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, arg.value()),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            (ScmpCompareOp::MaskedEqual(arg.value()), arg.value_two().unwrap_or_default())
        }
    };
    ScmpArgCompare::new(arg.index() as u32, op, datum)
}

/// The prologue. mips has numbers of its own, and gets none.
fn blocks(
    profile: &LinuxSeccomp,
    default: ScmpAction,
    architectures: &[(Arch, ScmpArch)],
    by_number: &[(u32, u32)],
) -> Vec<Block> {
    let refuses = !matches!(default, ScmpAction::Allow | ScmpAction::Log | ScmpAction::Trace(_))
        && default != ScmpAction::Errno(Errno::ENOSYS as i32);
    let mips = [ScmpArch::Mips, ScmpArch::Mips64, ScmpArch::Mips64N32];
    let mipsel = [ScmpArch::Mipsel, ScmpArch::Mipsel64, ScmpArch::Mipsel64N32];
    let with_numbers = architectures.iter().filter(|(_, scmp)| !mips.contains(scmp) && !mipsel.contains(scmp));
    with_numbers
        .map(|(oci, scmp)| {
            let (architecture, base) = match oci {
                Arch::ScmpArchX32 => (Arch::ScmpArchX86_64 as u32, X32_BIT),
                _ => (*oci as u32, 0),
            };
            let highest = if refuses { highest(profile, *scmp) } else { None };
            Block { architecture, base, rules: by_number.to_vec(), highest }
        })
        .collect()
}

/// The highest number, without x32's bit, that the profile names on `architecture`.
fn highest(profile: &LinuxSeccomp, architecture: ScmpArch) -> Option<u32> {
    let names = profile.syscalls().iter().flatten().flat_map(LinuxSyscall::names);
    names
        .filter_map(|name| match ScmpSyscall::from_name_by_arch(name, architecture) {
            Ok(call) => u32::try_from(i32::from(call)).ok().map(|number| number & !X32_BIT),
            Err(_) => newcall::number(name),
        })
        .max()
}

/// libseccomp before 2.6 writes its program only into a descriptor.
fn export(context: &ScmpFilterContext) -> Result<Vec<u8>> {
    let what = || "compile /linux/seccomp: export the program";
    let mut file = File::from(memfd_create(c"seccomp", MFdFlags::MFD_CLOEXEC).doing(what)?);
    context.export_bpf(&file).map_err(|error| Error::invalid(format!("{}: {error}", what())))?;
    let mut program = Vec::new();
    file.rewind().doing(what)?;
    file.read_to_end(&mut program).doing(what)?;
    Ok(program)
}
