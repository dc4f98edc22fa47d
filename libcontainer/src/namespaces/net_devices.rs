//! `linux.netDevices`: network devices of the host that move into the container's network namespace (config-linux.md,
//! "Network Devices").
//!
//! It runs in the runtime, with two netlink sockets: one in the host's namespace and one in the container's.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::error::{Doing, Error, Result};
use crate::findings::Findings;
use crate::namespaces::{Namespaces, Opened};
use crate::spec;
use masu_host::netlink::{Address, Link, Netlink};
use masu_host::sys::namespace::setns;

/// The maximum length of a name (IFNAMSIZ without the NUL), in bytes.
const MAX_NAME: usize = 15;
/// The place of the first free number in a name.
const TEMPLATE: &str = "%d";

/// The devices and their names in the container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NetDevices(Vec<NetDevice>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct NetDevice {
    name: String,
    /// May have one `%d`.
    inside: String,
}

impl NetDevices {
    /// Checks the names, and that the container has its own network namespace.
    pub(crate) fn plan(devices: &BTreeMap<String, spec::NetDevice>, namespaces: &Namespaces, found: &mut Findings) -> NetDevices {
        const PATH: &str = "linux.netDevices";
        if !devices.is_empty() && !namespaces.has(libc::CLONE_NEWNET) {
            found.invalid(PATH, "linux.netDevices: unable to move network devices without a NET namespace");
        }
        let mut plan: Vec<NetDevice> = Vec::with_capacity(devices.len());
        for (name, device) in devices {
            let inside = if device.name.is_empty() { name } else { &device.name };
            // the kernel allows one %d and no other percent sign
            let is_template = !inside.contains('%') || !inside.replacen(TEMPLATE, "", 1).contains('%');
            if let Some(bad) = [(name, is_name(name)), (inside, is_name(inside) && is_template)].iter().find(|(_, good)| !good) {
                found.invalid(PATH, format!("linux.netDevices: invalid network device name {:?}", bad.0));
            }
            if !inside.contains('%') && plan.iter().any(|other| other.inside == *inside) {
                found.invalid(PATH, format!("linux.netDevices: two network devices are to have the name {inside:?}"));
            }
            plan.push(NetDevice { name: name.clone(), inside: inside.clone() });
        }
        NetDevices(plan)
    }

    /// The name of each device on the host and in the container.
    pub(crate) fn list(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|device| (device.name.as_str(), device.inside.as_str()))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A copy of the descriptor of the network namespace, if the container joins one and has devices.
    pub(crate) fn namespace_of(&self, joined: &[Opened]) -> Result<Option<OwnedFd>> {
        let net = joined.iter().find(|n| n.flag == libc::CLONE_NEWNET && !self.is_empty());
        net.map(|n| rustix::io::fcntl_dupfd_cloexec(&n.fd, 3).doing(|| "duplicate a namespace's descriptor")).transpose()
    }

    /// Moves all devices from the caller's namespace `own` into `namespace`, or none.
    pub(crate) fn move_into(&self, namespace: &OwnedFd, own: OwnedFd) -> Result<Moved> {
        let inside = netlink_in(namespace.as_fd(), own.as_fd()).doing(|| "enter the container's network namespace")?;
        let mut moved = Moved { host: Netlink::open()?, own, inside, devices: Vec::with_capacity(self.0.len()) };
        for device in &self.0 {
            moved.add(device, namespace.as_fd()).doing(|| format!("move netDevice {} to the container's namespace", device.name))?;
        }
        Ok(moved)
    }
}

/// The check of the kernel's dev_valid_name().
fn is_name(name: &str) -> bool {
    let allowed = |c: char| c != '/' && c != ':' && c != '\0' && !c.is_ascii_whitespace() && c != '\x0b';
    !name.is_empty() && name.len() <= MAX_NAME && name != "." && name != ".." && name.chars().all(allowed)
}

/// Opens a socket in another network namespace. The socket stays in it when the caller returns.
fn netlink_in(namespace: BorrowedFd<'_>, own: BorrowedFd<'_>) -> Result<Netlink> {
    setns(namespace, libc::CLONE_NEWNET)?;
    let socket = Netlink::open();
    setns(own, libc::CLONE_NEWNET).doing(|| "return to the own network namespace")?;
    socket
}

/// The devices in the container's namespace. A drop moves them back, unless [`Moved::keep`] was called.
#[derive(Debug)]
pub(crate) struct Moved {
    host: Netlink,
    own: OwnedFd,
    /// It also keeps the namespace alive if init dies.
    inside: Netlink,
    devices: Vec<Was>,
}

/// The former state of a device on the host, and its name in the container.
#[derive(Debug)]
struct Was {
    name: String,
    up: bool,
    addresses: Vec<Address>,
    inside: String,
}

impl Moved {
    /// Leaves the devices in the container's namespace.
    pub(crate) fn keep(mut self) {
        self.devices.clear();
    }

    fn add(&mut self, device: &NetDevice, namespace: BorrowedFd<'_>) -> Result<()> {
        let name = &device.name;
        let link = self.host.link(name).doing(|| format!("link not found for interface {name} on runtime namespace"))?;
        // before the device is down, because that removes its IPv6 addresses
        let addresses = self.host.lasting_addresses(link.index).doing(|| "fail to get ip addresses")?;
        let inside = match device.inside.split_once(TEMPLATE) {
            Some((before, after)) => first_free(before, after, &self.inside.names()?)?,
            None => device.inside.clone(),
        };
        self.host.set_up(link.index, false).doing(|| "fail to set link down")?;
        self.devices.push(Was { name: name.clone(), up: link.up, addresses, inside });
        let Some(was) = self.devices.last() else { return Ok(()) };
        self.host
            .move_link(link.index, &was.inside, namespace)
            .doing(|| format!("fail to move network device {name} as {}", was.inside))?;
        let there = self.inside.link(&was.inside).doing(|| format!("link not found for interface {} on namespace", was.inside))?;
        restore(&self.inside, there, &was.addresses, true)
    }

    /// Moves a device back and restores its state, wherever a failure left it.
    fn take_back(&self, was: &Was) -> Result<()> {
        if let Ok(link) = self.host.link(&was.name) {
            return restore(&self.host, link, &was.addresses, was.up);
        }
        // if only the renaming failed, the device has its old name in the container's namespace
        let there = self.inside.link(&was.name).or_else(|_| self.inside.link(&was.inside))?;
        self.inside.set_up(there.index, false)?;
        self.inside.move_link(there.index, &was.name, self.own.as_fd())?;
        restore(&self.host, self.host.link(&was.name)?, &was.addresses, was.up)
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        for was in self.devices.iter().rev() {
            if let Err(e) = self.take_back(was) {
                log::warn!("take network device {} back from the container: {e}", was.name);
            }
        }
    }
}

/// Restores the addresses of a device, which the kernel removes on a move, and sets it up.
fn restore(namespace: &Netlink, link: Link, addresses: &[Address], up: bool) -> Result<()> {
    for address in addresses {
        match namespace.add_address(link.index, address) {
            // the device was only down, not moved
            Err(e) if e.errno() == Some(Errno::EXIST) => {}
            result => result.doing(|| "fail to set up an address on namespace")?,
        }
    }
    if up { namespace.set_up(link.index, true).doing(|| "fail to set up the interface on namespace") } else { Ok(()) }
}

fn first_free(before: &str, after: &str, taken: &[String]) -> Result<String> {
    let free = (0..=taken.len()).map(|n| format!("{before}{n}{after}")).find(|name| !taken.contains(name));
    free.filter(|name| name.len() <= MAX_NAME)
        .ok_or_else(|| Error::invalid(format!("no name of the form {before}{TEMPLATE}{after} is free: file name too long")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(devices: serde_json::Value) -> Result<NetDevices, String> {
        let namespaces = Namespaces { fresh: libc::CLONE_NEWNET, ..Namespaces::default() };
        let mut found = Findings::new();
        let plan = NetDevices::plan(&serde_json::from_value(devices).unwrap(), &namespaces, &mut found);
        found.unless_wrong(plan).map_err(|e| e.to_string())
    }

    #[test]
    fn names() {
        let plan = planned(serde_json::json!({"eth0": {}, "eth1": {"name": "in%d"}, "fifteen-chars-x": {"name": "in%d"}})).unwrap();
        let names: Vec<_> = plan.0.iter().map(|d| (d.name.as_str(), d.inside.as_str())).collect();
        assert_eq!(names, [("eth0", "eth0"), ("eth1", "in%d"), ("fifteen-chars-x", "in%d")]);
        for bad in ["a/b", "a:b", "a b", "a\tb", "", ".", "..", "sixteen-chars-xx", "a\0"] {
            assert!(planned(serde_json::json!({bad: {}})).unwrap_err().contains("invalid network device name"), "{bad:?}");
        }
        for bad in ["a/b", "%s", "%d%d", "50%", "%%d"] {
            assert!(planned(serde_json::json!({"eth0": {"name": bad}})).unwrap_err().contains("invalid network device name"), "{bad:?}");
        }
        let twice = planned(serde_json::json!({"eth0": {"name": "x"}, "eth1": {"name": "x"}}));
        assert_eq!(twice.unwrap_err(), "linux.netDevices: two network devices are to have the name \"x\"");
    }

    #[test]
    fn without_a_namespace_there_is_nowhere_to_go() {
        let planned = |devices: &BTreeMap<String, spec::NetDevice>| {
            let mut found = Findings::new();
            let plan = NetDevices::plan(devices, &Namespaces::default(), &mut found);
            found.unless_wrong(plan).map_err(|e| e.to_string())
        };
        let e = planned(&BTreeMap::from([("eth0".to_owned(), spec::NetDevice::default())])).unwrap_err();
        assert_eq!(e, "linux.netDevices: unable to move network devices without a NET namespace");
        assert!(planned(&BTreeMap::new()).unwrap().is_empty());
    }

    #[test]
    fn a_template_takes_the_first_free_number() {
        let taken = ["lo", "eth0", "eth2"].map(str::to_owned);
        assert_eq!(first_free("eth", "", &taken).unwrap(), "eth1");
        assert_eq!(first_free("eth", "x", &taken).unwrap(), "eth0x");
        assert!(first_free("fifteen-chars-x", "", &taken).is_err());
    }
}
