//! Raises an alarm when the processes of a container wait too long for a resource.
//!
//! Runs in the runtime (`events`). The kernel's accounting/psi.rst, "Monitoring for pressure thresholds": a line written to
//! a pressure file makes its descriptor raise POLLPRI, at most once a window. Only on v2.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::stats::Pressure;
use super::{Cgroup, file, stats};
use crate::error::{Doing, Error, Result};

/// The condition of an alarm: `stall` of waiting within any `window`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Threshold {
    /// `cpu`, `memory` or `io`: the name of the file without `.pressure`.
    pub resource: String,
    /// Whether all processes must wait at the same time, not only some.
    pub full: bool,
    /// From 1 us to the window.
    pub stall: Duration,
    /// From 500 ms to 10 s; without CAP_SYS_RESOURCE a multiple of 2 s.
    pub window: Duration,
}

/// The form that the kernel reads, in microseconds: `some 150000 2000000`.
impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.full { "full" } else { "some" };
        write!(f, "{kind} {} {}", self.stall.as_micros(), self.window.as_micros())
    }
}

/// An alarm that is set. Its descriptor reports POLLPRI at each alarm, and POLLERR when the cgroup is gone.
#[derive(Debug)]
pub struct PressureAlarm {
    fd: OwnedFd,
    /// The condition of the alarm.
    pub threshold: Threshold,
}

impl Cgroup {
    /// Sets an alarm.
    ///
    /// # Errors
    /// Without v2; on a kernel that does not count pressure; if the kernel refuses the threshold.
    pub fn pressure_alarm(&self, threshold: Threshold) -> Result<PressureAlarm> {
        let name = format!("{}.pressure", threshold.resource);
        let Some(dir) = self.v2().map(super::Hierarchy::dir) else {
            return Err(Error::unsupported(format!("no alarm of {name}: the container has no cgroup of v2")));
        };
        let doing = || format!("write {threshold} to {name} of {}", dir.path);
        let fd = match file::open(dir.fd, &name, OFlags::RDWR | OFlags::NONBLOCK) {
            Err(Errno::NOENT) => return Err(Error::unsupported(format!("no alarm of {name}: this kernel does not count pressure"))),
            result => result.doing(doing)?,
        };
        // the NUL is written as well, as in the kernel's example
        file::write_open(fd.as_fd(), &format!("{threshold}\0")).doing(doing)?;
        Ok(PressureAlarm { fd, threshold })
    }
}

impl PressureAlarm {
    /// Reads the current pressure.
    ///
    /// # Errors
    /// If the file cannot be read, e.g. because the cgroup is gone.
    pub fn pressure(&self) -> Result<Pressure> {
        let text = file::read_again(self.fd.as_fd()).doing(|| format!("read {}.pressure", self.threshold.resource))?;
        Ok(stats::to_pressure(&text))
    }
}

impl AsFd for PressureAlarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
