//! The workers that are under way, and what follows each.

use std::collections::BTreeMap;
use std::fmt::Display;

use rustix::process::{Pid, Signal, kill_process};

use crate::io::stdio::{Inner, Opened};
use crate::pod::Namespaces;
use crate::poll::{Poll, Token};
use crate::rpc::frame::{code, status};
use crate::rpc::messages::{CreateRequest, Status};
use crate::state::Caller;
use crate::worker::{Done, Worker};

/// What to do with the result of a worker.
#[derive(Debug)]
pub(crate) enum Then {
    Created {
        caller: Caller,
        request: CreateRequest,
        opened: Opened,
    },
    /// `opened` for exec.
    Started {
        caller: Caller,
        id: String,
        exec_id: String,
        opened: Option<Opened>,
    },
    Paused {
        caller: Caller,
        id: String,
    },
    Resumed {
        caller: Caller,
        id: String,
    },
    Deleted {
        id: String,
    },
    Killed {
        caller: Caller,
        id: String,
        signal: u32,
    },
    Pids {
        caller: Caller,
        id: String,
    },
    Stats {
        caller: Caller,
    },
    /// The answer says nothing.
    Plain {
        caller: Caller,
    },
    Nothing,
}

impl Then {
    /// Whether the worker makes a process.
    pub(crate) fn launches(&self) -> bool {
        matches!(self, Then::Created { .. } | Then::Started { opened: Some(_), .. })
    }
}

#[derive(Debug, Default)]
pub(crate) struct Jobs(BTreeMap<u64, (Worker, Then)>);

impl Jobs {
    /// Has a worker do `job` with these streams, in the namespaces `host` if the shim is in others.
    pub(crate) fn start(
        &mut self,
        poll: &Poll,
        host: Option<&Namespaces>,
        then: Then,
        streams: Inner,
        job: impl FnOnce(Inner) -> Result<Done, Status>,
    ) -> Result<(), Status> {
        let failed = |e: &dyn Display| status(code::INTERNAL, e.to_string());
        let id = poll.new_id();
        let namespaces: Vec<_> = host.iter().flat_map(|host| host.fds()).collect();
        let worker = Worker::spawn(streams, &namespaces, |streams| {
            // hooks, and what joins no namespace of the pod, are the host's
            host.map_or(Ok(()), Namespaces::join).map_err(|e| failed(&e))?;
            job(streams)
        })
        .map_err(|e| failed(&e))?;
        if let Err(e) = poll.reads(&worker, Token::Worker(id)) {
            // its result will not be heard, so it must not have one
            let _ = Pid::from_raw(worker.pid).map(|pid| kill_process(pid, Signal::KILL));
            return Err(failed(&e));
        }
        self.0.insert(id, (worker, then));
        Ok(())
    }

    /// A worker has said something: its result, if that is all.
    pub(crate) fn hear(&mut self, poll: &Poll, id: u64) -> Option<(Then, Result<Done, Status>)> {
        let (worker, _) = self.0.get_mut(&id)?;
        let result = worker.receive()?;
        let (worker, then) = self.0.remove(&id)?;
        poll.forget(&worker);
        Some((then, result))
    }

    /// Whether a worker is about to make a process.
    pub(crate) fn is_launching(&self) -> bool {
        self.0.values().any(|(_, then)| then.launches())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
