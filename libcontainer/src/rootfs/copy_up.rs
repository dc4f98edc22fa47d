//! The mount option `tmpcopyup`: a tmpfs starts with the content of the directory below it.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid};

use crate::error::{Doing, Result};

/// Copies the content of `from` to `to`: directories, regular files, symbolic links and device nodes, with owner and mode. It
/// follows no symbolic link and enters no other mount.
pub(super) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let from = rustix::fs::openat(from, ".", flags, Mode::empty())?;
    let device = rustix::fs::fstat(&from)?.st_dev;
    for entry in Dir::read_from(&from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let doing = || format!("copy {}", name.to_string_lossy());
        let stat = rustix::fs::statat(&from, name, AtFlags::SYMLINK_NOFOLLOW).doing(doing)?;
        if stat.st_dev != device {
            continue;
        }
        let mode = Mode::from_raw_mode(stat.st_mode);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                rustix::fs::mkdirat(to, name, mode).doing(doing)?;
                let below = rustix::fs::openat(&from, name, flags, Mode::empty()).doing(doing)?;
                let made = rustix::fs::openat(to, name, flags, Mode::empty()).doing(doing)?;
                copy(below.as_fd(), made.as_fd()).doing(doing)?;
            }
            FileType::RegularFile => {
                let source =
                    rustix::fs::openat(&from, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
                        .doing(doing)?;
                let made =
                    rustix::fs::openat(to, name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC, mode).doing(doing)?;
                std::io::copy(&mut std::fs::File::from(source), &mut std::fs::File::from(made)).doing(doing)?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&from, name, Vec::new()).doing(doing)?;
                rustix::fs::symlinkat(&target, to, name).doing(doing)?;
            }
            kind => rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev).doing(doing)?,
        }
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).doing(doing)?;
        if !FileType::from_raw_mode(stat.st_mode).is_symlink() {
            // chown(2) clears the set-id bits
            rustix::fs::chmodat(to, name, mode, AtFlags::empty()).doing(doing)?;
        }
    }
    Ok(())
}
