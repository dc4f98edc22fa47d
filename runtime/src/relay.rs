//! Copies bytes between our standard streams and the master end of a container's terminal.
//!
//! The caller's terminal is in raw mode meanwhile, so that each key reaches the container. Dropping the relay restores the modes.
//! Only one operation can block: a write of at most one page, after poll(2) called the descriptor writable.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libcontainer::error::{Doing, Result};
use rustix::event::{PollFlags, epoll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::stdio;
use rustix::termios::{OptionalActions, OutputModes, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use crate::poll::{Source, Wanted};

/// A relay in both directions.
#[derive(Debug)]
pub(crate) struct Relay<'a> {
    host: Option<HostTerminal>,
    stdin: BorrowedFd<'a>,
    stdout: BorrowedFd<'a>,
    master: OwnedFd,
    /// An edge-triggered epoll that reports when the master becomes ready. While no process has the other end open, the master is
    /// hung up, which poll(2) would report without end. A booting init often closes its terminal.
    edges: OwnedFd,
    readable: bool,
    writable: bool,
    /// From our standard input to the container.
    typed: Buffer,
    stdin_open: bool,
    /// From the container to our standard output.
    printed: Buffer,
    stdout_open: bool,
    ended: bool,
    drained: bool,
}

/// Rows and columns of masu's own terminal, if it has one.
pub(crate) fn size_of_ours() -> Option<(u16, u16)> {
    let size = [stdio::stdout(), stdio::stderr(), stdio::stdin()].into_iter().find_map(|fd| tcgetwinsize(fd).ok())?;
    (size.ws_row != 0 && size.ws_col != 0).then_some((size.ws_row, size.ws_col))
}

impl<'a> Relay<'a> {
    /// A relay between the container's terminal and two of our streams. `host` is our terminal, if there is one.
    pub(crate) fn new(master: OwnedFd, host: Option<HostTerminal>, stdin: BorrowedFd<'a>, stdout: BorrowedFd<'a>) -> Result<Relay<'a>> {
        let flags = rustix::fs::fcntl_getfl(&master).doing(|| "get the flags of the container's terminal")?;
        rustix::fs::fcntl_setfl(&master, flags | OFlags::NONBLOCK).doing(|| "set the flags of the container's terminal")?;

        let edges = epoll::create(epoll::CreateFlags::CLOEXEC).doing(|| "epoll_create")?;
        let events = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&edges, &master, epoll::EventData::new_u64(0), events).doing(|| "watch the container's terminal")?;

        let relay = Relay {
            host,
            stdin,
            stdout,
            master,
            edges,
            readable: true,
            writable: true,
            typed: Buffer::new(),
            stdin_open: true,
            printed: Buffer::new(),
            stdout_open: true,
            ended: false,
            drained: false,
        };
        relay.resize();
        Ok(relay)
    }

    /// Gives the container's terminal the size of ours.
    pub(crate) fn resize(&self) {
        if let Some(host) = &self.host
            && let Ok(size) = tcgetwinsize(&host.fd)
            && size.ws_row != 0
            && size.ws_col != 0
        {
            // the container may be gone, and a wrong size is no reason to fail
            let _ = tcsetwinsize(&self.master, size);
        }
    }

    /// Adds the sources to wait for.
    pub(crate) fn wants<'b>(&'b self, wanted: &mut Wanted<'b>) {
        wanted.push((Source::Master, self.edges.as_fd(), PollFlags::IN));
        if self.stdin_open && !self.ended && self.typed.is_empty() {
            wanted.push((Source::Stdin, self.stdin, PollFlags::IN));
        }
        if !self.printed.is_empty() {
            wanted.push((Source::Stdout, self.stdout, PollFlags::OUT));
        }
    }

    /// Handles a source that poll(2) reported. Each report allows one read or write of a standard stream.
    pub(crate) fn ready(&mut self, source: Source) -> Result<()> {
        match source {
            Source::Master => {
                let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }];
                let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
                match epoll::wait(&self.edges, &mut events, Some(&none)) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(e) => return Err(e).doing(|| "watch the container's terminal"),
                }
                (self.readable, self.writable) = (true, true);
            }
            Source::Stdin => self.stdin_open = self.typed.fill(self.stdin) != Outcome::Over,
            // the reader of our output is gone, but the container must not block
            Source::Stdout => {
                if self.printed.empty_into(self.stdout) == Outcome::Over {
                    self.stdout_open = false;
                    self.printed.clear();
                }
            }
            Source::Signals | Source::Process => {}
        }
        Ok(())
    }

    /// Copies from and to the master until it would block.
    pub(crate) fn turn(&mut self) {
        while self.readable && self.printed.is_empty() {
            match self.printed.fill(self.master.as_fd()) {
                Outcome::Moved if self.stdout_open => {}
                Outcome::Moved => self.printed.clear(),
                // EAGAIN, or EIO while no process has the other end open; epoll reports the change
                Outcome::NotNow | Outcome::Over => {
                    self.readable = false;
                    self.drained = self.ended;
                }
            }
        }
        while self.writable && !self.typed.is_empty() {
            match self.typed.empty_into(self.master.as_fd()) {
                Outcome::Moved => {}
                Outcome::NotNow => self.writable = false,
                Outcome::Over => self.typed.clear(),
            }
        }
    }

    /// Called when the process has exited: its remaining output is read until the first pause.
    pub(crate) fn finish(&mut self) {
        if !self.ended {
            self.ended = true;
            self.readable = true;
        }
    }

    /// Whether the output of the exited process is written completely.
    pub(crate) fn is_drained(&self) -> bool {
        self.drained && self.printed.is_empty()
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Moved,
    NotNow,
    /// End of file, or an error that does not go away.
    Over,
}

/// A buffer of one page, because poll(2) calls a pipe writable when it takes a whole page.
#[derive(Debug)]
struct Buffer {
    bytes: Box<[u8; 4096]>,
    start: usize,
    end: usize,
}

impl Buffer {
    fn new() -> Buffer {
        Buffer { bytes: Box::new([0; 4096]), start: 0, end: 0 }
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    fn fill(&mut self, from: BorrowedFd<'_>) -> Outcome {
        match rustix::io::read(from, &mut self.bytes[..]) {
            Ok(0) => Outcome::Over,
            Ok(n) => {
                (self.start, self.end) = (0, n);
                Outcome::Moved
            }
            Err(Errno::AGAIN | Errno::INTR) => Outcome::NotNow,
            Err(_) => Outcome::Over,
        }
    }

    fn empty_into(&mut self, to: BorrowedFd<'_>) -> Outcome {
        let rest = self.bytes.get(self.start..self.end).unwrap_or_default();
        match rustix::io::write(to, rest) {
            Ok(n) => {
                self.start += n;
                Outcome::Moved
            }
            Err(Errno::AGAIN | Errno::INTR) => Outcome::NotNow,
            Err(_) => Outcome::Over,
        }
    }
}

/// The caller's terminal, in raw mode until dropped.
#[derive(Debug)]
pub(crate) struct HostTerminal {
    fd: OwnedFd,
    before: Termios,
}

impl HostTerminal {
    /// The first of standard error, output and input that is a terminal, else the controlling terminal. Without any terminal this
    /// is an error.
    pub(crate) fn raw() -> Result<Option<HostTerminal>> {
        let streams = [stdio::stderr(), stdio::stdout(), stdio::stdin()];
        let (fd, before) = match streams.into_iter().find_map(|fd| Some((fd, tcgetattr(fd).ok()?))) {
            Some((fd, modes)) => (rustix::io::fcntl_dupfd_cloexec(fd, 3).doing(|| "duplicate the terminal")?, modes),
            None => {
                let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY;
                let fd = rustix::fs::open("/dev/tty", flags, Mode::empty()).doing(|| "open /dev/tty")?;
                let modes = tcgetattr(&fd).doing(|| "get the modes of /dev/tty")?;
                (fd, modes)
            }
        };
        HostTerminal::make_raw(fd, before).map(Some)
    }

    fn make_raw(fd: OwnedFd, before: Termios) -> Result<HostTerminal> {
        let mut raw = before.clone();
        raw.make_raw();
        // the container's newlines still need their carriage returns: libcontainer turns ONLCR off in a relayed terminal
        raw.output_modes.insert(OutputModes::OPOST);
        tcsetattr(&fd, OptionalActions::Now, &raw).doing(|| "make the terminal raw")?;
        Ok(HostTerminal { fd, before })
    }
}

impl Drop for HostTerminal {
    fn drop(&mut self) {
        // the terminal may be gone, and then there is nothing to restore
        let _ = tcsetattr(&self.fd, OptionalActions::Now, &self.before);
    }
}

#[cfg(test)]
mod tests;
