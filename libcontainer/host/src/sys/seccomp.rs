//! seccomp(2): load a filter.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

/// One instruction of classic BPF: `struct sock_filter` of linux/filter.h.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// The operation.
    pub code: u16,
    /// The number of instructions to skip if the condition holds.
    pub jt: u8,
    /// The number of instructions to skip if the condition does not hold.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// `SECCOMP_FILTER_FLAG_LOG` of linux/seccomp.h, Linux 4.14: log all actions but allow.
pub const FLAG_LOG: u32 = 1 << 1;
/// `SECCOMP_FILTER_FLAG_SPEC_ALLOW`, Linux 4.17: no mitigation of Speculative Store Bypass.
pub const FLAG_SPEC_ALLOW: u32 = 1 << 2;
/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`, Linux 5.0.
pub const FLAG_NEW_LISTENER: u32 = 1 << 3;
/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`, Linux 5.19; only together with [`FLAG_NEW_LISTENER`].
pub const FLAG_WAIT_KILLABLE_RECV: u32 = 1 << 5;

/// Loads `program` as a filter of the calling thread and of the processes and threads that it makes later. A filter cannot be
/// removed. The function makes one system call and no allocation, so it may be the last step before execve.
///
/// With [`FLAG_NEW_LISTENER`] it returns the notification descriptor, close-on-exec.
///
/// # Errors
/// EACCES without CAP_SYS_ADMIN and without no-new-privileges; EINVAL for a malformed program or a flag that the kernel lacks;
/// EBUSY for a second listener.
pub fn load(program: &[Instruction], flags: u32) -> Result<Option<OwnedFd>, Errno> {
    let length = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let prog = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: SECCOMP_SET_MODE_FILTER reads a sock_fprog, which points to `len` instructions with the layout of sock_filter
    // (repr(C)). It keeps neither; both outlive the call.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const prog) };
    if answer < 0 {
        return Err(last_errno());
    }
    if flags & FLAG_NEW_LISTENER == 0 {
        return Ok(None);
    }
    // SAFETY: with SECCOMP_FILTER_FLAG_NEW_LISTENER a success is a new descriptor without another owner.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(answer as RawFd) }))
}

/// Whether the kernel knows all of `flags`: it checks them before it reads the program.
pub fn knows_flags(flags: u32) -> bool {
    // SAFETY: with a null program SECCOMP_SET_MODE_FILTER fails with EFAULT (known flags) or EINVAL, and changes nothing.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, std::ptr::null::<libc::sock_fprog>()) };
    answer < 0 && last_errno() == Errno::FAULT
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}
