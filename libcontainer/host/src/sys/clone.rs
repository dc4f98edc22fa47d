//! clone3(2), and the check that its callers need: one thread.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, waitid};

/// From linux/sched.h, because libc's constant overflows.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The two processes that return from [`clone3`].
#[derive(Debug)]
pub enum Side {
    /// The new process. It must leave by execve or [`exit`](super::exec::exit), and never return out of its caller.
    Child,
    /// The calling process.
    Parent {
        /// The child's pid in the caller's pid namespace.
        pid: i32,
        /// A pidfd of the child.
        pidfd: OwnedFd,
    },
}

/// clone3(2) without `CLONE_VM`: like fork(2), but with a pidfd and with the namespaces of `flags` (`CLONE_NEW*`; `CLONE_PARENT`
/// makes a sibling). The end of the child sends SIGCHLD. With `cgroup`, a directory of cgroup v2, the child is born in it
/// (kernel 5.7): a later move would wait for a grace period of the kernel.
///
/// The caller must have one thread ([`check_threads`]), because the child copies all memory, also locks of other threads.
///
/// # Errors
/// The errno of clone3(2).
pub fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Side, Errno> {
    // a sibling sends the caller's own exit signal, and the kernel refuses another one
    let signal = if flags & libc::CLONE_PARENT as u64 == 0 { libc::SIGCHLD } else { 0 };
    clone_with(flags, cgroup, signal as u64)
}

/// A child that exits at once and stays a zombie. Its entry in /proc shows its namespaces until the drop, which reaps it. It
/// has no exit signal, so no other code reaps it, nor does the kernel if SIGCHLD is ignored. If this process dies, no process
/// is left.
#[derive(Debug)]
pub struct Ended {
    /// The child's pid in the caller's pid namespace.
    pub pid: i32,
    pidfd: OwnedFd,
}

impl Ended {
    /// Makes a child in new namespaces (`CLONE_NEW*`). The caller must have one thread ([`check_threads`]).
    ///
    /// # Errors
    /// The errno of clone3(2).
    pub fn in_namespaces(flags: i32) -> Result<Ended, Errno> {
        match clone_with(flags as u64, None, 0)? {
            Side::Child => super::exec::exit(0),
            Side::Parent { pid, pidfd } => Ok(Ended { pid, pidfd }),
        }
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        // waitid(2) returns a child without an exit signal only with __WALL
        let options = WaitIdOptions::EXITED | WaitIdOptions::from_bits_retain(libc::__WALL as u32);
        let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), options);
    }
}

/// Makes the first process of a new pid namespace, which only reaps, and returns its pid. It is killed when its parent dies,
/// and the kernel then kills all processes of the namespace. The caller must have one thread ([`check_threads`]).
///
/// # Errors
/// The errno of pidfd_open(2) or clone3(2).
pub fn first_of_pid_namespace(name: &CStr) -> Result<i32, Errno> {
    let maker = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())?;
    match super::fork::fork(libc::CLONE_NEWPID as u64, None, &super::fork::Kept::new([maker.as_fd()]))? {
        Side::Parent { pid, .. } => Ok(pid),
        Side::Child => {
            let ready = || -> Result<(), Errno> {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                // the parent may have died before the call above
                let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
                let mut fds = [rustix::event::PollFd::new(&maker, rustix::event::PollFlags::IN)];
                if rustix::event::poll(&mut fds, Some(&now))? > 0 {
                    return Err(Errno::SRCH);
                }
                rustix::thread::set_name(name)?;
                // the kernel reaps the children of a process that ignores SIGCHLD
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
    // SAFETY: a clone_args is plain integers, so all zero is valid.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags | libc::CLONE_PIDFD as u64;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = exit_signal;
    if let Some(fd) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = fd.as_raw_fd() as u64;
    }
    // SAFETY: args is a valid clone_args of the given size, and args.pidfd points to a c_int that outlives the call. Without
    // CLONE_VM and without a stack the child runs on a copy of this one. The raw call skips libc's bookkeeping of the thread id.
    // That is sound: the child makes no thread, raises no signal through libc, and leaves by execve or _exit.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(super::last_errno()),
        0 => Ok(Side::Child),
        // SAFETY: on success the kernel has stored a new descriptor there, without another owner.
        pid => Ok(Side::Parent { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

/// Refuses a process with more than one thread. To be called before the process clones.
///
/// # Errors
/// [`Kind::Unsupported`](crate::error::Kind::Unsupported), with the advice to fork a worker earlier.
pub fn check_threads() -> crate::error::Result<()> {
    match one_thread() {
        true => Ok(()),
        false => Err(crate::error::Error::unsupported("this process has more than one thread: fork a worker before threads start")),
    }
}

/// Whether this process has one thread. unshare(2) with CLONE_THREAD alone changes nothing; it is EINVAL with more threads.
pub fn one_thread() -> bool {
    // SAFETY: this flag alone has no effect on the process, and the call accesses no memory.
    match unsafe { libc::unshare(libc::CLONE_THREAD) } {
        0 => true,
        _ => match super::last_errno() {
            Errno::INVAL => false,
            // a seccomp filter forbids the call
            _ => std::fs::read_dir("/proc/self/task").map(|tasks| tasks.count() == 1).unwrap_or(true),
        },
    }
}
