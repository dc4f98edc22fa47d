//! mount_setattr(2), kernel 5.12. The constants are `MOUNT_ATTR_*` of linux/mount.h.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// Read-only.
pub const RDONLY: u64 = 0x1;
/// Set-user-ID bits and file capabilities have no effect.
pub const NOSUID: u64 = 0x2;
/// Device nodes cannot be opened.
pub const NODEV: u64 = 0x4;
/// Programs cannot be executed.
pub const NOEXEC: u64 = 0x8;
/// The mask of the access time modes. A change of the mode must clear the whole mask.
pub const ATIME: u64 = 0x70;
/// Access times are updated relative to the modification time: the mode 0.
pub const RELATIME: u64 = 0;
/// Access times are not updated.
pub const NOATIME: u64 = 0x10;
/// Access times are always updated.
pub const STRICTATIME: u64 = 0x20;
/// Access times of directories are not updated.
pub const NODIRATIME: u64 = 0x80;
/// Symbolic links are not followed; kernel 5.14.
pub const NOSYMFOLLOW: u64 = 0x20_0000;

/// The names of the mount options for these attributes, e.g. `ro`.
pub fn names(bits: u64) -> impl Iterator<Item = &'static str> {
    let flags = [(RDONLY, "ro"), (NOSUID, "nosuid"), (NODEV, "nodev"), (NOEXEC, "noexec"), (NODIRATIME, "nodiratime")];
    let time = match bits & ATIME {
        NOATIME => Some("noatime"),
        STRICTATIME => Some("strictatime"),
        // the mask in `Change::clear`: any mode
        ATIME => Some("atime"),
        _ => None,
    };
    let last = (bits & NOSYMFOLLOW != 0).then_some("nosymfollow");
    flags.into_iter().filter(move |(flag, _)| bits & flag != 0).map(|(_, name)| name).chain(time).chain(last)
}

/// A change of a mount's attributes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    /// The flags to set.
    pub set: u64,
    /// The flags to clear.
    pub clear: u64,
    /// The propagation (`MS_SHARED`, `MS_PRIVATE`, `MS_SLAVE`, `MS_UNBINDABLE`); 0 keeps the present one.
    pub propagation: u64,
}

impl Change {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        *self == Change::default()
    }
}

/// `MOUNT_ATTR_IDMAP`.
const IDMAP: u64 = 0x10_0000;

#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Changes the mount with the root `fd`; with `recursive` also all mounts below it.
///
/// # Errors
/// The errno of mount_setattr(2).
pub fn mount_setattr(fd: BorrowedFd<'_>, recursive: bool, change: Change) -> Result<(), Errno> {
    call(fd, recursive, &MountAttr { attr_set: change.set, attr_clr: change.clear, propagation: change.propagation, userns_fd: 0 })
}

/// Gives the detached mount with the root `fd` the id mapping of the user namespace `namespace`.
///
/// # Errors
/// The errno of mount_setattr(2); EINVAL if the file system does not support id-mapped mounts.
pub fn set_id_map(fd: BorrowedFd<'_>, recursive: bool, namespace: BorrowedFd<'_>) -> Result<(), Errno> {
    call(fd, recursive, &MountAttr { attr_set: IDMAP, attr_clr: 0, propagation: 0, userns_fd: namespace.as_raw_fd() as u64 })
}

fn call(fd: BorrowedFd<'_>, recursive: bool, attr: &MountAttr) -> Result<(), Errno> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the kernel reads a struct mount_attr of the given size, and an empty C string.
    match unsafe { libc::syscall(libc::SYS_mount_setattr, fd.as_raw_fd(), c"".as_ptr(), flags, &raw const *attr, size_of::<MountAttr>()) } {
        0 => Ok(()),
        _ => Err(super::last_errno()),
    }
}
