//! Network interfaces, as far as a new network namespace needs them (netdevice(7)).

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Sets the loopback interface of the caller's network namespace up.
///
/// # Errors
/// The errno of socket(2) or ioctl(2), SIOCSIFFLAGS.
pub fn loopback_up() -> Result<(), Errno> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .or_else(|_| rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None))?;
    // SAFETY: an ifreq is plain integers and a byte array, so all zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which `request` is; its name ends with a NUL.
    match unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) } {
        0 => {
            super::close_range::leave(socket);
            Ok(())
        }
        _ => Err(super::last_errno()),
    }
}
