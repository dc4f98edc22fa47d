//! personality(2).

use rustix::io::Errno;

/// Sets the execution domain of the caller.
///
/// # Errors
/// The errno of personality(2).
pub fn set(domain: u64) -> Result<(), Errno> {
    // SAFETY: the call takes one integer and accesses no memory. It changes only how later calls report the machine. Flags such
    // as
    // ADDR_NO_RANDOMIZE are not passed here.
    match unsafe { libc::personality(domain as libc::c_ulong) } {
        -1 => Err(super::last_errno()),
        _ => Ok(()),
    }
}
