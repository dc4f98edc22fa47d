//! A checked handle of /proc, and the fields of it that the runtime reads.
//!
//! A path below /proc may meet another file system or a link: CVE-2019-16884, CVE-2019-19921 and CVE-2025-52881 wrote to or
//! read from files that only looked like procfs. So a handle is checked to be the root of a procfs. Files are opened below it
//! with openat2(2), which follows no symbolic link, no magic link and no other mount.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::error::{Doing, Error, Kind, Result};
use crate::sys::close_range::leave;

/// The inode number of the root directory of every procfs (PROC_ROOT_INO).
const ROOT_INODE: u64 = 1;

/// A handle of the root of a procfs.
#[derive(Debug)]
pub struct Procfs {
    fd: OwnedFd,
    /// Read once, because it cannot change while this process lives.
    boot_id: OnceLock<String>,
}

impl Procfs {
    /// Opens and checks /proc. A file under another mount cannot be opened, because mounts are not followed.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] if /proc is not the root of a procfs; otherwise the errno of open(2).
    pub fn open() -> Result<Procfs> {
        let doing = || "open /proc";
        let fd =
            rustix::fs::open("/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).doing(doing)?;
        let magic = rustix::fs::fstatfs(&fd).doing(doing)?.f_type;
        let inode = rustix::fs::fstat(&fd).doing(doing)?.st_ino;
        if magic as i64 != PROC_SUPER_MAGIC || inode != ROOT_INODE {
            return Err(Error::new(Kind::Unsupported, "/proc is not the root of a procfs: mount one there"));
        }
        Ok(Procfs::of(fd))
    }

    /// Makes a procfs that is mounted nowhere, so that nothing can be mounted over its files. It is for writes that must not be
    /// diverted: labels and sysctls. A caller that may not mount gets [`Procfs::open`].
    ///
    /// # Errors
    /// As [`Procfs::open`].
    pub fn detached() -> Result<Procfs> {
        let mount = || -> rustix::io::Result<OwnedFd> {
            let fs = rustix::mount::fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
            rustix::mount::fsconfig_create(fs.as_fd())?;
            rustix::mount::fsmount(
                fs.as_fd(),
                FsMountFlags::FSMOUNT_CLOEXEC,
                MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC,
            )
        };
        mount().map(Procfs::of).or_else(|_| Procfs::open())
    }

    fn of(fd: OwnedFd) -> Procfs {
        Procfs { fd, boot_id: OnceLock::new() }
    }

    /// Duplicates the handle.
    ///
    /// # Errors
    /// The errno of fcntl(2), F_DUPFD_CLOEXEC.
    pub fn try_clone(&self) -> Result<Procfs> {
        Ok(Procfs::of(rustix::io::fcntl_dupfd_cloexec(&self.fd, 3).doing(|| "duplicate the handle of /proc")?))
    }

    /// Opens `path` (relative to /proc), close-on-exec. It follows no link and no mount.
    ///
    /// # Errors
    /// ELOOP for a link, EXDEV for a mount or a path that leaves /proc; otherwise the errno of openat2(2).
    pub fn open_file(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        openat2_retry(self.fd.as_fd(), path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, resolve)
    }

    /// Opens `/proc/PID/ns/FILE`, a magic link, which is followed below a directory of this procfs.
    ///
    /// # Errors
    /// The errno of openat2(2) or openat(2).
    pub fn open_namespace(&self, pid: i32, file: &str) -> Result<OwnedFd, Errno> {
        let folder = self.open_file(&format!("{pid}/ns"), OFlags::PATH | OFlags::DIRECTORY)?;
        let fd = rustix::fs::openat(&folder, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        leave(folder);
        Ok(fd)
    }

    /// Writes `value` to the file `path` in one call.
    ///
    /// # Errors
    /// As [`Procfs::open_file`], or the errno of write(2).
    pub fn write(&self, path: &str, value: &[u8]) -> Result<(), Errno> {
        let fd = self.open_file(path, OFlags::WRONLY)?;
        rustix::io::write(&fd, value)?;
        leave(fd);
        Ok(())
    }

    /// Reads the file `path` in one call: the kernel makes such a file as a whole, and it is smaller than a page.
    fn read_small(&self, path: &str) -> Result<Vec<u8>, Errno> {
        let fd = self.open_file(path, OFlags::RDONLY)?;
        let mut text = Vec::with_capacity(4096);
        rustix::io::read(&fd, rustix::buffer::spare_capacity(&mut text))?;
        Ok(text)
    }

    /// Reads the file `path` to its end.
    ///
    /// # Errors
    /// As [`Procfs::open_file`], or the errno of read(2).
    pub fn read(&self, path: &str) -> Result<Vec<u8>, Errno> {
        let fd = self.open_file(path, OFlags::RDONLY)?;
        let mut text = Vec::with_capacity(1024);
        loop {
            let had = text.len();
            text.reserve(1024);
            let n = rustix::io::read(&fd, rustix::buffer::spare_capacity(&mut text))?;
            if n == 0 {
                return Ok(text);
            }
            debug_assert!(text.len() > had);
        }
    }

    /// The root directory of this procfs.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Opens a namespace of process `pid`; `file` is its name in namespaces(7). The result is checked to be a namespace.
    ///
    /// # Errors
    /// The errno of openat2(2), openat(2) or fstatfs(2); [`Kind::Internal`] if the file is not on nsfs.
    pub fn namespace(&self, pid: i32, file: &str) -> Result<OwnedFd> {
        let doing = || format!("open /proc/{pid}/ns/{file}");
        let dir = self.open_file(&format!("{pid}/ns"), OFlags::PATH | OFlags::DIRECTORY).doing(doing)?;
        // a magic link is followed on purpose: it is the only way to the namespace
        let fd = rustix::fs::openat(&dir, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).doing(doing)?;
        match rustix::fs::fstatfs(&fd).doing(doing)?.f_type as i64 {
            libc::NSFS_MAGIC => Ok(fd),
            _ => Err(Error::new(Kind::Internal, format!("/proc/{pid}/ns/{file} is not a namespace"))),
        }
    }

    /// The state and start time of process `pid`, or `None` if it does not exist. Pid and start time identify a process until
    /// the machine is rebooted.
    ///
    /// # Errors
    /// The errno of openat2(2) or read(2); [`Kind::Internal`] if the text is not as in proc_pid_stat(5).
    pub fn process(&self, pid: i32) -> Result<Option<ProcessStat>> {
        let text = match self.read_small(&format!("{pid}/stat")) {
            Ok(text) => text,
            Err(Errno::NOENT | Errno::SRCH) => return Ok(None),
            Err(e) => return Err(e).doing(|| format!("read /proc/{pid}/stat")),
        };
        parse_stat(&text).map(Some).ok_or_else(|| Error::new(Kind::Internal, format!("/proc/{pid}/stat is not as proc_pid_stat(5) says")))
    }

    /// The id of this boot of the kernel (random(4)).
    ///
    /// # Errors
    /// The errno of openat2(2) or read(2).
    pub fn boot_id(&self) -> Result<&str> {
        if let Some(known) = self.boot_id.get() {
            return Ok(known);
        }
        let text = self.read_small("sys/kernel/random/boot_id").doing(|| "read /proc/sys/kernel/random/boot_id")?;
        Ok(self.boot_id.get_or_init(|| String::from_utf8_lossy(text.trim_ascii()).into_owned()))
    }

    /// The name of the caller's directory: its pid in the pid namespace of this procfs, which need not be the caller's own.
    ///
    /// # Errors
    /// The errno of readlinkat(2): the caller has no pid in that namespace.
    pub fn me(&self) -> Result<String> {
        let me = rustix::fs::readlinkat(&self.fd, "self", Vec::new()).doing(|| "find ourselves in /proc")?;
        Ok(me.to_string_lossy().into_owned())
    }

    /// Opens a namespace of the caller, by its name in namespaces(7). The magic link is followed on purpose.
    ///
    /// # Errors
    /// The errno of readlinkat(2) or openat(2).
    pub fn own_namespace(&self, file: &str) -> Result<OwnedFd> {
        let path = format!("{}/ns/{file}", self.me()?);
        rustix::fs::openat(&self.fd, path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .doing(|| format!("open the own namespace {file}"))
    }

    /// The signals that the caller ignores, as a mask: bit n-1 for signal n.
    ///
    /// # Errors
    /// The errno of openat2(2) or read(2); [`Kind::Internal`] if the file lacks the field.
    pub fn ignored_signals(&self) -> Result<u64> {
        // by pid, because "self" is a symbolic link, which is not followed
        let pid = rustix::process::getpid().as_raw_nonzero();
        let text = self.read_small(&format!("{pid}/status")).doing(|| "read /proc/self/status")?;
        let line = text.split(|&b| b == b'\n').find_map(|l| l.strip_prefix(b"SigIgn:"));
        let mask = line.and_then(|l| std::str::from_utf8(l.trim_ascii()).ok()).and_then(|l| u64::from_str_radix(l, 16).ok());
        mask.ok_or_else(|| Error::new(Kind::Internal, "/proc/self/status has no SigIgn"))
    }
}

/// Decodes the octal escapes of proc_pid_mountinfo(5).
pub fn unescape(field: &str) -> String {
    let octal = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    octal.iter().fold(field.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Two fields of `/proc/PID/stat` (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessStat {
    /// `R`, `S`, `D`, `Z`, `X` and others.
    pub state: u8,
    /// Clock ticks since the boot.
    pub start_time: u64,
}

impl ProcessStat {
    /// Whether the process can still run: it is neither a zombie nor dead.
    pub fn is_alive(&self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x')
    }
}

fn parse_stat(text: &[u8]) -> Option<ProcessStat> {
    // the second field is the name in brackets, which may itself contain brackets and spaces
    let end = text.iter().rposition(|&b| b == b')')?;
    let mut fields = text.get(end + 2..)?.split(|&b| b == b' ');
    let state = *fields.next()?.first()?;
    let start_time = std::str::from_utf8(fields.nth(18)?).ok()?.parse().ok()?;
    Some(ProcessStat { state, start_time })
}

/// Calls openat2(2) again when a signal (EINTR) or a rename or mount elsewhere (EAGAIN) interrupted the walk.
///
/// # Errors
/// The errno of openat2(2); EAGAIN after 128 interrupted walks.
pub fn openat2_retry(dir: BorrowedFd<'_>, path: &str, flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    // only an attack can interrupt so many walks in a row
    for _ in 0..128 {
        match rustix::fs::openat2(dir, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// Reads the regular file `fd`, of at most `max` bytes. The type is checked first, because a FIFO or a device could block.
///
/// # Errors
/// EISDIR for a directory, [`Kind::InvalidSpec`] for another type or a larger file, or the errno of read(2).
pub fn read_regular(fd: BorrowedFd<'_>, max: u64) -> Result<Vec<u8>> {
    let stat = rustix::fs::fstat(fd)?;
    match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
        rustix::fs::FileType::RegularFile => {}
        rustix::fs::FileType::Directory => return Err(Errno::ISDIR.into()),
        _ => return Err(Error::invalid("not a regular file")),
    }
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    if size > max {
        return Err(Error::invalid(format!("larger than {max} bytes")));
    }
    // the size is known, so no read(2) is needed to find the end
    let mut bytes = vec![0; size as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::io::read(fd, &mut bytes[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_confuse_stat() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21";
        let stat = parse_stat(format!("77 (a) R 9 (x)) {rest}").as_bytes());
        assert_eq!(stat, Some(ProcessStat { state: b'S', start_time: 4242 }));
        assert_eq!(parse_stat(b"77 (a"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    fn we_find_ourselves() {
        if crate::is_emulated("we_find_ourselves") {
            return;
        }
        let proc = Procfs::open().unwrap();
        let me = proc.process(std::process::id() as i32).unwrap().unwrap();
        assert!(me.is_alive() && me.start_time > 0);
        assert_eq!(proc.process(i32::MAX).unwrap(), None);
        assert_eq!(proc.boot_id().unwrap().len(), 36);
        proc.ignored_signals().unwrap();
    }

    #[test]
    fn links_are_not_followed() {
        if crate::is_emulated("links_are_not_followed") {
            return;
        }
        let proc = Procfs::open().unwrap();
        assert_eq!(proc.open_file("self/stat", OFlags::RDONLY).unwrap_err(), Errno::LOOP);
        assert_eq!(proc.open_file("../etc/passwd", OFlags::RDONLY).unwrap_err(), Errno::XDEV);
    }
}
