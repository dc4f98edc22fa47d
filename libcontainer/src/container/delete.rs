//! delete: what create made is taken back, the record last.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use masu_host::pidfd::wait_for_end;
use masu_host::procfs::Procfs;
use rustix::process::{Signal, WaitId, WaitIdOptions};

use super::record::Record;
use super::state_dir::StateDir;
use super::{Container, Status, check_id, process_of};
use crate::error::{Doing, Error, Kind, Result};
use crate::hooks;
use crate::launch::gate;

/// How long a killed process, and then the cgroup, may take to go.
const PATIENCE: Duration = Duration::from_secs(10);

/// [`Runtime::delete`](super::Runtime::delete).
pub(super) fn delete(root: &Path, id: &str, force: bool) -> Result<()> {
    check_id(id)?;
    let found = StateDir::open(root, id).and_then(|dir| {
        let record = match dir.record() {
            Err(e) if force && e.kind() == Kind::NotFound => match clear(&dir)? {
                Some(record) => record,
                None => return Ok(None),
            },
            result => result?,
        };
        Ok(Some(Container { dir, record, proc: Arc::new(Procfs::open()?) }))
    });
    match found {
        Ok(Some(container)) => container.delete(force),
        Ok(None) => Ok(()),
        Err(e) => unless_gone(e, force),
    }
}

/// Clears a directory without a record: whatever is made on the host is made after the record, so there is nothing else. A create
/// that is just there finds its directory removed; one that was quicker has a record by now.
fn clear(dir: &StateDir) -> Result<Option<Record>> {
    let lock = dir.lock()?;
    match lock.record() {
        Err(e) if e.kind() == Kind::NotFound => lock.remove(true).map(|()| None),
        result => result.map(Some),
    }
}

/// With force it is no error that another verb has removed the container.
fn unless_gone(error: Error, force: bool) -> Result<()> {
    if force && error.kind() == Kind::NotFound { Ok(()) } else { Err(error) }
}

impl Container {
    /// [`Runtime::delete`](super::Runtime::delete), of a container that is open already.
    pub fn delete(mut self, force: bool) -> Result<()> {
        match self.remove(force) {
            Ok(()) => Ok(()),
            Err(e) => unless_gone(e, force),
        }
    }

    fn remove(&mut self, force: bool) -> Result<()> {
        if force && self.record.pid == 0 {
            self.end_maker()?;
        }
        let lock = match self.dir.try_lock()? {
            Some(lock) => lock,
            None => {
                if force {
                    self.end_unlocked()?;
                }
                self.dir.lock()?
            }
        };
        if lock.waited || self.record.pid == 0 {
            // it was being created, or changed, when it was opened
            self.record = lock.record()?;
        }
        let init = self.init()?;
        let status = if self.record.pid == 0 { self.status()? } else { self.status_of(init.is_some())? };
        match status {
            Status::Stopped | Status::Created => {}
            Status::Paused if gate::is_closed(lock.fd()) => {}
            _ if force => {}
            _ => return Err(Error::wrong_status(format!("cannot delete container {} that is not stopped: {status}", self.record.id))),
        }
        self.end(init)?;
        let poststop = if self.record.poststop.is_empty() { None } else { Some(self.state_json(Status::Stopped)?) };
        lock.remove(self.record.annotated)?;
        drop(lock);
        if let Some(state) = poststop {
            let output = self.record.hook_output.open().unwrap_or_else(|e| {
                log::warn!("{e}");
                hooks::Opened::default()
            });
            hooks::run_each("poststop", &self.record.poststop, &state, &self.record.bundle, &output);
        }
        Ok(())
    }

    /// Kills the runtime that makes the container, if it still does. It keeps no lock, but may wait for a hook for ever.
    fn end_maker(&self) -> Result<()> {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let maker = process_of(&self.record, self.record.maker, self.record.maker_start_time, &self.proc)?;
        let Some(maker) = maker.filter(|_| self.record.maker != own) else { return Ok(()) };
        let _ = rustix::process::pidfd_send_signal(&maker, Signal::KILL);
        match wait_for_end(&maker, PATIENCE)? {
            true => Ok(()),
            false => Err(still_runs("the runtime that creates the container")),
        }
    }

    /// Ends init and what is in the cgroup, while another command has the lock: a command that is stopped or hangs must not keep
    /// the container alive.
    fn end_unlocked(&self) -> Result<()> {
        if let Some(init) = self.init()? {
            let _ = rustix::process::pidfd_send_signal(&init, Signal::KILL);
        }
        self.kill_all()
    }

    /// Kills what runs, and removes the cgroup.
    fn end(&self, init: Option<OwnedFd>) -> Result<()> {
        let cgroup = self.cgroup()?;
        if let Some(init) = init {
            // init first: with a pid namespace of its own the kernel ends the others along with it
            let _ = rustix::process::pidfd_send_signal(&init, Signal::KILL);
            let killed = cgroup.kill();
            if !wait_for_end(&init, PATIENCE)? {
                return Err(still_runs("container init"));
            }
            // ours to reap, if this process made it
            let _ = rustix::process::waitid(WaitId::PidFd(init.as_fd()), WaitIdOptions::EXITED);
            // only now: with an error the status must be true, and init has been killed
            killed?;
        } else if self.record.pid == 0 || self.record.fresh_namespaces & libc::CLONE_NEWPID == 0 {
            // a create that was killed, or a shared pid namespace, leaves processes without an init; in one of its own
            // the kernel has ended them all
            cgroup.kill()?;
        }
        cgroup.remove(PATIENCE).doing(|| format!("remove the cgroup of container {}", self.record.id))?;
        match &self.record.intel_rdt {
            Some(group) => group.remove(),
            None => Ok(()),
        }
    }
}

fn still_runs(what: &str) -> Error {
    Error::new(Kind::Timeout, format!("{what} still running after {} seconds; try again", PATIENCE.as_secs()))
}
