//! A new session keyring (keyrings(7)): the container does not see its caller's keys, and the caller does not see the
//! container's.

use std::ffi::CStr;

use rustix::io::Errno;

use crate::error::{Doing, Result};
use masu_host::sys::keyctl;

/// KEY_USR_SEARCH: processes with the container's user id may search the keyring, as in runc.
const USER_SEARCH: u32 = 0x0008_0000;

/// Joins the keyring `name` (`_ses.ID`), or makes it. A kernel without keyrings is no error.
pub(crate) fn join(name: &CStr) -> Result<()> {
    let serial = match keyctl::join_session_keyring(name) {
        Ok(serial) => serial,
        Err(Errno::NOSYS) => return Ok(()),
        Err(e) => return Err(e).doing(|| format!("unable to join session keyring {}", name.to_string_lossy())),
    };
    let doing = || format!("set permissions of session keyring {}", name.to_string_lossy());
    let mask = keyctl::permissions(serial).doing(doing)?;
    if mask & USER_SEARCH == 0 {
        keyctl::set_permissions(serial, mask | USER_SEARCH).doing(doing)?;
    }
    Ok(())
}
