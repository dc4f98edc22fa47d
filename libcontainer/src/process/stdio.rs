//! The standard streams of a program, given as descriptors. A caller that serves many containers thus keeps its own streams.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::process::Uid;

use crate::error::{Doing, Result};

/// The descriptors 0, 1 and 2 of a program. Absent ones are those of the caller. A program with a terminal uses that instead.
#[derive(Debug, Default)]
pub struct Stdio {
    /// Descriptor 0.
    pub stdin: Option<OwnedFd>,
    /// Descriptor 1.
    pub stdout: Option<OwnedFd>,
    /// Descriptor 2. If the program cannot be executed, init writes the error to it.
    pub stderr: Option<OwnedFd>,
}

impl Stdio {
    /// Installs them as 0, 1 and 2. It runs in the child, before all other descriptors are closed.
    pub(crate) fn take(&self) -> Result<()> {
        let doing = || "put the given descriptors at stdin, stdout and stderr";
        let given = [&self.stdin, &self.stdout, &self.stderr];
        // a stream below 3 could be overwritten before its own dup2(2)
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

    /// Gives those that are pipes to `uid` of the host, so that the program can open /dev/stdout again. Otherwise the owner of
    /// the pipe has no id in the user namespace, and no process in it may open the pipe.
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
        // the pipe belongs to another user: it works, but it cannot be opened again
        Err(Errno::PERM | Errno::ROFS | Errno::INVAL) => Ok(()),
        result => result,
    }
}
