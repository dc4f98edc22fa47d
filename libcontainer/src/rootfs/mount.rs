//! One mount: from the config to what the kernel is told (`MountPlan`), and carried out in init.
//!
//! The mount API by descriptors (fsopen(2), open_tree(2), mount_setattr(2), move_mount(2)) makes a mount that is nowhere
//! yet, gives it all its attributes, and attaches it in one step to a target that is a descriptor too. There is no
//! remount, so no moment in which a read-only mount is writable, and no target that is looked up twice.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, OFlags, PROC_SUPER_MAGIC};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};

use super::beneath;
use super::options::Options;
use crate::error::{Doing, Error, Result};
use crate::spec;
use crate::sys::close_range::leave;
use crate::sys::mount_attr::{Change, RDONLY, mount_setattr};

/// Below /proc only these may be mounted upon: lxcfs and crypto policies do (runc's list).
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

/// One mount, ready to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPlan {
    /// Absolute and clean, inside the root.
    pub target: String,
    pub what: What,
    pub change: Change,
    pub change_all: Change,
    pub propagation: Vec<(u64, bool)>,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A tree of the host. `source` is absolute.
    Bind { source: String, recursive: bool },
    /// A file system of its own.
    Filesystem {
        fs_type: String,
        source: String,
        data: Vec<(String, Option<String>)>,
        /// A tmpfs that takes over the content of the directory below it.
        copy_up: bool,
    },
}

impl MountPlan {
    /// Turns one entry of `mounts` into a plan. `bundle` is absolute; a relative source is below it.
    pub fn plan(mount: &spec::Mount, options: Options, bundle: &str, label: Option<&str>) -> Result<MountPlan> {
        let target = check_target(mount)?;
        if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
            return Err(Error::unsupported(format!(
                "mount {target}: id-mapped mounts (idmap, uidMappings, gidMappings) are not supported yet"
            )));
        }
        let fs_type = mount.fs_type.as_str();
        let mut change = options.change;
        let what = if options.bind {
            if let Some((key, value)) = options.data.first() {
                let value = value.as_ref().map(|v| format!("={v}")).unwrap_or_default();
                return Err(Error::invalid(format!(
                    "invalid mount {target}: bind mounts cannot have any filesystem-specific options applied: {key}{value}"
                )));
            }
            if target.starts_with("/proc/") && !IN_PROC.contains(&target.as_str()) {
                return Err(in_proc(mount, &target));
            }
            let source = if mount.source.starts_with('/') { mount.source.clone() } else { format!("{bundle}/{}", mount.source) };
            What::Bind { source, recursive: options.recursive_bind }
        } else {
            if (target == "/proc" && fs_type != "proc") || target.starts_with("/proc/") {
                return Err(in_proc(mount, &target));
            }
            if fs_type.is_empty() {
                return Err(Error::invalid(format!(
                    "error mounting {:?} to rootfs at {target:?}: the mount has neither a type nor the option bind: no such device",
                    mount.source
                )));
            }
            // a new mount has no flags to clear, but the mode of access times is part of the flags
            change.clear = 0;
            let mut data = options.data;
            if let Some(label) = label.filter(|_| !matches!(fs_type, "proc" | "sysfs" | "mqueue" | "cgroup" | "cgroup2")) {
                data.push(("context".into(), Some(label.to_owned())));
            }
            What::Filesystem {
                fs_type: fs_type.to_owned(),
                source: mount.source.clone(),
                data,
                copy_up: options.copy_up && fs_type == "tmpfs",
            }
        };
        Ok(MountPlan { target, what, change, change_all: options.change_all, propagation: options.propagation })
    }

    /// Whether this is a tmpfs that must still be written into (devices, mount points, copied content) and so becomes
    /// read-only last.
    pub fn read_only_last(&self) -> bool {
        self.change.set & RDONLY != 0 && matches!(&self.what, What::Filesystem { fs_type, .. } if fs_type == "tmpfs")
    }

    /// Makes and attaches it below `root`; the mount itself is returned.
    pub(crate) fn apply(&self, root: BorrowedFd<'_>) -> Result<OwnedFd> {
        let source = match &self.what {
            What::Bind { source, .. } | What::Filesystem { source, .. } => source,
        };
        self.attach(root).doing(|| format!("error mounting {source:?} to rootfs at {:?}", self.target))
    }

    fn attach(&self, root: BorrowedFd<'_>) -> Result<OwnedFd> {
        let mount = match &self.what {
            What::Bind { source, recursive } => bind(source, *recursive)?,
            What::Filesystem { fs_type, source, data, .. } => {
                let mut attributes = self.change.set;
                if self.read_only_last() {
                    attributes &= !RDONLY;
                }
                let mut data = data.clone();
                if fs_type == "tmpfs" && !data.iter().any(|(key, _)| key == "mode") {
                    // as the image has it: /tmp keeps its sticky bit
                    data.extend(mode_of(root, &self.target)?);
                }
                filesystem(fs_type, source, &data, attributes)?
            }
        };
        let target = self.open_target(root, mount.as_fd())?;
        if matches!(self.what, What::Bind { .. }) && !self.change.is_empty() {
            mount_setattr(mount.as_fd(), false, self.change).doing(|| "set its flags")?;
        }
        if !self.change_all.is_empty() {
            mount_setattr(mount.as_fd(), true, self.change_all).doing(|| "set its flags recursively")?;
        }
        if let What::Filesystem { copy_up: true, .. } = self.what {
            super::copy_up::copy(target.as_fd(), mount.as_fd()).doing(|| "tmpcopyup")?;
        }
        move_to(mount.as_fd(), target.as_fd())?;
        leave(target);
        // only now: a detached mount has no peers to propagate from or to
        for (propagation, recursive) in &self.propagation {
            mount_setattr(mount.as_fd(), *recursive, Change { propagation: *propagation, ..Change::default() })
                .doing(|| "set its propagation")?;
        }
        Ok(mount)
    }

    fn open_target(&self, root: BorrowedFd<'_>, mount: BorrowedFd<'_>) -> Result<OwnedFd> {
        let target = match &self.what {
            // /proc and /sys must be what they seem: labels and sysctls are written through them (CVE-2019-19921)
            What::Filesystem { fs_type, .. } if fs_type == "proc" || fs_type == "sysfs" => {
                plain_dir(root, &self.target).map_err(|e| match e.errno() {
                    Some(Errno::LOOP | Errno::NOTDIR) => {
                        Error::invalid(format!("filesystem {fs_type:?} must be mounted on ordinary directory"))
                    }
                    _ => e,
                })?
            }
            What::Filesystem { .. } => match beneath::mkdir_plain(root, &self.target) {
                // no symbolic link on the way: it is where its name says
                Some(folder) => return Ok(folder),
                None => beneath::mkdir_all(root, &self.target).doing(|| "create mountpoint")?,
            },
            What::Bind { .. } => match FileType::from_raw_mode(rustix::fs::fstat(mount)?.st_mode) {
                FileType::Directory => beneath::mkdir_all(root, &self.target).doing(|| "create mountpoint")?,
                _ => beneath::create_file(root, &self.target).doing(|| "create mountpoint")?,
            },
        };
        if self.target == "/proc" {
            if let What::Bind { .. } = self.what
                && rustix::fs::fstatfs(mount)?.f_type as i64 != PROC_SUPER_MAGIC
            {
                return Err(Error::invalid("check proc-safety of /proc mount: \"/proc\" cannot be mounted because it is not of type proc"));
            }
        } else if !self.target.starts_with("/proc/") && rustix::fs::fstatfs(&target)?.f_type as i64 == PROC_SUPER_MAGIC {
            // a symbolic link of the image led into /proc
            return Err(Error::invalid(format!(
                "check proc-safety of {} mount: it cannot be mounted because it is inside /proc",
                self.target
            )));
        }
        Ok(target)
    }
}

fn in_proc(mount: &spec::Mount, target: &str) -> Error {
    Error::invalid(format!(
        "error mounting {:?} to rootfs at {target:?}: check proc-safety of {target} mount: {target:?} cannot be mounted because it is inside /proc",
        mount.source
    ))
}

/// The destination as an absolute clean path; the root itself is refused.
pub(super) fn check_target(mount: &spec::Mount) -> Result<String> {
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

/// The mode of the folder that a tmpfs will cover, as its option.
fn mode_of(root: BorrowedFd<'_>, target: &str) -> Result<Option<(String, Option<String>)>> {
    match beneath::open(root, target, OFlags::PATH | OFlags::DIRECTORY) {
        Ok(folder) => Ok(Some(("mode".to_owned(), Some(format!("{:o}", rustix::fs::fstat(&folder)?.st_mode & 0o7777))))),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e).doing(|| "open mountpoint"),
    }
}

fn plain_dir(root: BorrowedFd<'_>, target: &str) -> Result<OwnedFd> {
    match beneath::open_plain_dir(root, target) {
        Err(Errno::NOENT) => {
            beneath::mkdir_all(root, target).doing(|| "create mountpoint")?;
            Ok(beneath::open_plain_dir(root, target)?)
        }
        result => Ok(result?),
    }
}

/// A detached copy of the host's tree at `source`.
pub(crate) fn bind(source: &str, recursive: bool) -> Result<OwnedFd> {
    open_tree(CWD, source, recursive).map_err(Error::from).doing(|| format!("open {source}"))
}

/// open_tree(2) with OPEN_TREE_CLONE.
pub(crate) fn open_tree(dir: BorrowedFd<'_>, path: &str, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    if path.is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    rustix::mount::open_tree(dir, path, flags)
}

/// A new, detached mount of a file system, with the attributes `MOUNT_ATTR_*` of `attributes`.
pub(crate) fn filesystem(fs_type: &str, source: &str, data: &[(String, Option<String>)], attributes: u64) -> Result<OwnedFd> {
    let fs = rustix::mount::fsopen(fs_type, FsOpenFlags::FSOPEN_CLOEXEC).doing(|| format!("open file system {fs_type}"))?;
    if !source.is_empty() {
        rustix::mount::fsconfig_set_string(fs.as_fd(), "source", source)
            .map_err(|e| explain(&fs, e))
            .doing(|| format!("set source {source}"))?;
    }
    for (key, value) in data {
        let set = match value {
            Some(value) => rustix::mount::fsconfig_set_string(fs.as_fd(), key.as_str(), value.as_str()),
            None => rustix::mount::fsconfig_set_flag(fs.as_fd(), key.as_str()),
        };
        set.map_err(|e| explain(&fs, e)).doing(|| match value {
            Some(value) => format!("set option {key}={value}"),
            None => format!("set option {key}"),
        })?;
    }
    rustix::mount::fsconfig_create(fs.as_fd()).map_err(|e| explain(&fs, e))?;
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    let mount = rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    leave(fs);
    Ok(mount)
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

/// Attaches a detached mount to what `target` is.
pub(crate) fn move_to(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", target, "", flags)
}

/// Makes the mount that `path` below `root` is in read-only at that place, with all below: a bind of itself.
pub(crate) fn make_read_only(root: BorrowedFd<'_>, path: &str) -> Result<(), Errno> {
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
