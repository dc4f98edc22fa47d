//! The root file system that Create asks for (containerd.types.Mount), and its end.

use std::os::fd::AsFd;
use std::path::{Component, Path};

use libcontainer::error::{Doing, Error, Result};
use libcontainer::sys::mount_attr::{Change, mount_setattr};
use rustix::fs::{CWD, Mode};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use crate::messages::Mount;

/// What mount(2) takes of data.
const PAGE: usize = 4096;

/// Mounts all in order; what was mounted before a failure is taken off again.
pub(crate) fn mount_all(mounts: &[Mount], rootfs: &Path) -> Result<()> {
    if mounts.is_empty() {
        return Ok(());
    }
    match rustix::fs::mkdirat(CWD, rootfs, Mode::from_raw_mode(0o711)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e).doing(|| format!("make {}", rootfs.display())),
    }
    let result =
        mounts.iter().try_for_each(|m| mount(m, rootfs).doing(|| format!("mount {} of type {} on {}", m.source, m.kind, rootfs.display())));
    if result.is_err() {
        let _ = unmount(rootfs);
    }
    result
}

#[derive(Debug, PartialEq)]
pub(crate) struct Parsed {
    flags: MountFlags,
    propagation: MountPropagationFlags,
    data: Vec<String>,
    recursive: bool,
}

pub(crate) fn parse(options: &[String]) -> Result<Parsed> {
    let mut parsed = Parsed { flags: MountFlags::empty(), propagation: MountPropagationFlags::empty(), data: Vec::new(), recursive: false };
    for option in options {
        let (set, flag) = match option.as_str() {
            "ro" => (true, MountFlags::RDONLY),
            "rw" => (false, MountFlags::RDONLY),
            "nosuid" => (true, MountFlags::NOSUID),
            "suid" => (false, MountFlags::NOSUID),
            "nodev" => (true, MountFlags::NODEV),
            "dev" => (false, MountFlags::NODEV),
            "noexec" => (true, MountFlags::NOEXEC),
            "exec" => (false, MountFlags::NOEXEC),
            "sync" => (true, MountFlags::SYNCHRONOUS),
            "async" => (false, MountFlags::SYNCHRONOUS),
            "dirsync" => (true, MountFlags::DIRSYNC),
            "noatime" => (true, MountFlags::NOATIME),
            "atime" => (false, MountFlags::NOATIME),
            "nodiratime" => (true, MountFlags::NODIRATIME),
            "diratime" => (false, MountFlags::NODIRATIME),
            "relatime" => (true, MountFlags::RELATIME),
            "norelatime" => (false, MountFlags::RELATIME),
            "strictatime" => (true, MountFlags::STRICTATIME),
            "nostrictatime" => (false, MountFlags::STRICTATIME),
            "defaults" | "bind" => continue,
            "rbind" => {
                parsed.recursive = true;
                continue;
            }
            "private" | "slave" | "shared" | "unbindable" | "rprivate" | "rslave" | "rshared" | "runbindable" => {
                parsed.propagation = propagation(option);
                continue;
            }
            "loop" => return Err(Error::unsupported("the mount option loop is not supported")),
            other if other.starts_with("uidmap=") || other.starts_with("gidmap=") => {
                return Err(Error::unsupported("id-mapped mounts of a root file system are not supported"));
            }
            other if other.starts_with("X-containerd.") => {
                return Err(Error::invalid(format!("the mount option {other} is for containerd, not for a shim")));
            }
            _ => {
                parsed.data.push(option.clone());
                continue;
            }
        };
        parsed.flags.set(flag, set);
    }
    Ok(parsed)
}

fn propagation(option: &str) -> MountPropagationFlags {
    let (name, recursive) = match option.strip_prefix('r') {
        Some(name) => (name, MountPropagationFlags::REC),
        None => (option, MountPropagationFlags::empty()),
    };
    recursive
        | match name {
            "private" => MountPropagationFlags::PRIVATE,
            "slave" => MountPropagationFlags::DOWNSTREAM,
            "shared" => MountPropagationFlags::SHARED,
            _ => MountPropagationFlags::UNBINDABLE,
        }
}

fn mount(mount: &Mount, rootfs: &Path) -> Result<()> {
    for kind in ["format/", "mkdir/", "mkfs/"] {
        if mount.kind.starts_with(kind) {
            return Err(Error::invalid(format!("mounts of type {kind}… are for containerd's mount manager, not for a shim")));
        }
    }
    let parsed = parse(&mount.options)?;
    let below = Path::new(mount.target.trim_start_matches('/'));
    if below.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(Error::invalid(format!("the target {} leads out of the root file system", mount.target)));
    }
    let target = if below.as_os_str().is_empty() { rootfs.to_owned() } else { rootfs.join(below) };
    let is_bind = mount.kind == "bind" || mount.options.iter().any(|o| o == "bind" || o == "rbind");
    if is_bind {
        bind(&mount.source, &target, &parsed)?;
    } else {
        let data = parsed.data.join(",");
        if data.len() < PAGE {
            let data = (!data.is_empty()).then_some(data);
            let data =
                data.as_deref().map(std::ffi::CString::new).transpose().map_err(|_| Error::invalid("a zero byte in a mount option"))?;
            rustix::mount::mount(&*mount.source, &target, &*mount.kind, parsed.flags, data.as_deref())?;
        } else {
            by_descriptor(mount, &target, &parsed)?;
        }
    }
    if parsed.propagation != MountPropagationFlags::empty() {
        rustix::mount::mount_change(&target, parsed.propagation)?;
    }
    Ok(())
}

/// A bind with its attributes from the start: a read-only one is never writable.
fn bind(source: &str, target: &Path, parsed: &Parsed) -> Result<()> {
    let recursive = if parsed.recursive { OpenTreeFlags::AT_RECURSIVE } else { OpenTreeFlags::empty() };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | recursive;
    let tree = rustix::mount::open_tree(CWD, source, flags)?;
    let wanted = attributes(parsed.flags);
    if !wanted.is_empty() {
        mount_setattr(tree.as_fd(), parsed.recursive, Change { set: u64::from(wanted.bits()), ..Change::default() })?;
    }
    Ok(rustix::mount::move_mount(&tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

fn attributes(flags: MountFlags) -> MountAttrFlags {
    let mut attributes = MountAttrFlags::empty();
    for (flag, attribute) in [
        (MountFlags::RDONLY, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (MountFlags::NOSUID, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (MountFlags::NODEV, MountAttrFlags::MOUNT_ATTR_NODEV),
        (MountFlags::NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (MountFlags::NODIRATIME, MountAttrFlags::MOUNT_ATTR_NODIRATIME),
    ] {
        attributes.set(attribute, flags.contains(flag));
    }
    attributes
}

/// More options than mount(2) takes: the layers of an overlay one by one (`lowerdir+`, kernel 6.7).
fn by_descriptor(mount: &Mount, target: &Path, parsed: &Parsed) -> Result<()> {
    let fs = rustix::mount::fsopen(&*mount.kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(fs.as_fd(), "source", &*mount.source)?;
    for option in &parsed.data {
        match option.split_once('=') {
            Some(("lowerdir", layers)) if mount.kind == "overlay" => {
                for layer in layers.split(':') {
                    rustix::mount::fsconfig_set_string(fs.as_fd(), "lowerdir+", layer)
                        .doing(|| format!("mount options is too long: they have {} layers; add {layer}", layers.split(':').count()))?;
                }
            }
            Some((key, value)) => rustix::mount::fsconfig_set_string(fs.as_fd(), key, value)?,
            None => rustix::mount::fsconfig_set_flag(fs.as_fd(), &**option)?,
        }
    }
    rustix::mount::fsconfig_create(fs.as_fd())?;
    let made = rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes(parsed.flags))?;
    Ok(rustix::mount::move_mount(&made, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Takes off all that is mounted there, with what is mounted below it.
pub(crate) fn unmount(rootfs: &Path) -> Result<()> {
    loop {
        let flags = UnmountFlags::NOFOLLOW;
        match rustix::mount::unmount(rootfs, flags) {
            // something may be mounted below, or still be held
            Err(Errno::BUSY) => match rustix::mount::unmount(rootfs, flags | UnmountFlags::DETACH) {
                Ok(()) | Err(Errno::INTR) => {}
                Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
                Err(e) => return Err(e).doing(|| format!("unmount {}", rootfs.display())),
            },
            Ok(()) | Err(Errno::INTR) => {}
            // no mount, or no such folder
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(e) => return Err(e).doing(|| format!("unmount {}", rootfs.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[&str]) -> Vec<String> {
        list.iter().map(|o| o.to_string()).collect()
    }

    #[test]
    fn options_are_flags_or_data() {
        let parsed = parse(&options(&["ro", "nosuid", "rbind", "rslave", "lowerdir=/a:/b", "index=off", "rw"])).unwrap();
        assert_eq!(parsed.flags, MountFlags::NOSUID);
        assert!(parsed.recursive);
        assert_eq!(parsed.propagation, MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC);
        assert_eq!(parsed.data, ["lowerdir=/a:/b", "index=off"]);
    }

    #[test]
    fn what_is_for_others_is_refused() {
        for option in ["loop", "uidmap=0:1:1", "X-containerd.mkdir.path=/x"] {
            parse(&options(&[option])).unwrap_err();
        }
        let wrong = |kind: &str, target: &str| {
            let m = Mount { kind: kind.into(), target: target.into(), ..Mount::default() };
            mount(&m, Path::new("/nonexistent")).unwrap_err().to_string()
        };
        assert!(wrong("mkfs/ext4", "").contains("mount manager"));
        assert!(wrong("tmpfs", "a/../../b").contains("leads out"));
    }

    #[test]
    fn what_is_not_mounted_is_unmounted() {
        unmount(Path::new("/nonexistent/rootfs")).unwrap();
    }
}
