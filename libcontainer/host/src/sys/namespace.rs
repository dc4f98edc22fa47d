//! unshare(2) and setns(2).

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// Gives the caller fresh namespaces (`CLONE_NEW*` flags only).
pub fn unshare(flags: i32) -> Result<(), Errno> {
    debug_assert_eq!(flags & (libc::CLONE_FILES | libc::CLONE_FS | libc::CLONE_VM), 0);
    // SAFETY: with namespace flags alone the call touches neither memory nor descriptors of the process.
    match unsafe { libc::unshare(flags) } {
        0 => Ok(()),
        _ => Err(super::last_errno()),
    }
}

/// Joins the namespace that `fd` is, or, when it is a pidfd (kernel 5.8), all namespaces of `types` of that process at
/// once. `CLONE_NEWPID` takes effect for children only.
pub fn setns(fd: BorrowedFd<'_>, types: i32) -> Result<(), Errno> {
    // SAFETY: the call takes two integers, of which the descriptor is open.
    match unsafe { libc::setns(fd.as_raw_fd(), types) } {
        0 => Ok(()),
        _ => Err(super::last_errno()),
    }
}
