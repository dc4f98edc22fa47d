//! The mount builder. A mount is made, gets all its attributes, and is then attached in one step (fsopen(2), open_tree(2),
//! mount_setattr(2), move_mount(2)). It has its flags before it is visible, so a read-only mount is not writable for a moment.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};

use crate::beneath;
use crate::error::{Doing, Error, Result};
use crate::sys::close_range::leave;
use crate::sys::mount_attr::{ATIME, Change, NOATIME, NODEV, NODIRATIME, NOEXEC, NOSUID, RDONLY, RELATIME, STRICTATIME, mount_setattr};

/// A detached copy of the mount tree at `source` of the host, like a bind mount. With `nofollow` a symbolic link at the end of
/// `source` is itself the root of the copy.
///
/// # Errors
/// The errno of open_tree(2), with the path.
pub fn bind(source: &str, recursive: bool, nofollow: bool) -> Result<OwnedFd> {
    let flags = if nofollow { OpenTreeFlags::AT_SYMLINK_NOFOLLOW } else { OpenTreeFlags::empty() };
    clone_tree(CWD, source, recursive, flags).map_err(Error::from).doing(|| format!("open {source}"))
}

/// A detached copy of the mount tree at `path` below `dir`, or at `dir` itself if `path` is empty.
///
/// # Errors
/// The errno of open_tree(2).
pub fn open_tree(dir: BorrowedFd<'_>, path: &str, recursive: bool) -> Result<OwnedFd, Errno> {
    clone_tree(dir, path, recursive, if path.is_empty() { OpenTreeFlags::AT_EMPTY_PATH } else { OpenTreeFlags::empty() })
}

fn clone_tree(dir: BorrowedFd<'_>, path: &str, recursive: bool, flags: OpenTreeFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(dir, path, if recursive { flags | OpenTreeFlags::AT_RECURSIVE } else { flags })
}

/// File systems with one superblock for all mounts. It is never made read-only, because the host's mounts share it.
const SHARED: [&str; 13] = [
    "binfmt_misc",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "pstore",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "tracefs",
];

/// A new detached mount of a file system. `data` are its options, with or without a value; `attributes` are `MOUNT_ATTR_*`.
///
/// With `MOUNT_ATTR_RDONLY` a superblock of its own is read-only, too. So a disk that refuses writes can be mounted, and ext4
/// does not replay its journal. If the file system refuses that or is already mounted writable, only the mount is read-only.
///
/// # Errors
/// The errno of fsopen(2), fsconfig(2) or fsmount(2), with the file system's own message if it has one.
pub fn filesystem(fs_type: &str, source: &str, data: &[(String, Option<String>)], attributes: u64) -> Result<OwnedFd> {
    if attributes & RDONLY == 0 || SHARED.contains(&fs_type) {
        return make(fs_type, source, data, attributes, false);
    }
    match make(fs_type, source, data, attributes, true) {
        Err(e) if matches!(e.errno(), Some(Errno::INVAL | Errno::BUSY)) => make(fs_type, source, data, attributes, false).map_err(|_| e),
        result => result,
    }
}

fn make(fs_type: &str, source: &str, data: &[(String, Option<String>)], attributes: u64, read_only: bool) -> Result<OwnedFd> {
    let fs = rustix::mount::fsopen(fs_type, FsOpenFlags::FSOPEN_CLOEXEC).doing(|| format!("open file system {fs_type}"))?;
    if !source.is_empty() {
        rustix::mount::fsconfig_set_string(fs.as_fd(), "source", source)
            .map_err(|e| explain(&fs, e))
            .doing(|| format!("set source {source}"))?;
    }
    set_options(&fs, data)?;
    if read_only {
        rustix::mount::fsconfig_set_flag(fs.as_fd(), "ro").map_err(|e| explain(&fs, e)).doing(|| "set option ro")?;
    }
    rustix::mount::fsconfig_create(fs.as_fd()).map_err(|e| explain(&fs, e))?;
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    let mount = rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    leave(fs);
    Ok(mount)
}

/// Makes a mount read-only; with `whole` also its file system.
///
/// # Errors
/// EBUSY if a file is open for writing; otherwise the errno of fspick(2), fsconfig(2) or mount_setattr(2).
pub fn make_read_only(mount: BorrowedFd<'_>, whole: bool) -> Result<()> {
    if whole {
        reconfigure(mount, &[("ro".to_owned(), None)])?;
    }
    Ok(mount_setattr(mount, false, Change { set: RDONLY, ..Change::default() })?)
}

/// Changes the options of the file system at `mount` (fspick(2)).
///
/// # Errors
/// The errno of fspick(2) or fsconfig(2), with the file system's own message if it has one.
pub fn reconfigure(mount: BorrowedFd<'_>, data: &[(String, Option<String>)]) -> Result<()> {
    let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
    let fs = rustix::mount::fspick(mount, "", flags).doing(|| "pick the file system")?;
    set_options(&fs, data)?;
    rustix::mount::fsconfig_reconfigure(fs.as_fd()).map_err(|e| explain(&fs, e)).doing(|| "change its options")
}

fn set_options(fs: &OwnedFd, data: &[(String, Option<String>)]) -> Result<()> {
    for (key, value) in data {
        let set = match value {
            Some(value) => rustix::mount::fsconfig_set_string(fs.as_fd(), key.as_str(), value.as_str()),
            None => rustix::mount::fsconfig_set_flag(fs.as_fd(), key.as_str()),
        };
        set.map_err(|e| explain(fs, e)).doing(|| match value {
            Some(value) => format!("set option {key}={value}"),
            None => format!("set option {key}"),
        })?;
    }
    Ok(())
}

/// The errno with the message of the file system, which is read from the descriptor of fsopen(2).
fn explain(fs: &OwnedFd, errno: Errno) -> Error {
    let mut text = [0u8; 256];
    let error = Error::from(errno);
    match rustix::io::read(fs, &mut text) {
        Ok(n) if n > 2 => error.context(String::from_utf8_lossy(text[2..n].trim_ascii()).replace('\n', " ")),
        _ => error,
    }
}

/// Attaches the detached mount `mount` at `target`.
///
/// # Errors
/// ENOTDIR if one of both is a directory and the other is not; otherwise the errno of move_mount(2).
pub fn move_to(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    match rustix::mount::move_mount(mount, "", target, "", flags) {
        // the kernel does not tell this cause of EINVAL apart
        Err(Errno::INVAL) if is_dir(mount) != is_dir(target) => Err(Errno::NOTDIR),
        result => result,
    }
}

/// Sets the propagation of an attached mount. Each entry has a propagation (`MS_SHARED` and so on), and whether it applies to
/// the mounts below, too.
///
/// # Errors
/// The errno of mount_setattr(2).
pub fn propagate(mount: BorrowedFd<'_>, propagation: &[(u64, bool)]) -> Result<()> {
    for (propagation, recursive) in propagation {
        mount_setattr(mount, *recursive, Change { propagation: *propagation, ..Change::default() }).doing(|| "set its propagation")?;
    }
    Ok(())
}

/// Whether `fd` is a directory; false also if fstat(2) fails.
pub fn is_dir(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir())
}

/// Makes `path` below `root` read-only, with all mounts below it: a bind mount of the path to itself. A missing path is ignored.
///
/// # Errors
/// The errno of openat2(2), open_tree(2), mount_setattr(2) or move_mount(2).
pub fn make_path_read_only(root: BorrowedFd<'_>, path: &str) -> Result<(), Errno> {
    let target = match beneath::open(root, path, OFlags::PATH) {
        Err(Errno::NOENT) => return Ok(()),
        result => result?,
    };
    let tree = open_tree(target.as_fd(), "", true)?;
    mount_setattr(tree.as_fd(), true, Change { set: RDONLY, ..Change::default() })?;
    move_to(tree.as_fd(), target.as_fd())?;
    leave(tree);
    leave(target);
    Ok(())
}

/// The flags that the kernel locks on a mount from a more privileged mount namespace (mount_namespaces(7)), each with its
/// statvfs(3) flag and its name.
const LOCKABLE: [(u64, StatVfsMountFlags, &str); 4] = [
    (RDONLY, StatVfsMountFlags::RDONLY, "MS_RDONLY"),
    (NOSUID, StatVfsMountFlags::NOSUID, "MS_NOSUID"),
    (NODEV, StatVfsMountFlags::NODEV, "MS_NODEV"),
    (NOEXEC, StatVfsMountFlags::NOEXEC, "MS_NOEXEC"),
];

/// Changes the flags of a bind mount. Locked flags (mount_namespaces(7)) are kept, as in runc; `cleared` are the flags that
/// the config wants off.
///
/// # Errors
/// EPERM if a flag of `cleared` or another access time mode is locked; otherwise the errno of mount_setattr(2).
pub fn change_flags(mount: BorrowedFd<'_>, change: Change, cleared: u64) -> Result<()> {
    let doing = || "failed to set user-requested vfs flags on bind-mount";
    match mount_setattr(mount, false, change) {
        Err(Errno::PERM) => keep_locked(mount, change, cleared).doing(doing),
        result => result.doing(doing),
    }
}

fn keep_locked(mount: BorrowedFd<'_>, mut change: Change, cleared: u64) -> Result<()> {
    let flags = rustix::fs::fstatvfs(mount)?.f_flag;
    let own = LOCKABLE.iter().filter(|(_, flag, _)| flags.contains(*flag));
    let wanted: Vec<_> = own.clone().filter(|(flag, _, _)| cleared & flag != 0).map(|(_, _, name)| *name).collect();
    if !wanted.is_empty() {
        return Err(Errno::PERM).doing(|| format!("cannot clear locked flags {}", wanted.join("|")));
    }
    // the kernel locks the access time flags as a whole
    if change.clear & ATIME != 0 {
        let mode = match () {
            () if flags.contains(StatVfsMountFlags::NOATIME) => NOATIME,
            () if flags.contains(StatVfsMountFlags::RELATIME) => RELATIME,
            () => STRICTATIME,
        };
        let present = if flags.contains(StatVfsMountFlags::NODIRATIME) { mode | NODIRATIME } else { mode };
        if change.set & (ATIME | NODIRATIME) != present {
            return Err(Errno::PERM).doing(|| format!("cannot change locked atime flags {}", atime_names(present)));
        }
    }
    let locked = own.fold(0, |all, (flag, _, _)| all | flag);
    change.set |= locked;
    change.clear &= !locked;
    mount_setattr(mount, false, change).doing(|| "remount with locked flags re-applied")
}

fn atime_names(flags: u64) -> String {
    let mode = match flags & ATIME {
        NOATIME => "MS_NOATIME",
        STRICTATIME => "MS_STRICTATIME",
        _ => "MS_RELATIME",
    };
    if flags & NODIRATIME != 0 { format!("{mode}|MS_NODIRATIME") } else { mode.to_owned() }
}
