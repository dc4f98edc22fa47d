//! seccomp(2).

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

/// One instruction of classic BPF: `struct sock_filter` of linux/filter.h.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    /// How many instructions to skip when the condition holds.
    pub jt: u8,
    /// How many to skip when it does not.
    pub jf: u8,
    pub k: u32,
}

/// The flags of `SECCOMP_SET_MODE_FILTER` (linux/seccomp.h); LOG and SPEC_ALLOW are older than any kernel in support.
pub const FLAG_LOG: u32 = 1 << 1;
pub const FLAG_SPEC_ALLOW: u32 = 1 << 2;
/// Linux 5.0.
pub const FLAG_NEW_LISTENER: u32 = 1 << 3;
/// Linux 5.19; only together with [`FLAG_NEW_LISTENER`].
pub const FLAG_WAIT_KILLABLE_RECV: u32 = 1 << 5;

/// Puts the calling thread, and all it makes from now on, under `program`. It cannot be undone. One system call, no
/// allocation, so it may be the last step before execve.
///
/// With [`FLAG_NEW_LISTENER`] the answer is the notification fd (close-on-exec). Errors: `EACCES` without CAP_SYS_ADMIN
/// and without no-new-privileges; `EINVAL` for a malformed program or a flag that this kernel lacks; `EBUSY` for a
/// second listener.
pub fn load(program: &[Instruction], flags: u32) -> Result<Option<OwnedFd>, Errno> {
    let length = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let prog = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: seccomp(2), SECCOMP_SET_MODE_FILTER: reads a sock_fprog, which points to `len` instructions laid out as
    // sock_filter (Instruction is repr(C) with its fields), and keeps neither; both outlive the call.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const prog) };
    if answer < 0 {
        return Err(last_errno());
    }
    if flags & FLAG_NEW_LISTENER == 0 {
        return Ok(None);
    }
    // SAFETY: with SECCOMP_FILTER_FLAG_NEW_LISTENER a success is a new descriptor that nobody else owns.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(answer as RawFd) }))
}

/// Whether this kernel knows all of `flags`: it reads the program only after it has accepted them.
pub fn knows_flags(flags: u32) -> bool {
    // SAFETY: seccomp(2), SECCOMP_SET_MODE_FILTER with a null program: fails with EFAULT (known flags) or EINVAL, and
    // changes nothing.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, std::ptr::null::<libc::sock_fprog>()) };
    answer < 0 && last_errno() == Errno::FAULT
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}
