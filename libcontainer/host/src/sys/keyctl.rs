//! keyctl(2) for the session keyring.

use std::ffi::CStr;

use rustix::io::Errno;

const JOIN_SESSION_KEYRING: libc::c_int = 1;
const SETPERM: libc::c_int = 5;
const DESCRIBE: libc::c_int = 6;

/// Joins the session keyring `name`, or makes it (KEYCTL_JOIN_SESSION_KEYRING), and returns its serial number.
///
/// # Errors
/// The errno of keyctl(2).
pub fn join_session_keyring(name: &CStr) -> Result<i32, Errno> {
    // SAFETY: keyctl(KEYCTL_JOIN_SESSION_KEYRING) reads a C string, which outlives the call.
    match unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) } {
        -1 => Err(super::last_errno()),
        serial => Ok(serial as i32),
    }
}

/// The permission mask of a key (KEYCTL_DESCRIBE).
///
/// # Errors
/// The errno of keyctl(2); EINVAL if the description is malformed.
pub fn permissions(serial: i32) -> Result<u32, Errno> {
    let mut text = [0u8; 256];
    // SAFETY: the kernel writes at most the given length into the buffer.
    let n = unsafe { libc::syscall(libc::SYS_keyctl, DESCRIBE, serial, text.as_mut_ptr(), text.len()) };
    if n == -1 {
        return Err(super::last_errno());
    }
    // "type;uid;gid;perm;description", perm in hexadecimal
    let text = &text[..text.len().min(n as usize)];
    let perm = text.split(|&b| b == b';').nth(3).and_then(|p| std::str::from_utf8(p).ok());
    perm.and_then(|p| u32::from_str_radix(p, 16).ok()).ok_or(Errno::INVAL)
}

/// Sets the permission mask of a key (KEYCTL_SETPERM).
///
/// # Errors
/// The errno of keyctl(2).
pub fn set_permissions(serial: i32, mask: u32) -> Result<(), Errno> {
    // SAFETY: keyctl(KEYCTL_SETPERM) takes two integers.
    match unsafe { libc::syscall(libc::SYS_keyctl, SETPERM, serial, mask) } {
        -1 => Err(super::last_errno()),
        _ => Ok(()),
    }
}
