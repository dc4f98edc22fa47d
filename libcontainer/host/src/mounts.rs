//! Mounts that are nowhere yet: made, given all their attributes, and then attached in one step (fsopen(2), open_tree(2),
//! mount_setattr(2), move_mount(2)). Nothing is mounted and then changed, so there is no moment in which a read-only mount is writable.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};

use crate::beneath;
use crate::error::{Doing, Error, Result};
use crate::sys::close_range::leave;
use crate::sys::mount_attr::{ATIME, Change, NOATIME, NODEV, NODIRATIME, NOEXEC, NOSUID, RDONLY, RELATIME, STRICTATIME, mount_setattr};

/// A copy of the host's tree at `source`; with `nofollow` of a symbolic link itself.
pub fn bind(source: &str, recursive: bool, nofollow: bool) -> Result<OwnedFd> {
    let flags = if nofollow { OpenTreeFlags::AT_SYMLINK_NOFOLLOW } else { OpenTreeFlags::empty() };
    clone_tree(CWD, source, recursive, flags).map_err(Error::from).doing(|| format!("open {source}"))
}

/// A copy of the tree at `path` below `dir`, or of `dir` itself.
pub fn open_tree(dir: BorrowedFd<'_>, path: &str, recursive: bool) -> Result<OwnedFd, Errno> {
    clone_tree(dir, path, recursive, if path.is_empty() { OpenTreeFlags::AT_EMPTY_PATH } else { OpenTreeFlags::empty() })
}

fn clone_tree(dir: BorrowedFd<'_>, path: &str, recursive: bool, flags: OpenTreeFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(dir, path, if recursive { flags | OpenTreeFlags::AT_RECURSIVE } else { flags })
}

/// A new mount of a file system, with the attributes `MOUNT_ATTR_*` of `attributes`.
pub fn filesystem(fs_type: &str, source: &str, data: &[(String, Option<String>)], attributes: u64) -> Result<OwnedFd> {
    let fs = rustix::mount::fsopen(fs_type, FsOpenFlags::FSOPEN_CLOEXEC).doing(|| format!("open file system {fs_type}"))?;
    if !source.is_empty() {
        rustix::mount::fsconfig_set_string(fs.as_fd(), "source", source)
            .map_err(|e| explain(&fs, e))
            .doing(|| format!("set source {source}"))?;
    }
    set_options(&fs, data)?;
    rustix::mount::fsconfig_create(fs.as_fd()).map_err(|e| explain(&fs, e))?;
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    let mount = rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    leave(fs);
    Ok(mount)
}

/// Gives the file system that is mounted at `mount` other options (fspick(2)).
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

/// The errno, and what the file system says about it (fsopen(2): messages are read from the descriptor).
fn explain(fs: &OwnedFd, errno: Errno) -> Error {
    let mut text = [0u8; 256];
    let error = Error::from(errno);
    match rustix::io::read(fs, &mut text) {
        Ok(n) if n > 2 => error.context(String::from_utf8_lossy(text[2..n].trim_ascii()).replace('\n', " ")),
        _ => error,
    }
}

/// Attaches the mount to what `target` is.
pub fn move_to(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    match rustix::mount::move_mount(mount, "", target, "", flags) {
        // the kernel says no more than that when one is a directory and the other is not
        Err(Errno::INVAL) if is_dir(mount) != is_dir(target) => Err(Errno::NOTDIR),
        result => result,
    }
}

/// Sets the propagation of a mount that is attached, and of those below where that is asked for.
pub fn propagate(mount: BorrowedFd<'_>, propagation: &[(u64, bool)]) -> Result<()> {
    for (propagation, recursive) in propagation {
        mount_setattr(mount, *recursive, Change { propagation: *propagation, ..Change::default() }).doing(|| "set its propagation")?;
    }
    Ok(())
}

pub fn is_dir(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir())
}

/// Makes the mount that `path` below `root` is in read-only at that place, with all below: a bind of itself.
pub fn make_read_only(root: BorrowedFd<'_>, path: &str) -> Result<(), Errno> {
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

/// The flags that stay as they are on a mount that came from the namespace of another user namespace, and the statvfs(3)
/// flag and the name of each.
const LOCKABLE: [(u64, StatVfsMountFlags, &str); 4] = [
    (RDONLY, StatVfsMountFlags::RDONLY, "MS_RDONLY"),
    (NOSUID, StatVfsMountFlags::NOSUID, "MS_NOSUID"),
    (NODEV, StatVfsMountFlags::NODEV, "MS_NODEV"),
    (NOEXEC, StatVfsMountFlags::NOEXEC, "MS_NOEXEC"),
];

/// Changes the flags of a bind. Where some are locked (mount_namespaces(7)), they are kept, as under runc, unless the config
/// asks for the contrary: `cleared` are those that it wants to be off.
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
    // access times are locked as a whole
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
