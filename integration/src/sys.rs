//! System calls without a safe wrapper: `wait4` with resource usage, `close` by number, ignoring a signal, and the payload's
//! calls by number. This is the one file of the package with unsafe code.
//!
//! Sources: wait4(2), close(2), signal(2), syscall(2).
#![expect(unsafe_code, reason = "the calls have no safe wrapper in rustix or nix")]

use std::io;

/// The resource usage of an exited process and of the children that it waited for, from `wait4`.
#[derive(Debug, Default, Clone, Copy)]
pub struct Usage {
    /// The wait status of wait(2).
    pub status: i32,
    /// Peak resident set, in KiB.
    pub max_rss: i64,
    /// The number of page faults without I/O.
    pub minor_faults: i64,
    /// User and system time, in microseconds.
    pub cpu: i64,
}

impl Usage {
    /// The exit code, or 128 + n if signal n ended the process.
    pub fn code(&self) -> i32 {
        if libc::WIFSIGNALED(self.status) { 128 + libc::WTERMSIG(self.status) } else { libc::WEXITSTATUS(self.status) }
    }
}

/// Waits for the child `pid`, or for any child if `pid` is -1, and reaps it. Returns its pid and usage.
///
/// # Errors
/// `ECHILD` if there is no such child.
pub fn wait4(pid: i32) -> io::Result<(i32, Usage)> {
    let mut status = 0;
    // SAFETY: rusage is plain old data, for which all zeroes is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let ended = loop {
        // SAFETY: wait4(2) writes one int and one rusage through pointers to live locals of those types.
        let got = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
        if got >= 0 {
            break got;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    };
    let micros = |time: libc::timeval| time.tv_sec * 1_000_000 + time.tv_usec;
    let usage =
        Usage { status, max_rss: usage.ru_maxrss, minor_faults: usage.ru_minflt, cpu: micros(usage.ru_utime) + micros(usage.ru_stime) };
    Ok((ended, usage))
}

/// Closes the descriptor `fd` by number, to start a program with closed standard streams. The caller must own no object with that
/// number; the payload calls this right before it executes another program.
pub fn close(fd: i32) {
    // SAFETY: close(2) touches no memory. The payload calls this only for 0, 1 and 2, which no object owns, and then executes
    // another program.
    unsafe { libc::close(fd) };
}

/// Ignores `signal` in this process and in programs executed later.
pub fn ignore(signal: i32) {
    // SAFETY: SIG_IGN installs no handler, so no code of ours can run in a signal's context.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Makes the system call `number`. All arguments are plain numbers.
///
/// # Errors
/// The errno of the call. `InvalidInput`, without making the call, if an argument could be the address of mapped memory.
pub fn call(number: i64, arguments: [u64; 5]) -> io::Result<i64> {
    if arguments.iter().any(|argument| (1 << 32..u64::MAX - 4096).contains(argument)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let [a, b, c, d, e] = arguments;
    // SAFETY: every argument is below 2^32 or a small negative number. A static position-independent program and its heap lie
    // above 2^32. So no argument is the address of our memory, and the kernel answers EFAULT.
    let got = unsafe { libc::syscall(number, a, b, c, d, e) };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(got) }
}
