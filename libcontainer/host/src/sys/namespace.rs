//! unshare(2) and setns(2).

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// Moves the caller into new namespaces. `flags` may have `CLONE_NEW*` only.
///
/// # Errors
/// The errno of unshare(2).
pub fn unshare(flags: i32) -> Result<(), Errno> {
    debug_assert_eq!(flags & (libc::CLONE_FILES | libc::CLONE_FS | libc::CLONE_VM), 0);
    // SAFETY: with these flags alone the call changes neither the memory nor the descriptors of the process.
    match unsafe { libc::unshare(flags) } {
        0 => Ok(()),
        _ => Err(super::last_errno()),
    }
}

/// Joins the namespace `fd`. If `fd` is a pidfd (kernel 5.8), joins all namespaces of `types` of that process at once.
/// `CLONE_NEWPID` takes effect only for children that are made later.
///
/// # Errors
/// The errno of setns(2).
pub fn setns(fd: BorrowedFd<'_>, types: i32) -> Result<(), Errno> {
    // SAFETY: the call takes two integers; the borrow keeps the descriptor open.
    match unsafe { libc::setns(fd.as_raw_fd(), types) } {
        0 => Ok(()),
        _ => Err(super::last_errno()),
    }
}
