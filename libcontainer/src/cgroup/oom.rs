//! Notices that processes were killed because the container reached its memory limit.
//!
//! Runs in the runtime (`events`) and the shim. v1: an eventfd on memory.oom_control (admin-guide/cgroup-v1/memory.rst,
//! section 10); v2: inotify on memory.events and cgroup.events (admin-guide/cgroup-v2.rst).

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::EventfdFlags;
use rustix::fs::OFlags;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

use super::victims::{KernelLog, Victim};
use super::{Cgroup, file};
use crate::error::{Doing, Error, Result};

/// A source of notices. Its descriptor is readable when [`OomEvents::read`] has something to report.
#[derive(Debug)]
pub struct OomEvents {
    fd: OwnedFd,
    dir: OwnedFd,
    v2: bool,
    /// How many processes had been killed at the last look.
    kills: u64,
    log: Option<KernelLog>,
}

/// The event since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OomNotice {
    /// Nothing of interest.
    Nothing,
    /// The limit was reached: a process was killed, or waits (v1 with the OOM killer disabled).
    Oom,
    /// The container has ended: no more notices follow.
    Ended,
}

impl Cgroup {
    /// Starts to watch the memory limit.
    ///
    /// # Errors
    /// If there is no memory controller, or its files cannot be watched.
    pub fn oom_events(&self) -> Result<OomEvents> {
        let dir = self.find("memory").ok_or_else(|| Error::unsupported("memory controller missing"))?;
        let doing = || format!("watch for out of memory in {}", dir.path);
        let fd = if dir.v2 {
            let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).doing(doing)?;
            for file in ["memory.events", "cgroup.events"] {
                match inotify::add_watch(&fd, format!("{}/{file}", dir.path), WatchFlags::MODIFY) {
                    Err(Errno::NOENT) => return Err(Error::unsupported("memory controller missing").context(doing())),
                    result => result.map(drop).doing(doing)?,
                }
            }
            fd
        } else {
            let fd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).doing(doing)?;
            let control = file::open(dir.fd, "memory.oom_control", OFlags::RDONLY).doing(doing)?;
            file::write(dir.fd, "cgroup.event_control", &format!("{} {}", fd.as_raw_fd(), control.as_raw_fd())).doing(doing)?;
            fd
        };
        let dir_fd = rustix::io::fcntl_dupfd_cloexec(dir.fd, 3).doing(doing)?;
        let kills = kills(dir_fd.as_fd(), dir.v2).doing(doing)?;
        Ok(OomEvents { fd, dir: dir_fd, v2: dir.v2, kills, log: None })
    }

    /// Like [`Cgroup::oom_events`], and also opens the kernel's log for [`OomEvents::victims`].
    ///
    /// # Errors
    /// As for [`Cgroup::oom_events`]. A log that cannot be opened is no error: then no victim is named.
    pub fn oom_events_with_victims(&self) -> Result<OomEvents> {
        let mut events = self.oom_events()?;
        if let Some(dir) = self.find("memory") {
            let log = KernelLog::open(dir);
            events.log = log.inspect_err(|e| log::debug!("who is killed for want of memory will not be known: {e}")).ok();
        }
        Ok(events)
    }

    /// How many processes of the container were killed because memory ran out; 0 without a memory controller.
    pub fn oom_kills(&self) -> u64 {
        self.find("memory").map_or(0, |dir| kills(dir.fd, dir.v2).unwrap_or(0))
    }
}

impl OomEvents {
    /// Reads the pending notice, without blocking.
    ///
    /// # Errors
    /// If the descriptor or a file of the cgroup cannot be read.
    pub fn read(&mut self) -> Result<OomNotice> {
        let woken = self.drain().doing(|| "read out of memory events")?;
        let now = match kills(self.dir.as_fd(), self.v2) {
            Err(errno) if file::is_gone(errno) => return Ok(OomNotice::Ended),
            result => result.doing(|| "read the out of memory counter")?,
        };
        let killed = now > std::mem::replace(&mut self.kills, now);
        if killed || (woken && !self.v2) {
            return Ok(OomNotice::Oom);
        }
        let ended = woken && file::read_short(self.dir.as_fd(), "cgroup.events").is_ok_and(|t| file::value_of(&t, "populated") == Some(0));
        Ok(if ended { OomNotice::Ended } else { OomNotice::Nothing })
    }

    /// The processes killed since the last call, as far as the kernel's log tells. Call this after [`OomNotice::Oom`].
    pub fn victims(&mut self) -> Vec<Victim> {
        let victims = self.log.as_mut().map_or(Ok(Vec::new()), KernelLog::victims);
        victims.unwrap_or_else(|e| {
            log::debug!("{e}");
            Vec::new()
        })
    }

    fn drain(&self) -> Result<bool, Errno> {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 1024];
        let mut any = false;
        loop {
            match rustix::io::read(&self.fd, &mut buffer) {
                Err(Errno::AGAIN) => return Ok(any),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
                Ok(_) => any = true,
            }
        }
    }
}

impl AsFd for OomEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn kills(dir: BorrowedFd<'_>, v2: bool) -> Result<u64, Errno> {
    let text = file::read_short(dir, if v2 { "memory.events" } else { "memory.oom_control" })?;
    Ok(file::value_of(&text, "oom_kill").unwrap_or(0))
}
