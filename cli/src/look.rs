//! The verbs that only look.

use std::ffi::OsString;
use std::io::Write;
use std::process::{Command, Stdio};

use base::JailId;
use nix::unistd::Pid;
use runtime::friendly;
use runtime::jail::{self, Jail, Status, Summary};
use runtime::store::Store;
use serde_json::{Value, json};
use sys::{Doing, Error, Kind, Result};

use crate::args::{Globals, List, Named, Ps, Show, Spec};
use crate::show;

/// `state`: the OCI document.
pub(crate) fn state(globals: &Globals, verb: &Named) -> Result<i32> {
    let store = Store::open(&globals.root())?;
    let jail = Jail::open(store.as_ref(), &JailId::new(&verb.id)?)?;
    let summary = Summary::of(&jail)?;
    if let Status::Broken(_) = summary.status {
        jail.state()?;
    }
    show::print(&format!("{:#}\n", document(&summary)))
}

fn document(summary: &Summary) -> Value {
    let owner = summary.owner.map(|uid| account(uid).unwrap_or_else(|| uid.to_string()));
    let mut document = json!({
        "ociVersion": summary.version,
        "id": summary.id.as_str(),
        "pid": summary.pid.map_or(0, |pid| pid.as_raw()),
        "status": summary.status.to_string(),
        "bundle": summary.bundle,
        "rootfs": summary.rootfs,
        "created": summary.created,
        "owner": owner,
    });
    if !summary.annotations.is_empty() {
        document["annotations"] = json!(summary.annotations);
    }
    if let Status::Broken(reason) = &summary.status {
        document["reason"] = json!(reason);
    }
    document
}

/// The name of a user in passwd(5), which is read here: for one who is not in it, libc would load the modules of
/// nsswitch.conf(5), which a static program cannot.
fn account(uid: u32) -> Option<String> {
    let table = std::fs::read_to_string("/etc/passwd").ok()?;
    let found = table.lines().find(|line| line.split(':').nth(2).is_some_and(|number| number.parse() == Ok(uid)))?;
    found.split(':').next().map(str::to_owned)
}

/// `list`.
pub(crate) fn list(globals: &Globals, verb: &List) -> Result<i32> {
    let all = jail::list(&globals.root())?;
    if verb.quiet {
        return show::print(&all.iter().map(|jail| format!("{}\n", jail.id)).collect::<String>());
    }
    let documents: Vec<Value> = all.iter().map(document).collect();
    if verb.format == Show::Json {
        return show::print(&format!("{}\n", json!(documents)));
    }
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let rows = documents.iter().zip(&all).map(|(document, jail)| {
        let status = match &jail.status {
            Status::Broken(reason) => format!("broken ({reason})"),
            other => other.to_string(),
        };
        let pid = document["pid"].to_string();
        vec![
            jail.id.to_string(),
            pid,
            status,
            text(&document["bundle"]),
            text(&document["created"]),
            text(&document["owner"]),
        ]
    });
    show::print(&show::table(&["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"], rows))
}

/// `ps`: numbers of the host, or the lines that its ps(1) has for them.
pub(crate) fn ps(globals: &Globals, verb: &Ps) -> Result<i32> {
    let store = Store::open(&globals.root())?;
    let jail = Jail::open(store.as_ref(), &JailId::new(&verb.id)?)?;
    if verb.format == Show::Json {
        let pids: Vec<_> = jail.processes()?.into_iter().map(Pid::as_raw).collect();
        return show::print(&format!("{}\n", json!(pids)));
    }
    let all = host_ps(&verb.options)?;
    // Asked after ps has looked, so that a number of the jail's that another process got since is not taken for it.
    let pids = jail.processes()?;
    let mut lines = all.lines();
    let head = lines.next().unwrap_or_default();
    let Some(column) = head.split_whitespace().position(|word| word == "PID") else {
        let step = format!("show the processes of {}", jail.entry.id);
        return Err(Error::invalid(format!("{step}: what ps shows with these options has no column PID")));
    };
    let pid = |line: &str| line.split_whitespace().nth(column)?.parse().ok().map(Pid::from_raw);
    let rows = lines.filter(|line| pid(line).is_some_and(|pid| pids.contains(&pid)));
    show::print(&std::iter::once(head).chain(rows).map(|line| format!("{line}\n")).collect::<String>())
}

/// What ps(1) of the host says with `options`.
fn host_ps(options: &[OsString]) -> Result<String> {
    let usual = [OsString::from("-ef")];
    let options = if options.is_empty() { &usual } else { options };
    let done = Command::new("ps").args(options).stdin(Stdio::null()).output().doing(|| "run ps")?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    // After the reason it goes on with how it is used.
    let said = String::from_utf8_lossy(&done.stderr);
    let line = said.lines().map(str::trim).find(|line| !line.is_empty());
    let why = line.map_or_else(|| done.status.to_string(), |line| line.trim_start_matches("error: ").to_owned());
    Err(Error::invalid(format!("run ps: {why}")))
}

/// `spec`.
pub(crate) fn spec(verb: &Spec) -> Result<i32> {
    let path = verb.bundle.join("config.json");
    let step = || format!("write {}", path.display());
    let mut file = match std::fs::OpenOptions::new().write(true).create_new(true).open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(Error::new(Kind::Exists, format!("{}: it exists; remove it first", step())));
        }
        other => other.doing(step)?,
    };
    let spec = if verb.rootless { friendly::rootless()? } else { friendly::template() };
    file.write_all(format!("{spec:#}\n").as_bytes()).doing(step)?;
    Ok(0)
}

/// `features`: the OCI document.
pub(crate) fn features() -> Result<i32> {
    show::print(&format!("{:#}\n", json!(runtime::features::document())))
}
