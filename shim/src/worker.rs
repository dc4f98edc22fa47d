//! Workers: what may block is done in a fork of the daemon, which tells the result and exits. It has the request by fork; the
//! processes that it makes become the daemon's when it exits, as the daemon is their subreaper.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libcontainer::error::{Doing, Result};
use masu_host::sys::clone::{Side, clone3};
use masu_host::sys::exec::exit;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType,
};

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
    /// Runs `job` in a fork. The daemon has one thread.
    pub(crate) fn spawn(job: impl FnOnce() -> Result<Done, Status>) -> Result<Worker> {
        let doing = || "start a worker";
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).doing(doing)?;
        match clone3(0, None).doing(doing)? {
            Side::Parent { pid, pidfd: _ } => {
                rustix::fs::fcntl_setfl(&ours, rustix::fs::OFlags::NONBLOCK).doing(doing)?;
                Ok(Worker { pid, socket: ours, said: Vec::new(), terminal: None })
            }
            Side::Child => {
                drop(ours);
                // the daemon takes its signals from a descriptor; what a worker starts must not have them blocked
                let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
                let (mut answer, terminal) =
                    job().unwrap_or_else(|s| (Answer { code: s.code, text: s.message, ..Answer::default() }, None));
                answer.known = true;
                // a daemon that is gone needs no answer
                let _ = send_all(theirs.as_fd(), &answer.encode(), terminal.as_ref());
                exit(0)
            }
        }
    }

    /// Takes what it has said so far; its result, once it has said all.
    pub(crate) fn receive(&mut self) -> Option<Result<Done, Status>> {
        let mut bytes = [0; 4096];
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let received = rustix::net::recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC);
            let n = match received {
                Ok(received) => received.bytes,
                Err(Errno::AGAIN) => return None,
                Err(Errno::INTR) => continue,
                Err(_) => 0,
            };
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(mut fds) = message {
                    self.terminal = fds.next();
                }
            }
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

fn send_all(socket: BorrowedFd<'_>, mut bytes: &[u8], fd: Option<&OwnedFd>) -> Result<(), Errno> {
    let fds: Vec<BorrowedFd<'_>> = fd.iter().map(|fd| fd.as_fd()).collect();
    let mut first = true;
    while !bytes.is_empty() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if first && !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        }
        match rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(n) => {
                first = false;
                bytes = bytes.get(n..).unwrap_or_default();
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
