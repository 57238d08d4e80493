//! Properties of units: from the files of cgroups that limits are in, and from annotations.
//!
//! Source: systemd.resource-control(5); what has no property there is only in the file.

use std::collections::HashMap;
use std::fmt;

use sys::{Error, Result};

/// A property, as systemd takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// Its name on D-Bus.
    pub name: String,
    /// Its value.
    pub value: Value,
}

/// A value, in one of the types that properties have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Bool(bool),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    Text(String),
    Texts(Vec<String>),
    Bytes(Vec<u8>),
    Numbers(Vec<u32>),
    Pairs(Vec<(String, String)>),
}

impl Property {
    pub(crate) fn new(name: &str, value: Value) -> Self {
        Self { name: name.to_owned(), value }
    }

    pub(crate) fn text(name: &str, value: &str) -> Self {
        Self::new(name, Value::Text(value.to_owned()))
    }
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, value } = self;
        match value {
            Value::Bool(value) => write!(f, "{name}={}", if *value { "yes" } else { "no" }),
            Value::I32(value) => write!(f, "{name}={value}"),
            Value::U32(value) => write!(f, "{name}={value}"),
            Value::I64(value) => write!(f, "{name}={value}"),
            Value::U64(u64::MAX) => write!(f, "{name}=infinity"),
            Value::U64(value) => write!(f, "{name}={value}"),
            Value::Text(value) => write!(f, "{name}={value}"),
            Value::Texts(value) => write!(f, "{name}={}", value.join(" ")),
            Value::Bytes(value) => write!(f, "{name}={value:02x?}"),
            Value::Numbers(value) => write!(f, "{name}={value:?}"),
            Value::Pairs(value) => write!(f, "{name}=({} rules)", value.len()),
        }
    }
}

/// What systemd means by no limit.
const INFINITY: u64 = u64::MAX;

/// The period of CPU time where none is said, in microseconds; the kernel's.
const PERIOD: u64 = 100_000;

/// The properties for what is written to FILES of a scope, in the words of systemd VERSION. systemd writes the files of
/// its controllers anew when one of them changes, so what it does not know of is lost then.
pub(crate) fn of_files<'a>(files: impl Iterator<Item = (&'a str, &'a str)>, version: u32) -> Vec<Property> {
    let files: HashMap<&str, &str> = files.map(|(file, value)| (file, value.trim())).collect();
    // As runc has it: an idle cgroup is one without a weight.
    let idle = files.get("cpu.idle") == Some(&"1") && version >= 252;
    let mut properties = Vec::new();
    let mut put = |name: &str, value: Option<Value>| {
        properties.extend(value.map(|value| Property::new(name, value)));
    };
    let mut sorted: Vec<_> = files.iter().collect();
    sorted.sort();
    for (file, value) in sorted {
        match *file {
            "memory.max" => put("MemoryMax", number(value)),
            "memory.high" => put("MemoryHigh", number(value)),
            "memory.low" => put("MemoryLow", number(value)),
            "memory.min" => put("MemoryMin", number(value)),
            "memory.swap.max" => put("MemorySwapMax", number(value)),
            "memory.limit_in_bytes" => put("MemoryLimit", number(value)),
            "cpu.weight" if !idle => put("CPUWeight", number(value)),
            "cpu.idle" if idle => put("CPUWeight", Some(Value::U64(0))),
            "cpu.shares" => put("CPUShares", number(value)),
            "io.weight" => put("IOWeight", number(value.trim_start_matches("default "))),
            "blkio.weight" => put("BlockIOWeight", number(value)),
            "pids.max" => put("TasksMax", number(value)),
            "cpuset.cpus" if version >= 244 => put("AllowedCPUs", bits(value).map(Value::Bytes)),
            "cpuset.mems" if version >= 244 => put("AllowedMemoryNodes", bits(value).map(Value::Bytes)),
            _ => {}
        }
    }
    let (quota, period) = match files.get("cpu.max").map(|value| value.split_whitespace()) {
        Some(mut words) => (words.next(), words.next()),
        None => (files.get("cpu.cfs_quota_us").copied(), files.get("cpu.cfs_period_us").copied()),
    };
    let period = period.and_then(|word| word.parse().ok());
    if let Some(period) = period.filter(|_| version >= 242) {
        put("CPUQuotaPeriodUSec", Some(Value::U64(period)));
    }
    if let Some(quota) = quota {
        put("CPUQuotaPerSecUSec", Some(Value::U64(per_second(quota, period.unwrap_or(PERIOD)))));
    }
    properties
}

/// The same for a new scope, which alone takes some of them.
pub(crate) fn of_new_files<'a>(files: impl Iterator<Item = (&'a str, &'a str)> + Clone, version: u32) -> Vec<Property> {
    let mut properties = of_files(files.clone(), version);
    let groups = files.filter(|(file, _)| *file == "memory.oom.group" && version >= 253);
    properties.extend(
        groups.map(|(_, value)| Property::text("OOMPolicy", if value.trim() == "1" { "kill" } else { "continue" })),
    );
    properties
}

/// `max` and -1 are no limit.
fn number(word: &str) -> Option<Value> {
    match word {
        "max" | "-1" => Some(Value::U64(INFINITY)),
        _ => word.parse().ok().map(Value::U64),
    }
}

/// Microseconds of CPU time in a second, rounded up to whole percents: systemd remembers no others.
fn per_second(quota: &str, period: u64) -> u64 {
    const PERCENT: u64 = 10_000;
    match quota.parse::<u64>() {
        Ok(quota) if period > 0 => {
            let exact = u128::from(quota) * 1_000_000 / u128::from(period);
            u64::try_from(exact).map_or(INFINITY, |exact| exact.div_ceil(PERCENT).saturating_mul(PERCENT))
        }
        _ => INFINITY,
    }
}

/// The largest number of a CPU or memory node that is believed.
const LARGEST: usize = 8191;

/// A list such as `0-2,4` as systemd takes it: a bit for each number. None for what is no list, which the kernel refuses.
fn bits(list: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last < first || last > LARGEST {
            return None;
        }
        for bit in first..=last {
            if bytes.len() <= bit / 8 {
                bytes.resize(bit / 8 + 1, 0);
            }
            bytes[bit / 8] |= 1 << (bit % 8);
        }
    }
    Some(bytes)
}

/// What an annotation that sets a property begins with.
const ANNOTATION: &str = "org.systemd.property.";

/// What the runtime sets itself, and its own work depends on.
const OURS: &[&str] = &["Delegate", "Description", "DeviceAllow", "DevicePolicy", "PIDs", "Slice"];

/// The properties that annotations ask for: `org.systemd.property.NAME`, the value as GVariant writes it, such as
/// `uint64 5`, `true`, `'text'` or `['a', 'b']`. A name that ends with `Sec` and a number is in seconds.
///
/// # Errors
/// `Invalid` with the key.
pub(crate) fn of_annotations(annotations: &HashMap<String, String>) -> Result<Vec<Property>> {
    let mut found: Vec<_> =
        annotations.iter().filter_map(|(key, text)| Some((key.strip_prefix(ANNOTATION)?, text.trim()))).collect();
    // A map of JSON has no order, and a plan must be the same each time.
    found.sort();
    found.into_iter().map(|(name, text)| of_annotation(name, text)).collect()
}

fn of_annotation(name: &str, text: &str) -> Result<Property> {
    let wrong = |why: String| Err(Error::invalid(format!("use /annotations/{ANNOTATION}{name}: {why}")));
    if name.is_empty() || !name.chars().all(|letter| letter.is_ascii_alphabetic()) {
        return wrong("a property's name has letters only".to_owned());
    }
    if OURS.contains(&name) {
        return wrong(format!("{name} is set by the runtime itself"));
    }
    if text.contains('\0') {
        return wrong("it contains NUL".to_owned());
    }
    let Some(value) = parse(text) else {
        return wrong(format!(
            "{text:?} is no value as GVariant writes it, such as 5, uint64 5, true, 'text', ['a', 'b']"
        ));
    };
    let Some(stem) = name.strip_suffix("Sec").filter(|stem| !stem.ends_with('U')) else {
        return Ok(Property::new(name, value));
    };
    let seconds = match value {
        Value::I32(n) => u64::try_from(n).ok(),
        Value::I64(n) => u64::try_from(n).ok(),
        Value::U32(n) => Some(n.into()),
        Value::U64(n) => Some(n),
        _ => None,
    };
    match seconds.and_then(|n| n.checked_mul(1_000_000)) {
        Some(n) => Ok(Property::new(&format!("{stem}USec"), Value::U64(n))),
        None => wrong(format!("{text} is no number of seconds")),
    }
}

fn parse(text: &str) -> Option<Value> {
    let typed = text.split_once(' ').map(|(word, rest)| (word, rest.trim()));
    Some(match (text, typed) {
        ("true", _) => Value::Bool(true),
        ("false", _) => Value::Bool(false),
        (_, Some(("int32", rest))) => Value::I32(rest.parse().ok()?),
        (_, Some(("uint32", rest))) => Value::U32(rest.parse().ok()?),
        (_, Some(("int64", rest))) => Value::I64(rest.parse().ok()?),
        (_, Some(("uint64", rest))) => Value::U64(rest.parse().ok()?),
        (_, Some(("@as", "[]"))) => Value::Texts(Vec::new()),
        _ if text.starts_with(['\'', '"']) => {
            let (value, rest) = quoted(text)?;
            rest.is_empty().then_some(Value::Text(value))?
        }
        _ if text.starts_with('[') => Value::Texts(list(text)?),
        _ => Value::I32(text.parse().ok()?),
    })
}

/// A text in single or double quotes, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let mut value = String::new();
    let mut letters = text.char_indices().skip(1);
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => value.push(match letters.next()?.1 {
                'n' => '\n',
                't' => '\t',
                letter @ ('\\' | '\'' | '"') => letter,
                _ => return None,
            }),
            _ if letter == quote => return Some((value, text[at + 1..].trim_start())),
            _ => value.push(letter),
        }
    }
    None
}

fn list(text: &str) -> Option<Vec<String>> {
    let mut rest = text.strip_prefix('[')?.trim_start();
    let mut values = Vec::new();
    loop {
        let (value, after) = quoted(rest)?;
        values.push(value);
        match after.strip_prefix(',') {
            Some(after) => rest = after.trim_start(),
            None => return (after == "]").then_some(values),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(files: &[(&str, &str)], version: u32) -> Vec<String> {
        of_files(files.iter().copied(), version).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn files_of_both_versions_have_properties() {
        let v2 = [
            ("memory.max", "4096"),
            ("memory.low", "max"),
            ("memory.swap.max", "0"),
            ("cpu.max", "15500 100000"),
            ("cpu.weight", "59"),
            ("cpuset.cpus", "0-2,9"),
            ("pids.max", "33"),
            ("hugetlb.2MB.max", "0"),
        ];
        let expected = [
            "CPUWeight=59",
            "AllowedCPUs=[07, 02]",
            "MemoryLow=infinity",
            "MemoryMax=4096",
            "MemorySwapMax=0",
            "TasksMax=33",
            "CPUQuotaPeriodUSec=100000",
            "CPUQuotaPerSecUSec=160000",
        ];
        assert_eq!(shown(&v2, 252), expected);
        let v1 = [("memory.limit_in_bytes", "-1"), ("cpu.shares", "512"), ("cpu.cfs_quota_us", "5000")];
        assert_eq!(shown(&v1, 252), ["CPUShares=512", "MemoryLimit=infinity", "CPUQuotaPerSecUSec=50000"]);
    }

    #[test]
    fn an_older_systemd_is_not_asked_for_what_it_does_not_know() {
        let files = [("cpuset.mems", "0"), ("cpu.max", "max 50000"), ("cpu.idle", "1"), ("cpu.weight", "7")];
        assert_eq!(shown(&files, 241), ["CPUWeight=7", "CPUQuotaPerSecUSec=infinity"]);
        let newer =
            ["CPUWeight=0", "AllowedMemoryNodes=[01]", "CPUQuotaPeriodUSec=50000", "CPUQuotaPerSecUSec=infinity"];
        assert_eq!(shown(&files, 252), newer);
    }

    #[test]
    fn only_a_new_scope_is_told_to_die_as_a_whole() {
        let files = [("memory.oom.group", "1"), ("memory.high", "max")];
        let of =
            |version| of_new_files(files.iter().copied(), version).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(of(253), ["MemoryHigh=infinity", "OOMPolicy=kill"]);
        assert_eq!(of(252), shown(&files, 252));
        assert_eq!(shown(&files, 253), ["MemoryHigh=infinity"]);
    }

    #[test]
    fn what_is_no_list_has_no_bits() {
        for list in ["x", "3-1", "0-", "-1", "0,99999"] {
            assert_eq!(bits(list), None, "{list}");
        }
        assert_eq!(bits("\n"), Some(vec![]));
    }

    #[test]
    fn annotations_have_values_as_gvariant_writes_them() {
        for (name, text, expected) in [
            ("TimeoutStopUSec", "uint64 5000000", "TimeoutStopUSec=5000000"),
            ("TimeoutStopSec", "5", "TimeoutStopUSec=5000000"),
            ("CollectMode", "'inactive-or-failed'", "CollectMode=inactive-or-failed"),
            ("After", "['a.service', \"b\\'.service\"]", "After=a.service b'.service"),
            ("After", "@as []", "After="),
            ("SendSIGHUP", "true", "SendSIGHUP=yes"),
            ("KillSignal", "int32 9", "KillSignal=9"),
            ("Weight", "7", "Weight=7"),
        ] {
            assert_eq!(of_annotation(name, text).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn an_annotation_that_makes_no_sense_is_refused_by_its_key() {
        for (name, text, words) in [
            ("", "1", "letters only"),
            ("A.b", "1", "letters only"),
            ("PIDs", "1", "PIDs is set by the runtime"),
            ("After", "[]", "is no value"),
            ("After", "['a',]", "is no value"),
            ("A", "'open", "is no value"),
            ("A", "99999999999", "is no value"),
            ("A", "'\0'", "NUL"),
            ("TimeoutSec", "'x'", "no number of seconds"),
            ("TimeoutSec", "-1", "no number of seconds"),
        ] {
            let error = of_annotation(name, text).unwrap_err();
            assert!(error.what.starts_with(&format!("use /annotations/org.systemd.property.{name}: ")), "{error}");
            assert!(error.what.contains(words), "{error}");
        }
    }
}
