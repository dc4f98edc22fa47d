//! close_range(2).

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

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

/// Up to which number [`leave`] leaves descriptors open; 0 in every process but a child of ours.
static LEAVE_BELOW: AtomicU32 = AtomicU32::new(0);
/// Those that it left open, a bit each.
static LEFT: AtomicU64 = AtomicU64::new(0);

/// Lets [`leave`] leave descriptors open in the children that are cloned next: `limit` is the number of open files they may
/// have.
pub fn allow_leaving(limit: u64) {
    // up to 64 the kernel's table of them need not grow
    LEAVE_BELOW.store(u32::try_from(limit / 2).unwrap_or(u32::MAX).min(60), Ordering::Relaxed);
}

/// Is done with a descriptor: init leaves the first of them open, for it closes all at once before it waits, and when there
/// are many, which is one call instead of one each.
pub fn leave(fd: OwnedFd) {
    let number = fd.as_raw_fd() as u32;
    if number < LEAVE_BELOW.load(Ordering::Relaxed) {
        LEFT.fetch_or(1 << number, Ordering::Relaxed);
        std::mem::forget(fd);
        return;
    }
    drop(fd);
    let mut left = LEFT.swap(0, Ordering::Relaxed);
    while left != 0 {
        let first = left.trailing_zeros();
        let next = first + (left >> first).trailing_ones();
        // SAFETY: each of these was forgotten above; a descriptor in use between them has no bit.
        let _ = unsafe { close(first, next - 1) };
        left &= u64::MAX.checked_shl(next).unwrap_or(0);
    }
}

/// Closes every descriptor above stderr but those of `keep` (sorted). Only for a fresh child, which uses none but
/// those of its plan.
pub fn close_all_but(keep: &[u32]) -> Result<(), Errno> {
    LEFT.store(0, Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_closed_when_there_is_much_of_it() {
        // a file that no other test opens
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || std::fs::File::open(file.path()).map(OwnedFd::from).unwrap();
        let is_open = |number: i32| std::fs::read_link(format!("/proc/self/fd/{number}")).is_ok_and(|path| path == file.path());
        allow_leaving(u64::MAX);
        let mut kept = Vec::new();
        let mut left = Vec::new();
        let beyond = loop {
            let fd = open();
            match fd.as_raw_fd() {
                number if number >= 60 => break fd,
                number if number % 7 == 0 => kept.push(fd),
                number => {
                    left.push(number);
                    leave(fd);
                }
            }
        };
        assert!(left.len() > 20 && left.iter().all(|number| is_open(*number)));
        leave(beyond);
        LEAVE_BELOW.store(0, Ordering::Relaxed);
        assert!(kept.iter().all(|fd| is_open(fd.as_raw_fd())));
        assert!(!left.iter().any(|number| is_open(*number)));
    }
}
