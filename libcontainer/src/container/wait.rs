//! Waiting for processes of a container.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions};

use super::{Container, Process};
use crate::error::{Doing, Error, Kind, Result};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With this exit code, 0 to 255.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// Waits for the process of `pidfd`, a child of the caller, and reaps it.
    ///
    /// # Errors
    /// [`Kind::Os`] where it is no child of the caller, or was reaped already.
    pub fn wait(pidfd: impl AsFd) -> Result<Exit> {
        let doing = || "wait for the process";
        loop {
            match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
                Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => return Ok(Exit::Code(code)),
                    (None, Some(signal)) => return Ok(Exit::Signal(signal)),
                    (None, None) => return Err(Error::new(Kind::Internal, "it ended neither by itself nor by a signal")).doing(doing),
                },
                Ok(None) => return Err(Error::new(Kind::Internal, "it has not ended")).doing(doing),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e).doing(doing),
            }
        }
    }

    /// The code as shells and engines tell it: 128+n when signal n ended the process.
    pub fn code(self) -> u8 {
        let code = match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
        };
        u8::try_from(code).unwrap_or(255)
    }
}

impl Process {
    /// Waits until it ends and reaps it. Only for who created or executed it, whose child it is; whoever must not block
    /// waits until its `pidfd` is readable first.
    ///
    /// # Errors
    /// [`Kind::Os`] where it was reaped already.
    pub fn wait(&self) -> Result<Exit> {
        Exit::wait(&self.pidfd)
    }
}

impl Container {
    /// A pidfd of the container's first process, which is readable when it ends; `None` when it has ended.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn pidfd(&self) -> Result<Option<OwnedFd>> {
        self.init()
    }
}
