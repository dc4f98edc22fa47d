//! Loop devices, which make a file a block device (loop(4)).

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// These constants are from linux/loop.h.
const CTL_GET_FREE: u64 = 0x4c82;
const CONFIGURE: u64 = 0x4c0a;
const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;
const NAME: usize = 64;

/// `struct loop_config`, with its `struct loop_info64`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    /// Device, inode, rdevice, offset and size limit: 0, or filled in by the kernel.
    places: [u64; 5],
    number: u32,
    /// The type and key size of an encryption that the kernel no longer has.
    encryption: [u32; 2],
    flags: u32,
    name: [u8; NAME],
    crypt_name: [u8; NAME],
    key: [u8; 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

/// The number of a free device. Another process may take it before [`configure`]. `control` is `/dev/loop-control`.
///
/// # Errors
/// The errno of ioctl(2), LOOP_CTL_GET_FREE.
pub fn free(control: BorrowedFd<'_>) -> Result<u32, Errno> {
    // SAFETY: the call takes no argument.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), CTL_GET_FREE as _) };
    u32::try_from(number).map_err(|_| super::last_errno())
}

/// Attaches the file `backing` to `device` (LOOP_CONFIGURE, kernel 5.8). The kernel detaches it after the last close and
/// unmount. `name`, cut to 63 bytes, is the file name in the output of losetup(8).
///
/// # Errors
/// EBUSY if another process took the device first; otherwise the errno of ioctl(2).
pub fn configure(device: BorrowedFd<'_>, backing: BorrowedFd<'_>, name: &[u8], read_only: bool, direct: bool) -> Result<(), Errno> {
    let mut config = Config {
        fd: backing.as_raw_fd() as u32,
        block_size: 0,
        places: [0; 5],
        number: 0,
        encryption: [0; 2],
        flags: AUTOCLEAR | if read_only { READ_ONLY } else { 0 } | if direct { DIRECT_IO } else { 0 },
        name: [0; NAME],
        crypt_name: [0; NAME],
        key: [0; 32],
        init: [0; 2],
        reserved: [0; 8],
    };
    config.name.iter_mut().zip(name).take(NAME - 1).for_each(|(to, from)| *to = *from);
    // SAFETY: the kernel reads a struct loop_config, which `config` is; the descriptor in it is open.
    match unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE as _, &raw const config) } {
        0 => Ok(()),
        _ => Err(super::last_errno()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};

    #[test]
    fn the_layout_is_the_kernel_s() {
        assert_eq!(size_of::<Config>(), 8 + 232 + 64);
        assert_eq!([offset_of!(Config, flags), offset_of!(Config, name), offset_of!(Config, init)], [8 + 52, 8 + 56, 8 + 216]);
    }
}
