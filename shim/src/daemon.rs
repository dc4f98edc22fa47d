//! The daemon: what it knows, what it holds open, and the few things that every part of it does with them. serve.rs has it run.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::events::Events;
use crate::io::stdio::{Inner, Writers};
use crate::jobs::{Jobs, Then};
use crate::poll::{Poll, Token};
use crate::rpc::connection::Connection;
use crate::rpc::frame;
use crate::rpc::messages::Status;
use crate::rpc::wire::Message;
use crate::state::{Caller, Owner, State};
use crate::streams::Streaming;
use crate::worker::Done;

/// How long events may take to leave when all else is done.
const FLUSH: Duration = Duration::from_secs(3);

/// What a method says.
#[derive(Debug)]
pub(crate) enum Reply {
    Now(Vec<u8>),
    /// The caller gets its answer when something has happened.
    Later,
    /// It is to be called once more, when somebody reads its output.
    Again,
}

pub(crate) type Answered = Result<Reply, Status>;

#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) state: State,
    pub(crate) poll: Poll,
    pub(crate) listener: OwnedFd,
    /// The listener's path.
    pub(crate) socket: PathBuf,
    pub(crate) connections: BTreeMap<u64, Connection>,
    pub(crate) jobs: Jobs,
    pub(crate) streaming: Streaming,
    pub(crate) events: Events,
    /// Ends of fifos for calls that were put off.
    pub(crate) writers: Writers,
    /// When to end, whatever events are left.
    pub(crate) ends: Option<Instant>,
}

impl Daemon {
    pub(crate) fn new(poll: Poll, listener: OwnedFd, socket: PathBuf, events: Events, state: State) -> Daemon {
        Daemon {
            state,
            poll,
            listener,
            socket,
            connections: BTreeMap::new(),
            jobs: Jobs::default(),
            streaming: Streaming::default(),
            events,
            writers: Writers::new(),
            ends: None,
        }
    }

    /// Answers a call; a caller that is gone gets none.
    pub(crate) fn answer(&mut self, caller: Caller, result: Result<Vec<u8>, Status>) {
        if let Err(status) = &result {
            log::debug!("a call failed: {}", status.message);
        }
        let Some(connection) = self.connections.get_mut(&caller.connection) else { return };
        let alive = connection.send(&frame::answer(caller.stream, result));
        if !alive || connection.watch(&self.poll, Token::Connection(caller.connection)).is_err() {
            self.hang_up(caller.connection);
        }
    }

    pub(crate) fn hang_up(&mut self, id: u64) {
        if let Some(connection) = self.connections.remove(&id) {
            self.poll.forget(&connection);
            self.state.forget_connection(id);
        }
    }

    /// Has a worker do `job`, and then what `then` says.
    pub(crate) fn work(&mut self, then: Then, job: impl FnOnce() -> Result<Done, Status>) -> Result<(), Status> {
        self.work_with(Inner::default(), then, |_| job())
    }

    /// The same with the streams of a process that it makes.
    pub(crate) fn work_with(&mut self, streams: Inner, then: Then, job: impl FnOnce(Inner) -> Result<Done, Status>) -> Result<(), Status> {
        let host = self.state.sandbox.as_ref().and_then(|s| s.host.as_ref());
        self.jobs.start(&self.poll, host, then, streams, job)
    }

    /// Tells containerd that something has happened, e.g. `exit` with the message TaskExit.
    pub(crate) fn publish(&mut self, topic: &str, kind: &str, event: &impl Message) {
        self.events.publish(&self.poll, topic, kind, event);
    }

    /// Lets streams begin, or those that have ended be closed.
    pub(crate) fn run_streams(&mut self, ids: &[u64]) {
        self.streaming.run_all(&mut self.state, &self.poll, ids);
    }

    /// Nothing more goes in.
    pub(crate) fn stop_input(&mut self, owner: &Owner) {
        self.streaming.stop_input(&mut self.state, &self.poll, owner);
    }

    /// Ends once the events have left.
    pub(crate) fn end(&mut self) {
        if self.ends.is_none() {
            let _ = std::fs::remove_file(&self.socket);
            self.poll.forget(&self.listener);
            self.ends = Some(Instant::now() + FLUSH);
        }
    }

    /// All that it knows, for SIGUSR1.
    pub(crate) fn describe(&self) -> String {
        let (connections, workers, events) = (self.connections.len(), self.jobs.len(), self.events.len());
        let streams = self.streaming.len();
        format!("{connections} connections, {workers} workers, {events} events to send, {streams} streams{}", self.state.describe())
    }
}
