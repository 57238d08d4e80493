//! Links of the host that become a jail's (`linux.netDevices`).
//!
//! A link takes its hardware address and its settings along, and loses its addresses on the way: those that are permanent
//! and not of the link alone are given to it again. Where the jail is not made after all, it goes back and is as before.
//! With the jail's end it is the kernel that decides, as the specification asks: what is a piece of hardware returns to
//! the first network of the machine, and what is not is gone.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use base::step::{Ctx, Guest, Guests};
use netlink_packet_core::{Emitable, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NlasIterator, Parseable};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeader, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkHeader, LinkMessage};
use nix::errno::Errno;
use nix::libc::IFLA_IFNAME;
use oci_spec::runtime::LinuxNetDevice;
use sys::{Doing, Error, Kind, Result};

use crate::link::up;
use crate::socket::{Socket, request};

/// A link of the host, and what it is called in the jail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name on the host.
    pub name: String,
    /// Its name in the jail; one that ends with `%d` gets the first number that is free there.
    pub inside: String,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "move link {} into the jail as {}", self.name, self.inside)
    }
}

/// The longest name of a link, in bytes. Source: IFNAMSIZ of linux/if.h, less the end of the text.
const LONGEST: usize = 15;

fn pointer(name: &str) -> String {
    format!("/linux/netDevices/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// The devices in the order of their names.
///
/// # Errors
/// `Invalid`, with the JSON pointer, for names that no link can have and that two would have.
pub fn plan(devices: &HashMap<String, LinuxNetDevice>) -> Result<Vec<Device>> {
    let mut planned: Vec<Device> = Vec::new();
    let mut sorted: Vec<_> = devices.iter().collect();
    sorted.sort_by_key(|(name, _)| *name);
    for (name, device) in sorted {
        let inside = device.name().as_ref().filter(|inside| !inside.is_empty()).unwrap_or(name);
        let refuse = |key: &str, why: String| Err(Error::invalid(format!("use {}{key}: {why}", pointer(name))));
        if let Some(why) = wrong(name, false) {
            return refuse("", format!("{name:?} {why}"));
        }
        if let Some(why) = wrong(inside, true) {
            return refuse("/name", format!("{inside:?} {why}"));
        }
        if let Some(other) = planned.iter().find(|other| other.inside == *inside && !inside.contains('%')) {
            return refuse("/name", format!("{inside:?} is the name of {} too", other.name));
        }
        planned.push(Device { name: name.clone(), inside: inside.clone() });
    }
    Ok(planned)
}

/// Why a link cannot have this name. Source: dev_valid_name() and `%d` of linux/net/core/dev.c.
fn wrong(name: &str, pattern: bool) -> Option<&'static str> {
    let plain = if pattern { name.strip_suffix("%d").unwrap_or(name) } else { name };
    match plain {
        "lo" if name == plain => Some("is the link that every network has of its own"),
        "." | ".." => Some("is no name of a link"),
        _ if name.is_empty() || name.len() > LONGEST => Some("is no name of a link: it has 1 to 15 bytes"),
        _ if plain.contains(|c: char| "/:%".contains(c) || c.is_whitespace() || c.is_control()) => {
            Some("is no name of a link: '/', ':', '%' and white space are not for it")
        }
        _ => None,
    }
}

/// A link as a network has it.
struct Found {
    index: u32,
    up: bool,
    /// Its own name; it can have others (altname of ip-link(8)).
    name: Vec<u8>,
}

/// The link that has this name, or has it too; `None` where there is none.
fn find(socket: &Socket, name: &str) -> nix::Result<Option<Found>> {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.to_owned()));
    match socket.ask(&request(RouteNetlinkMessage::GetLink(link), NLM_F_ACK)) {
        Err(Errno::ENODEV) => Ok(None),
        Err(errno) => Err(errno),
        Ok(answers) => answers.first().map(|answer| found(answer)).transpose(),
    }
}

fn found(answer: &[u8]) -> nix::Result<Found> {
    let header = LinkHeader::parse(answer).map_err(|_| Errno::EBADMSG)?;
    let attributes = answer.get(header.buffer_len()..).ok_or(Errno::EBADMSG)?;
    // Only the one: what a newer kernel says besides is not understood here.
    let mut attributes = NlasIterator::new(attributes).flatten();
    let name = attributes.find(|attribute| attribute.kind() == IFLA_IFNAME).ok_or(Errno::EBADMSG)?;
    let name = name.value().strip_suffix(&[0]).unwrap_or(name.value()).to_vec();
    Ok(Found { index: header.index, up: header.flags.contains(LinkFlags::Up), name })
}

/// The link of the host that is to be moved. Only its own name can be given back to it.
fn of_the_host(host: &Socket, device: &Device, step: impl Fn() -> String) -> Result<Found> {
    let found = find(host, &device.name).doing(&step)?;
    let found = found.ok_or_else(|| Error::new(Kind::NotFound, format!("{}: the host has no such link", step())))?;
    if found.name != device.name.as_bytes() {
        let name = String::from_utf8_lossy(&found.name);
        return Err(Error::invalid(format!("{}: it is another name of the link {name}, whose own is wanted", step())));
    }
    Ok(found)
}

/// The name that a link gets in a network: a pattern is filled in with the first number that is free there.
fn free(socket: &Socket, wanted: &str) -> nix::Result<String> {
    let Some(plain) = wanted.strip_suffix("%d") else {
        return find(socket, wanted)?.map_or(Ok(wanted.to_owned()), |_| Err(Errno::EEXIST));
    };
    for name in (0..).map(|number: u32| format!("{plain}{number}")).take_while(|name| name.len() <= LONGEST) {
        if find(socket, &name)?.is_none() {
            return Ok(name);
        }
    }
    Err(Errno::EEXIST)
}

/// Whether two descriptors are of one name space.
fn is_same(one: &File, other: &File) -> std::io::Result<bool> {
    let (one, other) = (one.metadata()?, other.metadata()?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

fn own_network() -> Result<File> {
    File::open("/proc/self/ns/net").doing(|| "open the network name space of the runtime")
}

/// Looks whether the host has the links, and whether the network at `joined`, which the jail is to join, has room for
/// their names. Changes nothing.
///
/// # Errors
/// `NotFound` and `Exists`, with the JSON pointer.
pub fn look(devices: &[&Device], joined: Option<&Path>) -> Result<()> {
    let host = Socket::open().doing(|| "ask for the links of the host")?;
    let network = match joined {
        Some(path) => {
            let network = File::open(path).doing(|| format!("open network name space {}", path.display()))?;
            let same = is_same(&network, &own_network()?).doing(|| "look at the network name space of the jail")?;
            if same {
                let why = "the network name space that the jail joins is the one in which it is already";
                return Err(Error::invalid(format!("use /linux/netDevices: {why}")));
            }
            Some(Socket::open_in(&network)?)
        }
        None => None,
    };
    for device in devices {
        let at = pointer(&device.name);
        of_the_host(&host, device, || format!("use {at}"))?;
        let taken = network.as_ref().map(|network| find(network, &device.inside)).transpose();
        // A pattern is the name of no link.
        if taken.doing(|| format!("use {at}/name"))?.flatten().is_some() {
            let why = format!("the network that the jail joins has a link {} already", device.inside);
            return Err(Error::new(Kind::Exists, format!("use {at}/name: {why}")));
        }
    }
    Ok(())
}

impl Device {
    /// Moves the link to where process 1 is by now, and gives it its addresses there.
    pub(crate) fn hand_over(&self, ctx: &mut Ctx) -> Result<()> {
        let step = || self.to_string();
        if ctx.guests.is_none() {
            let pid = ctx.pid.ok_or_else(|| Error::kernel(step(), Errno::ESRCH))?;
            let network = File::open(format!("/proc/{pid}/ns/net")).doing(step)?;
            if is_same(&network, &own_network()?).doing(step)? {
                return Err(Error::invalid(format!("{self}: it has no network of its own")));
            }
            ctx.guests = Some(Guests { network: OwnedFd::from(network), links: Vec::new() });
        }
        let Some(guests) = ctx.guests.as_mut() else { return Ok(()) };
        let host = Socket::open().doing(step)?;
        let inside = Socket::open_in(&guests.network)?;
        let found = of_the_host(&host, self, step)?;
        let addresses = addresses(&host, found.index).doing(step)?;
        let refused = |errno| match errno {
            Errno::EEXIST => Error::new(Kind::Exists, format!("{self}: there is a link of this name already")),
            Errno::EINVAL => Error::unsupported(format!("{self}: a link of its kind cannot leave its network")),
            other => Error::kernel(step(), other),
        };
        let name = free(&inside, &self.inside).map_err(refused)?;
        let guest = Guest { name: self.name.clone(), inside: name.clone(), index: None, was_up: found.up, addresses };
        // Before it goes: whatever is heard of the move, it may have come about.
        guests.links.push(guest);
        shift(&host, found.index, &name, &guests.network).map_err(refused)?;
        let arrived = find(&inside, &name).and_then(|found| found.ok_or(Errno::ENODEV)).doing(step)?;
        match guests.links.last_mut() {
            Some(guest) => {
                guest.index = Some(arrived.index);
                settle(&inside, arrived.index, guest, &name, true).doing(step)
            }
            None => Ok(()),
        }
    }
}

/// Puts a link into another network, and renames it in the same moment. Where it was up, it is down then.
fn shift(from: &Socket, index: u32, name: &str, to: impl AsFd) -> nix::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes.push(LinkAttribute::NetNsFd(to.as_fd().as_raw_fd()));
    link.attributes.push(LinkAttribute::IfName(name.to_owned()));
    from.ask(&request(RouteNetlinkMessage::SetLink(link), NLM_F_ACK)).map(drop)
}

/// The addresses that a link keeps: permanent ones of global scope, of any family, as messages.
fn addresses(socket: &Socket, index: u32) -> nix::Result<Vec<Vec<u8>>> {
    let all = socket.ask(&request(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP))?;
    let keep = |answer: &Vec<u8>| {
        AddressMessage::parse(answer).is_ok_and(|address| {
            let flags = address.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Flags(flags) => Some(*flags),
                _ => None,
            });
            let AddressHeader { index: of, scope, flags: few, .. } = address.header;
            let flags = flags.unwrap_or(AddressFlags::from_bits_retain(few.bits().into()));
            of == index && scope == AddressScope::Universe && flags.contains(AddressFlags::Permanent)
        })
    };
    Ok(all.into_iter().filter(keep).collect())
}

/// Gives a link that has come its addresses, and brings it up or leaves it down.
fn settle(socket: &Socket, index: u32, guest: &Guest, name: &str, is_up: bool) -> nix::Result<()> {
    for bytes in &guest.addresses {
        let mut address = AddressMessage::parse(bytes).map_err(|_| Errno::EBADMSG)?;
        address.header.index = index;
        // The label is the link's name, where it has no part of its own; the kernel fills it in.
        address
            .attributes
            .retain(|attribute| !matches!(attribute, AddressAttribute::Label(label) if *label == guest.name));
        for attribute in &mut address.attributes {
            if let AddressAttribute::Label(label) = attribute
                && let Some(own) = label.strip_prefix(&guest.name)
                && name.len() + own.len() <= LONGEST
            {
                *label = format!("{name}{own}");
            }
        }
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        match socket.ask(&request(RouteNetlinkMessage::NewAddress(address), flags)) {
            Ok(_) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    if is_up { socket.ask(&request(up(index), NLM_F_ACK)).map(drop) } else { Ok(()) }
}

/// Puts every link back to the host that is in the network of a jail which is not made after all, the last one first.
///
/// # Errors
/// Which one could not go back; the others went.
pub fn give_back(ctx: &mut Ctx) -> Result<()> {
    let Some(Guests { network, links }) = ctx.guests.take() else { return Ok(()) };
    let inside = Socket::open_in(&network)?;
    let (host, own) = (Socket::open().doing(|| "ask for the links of the host")?, own_network()?);
    let mut failed: Option<Error> = None;
    for guest in links.into_iter().rev() {
        let back = || {
            // It never left.
            if find(&host, &guest.name)?.is_some() {
                return Ok(());
            }
            let index = match guest.index {
                Some(index) => index,
                None => find(&inside, &guest.inside)?.ok_or(Errno::ENODEV)?.index,
            };
            shift(&inside, index, &guest.name, &own)?;
            let found = find(&host, &guest.name)?.ok_or(Errno::ENODEV)?;
            settle(&host, found.index, &guest, &guest.name, guest.was_up)
        };
        if let Err(errno) = back() {
            let error = Error::kernel(format!("move link {} back to the host", guest.name), errno);
            failed = Some(failed.map_or(error.clone(), |first| first.and(error)));
        }
    }
    failed.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(name: &str, inside: &str) -> Option<String> {
        let mut device = LinuxNetDevice::default();
        device.set_name(Some(inside.to_owned()));
        plan(&HashMap::from([(name.to_owned(), device)])).err().map(|error| error.to_string())
    }

    #[test]
    fn a_name_that_no_link_can_have_is_refused_with_its_place() {
        assert_eq!(refusal("eth0", "net%d"), None);
        assert_eq!(refusal("eth0", ""), None);
        for (name, inside, place) in [
            ("", "x", "/linux/netDevices/:"),
            ("a/b", "x", "/linux/netDevices/a~1b:"),
            ("lo", "x", "/linux/netDevices/lo:"),
            ("eth%d", "x", "/linux/netDevices/eth%d:"),
            ("eth0", "lo", "/linux/netDevices/eth0/name:"),
            ("eth0", "..", "/linux/netDevices/eth0/name:"),
            ("eth0", "a:b", "/linux/netDevices/eth0/name:"),
            ("eth0", "%s", "/linux/netDevices/eth0/name:"),
            ("eth0", "%d%d", "/linux/netDevices/eth0/name:"),
            ("eth0", "a%db", "/linux/netDevices/eth0/name:"),
            ("eth0", "sixteen-bytes-xx", "/linux/netDevices/eth0/name:"),
        ] {
            let refusal = refusal(name, inside).unwrap_or_else(|| panic!("{name} {inside}"));
            assert!(refusal.starts_with(&format!("cannot use {place}")), "{refusal}");
        }
    }
}
