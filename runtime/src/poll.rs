//! Waits for all event sources of a foreground process at once (poll(2)).

use std::os::fd::BorrowedFd;

use libcontainer::error::{Doing, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// A source of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Signals,
    Process,
    Master,
    Stdin,
    Stdout,
}

/// The sources to wait for.
pub(crate) type Wanted<'a> = Vec<(Source, BorrowedFd<'a>, PollFlags)>;

/// Waits until at least one source is ready, and returns the ready ones.
pub(crate) fn wait(wanted: &Wanted<'_>) -> Result<Vec<Source>> {
    let mut fds: Vec<_> = wanted.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
    loop {
        match poll(&mut fds, None) {
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e).doing(|| "wait for the process"),
        }
    }
    Ok(wanted.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty()).map(|((source, ..), _)| *source).collect())
}
