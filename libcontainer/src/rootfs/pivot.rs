//! The change of the root: pivot_root(2), or with `--no-pivot` a move of the mount, for a root file system that is an
//! initramfs.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags};

use crate::error::{Doing, Error, Result};
use masu_host::procfs::{Procfs, unescape};
use masu_host::sys::mount_attr::{Change, mount_setattr};

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
/// show all of the host, so those are unmounted or covered first. `old_is_slave` as in [`pivot`].
pub(super) fn move_root(root: BorrowedFd<'_>, rootfs: &str, old_is_slave: bool) -> Result<()> {
    let doing = || "error jailing process inside rootfs: move";
    let proc = Procfs::open()?;
    let text = proc.read(&format!("{}/mountinfo", proc.me()?)).doing(|| "read /proc/self/mountinfo")?;
    let text = String::from_utf8(text).map_err(|_| Error::unsupported("a mount point of the host is not UTF-8"))?;
    let points: Vec<String> = text.lines().filter_map(|line| outside(line, rootfs)).map(|mount| mount.point).collect();
    if !old_is_slave {
        // what is unmounted in a mount that is shared is unmounted on the host. Not all below /, as the container's own
        // mounts are there, too
        for point in &points {
            match rustix::mount::mount_change(point.as_str(), MountPropagationFlags::DOWNSTREAM) {
                // another mount covers it, on the way there
                Err(Errno::NOENT | Errno::NOTDIR | Errno::INVAL) => {}
                result => result.doing(|| format!("make {point} a slave"))?,
            }
        }
    }
    for point in full_kernel_mounts(&text, rootfs) {
        let hide = || -> Result<(), Errno> {
            rustix::mount::mount_change(point.as_str(), MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
            // of several mounts at one place only the one above is a slave, and it is taken off the one below
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

/// A mount of the caller's.
struct Outside<'a> {
    point: String,
    /// What of its file system it shows.
    top: &'a str,
    kind: &'a str,
}

/// What a line of mountinfo says, if that mount is not in the rootfs.
fn outside<'a>(line: &'a str, rootfs: &str) -> Option<Outside<'a>> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(3);
    let (top, point) = (fields.next()?, unescape(fields.next()?));
    let kind = after.split(' ').next()?;
    let is_inside = point.strip_prefix(rootfs).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    (!is_inside).then_some(Outside { point, top, kind })
}

/// Mount points of whole procfs and sysfs trees outside the rootfs.
fn full_kernel_mounts(mountinfo: &str, rootfs: &str) -> Vec<String> {
    let mounts = mountinfo.lines().filter_map(|line| outside(line, rootfs));
    mounts.filter(|mount| matches!(mount.kind, "proc" | "sysfs") && mount.top == "/").map(|mount| mount.point).collect()
}

/// The root directory of the caller.
pub(crate) fn open_root() -> Result<std::os::fd::OwnedFd, Errno> {
    rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}
