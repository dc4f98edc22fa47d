//! start: init's gate is opened, and it executes its program.

use super::{Container, Status};
use crate::cgroup::Cgroup;
use crate::error::{Doing, Error, Result};
use crate::hooks;
use crate::launch::{gate, notify};

impl Container {
    /// Lets a created container run its program. Returns once the program has begun, or its execve has failed: then the
    /// container is stopped, and its stderr has the reason. With a NOTIFY_SOCKET (sd_notify(3)) it returns once the program has
    /// said that it is ready.
    pub fn start(&mut self) -> Result<()> {
        let lock = self.dir.lock()?;
        if lock.waited {
            self.record = lock.record()?;
        }
        // the gate itself tells whether init still waits at it
        let Some(gate) = gate::hold(lock.fd())? else {
            return Err(Error::wrong_status(match self.status()? {
                Status::Creating => "cannot start a container that is being created",
                Status::Stopped => "cannot start a container that has stopped",
                _ => "cannot start an already running container",
            }));
        };
        if self.record.pid == 0 {
            return Err(Error::wrong_status("cannot start a container that is being created"));
        }
        if Cgroup::is_frozen_at(&self.record.cgroup)? {
            return Err(Error::wrong_status("cannot start a paused container: resume it first"));
        }
        if self.record.no_program {
            // it waits for what can never come (runtime.md, "Start")
            if let Some(init) = self.init()? {
                rustix::process::pidfd_send_signal(init, rustix::process::Signal::KILL)
                    .doing(|| "kill the container that has no process")?;
            }
            return Err(Error::invalid("process: process property must not be empty"));
        }
        let notified = match &self.record.notify_socket {
            // init's pidfd before the gate opens: afterwards it may be gone
            Some(host) => self.init()?.map(|init| Ok::<_, Error>((notify::listen(lock.fd())?, host.clone(), init))).transpose()?,
            None => None,
        };
        gate.open(lock.fd())?;
        // what follows may take for ever: startContainer hooks, execve from a file system that hangs, poststart hooks, a program
        // that never says that it is ready
        drop(lock);
        gate.wait()?;
        if !self.record.poststart.is_empty() {
            let output = self.record.hook_output.open()?;
            let state = self.state_json(Status::Running)?;
            if let Err(e) = hooks::run("poststart", &self.record.poststart, &state, Some(&self.record.bundle), None, &output) {
                // the program runs without what its hooks were to set up: it must not go on (runtime.md, "Lifecycle", 9)
                self.kill_all().doing(|| "kill the container after a failed poststart hook")?;
                return Err(e);
            }
        }
        match notified {
            Some((listener, host, init)) => listener.forward(&host, self.record.pid, &init),
            None => Ok(()),
        }
    }
}
