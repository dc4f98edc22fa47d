//! A container and its processes as the daemon knows them.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use libcontainer::cgroup::OomEvents;

use crate::io::stdio::Streams;
use crate::rpc::messages::Timestamp;
use crate::runtime::Runtime;

/// A time of day.
pub(crate) type Moment = SystemTime;

pub(crate) fn timestamp(at: Moment) -> Timestamp {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() as i32 }
}

/// Who waits for an answer: a stream of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) connection: u64,
    pub(crate) stream: u32,
}

/// Where a process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// A worker makes the container.
    Creating,
    /// It can be started.
    Created,
    /// A worker starts it.
    Starting,
    Running,
    Paused,
    Stopped,
}

/// How a process ended, and when it was reaped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exit {
    pub(crate) status: u32,
    pub(crate) at: Moment,
}

/// Init, or a process of exec.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) streams: Streams,
    pub(crate) phase: Phase,
    /// 0 before there is one.
    pub(crate) pid: i32,
    /// It was reaped, but its exit is not published yet.
    pub(crate) reaped: Option<Exit>,
    /// Published.
    pub(crate) exit: Option<Exit>,
    pub(crate) waiters: Vec<Caller>,
    /// CloseIO was called, maybe before there was a stream.
    pub(crate) input_closed: bool,
    /// Of exec: the process document.
    pub(crate) spec: Vec<u8>,
    pub(crate) io: Io,
    pub(crate) deletion: Option<Deletion>,
}

/// A Delete that is under way.
#[derive(Debug)]
pub(crate) struct Deletion {
    pub(crate) caller: Caller,
    /// Whether the runtime is done with it.
    pub(crate) removed: bool,
    /// When to stop waiting for who reads the output.
    pub(crate) deadline: Instant,
}

/// What the daemon holds of a process's streams; numbers are those of pumps.
#[derive(Debug, Default)]
pub(crate) struct Io {
    pub(crate) input: Option<u64>,
    pub(crate) outputs: Vec<u64>,
    pub(crate) holder: Option<OwnedFd>,
    pub(crate) terminal: Option<OwnedFd>,
    /// The pid of a program that logs; 0 when there is none, or it has ended.
    pub(crate) logger: i32,
}

impl Process {
    pub(crate) fn new(streams: Streams, phase: Phase) -> Process {
        Process {
            streams,
            phase,
            pid: 0,
            reaped: None,
            exit: None,
            waiters: Vec::new(),
            input_closed: false,
            spec: Vec::new(),
            io: Io::default(),
            deletion: None,
        }
    }

    /// Whether it will still exit.
    pub(crate) fn lives(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Running | Phase::Paused)
    }

    pub(crate) fn exit_status(&self) -> u32 {
        self.exit.map_or(0, |e| e.status)
    }

    pub(crate) fn exited_at(&self) -> Option<Timestamp> {
        self.exit.map(|e| timestamp(e.at))
    }
}

#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) bundle: String,
    pub(crate) runtime: Runtime,
    pub(crate) init: Process,
    pub(crate) execs: BTreeMap<String, Process>,
    pub(crate) oom: Option<(u64, OomEvents)>,
    /// Whether killing init leaves others alive.
    pub(crate) shares_pids: bool,
}

impl Container {
    /// Init for an empty id.
    pub(crate) fn process(&self, exec_id: &str) -> Option<&Process> {
        if exec_id.is_empty() { Some(&self.init) } else { self.execs.get(exec_id) }
    }

    pub(crate) fn process_mut(&mut self, exec_id: &str) -> Option<&mut Process> {
        if exec_id.is_empty() { Some(&mut self.init) } else { self.execs.get_mut(exec_id) }
    }

    /// Init and then all others, by exec id.
    pub(crate) fn processes(&self) -> impl Iterator<Item = (&str, &Process)> {
        std::iter::once(("", &self.init)).chain(self.execs.iter().map(|(id, p)| (id.as_str(), p)))
    }
}
