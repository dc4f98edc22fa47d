//! One lock a container, on its state directory (flock(2)): exclusive for the verbs that change its status.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::error::{Doing, Error, Result};

/// How long a verb waits for another one.
const PATIENCE: Duration = Duration::from_secs(10);
/// flock has no descriptor to wait on, and a blocking call no deadline; only a verb that meets another comes here.
const PAUSE: Duration = Duration::from_millis(5);

/// The lock, released when dropped.
#[derive(Debug)]
pub(crate) struct Lock<'a> {
    dir: BorrowedFd<'a>,
    /// Another verb was at work: what was read before may have changed.
    pub(crate) waited: bool,
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        // it cannot fail on an open descriptor, and closing that would release it as well
        let _ = rustix::fs::flock(self.dir, FlockOperation::Unlock);
    }
}

/// Takes the lock.
pub(crate) fn exclusive(dir: BorrowedFd<'_>) -> Result<Lock<'_>> {
    let end = Instant::now() + PATIENCE;
    let mut waited = false;
    loop {
        match rustix::fs::flock(dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Lock { dir, waited }),
            Err(Errno::WOULDBLOCK) if Instant::now() < end => {
                waited = true;
                std::thread::sleep(PAUSE);
            }
            Err(Errno::WOULDBLOCK) => return Err(Error::wrong_status("another command is at work on the container; try again")),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e).doing(|| "lock the container's state directory"),
        }
    }
}
