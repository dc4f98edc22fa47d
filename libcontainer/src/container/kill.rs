//! kill: a signal for the container's init, or for all its processes.

use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::process::Signal;

use super::{Container, Status};
use crate::error::{Doing, Error, Result};

impl Container {
    /// Sends `signal` (a number; 0 only asks whether init is there) to init, by its pidfd, so that it never reaches another
    /// process with the same number. With `all`, to every process of the container.
    ///
    /// SIGKILL for an init that shares its pid namespace goes to all: the kernel ends nobody along with it. Of a container
    /// without a cgroup only init is known.
    pub fn kill(&self, signal: i32, all: bool) -> Result<()> {
        if self.record.pid == 0 && self.status()? == Status::Creating {
            return Err(Error::wrong_status("container not running: it is being created"));
        }
        let init = self.init()?;
        // without a pid namespace of its own what init left behind lives on
        let rest = signal == libc::SIGKILL && self.record.fresh_namespaces & libc::CLONE_NEWPID == 0;
        // callers pass the flag to clean up (containerd's KillAll)
        let has_cgroup = !self.record.cgroup.is_empty();
        if has_cgroup && (all || (rest && (init.is_some() || !self.cgroup()?.processes()?.is_empty()))) {
            return self.signal_all(signal);
        }
        let Some(init) = init else { return Err(Error::wrong_status("container not running")) };
        match masu_host::sys::signal::send(init.as_fd(), signal) {
            Ok(()) => {}
            Err(Errno::SRCH) => return Err(Error::wrong_status("container not running")),
            Err(e) => return Err(e).doing(|| format!("unable to signal init: signal {signal}")),
        }
        // a frozen process of v1 does not even die; v2 ends it frozen
        if signal == libc::SIGKILL && !self.record.cgroup.v1.is_empty() {
            let thawed = self.own_cgroup().and_then(|cgroup| cgroup.map_or(Ok(()), |cgroup| cgroup.thaw()));
            // once it is dead, the process that waits for it may have removed the cgroup
            if thawed.is_err() && self.init()?.is_some() {
                return thawed;
            }
        }
        Ok(())
    }

    fn signal_all(&self, signal: i32) -> Result<()> {
        match number(signal)? {
            Some(signal) => self.own_cgroup()?.map_or(Ok(()), |cgroup| cgroup.signal_all(signal)),
            None => Ok(()),
        }
    }
}

/// The signal of that number; none for 0.
fn number(signal: i32) -> Result<Option<Signal>> {
    if signal == 0 {
        return Ok(None);
    }
    masu_host::sys::signal::from_number(signal)
        .map(Some)
        .ok_or_else(|| Error::invalid(format!("unable to signal init: signal {signal}: invalid argument")))
}
