//! A session keyring of the container's own (keyrings(7)), so that it neither sees nor outlives its caller's keys.

use std::ffi::CStr;

use rustix::io::Errno;

use crate::error::{Doing, Result};
use masu_host::sys::keyctl;

/// KEY_USR_SEARCH and KEY_POS_SEARCH…: who has the container's user may find keys in it (runc does the same).
const USER_SEARCH: u32 = 0x0008_0000;

/// Makes, or for exec joins, the keyring `name` (`_ses.<id>`). Kernels without keys are fine.
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
