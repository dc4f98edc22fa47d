//! Signals by number, with the real-time signals, which rustix's safe type lacks (signal(7), pidfd_send_signal(2)).

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// Sets the default action of a signal (sigaction(2)), also of those that the C library reserves and refuses. The runtime's
/// caller may have ignored them, and the container's program would inherit that.
///
/// # Errors
/// EINVAL for a number that is no signal, and for SIGKILL and SIGSTOP.
pub fn default_action(signal: i32) -> Result<(), Errno> {
    /// The size of the kernel's `sigset_t`, in bytes.
    const SET: usize = 8;
    // larger than the kernel's struct on all architectures; all zero is SIG_DFL, no flags and an empty mask
    let action = [0_u64; 8];
    // SAFETY: the kernel reads one `struct sigaction`, which is shorter than the array. It writes nothing, because the old action
    // is null. SIG_DFL installs no handler, so no code runs in signal context. An invalid number is EINVAL.
    let result = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), std::ptr::null_mut::<u64>(), SET) };
    if result < 0 { Err(super::last_errno()) } else { Ok(()) }
}

/// Ignores a signal in this process (sigaction(2)).
///
/// # Errors
/// EINVAL for an invalid or reserved number.
pub fn ignore(signal: i32) -> Result<(), Errno> {
    // SAFETY: SIG_IGN installs no handler, so no code runs in signal context.
    if unsafe { libc::signal(signal, libc::SIG_IGN) } == libc::SIG_ERR { Err(super::last_errno()) } else { Ok(()) }
}

/// Sends a signal to the process of a pidfd (kernel 5.1). Signal 0 only checks that the process exists; a zombie does.
///
/// # Errors
/// ESRCH if the process was reaped; EPERM; EINVAL for an invalid number.
pub fn send(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the borrow keeps the descriptor open, the kernel checks the number, a null siginfo means that of kill(2), and the
    // flags must be 0. The call writes nothing.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0) };
    if result < 0 { Err(super::last_errno()) } else { Ok(()) }
}

/// Sets the default action of all `signals` (bit n-1 for signal n, as in `/proc/PID/status`), because ignored signals stay
/// ignored across execve(2).
///
/// # Errors
/// As [`default_action`].
pub fn reset(signals: u64) -> Result<(), Errno> {
    for signal in (1..=64).filter(|n| signals & (1 << (n - 1)) != 0) {
        default_action(signal)?;
    }
    Ok(())
}

/// The signal `number`: 1 to 64, with the real-time signals. `None` for another number.
pub fn from_number(number: i32) -> Option<rustix::process::Signal> {
    if !(1..=64).contains(&number) {
        return None;
    }
    // SAFETY: the kernel has a signal of this number. It is only passed to the kernel and never used for a handler, for which the
    // numbers that the C library reserves are forbidden.
    Some(unsafe { rustix::process::Signal::from_raw_unchecked(number) })
}

/// Makes the program of `command` start without blocked signals, because it would inherit the caller's signal mask.
pub fn unblock_in(command: &mut std::process::Command) {
    let unblock = || {
        nix::sys::signal::sigprocmask(nix::sys::signal::SigmaskHow::SIG_SETMASK, Some(&nix::sys::signal::SigSet::empty()), None)
            .map_err(std::io::Error::from)
    };
    // SAFETY: the closure runs between fork and exec. It makes one system call, allocates nothing and takes no lock.
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, unblock) };
}

/// Makes the program of `command` die with the calling process (PR_SET_PDEATHSIG(2const)).
pub fn end_with_us(command: &mut std::process::Command) {
    let us = rustix::process::getpid();
    let end = move || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // the parent is already dead, so no signal will come
        if rustix::process::getppid() == Some(us) { Ok(()) } else { Err(std::io::Error::from(Errno::SRCH)) }
    };
    // SAFETY: the closure runs between fork and exec. It makes two system calls, allocates nothing and takes no lock.
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, end) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn signals_reach_a_process_until_it_is_gone() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        assert_eq!(send(pidfd.as_fd(), 0), Ok(()));
        assert_eq!(send(pidfd.as_fd(), 1000), Err(Errno::INVAL));
        assert_eq!(send(pidfd.as_fd(), 35), Ok(()));
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(35));
        assert_eq!(send(pidfd.as_fd(), 0), Err(Errno::SRCH));
    }

    #[test]
    fn a_bad_number_is_an_error() {
        assert_eq!(default_action(1000), Err(Errno::INVAL));
        assert_eq!(default_action(libc::SIGCHLD), Ok(()));
        assert_eq!(default_action(33), Ok(()), "one that the C library keeps for itself");
    }
}
