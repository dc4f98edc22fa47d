//! Paths that are opened, made and removed below the descriptor of a root directory.
//!
//! The content of a root file system is hostile, and another container may change it at any moment. So the kernel resolves
//! each path from the root's descriptor and keeps every symbolic link inside (openat2(2), RESOLVE_IN_ROOT). The resulting
//! descriptor is used from then on, never the path again (CVE-2021-30465, CVE-2024-45310, CVE-2026-41579).

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Doing, Error, Result};
use crate::procfs::openat2_retry;
use crate::sys::close_range::leave;

const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
/// The number of symbolic links that the kernel follows in one path (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Opens `path` inside `root`, close-on-exec.
///
/// # Errors
/// The errno of openat2(2): the path does not exist, or `flags` are not permitted.
pub fn open(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat2_retry(root, in_root(path), flags | OFlags::CLOEXEC, IN_ROOT)
}

/// Whether the kernel has openat2(2) (5.6). qemu-user before version 9, which emulates another architecture, lacks it.
pub fn has_openat2() -> bool {
    rustix::fs::openat2(rustix::fs::CWD, "/", OFlags::PATH, Mode::empty(), ResolveFlags::empty()).err() != Some(Errno::NOSYS)
}

/// Opens the directory `path` with O_PATH. No component of the path may be a symbolic link.
///
/// # Errors
/// ELOOP for a symbolic link, or ENOTDIR for one at the end; otherwise the errno of openat2(2).
pub fn open_plain_dir(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2_retry(root, in_root(path), flags, IN_ROOT | ResolveFlags::NO_SYMLINKS)
}

/// Opens `path`, a file of any type, with O_PATH. A symbolic link at its end is opened itself.
///
/// # Errors
/// ELOOP for a symbolic link before the end; otherwise the errno of openat2(2).
pub fn open_plain(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2_retry(root, in_root(path), flags, IN_ROOT | ResolveFlags::NO_SYMLINKS)
}

/// Opens the directory `path` with O_PATH, and makes missing directories of the path with mode 0755.
///
/// # Errors
/// A component is not a directory, has too many symbolic links, or cannot be made.
pub fn mkdir_all(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd> {
    match open(root, path, OFlags::PATH | OFlags::DIRECTORY) {
        Err(Errno::NOENT) => make(root, path, FileType::Directory),
        result => Ok(result?),
    }
}

/// An opened mount point.
#[derive(Debug)]
pub struct Place {
    /// The mount point, opened with O_PATH.
    pub fd: OwnedFd,
    /// True if no component of the path is a symbolic link. False also if that was not checked.
    pub is_plain: bool,
    /// Whether [`place`] made the mount point.
    pub made: bool,
}

/// The directory in which [`place`] made the last mount point. It is kept open, because the next one is often beside it.
#[derive(Debug, Default)]
pub struct Beside(Option<(String, OwnedFd)>);

impl Beside {
    /// The kept directory and the name of `path` in it, if `path` is directly in that directory.
    fn of<'a>(&self, path: &'a str) -> Option<(BorrowedFd<'_>, &'a str)> {
        let (dir, fd) = self.0.as_ref()?;
        let name = path.strip_prefix(dir.as_str())?.strip_prefix('/')?;
        (!["", ".", ".."].contains(&name) && !name.contains('/')).then_some((fd.as_fd(), name))
    }

    /// Must be called after a mount at `path`: the mount may hide the kept directory, unless `path` is directly in it.
    pub fn mounted(&mut self, path: &str) {
        if self.of(path).is_none() {
            self.forget();
        }
    }

    /// Closes the kept directory, because another mount may hide it.
    pub fn forget(&mut self) {
        self.keep(None);
    }

    fn keep(&mut self, dir: Option<(String, OwnedFd)>) {
        if let Some((_, fd)) = std::mem::replace(&mut self.0, dir) {
            leave(fd);
        }
    }
}

/// Opens the mount point `path` inside `root`. A missing one is made as a `kind` (a directory, otherwise a regular file), with
/// its parent directories; an existing one is not changed.
///
/// # Errors
/// A component is not a directory, has too many symbolic links, or cannot be made.
pub fn place(root: BorrowedFd<'_>, path: &str, beside: &mut Beside, kind: impl Fn() -> FileType) -> Result<Place> {
    let place = |fd, is_plain, made| Ok(Place { fd, is_plain, made });
    if let Some((dir, name)) = beside.of(path) {
        if let Some(fd) = make_in(dir, name, kind()) {
            return place(fd, true, true);
        }
        beside.forget();
    }
    // without O_NOFOLLOW: with it, a symbolic link at the end would be opened instead of refused
    match openat2_retry(root, in_root(path), OFlags::PATH | OFlags::CLOEXEC, IN_ROOT | ResolveFlags::NO_SYMLINKS) {
        Err(Errno::NOENT) => match make_plain(root, path, beside, kind()) {
            Some(fd) => place(fd, true, true),
            None => place(make(root, path, kind())?, false, true),
        },
        Err(Errno::LOOP) => match open(root, path, OFlags::PATH) {
            Err(Errno::NOENT) => place(make(root, path, kind())?, false, true),
            result => place(result?, false, false),
        },
        result => place(result?, true, false),
    }
}

/// Makes the last component of `path` if only that is missing, and keeps its directory in `beside`. `None`: `make` must do
/// the complete walk.
fn make_plain(root: BorrowedFd<'_>, path: &str, beside: &mut Beside, kind: FileType) -> Option<OwnedFd> {
    let (dir, name) = path.rsplit_once('/').filter(|(_, name)| !["", ".", ".."].contains(name))?;
    let fd = open_plain_dir(root, dir).ok()?;
    let made = make_in(fd.as_fd(), name, kind);
    beside.keep(Some((dir.to_owned(), fd)));
    made
}

/// Makes `name` in the directory `dir`; `None` if `name` exists.
fn make_in(dir: BorrowedFd<'_>, name: &str, kind: FileType) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let flags = match kind {
        FileType::Directory => {
            rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755)).ok()?;
            flags | OFlags::DIRECTORY
        }
        _ => {
            rustix::fs::mknodat(dir, name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0).ok()?;
            flags
        }
    };
    rustix::fs::openat(dir, name, flags, Mode::empty()).ok()
}

/// Opens the directory that holds `path`, made where missing, and returns it with the last component of `path`.
///
/// # Errors
/// `path` does not end in a name, or as for [`mkdir_all`].
pub fn parent<'a>(root: BorrowedFd<'_>, path: &'a str) -> Result<(OwnedFd, &'a str)> {
    let path = path.trim_end_matches('/');
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    if name.is_empty() || name == "." || name == ".." {
        return Err(Error::invalid(format!("{path:?} does not end in a name")));
    }
    Ok((mkdir_all(root, dir)?, name))
}

/// openat2(2) refuses the empty path and takes a leading slash for `root`; here both mean `root`.
fn in_root(path: &str) -> &str {
    if path.is_empty() { "." } else { path }
}

/// Walks the path component by component and makes the missing ones. It follows the rules of RESOLVE_IN_ROOT on descriptors,
/// because openat2(2) makes no directories. `..` goes one step back in `walked`: the kernel's `..` could leave the root after
/// a rename by another container.
fn make(root: BorrowedFd<'_>, path: &str, kind: FileType) -> Result<OwnedFd> {
    let mut rest: VecDeque<String> = parts(path).collect();
    let mut walked: Vec<OwnedFd> = Vec::new();
    let mut links = 0;
    while let Some(part) = rest.pop_front() {
        if part == ".." {
            walked.pop();
            continue;
        }
        let dir = walked.last().map_or(root, OwnedFd::as_fd);
        let last = rest.is_empty();
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(dir, part.as_str(), flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                make_one(dir, &part, if last { kind } else { FileType::Directory })?;
                rustix::fs::openat(dir, part.as_str(), flags, Mode::empty())?
            }
            result => result?,
        };
        match FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) {
            FileType::Symlink => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP.into());
                }
                let target = rustix::fs::readlinkat(&fd, "", Vec::new())?;
                let target = target.to_str().map_err(|_| Errno::ILSEQ)?;
                if target.starts_with('/') {
                    walked.clear();
                }
                for part in parts(target).collect::<Vec<_>>().into_iter().rev() {
                    rest.push_front(part);
                }
            }
            FileType::Directory => walked.push(fd),
            _ if last => return Ok(fd),
            _ => return Err(Errno::NOTDIR.into()),
        }
    }
    if kind != FileType::Directory {
        // the path is a directory although a file was wanted: the caller's mount will report that
        return walked.pop().ok_or_else(|| Errno::ISDIR.into());
    }
    match walked.pop() {
        Some(fd) => Ok(fd),
        None => Ok(open(root, ".", OFlags::PATH | OFlags::DIRECTORY)?),
    }
}

fn make_one(dir: BorrowedFd<'_>, name: &str, kind: FileType) -> Result<(), Errno> {
    let made = match kind {
        FileType::Directory => rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755)),
        _ => rustix::fs::mknodat(dir, name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0),
    };
    match made {
        // another container made it first: it is opened without following links
        Err(Errno::EXIST) => Ok(()),
        result => result,
    }
}

fn parts(path: &str) -> impl Iterator<Item = String> {
    path.split('/').filter(|p| !p.is_empty() && *p != ".").map(str::to_owned)
}

/// Removes the content of the directory `dir`, which other processes may change at the same time. It keeps one descriptor
/// open for each level.
///
/// # Errors
/// An entry cannot be removed, for example a mount point.
pub fn remove_all_in(dir: BorrowedFd<'_>) -> Result<()> {
    let readable = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let names: Vec<_> =
        rustix::fs::Dir::read_from(dir)?.map(|entry| entry.map(|entry| entry.file_name().to_owned())).collect::<Result<_, _>>()?;
    for name in names.into_iter().filter(|name| name.as_c_str() != c"." && name.as_c_str() != c"..") {
        match rustix::fs::unlinkat(dir, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            // unlink(2) of a directory is EISDIR on Linux, and EPERM in POSIX
            Err(Errno::ISDIR | Errno::PERM) => {
                let inner = rustix::fs::openat(dir, &name, readable, Mode::empty())?;
                remove_all_in(inner.as_fd())?;
                match rustix::fs::unlinkat(dir, &name, AtFlags::REMOVEDIR) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(e) => return Err(e).doing(|| format!("remove {}", name.to_string_lossy())),
                }
            }
            Err(e) => return Err(e).doing(|| format!("remove {}", name.to_string_lossy())),
        }
    }
    Ok(())
}

/// The lexical form of a path inside a root: absolute, without `.`, `..` and doubled slashes. `..` stops at the root.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Whether `name` exists in `dir`; a symbolic link is not followed.
pub fn exists(dir: BorrowedFd<'_>, name: &str) -> bool {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        std::fs::create_dir(dir.path().join("host")).unwrap();
        let fd = rustix::fs::open(dir.path().join("root"), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        (dir, fd)
    }

    #[test]
    fn links_stay_inside_also_when_dangling() {
        if crate::is_emulated("links_stay_inside_also_when_dangling") {
            return;
        }
        let (dir, fd) = root();
        let at = |p: &str| dir.path().join("root").join(p);
        symlink("../../host", at("relative")).unwrap();
        symlink(dir.path().join("host"), at("absolute")).unwrap();
        symlink("/run", at("dangling")).unwrap();
        mkdir_all(fd.as_fd(), "/relative/a").unwrap();
        mkdir_all(fd.as_fd(), "/absolute/b").unwrap();
        place(fd.as_fd(), "dangling/c/d", &mut Beside::default(), || FileType::RegularFile).unwrap();
        assert!(at("host/a").is_dir());
        assert!(at("run/c/d").is_file());
        let inside = dir.path().join("host").strip_prefix("/").unwrap().join("b");
        assert!(at(inside.to_str().unwrap()).is_dir());
        assert_eq!(std::fs::read_dir(dir.path().join("host")).unwrap().count(), 0);
    }

    #[test]
    fn a_place_is_plain_without_links() {
        if crate::is_emulated("a_place_is_plain_without_links") {
            return;
        }
        let (dir, fd) = root();
        symlink("a", dir.path().join("root/link")).unwrap();
        let of = |path: &str| {
            let place = place(fd.as_fd(), path, &mut Beside::default(), || FileType::Directory).unwrap();
            (place.is_plain, place.made)
        };
        assert_eq!([of("/a"), of("/a"), of("a/./b")], [(true, true), (true, false), (true, true)]);
        // made by the longer walk, which does not check for symbolic links
        assert_eq!([of("/x/y/z"), of("/x/y/z")], [(false, true), (true, false)]);
        assert_eq!([of("link/c"), of("/link/c"), of("link")], [(false, true), (false, false), (false, false)]);
    }

    #[test]
    fn loops_and_files_on_the_way_are_errors() {
        if crate::is_emulated("loops_and_files_on_the_way_are_errors") {
            return;
        }
        let (dir, fd) = root();
        symlink("loop", dir.path().join("root/loop")).unwrap();
        assert_eq!(mkdir_all(fd.as_fd(), "loop/x").unwrap_err().errno(), Some(Errno::LOOP));
        std::fs::write(dir.path().join("root/file"), "").unwrap();
        assert_eq!(mkdir_all(fd.as_fd(), "file/x").unwrap_err().errno(), Some(Errno::NOTDIR));
    }

    #[test]
    fn dots_stop_at_the_root() {
        if crate::is_emulated("dots_stop_at_the_root") {
            return;
        }
        let (dir, fd) = root();
        mkdir_all(fd.as_fd(), "../../x/../y").unwrap();
        assert!(dir.path().join("root/y").is_dir() && !dir.path().join("y").exists());
        assert_eq!(clean("a//./b/../../../c"), "/c");
        assert_eq!(clean(""), "/");
    }
}
