//! Handing a cgroup over to a container (the kernel's admin-guide/cgroup-v2.rst, "Delegation"): its root may make cgroups
//! below, as systemd in a container does. Only on v2; a v1 hierarchy cannot be delegated safely.
//!
//! Runs in the runtime. What is handed over is the container's own cgroup, or one below it (crun's annotation
//! `run.oci.delegate-cgroup`), whose limits are then out of the program's reach.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Uid};
use rustix::io::Errno;

use super::plan::clean;
use super::{Cgroup, file, make_path};
use crate::error::{Doing, Error, Result};

/// The files that go to the delegatee, one a line (kernel 4.15).
const LIST: &str = "/sys/kernel/cgroup/delegate";
const WITHOUT_LIST: &str = "cgroup.procs cgroup.threads cgroup.subtree_control";

impl Cgroup {
    /// Gives the directory, and the files that the kernel names, to `uid`. Its limits stay the host's.
    pub(crate) fn give(&self, uid: u32) -> Result<()> {
        let Some(cgroup) = self.v2() else { return Ok(()) };
        give(cgroup.fd.as_fd(), uid).doing(|| format!("give cgroup {} to uid {uid}", cgroup.path))
    }

    /// Makes the cgroup `inner`, moves process `pid` into it, hands the container's controllers down, and gives it to
    /// `owner`. A cgroup namespace that the process has was made before, so its root is the container's cgroup.
    pub(crate) fn give_below(&self, inner: &str, pid: i32, owner: Option<u32>) -> Result<()> {
        let Some(own) = self.v2().filter(|_| self.is_unified()) else {
            return Err(Error::unsupported("delegate-cgroup not supported without a cgroup of v2"));
        };
        let inner = clean(inner);
        let doing = || format!("delegate cgroup {}/{inner}", own.path);
        make_path(own.fd.as_fd(), &inner).doing(doing)?;
        let fd = file::open_below(own.fd.as_fd(), &inner).doing(doing)?;
        file::write(fd.as_fd(), "cgroup.procs", &pid.to_string()).doing(doing)?;
        // from the container's cgroup down: now no process is in the way
        let controllers = file::read_short(own.fd.as_fd(), "cgroup.controllers").doing(doing)?;
        let mut at = own.fd.as_fd().try_clone_to_owned().doing(doing)?;
        for name in inner.split('/') {
            for controller in controllers.split_whitespace() {
                // one that cannot be had in a threaded tree is no reason to go without the others
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
            // of a controller that is not here
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
