//! personality(2).

use rustix::io::Errno;

/// Sets the execution domain of the caller.
pub fn set(domain: u64) -> Result<(), Errno> {
    // SAFETY: the call takes one integer and touches no memory of the process; what changes is how later calls report
    // the machine (and flags like ADDR_NO_RANDOMIZE, which are not passed here).
    match unsafe { libc::personality(domain as libc::c_ulong) } {
        -1 => Err(super::last_errno()),
        _ => Ok(()),
    }
}
