//! Device rules: read from the specification, written for v1, refused where v1 would not do what they say.

use std::fmt;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use sys::{Error, Result};

/// Block or character device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Block,
    Character,
}

/// A set of mknod, read, write, with the bits of `BPF_DEVCG_ACC_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access(u8);

impl Access {
    pub(crate) const ALL: Access = Access(7);
    const MKNOD: Access = Access(1);

    /// Reads `r`, `w`, `m` in any order; `None` for anything else, and for nothing.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bits = text.chars().try_fold(0, |bits, letter| match letter {
            'm' => Some(bits | 1),
            'r' => Some(bits | 2),
            'w' => Some(bits | 4),
            _ => None,
        });
        bits.filter(|bits| *bits != 0).map(Self)
    }

    pub(crate) fn is_all(self) -> bool {
        self == Self::ALL
    }

    pub(crate) fn bits(self) -> u32 {
        self.0.into()
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = [(2, "r"), (4, "w"), (1, "m")];
        letters.iter().filter(|(bit, _)| self.0 & bit != 0).try_for_each(|(_, letter)| f.write_str(letter))
    }
}

/// One rule; `None` matches anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) allow: bool,
    pub(crate) class: Option<Class>,
    pub(crate) major: Option<u32>,
    pub(crate) minor: Option<u32>,
    pub(crate) access: Access,
}

impl Rule {
    const fn character(major: u32, minor: Option<u32>) -> Self {
        let class = Some(Class::Character);
        Self { allow: true, class, major: Some(major), minor, access: Access::ALL }
    }

    fn is_every_device(&self) -> bool {
        self.major.is_none() && self.minor.is_none()
    }

    fn overlaps(&self, other: &Rule) -> bool {
        fn meet<T: PartialEq>(a: Option<T>, b: Option<T>) -> bool {
            a.is_none() || b.is_none() || a == b
        }
        meet(self.class, other.class)
            && meet(self.major, other.major)
            && meet(self.minor, other.minor)
            && self.access.0 & other.access.0 != 0
    }

    fn is_about_the_same(&self, other: &Rule) -> bool {
        self.class == other.class && self.major == other.major && self.minor == other.minor
    }
}

/// What v1 reads: `c 1:3 rwm`, `a` for everything.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = match self.class {
            None => "a",
            Some(Class::Block) => "b",
            Some(Class::Character) => "c",
        };
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        write!(f, "{class} {}:{} {}", number(self.major), number(self.minor), self.access)
    }
}

/// What every jail may use, as in the list of default devices of config-linux: null, zero, full, random, urandom, tty,
/// console, ptmx and the terminals of devpts; and the making of any node, which opens nothing.
const ALWAYS: [Rule; 10] = [
    Rule { allow: true, class: None, major: None, minor: None, access: Access::MKNOD },
    Rule::character(136, None),
    Rule::character(5, Some(2)),
    Rule::character(5, Some(1)),
    Rule::character(5, Some(0)),
    Rule::character(1, Some(9)),
    Rule::character(1, Some(8)),
    Rule::character(1, Some(7)),
    Rule::character(1, Some(5)),
    Rule::character(1, Some(3)),
];

/// Reads a list of the specification; the last rule that matches decides, and no match allows.
///
/// Where the list closes a whole class, the default devices are opened at its end, as runc does it.
///
/// # Errors
/// `Invalid` with the JSON pointer of the rule.
pub(crate) fn rules(list: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>> {
    let mut rules = list.iter().enumerate().map(|(i, device)| rule(i, device)).collect::<Result<Vec<_>>>()?;
    if rules.iter().any(|rule| !rule.allow && rule.is_every_device()) {
        rules.extend(ALWAYS);
    }
    Ok(rules)
}

fn rule(index: usize, device: &LinuxDeviceCgroup) -> Result<Rule> {
    let wrong = |key: &str, why: String| Error::invalid(format!("use /linux/resources/devices/{index}/{key}: {why}"));
    let class = match device.typ() {
        None | Some(LinuxDeviceType::A) => None,
        Some(LinuxDeviceType::B) => Some(Class::Block),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(Class::Character),
        Some(LinuxDeviceType::P) => return Err(wrong("type", "a FIFO is no device".to_owned())),
    };
    let number = |key, number: Option<i64>| match number {
        None | Some(-1) => Ok(None),
        Some(n) => u32::try_from(n).map(Some).map_err(|_| wrong(key, format!("{n} is no device number"))),
    };
    let access = match device.access() {
        None => Access::ALL,
        Some(text) => {
            Access::parse(text).ok_or_else(|| wrong("access", format!("{text:?} is not made of r, w and m")))?
        }
    };
    let (major, minor) = (number("major", device.major())?, number("minor", device.minor())?);
    Ok(Rule { allow: device.allow(), class, major, minor, access })
}

/// What v1 keeps of a list of rules: one default and exceptions from it.
struct Kept {
    lines: Vec<(bool, String)>,
    default: bool,
    exceptions: Vec<Rule>,
}

/// The lines for `devices.allow` (`true`) and `devices.deny` of v1, in order.
///
/// # Errors
/// `Unsupported` where v1 cannot do what the rules say. A rule that cuts a part out of an exception is taken by the kernel
/// without an error and does nothing, so such a list is refused here.
pub(crate) fn v1_lines(rules: &[Rule]) -> Result<Vec<(bool, String)>> {
    keep(rules).map(|kept| kept.lines)
}

/// The rules that allow something, where all else is forbidden and a list in this form says the same; else none.
pub(crate) fn allowed(rules: &[Rule]) -> Option<Vec<Rule>> {
    keep(rules).ok().filter(|kept| !kept.default).map(|kept| kept.exceptions)
}

fn keep(rules: &[Rule]) -> Result<Kept> {
    let mut lines = Vec::new();
    let mut default = true;
    let mut exceptions: Vec<Rule> = Vec::new();
    for rule in rules.iter().flat_map(by_class) {
        if rule.class.is_none() {
            default = rule.allow;
            exceptions.clear();
        } else if rule.allow != default {
            exceptions.push(rule.clone());
        } else {
            let cut = |old: &&Rule| old.overlaps(&rule) && !old.is_about_the_same(&rule);
            if let Some(old) = exceptions.iter().find(cut) {
                let verb = if rule.allow { "allow" } else { "deny" };
                return Err(Error::unsupported(format!(
                    "{verb} the devices {rule} (/linux/resources/devices) after {old}: cgroup v1 cannot divide a rule"
                )));
            }
            for old in exceptions.iter_mut().filter(|old| old.is_about_the_same(&rule)) {
                old.access.0 &= !rule.access.0;
            }
        }
        lines.push((rule.allow, rule.to_string()));
    }
    exceptions.retain(|rule| rule.access.bits() != 0);
    Ok(Kept { lines, default, exceptions })
}

/// The rule itself, or one for each class: v1 reads `a` as everything, whatever numbers and letters follow it.
fn by_class(rule: &Rule) -> Vec<Rule> {
    if rule.class.is_some() || (rule.is_every_device() && rule.access.is_all()) {
        return vec![rule.clone()];
    }
    let of = |class| Rule { class: Some(class), ..rule.clone() };
    vec![of(Class::Block), of(Class::Character)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(allow: bool, typ: char, major: i64, minor: i64, access: &str) -> LinuxDeviceCgroup {
        let mut device = LinuxDeviceCgroup::default();
        let typ = match typ {
            'b' => LinuxDeviceType::B,
            'c' => LinuxDeviceType::C,
            'p' => LinuxDeviceType::P,
            _ => LinuxDeviceType::A,
        };
        device.set_allow(allow).set_typ(Some(typ)).set_major(Some(major)).set_minor(Some(minor));
        device.set_access(Some(access.to_owned()));
        device
    }

    #[test]
    fn a_list_that_denies_all_keeps_the_default_devices() {
        let lines = v1_lines(&rules(&[device(false, 'a', -1, -1, "rwm"), device(true, 'b', 8, 0, "r")]).unwrap());
        let text: Vec<_> = lines.unwrap().iter().map(|(allow, line)| format!("{allow} {line}")).collect();
        assert_eq!(text[..4], ["false a *:* rwm", "true b 8:0 r", "true b *:* m", "true c *:* m"]);
        assert!(text.contains(&"true c 136:* rwm".to_owned()) && text.contains(&"true c 1:3 rwm".to_owned()));
    }

    #[test]
    fn a_list_that_denies_one_device_adds_nothing() {
        let list = [device(false, 'c', 1, 3, "w")];
        assert_eq!(v1_lines(&rules(&list).unwrap()).unwrap(), [(false, "c 1:3 w".to_owned())]);
    }

    #[test]
    fn nonsense_is_refused_with_its_pointer() {
        for (list, text) in [
            (device(true, 'c', -2, 0, "r"), "use /linux/resources/devices/0/major: -2 is no device number"),
            (device(true, 'c', 1, 3, "rx"), "use /linux/resources/devices/0/access: \"rx\" is not made of r, w and m"),
            (device(true, 'p', 1, 3, "r"), "use /linux/resources/devices/0/type: a FIFO is no device"),
        ] {
            assert_eq!(rules(&[list]).unwrap_err().what, text);
        }
    }

    #[test]
    fn what_v1_would_silently_not_do_is_refused() {
        let list =
            [device(false, 'a', -1, -1, "rwm"), device(true, 'c', 10, -1, "rwm"), device(false, 'c', 10, 200, "rw")];
        let error = v1_lines(&rules(&list).unwrap()).unwrap_err();
        assert_eq!(error.kind, sys::Kind::Unsupported);
        assert!(error.what.contains("c 10:200 rw"), "{error}");
    }
}
