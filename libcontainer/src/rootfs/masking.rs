//! `linux.maskedPaths` and `linux.readonlyPaths`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Doing, Error, Kind, Result};
use crate::findings::{Findings, Item};
use masu_host::beneath;
use masu_host::mounts::{filesystem, make_path_read_only, move_to, open_tree};
use masu_host::sys::close_range::leave;
use masu_host::sys::mount_attr::{Change, NODEV, NOEXEC, NOSUID, RDONLY, mount_setattr};

/// Absolute clean paths inside the root, without duplicates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Masking {
    pub masked: Vec<String>,
    pub read_only: Vec<String>,
}

impl Masking {
    /// Checks the paths. Relative paths start at the root.
    pub(crate) fn plan(masked: &[String], read_only: &[String], found: &mut Findings) -> Masking {
        let mut list = |paths: &[String], key: &str| {
            let list = format!("linux.{key}");
            let mut plan: Vec<String> = Vec::with_capacity(paths.len());
            for (i, path) in paths.iter().enumerate() {
                let at = Item(&list, i);
                if path.contains('\0') {
                    found.invalid(at, format!("linux.{key}: {path:?} holds a NUL byte"));
                    continue;
                }
                if !path.starts_with('/') {
                    found.warn(at, format!("linux.{key}: {path:?} is not absolute; taken from the root"));
                }
                let path = beneath::clean(path);
                if path == "/" {
                    found.invalid(at, format!("linux.{key}: the root itself cannot be listed"));
                    continue;
                }
                if !plan.contains(&path) {
                    plan.push(path);
                }
            }
            plan
        };
        Masking { masked: list(masked, "maskedPaths"), read_only: list(read_only, "readonlyPaths") }
    }

    /// Makes paths read-only, then masks paths. Missing paths are ignored.
    pub(crate) fn apply(&self, root: BorrowedFd<'_>, null: Option<Cover>) -> Result<()> {
        for path in &self.read_only {
            make_path_read_only(root, path).doing(|| format!("make {path} read-only"))?;
        }
        let mut covers = Covers { null, empty: None };
        for path in &self.masked {
            covers.mask(root, path).doing(|| format!("mask {path}"))?;
        }
        [covers.null, covers.empty].into_iter().flatten().for_each(|cover| leave(cover.mount));
        Ok(())
    }
}

/// The mounts that cover masked paths: /dev/null on files, one empty read-only tmpfs on all directories. One superblock is
/// enough, and each one costs time to unmount.
struct Covers {
    null: Option<Cover>,
    empty: Option<Cover>,
}

impl Covers {
    fn mask(&mut self, root: BorrowedFd<'_>, path: &str) -> Result<()> {
        let folder = match beneath::open(root, path, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTDIR) => None,
            result => Some(result?),
        };
        let is_folder = folder.is_some();
        let target = match folder {
            Some(folder) => folder,
            None => match beneath::open(root, path, OFlags::PATH) {
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
                result => result?,
            },
        };
        let cover = if is_folder {
            if self.empty.is_none() {
                let data = ["nr_blocks", "nr_inodes"].map(|key| (key.to_owned(), Some("1".to_owned())));
                self.empty = Some(Cover::new(filesystem("tmpfs", "tmpfs", &data, RDONLY | NOSUID | NODEV | NOEXEC)?));
            }
            &mut self.empty
        } else {
            &mut self.null
        };
        match cover {
            Some(cover) => {
                cover.put(target.as_fd())?;
                leave(target);
                Ok(())
            }
            None => Err(Error::new(Kind::Internal, "there is nothing to cover it with")),
        }
    }
}

/// A mount for several targets. It is attached at the first, and its copies at the others: only an attached mount can be copied.
#[derive(Debug)]
pub(crate) struct Cover {
    mount: OwnedFd,
    attached: bool,
}

impl Cover {
    fn new(mount: OwnedFd) -> Cover {
        Cover { mount, attached: false }
    }

    fn put(&mut self, target: BorrowedFd<'_>) -> Result<(), Errno> {
        if self.attached {
            let copy = open_tree(self.mount.as_fd(), "", false)?;
            move_to(copy.as_fd(), target)?;
            leave(copy);
            return Ok(());
        }
        self.attached = true;
        move_to(self.mount.as_fd(), target)
    }
}

/// Opens the cover of masked files: the container's own /dev/null. It is checked, because an image may have a link to another
/// file there (CVE-2025-31133). The host's /dev/null is the same inode as on the host, whose mode and owner the container's root
/// could change. So it is used only if the container has none, and read-only. Called before the pivot, because it needs the host.
pub(crate) fn open_null(root: BorrowedFd<'_>) -> Result<Cover> {
    let doing = || "open /dev/null";
    if let Some(null) = beneath::open(root, "/dev/null", OFlags::PATH | OFlags::NOFOLLOW).ok().filter(|fd| is_null(fd.as_fd())) {
        let copy = open_tree(null.as_fd(), "", false).doing(doing)?;
        leave(null);
        return Ok(Cover::new(copy));
    }
    let null = rustix::fs::openat(CWD, "/dev/null", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).doing(doing)?;
    if !is_null(null.as_fd()) {
        return Err(Error::invalid("the host's /dev/null is invalid: it is not the character device 1:3"));
    }
    let copy = open_tree(null.as_fd(), "", false).doing(doing)?;
    mount_setattr(copy.as_fd(), false, Change { set: RDONLY, ..Change::default() }).doing(doing)?;
    Ok(Cover::new(copy))
}

fn is_null(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(fd)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == rustix::fs::makedev(1, 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_and_the_root_is_refused() {
        let list = |s: &[&str]| s.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let mut found = Findings::new();
        let plan = Masking::plan(&list(&["/proc/kcore", "/proc/../proc/kcore", "x"]), &[], &mut found);
        assert_eq!(plan.masked, ["/proc/kcore", "/x"]);
        assert_eq!((found.list().len(), found.is_wrong()), (1, false));
        for bad in ["/", "", "/..", "a\0b"] {
            let mut found = Findings::new();
            Masking::plan(&list(&[bad]), &[], &mut found);
            assert!(found.is_wrong(), "{bad:?}");
        }
    }
}
