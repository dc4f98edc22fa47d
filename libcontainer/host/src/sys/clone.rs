//! clone3(2): the one way in which this library makes a process.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, waitid};

/// `linux/sched.h`; libc's constant overflows.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of the call this is.
#[derive(Debug)]
pub enum Side {
    /// The new process. It leaves by execve or [`exit`](super::exec::exit), never by returning to its caller's caller.
    Child,
    /// The caller.
    Parent {
        /// The child's pid in the caller's pid namespace.
        pid: i32,
        /// A pidfd of the child.
        pidfd: OwnedFd,
    },
}

/// clone3(2) without `CLONE_VM`, like fork(2), with the namespaces of `flags` (`CLONE_NEW*`; `CLONE_PARENT` makes a
/// sibling), a pidfd, and SIGCHLD at its end. With `cgroup` (a directory of cgroup v2, kernel 5.7) the child is born in it: moving it there later would
/// wait for a grace period of the kernel.
///
/// The caller must have one thread ([`check_threads`]): the child has a copy of all memory, with the locks that other threads hold.
pub fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Side, Errno> {
    // a sibling has the caller's signal already, and the kernel refuses another
    let signal = if flags & libc::CLONE_PARENT as u64 == 0 { libc::SIGCHLD } else { 0 };
    clone_with(flags, cgroup, signal as u64)
}

/// A child of ours that has ended: it was born into namespaces of its own, which can be found in /proc until this is
/// dropped and so reaped. No signal tells of its end, so that nobody else reaps it, nor the kernel where SIGCHLD is ignored;
/// and should we die, there is nothing left to end.
#[derive(Debug)]
pub struct Ended {
    pub pid: i32,
    pidfd: OwnedFd,
}

impl Ended {
    /// Makes one in fresh namespaces (`CLONE_NEW*`).
    pub fn in_namespaces(flags: i32) -> Result<Ended, Errno> {
        match clone_with(flags as u64, None, 0)? {
            Side::Child => super::exec::exit(0),
            Side::Parent { pid, pidfd } => Ok(Ended { pid, pidfd }),
        }
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        // a child without a signal is waited for only by who says so
        let options = WaitIdOptions::EXITED | WaitIdOptions::from_bits_retain(libc::__WALL as u32);
        let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), options);
    }
}

/// A child that is the first process of a fresh pid namespace, and does nothing there but reap. It ends when its maker does,
/// and with it all that is in the namespace.
///
/// Its pid.
pub fn first_of_pid_namespace(name: &CStr) -> Result<i32, Errno> {
    let maker = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())?;
    match super::fork::fork(libc::CLONE_NEWPID as u64, None, &super::fork::Kept::new([maker.as_fd()]))? {
        Side::Parent { pid, .. } => Ok(pid),
        Side::Child => {
            let ready = || -> Result<(), Errno> {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                // it may have ended before
                let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
                let mut fds = [rustix::event::PollFd::new(&maker, rustix::event::PollFlags::IN)];
                if rustix::event::poll(&mut fds, Some(&now))? > 0 {
                    return Err(Errno::SRCH);
                }
                rustix::thread::set_name(name)?;
                // the kernel reaps for who ignores it
                super::signal::ignore(libc::SIGCHLD)?;
                super::close_range::close_all_but(&[])
            };
            if ready().is_err() {
                super::exec::exit(1);
            }
            loop {
                rustix::event::pause();
            }
        }
    }
}

fn clone_with(flags: u64, cgroup: Option<BorrowedFd<'_>>, exit_signal: u64) -> Result<Side, Errno> {
    debug_assert!(one_thread(), "a process that forks has one thread");
    let mut pidfd: libc::c_int = -1;
    // SAFETY: all zero is a valid clone_args: it is plain integers.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags | libc::CLONE_PIDFD as u64;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = exit_signal;
    if let Some(fd) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = fd.as_raw_fd() as u64;
    }
    // SAFETY: args is a valid clone_args of the size given, args.pidfd points to a c_int that lives past the call, and
    // without CLONE_VM and with no stack given the child runs on a copy of this one. Raw clone3 skips libc's
    // bookkeeping of the thread id; that is sound because the child makes no thread, raises no signal through libc,
    // and leaves by execve or _exit.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(super::last_errno()),
        0 => Ok(Side::Child),
        // SAFETY: on success the kernel has stored a new descriptor there, which nobody else owns.
        pid => Ok(Side::Parent { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

/// Refuses a process with more than one thread, before it makes a child.
///
/// # Errors
/// [`Kind::Unsupported`](crate::error::Kind), with what to do instead.
pub fn check_threads() -> crate::error::Result<()> {
    match one_thread() {
        true => Ok(()),
        false => Err(crate::error::Error::unsupported("this process has more than one thread: fork a worker before threads start")),
    }
}

/// Whether this process has one thread. unshare(2) with CLONE_THREAD alone changes nothing, and says EINVAL of a process with more.
pub fn one_thread() -> bool {
    // SAFETY: the flag alone has no effect on the process, and the call takes no memory.
    match unsafe { libc::unshare(libc::CLONE_THREAD) } {
        0 => true,
        _ => match super::last_errno() {
            Errno::INVAL => false,
            // a filter around us forbids the call
            _ => std::fs::read_dir("/proc/self/task").map(|tasks| tasks.count() == 1).unwrap_or(true),
        },
    }
}
