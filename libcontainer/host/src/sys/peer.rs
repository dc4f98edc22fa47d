//! Who is at the other end of a unix socket (unix(7), SO_PEERCRED). rustix has this with a pid that may not be 0, but it is 0
//! for a peer outside of our pid namespace.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// The user id that the peer had when it connected.
pub fn uid(socket: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut peer = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, the size of the struct, whose fields are plain integers.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &raw mut length) };
    if result < 0 { Err(super::last_errno()) } else { Ok(peer.uid) }
}
