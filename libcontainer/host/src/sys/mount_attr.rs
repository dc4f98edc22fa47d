//! mount_setattr(2), kernel 5.12.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// Flags of the attributes of a mount (`MOUNT_ATTR_*`).
pub const RDONLY: u64 = 0x1;
pub const NOSUID: u64 = 0x2;
pub const NODEV: u64 = 0x4;
pub const NOEXEC: u64 = 0x8;
/// The mask of the access time modes; a change of mode must clear all of it.
pub const ATIME: u64 = 0x70;
pub const RELATIME: u64 = 0;
pub const NOATIME: u64 = 0x10;
pub const STRICTATIME: u64 = 0x20;
pub const NODIRATIME: u64 = 0x80;
/// Kernel 5.14.
pub const NOSYMFOLLOW: u64 = 0x20_0000;

/// The words of a mount's options for attributes.
pub fn names(bits: u64) -> impl Iterator<Item = &'static str> {
    let flags = [(RDONLY, "ro"), (NOSUID, "nosuid"), (NODEV, "nodev"), (NOEXEC, "noexec"), (NODIRATIME, "nodiratime")];
    let time = match bits & ATIME {
        NOATIME => Some("noatime"),
        STRICTATIME => Some("strictatime"),
        // the mask, to be cleared: whatever it was
        ATIME => Some("atime"),
        _ => None,
    };
    let last = (bits & NOSYMFOLLOW != 0).then_some("nosymfollow");
    flags.into_iter().filter(move |(flag, _)| bits & flag != 0).map(|(_, name)| name).chain(time).chain(last)
}

/// What to change: flags to set, flags to clear, and a propagation (`MS_SHARED`, `MS_PRIVATE`, `MS_SLAVE`,
/// `MS_UNBINDABLE`; 0 leaves it).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    pub set: u64,
    pub clear: u64,
    pub propagation: u64,
}

impl Change {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Change::default()
    }
}

/// `linux/mount.h`.
const IDMAP: u64 = 0x10_0000;

#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Changes the mount whose root `fd` is; with `recursive` all mounts below as well.
pub fn mount_setattr(fd: BorrowedFd<'_>, recursive: bool, change: Change) -> Result<(), Errno> {
    call(fd, recursive, &MountAttr { attr_set: change.set, attr_clr: change.clear, propagation: change.propagation, userns_fd: 0 })
}

/// Maps the ids of the detached mount whose root `fd` is as those of the user namespace `namespace` are mapped.
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
