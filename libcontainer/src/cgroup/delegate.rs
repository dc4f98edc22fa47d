//! Handing a container's own cgroup over to it (the kernel's admin-guide/cgroup-v2.rst, "Delegation"): its root may make
//! cgroups below, as systemd in a container does. Only on v2; a v1 hierarchy cannot be delegated safely.

use rustix::fs::{AtFlags, Uid};
use rustix::io::Errno;

use super::Cgroup;
use crate::error::{Doing, Result};

/// The files that go to the delegatee, one a line (kernel 4.15).
const LIST: &str = "/sys/kernel/cgroup/delegate";
const WITHOUT_LIST: &str = "cgroup.procs cgroup.threads cgroup.subtree_control";

impl Cgroup {
    /// Gives the directory, and the files that the kernel names, to `uid`. Its limits stay the host's.
    pub(crate) fn give(&self, uid: u32) -> Result<()> {
        let Some(cgroup) = self.v2() else { return Ok(()) };
        let doing = || format!("give cgroup {} to uid {uid}", cgroup.path);
        let list = std::fs::read_to_string(LIST).unwrap_or_else(|_| WITHOUT_LIST.to_owned());
        let owner = Some(Uid::from_raw(uid));
        rustix::fs::fchown(&cgroup.fd, owner, None).doing(doing)?;
        for file in list.split_whitespace().filter(|file| !file.contains('/')) {
            match rustix::fs::chownat(&cgroup.fd, file, owner, None, AtFlags::SYMLINK_NOFOLLOW) {
                // of a controller that is not here
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(e).doing(doing),
            }
        }
        Ok(())
    }
}
