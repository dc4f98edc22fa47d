//! What a shim knows: its containers, their processes, its pod. Nothing here waits, asks the kernel or speaks to containerd; the
//! files above take it as an argument.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use libcontainer::cgroup::OomEvents;

use crate::io::stdio::Streams;
use crate::pod::{Namespaces, Plan};
use crate::rpc::messages::{Options, Timestamp};
use crate::runtime::Runtime;

/// What belongs to a process: its container and, if it is one of exec, its id.
pub(crate) type Owner = (String, String);

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) namespace: String,
    /// For containers that come without options of their own.
    pub(crate) options: Options,
    pub(crate) containers: BTreeMap<String, Container>,
    pub(crate) sandbox: Option<Sandbox>,
    pub(crate) early: Early,
}

impl State {
    /// Whether there is no pod and no container.
    pub(crate) fn is_unused(&self) -> bool {
        self.containers.is_empty() && self.sandbox.is_none()
    }

    pub(crate) fn process(&self, owner: &Owner) -> Option<&Process> {
        self.containers.get(&owner.0)?.process(&owner.1)
    }

    pub(crate) fn process_mut(&mut self, owner: &Owner) -> Option<&mut Process> {
        self.containers.get_mut(&owner.0)?.process_mut(&owner.1)
    }

    /// The living process that has this pid.
    pub(crate) fn owner_of(&self, pid: i32) -> Option<Owner> {
        self.containers.iter().find_map(|(id, container)| {
            let (exec_id, _) = container.processes().find(|(_, p)| p.pid == pid && p.exit.is_none() && p.reaped.is_none())?;
            Some((id.clone(), exec_id.to_owned()))
        })
    }

    /// The logger with that pid has ended: its number may be another's by now.
    pub(crate) fn forget_logger(&mut self, pid: i32) {
        let processes = self.containers.values_mut().flat_map(Container::processes_mut);
        processes.filter(|p| p.io.logger == pid).for_each(|p| p.io.logger = 0);
    }

    /// Nobody waits on that connection any more.
    pub(crate) fn forget_connection(&mut self, id: u64) {
        let processes = self.containers.values_mut().flat_map(Container::processes_mut).map(|p| &mut p.waiters);
        let pod = self.sandbox.as_mut().map(|s| &mut s.waiters);
        processes.chain(pod).for_each(|waiters| waiters.retain(|caller| caller.connection != id));
    }

    /// Deletes that wait for nothing but the last output, and when each must stop waiting.
    pub(crate) fn deletions(&self) -> impl Iterator<Item = (Owner, Instant)> {
        self.containers.iter().flat_map(|(id, container)| {
            container.processes().filter_map(move |(exec_id, p)| {
                let deletion = p.deletion.as_ref().filter(|d| d.removed && (p.exit.is_some() || p.pid == 0))?;
                Some(((id.clone(), exec_id.to_owned()), deletion.deadline))
            })
        })
    }

    /// A line about each process, for SIGUSR1.
    pub(crate) fn describe(&self) -> String {
        let mut text = String::new();
        for (id, container) in &self.containers {
            if container.is_paused {
                let _ = write!(text, "; {id} is paused");
            }
            for (exec_id, p) in container.processes() {
                let (phase, pid, waiters, outputs) = (p.phase, p.pid, p.waiters.len(), p.io.outputs.len());
                let _ = write!(text, "; {id} {exec_id:?}: {phase:?}, pid {pid}, {waiters} waiters, {outputs} outputs, exit {:?}", p.exit);
            }
        }
        text
    }
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
    Stopped,
}

/// How a process ended, and when it was reaped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exit {
    pub(crate) status: u32,
    pub(crate) at: SystemTime,
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
    /// When to stop waiting for the reader of the output.
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
        matches!(self.phase, Phase::Starting | Phase::Running)
    }

    pub(crate) fn exit_status(&self) -> u32 {
        self.exit.map_or(0, |e| e.status)
    }

    pub(crate) fn exited_at(&self) -> Option<Timestamp> {
        self.exit.map(|e| e.at.into())
    }
}

#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) bundle: String,
    pub(crate) runtime: Runtime,
    pub(crate) init: Process,
    pub(crate) execs: BTreeMap<String, Process>,
    pub(crate) oom: Option<(u64, OomEvents)>,
    /// It is frozen, whether or not it was started.
    pub(crate) is_paused: bool,
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

    fn processes_mut(&mut self) -> impl Iterator<Item = &mut Process> {
        std::iter::once(&mut self.init).chain(self.execs.values_mut())
    }

    /// The process whose exit is to be told next: after its own start, and init's after all others.
    pub(crate) fn next_exit(&self) -> Option<&str> {
        let others = self.execs.values().any(|p| p.phase == Phase::Starting || p.lives() && p.exit.is_none());
        let due = self.processes().find(|(exec_id, p)| {
            p.reaped.is_some() && p.exit.is_none() && p.phase != Phase::Starting && p.phase != Phase::Creating
                // execs first
                && !(exec_id.is_empty() && others)
        });
        due.map(|(exec_id, _)| exec_id)
    }

    /// Init and then all others, by exec id.
    pub(crate) fn processes(&self) -> impl Iterator<Item = (&str, &Process)> {
        std::iter::once(("", &self.init)).chain(self.execs.iter().map(|(id, p)| (id.as_str(), p)))
    }
}

/// The pod of this shim.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) plan: Plan,
    pub(crate) created_at: SystemTime,
    /// Told as the pod's process; 0 before it is started.
    pub(crate) pid: i32,
    /// The first process of the pod's pid namespace.
    pub(crate) first: Option<i32>,
    /// The host's namespaces, while the shim is in the pod's.
    pub(crate) host: Option<Namespaces>,
    pub(crate) exit: Option<Exit>,
    pub(crate) waiters: Vec<Caller>,
}

impl Sandbox {
    pub(crate) fn is_ready(&self) -> bool {
        self.pid != 0 && self.exit.is_none()
    }
}

/// Exits of processes that are not known yet: a worker that made one has not told its pid. Kept only while such a worker is
/// under way, so that no later process with the same pid is taken for one.
#[derive(Debug, Default)]
pub(crate) struct Early(Vec<(i32, Exit)>);

impl Early {
    pub(crate) fn keep(&mut self, pid: i32, exit: Exit) {
        self.0.push((pid, exit));
    }

    pub(crate) fn clear(&mut self) {
        self.0 = Vec::new();
    }

    /// The last one of that pid: earlier ones were others'.
    pub(crate) fn take(&mut self, pid: i32) -> Option<Exit> {
        let index = self.0.iter().rposition(|(other, _)| *other == pid)?;
        Some(self.0.swap_remove(index).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(phase: Phase, reaped: bool) -> Process {
        let mut process = Process::new(Streams::default(), phase);
        process.reaped = reaped.then_some(Exit { status: 0, at: SystemTime::UNIX_EPOCH });
        process
    }

    fn container(init: Process, execs: Vec<(&str, Process)>) -> Container {
        let runtime = Runtime::new(&Options::default(), "n");
        let execs = execs.into_iter().map(|(id, p)| (id.to_owned(), p)).collect();
        Container { bundle: String::new(), runtime, init, execs, oom: None, is_paused: false, shares_pids: false }
    }

    #[test]
    fn the_exit_of_init_is_the_last() {
        let next = |init: Process, exec: Process| container(init, vec![("e", exec)]).next_exit().map(str::to_owned);
        let running = |reaped| process(Phase::Running, reaped);
        assert_eq!(next(running(false), running(false)), None);
        assert_eq!(next(running(true), running(false)), None);
        assert_eq!(next(running(true), running(true)).as_deref(), Some("e"));
        assert_eq!(next(running(true), process(Phase::Starting, false)), None);
        assert_eq!(next(running(true), process(Phase::Created, false)).as_deref(), Some(""));
        // not before its start was told
        assert_eq!(next(process(Phase::Starting, true), process(Phase::Stopped, false)), None);
        assert_eq!(next(process(Phase::Created, true), process(Phase::Stopped, false)).as_deref(), Some(""));
    }

    #[test]
    fn a_process_is_found_by_its_pid_while_it_lives() {
        let (mut init, mut exec) = (process(Phase::Running, false), process(Phase::Running, true));
        (init.pid, exec.pid) = (7, 8);
        let mut state = State::default();
        state.containers.insert("c".into(), container(init, vec![("e", exec)]));
        assert_eq!(state.owner_of(7), Some(("c".into(), String::new())));
        // reaped: the number may be another's
        assert_eq!(state.owner_of(8), None);
        state.early.keep(9, Exit { status: 1, at: SystemTime::UNIX_EPOCH });
        state.early.keep(9, Exit { status: 2, at: SystemTime::UNIX_EPOCH });
        assert_eq!(state.early.take(9).map(|e| e.status), Some(2));
    }
}
