//! One connection of containerd's to the daemon: frames in, answers out, never blocking.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libcontainer::error::{Doing, Error, Kind, Result};
use rustix::io::Errno;

use crate::poll::{Poll, Token};
use crate::rpc::frame::{Decoder, Frame};

/// A peer that sends without end has its turn after that many reads; the others come before its next.
const READS: usize = 4;
/// A peer that takes no answers for that many bytes is given up.
const MAX_UNSENT: usize = 16 << 20;

#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    decoder: Decoder,
    unsent: Vec<u8>,
    /// Whether it is watched for room in the socket.
    is_watched: bool,
}

impl Connection {
    /// Refuses peers of other users: the socket's mode does too, but modes can be changed.
    pub(crate) fn accepted(socket: OwnedFd) -> Result<Connection> {
        let peer = masu_host::sys::peer::uid(socket.as_fd()).doing(|| "ask who connected")?;
        let own = rustix::process::geteuid().as_raw();
        if peer != own {
            return Err(Error::new(Kind::Os, format!("a connection of user {peer} was refused: this is user {own}")));
        }
        Ok(Connection { socket, decoder: Decoder::default(), unsent: Vec::new(), is_watched: false })
    }

    /// Takes what is there; whether the peer is still there.
    pub(crate) fn receive(&mut self) -> bool {
        let mut bytes = [0; 16 << 10];
        for _ in 0..READS {
            match rustix::io::read(&self.socket, &mut bytes) {
                Ok(0) => return false,
                Ok(n) => {
                    self.decoder.push(bytes.get(..n).unwrap_or_default());
                    if n < bytes.len() {
                        return true;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        true
    }

    pub(crate) fn next(&mut self) -> Option<Frame> {
        self.decoder.next()
    }

    /// Sends a frame, or as much of it as the socket takes now; whether the peer is still there.
    pub(crate) fn send(&mut self, frame: &[u8]) -> bool {
        let was_blocked = self.is_blocked();
        self.unsent.extend_from_slice(frame);
        // it is told when there is room
        self.unsent.len() <= MAX_UNSENT && (was_blocked || self.flush())
    }

    pub(crate) fn flush(&mut self) -> bool {
        let mut sent = 0;
        let alive = loop {
            let rest = self.unsent.get(sent..).unwrap_or_default();
            if rest.is_empty() {
                break true;
            }
            match rustix::net::send(&self.socket, rest, rustix::net::SendFlags::NOSIGNAL) {
                Ok(n) => sent += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break true,
                Err(_) => break false,
            }
        };
        self.unsent.drain(..sent);
        if self.unsent.is_empty() && self.unsent.capacity() > 4096 {
            self.unsent = Vec::new();
        }
        alive
    }

    fn is_blocked(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Has it watched for room in the socket as long as it needs some.
    pub(crate) fn watch(&mut self, poll: &Poll, token: Token) -> Result<(), Errno> {
        let is_blocked = self.is_blocked();
        if self.is_watched != is_blocked {
            poll.set(&self.socket, token, is_blocked)?;
            self.is_watched = is_blocked;
        }
        Ok(())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
