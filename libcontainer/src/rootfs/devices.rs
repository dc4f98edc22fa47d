//! Device nodes and the symbolic links in /dev (config-linux.md, "Default Devices"; null(4), pts(4)).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::source::Sources;
use crate::error::{Doing, Error, Result};
use crate::findings::{Findings, Item};
use crate::spec;
use masu_host::beneath;
use masu_host::mounts::{move_to, open_tree};
use masu_host::sys::close_range::leave;

/// A device node to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DevicePlan {
    /// An absolute clean path inside the root.
    pub path: String,
    pub kind: FileType,
    pub rdev: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// The host's node at `path` is bind-mounted, because the kernel makes no device nodes in a user namespace.
    pub bound: bool,
}

/// The default nodes: path, major, minor.
const DEFAULTS: [(&str, u32, u32); 6] =
    [("/dev/null", 1, 3), ("/dev/zero", 1, 5), ("/dev/full", 1, 7), ("/dev/random", 1, 8), ("/dev/urandom", 1, 9), ("/dev/tty", 5, 0)];

/// The default symbolic links: name in /dev, target.
const LINKS: [(&str, &str); 4] =
    [("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2")];
/// A link that is made only if the kernel has the file (CONFIG_PROC_KCORE), as in runc.
pub(super) const CORE: (&str, &str) = ("core", "/proc/kcore");

impl DevicePlan {
    /// Plans the default nodes and those of the config. A node of the config replaces the default at the same path.
    pub(crate) fn plan(list: &[spec::Device], bound: bool, found: &mut Findings) -> Vec<DevicePlan> {
        let mut plans: Vec<DevicePlan> = DEFAULTS
            .iter()
            .map(|(path, major, minor)| DevicePlan {
                path: (*path).to_owned(),
                kind: FileType::CharacterDevice,
                rdev: rustix::fs::makedev(*major, *minor),
                mode: 0o666,
                uid: 0,
                gid: 0,
                bound,
            })
            .collect();
        for (i, device) in list.iter().enumerate() {
            if let Some(plan) = found.at(Item("linux.devices", i), Self::plan_one(device, bound)).flatten() {
                plans.retain(|p| p.path != plan.path);
                plans.push(plan);
            }
        }
        plans
    }

    fn plan_one(device: &spec::Device, bound: bool) -> Result<Option<DevicePlan>> {
        let invalid = |why: String| Error::invalid(format!("linux.devices: {}: {why}", device.path));
        let kind = match device.kind.as_str() {
            "c" | "u" => FileType::CharacterDevice,
            "b" => FileType::BlockDevice,
            "p" => FileType::Fifo,
            other => return Err(invalid(format!("invalid device type {other:?}"))),
        };
        if device.path.contains('\0') {
            return Err(invalid("the path holds a NUL byte".into()));
        }
        let number = |n: Option<i64>, name: &str| match n {
            Some(n) => u32::try_from(n).map_err(|_| invalid(format!("{name} {n} is out of range"))),
            None if kind == FileType::Fifo => Ok(0),
            None => Err(invalid(format!("{name} is missing"))),
        };
        let rdev = rustix::fs::makedev(number(device.major, "major")?, number(device.minor, "minor")?);
        let path = beneath::clean(&device.path);
        // "/" is only for a rule of the cgroup, and /dev/ptmx is always a symbolic link
        if path == "/" || path == "/dev/ptmx" {
            return Ok(None);
        }
        let mode = device.file_mode.unwrap_or(0o666);
        if mode & !0o7777 != 0 && mode & 0o170_000 != kind.as_raw_mode() {
            return Err(invalid(format!("fileMode {mode:o} is not a mode")));
        }
        let bound = bound && kind != FileType::Fifo;
        let (uid, gid) = (device.uid.unwrap_or(0), device.gid.unwrap_or(0));
        Ok(Some(DevicePlan { path, kind, rdev, mode: mode & 0o7777, uid, gid, bound }))
    }

    /// Plans one node for a container that exists. `None` if no node is made at this path.
    pub(crate) fn plan_live(device: &spec::Device) -> Result<Option<DevicePlan>> {
        Self::plan_one(device, false)
    }

    /// Makes the node in a container that exists, and returns whether it was missing. An existing node is not changed.
    pub(crate) fn add(&self, root: BorrowedFd<'_>) -> Result<bool> {
        let doing = || format!("create device {}", self.path);
        let (dir, name) = beneath::parent(root, &self.path).doing(doing)?;
        // the mode is exact, because the umask is 0
        let made = match rustix::fs::mknodat(&dir, name, self.kind, Mode::from_raw_mode(self.mode), self.rdev) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(e) => return Err(e).doing(doing),
        };
        let node = self.find(&dir, name).doing(doing)?;
        if made && (self.uid, self.gid) != (0, 0) {
            rustix::fs::chownat(&node, "", Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)), AtFlags::EMPTY_PATH)
                .doing(doing)?;
        }
        Ok(made)
    }

    /// Removes the node from a container that exists. It returns the former mode and owner, or `None` if there was no node.
    pub(crate) fn remove(&self, root: BorrowedFd<'_>) -> Result<Option<DevicePlan>> {
        let doing = || format!("remove device {}", self.path);
        let (dir, name) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        let dir = match beneath::open(root, dir, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => return Ok(None),
            result => result.doing(doing)?,
        };
        let node = match self.find(&dir, name) {
            Err(e) if e.errno() == Some(Errno::NOENT) => return Ok(None),
            result => result.doing(doing)?,
        };
        let stat = rustix::fs::fstat(&node).doing(doing)?;
        rustix::fs::unlinkat(&dir, name, AtFlags::empty()).doing(doing)?;
        Ok(Some(DevicePlan { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid, ..self.clone() }))
    }

    /// Opens the node, if it is this device.
    fn find(&self, dir: &OwnedFd, name: &str) -> Result<OwnedFd> {
        let node = rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let stat = rustix::fs::fstat(&node)?;
        if !is_device(&stat, self.kind, self.rdev) {
            return Err(Error::invalid(format!("{} exists and is not that device", self.path)));
        }
        Ok(node)
    }

    fn apply(&self, root: BorrowedFd<'_>, dev: &OwnedFd, sources: Sources<'_>) -> Result<()> {
        let doing = || format!("create device {}", self.path);
        let deeper;
        let (dir, name) = match self.path.strip_prefix("/dev/") {
            Some(name) if !name.contains('/') => (dev.as_fd(), name),
            _ => {
                deeper = beneath::parent(root, &self.path).doing(doing)?;
                (deeper.0.as_fd(), deeper.1)
            }
        };
        if self.bound {
            return self.bind(dir, name, sources).doing(doing);
        }
        // the mode is exact, because the umask is 0
        match rustix::fs::mknodat(dir, name, self.kind, Mode::from_raw_mode(self.mode), self.rdev) {
            Ok(()) if self.uid == 0 && self.gid == 0 => return Ok(()),
            Ok(()) | Err(Errno::EXIST) => {}
            // the runtime itself is in a user namespace
            Err(Errno::PERM) if self.kind != FileType::Fifo => return self.bind(dir, name, sources).doing(doing),
            Err(e) => return Err(e).doing(doing),
        }
        // an existing file may be of any type and may be replaced: from here on only this descriptor is used
        let node = rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).doing(doing)?;
        let stat = rustix::fs::fstat(&node).doing(doing)?;
        if !is_device(&stat, self.kind, self.rdev) {
            return Err(Error::invalid(format!("{} exists and is not the device that the config asks for", self.path))).doing(doing);
        }
        if (stat.st_uid, stat.st_gid) != (self.uid, self.gid) {
            rustix::fs::chownat(&node, "", Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)), AtFlags::EMPTY_PATH)
                .doing(doing)?;
        }
        if stat.st_mode & 0o7777 != self.mode {
            // fchmod(2) refuses an O_PATH descriptor. Its entry in /proc, still the host's, is the node itself even if the path
            // has changed
            let own = format!("/proc/self/fd/{}", node.as_raw_fd());
            rustix::fs::chmod(own, Mode::from_raw_mode(self.mode)).doing(doing)?;
        }
        Ok(())
    }

    /// Bind-mounts the host's node, after a check, on a new file. Its mode and owner stay the host's.
    fn bind(&self, dir: BorrowedFd<'_>, name: &str, sources: Sources<'_>) -> Result<()> {
        let node = sources.open(&self.path)?;
        if !is_device(&rustix::fs::fstat(&node)?, self.kind, self.rdev) {
            return Err(Error::invalid(format!("{} of the host, to be bound there, is not that device", self.path)));
        }
        let open = || rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        let target = match open() {
            Err(Errno::NOENT) => {
                rustix::fs::mknodat(dir, name, FileType::RegularFile, Mode::empty(), 0)?;
                open()?
            }
            target => target?,
        };
        if FileType::from_raw_mode(rustix::fs::fstat(&target)?.st_mode).is_symlink() {
            return Err(Errno::LOOP.into());
        }
        let mount = open_tree(node.as_fd(), "", false)?;
        move_to(mount.as_fd(), target.as_fd())?;
        [node, target, mount].into_iter().for_each(leave);
        Ok(())
    }
}

fn is_device(stat: &rustix::fs::Stat, kind: FileType, rdev: u64) -> bool {
    FileType::from_raw_mode(stat.st_mode) == kind && (kind == FileType::Fifo || stat.st_rdev == rdev)
}

/// Makes the nodes and links. /dev may be a symbolic link to a directory of the host (CVE-2026-41579), so it is also resolved
/// inside the root.
pub(super) fn apply(plans: &[DevicePlan], root: BorrowedFd<'_>, core: bool, sources: Sources<'_>) -> Result<()> {
    let dev = beneath::mkdir_all(root, "/dev").doing(|| "create /dev")?;
    for plan in plans {
        plan.apply(root, &dev, sources)?;
    }
    for (name, target) in LINKS {
        link(&dev, name, target)?;
    }
    if core {
        link(&dev, CORE.0, CORE.1)?;
    }
    // an existing node or link is replaced, because it could be the host's devpts
    let ptmx = || rustix::fs::symlinkat("pts/ptmx", &dev, "ptmx");
    match ptmx() {
        Err(Errno::EXIST) => rustix::fs::unlinkat(&dev, "ptmx", AtFlags::empty()).and_then(|()| ptmx()),
        result => result,
    }
    .doing(|| "create symlink /dev/ptmx")?;
    leave(dev);
    Ok(())
}

fn link(dev: &OwnedFd, name: &str, target: &str) -> Result<()> {
    match rustix::fs::symlinkat(target, dev, name) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(e).doing(|| format!("create symlink /dev/{name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> Result<Vec<DevicePlan>> {
        let mut found = Findings::new();
        let plans = DevicePlan::plan(&serde_json::from_str::<Vec<spec::Device>>(json).unwrap(), true, &mut found);
        found.unless_wrong(plans)
    }

    #[test]
    fn one_of_the_config_replaces_a_default() {
        let plans =
            plan(r#"[{"path":"/dev/null","type":"c","major":1,"minor":3,"fileMode":438,"uid":5},{"path":"/dev/x/y","type":"p"}]"#).unwrap();
        assert_eq!(plans.len(), 7);
        assert_eq!(plans[5].uid, 5);
        assert_eq!((plans[6].path.as_str(), plans[6].kind), ("/dev/x/y", FileType::Fifo));
        assert!(plans[5].bound && !plans[6].bound);
    }

    #[test]
    fn bad_devices_are_refused() {
        for (json, text) in [
            (r#"[{"path":"/dev/x","type":"z"}]"#, "invalid device type \"z\""),
            (r#"[{"path":"/dev/x"}]"#, "invalid device type \"\""),
            (r#"[{"path":"/dev/x","type":"c","minor":1}]"#, "major is missing"),
            (r#"[{"path":"/dev/x","type":"c","major":-5,"minor":1}]"#, "major -5 is out of range"),
            (r#"[{"path":"/dev/x","type":"c","major":1,"minor":1,"fileMode":2147483648}]"#, "is not a mode"),
        ] {
            let e = plan(json).unwrap_err();
            assert!(e.to_string().contains(text), "{json}: {e}");
        }
    }
}
