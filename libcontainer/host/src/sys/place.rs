//! Descriptors at fixed numbers, for a program that is about to be executed (dup2(2)).

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;

use super::close_range;

/// Puts `fds` at 3, 4 and so on, open across execve, and closes all others above them. Only for a fresh child that executes
/// or exits next: what owned a descriptor there no longer does.
pub fn from_three(fds: Vec<OwnedFd>) -> Result<(), Errno> {
    let end = 3 + fds.len() as i32;
    // out of the way first: one's place may be another's number
    let high = fds.iter().map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, end)).collect::<Result<Vec<_>, _>>()?;
    std::mem::forget(fds);
    for (number, fd) in (3..end).zip(&high) {
        // SAFETY: both are numbers; who owned the target is in the memory of a child that is about to execve or exit, and
        // was told so.
        if unsafe { libc::dup2(fd.as_raw_fd(), number) } < 0 {
            return Err(super::last_errno());
        }
    }
    std::mem::forget(high);
    let keep: Vec<u32> = (3..end as u32).collect();
    close_range::close_all_but(&keep)
}
