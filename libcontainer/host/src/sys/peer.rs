//! The credentials of a peer of a unix socket (unix(7), SO_PEERCRED). rustix's type excludes the pid 0, but a peer outside of
//! the caller's pid namespace has that pid.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// The user id of the peer at the time of its connect(2).
///
/// # Errors
/// The errno of getsockopt(2).
pub fn uid(socket: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut peer = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, the size of the struct, whose fields are plain integers.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &raw mut length) };
    if result < 0 { Err(super::last_errno()) } else { Ok(peer.uid) }
}
