//! Files of a cgroup, opened below the descriptor of its directory or by the path in a record.
//!
//! Runs in the runtime. cgroups(7). A value is written in one call, because the kernel takes each write(2) as one request.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, ResolveFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use crate::error::{Doing, Error, Result};

/// The type of a v1 hierarchy's file system (linux/magic.h).
const CGROUP_MAGIC: u64 = 0x0027_e0eb;
/// The type of the v2 hierarchy's file system (linux/magic.h).
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// Refuses symbolic links, magic links, other mounts, and paths that leave the directory (openat2(2)).
const STRICT: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_XDEV).union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Whether `path` is in a v2 hierarchy.
pub(super) fn is_cgroup2(path: &str) -> bool {
    rustix::fs::statfs(path).is_ok_and(|s| s.f_type as u64 == CGROUP2_MAGIC)
}

/// Opens the mount point of a hierarchy and checks the type of its file system.
pub(super) fn open_mount(path: &str, v2: bool) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd =
        openat2(CWD, path, flags, ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS).doing(|| format!("open cgroup root {path}"))?;
    check_magic(fd.as_fd(), path, v2)?;
    Ok(fd)
}

/// Opens the cgroup `inner` below a mount point, so that it can be listed.
pub(super) fn open_below(mount: BorrowedFd<'_>, inner: &str) -> Result<OwnedFd, Errno> {
    openat2(mount, inner, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, STRICT)
}

/// Opens a cgroup by the absolute path in a container's record. `None`: it does not exist. Refuses a directory that is not a
/// cgroup, and the root of a mount, because no container has that.
pub(super) fn open_recorded(path: &str, v2: bool) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let doing = || format!("open cgroup {path}");
    let fd = match openat2(CWD, path, flags, ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS) {
        Err(Errno::NOENT) => return Ok(None),
        result => result.doing(doing)?,
    };
    check_magic(fd.as_fd(), path, v2)?;
    let status = rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, StatxFlags::empty()).doing(doing)?;
    if status.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Err(Error::invalid(format!("{path} is the root of a cgroup hierarchy, not a container's")));
    }
    Ok(Some(fd))
}

/// Reads the short file `name` of a cgroup by its absolute path. `None`: there is no such cgroup (any more).
pub(super) fn read_recorded(path: &str, name: &str, v2: bool) -> Result<Option<String>> {
    let path = format!("{path}/{name}");
    let doing = || format!("read {path}");
    let file = match openat2(CWD, &path, OFlags::RDONLY | OFlags::CLOEXEC, ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS) {
        Err(errno) if is_gone(errno) => return Ok(None),
        result => result.doing(doing)?,
    };
    check_magic(file.as_fd(), &path, v2)?;
    match read_again(file.as_fd()) {
        Err(errno) if is_gone(errno) => Ok(None),
        result => result.map(Some).doing(doing),
    }
}

/// Opens the child `name` of a cgroup, or its parent as `..`.
pub(super) fn open_child(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::io::retry_on_intr(|| rustix::fs::openat(dir, name, flags, Mode::empty()))
}

/// Opens a file of a cgroup. EINVAL if `file` is not a plain name.
pub(super) fn open(dir: BorrowedFd<'_>, file: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    if file.is_empty() || file.starts_with("..") || file == "." || file.contains('/') {
        return Err(Errno::INVAL);
    }
    rustix::io::retry_on_intr(|| rustix::fs::openat(dir, file, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()))
}

/// Writes `value` to a file of a cgroup in one call.
pub(super) fn write(dir: BorrowedFd<'_>, file: &str, value: &str) -> Result<(), Errno> {
    write_open(open(dir, file, OFlags::WRONLY)?.as_fd(), value)
}

/// Writes `value` to an open file in one call.
pub(super) fn write_open(file: BorrowedFd<'_>, value: &str) -> Result<(), Errno> {
    rustix::io::retry_on_intr(|| rustix::io::write(file, value.as_bytes())).map(drop)
}

/// Reads a whole file of a cgroup as text. A byte that is not UTF-8 (in the name of a device) becomes U+FFFD.
pub(super) fn read(dir: BorrowedFd<'_>, file: &str) -> Result<String, Errno> {
    let fd = open(dir, file, OFlags::RDONLY)?;
    let mut all = Vec::new();
    let mut part = [0_u8; 4096];
    loop {
        let n = rustix::io::retry_on_intr(|| rustix::io::read(&fd, &mut part))?;
        all.extend_from_slice(part.get(..n).unwrap_or_default());
        if n == 0 {
            return Ok(text(all));
        }
    }
}

/// Reads a file that the kernel writes in one piece of less than a page. This saves the call by which [`read`] sees the end.
pub(super) fn read_short(dir: BorrowedFd<'_>, file: &str) -> Result<String, Errno> {
    read_again(open(dir, file, OFlags::RDONLY)?.as_fd())
}

/// Reads an open short file from its start.
pub(super) fn read_again(file: BorrowedFd<'_>) -> Result<String, Errno> {
    let mut part = [0_u8; 4096];
    let n = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut part, 0))?;
    Ok(text(part.get(..n).unwrap_or_default().to_vec()))
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

/// The value of `key` in a file of lines `key value`.
pub(super) fn value_of(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The names of the cgroups directly below `dir`.
pub(super) fn children(dir: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut names = Vec::new();
    // an earlier listing may have left the offset at the end
    rustix::fs::seek(dir, rustix::fs::SeekFrom::Start(0))?;
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        match entry {
            Ok(e) if e.file_type() == FileType::Directory && e.file_name() != c"." && e.file_name() != c".." => {
                names.push(e.file_name().to_owned())
            }
            Ok(_) | Err(Errno::INTR) => {}
            // the cgroup was removed meanwhile, so it has no children
            Err(Errno::NOENT | Errno::NODEV) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(names)
}

/// Whether an error means that the cgroup is gone: ENOENT for its directory, ENODEV for an open file.
pub(super) fn is_gone(errno: Errno) -> bool {
    errno == Errno::NOENT || errno == Errno::NODEV
}

fn check_magic(fd: BorrowedFd<'_>, path: &str, v2: bool) -> Result<()> {
    let magic = rustix::fs::fstatfs(fd).doing(|| format!("stat the file system of {path}"))?.f_type as u64;
    if magic == if v2 { CGROUP2_MAGIC } else { CGROUP_MAGIC } {
        return Ok(());
    }
    Err(Error::unsupported(format!("{path} is not a cgroup {} file system", if v2 { "v2" } else { "v1" })))
}

fn openat2(dir: BorrowedFd<'_>, path: &str, flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    // EAGAIN: a rename or mount raced with the walk, openat2(2)
    for _ in 0..32 {
        match rustix::fs::openat2(dir, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_is_one_name() {
        let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        for name in ["", ".", "..", "../x", "a/b", "/etc/passwd"] {
            assert_eq!(open(root.as_fd(), name, OFlags::RDONLY).unwrap_err(), Errno::INVAL, "{name:?}");
        }
    }

    #[test]
    fn a_key_is_matched_whole() {
        assert_eq!(value_of("oom 1\noom_kill 7\n", "oom"), Some(1));
        assert_eq!(value_of("oom 1\noom_kill 7\n", "oom_kill"), Some(7));
        assert_eq!(value_of("frozenx 1\n", "frozen"), None);
    }

    #[test]
    fn only_a_cgroup_is_opened_as_one() {
        if crate::is_emulated("only_a_cgroup_is_opened_as_one") {
            return;
        }
        let e = open_recorded("/proc/self", true).unwrap_err().to_string();
        assert!(e.contains("/proc/self"), "{e}");
        assert!(open_recorded("/no/such/cgroup", true).unwrap().is_none());
        assert_eq!(open_recorded("/etc", true).unwrap_err().to_string(), "/etc is not a cgroup v2 file system");
    }
}
