//! Terminals as a runtime's callers use them: a pty for a runtime in the foreground, and the socket that receives a detached
//! container's terminal.
//!
//! Sources: pty(7), unix(7); the console socket of runc's docs/terminals.md: one message with the fd.

use std::fs::File;
use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcgetwinsize, tcsetwinsize};

use crate::runtime::{DEADLINE, readable_within};

/// A pseudo terminal with both ends.
#[derive(Debug)]
pub struct Pty {
    /// The end that a terminal emulator would hold.
    pub controller: File,
    /// The end that a program uses.
    pub terminal: File,
}

impl Pty {
    /// Opens a terminal of `columns` times `rows` characters.
    ///
    /// # Errors
    /// No further pty can be made.
    pub fn open(columns: u16, rows: u16) -> Result<Self> {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).context("open a pty")?;
        grantpt(&controller)?;
        unlockpt(&controller)?;
        let terminal = ioctl_tiocgptpeer(&controller, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        let pty = Self { controller: controller.into(), terminal: terminal.into() };
        pty.resize(columns, rows)?;
        Ok(pty)
    }

    /// Changes the size.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        resize(&self.controller, columns, rows)
    }
}

/// Changes the size of the terminal whose controlling end is `controller`.
///
/// # Errors
/// The kernel refuses it.
pub fn resize(controller: &File, columns: u16, rows: u16) -> Result<()> {
    tcsetwinsize(controller, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).context("set the size of a pty")
}

/// Columns and rows of the terminal whose controlling end is `controller`.
///
/// # Errors
/// `controller` is not a terminal.
pub fn size(controller: &File) -> Result<(u16, u16)> {
    let size = tcgetwinsize(controller).context("get the size of a pty")?;
    Ok((size.ws_col, size.ws_row))
}

/// Reads from the controlling end until `enough` accepts the text, or until the other end hangs up.
///
/// # Errors
/// Neither happened before the deadline.
pub fn read_until(controller: &mut File, enough: impl Fn(&str) -> bool) -> Result<String> {
    let mut text = String::new();
    let mut part = [0; 1024];
    while !enough(&text) {
        ensure!(readable_within(controller, DEADLINE)?, "nothing more from the terminal after {DEADLINE:?}; so far {text:?}");
        match controller.read(&mut part) {
            // EIO: no process has the terminal open any more
            Ok(0) | Err(_) => return Ok(text),
            Ok(length) => text.push_str(&String::from_utf8_lossy(&part[..length])),
        }
    }
    Ok(text)
}

/// The socket to which a runtime sends a descriptor: a container's terminal, or the listener of a seccomp filter.
#[derive(Debug)]
pub struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ConsoleSocket {
    /// Listens at `path`.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn at(path: PathBuf) -> Result<Self> {
        let listener = UnixListener::bind(&path).with_context(|| format!("listen at {}", path.display()))?;
        Ok(Self { listener, path })
    }

    /// The path, for `--console-socket`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Receives the controlling end.
    ///
    /// # Errors
    /// No descriptor came before the deadline, or more than one.
    pub fn receive(&self) -> Result<File> {
        Ok(self.receive_with_payload()?.0)
    }

    /// Receives the descriptor and its text, up to the end of the connection.
    ///
    /// # Errors
    /// No descriptor came before the deadline, or more than one.
    pub fn receive_with_payload(&self) -> Result<(File, String)> {
        ensure!(readable_within(&self.listener, DEADLINE)?, "nobody connected to the socket");
        let (mut stream, _) = self.listener.accept()?;
        ensure!(readable_within(&stream, DEADLINE)?, "nothing was sent to the socket");
        let (mut fds, mut text) = receive_fds(&stream)?;
        let (Some(fd), true) = (fds.pop(), fds.is_empty()) else { bail!("not exactly one descriptor on the socket") };
        stream.set_nonblocking(true)?;
        let mut rest = Vec::new();
        // later bytes do not belong to the message
        let _ = stream.read_to_end(&mut rest);
        text.extend(rest);
        Ok((File::from(fd), String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned()))
    }
}

fn receive_fds(stream: &std::os::unix::net::UnixStream) -> Result<(Vec<OwnedFd>, Vec<u8>)> {
    let mut payload = [0; 65_536];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(stream, &mut [IoSliceMut::new(&mut payload)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    ensure!(!got.flags.contains(ReturnFlags::CTRUNC), "more descriptors than fit");
    let messages = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok((messages.flatten().collect(), payload.iter().take(got.bytes).copied().collect()))
}
