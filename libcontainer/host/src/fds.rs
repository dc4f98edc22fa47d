//! Descriptors over unix sockets (unix(7), SCM_RIGHTS).

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::{Doing, Error, Kind, Result};

/// Connects to a unix socket by path, also one longer than an address can hold (108 bytes, unix(7)).
pub fn connect(path: &Path) -> Result<OwnedFd> {
    let doing = || format!("dial unix {}: connect", path.display());
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).doing(doing)?;
    let address = match SocketAddrUnix::new(path) {
        Ok(address) => address,
        Err(_) => {
            let fd = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).doing(doing)?;
            let own = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
            let address = SocketAddrUnix::new(own).doing(doing)?;
            rustix::net::connect(&socket, &address).doing(doing)?;
            return Ok(socket);
        }
    };
    rustix::net::connect(&socket, &address).doing(doing)?;
    Ok(socket)
}

/// Sends a descriptor and a text in one message.
pub fn send_fd(socket: &OwnedFd, text: &str, fd: &OwnedFd) -> Result<()> {
    send_bytes(socket.as_fd(), text.as_bytes(), Some(fd.as_fd())).map_err(|e| match e {
        rustix::io::Errno::PIPE => Error::new(Kind::Os, "the other side closed the socket: broken pipe"),
        e => e.into(),
    })
}

/// sendmsg(2) of one datagram or, on a stream, one write, with at most one descriptor. A peer that is gone is EPIPE,
/// never SIGPIPE.
pub fn send_bytes(socket: BorrowedFd<'_>, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
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
