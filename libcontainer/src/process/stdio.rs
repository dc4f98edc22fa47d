//! The standard streams of a program that somebody other than a command line starts: given as descriptors, so that a
//! process which serves many containers need not touch its own.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::process::Uid;

use crate::error::{Doing, Result};

/// What a program has as descriptors 0, 1 and 2. Absent ones are those of the caller. A program with a terminal has that.
#[derive(Debug, Default)]
pub struct Stdio {
    /// Is read from.
    pub stdin: Option<OwnedFd>,
    /// Is written to.
    pub stdout: Option<OwnedFd>,
    /// Is written to, also by init where the program cannot be executed.
    pub stderr: Option<OwnedFd>,
}

impl Stdio {
    /// Puts them in their places, in the child, before it closes all others.
    pub(crate) fn take(&self) -> Result<()> {
        let doing = || "put the given descriptors at stdin, stdout and stderr";
        let given = [&self.stdin, &self.stdout, &self.stderr];
        // one that is itself below 3 would be overwritten before its turn
        let mut moved = [const { None }; 3];
        for (moved, fd) in moved.iter_mut().zip(given) {
            if let Some(fd) = fd.as_ref().filter(|fd| fd.as_raw_fd() < 3) {
                *moved = Some(rustix::io::fcntl_dupfd_cloexec(fd, 3).doing(doing)?);
            }
        }
        let [stdin, stdout, stderr] = [0, 1, 2].map(|n: usize| -> Option<BorrowedFd<'_>> {
            let moved: Option<&OwnedFd> = moved.get(n).and_then(Option::as_ref);
            moved.or(given.get(n).and_then(|fd| fd.as_ref())).map(AsFd::as_fd)
        });
        if let Some(fd) = stdin {
            rustix::stdio::dup2_stdin(fd).doing(doing)?;
        }
        if let Some(fd) = stdout {
            rustix::stdio::dup2_stdout(fd).doing(doing)?;
        }
        if let Some(fd) = stderr {
            rustix::stdio::dup2_stderr(fd).doing(doing)?;
        }
        Ok(())
    }

    /// Gives those that are pipes to `uid` of the host, so that the program can open /dev/stdout again: nobody in the user
    /// namespace may, because the owner of the pipe has no id there.
    pub(crate) fn give_pipes(&self, uid: u32) -> Result<()> {
        let own = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
        for (given, own) in [&self.stdin, &self.stdout, &self.stderr].into_iter().zip(own) {
            give_pipe(given.as_ref().map_or(own, AsFd::as_fd), uid).doing(|| format!("give stdio to uid {uid}"))?;
        }
        Ok(())
    }
}

fn give_pipe(stdio: BorrowedFd<'_>, uid: u32) -> Result<(), Errno> {
    let Ok(stat) = rustix::fs::fstat(stdio) else { return Ok(()) };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Fifo || stat.st_uid == uid {
        return Ok(());
    }
    match rustix::fs::fchown(stdio, Some(Uid::from_raw(uid)), None) {
        // a pipe that is not ours to give: it works as it is, but for opening it again
        Err(Errno::PERM | Errno::ROFS | Errno::INVAL) => Ok(()),
        result => result,
    }
}
