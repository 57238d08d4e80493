//! The seccomp profile of the full spec, and its compiled form for those who read no JSON.

use std::fs::File;
use std::path::PathBuf;

use libseccomp::error::SeccompError;
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use serde_json::Value;

/// The profile, in the words of the OCI specification: an allow list as long as container managers' default, with the
/// same kinds of conditional rules.
pub(crate) fn profile() -> Value {
    serde_json::from_str(include_str!("profile.json")).expect("profile.json is JSON")
}

/// Compiles the profile as a good runtime does, into a balanced tree, and writes it to a file for the floor and for
/// bubblewrap. The file stays, one per run.
pub(crate) fn compiled(profile: &Value) -> PathBuf {
    let path = std::env::temp_dir().join("jail-bench-filter.bpf");
    let file = File::create(&path).expect("the temporary folder");
    compile(profile).and_then(|filter| filter.export_bpf(&file)).expect("libseccomp compiles the profile");
    path
}

fn compile(profile: &Value) -> Result<ScmpFilterContext, SeccompError> {
    let mut filter = ScmpFilterContext::new(ScmpAction::Errno(libc::EPERM))?;
    filter.add_arch(ScmpArch::X8664)?.add_arch(ScmpArch::X86)?.add_arch(ScmpArch::X32)?;
    filter.set_ctl_optimize(2)?;
    for rule in profile["syscalls"].as_array().into_iter().flatten() {
        let action = match rule["action"].as_str() {
            Some("SCMP_ACT_ALLOW") => ScmpAction::Allow,
            _ => ScmpAction::Errno(i32::try_from(rule["errnoRet"].as_i64().unwrap_or(1)).unwrap_or(1)),
        };
        let conditions: Vec<_> = rule["args"].as_array().into_iter().flatten().filter_map(condition).collect();
        for name in rule["names"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            // A name that this libseccomp does not know is one that every runtime passes over, too.
            if let Ok(call) = ScmpSyscall::from_name(name) {
                filter.add_rule_conditional(action, call, &conditions)?;
            }
        }
    }
    Ok(filter)
}

fn condition(arg: &Value) -> Option<ScmpArgCompare> {
    let (index, value) = (u32::try_from(arg["index"].as_u64()?).ok()?, arg["value"].as_u64()?);
    Some(match arg["op"].as_str()? {
        "SCMP_CMP_EQ" => ScmpArgCompare::new(index, ScmpCompareOp::Equal, value),
        "SCMP_CMP_NE" => ScmpArgCompare::new(index, ScmpCompareOp::NotEqual, value),
        "SCMP_CMP_MASKED_EQ" => {
            ScmpArgCompare::new(index, ScmpCompareOp::MaskedEqual(value), arg["valueTwo"].as_u64()?)
        }
        _ => return None,
    })
}
