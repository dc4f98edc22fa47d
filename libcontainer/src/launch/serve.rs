//! What the process asks of the runtime while it is made (`channel.rs` has the protocol), and the sockets that the answers
//! go to.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use masu_host::fds;

use super::Launch;
use super::channel::{Channel, Message};
use super::spawn::died;
use crate::error::{Error, Kind, Result};
use crate::process::{ProcessPlan, terminal};
use crate::seccomp;
use crate::spec::{self, State};

/// The caller's and the agent's.
#[derive(Debug)]
pub(crate) struct Sockets {
    console: Option<OwnedFd>,
    /// Each gets a pidfd.
    pub(super) pidfd: Vec<OwnedFd>,
    listener: Option<OwnedFd>,
}

impl Sockets {
    pub(super) fn connect(plan: &ProcessPlan, console: Option<&Path>, pidfd: [Option<&Path>; 2]) -> Result<Sockets> {
        let listener = plan.filter.as_ref().and_then(|f| f.listener.as_ref());
        Ok(Sockets {
            console: console.map(fds::connect).transpose()?,
            pidfd: pidfd.into_iter().flatten().map(fds::connect).collect::<Result<_>>()?,
            listener: listener.map(|l| seccomp::listener::connect(&l.path)).transpose()?,
        })
    }
}

/// Until when the runtime answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// The process says that it is ready, and waits for us.
    Ready,
    /// After that, execve closes its end of the socket.
    Executed,
}

/// What differs between the launches.
pub(crate) trait Answers {
    /// The state that the agent of a seccomp listener reads.
    fn state(&self, pid: i32) -> Result<State>;

    /// Answers a message that only init sends.
    fn answer(&mut self, message: Message, channel: &Channel, pid: i32) -> Result<()>;
}

/// The error of a message that the process has no right to send.
pub(crate) fn unexpected() -> Error {
    Error::new(Kind::Internal, "the process sent what only the runtime says")
}

impl Launch {
    /// Answers the process. No lock may be held meanwhile: hooks run, and another process reads the sockets.
    pub(crate) fn converse(&mut self, plan: &ProcessPlan, until: Until, answers: &mut dyn Answers) -> Result<()> {
        let mut ready = false;
        loop {
            match self.channel.receive()? {
                None if ready => return Ok(()),
                None => return Err(died()),
                Some(Message::Ready) if until == Until::Ready => return Ok(()),
                Some(Message::Ready) => ready = true,
                Some(Message::LimitsDue) => {
                    plan.rlimits.apply_to(self.child.pid)?;
                    self.channel.send(&Message::LimitsSet)?;
                }
                Some(Message::Terminal(ours)) => match &self.sockets.console {
                    Some(socket) => terminal::send(socket, &ours)?,
                    None => self.terminal = Some(ours),
                },
                Some(Message::Listener(fd)) => {
                    if let (Some(socket), Some(to)) = (&self.sockets.listener, plan.filter.as_ref().and_then(|f| f.listener.as_ref())) {
                        send_listener(socket, &to.metadata, self.child.pid, &answers.state(self.child.pid)?, &fd)?;
                    }
                }
                Some(Message::Warning(text)) => log::warn!("{text}"),
                Some(Message::Failed(error)) => return Err(error),
                Some(message) => answers.answer(message, &self.channel, self.child.pid)?,
            }
        }
    }
}

/// Hands the filter's listener to its agent (config-linux.md, "The Container Process State").
fn send_listener(socket: &OwnedFd, metadata: &str, pid: i32, state: &State, fd: &OwnedFd) -> Result<()> {
    let state = seccomp::listener::ProcessState { oci_version: spec::VERSION, fds: seccomp::listener::FDS, pid, metadata, state };
    let text = serde_json::to_vec(&state).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
    seccomp::listener::send(socket.as_fd(), &text, fd.as_fd())
}
