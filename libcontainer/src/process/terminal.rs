//! The terminal of a process (pty(7), pts(4)).
//!
//! It is made in the container, from the container's devpts. The image may have any file at these paths, so each is checked
//! (CVE-2025-52565). The slave side is opened by ioctl(2), not by its path.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::error::{Doing, Error, Result};
use crate::process::Terminal;
use masu_host::beneath;
use masu_host::fds::send_fd;
use masu_host::mounts::{move_to, open_tree};

const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;
/// The inode number of ptmx in each devpts.
const PTMX_INODE: u64 = 2;

/// Makes a terminal in the caller's root directory, and returns its master and its slave side.
pub(crate) fn make(plan: Terminal, uid: u32) -> Result<(OwnedFd, OwnedFd)> {
    let doing = || "make a terminal from /dev/pts/ptmx";
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).doing(doing)?;
    let ours = beneath::open(root.as_fd(), "/dev/pts/ptmx", OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW).doing(doing)?;
    let stat = rustix::fs::fstat(&ours).doing(doing)?;
    let is_ptmx = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(5, 2)
        && stat.st_ino == PTMX_INODE
        && rustix::fs::fstatfs(&ours).doing(doing)?.f_type as i64 == DEVPTS_SUPER_MAGIC;
    if !is_ptmx {
        return Err(Error::invalid("/dev/pts/ptmx is not the one of a devpts: mount a devpts on /dev/pts")).doing(doing);
    }
    rustix::pty::unlockpt(&ours).doing(doing)?;
    let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).doing(doing)?;
    if let Some((rows, columns)) = plan.size {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&ours, size).doing(|| "set the size of the terminal")?;
    }
    if plan.relayed {
        let mut modes = rustix::termios::tcgetattr(&ours).doing(|| "get the modes of the terminal")?;
        modes.output_modes.remove(rustix::termios::OutputModes::ONLCR);
        rustix::termios::tcsetattr(&ours, rustix::termios::OptionalActions::Now, &modes).doing(|| "set the modes of the terminal")?;
    }
    if uid != 0 {
        // only the owner changes: devpts sets the group, which may have no id in the user namespace
        rustix::fs::fchown(&theirs, Some(rustix::fs::Uid::from_raw(uid)), None).doing(|| "give the terminal to the user")?;
    }
    Ok((ours, theirs))
}

/// Bind-mounts the terminal at /dev/console, for the first process of a container.
pub(crate) fn bind_console(root: impl AsFd, theirs: &OwnedFd) -> Result<()> {
    let doing = || "bind the terminal on /dev/console";
    let root = root.as_fd();
    let dev = beneath::open(root, "/dev", OFlags::PATH | OFlags::DIRECTORY).doing(doing)?;
    match rustix::fs::openat(&dev, "console", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(node) if !FileType::from_raw_mode(rustix::fs::fstat(&node).doing(doing)?.st_mode).is_symlink() => {}
        Ok(_) => rustix::fs::unlinkat(&dev, "console", AtFlags::empty()).doing(doing)?,
        Err(rustix::io::Errno::NOENT) => {}
        Err(e) => return Err(e).doing(doing),
    }
    let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::RDONLY | OFlags::CLOEXEC;
    if !masu_host::beneath::exists(dev.as_fd(), "console") {
        rustix::fs::openat(&dev, "console", flags, Mode::from_raw_mode(0o666)).doing(doing)?;
    }
    let target = rustix::fs::openat(&dev, "console", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).doing(doing)?;
    let tree = open_tree(theirs.as_fd(), "", false).doing(doing)?;
    move_to(tree.as_fd(), target.as_fd()).doing(doing)
}

/// Makes the terminal the controlling terminal, stdin, stdout and stderr of the caller, a session leader.
pub(crate) fn take(theirs: &OwnedFd) -> Result<()> {
    rustix::process::ioctl_tiocsctty(theirs).doing(|| "make the terminal the controlling one")?;
    let doing = || "put the terminal at stdin, stdout and stderr";
    rustix::stdio::dup2_stdin(theirs).doing(doing)?;
    rustix::stdio::dup2_stdout(theirs).doing(doing)?;
    rustix::stdio::dup2_stderr(theirs).doing(doing)
}

/// Sends the master side over a console socket, with its path as the text (runc's docs/terminals.md).
pub(crate) fn send(socket: &OwnedFd, ours: &OwnedFd) -> Result<()> {
    send_fd(socket, "/dev/ptmx", ours).doing(|| "send the terminal over the console socket")
}
