//! The sync socket between the runtime and a container's first process (or an exec'd one), until that runs its program.
//!
//! ```text
//!   init                                       runtime
//!     |  <--------------- Mapped ---------------  |  only in a user namespace
//!     |  -------------- Unshared -------------->  |  only there, if network devices wait for its network
//!     |  <-------------- Released --------------  |  only if it could not be cloned into its cgroups
//!   namespaces, mounts, devices                   |
//!     |  -------- SourceDue (fd, path) -------->  |  any number, only in a user namespace: what its root may not reach
//!     |  <------------- Source (fd) ------------  |
//!     |  ----------- IdMapDue (fd) ------------>  |  any number, only in a user namespace
//!     |  <------------- IdsMapped --------------  |
//!     |  -------------- HooksDue -------------->  |  only if there are hooks before the pivot or in init
//!     |  <------------- HooksDone --------------  |  with init's pid on the host
//!   createContainer hooks, pivot, terminal        |
//!     |  ------------- Terminal (fd) ---------->  |  only if it has one
//!     |  -------------- LimitsDue ------------->  |  only in a user namespace, if there are limits
//!     |  <------------- LimitsSet --------------  |
//!     |  ------------- Listener (fd) ---------->  |  only if the filter has a listener
//!     |  --------------- Ready ---------------->  |  writes the record and the pid file
//!     |  <------------- Recorded ---------------  |  init of a container only
//!   waits at the gate
//!     |  --- Failed(text) / Warning(text) ----->  any time before; so may lines for the debug log
//! ```
//!
//! One SOCK_SEQPACKET pair (unix(7)): a message is a datagram. Both sides know from the plan which of them occur. The end of the
//! stream means that the peer died.

use std::cell::Cell;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::error::{Doing, Error, Kind, Result};
use crate::rootfs::{Host, IdMapped, Map, open_root};
use masu_host::fds::{self, send_bytes};

/// The longest text that is sent; errors are cut there.
const MAX_TEXT: usize = 4000;

/// The first byte of a line for the debug log, which is no message: nobody waits for it.
const DEBUG: u8 = b'g';

/// What is said.
#[derive(Debug)]
pub(crate) enum Message {
    /// Of the stage: init is there.
    Cloned {
        pid: i32,
        pidfd: OwnedFd,
    },
    Mapped,
    Unshared,
    Released,
    /// Init cannot get at this path of the host, as seen from this root.
    SourceDue {
        path: String,
        /// Whether a symbolic link there is meant itself.
        nofollow: bool,
        root: OwnedFd,
    },
    Source(OwnedFd),
    /// The ids of this mount, which only the runtime may map.
    IdMapDue {
        id_map: IdMapped,
        mount: OwnedFd,
    },
    IdsMapped,
    LimitsDue,
    LimitsSet,
    HooksDue,
    HooksDone {
        pid: i32,
    },
    Terminal(OwnedFd),
    Listener(OwnedFd),
    Ready,
    Recorded,
    Warning(String),
    Failed(Error),
}

/// One end.
#[derive(Debug)]
pub(crate) struct Channel {
    fd: OwnedFd,
    /// Whether `Released` has come while something else was waited for: the runtime says it when it is so far, not when
    /// it is asked.
    released: Cell<bool>,
}

impl Channel {
    /// Both ends.
    pub(crate) fn pair() -> Result<(Channel, Channel)> {
        let (a, b) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .doing(|| "make the sync socket")?;
        let end = |fd| Channel { fd, released: Cell::new(false) };
        Ok((end(a), end(b)))
    }

    /// The descriptor's number, for the list of those that a child keeps.
    pub(crate) fn number(&self) -> u32 {
        self.fd.as_raw_fd() as u32
    }

    /// Sends a message without a descriptor.
    pub(crate) fn send(&self, message: &Message) -> Result<()> {
        let mut bytes = Vec::with_capacity(64);
        let tag = match message {
            Message::Cloned { .. } => b'c',
            Message::Mapped => b'm',
            Message::Unshared => b'u',
            Message::SourceDue { .. } => b'o',
            Message::Source(_) => b'p',
            Message::IdMapDue { .. } => b'i',
            Message::IdsMapped => b'j',
            Message::LimitsDue => b'x',
            Message::LimitsSet => b'y',
            Message::Released => b'l',
            Message::HooksDue => b'h',
            Message::HooksDone { .. } => b'd',
            Message::Terminal(_) => b't',
            Message::Listener(_) => b's',
            Message::Ready => b'r',
            Message::Recorded => b'w',
            Message::Warning(_) => b'n',
            Message::Failed(_) => b'f',
        };
        bytes.push(tag);
        let fd = match message {
            Message::Terminal(fd) | Message::Listener(fd) | Message::Source(fd) => Some(fd.as_fd()),
            Message::Cloned { pid, pidfd } => {
                bytes.extend(pid.to_le_bytes());
                Some(pidfd.as_fd())
            }
            Message::IdMapDue { id_map, mount } => {
                // no list of the plan is that long
                let place = if let Map::Listed(place) = id_map.map { u32::try_from(place).unwrap_or(u32::MAX) } else { u32::MAX };
                bytes.push(id_map.recursive.into());
                bytes.extend(place.to_le_bytes());
                Some(mount.as_fd())
            }
            Message::SourceDue { path, nofollow, root } => {
                bytes.push(u8::from(*nofollow));
                bytes.extend(path.as_bytes());
                Some(root.as_fd())
            }
            Message::HooksDone { pid } => {
                bytes.extend(pid.to_le_bytes());
                None
            }
            Message::Warning(text) => {
                bytes.extend(cut(text).as_bytes());
                None
            }
            Message::Failed(error) => {
                bytes.extend(error.errno().map_or(0, Errno::raw_os_error).to_le_bytes());
                bytes.extend(error.kind().name().as_bytes());
                bytes.push(0);
                bytes.extend(cut(error.text()).as_bytes());
                None
            }
            _ => None,
        };
        send_bytes(self.fd.as_fd(), &bytes, fd).doing(|| "tell the other side of the sync socket")
    }

    /// Waits for a message; `None` when the peer is gone. Lines for the debug log go there on the way.
    pub(crate) fn receive(&self) -> Result<Option<Message>> {
        let mut bytes = [0u8; libc::PATH_MAX as usize + 64];
        let (n, fd) = loop {
            match fds::receive(self.fd.as_fd(), &mut bytes) {
                // the peer died with something of ours unread; what it said before is still there to be read
                Err(Errno::CONNRESET) => {}
                result => break result.doing(|| "listen on the sync socket")?,
            }
        };
        let broken = || Error::new(Kind::Internal, "a message of the sync socket is damaged");
        let (Some(tag), body) = (bytes[..n].first(), bytes.get(1..n).unwrap_or_default()) else { return Ok(None) };
        let number = || body.try_into().map(i32::from_le_bytes).map_err(|_| broken());
        Ok(Some(match tag {
            b'c' => Message::Cloned { pid: number()?, pidfd: fd.ok_or_else(broken)? },
            b'm' => Message::Mapped,
            b'u' => Message::Unshared,
            b'o' => {
                let (nofollow, path) = body.split_first().ok_or_else(broken)?;
                let path = String::from_utf8_lossy(path).into_owned();
                Message::SourceDue { path, nofollow: *nofollow != 0, root: fd.ok_or_else(broken)? }
            }
            b'p' => Message::Source(fd.ok_or_else(broken)?),
            b'i' => {
                let (recursive, place) = body.split_first().ok_or_else(broken)?;
                let place = u32::from_le_bytes(place.try_into().map_err(|_| broken())?);
                let map = if place == u32::MAX { Map::Container } else { Map::Listed(place as usize) };
                Message::IdMapDue { id_map: IdMapped { map, recursive: *recursive != 0 }, mount: fd.ok_or_else(broken)? }
            }
            b'j' => Message::IdsMapped,
            b'x' => Message::LimitsDue,
            b'y' => Message::LimitsSet,
            b'l' => Message::Released,
            b'h' => Message::HooksDue,
            b'd' => Message::HooksDone { pid: number()? },
            b't' => Message::Terminal(fd.ok_or_else(broken)?),
            b's' => Message::Listener(fd.ok_or_else(broken)?),
            b'r' => Message::Ready,
            b'w' => Message::Recorded,
            b'n' => Message::Warning(String::from_utf8_lossy(body).into_owned()),
            &DEBUG => {
                log::debug!("{}", String::from_utf8_lossy(body));
                return self.receive();
            }
            b'f' => {
                let (errno, rest) = body.split_at_checked(4).ok_or_else(broken)?;
                let errno = i32::from_le_bytes(errno.try_into().map_err(|_| broken())?);
                let end = rest.iter().position(|&b| b == 0).ok_or_else(broken)?;
                let kind = Kind::from_name(&String::from_utf8_lossy(&rest[..end]));
                Message::Failed(Error::reported(kind, (errno != 0).then_some(errno), String::from_utf8_lossy(&rest[end + 1..])))
            }
            _ => return Err(broken()),
        }))
    }

    /// A line for the debug log, of a stage that the process has come to; nothing unless that log is on. Names in these
    /// lines are runc's where scripts look for them: `nsexec` is the stage between the clone and the namespaces, whoever
    /// wrote it.
    pub(crate) fn stage(&self, text: impl FnOnce() -> String) {
        if log::max_level() >= log::LevelFilter::Debug {
            // a peer that is gone is met by the next message that matters
            let _ = send_bytes(self.fd.as_fd(), &[&[DEBUG], cut(&text()).as_bytes()].concat(), None);
        }
    }

    /// The failure that the peer has told before it died, if it did; of one that `is_dead`, also what is still on its way.
    pub(crate) fn failure(&self, is_dead: bool) -> Option<Error> {
        // of who is dead the end of the stream comes soon; another may never say anything more
        if !is_dead && rustix::io::ioctl_fionbio(&self.fd, true).is_err() {
            return None;
        }
        while let Ok(Some(message)) = self.receive() {
            if let Message::Failed(error) = message {
                return Some(error);
            }
        }
        None
    }

    /// Waits for one particular message; anything else but `Released`, or the peer's death, is an error.
    pub(crate) fn expect<T>(&self, what: &str, pick: impl FnOnce(Message) -> Option<T>) -> Result<T> {
        let mut message = self.receive()?;
        if let Some(Message::Released) = message {
            self.released.set(true);
            message = self.receive()?;
        }
        message.and_then(pick).ok_or_else(|| gone(what))
    }

    /// Waits until the runtime has said `Released`.
    pub(crate) fn expect_released(&self) -> Result<()> {
        match self.released.get() || matches!(self.receive()?, Some(Message::Released)) {
            true => Ok(()),
            false => Err(gone("released")),
        }
    }
}

/// Init's side: it asks and waits.
impl Host for Channel {
    fn open_source(&self, path: &str, nofollow: bool) -> Result<OwnedFd> {
        let root = open_root().doing(|| "open /")?;
        self.send(&Message::SourceDue { path: path.to_owned(), nofollow, root })?;
        self.expect("source", |m| if let Message::Source(fd) = m { Some(fd) } else { None })
    }

    fn map_ids(&self, id_map: IdMapped, mount: OwnedFd) -> Result<()> {
        self.send(&Message::IdMapDue { id_map, mount })?;
        self.expect("ids mapped", |m| if let Message::IdsMapped = m { Some(()) } else { None })
    }
}

fn gone(what: &str) -> Error {
    Error::new(Kind::Internal, format!("the runtime ended before it said {what:?}"))
}

fn cut(text: &str) -> &str {
    let end = (0..=text.len().min(MAX_TEXT)).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_arrives_as_sent() {
        let (a, b) = Channel::pair().unwrap();
        let through = |message: Message| {
            a.send(&message).unwrap();
            b.receive().unwrap().unwrap()
        };
        assert!(matches!(through(Message::HooksDone { pid: 77 }), Message::HooksDone { pid: 77 }));
        assert!(matches!(through(Message::Warning("x".into())), Message::Warning(text) if text == "x"));
        let fd = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
        assert!(matches!(through(Message::Terminal(fd)), Message::Terminal(_)));
        for n in [0, 65_535, 65_536, 1 << 20] {
            let error = Error::from(Errno::PERM).context("ä".repeat(n));
            let Message::Failed(got) = through(Message::Failed(error)) else { panic!() };
            assert_eq!((got.errno(), got.kind()), (Some(Errno::PERM), Kind::Os));
            assert!(got.text().len() <= MAX_TEXT);
        }
        for map in [Map::Listed(3), Map::Container] {
            let id_map = IdMapped { map, recursive: map == Map::Container };
            let mount = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
            let through = through(Message::IdMapDue { id_map, mount });
            assert!(matches!(through, Message::IdMapDue { id_map: got, .. } if got == id_map));
        }
        for message in [Message::Released, Message::HooksDone { pid: 5 }] {
            a.send(&message).unwrap();
        }
        assert_eq!(b.expect("hooks done", |m| if let Message::HooksDone { pid } = m { Some(pid) } else { None }).unwrap(), 5);
        b.expect_released().unwrap();
        drop(a);
        assert!(b.expect_released().is_ok() && b.receive().unwrap().is_none());
    }
}
