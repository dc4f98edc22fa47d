//! delete: what create made is taken back, the record last.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Signal, WaitId, WaitIdOptions};

use super::record::StateDir;
use super::{Container, Status, check_id, lock};
use crate::error::{Doing, Error, Kind, Result};
use crate::hooks;
use masu_host::pidfd::wait_for_end;
use masu_host::procfs::Procfs;

/// How long a killed init, and then its cgroup, may take to go.
const PATIENCE: Duration = Duration::from_secs(10);

/// Deletes a container that is stopped, or created (its init is killed then), or with `force` in any status. With `force` a
/// missing container is no error, and what a killed create left behind is cleared as well.
pub fn delete(root: &Path, id: &str, force: bool) -> Result<()> {
    check_id(id)?;
    let dir = match StateDir::open(root, id) {
        Err(e) if force && e.kind() == Kind::NotFound => return Ok(()),
        result => result?,
    };
    let record = match dir.record() {
        Ok(record) => record,
        Err(e) if !force => return Err(e),
        Err(_) => {
            // whoever makes it right now holds the lock until the intent is written
            let lock = lock::exclusive(dir.fd())?;
            match dir.record() {
                Ok(record) => {
                    drop(lock);
                    record
                }
                // nothing was made on the host before the record: there is only the directory
                Err(_) => return dir.remove(root, id, true),
            }
        }
    };
    Container { root: root.to_owned(), dir, record, proc: Arc::new(Procfs::open()?) }.delete(force)
}

impl Container {
    /// [`delete`], of a container that is open already.
    pub fn delete(mut self, force: bool) -> Result<()> {
        let lock = lock::exclusive(self.dir.fd())?;
        if lock.waited
            && let Err(e) = self.dir.record()
            && e.kind() == Kind::NotFound
            && self.record.pid != 0
        {
            // another delete came first, and removed all that this one would look for again
            return if force { Ok(()) } else { Err(e) };
        }
        if self.record.pid == 0 {
            // it was being created when it was opened; it may be whole by now
            match self.dir.record() {
                Ok(record) => self.record = record,
                Err(e) if !force => return Err(e),
                Err(_) => {}
            }
        }
        let init = self.init()?;
        let status = if self.record.pid == 0 { self.status()? } else { self.status_of(init.is_some())? };
        match status {
            Status::Stopped | Status::Created => {}
            _ if force => {}
            _ => return Err(Error::wrong_status(format!("cannot delete container {} that is not stopped: {status}", self.record.id))),
        }
        self.end(init)?;
        if !self.record.poststop.is_empty() {
            let state = self.state_json(Status::Stopped)?;
            let output = self.record.hook_output.open().unwrap_or_else(|e| {
                log::warn!("{e}");
                hooks::Opened::default()
            });
            // each runs, whatever the others do (runtime.md, "Lifecycle", 13)
            for hook in &self.record.poststop {
                if let Err(e) = hooks::run("poststop", std::slice::from_ref(hook), &state, Some(&self.record.bundle), None, &output) {
                    log::warn!("{e}");
                }
            }
        }
        self.dir.remove(&self.root, &self.record.id, self.record.annotated)?;
        drop(lock);
        Ok(())
    }

    /// Kills what runs, and removes the cgroup.
    fn end(&self, init: Option<OwnedFd>) -> Result<()> {
        let cgroup = self.cgroup()?;
        if let Some(init) = init {
            // init first: with a pid namespace of its own the kernel ends the others along with it
            let _ = rustix::process::pidfd_send_signal(&init, Signal::KILL);
            cgroup.kill()?;
            if !wait_for_end(&init, PATIENCE)? {
                return Err(Error::new(
                    Kind::Internal,
                    format!("container init still running after {} seconds; try again", PATIENCE.as_secs()),
                ));
            }
            // ours to reap, if this process made it
            let _ = rustix::process::waitid(WaitId::PidFd(std::os::fd::AsFd::as_fd(&init)), WaitIdOptions::EXITED);
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
