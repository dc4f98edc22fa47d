//! delete: what create made is taken back, the record last.

use std::path::Path;
use std::time::Duration;

use rustix::process::{Signal, WaitId, WaitIdOptions};

use super::record::StateDir;
use super::{Container, Status, check_id, lock};
use crate::error::{Doing, Error, Kind, Result};
use crate::hooks;
use crate::pidfd::wait_for_end;
use crate::procfs::Procfs;

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
    let lock = lock::exclusive(dir.fd())?;
    let record = match dir.record() {
        Ok(record) => record,
        // nothing was made on the host before the record: there is only the directory
        Err(_) if force => return dir.remove(root, id),
        Err(e) => return Err(e),
    };
    drop(lock);
    let container = Container { root: root.to_owned(), dir, record, proc: Procfs::open()? };
    let lock = lock::exclusive(container.dir.fd())?;
    let status = container.status()?;
    match status {
        Status::Stopped | Status::Created => {}
        _ if force => {}
        _ => return Err(Error::wrong_status(format!("cannot delete container {id} that is not stopped: {status}"))),
    }
    container.end()?;
    if !container.record.poststop.is_empty() {
        let state = container.state_json(Status::Stopped)?;
        // each runs, whatever the others do (runtime.md, "Lifecycle", 13)
        for hook in &container.record.poststop {
            if let Err(e) = hooks::run("poststop", std::slice::from_ref(hook), &state, Some(&container.record.bundle), None) {
                log::warn!("{e}");
            }
        }
    }
    container.dir.remove(root, id)?;
    drop(lock);
    Ok(())
}

impl Container {
    /// Kills what runs, and removes the cgroup.
    fn end(&self) -> Result<()> {
        let init = self.init()?;
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
        } else {
            // a shared pid namespace, or a create that was killed, leaves processes without an init
            cgroup.kill()?;
        }
        cgroup.remove(PATIENCE).doing(|| format!("remove the cgroup of container {}", self.record.id))
    }
}
