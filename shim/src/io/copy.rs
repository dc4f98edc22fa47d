//! Pumps: what carries a stream between a container's pipe or terminal and what containerd named for it.
//!
//! Between pipes the kernel moves the pages (splice(2)). Nothing here blocks: a pump waits either for something to read or
//! for room to write, and a reader that stops costs nothing but the pipe's own buffer.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::pipe::SpliceFlags;

use crate::poll::{Poll, Token};

/// At most so much at once, so that one stream does not keep the others waiting.
const ROUNDS: usize = 8;
const SPLICE: usize = 1 << 20;
const COPY: usize = 32 << 10;

/// What a pump writes to.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) fd: OwnedFd,
    /// Our own reader of a fifo: with it the fifo lives on while containerd is restarted.
    pub(crate) reader: Option<OwnedFd>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    Nothing,
    Input,
    Room,
}

#[derive(Debug)]
pub(crate) struct Pump {
    id: u64,
    from: OwnedFd,
    to: Target,
    splices: bool,
    unsent: Vec<u8>,
    waits: Waits,
    /// To end as soon as nothing more is there, without an end of the stream.
    finishes: bool,
    ended: bool,
    /// Whether it writes to a fifo, which somebody else is to open.
    is_fifo: bool,
}

impl Pump {
    pub(crate) fn new(id: u64, from: OwnedFd, to: Target) -> Pump {
        let is_fifo = to.reader.is_some();
        Pump { id, from, to, splices: true, unsent: Vec::new(), waits: Waits::Nothing, finishes: false, ended: false, is_fifo }
    }

    /// All that was written before now will be carried, and then the pump ends, whoever else still holds the pipe.
    pub(crate) fn finish(&mut self) {
        self.finishes = true;
    }

    /// Carries what can be carried; whether the pump has ended.
    pub(crate) fn run(&mut self, poll: &Poll) -> bool {
        if self.ended {
            return self.is_read();
        }
        let wants = self.carry();
        if wants == Waits::Nothing {
            self.wait_for(poll, Waits::Nothing);
            self.ended = true;
            return self.is_read();
        }
        self.wait_for(poll, wants);
        false
    }

    /// Whether all was carried, and only waits for somebody to open the fifo.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// What this pump writes can be read by another than us; else closing it would throw it away.
    fn is_read(&mut self) -> bool {
        drop(self.to.reader.take());
        !self.is_fifo || !is_ready(self.to.fd.as_fd(), PollFlags::OUT, PollFlags::ERR)
    }

    fn wait_for(&mut self, poll: &Poll, wants: Waits) {
        if wants == self.waits {
            return;
        }
        match self.waits {
            Waits::Input => poll.forget(&self.from),
            Waits::Room => poll.forget(&self.to.fd),
            Waits::Nothing => {}
        }
        self.waits = wants;
        let added = match wants {
            Waits::Input => poll.reads(&self.from, Token::From(self.id)),
            Waits::Room => poll.writes(&self.to.fd, Token::To(self.id)),
            Waits::Nothing => Ok(()),
        };
        if let Err(e) = added {
            log::error!("wait for a stream of a container: {e}");
        }
    }

    /// Ends it now.
    pub(crate) fn close(mut self, poll: &Poll) {
        self.wait_for(poll, Waits::Nothing);
    }

    fn carry(&mut self) -> Waits {
        for _ in 0..ROUNDS {
            let result = if self.splices && self.unsent.is_empty() { self.splice() } else { self.copy() };
            match result {
                Ok(0) => return Waits::Nothing,
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let room_is_missing = !self.unsent.is_empty() || is_ready(self.from.as_fd(), PollFlags::IN, PollFlags::IN);
                    return match room_is_missing {
                        true => Waits::Room,
                        false if self.finishes => Waits::Nothing,
                        false => Waits::Input,
                    };
                }
                Err(Errno::INVAL) if self.splices => self.splices = false,
                // the other side of a terminal is closed; or nobody reads any more
                Err(Errno::IO | Errno::PIPE) => return Waits::Nothing,
                Err(e) => {
                    log::error!("copy a stream of a container: {e}");
                    return Waits::Nothing;
                }
            }
        }
        // more is there: the next round of the loop brings us back
        if self.unsent.is_empty() { Waits::Input } else { Waits::Room }
    }

    fn splice(&self) -> Result<usize, Errno> {
        rustix::pipe::splice(&self.from, None, &self.to.fd, None, SPLICE, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)
    }

    fn copy(&mut self) -> Result<usize, Errno> {
        if !self.unsent.is_empty() {
            let n = rustix::io::write(&self.to.fd, &self.unsent)?;
            self.unsent.drain(..n);
            if self.unsent.is_empty() {
                self.unsent = Vec::new();
            }
            return Ok(n);
        }
        let mut bytes = [0; COPY];
        let n = rustix::io::read(&self.from, &mut bytes)?;
        let read = bytes.get(..n).unwrap_or_default();
        let sent = match rustix::io::write(&self.to.fd, read) {
            Err(Errno::AGAIN | Errno::INTR) => 0,
            result => result?,
        };
        self.unsent.extend_from_slice(read.get(sent..).unwrap_or_default());
        Ok(n)
    }
}

fn is_ready(fd: BorrowedFd<'_>, wanted: PollFlags, flag: PollFlags) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, wanted)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0) && fds.iter().any(|fd| fd.revents().intersects(flag))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::PipeFlags;

    fn pipe() -> (OwnedFd, OwnedFd) {
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap()
    }

    fn read(fd: &OwnedFd) -> Vec<u8> {
        let mut all = Vec::new();
        let mut bytes = [0; 4096];
        while let Ok(n @ 1..) = rustix::io::read(fd, &mut bytes) {
            all.extend_from_slice(&bytes[..n]);
        }
        all
    }

    #[test]
    fn a_full_pipe_waits_for_room_and_loses_nothing() {
        let poll = Poll::new().unwrap();
        let ((from, input), (output, to)) = (pipe(), pipe());
        let mut pump = Pump::new(1, from, Target { fd: to, reader: None });
        let (mut sent, mut got) = (Vec::new(), Vec::new());
        let mut next = 0_u8;
        while sent.len() < 1 << 20 {
            let bytes = [next; 5000];
            next = next.wrapping_add(1);
            if let Ok(n) = rustix::io::write(&input, &bytes) {
                sent.extend_from_slice(&bytes[..n]);
            } else {
                got.extend(read(&output));
            }
            assert!(!pump.run(&poll));
        }
        drop(input);
        while !pump.run(&poll) {
            got.extend(read(&output));
        }
        got.extend(read(&output));
        assert!(got == sent);
    }

    #[test]
    fn it_finishes_although_the_pipe_is_held() {
        let poll = Poll::new().unwrap();
        let ((from, input), (output, to)) = (pipe(), pipe());
        let mut pump = Pump::new(1, from, Target { fd: to, reader: None });
        rustix::io::write(&input, b"last words").unwrap();
        pump.finish();
        assert!(pump.run(&poll));
        assert_eq!(read(&output), b"last words");
    }

    #[test]
    fn what_nobody_has_opened_yet_is_kept() {
        let poll = Poll::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let (from, input) = pipe();
        let mut pump = Pump::new(1, from, crate::io::stdio::open_fifo(&path).unwrap());
        rustix::io::write(&input, b"early").unwrap();
        drop(input);
        assert!(!pump.run(&poll));
        assert!(pump.has_ended());
        let reader = rustix::fs::open(&path, rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK, 0o600.into()).unwrap();
        assert!(pump.run(&poll));
        drop(pump);
        assert_eq!(read(&reader), b"early");
    }

    #[test]
    fn files_are_written_too() {
        let poll = Poll::new().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        let (from, input) = pipe();
        let mut pump = Pump::new(1, from, Target { fd: file.try_clone().unwrap().into(), reader: None });
        rustix::io::write(&input, b"line\n").unwrap();
        drop(input);
        assert!(pump.run(&poll));
        std::io::Seek::rewind(&mut file).unwrap();
        assert_eq!(std::io::read_to_string(file).unwrap(), "line\n");
    }
}
