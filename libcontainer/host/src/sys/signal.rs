//! Signals by number, the real-time ones too, which rustix has no safe type for (signal(7), pidfd_send_signal(2)).

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// Sets the default action of a signal for this process (sigaction(2)). Of any signal: the C library refuses to touch the
/// two or three that it keeps for itself, but a caller may have ignored them, and then so would the program.
pub fn default_action(signal: i32) -> Result<(), Errno> {
    /// The kernel's `sigset_t`, in bytes.
    const SET: usize = 8;
    // larger than the kernel's struct on any architecture; all zero is SIG_DFL, no flags, an empty mask
    let action = [0_u64; 8];
    // SAFETY: the kernel reads one `struct sigaction` of its own, which is shorter than the array, and writes nothing, as
    // the old action is null. SIG_DFL installs no handler, so no code of ours runs in signal context; a bad number is
    // EINVAL.
    let result = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), std::ptr::null_mut::<u64>(), SET) };
    if result < 0 { Err(super::last_errno()) } else { Ok(()) }
}

/// Ignores a signal in this process (sigaction(2)).
pub fn ignore(signal: i32) -> Result<(), Errno> {
    // SAFETY: SIG_IGN installs no handler, so no code of ours runs in signal context.
    if unsafe { libc::signal(signal, libc::SIG_IGN) } == libc::SIG_ERR { Err(super::last_errno()) } else { Ok(()) }
}

/// Sends a signal to the process of a pidfd; 0 only asks whether it is there (ESRCH: gone, or a zombie no more).
pub fn send(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the call takes a descriptor that the borrow keeps open, a number that it checks, a siginfo that may be
    // null (then it is that of kill(2)) and flags that must be 0; it writes nothing.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0) };
    if result < 0 { Err(super::last_errno()) } else { Ok(()) }
}

/// Sets the dispositions of `signals` (a bit mask, bit n-1 for signal n, as in `/proc/PID/status`) to default: a program
/// inherits what is ignored (execve(2)).
pub fn reset(signals: u64) -> Result<(), Errno> {
    for signal in (1..=64).filter(|n| signals & (1 << (n - 1)) != 0) {
        default_action(signal)?;
    }
    Ok(())
}

/// The signal of that number: 1 to 64, real-time ones included.
pub fn from_number(number: i32) -> Option<rustix::process::Signal> {
    if !(1..=64).contains(&number) {
        return None;
    }
    // SAFETY: the number is one of the kernel's, and it is only ever passed on to the kernel: never used to install a
    // handler, which is what the numbers that the C library reserves must not be used for.
    Some(unsafe { rustix::process::Signal::from_raw_unchecked(number) })
}

/// Makes a program that `command` starts begin with no signal blocked: it would inherit what its starter blocks.
pub fn unblock_in(command: &mut std::process::Command) {
    let unblock = || {
        nix::sys::signal::sigprocmask(nix::sys::signal::SigmaskHow::SIG_SETMASK, Some(&nix::sys::signal::SigSet::empty()), None)
            .map_err(std::io::Error::from)
    };
    // SAFETY: the closure runs between fork and exec and makes one system call: it allocates nothing and takes no lock.
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, unblock) };
}

/// Lets a program that `command` starts be killed when the calling process dies (PR_SET_PDEATHSIG(2const)).
pub fn end_with_us(command: &mut std::process::Command) {
    let us = rustix::process::getpid();
    let end = move || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // dead already: no signal will come
        if rustix::process::getppid() == Some(us) { Ok(()) } else { Err(std::io::Error::from(Errno::SRCH)) }
    };
    // SAFETY: the closure runs between fork and exec and makes two system calls: it allocates nothing and takes no lock.
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
