//! close_range(2): kernel 5.9, and 5.11 for CLOSE_RANGE_CLOEXEC.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::io::Errno;

/// Closes the descriptors from `first` to `last`, both included.
///
/// # Safety
/// No owned descriptor of that range may be used or dropped afterwards.
unsafe fn close(first: u32, last: u32) -> Result<(), Errno> {
    // SAFETY: the call accesses no memory; the caller promises the rest.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
        0 => Ok(()),
        _ => Err(super::last_errno()),
    }
}

/// [`leave`] does not close descriptors below this number. It is 0 unless [`allow_leaving`] was called.
static LEAVE_BELOW: AtomicU32 = AtomicU32::new(0);
/// The descriptors that [`leave`] left open, one bit each.
static LEFT: AtomicU64 = AtomicU64::new(0);

/// Lets [`leave`] keep descriptors open in the calling process, a container's init. `limit` is its RLIMIT_NOFILE.
pub fn allow_leaving(limit: u64) {
    // the kernel's table of descriptors starts with 64 entries
    LEAVE_BELOW.store(u32::try_from(limit / 2).unwrap_or(u32::MAX).min(60), Ordering::Relaxed);
}

/// Gives up a descriptor. It is closed at once, unless the process has called [`allow_leaving`]. Then descriptors are collected
/// and closed together, with one system call for each range of numbers: by this function, or when init closes all others.
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
        // SAFETY: each of these was forgotten above; a descriptor in use has no bit.
        let _ = unsafe { close(first, next - 1) };
        left &= u64::MAX.checked_shl(next).unwrap_or(0);
    }
}

/// Closes all descriptors above stderr except `keep`, which must be sorted. Only for a new child that uses no others.
///
/// # Errors
/// The errno of close_range(2).
pub fn close_all_but(keep: &[u32]) -> Result<(), Errno> {
    LEFT.store(0, Ordering::Relaxed);
    let mut first = 3;
    for &fd in keep.iter().filter(|&&fd| fd >= 3) {
        if fd > first {
            // SAFETY: the child never returns, so it runs no destructor of the parent's descriptors.
            unsafe { close(first, fd - 1)? };
        }
        first = fd + 1;
    }
    // SAFETY: as above.
    unsafe { close(first, u32::MAX) }
}

/// Marks all descriptors from `first` on as close-on-exec (kernel 5.11).
///
/// # Errors
/// The errno of close_range(2).
pub fn set_cloexec_from(first: u32) -> Result<(), Errno> {
    // SAFETY: the call accesses no memory and closes nothing now.
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
        // no other test opens this file
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
