//! Workers: what may block is done in a fork of the daemon, which tells the result and exits. It has the request by fork; the
//! processes that it makes become the daemon's when it exits, as the daemon is their subreaper.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libcontainer::error::{Doing, Result};
use masu_host::fds::{receive, send_all};
use masu_host::sys::clone::Side;
use masu_host::sys::exec::exit;
use masu_host::sys::fork::{Kept, fork};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::io::stdio::Inner;
use crate::rpc::frame::code;
use crate::rpc::messages::{Answer, Status};
use crate::rpc::wire::Message;

/// What a worker found out, and the master end of a terminal that it made.
pub(crate) type Done = (Answer, Option<OwnedFd>);

#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) pid: i32,
    socket: OwnedFd,
    said: Vec<u8>,
    terminal: Option<OwnedFd>,
}

impl Worker {
    /// Runs `job` in a fork. Of the daemon's descriptors it has the streams, the log and `others`: any more would stay open, for
    /// as long as it runs, after the daemon has closed them. The daemon has one thread.
    pub(crate) fn spawn(streams: Inner, others: &[BorrowedFd<'_>], job: impl FnOnce(Inner) -> Result<Done, Status>) -> Result<Worker> {
        let doing = || "start a worker";
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).doing(doing)?;
        let kept = Kept::new(streams.fds().chain(others.iter().copied()).chain(crate::log::fd()).chain([theirs.as_fd()]));
        match fork(0, None, &kept).doing(doing)? {
            Side::Parent { pid, pidfd: _ } => {
                rustix::fs::fcntl_setfl(&ours, rustix::fs::OFlags::NONBLOCK).doing(doing)?;
                Ok(Worker { pid, socket: ours, said: Vec::new(), terminal: None })
            }
            Side::Child => {
                // the daemon takes its signals from a descriptor; what a worker starts must not have them blocked
                let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
                let (mut answer, terminal) =
                    job(streams).unwrap_or_else(|s| (Answer { code: s.code, text: s.message, ..Answer::default() }, None));
                answer.known = true;
                // a daemon that is gone needs no answer
                let _ = send_all(theirs.as_fd(), &answer.encode(), terminal.as_ref().map(AsFd::as_fd));
                exit(0)
            }
        }
    }

    /// Takes what it has said so far; its result, once it has said all.
    pub(crate) fn receive(&mut self) -> Option<Result<Done, Status>> {
        let mut bytes = [0; 4096];
        loop {
            let (n, fd) = match receive(self.socket.as_fd(), &mut bytes) {
                Ok(received) => received,
                Err(Errno::AGAIN) => return None,
                Err(_) => (0, None),
            };
            self.terminal = fd.or(self.terminal.take());
            if n == 0 {
                return Some(self.result());
            }
            self.said.extend_from_slice(bytes.get(..n).unwrap_or_default());
        }
    }

    fn result(&mut self) -> Result<Done, Status> {
        match Answer::decode(&self.said) {
            Ok(answer) if answer.known && answer.code == 0 => Ok((answer, self.terminal.take())),
            Ok(answer) if answer.known => Err(Status { code: answer.code, message: answer.text }),
            _ => Err(Status { code: code::INTERNAL, message: "a worker of the shim died before it was done".into() }),
        }
    }
}

impl AsFd for Worker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
