//! Delegates a cgroup to a container, so that its root can make cgroups below it, as systemd in a container does. Only on v2,
//! because a v1 hierarchy cannot be delegated safely.
//!
//! Runs in the runtime. The kernel's admin-guide/cgroup-v2.rst, "Delegation". The delegated cgroup is the container's own, or
//! one below it (crun's annotation `run.oci.delegate-cgroup`). The container's own limits stay the host's.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Uid};
use rustix::io::Errno;

use super::plan::clean;
use super::{Cgroup, file, make_path};
use crate::error::{Doing, Error, Result};

/// The files that the new owner gets, one a line (Linux 4.15).
const LIST: &str = "/sys/kernel/cgroup/delegate";
const WITHOUT_LIST: &str = "cgroup.procs cgroup.threads cgroup.subtree_control";

impl Cgroup {
    /// Makes `uid` the owner of the directory and of the files that the kernel lists. The limits stay the host's.
    pub(crate) fn give(&self, uid: u32) -> Result<()> {
        let Some(cgroup) = self.v2() else { return Ok(()) };
        give(cgroup.fd.as_fd(), uid).doing(|| format!("give cgroup {} to uid {uid}", cgroup.path))
    }

    /// Makes the cgroup `inner`, moves process `pid` into it, enables the container's controllers along the path, and gives
    /// the cgroup to `owner`. The root of the process's cgroup namespace stays the container's cgroup, because the namespace
    /// was made before.
    pub(crate) fn give_below(&self, inner: &str, pid: i32, owner: Option<u32>) -> Result<()> {
        let Some(own) = self.v2().filter(|_| self.is_unified()) else {
            return Err(Error::unsupported("delegate-cgroup not supported without a cgroup of v2"));
        };
        let inner = clean(inner);
        let doing = || format!("delegate cgroup {}/{inner}", own.path);
        make_path(own.fd.as_fd(), &inner).doing(doing)?;
        let fd = file::open_below(own.fd.as_fd(), &inner).doing(doing)?;
        file::write(fd.as_fd(), "cgroup.procs", &pid.to_string()).doing(doing)?;
        // from the container's cgroup down, which has no process of its own any more: one would cause EBUSY
        let controllers = file::read_short(own.fd.as_fd(), "cgroup.controllers").doing(doing)?;
        let mut at = own.fd.as_fd().try_clone_to_owned().doing(doing)?;
        for name in inner.split('/') {
            for controller in controllers.split_whitespace() {
                // a threaded tree cannot have every controller; it gets the others
                let _ = file::write(at.as_fd(), "cgroup.subtree_control", &format!("+{controller}"));
            }
            at = file::open_below(at.as_fd(), name).doing(doing)?;
        }
        owner.map_or(Ok(()), |uid| give(fd.as_fd(), uid)).doing(doing)
    }
}

fn give(cgroup: BorrowedFd<'_>, uid: u32) -> Result<(), Errno> {
    let list = std::fs::read_to_string(LIST).unwrap_or_else(|_| WITHOUT_LIST.to_owned());
    let owner = Some(Uid::from_raw(uid));
    rustix::fs::fchown(cgroup, owner, None)?;
    for file in list.split_whitespace().filter(|file| !file.contains('/')) {
        match rustix::fs::chownat(cgroup, file, owner, None, AtFlags::SYMLINK_NOFOLLOW) {
            // NOENT: the file of a controller that is not enabled here
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
