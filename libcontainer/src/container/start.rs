//! start: init's gate is opened, and it executes its program.

use super::{Container, Status, lock};
use crate::error::{Doing, Error, Result};
use crate::hooks;
use crate::launch::gate;
use crate::launch::notify;

impl Container {
    /// Lets a created container run its program. Returns once the program has begun, or its execve has failed: then the
    /// container is stopped, and its stderr has the reason.
    pub fn start(&mut self) -> Result<()> {
        let _lock = lock::exclusive(self.dir.fd())?;
        let listener = match &self.record.notify_socket {
            Some(_) => Some(notify::listen(&self.root.join(&self.record.id))?),
            None => None,
        };
        if self.record.pid == 0 && self.status()? == Status::Creating {
            return Err(Error::wrong_status("cannot start a container that is being created"));
        }
        if self.record.no_program && self.status()? == Status::Created {
            // it waits for what can never come (runtime.md, "Start")
            if let Some(init) = self.init()? {
                rustix::process::pidfd_send_signal(init, rustix::process::Signal::KILL)
                    .doing(|| "kill the container that has no process")?;
            }
            return Err(Error::invalid("process: process property must not be empty"));
        }
        // before the gate opens: afterwards it may be gone
        let init = if listener.is_some() { self.init()? } else { None };
        // the gate itself tells whether init still waits at it
        if let Err(e) = gate::open(self.dir.fd()) {
            return Err(if self.init()?.is_none() { Error::wrong_status("cannot start a container that has stopped") } else { e });
        }
        if !self.record.poststart.is_empty() {
            let output = self.record.hook_output.open()?;
            let state = self.state_json(Status::Running)?;
            if let Err(e) = hooks::run("poststart", &self.record.poststart, &state, Some(&self.record.bundle), None, &output) {
                // the program runs without what its hooks were to set up: it must not go on (runtime.md, "Lifecycle", 9)
                self.cgroup()?.kill().doing(|| "kill the container after a failed poststart hook")?;
                return Err(e);
            }
        }
        match (listener, &self.record.notify_socket, init) {
            (Some(listener), Some(host), Some(init)) => listener.forward(host, self.record.pid, &init),
            _ => Ok(()),
        }
    }
}
