//! Descriptors at fixed numbers, for a program that is executed next (dup2(2)).

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;

use super::close_range;

/// Puts `fds` at 3, 4 and so on, without close-on-exec, and closes all higher ones. Only for a new child that executes or exits
/// next, because former owners of these numbers lose their descriptors.
///
/// # Errors
/// The errno of fcntl(2), dup2(2) or close_range(2).
pub fn from_three(fds: Vec<OwnedFd>) -> Result<(), Errno> {
    let end = 3 + fds.len() as i32;
    // first to higher numbers, because a target number may be in use by another of them
    let high = fds.iter().map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, end)).collect::<Result<Vec<_>, _>>()?;
    std::mem::forget(fds);
    for (number, fd) in (3..end).zip(&high) {
        // SAFETY: both are numbers. A former owner of the target is in the memory of a child that executes or exits next, so its
        // destructor does not run.
        if unsafe { libc::dup2(fd.as_raw_fd(), number) } < 0 {
            return Err(super::last_errno());
        }
    }
    std::mem::forget(high);
    let keep: Vec<u32> = (3..end as u32).collect();
    close_range::close_all_but(&keep)
}
