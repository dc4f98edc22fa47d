//! pause and resume: the cgroup's freezer.

use super::{Container, Status};
use crate::error::{Error, Result};

impl Container {
    /// Freezes all processes of a running or created container; returns once they are.
    pub fn pause(&self) -> Result<()> {
        let _lock = self.dir.lock()?;
        match self.status()? {
            Status::Running | Status::Created => self.cgroup()?.freeze(),
            status => Err(Error::wrong_status(format!("container not running or created: {status}"))),
        }
    }

    /// Lets them run on. One that was paused before its start is created again.
    pub fn resume(&self) -> Result<()> {
        let _lock = self.dir.lock()?;
        match self.status()? {
            Status::Paused => self.cgroup()?.thaw(),
            _ => Err(Error::wrong_status("container not paused")),
        }
    }
}
