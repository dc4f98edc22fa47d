//! close_range(2).

use rustix::io::Errno;

/// Closes every descriptor from `first` to `last`.
///
/// # Safety
/// Nobody may use an owned descriptor of that range afterwards: the caller leaks or forgets them, as a process does
/// that is about to execve.
unsafe fn close(first: u32, last: u32) -> Result<(), Errno> {
    // SAFETY: the call reads no memory; the caller vouches for the descriptors.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
        0 => Ok(()),
        _ => Err(super::last_errno()),
    }
}

/// Closes every descriptor from `first` on. Only for a process that is about to execve or exit: owned descriptors of
/// that range are dead afterwards, and are not to be used or dropped.
pub(crate) fn close_from(first: u32) -> Result<(), Errno> {
    // SAFETY: callers are the last lines before execve; what follows is execve or _exit, which run no destructor.
    unsafe { close(first, u32::MAX) }
}

/// Closes every descriptor above stderr but those of `keep` (sorted). Only for a fresh child, which uses none but
/// those of its plan.
pub(crate) fn close_all_but(keep: &[u32]) -> Result<(), Errno> {
    let mut first = 3;
    for &fd in keep.iter().filter(|&&fd| fd >= 3) {
        if fd > first {
            // SAFETY: the child runs no destructor of the parent's values: it never returns from its own story.
            unsafe { close(first, fd - 1)? };
        }
        first = fd + 1;
    }
    // SAFETY: as above.
    unsafe { close(first, u32::MAX) }
}

/// Marks every descriptor from `first` on close-on-exec (kernel 5.11).
pub fn set_cloexec_from(first: u32) -> Result<(), Errno> {
    // SAFETY: the call reads no memory and closes nothing now.
    match unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) } {
        0 => Ok(()),
        _ => Err(super::last_errno()),
    }
}
