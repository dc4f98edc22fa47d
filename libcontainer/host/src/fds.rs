//! Unix sockets that carry descriptors (unix(7), SCM_RIGHTS).

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketAddrUnix, SocketFlags, SocketType,
};

use crate::error::{Doing, Error, Kind, Result};

/// Connects to the unix stream socket at `path`. A path longer than an address can hold (108 bytes, unix(7)) is reached
/// through `/proc/self/fd`.
///
/// # Errors
/// The errno of open(2), socket(2) or connect(2), with the path.
pub fn connect(path: &Path) -> Result<OwnedFd> {
    connect_with(path, SocketFlags::empty())
}

/// Connects like [`connect`], but without blocking, also for later calls on the socket.
///
/// # Errors
/// EAGAIN if the queue of the listener is full; otherwise as for [`connect`].
pub fn connect_at_once(path: &Path) -> Result<OwnedFd> {
    connect_with(path, SocketFlags::NONBLOCK)
}

fn connect_with(path: &Path, flags: SocketFlags) -> Result<OwnedFd> {
    let doing = || format!("dial unix {}: connect", path.display());
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags | SocketFlags::CLOEXEC, None).doing(doing)?;
    let (address, _file) = match SocketAddrUnix::new(path) {
        Ok(address) => (address, None),
        Err(_) => {
            let fd = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).doing(doing)?;
            let own = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
            (SocketAddrUnix::new(own).doing(doing)?, Some(fd))
        }
    };
    loop {
        match rustix::net::connect(&socket, &address) {
            Err(Errno::INTR) => {}
            result => return result.map(|()| socket).doing(doing),
        }
    }
}

/// Sends a descriptor and a text in one message.
///
/// # Errors
/// EPIPE if the peer closed the socket, with that explanation; otherwise the errno of sendmsg(2).
pub fn send_fd(socket: &OwnedFd, text: &str, fd: &OwnedFd) -> Result<()> {
    send_bytes(socket.as_fd(), text.as_bytes(), Some(fd.as_fd())).map_err(|e| match e {
        rustix::io::Errno::PIPE => Error::new(Kind::Os, "the other side closed the socket: broken pipe"),
        e => e.into(),
    })
}

/// Sends one datagram with at most one descriptor (sendmsg(2)). On a stream use [`send_all`].
///
/// # Errors
/// EPIPE if the peer is gone, without SIGPIPE; otherwise the errno of sendmsg(2), but never EINTR.
pub fn send_bytes(socket: BorrowedFd<'_>, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    send_some(socket, bytes, fd).map(drop)
}

/// Sends `bytes` on a stream, in several calls if the socket takes only a part. The descriptor goes with the first part.
///
/// # Errors
/// As for [`send_bytes`]. A part of the bytes may have been sent.
pub fn send_all(socket: BorrowedFd<'_>, mut bytes: &[u8], mut fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let n = send_some(socket, bytes, fd.take())?;
        bytes = bytes.get(n..).unwrap_or_default();
    }
    Ok(())
}

fn send_some(socket: BorrowedFd<'_>, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = fd.as_slice();
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    loop {
        match rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Receives into `bytes` (recvmsg(2)). It returns the number of bytes, 0 at the end of a stream, and the first descriptor of
/// the message, close-on-exec.
///
/// # Errors
/// The errno of recvmsg(2), but never EINTR.
pub fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<(usize, Option<OwnedFd>), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            result => break result?,
        }
    };
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok((received.bytes, fd))
}
