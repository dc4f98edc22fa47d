//! The runtime's own executable cannot be written from a container (CVE-2019-5736).
//!
//! A process of the runtime inside a container shows its executable as `/proc/PID/exe`. Root in the container could keep
//! that file open, write it later, and so replace the runtime of the host. Before a container is made or entered, the program
//! therefore executes itself again from a file that cannot be written:
//!
//! 1. a read-only overlay of its own directory, which is mounted nowhere. It has no upper layer, so it cannot be made
//!    writable; it shares the page cache, so nothing is copied. (A read-only bind mount is not enough: the owner of a user
//!    namespace can clone the mount and clear the flag.)
//! 2. if overlays are refused, a sealed copy in memory (memfd_create(2));
//! 3. otherwise sealing fails, and the program must not go on.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags};

use crate::error::{Doing, Error, Kind, Result};
use crate::sys::exec::{Strings, execve_fd, started_from_fd};
use crate::sys::overlay_exe::execve_overlay;

const OWN: &str = "/proc/self/exe";
const OVERLAYFS_MAGIC: i64 = 0x794c_7630;
const SEALS: SealFlags = SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// Returns if this process runs from a sealed executable. Otherwise it executes the program again, with the same arguments
/// and environment.
///
/// # Errors
/// No sealed executable can be made or executed, or the process was started as a sealed copy that is not sealed.
pub fn seal() -> Result<()> {
    if started_from_fd() {
        if is_sealed()? {
            return Ok(());
        }
        return Err(Error::new(Kind::Internal, "the runtime's executable is not sealed although it was started as a sealed copy"));
    }
    let args: Vec<CString> = crate::sys::start::args().into_iter().filter_map(|a| CString::new(a.into_vec()).ok()).collect();
    let env: Vec<CString> =
        std::env::vars_os().filter_map(|(k, v)| CString::new([k.as_bytes(), b"=", v.as_bytes()].concat()).ok()).collect();
    let (args, env) = (Strings::new(&args), Strings::new(&env));
    execve_overlay(&args, &env);
    let copy = memory_copy().doing(|| "seal the runtime's own executable")?;
    let errno = execve_fd(copy.as_fd(), &args, &env);
    Err(errno).doing(|| "execute the sealed copy of the runtime")
}

/// The type of the sealed executable, for the debug log; only meaningful after [`seal`].
pub fn kind() -> &'static str {
    let fs = rustix::fs::statfs(OWN).map(|fs| u64::try_from(fs.f_type));
    if fs.is_ok_and(|magic| magic == Ok(OVERLAYFS_MAGIC as u64)) { "overlayfs" } else { "a copy in memory" }
}

fn is_sealed() -> Result<bool> {
    let fs = rustix::fs::statfs(OWN).doing(|| "statfs the runtime's own executable")?;
    if fs.f_type as i64 == OVERLAYFS_MAGIC {
        return Ok(fs.f_flags as u64 & u64::from(libc::ST_RDONLY as u32) != 0);
    }
    let exe = rustix::fs::open(OWN, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).doing(|| "open the runtime's own executable")?;
    Ok(rustix::fs::fcntl_get_seals(&exe).is_ok_and(|seals| seals.contains(SEALS)))
}

fn memory_copy() -> Result<OwnedFd> {
    let open = |flags| rustix::fs::memfd_create("masu", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | flags);
    // kernels before 6.3 lack MFD_EXEC and make every memfd executable
    let copy = open(MemfdFlags::EXEC).or_else(|_| open(MemfdFlags::empty()))?;
    let mut from = File::from(rustix::fs::openat(CWD, OWN, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?);
    let mut to = File::from(copy);
    std::io::copy(&mut from, &mut to)?;
    rustix::fs::fchmod(&to, Mode::from_raw_mode(0o511))?;
    rustix::fs::fcntl_add_seals(&to, SEALS)?;
    Ok(to.into())
}
