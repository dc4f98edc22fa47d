//! The mount point of a mount: checked in the plan, opened below the root in init.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, OFlags, PROC_SUPER_MAGIC};
use rustix::io::Errno;

use crate::error::{Doing, Error, Result};
use crate::spec;
use masu_host::beneath::{self, Beside, Place};
use masu_host::sys::close_range::leave;

/// The only mount points below /proc, for lxcfs and crypto policies: the list of runc.
const IN_PROC: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];
/// Magic numbers of linux/magic.h. crun's `dest-nofollow` refuses these file systems and procfs.
const SYSFS_MAGIC: i64 = 0x6265_6572;
const DEVPTS_MAGIC: i64 = 0x1cd1;

/// Checks the destination and returns it as an absolute clean path. The root itself is refused.
pub(crate) fn check_target(mount: &spec::Mount) -> Result<String> {
    for field in [&mount.destination, &mount.source, &mount.fs_type] {
        if field.contains('\0') {
            return Err(Error::invalid(format!("invalid mount {:?}: mount field contains null byte", mount.destination)));
        }
    }
    if mount.destination.is_empty() {
        return Err(Error::invalid(format!("mounts: the mount of {:?} has no destination", mount.source)));
    }
    if mount.destination.len() >= libc::PATH_MAX as usize {
        return Err(Error::invalid(format!(
            "mounts: the destination of {:?} is longer than {} bytes: file name too long",
            mount.source,
            libc::PATH_MAX
        )));
    }
    let target = beneath::clean(&mount.destination);
    if target == "/" {
        return Err(Error::invalid(format!(
            "error mounting {:?} to rootfs at \"/\": create mountpoint for / mount: mountpoint is on the top of rootfs",
            mount.source
        )));
    }
    Ok(target)
}

/// Checks that only procfs or a bind mount is at /proc, and only bind mounts of [`IN_PROC`] below it.
pub(super) fn check_proc(mount: &spec::Mount, target: &str, bind: bool) -> Result<()> {
    let allowed = match (bind, target) {
        (true, "/proc") => true,
        (false, "/proc") => mount.fs_type == "proc",
        _ if !target.starts_with("/proc/") => true,
        _ => bind && IN_PROC.contains(&target),
    };
    if allowed {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "error mounting {:?} to rootfs at {target:?}: check proc-safety of {target} mount: {target:?} cannot be mounted because it is inside /proc",
        mount.source
    )))
}

/// Opens the directory `target`, and makes it if missing. No component may be a symbolic link, because the mount must be
/// reachable at exactly this path (CVE-2019-19921).
pub(super) fn open_plain(root: BorrowedFd<'_>, target: &str, fs_type: &str) -> Result<OwnedFd> {
    let folder = match beneath::open_plain_dir(root, target) {
        Err(Errno::NOENT) => {
            beneath::mkdir_all(root, target).doing(|| format!("create mountpoint for {target} mount"))?;
            beneath::open_plain_dir(root, target)
        }
        result => result,
    };
    folder.map_err(|e| match e {
        Errno::LOOP | Errno::NOTDIR => Error::invalid(format!("filesystem {fs_type:?} must be mounted on ordinary directory")),
        e => e.into(),
    })
}

/// Opens `target`. If it is missing, it is made as a directory or as a file.
pub(super) fn open(root: BorrowedFd<'_>, target: &str, beside: &mut Beside, is_dir: impl Fn() -> bool) -> Result<Place> {
    let kind = || if is_dir() { FileType::Directory } else { FileType::RegularFile };
    let place = beneath::place(root, target, beside, kind).doing(|| format!("create mountpoint for {target} mount"))?;
    if !place.is_plain && !target.starts_with("/proc/") && target != "/proc" && magic(place.fd.as_fd())? == PROC_SUPER_MAGIC {
        // a symbolic link in the image pointed into /proc
        return Err(Error::invalid(format!("check proc-safety of {target} mount: it cannot be mounted because it is inside /proc")));
    }
    Ok(place)
}

/// Opens `target`, which must exist. A symbolic link at its end is opened itself.
pub(super) fn open_nofollow(root: BorrowedFd<'_>, target: &str) -> Result<OwnedFd> {
    let fd = beneath::open(root, target, OFlags::PATH | OFlags::NOFOLLOW).doing(|| format!("open mountpoint {target}"))?;
    if [PROC_SUPER_MAGIC, SYSFS_MAGIC, DEVPTS_MAGIC].contains(&magic(fd.as_fd())?) {
        return Err(Error::invalid(format!("override of the mount destination {target} is not allowed")));
    }
    Ok(fd)
}

/// The magic number of the file system of `fd`.
pub(super) fn magic(fd: BorrowedFd<'_>) -> Result<i64, Errno> {
    Ok(rustix::fs::fstatfs(fd)?.f_type as i64)
}

/// Makes `target` a symbolic link to `link`. An existing file must be the same link.
pub(super) fn make_link(root: BorrowedFd<'_>, target: &str, link: &std::ffi::CStr) -> Result<()> {
    let (dir, name) = beneath::parent(root, target)?;
    match rustix::fs::symlinkat(link, &dir, name) {
        Err(Errno::EXIST) if rustix::fs::readlinkat(&dir, name, Vec::new()).is_ok_and(|there| there.as_c_str() == link) => {}
        Err(Errno::EXIST) => {
            return Err(Error::invalid(format!("{target} exists and is not a symbolic link to {}", link.to_string_lossy())));
        }
        result => result.doing(|| format!("create symlink {target}"))?,
    }
    leave(dir);
    Ok(())
}

/// The mode of `fd`, as the option `mode` of a tmpfs.
pub(super) fn mode(fd: BorrowedFd<'_>) -> Result<String, Errno> {
    Ok(format!("{:o}", rustix::fs::fstat(fd)?.st_mode & 0o7777))
}
