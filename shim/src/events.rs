//! Events to containerd (its service containerd.services.events.ttrpc.v1.Events): one after the other, in the order in which
//! they happened, each until it is taken. While containerd is away they wait here.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use masu_host::fds::connect_at_once;

use crate::poll::{Poll, Token};
use crate::rpc::connection::Connection;
use crate::rpc::frame::{self, RESPONSE};
use crate::rpc::messages::{Any, Envelope, ForwardRequest, Request, Response};
use crate::rpc::wire::Message;

/// More than can gather while containerd is away: processes that nobody can start do not exit either.
const MAX_QUEUED: usize = 65_536;
/// How long containerd may take for one.
const PATIENCE: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// So often is an event that containerd refuses sent again.
const TRIES: u32 = 5;

#[derive(Debug)]
pub(crate) struct Events {
    address: String,
    namespace: String,
    /// Encoded calls; the first is the one under way.
    queue: VecDeque<Vec<u8>>,
    connection: Option<Connection>,
    /// Stream of the call under way.
    sent: Option<u32>,
    stream: u32,
    tries: u32,
    pause: Duration,
    /// When to give up waiting, or to try again.
    pub(crate) deadline: Option<Instant>,
}

impl Events {
    pub(crate) fn new(address: &str, namespace: &str) -> Events {
        Events {
            address: address.strip_prefix("unix://").unwrap_or(address).to_owned(),
            namespace: namespace.to_owned(),
            queue: VecDeque::new(),
            connection: None,
            sent: None,
            stream: 1,
            tries: 0,
            pause: FIRST_PAUSE,
            deadline: None,
        }
    }

    /// Queues an event, e.g. `exit` with the message TaskExit, and sends it if none is before it.
    pub(crate) fn publish(&mut self, poll: &Poll, topic: &str, kind: &str, event: &impl Message) {
        if self.address.is_empty() {
            return;
        }
        let envelope = Envelope {
            timestamp: Some(SystemTime::now().into()),
            namespace: self.namespace.clone(),
            topic: format!("/tasks/{topic}"),
            event: Some(Any { type_url: format!("containerd.events.{kind}"), value: event.encode() }),
        };
        let request = Request {
            service: "containerd.services.events.ttrpc.v1.Events".into(),
            method: "Forward".into(),
            payload: ForwardRequest { envelope: Some(envelope) }.encode(),
            timeout_nano: PATIENCE.as_nanos() as i64,
        };
        log::debug!("event {kind}");
        if self.queue.len() >= MAX_QUEUED {
            log::error!("an event was dropped: {MAX_QUEUED} wait for containerd already");
            let second = usize::from(self.sent.is_some());
            self.queue.remove(second);
        }
        self.queue.push_back(request.encode());
        if self.sent.is_none() && self.deadline.is_none() {
            self.send(poll);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    fn send(&mut self, poll: &Poll) {
        let Some(event) = self.queue.front() else {
            self.deadline = None;
            return;
        };
        if self.connection.is_none() {
            match connect_at_once(Path::new(&self.address)).and_then(Connection::accepted) {
                Ok(connection) if poll.reads(&connection, Token::Events).is_ok() => self.connection = Some(connection),
                Ok(_) => {}
                Err(e) => log::debug!("{e}"),
            }
        }
        let Some(connection) = &mut self.connection else { return self.rest() };
        let frame = frame::encode(self.stream, frame::REQUEST, event);
        if !connection.send(&frame) {
            return self.lose(poll);
        }
        let _ = connection.watch(poll, Token::Events);
        self.sent = Some(self.stream);
        // those of a client are odd
        self.stream = self.stream.wrapping_add(2) | 1;
        self.deadline = Some(Instant::now() + PATIENCE);
    }

    /// Tries again later; the pause grows.
    fn rest(&mut self) {
        self.deadline = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    fn lose(&mut self, poll: &Poll) {
        if let Some(connection) = self.connection.take() {
            poll.forget(&connection);
        }
        self.sent = None;
        if self.queue.is_empty() {
            self.deadline = None;
        } else {
            self.rest();
        }
    }

    /// The connection has something to say.
    pub(crate) fn ready(&mut self, poll: &Poll) {
        let Some(connection) = &mut self.connection else { return };
        let alive = connection.receive() && connection.flush();
        let _ = connection.watch(poll, Token::Events);
        let mut answer = None;
        while let Some(frame) = connection.next() {
            if frame.kind == RESPONSE && Some(frame.stream) == self.sent {
                answer = Some(frame.message.and_then(|m| Response::decode(&m).ok()).unwrap_or_default());
            }
        }
        if let Some(response) = answer {
            self.sent = None;
            self.taken(response);
        }
        if !alive {
            return self.lose(poll);
        }
        if self.sent.is_none() {
            match self.deadline {
                // it was refused, and a pause was set
                Some(end) if end > Instant::now() && self.tries > 0 => {}
                _ => self.send(poll),
            }
        }
    }

    fn taken(&mut self, response: Response) {
        self.pause = FIRST_PAUSE;
        match response.status.filter(|s| s.code != 0) {
            Some(status) if self.tries < TRIES => {
                self.tries += 1;
                log::warn!("containerd refused an event: {}", status.message);
                self.rest();
            }
            refused => {
                if let Some(status) = refused {
                    log::error!("an event was dropped, as containerd refuses it: {}", status.message);
                }
                self.tries = 0;
                self.queue.pop_front();
                self.deadline = None;
            }
        }
    }

    /// The deadline has come.
    pub(crate) fn expired(&mut self, poll: &Poll) {
        if self.sent.is_some() {
            log::warn!("containerd did not take an event for {} seconds; connecting anew", PATIENCE.as_secs());
            return self.lose(poll);
        }
        self.deadline = None;
        self.send(poll);
    }
}
