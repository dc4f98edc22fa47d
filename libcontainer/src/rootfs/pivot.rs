//! The change of the root: pivot_root(2), or with `--no-pivot` a move of the mount, because an initramfs cannot be pivoted.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags};

use crate::error::{Doing, Error, Result};
use masu_host::procfs::{Procfs, unescape};
use masu_host::sys::mount_attr::{Change, mount_setattr};

/// Makes `root`, the root of a mount of this namespace, the root directory and detaches the old one. `old_is_slave`: no change of
/// the old tree can reach the host.
pub(super) fn pivot(root: BorrowedFd<'_>, old_is_slave: bool) -> Result<()> {
    let doing = || "error jailing process inside rootfs: pivot_root";
    let old = if old_is_slave { None } else { Some(open_root().doing(doing)?) };
    rustix::process::fchdir(root).doing(doing)?;
    // both paths are the new root: the old one is mounted on top of it, so the image needs no directory for it
    rustix::process::pivot_root(".", ".").doing(doing)?;
    if let Some(old) = old {
        // slave, because a private copy would keep unmounted file systems of the host busy (device-mapper)
        let slave = Change { propagation: libc::MS_SLAVE, ..Change::default() };
        mount_setattr(old.as_fd(), true, slave).doing(|| "make the old root a slave")?;
    }
    rustix::mount::unmount(".", UnmountFlags::DETACH).doing(|| "unmount the old root")?;
    rustix::process::chdir("/").doing(doing)
}

/// Moves the mount over the old root. The old root can then be reached only through full mounts of proc or sysfs, so those are
/// unmounted or covered first. `old_is_slave` as in [`pivot`].
pub(super) fn move_root(root: BorrowedFd<'_>, rootfs: &str, old_is_slave: bool) -> Result<()> {
    let doing = || "error jailing process inside rootfs: move";
    let proc = Procfs::open()?;
    let text = proc.read(&format!("{}/mountinfo", proc.me()?)).doing(|| "read /proc/self/mountinfo")?;
    let text = String::from_utf8(text).map_err(|_| Error::unsupported("a mount point of the host is not UTF-8"))?;
    let points: Vec<String> = text.lines().filter_map(|line| outside(line, rootfs)).map(|mount| mount.point).collect();
    if !old_is_slave {
        // an unmount below a shared mount would unmount on the host, too. This is not done recursively from /, because the
        // container's own mounts are below it
        for point in &points {
            match rustix::mount::mount_change(point.as_str(), MountPropagationFlags::DOWNSTREAM) {
                // another mount covers it or one of its parents
                Err(Errno::NOENT | Errno::NOTDIR | Errno::INVAL) => {}
                result => result.doing(|| format!("make {point} a slave"))?,
            }
        }
    }
    for point in full_kernel_mounts(&text, rootfs) {
        let hide = || -> Result<(), Errno> {
            rustix::mount::mount_change(point.as_str(), MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
            // of stacked mounts only the top one is a slave; its unmount would propagate from its parent, the one below
            let stays = !old_is_slave && points.iter().filter(|other| **other == point).count() > 1;
            let taken_off = if stays { Err(Errno::INVAL) } else { rustix::mount::unmount(point.as_str(), UnmountFlags::DETACH) };
            match taken_off {
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

/// A mount of the caller outside the rootfs.
struct Outside<'a> {
    point: String,
    /// The root of the mount within its file system.
    top: &'a str,
    kind: &'a str,
}

/// Parses a line of mountinfo; `None` if the mount is inside the rootfs.
fn outside<'a>(line: &'a str, rootfs: &str) -> Option<Outside<'a>> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(3);
    let (top, point) = (fields.next()?, unescape(fields.next()?));
    let kind = after.split(' ').next()?;
    let is_inside = point.strip_prefix(rootfs).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    (!is_inside).then_some(Outside { point, top, kind })
}

/// The mount points of complete proc and sysfs trees outside the rootfs.
fn full_kernel_mounts(mountinfo: &str, rootfs: &str) -> Vec<String> {
    let mounts = mountinfo.lines().filter_map(|line| outside(line, rootfs));
    mounts.filter(|mount| matches!(mount.kind, "proc" | "sysfs") && mount.top == "/").map(|mount| mount.point).collect()
}

/// Opens the caller's root directory.
pub(crate) fn open_root() -> Result<std::os::fd::OwnedFd, Errno> {
    rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}
