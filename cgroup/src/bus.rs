//! What is said to systemd over D-Bus, and heard from it; nothing else of this program speaks D-Bus.
//!
//! It is said on systemd's own socket, which takes root's calls without a bus in between: one less that must run.
//! Source: org.freedesktop.systemd1(5).

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use dbus::arg::{Arg, Get, RefArg, Variant};
use dbus::channel::Channel;
use dbus::{Message, Path as ObjectPath};
use sys::{Doing, Error, Kind, Result};

use crate::property::{Property, Value};

/// Where systemd listens.
const SOCKET: &str = "/run/systemd/private";

/// How long systemd may take for all that one [`Bus`] asks of it. It is a matter of milliseconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The shortest time to wait: for libdbus 0 is not to wait at all.
const MOMENT: Duration = Duration::from_millis(1);

const NAME: &str = "org.freedesktop.systemd1";
const ROOT: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const PEER: &str = "org.freedesktop.DBus.Peer";

/// A conversation with systemd. It ends at its deadline, whatever systemd does.
pub(crate) struct Bus {
    channel: Channel,
    deadline: Instant,
}

/// A unit that systemd knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    /// What it is, as whoever made it says.
    pub(crate) description: String,
    /// `active`, `failed`, …
    pub(crate) state: String,
}

/// Why a scope was not started.
#[derive(Debug)]
pub(crate) enum Refused {
    /// There is a unit of this name.
    Exists,
    /// For another reason.
    Other(Error),
}

impl Refused {
    pub(crate) fn because(self, name: &str) -> Error {
        match self {
            Self::Exists => Error::new(Kind::Exists, format!("start {name}: it already exists")),
            Self::Other(error) => error,
        }
    }
}

/// The word of systemd or of libdbus for what went wrong, without the part that all have.
fn word(error: &dbus::Error) -> &str {
    let name = error.name().unwrap_or_default();
    name.rsplit('.').next().unwrap_or(name)
}

/// Whether there is no systemd, so that no unit is either.
///
/// # Errors
/// As stat(2): what cannot be looked at must not count as missing.
pub(crate) fn is_absent() -> Result<bool> {
    Path::new(SOCKET).try_exists().map(|there| !there).doing(|| format!("look at {SOCKET}"))
}

impl Bus {
    /// Begins to talk, for `step`.
    ///
    /// # Errors
    /// `Unsupported` where nobody listens.
    pub(crate) fn open(deadline: Instant, step: impl fmt::Display) -> Result<Self> {
        let channel = Channel::open_private(&format!("unix:path={SOCKET}")).map_err(|error| {
            let why = error.message().unwrap_or("libdbus does not say why");
            Error::unsupported(format!("{step}: no systemd to talk to at {SOCKET} ({why})"))
        })?;
        let bus = Self { channel, deadline };
        bus.greet().map_err(|mut error| {
            error.what = format!("{step}: {}", error.what);
            error
        })?;
        Ok(bus)
    }

    /// Says something that does not matter until systemd answers. Where a first message comes together with the end of the
    /// greeting, systemd (252 at least) puts it aside, and looks at it only when another one comes.
    fn greet(&self) -> Result<()> {
        let step = "talk to systemd";
        let mut patience = Duration::from_millis(1);
        while Instant::now() < self.deadline {
            let ping = Message::method_call(&NAME.into(), &ROOT.into(), &PEER.into(), &"Ping".into());
            self.channel.send(ping).map_err(|()| Error::new(Kind::Kernel, format!("{step}: it does not listen")))?;
            let next = Instant::now() + patience;
            while Instant::now() < next {
                let patience = next.saturating_duration_since(Instant::now()).max(MOMENT);
                let heard = self.channel.blocking_pop_message(patience).map_err(|error| self.error(step, &error))?;
                if heard.is_some() {
                    return Ok(());
                }
            }
            patience = (patience * 2).min(Duration::from_millis(50));
        }
        Err(late(step))
    }

    /// systemd's version: `252 (252.38-1~deb12u1)` and `v257.3` are 252 and 257.
    pub(crate) fn version(&self) -> Result<u32> {
        let text: String = self.get(&ROOT.into(), MANAGER, "Version")?;
        let digits = text.trim_start_matches('v').split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        digits.parse().map_err(|_| Error::new(Kind::Kernel, format!("read systemd's version: it says {text:?}")))
    }

    /// The cgroup that all units are below; empty where it is the root.
    pub(crate) fn control_group(&self) -> Result<String> {
        self.get(&ROOT.into(), MANAGER, "ControlGroup")
    }

    /// The unit NAME, where there is one.
    pub(crate) fn unit(&self, name: &str) -> Result<Option<Unit>> {
        let message = match self.call(&ROOT.into(), MANAGER, "GetUnit", |message| message.append1(name)) {
            Err(error) if word(&error) == "NoSuchUnit" => return Ok(None),
            called => called.map_err(|error| self.error(&format!("look for the unit {name}"), &error))?,
        };
        let path: ObjectPath<'static> = read(&message)?;
        // What somebody only asked about is loaded for a moment, and is not there all the same.
        let get = |property| match self.get::<String>(&path, UNIT, property) {
            Err(error) if error.kind == Kind::NotFound => Ok("not-found".to_owned()),
            other => other,
        };
        if get("LoadState")? == "not-found" {
            return Ok(None);
        }
        Ok(Some(Unit { description: get("Description")?, state: get("ActiveState")? }))
    }

    /// Starts the scope NAME with PROPERTIES, and waits until its processes are in its cgroup.
    pub(crate) fn start(&self, name: &str, properties: &[Property]) -> std::result::Result<(), Refused> {
        let step = || format!("start {name}");
        let none: Vec<(&str, Arguments<'_>)> = Vec::new();
        let called = self.call(&ROOT.into(), MANAGER, "StartTransientUnit", |message| {
            // "fail": where a job for the unit is queued already, ours must not replace it.
            message.append3(name, "fail", arguments(properties)).append1(none)
        });
        match called {
            Err(error) if word(&error) == "UnitExists" => Err(Refused::Exists),
            Err(error) => Err(Refused::Other(self.error(&step(), &error))),
            Ok(message) => read(&message).and_then(|job| self.wait(&job, &step())).map_err(Refused::Other),
        }
    }

    /// Stops the unit NAME, and waits for it. What is gone is stopped.
    pub(crate) fn stop(&self, name: &str) -> Result<()> {
        let step = || format!("stop {name}");
        match self.call(&ROOT.into(), MANAGER, "StopUnit", |message| message.append2(name, "replace")) {
            Err(error) if word(&error) == "NoSuchUnit" => Ok(()),
            Err(error) => Err(self.error(&step(), &error)),
            Ok(message) => self.wait(&read(&message)?, &step()),
        }
    }

    /// Lets systemd forget a unit that has failed. One that has not is gone already.
    pub(crate) fn reset(&self, name: &str) -> Result<()> {
        match self.call(&ROOT.into(), MANAGER, "ResetFailedUnit", |message| message.append1(name)) {
            Err(error) if word(&error) == "NoSuchUnit" => Ok(()),
            other => other.map(drop).map_err(|error| self.error(&format!("reset {name}"), &error)),
        }
    }

    /// Changes PROPERTIES of the unit NAME until the next boot, all or none, and waits until the kernel has them.
    pub(crate) fn set(&self, name: &str, properties: &[Property]) -> Result<()> {
        let called = self.call(&ROOT.into(), MANAGER, "SetUnitProperties", |message| {
            message.append3(name, true, arguments(properties))
        });
        called.map_err(|error| self.error(&format!("set properties of {name}"), &error))?;
        self.settle()
    }

    /// Waits until systemd has written to cgroups what it was told to: it does so before it answers anything else.
    pub(crate) fn settle(&self) -> Result<()> {
        let ping = self.call(&ROOT.into(), PEER, "Ping", |message| message);
        ping.map(drop).map_err(|error| self.error("wait for systemd", &error))
    }

    /// Waits until a job has ended, well or not.
    fn wait(&self, job: &ObjectPath<'_>, step: &str) -> Result<()> {
        loop {
            let message = self.channel.blocking_pop_message(self.left());
            let message = message.map_err(|error| self.error(step, &error))?;
            let Some(message) = message else {
                if Instant::now() >= self.deadline {
                    return Err(late(step));
                }
                continue;
            };
            if message.member().as_deref() != Some("JobRemoved") {
                continue;
            }
            // Its number, itself, its unit, its result.
            match message.read4::<u32, ObjectPath<'_>, &str, &str>() {
                Ok((_, removed, _, result)) if removed == *job => {
                    return match result {
                        "done" => Ok(()),
                        other => Err(Error::new(Kind::Kernel, format!("{step}: systemd says that it is {other}"))),
                    };
                }
                _ => {}
            }
        }
    }

    fn get<T: for<'a> Get<'a> + Arg>(&self, path: &ObjectPath<'_>, interface: &str, property: &str) -> Result<T> {
        let called = self.call(path, PROPERTIES, "Get", |message| message.append2(interface, property));
        let message = called.map_err(|error| self.error(&format!("read systemd's {property}"), &error))?;
        read::<Variant<T>>(&message).map(|variant| variant.0)
    }

    fn call(
        &self,
        path: &ObjectPath<'_>,
        interface: &str,
        method: &str,
        fill: impl FnOnce(Message) -> Message,
    ) -> std::result::Result<Message, dbus::Error> {
        let message = Message::method_call(&NAME.into(), path, &interface.into(), &method.into());
        self.channel.send_with_reply_and_block(fill(message), self.left())
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now()).max(MOMENT)
    }

    fn error(&self, step: &str, error: &dbus::Error) -> Error {
        let kind = match word(error) {
            "NoReply" | "Timeout" | "TimedOut" => return late(step),
            "AccessDenied" | "InteractiveAuthorizationRequired" => Kind::Denied,
            "NoSuchUnit" | "UnknownObject" => Kind::NotFound,
            "UnknownProperty" | "PropertyReadOnly" | "InvalidArgs" | "BadUnitSetting" => Kind::Invalid,
            _ => Kind::Kernel,
        };
        Error::new(kind, format!("{step}: {}", error.message().unwrap_or("systemd does not say why")))
    }
}

fn late(step: &str) -> Error {
    let within = PATIENCE.as_secs();
    Error::new(Kind::Kernel, format!("{step}: systemd does not answer within {within} seconds"))
}

fn read<'a, T: Get<'a> + Arg>(message: &'a Message) -> Result<T> {
    message.read1().map_err(|error| Error::new(Kind::Kernel, format!("understand systemd: {error}")))
}

/// Names and values of properties, as D-Bus has them.
type Arguments<'a> = Vec<(&'a str, Variant<Box<dyn RefArg>>)>;

fn arguments(properties: &[Property]) -> Arguments<'_> {
    properties.iter().map(|property| (property.name.as_str(), Variant(argument(&property.value)))).collect()
}

fn argument(value: &Value) -> Box<dyn RefArg> {
    match value.clone() {
        Value::Bool(value) => Box::new(value),
        Value::I32(value) => Box::new(value),
        Value::U32(value) => Box::new(value),
        Value::I64(value) => Box::new(value),
        Value::U64(value) => Box::new(value),
        Value::Text(value) => Box::new(value),
        Value::Texts(value) => Box::new(value),
        Value::Bytes(value) => Box::new(value),
        Value::Numbers(value) => Box::new(value),
        Value::Pairs(value) => Box::new(value),
    }
}
