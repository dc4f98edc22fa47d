//! The standard streams of a program, given as descriptors. A caller that serves many containers thus keeps its own streams.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use masu_host::sys::fork::install;
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
        let streams = [&self.stdin, &self.stdout, &self.stderr].map(|fd| fd.as_ref().map(AsFd::as_fd));
        install(streams).doing(|| "put the given descriptors at stdin, stdout and stderr")
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
