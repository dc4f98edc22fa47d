//! The change of the root: pivot_root(2), or with `--no-pivot` a move of the mount, for a root file system that is an
//! initramfs.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags};

use crate::error::{Doing, Error, Result};
use crate::procfs::{Procfs, unescape};
use crate::sys::mount_attr::{Change, mount_setattr};

/// Makes `root` (the top of a mount of this namespace) the root, and lets go of the old one. `old_is_slave`: whether
/// nothing that happens to the old tree can reach the host any more.
pub(super) fn pivot(root: BorrowedFd<'_>, old_is_slave: bool) -> Result<()> {
    let doing = || "error jailing process inside rootfs: pivot_root";
    let old = if old_is_slave { None } else { Some(open_root().doing(doing)?) };
    rustix::process::fchdir(root).doing(doing)?;
    // both names are the new root: the old one ends up mounted on top of it, without a folder in the image
    rustix::process::pivot_root(".", ".").doing(doing)?;
    if let Some(old) = old {
        // slave, not private: a private copy would keep the host's mounts busy (device-mapper)
        let slave = Change { propagation: libc::MS_SLAVE, ..Change::default() };
        mount_setattr(old.as_fd(), true, slave).doing(|| "make the old root a slave")?;
    }
    rustix::mount::unmount(".", UnmountFlags::DETACH).doing(|| "unmount the old root")?;
    rustix::process::chdir("/").doing(doing)
}

/// Moves the mount over the old root. What stays below can be reached by nobody but through mounts of proc or sysfs that
/// show all of the host, so those are unmounted or covered first.
pub(super) fn move_root(root: BorrowedFd<'_>, rootfs: &str) -> Result<()> {
    let doing = || "error jailing process inside rootfs: move";
    let proc = Procfs::open()?;
    for point in full_kernel_mounts(&proc, rootfs)? {
        let hide = || -> Result<(), Errno> {
            rustix::mount::mount_change(point.as_str(), MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
            match rustix::mount::unmount(point.as_str(), UnmountFlags::DETACH) {
                Err(Errno::INVAL | Errno::PERM) => rustix::mount::mount("tmpfs", point.as_str(), "tmpfs", MountFlags::RDONLY, None),
                result => result,
            }
        };
        hide().doing(|| format!("hide {point}"))?;
    }
    rustix::mount::move_mount(root, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).doing(doing)?;
    rustix::process::fchdir(root).doing(doing)?;
    rustix::process::chroot(".").doing(doing)?;
    rustix::process::chdir("/").doing(doing)
}

/// Mount points of whole procfs and sysfs trees outside the rootfs.
fn full_kernel_mounts(proc: &Procfs, rootfs: &str) -> Result<Vec<String>> {
    let text = proc.read(&format!("{}/mountinfo", proc.me()?)).doing(|| "read /proc/self/mountinfo")?;
    let text = String::from_utf8(text).map_err(|_| Error::unsupported("a mount point of the host is not UTF-8"))?;
    let point = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (top, point) = (fields.next()?, unescape(fields.next()?));
        let kernels = matches!(after.split(' ').next()?, "proc" | "sysfs");
        (kernels && top == "/" && !point.starts_with(rootfs)).then_some(point)
    };
    Ok(text.lines().filter_map(point).collect())
}

/// The root directory of the caller.
pub(super) fn open_root() -> Result<std::os::fd::OwnedFd, Errno> {
    rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}
