//! Waiting for a process by its descriptor (pidfd_open(2)). It needs no polling and no signal, and it never waits for another
//! process with a reused pid.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use crate::error::{Doing, Result};

/// Waits until the process ends or `limit` has passed, and returns whether it ended. The process need not be a child.
///
/// # Errors
/// The errno of poll(2).
pub fn wait_for_end(pidfd: &OwnedFd, limit: Duration) -> Result<bool> {
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match rustix::event::poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(n) => return Ok(n > 0),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e).doing(|| "wait for a process to end"),
        }
    }
}
