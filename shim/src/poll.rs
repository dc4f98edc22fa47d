//! What the daemon waits for: descriptors (epoll(7)) and deadlines.

use std::cell::Cell;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use libcontainer::error::{Doing, Result};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

/// Who a readiness is for. Numbers are never used twice, so a late one finds nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    Listener,
    Signals,
    Events,
    Connection(u64),
    Worker(u64),
    /// The end of a pump that is read.
    From(u64),
    /// The end of a pump that is written.
    To(u64),
    Oom(u64),
}

impl Token {
    fn to_u64(self) -> u64 {
        let (kind, id) = match self {
            Token::Listener => (0, 0),
            Token::Signals => (1, 0),
            Token::Events => (2, 0),
            Token::Connection(id) => (3, id),
            Token::Worker(id) => (4, id),
            Token::From(id) => (5, id),
            Token::To(id) => (6, id),
            Token::Oom(id) => (7, id),
        };
        id << 3 | kind
    }

    fn from_u64(n: u64) -> Token {
        let id = n >> 3;
        match n & 7 {
            0 => Token::Listener,
            1 => Token::Signals,
            2 => Token::Events,
            3 => Token::Connection(id),
            4 => Token::Worker(id),
            5 => Token::From(id),
            6 => Token::To(id),
            _ => Token::Oom(id),
        }
    }
}

/// How many are taken at once.
const BATCH: usize = 32;

#[derive(Debug)]
pub(crate) struct Poll {
    epoll: OwnedFd,
    last_id: Cell<u64>,
}

impl Poll {
    pub(crate) fn new() -> Result<Poll> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).doing(|| "make an epoll instance")?;
        Ok(Poll { epoll, last_id: Cell::new(0) })
    }

    /// A number that was not used before, for a token.
    pub(crate) fn new_id(&self) -> u64 {
        self.last_id.set(self.last_id.get() + 1);
        self.last_id.get()
    }

    /// Waits for `fd` to be readable. A file that cannot be waited for, such as one on disk, is EPERM.
    pub(crate) fn reads(&self, fd: impl AsFd, token: Token) -> Result<(), Errno> {
        epoll::add(&self.epoll, fd, EventData::new_u64(token.to_u64()), EventFlags::IN)
    }

    pub(crate) fn writes(&self, fd: impl AsFd, token: Token) -> Result<(), Errno> {
        epoll::add(&self.epoll, fd, EventData::new_u64(token.to_u64()), EventFlags::OUT)
    }

    /// Waits for an added one to be readable and, if `also_writes`, writable.
    pub(crate) fn set(&self, fd: impl AsFd, token: Token, also_writes: bool) -> Result<(), Errno> {
        let flags = if also_writes { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
        epoll::modify(&self.epoll, fd, EventData::new_u64(token.to_u64()), flags)
    }

    /// Waits for it no more. One that was not added is none to be removed.
    pub(crate) fn forget(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// What is ready, at the latest when `deadline` comes.
    pub(crate) fn wait(&self, deadline: Option<Instant>, ready: &mut Vec<Token>) -> Result<()> {
        let timeout = deadline.map(|end| {
            // a rest below a millisecond must not end the wait too early, or it is repeated until the time has come
            let left = end.saturating_duration_since(Instant::now()).saturating_add(Duration::from_micros(100));
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
        });
        let mut events = [epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; BATCH];
        let n = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Err(Errno::INTR) => 0,
            result => result.doing(|| "wait for events")?,
        };
        ready.clear();
        ready.extend(events.iter().take(n).map(|event| Token::from_u64({ event.data }.u64())));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_as_they_went() {
        for token in [
            Token::Listener,
            Token::Signals,
            Token::Events,
            Token::Connection(1),
            Token::Worker(2),
            Token::From(1 << 60),
            Token::To(3),
            Token::Oom(4),
        ] {
            assert_eq!(Token::from_u64(token.to_u64()), token);
        }
    }
}
