//! Files of the resctrl file system, opened below its root.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Doing, Error, Result};
use masu_host::procfs::{Procfs, read_regular};

/// RDTGROUP_SUPER_MAGIC of linux/magic.h.
const MAGIC: i64 = 0x0765_5821;
/// The largest size of a file that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// The root of the file system. Paths are relative to it; the empty path is the root itself.
#[derive(Debug)]
pub(super) struct Resctrl {
    root: String,
    fd: OwnedFd,
}

impl Resctrl {
    /// Finds the mount point in the mount table, and opens it.
    pub(super) fn find(proc: &Procfs) -> Result<Resctrl> {
        let table = proc.read(&format!("{}/mountinfo", proc.me()?)).doing(|| "read /proc/self/mountinfo")?;
        match String::from_utf8_lossy(&table).lines().find_map(mount_point) {
            Some(root) => Self::open(&root),
            None => Err(Error::unsupported("linux.intelRdt: intelRdt is specified in config, but Intel RDT is not enabled")),
        }
    }

    /// Opens the file system mounted at `root`.
    pub(super) fn open(root: &str) -> Result<Resctrl> {
        let resctrl = Self::at(root)?;
        match rustix::fs::fstatfs(&resctrl.fd).doing(|| format!("look at {root}"))?.f_type as i64 {
            MAGIC => Ok(resctrl),
            _ => Err(Error::unsupported(format!("{root} is not a resctrl file system"))),
        }
    }

    pub(super) fn at(root: &str) -> Result<Resctrl> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, root, flags, Mode::empty()).doing(|| format!("open {root}"))?;
        Ok(Resctrl { root: root.to_owned(), fd })
    }

    /// The absolute path of `inner`.
    pub(super) fn path(&self, inner: &str) -> String {
        if inner.is_empty() { self.root.clone() } else { format!("{}/{inner}", self.root) }
    }

    pub(super) fn has(&self, inner: &str) -> Result<bool> {
        match rustix::fs::accessat(&self.fd, here(inner), Access::EXISTS, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(e).doing(|| format!("look for {}", self.path(inner))),
        }
    }

    pub(super) fn make(&self, inner: &str) -> Result<()> {
        rustix::fs::mkdirat(&self.fd, inner, Mode::from_raw_mode(0o755)).doing(|| self.words("make", inner))
    }

    pub(super) fn remove(&self, inner: &str) -> Result<()> {
        match rustix::fs::unlinkat(&self.fd, inner, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e).doing(|| format!("remove {}", self.path(inner))),
        }
    }

    /// Writes a file in one call.
    pub(super) fn write(&self, inner: &str, text: &str) -> Result<()> {
        let write = || {
            rustix::io::write(
                rustix::fs::openat(&self.fd, inner, OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?,
                text.as_bytes(),
            )
        };
        write().map(drop).doing(|| self.words("write to", inner))
    }

    pub(super) fn read(&self, inner: &str) -> Result<String> {
        let doing = || format!("read {}", self.path(inner));
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.fd, inner, flags, Mode::empty()).doing(doing)?;
        let bytes = read_regular(file.as_fd(), LONGEST).doing(doing)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The names in a directory, sorted.
    pub(super) fn list(&self, inner: &str) -> Result<Vec<String>> {
        let doing = || format!("list {}", self.path(inner));
        let dir = rustix::fs::openat(&self.fd, inner, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).doing(doing)?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(dir).doing(doing)? {
            let name = entry.doing(doing)?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The text of a failed operation, with the kernel's reason from `info/last_cmd_status`.
    fn words(&self, verb: &str, inner: &str) -> String {
        let path = self.path(inner);
        match self.read("info/last_cmd_status") {
            Ok(status) if status.trim() != "ok" => format!("{verb} {path} (last_cmd_status: {})", status.trim()),
            _ => format!("{verb} {path}"),
        }
    }
}

/// The empty path becomes `.`, because the kernel refuses an empty path.
fn here(inner: &str) -> &str {
    if inner.is_empty() { "." } else { inner }
}

/// The mount point in a line of mountinfo, if the line is a mount of resctrl.
fn mount_point(line: &str) -> Option<String> {
    let (mount, file_system) = line.split_once(" - ")?;
    let point = mount.split(' ').nth(4)?;
    file_system.starts_with("resctrl ").then(|| masu_host::procfs::unescape(point))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_point_is_found() {
        let line = |kind: &str| format!("31 23 0:28 / /sys/fs/res\\040ctrl rw,relatime shared:9 - {kind} resctrl rw");
        assert_eq!(mount_point(&line("resctrl")).as_deref(), Some("/sys/fs/res ctrl"));
        assert_eq!(mount_point(&line("resctrlx")), None);
        assert_eq!(mount_point("31 23 0:28 / /sys/fs/resctrl rw - tmpfs resctrl rw"), None);
        assert_eq!(mount_point("31"), None);
    }

    #[test]
    fn a_plain_folder_is_not_taken_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let e = Resctrl::open(dir.path().to_str().unwrap()).unwrap_err();
        assert!(e.to_string().ends_with("is not a resctrl file system"), "{e}");
    }
}
