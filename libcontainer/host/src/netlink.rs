//! The five exchanges of rtnetlink(7) that move a network device, over one blocking socket.
//!
//! A socket belongs to the network namespace in which it was made, also when its user has joined another one.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::error::{Doing, Error, Kind, Result};

/// Lengths of nlmsghdr, ifinfomsg, ifaddrmsg and rtattr.
const HEADER: usize = 16;
const LINK: usize = 16;
const ADDRESS: usize = 8;
const ATTRIBUTE: usize = 4;
/// The kernel's answers are shorter, in bytes. A longer one is an error and is not cut.
const LONGEST: usize = 32 << 10;

/// Offsets of two fields of ifinfomsg.
const LINK_INDEX: usize = 4;
const LINK_FLAGS: usize = 8;

/// The attributes that belong to an address and not to its device: local, peer, broadcast, metric and the long flags.
const KEPT: [u16; 5] = [libc::IFA_ADDRESS, libc::IFA_LOCAL, libc::IFA_BROADCAST, IFA_RT_PRIORITY, libc::IFA_FLAGS];
const IFA_RT_PRIORITY: u16 = 9;

/// A NETLINK_ROUTE socket in one network namespace.
#[derive(Debug)]
pub struct Netlink(OwnedFd);

/// A network device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// The index of the device in its network namespace.
    pub index: u32,
    /// Whether it is up (IFF_UP).
    pub up: bool,
}

/// An address of a device, as the kernel reports it and accepts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    header: [u8; ADDRESS],
    attributes: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in the caller's network namespace.
    ///
    /// # Errors
    /// The errno of socket(2).
    pub fn open() -> Result<Netlink> {
        // the default protocol is NETLINK_ROUTE
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None);
        Ok(Netlink(socket.doing(|| "open a netlink socket")?))
    }

    /// Finds the device `name`.
    ///
    /// # Errors
    /// ENODEV if there is none; otherwise the errno of the kernel's answer.
    pub fn link(&self, name: &str) -> Result<Link> {
        let mut request = Request::new(libc::RTM_GETLINK, 0, &[0; LINK]);
        request.attribute(libc::IFLA_IFNAME, &zero_terminated(name));
        let answers = self.exchange(request, Until::Acknowledged)?;
        let link = answers
            .iter()
            .find(|a| a.kind == libc::RTM_NEWLINK)
            .and_then(|a| Some(Link { index: number(&a.body, LINK_INDEX)?, up: number(&a.body, LINK_FLAGS)? & libc::IFF_UP as u32 != 0 }));
        link.ok_or_else(|| Error::new(Kind::Internal, "the kernel did not tell the device"))
    }

    /// The names of all devices.
    ///
    /// # Errors
    /// The errno of the kernel's answer; [`Kind::Internal`] if the answer is damaged.
    pub fn names(&self) -> Result<Vec<String>> {
        let answers = self.exchange(Request::new(libc::RTM_GETLINK, libc::NLM_F_DUMP, &[0; LINK]), Until::Done)?;
        let name = |a: &Answer| {
            let (_, value) = attributes(a.body.get(LINK..)?).find(|(kind, _)| *kind == libc::IFLA_IFNAME)?;
            Some(String::from_utf8_lossy(value.strip_suffix(b"\0").unwrap_or(value)).into_owned())
        };
        Ok(answers.iter().filter_map(name).collect())
    }

    /// Sets the device up or down.
    ///
    /// # Errors
    /// The errno of the kernel's answer.
    pub fn set_up(&self, index: u32, up: bool) -> Result<()> {
        let flags = if up { libc::IFF_UP as u32 } else { 0 };
        self.exchange(Request::new(libc::RTM_NEWLINK, 0, &link_header(index, flags, libc::IFF_UP as u32)), Until::Acknowledged).map(drop)
    }

    /// Moves the device into the network namespace `namespace` under the name `name`.
    ///
    /// # Errors
    /// The errno of the kernel's answer. The device may then be in the new namespace under its old name.
    pub fn move_link(&self, index: u32, name: &str, namespace: BorrowedFd<'_>) -> Result<()> {
        let mut request = Request::new(libc::RTM_NEWLINK, 0, &link_header(index, 0, 0));
        request.attribute(libc::IFLA_IFNAME, &zero_terminated(name));
        request.attribute(libc::IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
        self.exchange(request, Until::Acknowledged).map(drop)
    }

    /// The permanent addresses of global scope of the device: those that were configured and are valid in another namespace.
    ///
    /// # Errors
    /// The errno of the kernel's answer; [`Kind::Internal`] if the answer is damaged.
    pub fn lasting_addresses(&self, index: u32) -> Result<Vec<Address>> {
        let answers = self.exchange(Request::new(libc::RTM_GETADDR, libc::NLM_F_DUMP, &[0; ADDRESS]), Until::Done)?;
        let address = |a: &Answer| {
            let header: [u8; ADDRESS] = a.body.get(..ADDRESS)?.try_into().ok()?;
            let lasting = u32::from(header[2]) & libc::IFA_F_PERMANENT != 0 && header[3] == libc::RT_SCOPE_UNIVERSE;
            if !lasting || number(&header, 4) != Some(index) {
                return None;
            }
            let mut request = Request(Vec::new());
            for (kind, value) in attributes(a.body.get(ADDRESS..)?).filter(|(kind, _)| KEPT.contains(kind)) {
                request.attribute(kind, value);
            }
            Some(Address { header, attributes: request.0 })
        };
        Ok(answers.iter().filter_map(address).collect())
    }

    /// Adds an address to the device, or replaces the same one.
    ///
    /// # Errors
    /// The errno of the kernel's answer.
    pub fn add_address(&self, index: u32, address: &Address) -> Result<()> {
        let mut header = address.header;
        header[4..].copy_from_slice(&index.to_ne_bytes());
        let mut request = Request::new(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, &header);
        request.0.extend(&address.attributes);
        self.exchange(request, Until::Acknowledged).map(drop)
    }

    /// Sends a request and reads all its answers.
    fn exchange(&self, mut request: Request, until: Until) -> Result<Vec<Answer>> {
        if until == Until::Acknowledged {
            request.set_flags(libc::NLM_F_ACK);
        }
        request.finish();
        rustix::net::send(&self.0, &request.0, SendFlags::empty()).doing(|| "send a netlink request")?;
        let broken = || Error::new(Kind::Internal, "a netlink answer is damaged");
        let mut answers = Vec::new();
        let mut bytes = vec![0; LONGEST];
        loop {
            let (_, length) = match rustix::net::recv(&self.0, &mut bytes[..], RecvFlags::TRUNC) {
                Err(Errno::INTR) => continue,
                result => result.doing(|| "read a netlink answer")?,
            };
            let mut rest = bytes.get(..length).ok_or_else(broken)?;
            while let Some(size) = number(rest, 0) {
                let (kind, body) = (short(rest, 4), rest.get(HEADER..size as usize));
                let (Some(kind), Some(body)) = (kind, body) else { return Err(broken()) };
                match i32::from(kind) {
                    libc::NLMSG_ERROR => {
                        return match number(body, 0).ok_or_else(broken)?.cast_signed() {
                            0 => Ok(answers),
                            errno => Err(Errno::from_raw_os_error(-errno).into()),
                        };
                    }
                    libc::NLMSG_DONE => return Ok(answers),
                    _ => answers.push(Answer { kind, body: body.to_owned() }),
                }
                rest = rest.get(aligned(size as usize)..).unwrap_or_default();
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The last message of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    Acknowledged,
    Done,
}

#[derive(Debug)]
struct Answer {
    kind: u16,
    body: Vec<u8>,
}

/// A message: the netlink header, the kernel's struct, attributes.
#[derive(Debug)]
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: i32, body: &[u8]) -> Request {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes.extend(body);
        let mut request = Request(bytes);
        request.set_flags(libc::NLM_F_REQUEST | flags);
        request
    }

    fn set_flags(&mut self, more: i32) {
        for (byte, bits) in self.0[6..8].iter_mut().zip((more as u16).to_ne_bytes()) {
            *byte |= bits;
        }
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.0.extend(((ATTRIBUTE + value.len()) as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(aligned(self.0.len()), 0);
    }

    fn finish(&mut self) {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
    }
}

/// An ifinfomsg; `change` is the mask of `flags`.
fn link_header(index: u32, flags: u32, change: u32) -> [u8; LINK] {
    let mut header = [0; LINK];
    header[LINK_INDEX..LINK_INDEX + 4].copy_from_slice(&index.to_ne_bytes());
    header[LINK_FLAGS..LINK_FLAGS + 4].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&change.to_ne_bytes());
    header
}

fn zero_terminated(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

/// The types and values of a list of attributes.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(short(bytes, 0)?);
        let found = (short(bytes, 2)?, bytes.get(ATTRIBUTE..length)?);
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some(found)
    })
}

/// Messages and attributes begin at multiples of four bytes.
fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_is_found_and_no_other_name() {
        let netlink = Netlink::open().unwrap();
        assert_ne!(netlink.link("lo").unwrap().index, 0);
        assert!(netlink.names().unwrap().contains(&"lo".to_owned()));
        assert_eq!(netlink.link("nosuch0").unwrap_err().errno(), Some(Errno::NODEV));
        // 127.0.0.1, if configured, has host scope
        assert_eq!(netlink.lasting_addresses(netlink.link("lo").unwrap().index).unwrap(), []);
    }

    #[test]
    fn attributes_that_lie_about_their_length_end_the_list() {
        let mut request = Request(Vec::new());
        request.attribute(3, b"lo\0");
        request.attribute(1, &[7; 6]);
        let list = |bytes: &[u8]| attributes(bytes).map(|(kind, value)| (kind, value.to_vec())).collect::<Vec<_>>();
        assert_eq!(list(&request.0), [(3, b"lo\0".to_vec()), (1, vec![7; 6])]);
        assert_eq!(list(&request.0[..14]).len(), 1);
        assert_eq!(list(&[0, 0, 1, 0]), []);
        assert_eq!(list(&[3, 0, 1, 0]), []);
        assert_eq!(list(&[200, 0, 1, 0]), []);
    }
}
