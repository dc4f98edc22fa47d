//! start: init's gate is opened, and it executes its program.

use super::{Container, Status, lock};
use crate::error::{Doing, Error, Result};
use crate::hooks;
use crate::notify;
use crate::process::gate;

impl Container {
    /// Lets a created container run its program. Returns once the program has begun, or its execve has failed: then the
    /// container is stopped, and its stderr has the reason.
    pub fn start(&mut self) -> Result<()> {
        let _lock = lock::exclusive(self.dir.fd())?;
        let listener = match &self.record.notify_socket {
            Some(_) => Some(notify::listen(&self.root.join(&self.record.id))?),
            None => None,
        };
        let init = self.init()?;
        if self.record.pid == 0 && self.status()? == Status::Creating {
            return Err(Error::wrong_status("cannot start a container that is being created"));
        }
        let Some(init) = init else { return Err(Error::wrong_status("cannot start a container that has stopped")) };
        gate::open(self.dir.fd())?;
        if !self.record.poststart.is_empty() {
            let state = self.state_json(Status::Running)?;
            if let Err(e) = hooks::run("poststart", &self.record.poststart, &state, Some(&self.record.bundle), None) {
                // the program runs without what its hooks were to set up: it must not go on (runtime.md, "Lifecycle", 9)
                self.cgroup()?.kill().doing(|| "kill the container after a failed poststart hook")?;
                return Err(e);
            }
        }
        match (listener, &self.record.notify_socket) {
            (Some(listener), Some(host)) => listener.forward(host, self.record.pid, &init),
            _ => Ok(()),
        }
    }
}
