//! The sync socket between the runtime and a container's first process (or an exec'd one), until that runs its program.
//!
//! ```text
//!   init                                       runtime
//!     |  <-------------- Released --------------  |  only if it could not be cloned into its cgroups
//!   namespaces, mounts, devices                   |
//!     |  -------------- HooksDue -------------->  |  only if there are hooks before the pivot or in init
//!     |  <------------- HooksDone --------------  |  with init's pid on the host
//!   createContainer hooks, pivot, terminal        |
//!     |  ------------- Terminal (fd) ---------->  |  only if it has one
//!     |  ------------- Listener (fd) ---------->  |  only if the filter has a listener
//!     |  --------------- Ready ---------------->  |  writes the record and the pid file
//!     |  <------------- Recorded ---------------  |  init of a container only
//!   waits at the gate
//!     |  --- Failed(text) / Warning(text) ----->  any time before
//! ```
//!
//! One SOCK_SEQPACKET pair (unix(7)): a message is a datagram. Both sides know from the plan which of them occur. The end of the
//! stream means that the peer died.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType,
};

use crate::error::{Doing, Error, Kind, Result};

/// The longest text that is sent; errors are cut there.
const MAX_TEXT: usize = 4000;

/// What is said.
#[derive(Debug)]
pub(crate) enum Message {
    Released,
    HooksDue,
    HooksDone { pid: i32 },
    Terminal(OwnedFd),
    Listener(OwnedFd),
    Ready,
    Recorded,
    Warning(String),
    Failed(Error),
}

/// One end.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    /// Both ends.
    pub(crate) fn pair() -> Result<(Channel, Channel)> {
        let (a, b) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .doing(|| "make the sync socket")?;
        Ok((Channel(a), Channel(b)))
    }

    /// The descriptor's number, for the list of those that a child keeps.
    pub(crate) fn number(&self) -> u32 {
        self.0.as_raw_fd() as u32
    }

    /// Sends a message without a descriptor.
    pub(crate) fn send(&self, message: &Message) -> Result<()> {
        let mut bytes = Vec::with_capacity(64);
        let tag = match message {
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
            Message::Terminal(fd) | Message::Listener(fd) => Some(fd.as_fd()),
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
        send_bytes(self.0.as_fd(), &bytes, fd).doing(|| "tell the other side of the sync socket")
    }

    /// Waits for a message; `None` when the peer is gone.
    pub(crate) fn receive(&self) -> Result<Option<Message>> {
        let mut bytes = [0u8; MAX_TEXT + 64];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let n = loop {
            match rustix::net::recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Ok(received) => break received.bytes,
                // CONNRESET: the peer died with something of ours unread; what it said before is still there to be read
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(e) => return Err(e).doing(|| "listen on the sync socket"),
            }
        };
        let fd = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let broken = || Error::new(Kind::Internal, "a message of the sync socket is damaged");
        let (Some(tag), body) = (bytes[..n].first(), bytes.get(1..n).unwrap_or_default()) else { return Ok(None) };
        Ok(Some(match tag {
            b'l' => Message::Released,
            b'h' => Message::HooksDue,
            b'd' => Message::HooksDone { pid: i32::from_le_bytes(body.try_into().map_err(|_| broken())?) },
            b't' => Message::Terminal(fd.ok_or_else(broken)?),
            b's' => Message::Listener(fd.ok_or_else(broken)?),
            b'r' => Message::Ready,
            b'w' => Message::Recorded,
            b'n' => Message::Warning(String::from_utf8_lossy(body).into_owned()),
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

    /// The failure that the peer told before it died, if it did.
    pub(crate) fn failure(&self) -> Option<Error> {
        // the end of the stream comes soon: a peer that failed says so and exits
        while let Ok(Some(message)) = self.receive() {
            if let Message::Failed(error) = message {
                return Some(error);
            }
        }
        None
    }

    /// Waits for one particular message; anything else, or the peer's death, is an error.
    pub(crate) fn expect<T>(&self, what: &str, pick: impl FnOnce(Message) -> Option<T>) -> Result<T> {
        let gone = || Error::new(Kind::Internal, format!("the runtime ended before it said {what:?}"));
        self.receive()?.and_then(pick).ok_or_else(gone)
    }
}

/// sendmsg(2) of one datagram or, on a stream, one write, with at most one descriptor. A peer that is gone is EPIPE,
/// never SIGPIPE.
pub(crate) fn send_bytes(socket: BorrowedFd<'_>, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = fd.as_slice();
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    loop {
        match rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            result => return result.map(drop),
        }
    }
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
        drop(a);
        assert!(b.receive().unwrap().is_none());
    }
}
